//! Follows the links of a site: a task for each page, four at a time, each with its own timeout.
//!
//! `cargo run -p kernel --example crawler`: the site is served by the same program.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use kernel::{TaskGroup, net::TcpListener, sync::Semaphore, timeout_after};

pub mod http;

/// The path of each page, with how many links it has, or why it could not be had.
pub type Report = BTreeMap<String, Result<usize, String>>;

/// Visits every page that can be reached from `/`. `fetch` gives the text of a page; one that
/// takes longer than `patience` is given up.
pub async fn crawl<F>(patience: Duration, fetch: impl Fn(String) -> F) -> io::Result<Report>
where
    F: Future<Output = io::Result<String>> + 'static,
{
    let at_once = Semaphore::new(4);
    let mut pages = TaskGroup::new();
    let visit = |pages: &mut TaskGroup<_>, path: String| {
        let (page, at_once) = (fetch(path.clone()), at_once.clone());
        pages.spawn(async move {
            let _permit = at_once.acquire().await?; // given back when the task ends
            // The page's failure is part of the report; only our own would end the group.
            Ok::<_, kernel::Error>((path, timeout_after(patience, page).await))
        });
    };
    let mut report = Report::new();
    let mut seen = BTreeSet::from(["/".to_string()]);
    visit(&mut pages, "/".into());
    // In the order in which they come in. The group is empty when no page has new links.
    while let Some(page) = pages.next().await? {
        let (path, text) = page?;
        let found = text.map(|text| links(&text)).map_err(|e| e.to_string());
        for link in found.iter().flatten() {
            if seen.insert(link.clone()) {
                visit(&mut pages, link.clone());
            }
        }
        report.insert(path, found.map(|links| links.len()));
    }
    Ok(report)
}

fn links(text: &str) -> Vec<String> {
    let after = text.split("href=\"").skip(1);
    after
        .filter_map(|rest| Some(rest.split_once('"')?.0.to_string()))
        .collect()
}

#[allow(dead_code, reason = "the tests use the functions alone")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let report = kernel::run(async {
        let listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
        let address = listener.local_addr()?;
        kernel::spawn(http::site(listener)).name("site");
        crawl(Duration::from_secs(1), move |path| http::get(address, path)).await
    })??;
    for (path, found) in report {
        println!("{path}: {found:?}");
    }
    Ok(())
}
