//! `olive run`, as an operator starts it.

use crate::process::{Finished, Program};
use crate::{Folder, fixtures, olive};
use rustix::process::Signal;
use std::ops::Deref;
use std::process::Command;

/// A worker about to be started: its environment, its flags, its configuration file.
pub struct WorkerSetup {
    command: Command,
    folder: Folder,
}

/// A worker that was started; a [`Program`] whose working folder goes with it.
pub struct Worker {
    program: Program,
    // After `program`: it is dropped second.
    _folder: Folder,
}

impl WorkerSetup {
    /// A worker without a broker's URL, and with nothing allowed but Rust tasks. Its Python finds the package `myapp`.
    pub fn new() -> Self {
        let folder = Folder::new();
        let mut command = olive();
        command
            .arg("run")
            .current_dir(folder.path())
            .env("PYTHONPATH", fixtures());
        WorkerSetup { command, folder }
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Adds a flag or its value.
    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Says how many jobs it may run at once.
    pub fn workers(self, count: u32) -> Self {
        self.arg("--workers").arg(count.to_string())
    }

    /// Allows the public functions of these Python modules.
    pub fn python(self, modules: &str) -> Self {
        self.env("olive_python_modules", modules)
    }

    /// Writes the configuration file that a worker finds in its working folder.
    pub fn file(self, toml: &str) -> Self {
        self.folder.write("olive.toml", toml);
        self
    }

    /// Starts it. A job sent before it is ready waits in its queue, so nobody need wait for that.
    pub fn start(self) -> Worker {
        Worker {
            program: Program::start(self.command),
            _folder: self.folder,
        }
    }
}

impl Default for WorkerSetup {
    fn default() -> Self {
        WorkerSetup::new()
    }
}

impl Worker {
    /// Asks it to stop as a service manager does, and waits until it has given back or finished what it held.
    ///
    /// # Panics
    /// If it does not end, or not with exit code 0.
    pub fn drain(&self) -> Finished {
        self.signal(Signal::TERM);
        let finished = self.finish();
        assert_eq!(finished.code(), Some(0), "{}", finished.output);
        finished
    }
}

impl Deref for Worker {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}
