//! The table in docs/src/amqp/conformance.md names tests; they must exist.

use std::path::Path;

fn sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).expect("the crate's folders are there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).expect("readable"));
        }
    }
}

#[test]
fn the_tests_named_in_the_conformance_table_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("../docs/src/amqp/conformance.md"))
        .expect("the table is there");
    let mut code = String::new();
    sources(&root.join("src"), &mut code);
    sources(&root.join("tests"), &mut code);
    let mut named = 0;
    for row in table
        .lines()
        .filter(|line| line.starts_with("| §") || line.starts_with("| RabbitMQ"))
    {
        let columns: Vec<&str> = row.split('|').collect();
        for file in columns[3].split('`').skip(1).step_by(2) {
            assert!(
                root.join("src").join(file).exists(),
                "no file {file}: {row}"
            );
        }
        let tests: Vec<&str> = columns[4].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "a rule without a test: {row}");
        for test in tests {
            assert!(
                code.contains(&format!("fn {test}()")),
                "no test {test}: {row}"
            );
            named += 1;
        }
    }
    assert!(named > 20, "the table was not read");
}
