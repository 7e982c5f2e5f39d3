//! Folders on disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// An empty folder that goes when this value does.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes one, where the system has its temporary files.
    ///
    /// # Panics
    /// If that cannot be written to.
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(unique_name());
        std::fs::create_dir(&path).expect("a temporary folder can be made");
        Folder { path }
    }

    /// The path of a file in it, which need not exist.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file and tells its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).expect("a file in our own folder can be written");
        path
    }

    /// The lines of a file; none while there is no such file.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until a file has `count` lines, and returns all it then has.
    ///
    /// # Panics
    /// When [`PATIENCE`](crate::PATIENCE) runs out.
    pub fn wait_for_lines(&self, name: &str, count: usize) -> Vec<String> {
        crate::eventually(&format!("{count} lines in {name}"), || {
            Some(self.lines(name)).filter(|lines| lines.len() >= count)
        })
    }

    /// The path of a file as text, for a job's arguments.
    ///
    /// # Panics
    /// If the system's temporary files have a path that is not UTF-8.
    pub fn text(&self, name: &str) -> String {
        let path = self.file(name);
        path.to_str().expect("a temporary path is text").to_owned()
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for Folder {
    fn default() -> Self {
        Folder::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind if it cannot be removed: no reason to fail a test that passed.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// `tests/fixtures`, the root of the Python package `myapp`.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A name that no other test, and no other run of the tests on the same broker, has.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!(
        "olive-test-{}-{}-{number}",
        now.as_millis(),
        std::process::id()
    )
}
