//! A RabbitMQ node of a test's own, by way of `tests/rabbitmq`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A private node. Removed with this value.
pub struct Node {
    folder: PathBuf,
}

impl Node {
    /// Starts one; takes some seconds.
    pub fn start() -> Node {
        Node::start_with("start", &[])
    }

    /// Starts one that forms a cluster with another, which has to outlive it.
    pub fn join(other: &Node) -> Node {
        Node::start_with(
            "join",
            &[other.folder.to_str().expect("a path of ours is text")],
        )
    }

    /// [`Node::start`] with a TLS listener whose certificates are in `certs`.
    pub fn start_with_tls(certs: &Path) -> Node {
        Node::start_with("start", &[certs.to_str().expect("a path of ours is text")])
    }

    fn start_with(verb: &str, arguments: &[&str]) -> Node {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("amqp-node-{}-{number}", std::process::id());
        let node = Node {
            folder: std::env::temp_dir().join(folder),
        };
        node.run(verb, arguments);
        node
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.run("url", &[])
    }

    /// Its URL for TLS, with `localhost` as the host.
    pub fn amqps_url(&self) -> String {
        self.run("amqps-url", &[])
    }

    /// `rabbitmqctl`.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.run("ctl", arguments)
    }

    /// Stops it (`stop`, or `kill` for SIGKILL); `start` brings it back with its data, on its ports.
    pub fn run(&self, verb: &str, arguments: &[&str]) -> String {
        let output = self.script(verb, arguments).output();
        let output = output.expect("tests/rabbitmq starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tests/rabbitmq {verb}: {error}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn script(&self, verb: &str, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/rabbitmq");
        let mut command = Command::new(script);
        command.arg(verb).arg(&self.folder).args(arguments);
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Not `run`: a panic during a panic would hide the first.
        let _ = self.script("remove", &[]).status();
        let _ = std::fs::remove_dir(&self.folder);
    }
}
