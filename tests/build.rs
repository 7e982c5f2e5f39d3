//! Makes doctests of the README and of every page under `docs/`, so that their code compiles and runs
//! with the tests. A new page is found by itself.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let mut pages = vec![root.join("README.md")];
    collect(&root.join("docs"), &mut pages);
    pages.sort();

    let mut modules = String::new();
    for (index, page) in pages.iter().enumerate() {
        println!("cargo::rerun-if-changed={}", page.display());
        writeln!(
            modules,
            "#[doc = include_str!({page:?})]\npub mod page_{index} {{}}"
        )
        .expect("a String takes it");
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("pages.rs"), modules).expect("OUT_DIR is ours");
}

/// Adds the Markdown files under `directory`, and has Cargo look again when it changes.
fn collect(directory: &Path, pages: &mut Vec<PathBuf>) {
    println!("cargo::rerun-if-changed={}", directory.display());
    for entry in fs::read_dir(directory).expect("docs/ is in the repository") {
        let path = entry.expect("docs/ can be read").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "book") {
            collect(&path, pages);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
}
