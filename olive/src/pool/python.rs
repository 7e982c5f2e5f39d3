//! How a Python worker is started: the interpreter, and our shim as the text it runs.

use std::path::PathBuf;

/// The shim travels in the environment and not on the command line, so that `ps` shows a short
/// one, and is compiled under a name by which its own frames are known in tracebacks.
pub(super) const ARGUMENTS: [&str; 2] = [
    "-c",
    "import os; exec(compile(os.environ.pop('OLIVE_SHIM'), '<olive shim>', 'exec'))",
];

/// What the shim reads from its environment, and takes out of it.
pub(super) fn environment(modules: &[String], frame_max: usize) -> Vec<(String, String)> {
    let listed = serde_json::to_string(modules).expect("names are text");
    [
        ("OLIVE_SHIM", include_str!("shim.py").to_string()),
        ("OLIVE_MODULES", listed),
        ("OLIVE_FRAME_MAX", frame_max.to_string()),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into()
}

/// `PYTHONPATH` with these folders before what is inherited; `None` leaves it as it is.
pub(super) fn path(folders: &[PathBuf]) -> Option<String> {
    if folders.is_empty() {
        return None;
    }
    let inherited = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let inherited =
        std::env::split_paths(&inherited).filter(|folder| !folder.as_os_str().is_empty());
    let all = folders.iter().cloned().chain(inherited);
    let joined = std::env::join_paths(all).ok()?;
    joined.into_string().ok()
}
