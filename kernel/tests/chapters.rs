//! The chapters in docs/src/kernel point into the code (`turn.rs: step`); what they point to must
//! exist, so that a name that changes is changed there too.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn chapters() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/kernel");
    let chapters = fs::read_dir(folder).expect("the chapters are there");
    chapters
        .map(|entry| entry.expect("readable").path())
        .collect()
}

/// The text of what `file` names: in `src`, in `tests`, or from the repository's root. A source and
/// a test may have one name.
fn source(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("src"), root.join("tests"), root.join("..")];
    let paths = folders.iter().map(|folder| folder.join(file));
    paths
        .filter(|path| path.exists())
        .map(|path| read(&path))
        .collect()
}

#[test]
fn what_the_chapters_point_to_exists() {
    let mut found = 0;
    for chapter in chapters() {
        let text = read(&chapter);
        for code in text.split('`').skip(1).step_by(2) {
            let Some((file, items)) = code.split_once(".rs: ") else {
                continue;
            };
            let file = format!("{file}.rs");
            let at = chapter.display();
            let code = source(&file);
            assert!(!code.is_empty(), "{at}: there is no {file}");
            for item in items.split(", ") {
                let name = item.rsplit("::").next().unwrap_or(item);
                assert!(code.contains(name), "{at}: no {item} in {file}");
                found += 1;
            }
        }
    }
    assert!(found > 40, "the chapters were not read: {found}");
}
