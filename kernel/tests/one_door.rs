//! Tasks and kernel know nothing of each other: what is built above the door (`trap.rs`) uses what is
//! public in it, and nothing behind it (`kernel.rs`, `kernel/`).

use std::{fs, path::Path};

/// What stands behind the door, the door itself, and the root that names them all. Everything else stands
/// before it.
const BEHIND: &[&str] = &["kernel", "trap", "lib"];

/// Each module before the door: its path, and its code without comments.
fn before_the_door() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the sources are there") {
            let path = entry.expect("readable").path();
            let inside = path.strip_prefix(&root).expect("below the root");
            let top = inside
                .iter()
                .next()
                .expect("not the root")
                .to_string_lossy();
            if BEHIND.contains(&top.trim_end_matches(".rs")) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source is text");
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let code = code.collect::<Vec<_>>().join("\n");
            modules.push((inside.display().to_string(), code));
        }
    }
    modules
}

/// The first names of all paths into the crate: of `use crate::{a::B, c}` and of `crate::d::E`.
fn names_of_the_crate(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let path = &code[at + "crate::".len()..];
        let Some(list) = path.strip_prefix('{') else {
            names.push(first_word(path));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && c.is_alphanumeric() => {
                    names.push(first_word(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    names
}

fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

#[test]
fn nothing_before_the_door_reaches_behind_it() {
    let modules = before_the_door();
    assert!(
        modules.len() > 30,
        "the sources were not read: {}",
        modules.len()
    );
    for (module, code) in modules {
        let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        assert!(
            words.clone().all(|word| word != "Core"),
            "{module} names the kernel's state"
        );
        for name in names_of_the_crate(&code) {
            assert_ne!(name, "kernel", "{module} reaches behind the door");
        }
    }
}

#[test]
fn paths_are_read_as_they_are_written() {
    let code =
        "use crate::{\n    WaitQueue,\n    trap::{Ask, ask},\n    wait::NONE,\n}; crate::io::Read";
    assert_eq!(
        names_of_the_crate(code),
        ["WaitQueue", "trap", "wait", "io"]
    );
}
