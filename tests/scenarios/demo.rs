//! The first command of the README judges itself.

use support::{Folder, olive, run};

#[test]
fn every_job_has_the_fate_it_should_have() {
    let folder = Folder::new();
    let mut command = olive();
    command.arg("demo").current_dir(folder.path());
    let finished = run(command);
    let output = &finished.output;
    assert_eq!(finished.code(), Some(0), "{output}");
    for kind in [
        "Rust",
        "Python",
        "executable",
        "time",
        "malformed",
        "unknown",
    ] {
        assert!(finished.stdout.contains(kind), "tells of {kind}: {output}");
    }
}
