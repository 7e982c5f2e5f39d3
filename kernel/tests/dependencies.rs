//! What comes along with the kernel: with every feature off, four crates.

use std::process::Command;

/// The crates that the kernel itself names, with these features.
fn dependencies(features: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-p", "kernel", "-e", "normal"])
        .args(["--depth", "1", "--prefix", "none", "--format", "{lib}"])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs the tests");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(names.remove(0), "kernel");
    names.sort();
    names
}

#[test]
fn the_core_depends_on_four_crates() {
    let core = ["libc", "log", "mio", "slab"];
    assert_eq!(dependencies(&["--no-default-features"]), core);
    let with_signals = ["libc", "log", "mio", "signal_hook", "slab"];
    assert_eq!(dependencies(&[]), with_signals);
    let process = ["--no-default-features", "--features", "process"];
    assert_eq!(dependencies(&process), with_signals);
    let futures_io = ["--no-default-features", "--features", "futures-io"];
    assert_eq!(
        dependencies(&futures_io),
        ["futures_io", "libc", "log", "mio", "slab"]
    );
}
