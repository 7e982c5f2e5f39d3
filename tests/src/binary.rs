//! Finds the `olive` binary.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A command line that starts `olive`, in an environment without any setting of the caller's.
///
/// The binary is the one that `OLIVE_TEST_BIN` names, else one built now, once per test program: Cargo tells the path
/// of a binary only to tests of its own package, and one found lying about could be older than its source.
///
/// # Panics
/// If the build fails.
pub fn olive() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(
        BINARY.get_or_init(|| std::env::var_os("OLIVE_TEST_BIN").map_or_else(build, PathBuf::from)),
    );
    for (name, _) in std::env::vars_os() {
        let lower = name.to_string_lossy().to_ascii_lowercase();
        if lower.starts_with("olive_") || lower == "log_level" || lower == "rust_log" {
            command.env_remove(name);
        }
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Builds `olive` where this very program was built, which usually finds everything done already.
fn build() -> PathBuf {
    let (target, profile) = place();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--package", "olive", "--bin", "olive"])
        .args(["--message-format", "json-render-diagnostics"])
        .args([
            "--profile",
            if profile == "debug" { "dev" } else { &profile },
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let output = cargo.output().expect("cargo starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "cargo could not build olive: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let artifacts = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    artifacts
        .filter_map(|artifact| artifact["executable"].as_str().map(PathBuf::from))
        .next_back()
        .expect("cargo names the binary it built")
}

/// Target folder and profile of this program, which Cargo put at `<target>/<profile>/deps/<name>-<hash>`.
fn place() -> (PathBuf, String) {
    let program = std::env::current_exe().expect("a program knows its own path");
    let profile = program
        .ancestors()
        .nth(2)
        .expect("test programs are three folders deep");
    let name = profile.file_name().unwrap_or_default();
    let target = profile.parent().unwrap_or(profile);
    (target.to_owned(), name.to_string_lossy().into_owned())
}
