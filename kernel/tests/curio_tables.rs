//! The tables in docs/src/kernel/curio.md name tests; they must exist.

use std::{fs, path::Path};

/// The rows of the tables under a heading, each as its cells.
fn rows<'a>(chapter: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = chapter.split_once(heading).expect("the heading is there");
    let section = section.split("\n## ").next().unwrap_or(section);
    section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| behaviour"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

fn chapter() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/kernel/curio.md");
    fs::read_to_string(path).expect("the chapter is there")
}

#[test]
fn every_behaviour_has_a_test_or_a_reason() {
    let (root, chapter) = (Path::new(env!("CARGO_MANIFEST_DIR")), chapter());
    let mut named = 0;
    for row in rows(&chapter, "\n## What Curio's tests check") {
        let [behaviour, ours] = row[..] else {
            panic!("two cells: {row:?}");
        };
        let tests = ours.split('`').skip(1).step_by(2);
        let tests: Vec<_> = tests
            .filter(|name| name.starts_with(char::is_lowercase))
            .filter_map(|name| name.split_once("::"))
            .collect();
        assert!(
            !tests.is_empty() || ours.starts_with("no: "),
            "neither a test nor a reason: {behaviour}"
        );
        for (file, name) in tests {
            let file = format!("{file}.rs");
            let code = fs::read_to_string(root.join("tests").join(&file))
                .or_else(|_| fs::read_to_string(root.join("src").join(&file)))
                .unwrap_or_else(|_| panic!("no file {file}: {behaviour}"));
            assert!(
                code.contains(&format!("fn {name}()")),
                "no test {name} in {file}: {behaviour}"
            );
            named += 1;
        }
    }
    assert!(named > 80, "the tables were not read: {named}");
}

#[test]
fn every_part_of_the_api_has_ours_or_a_reason() {
    let chapter = chapter();
    let rows = rows(&chapter, "\n## The API");
    assert!(rows.len() > 90, "the tables were not read: {}", rows.len());
    for row in rows {
        assert_eq!(row.len(), 3, "three cells: {row:?}");
        let without_reason = row[1] == "no" && row[2].is_empty();
        assert!(!row[1].is_empty() && !without_reason, "{row:?}");
    }
}
