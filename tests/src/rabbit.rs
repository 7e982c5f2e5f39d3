//! A RabbitMQ node of one test's own, which it may break.

use crate::{Broker, Folder};
use std::path::Path;
use std::process::Command;

/// A private node, by way of `tests/rabbitmq`. Removed with this value. Takes some seconds to start.
pub struct RabbitNode {
    broker: Broker,
    folder: Folder,
}

impl RabbitNode {
    /// Starts one and waits until it speaks AMQP.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start() -> Self {
        let folder = Folder::new();
        let broker = Broker::at(&run(&folder, &["start"], &[]));
        RabbitNode { broker, folder }
    }

    /// [`start`](Self::start) with TLS: `certs` holds `ca.pem`, `server.pem` and `server.key`, the server's for
    /// `localhost`. Its URL is the one for TLS, and `parameters` are appended to it.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_with_tls(certs: &Path, parameters: &str) -> Self {
        let folder = Folder::new();
        let certs = certs.to_str().expect("a path of ours is text");
        run(&folder, &["start"], &[certs]);
        let url = run(&folder, &["amqps-url"], &[]);
        let broker = Broker::at(&format!("{url}?{parameters}"));
        RabbitNode { broker, folder }
    }

    /// The node as a broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Stops it in good order and brings it back on the same port, with its durable data.
    ///
    /// # Panics
    /// If that fails.
    pub fn restart(&self) {
        run(&self.folder, &["stop"], &[]);
        run(&self.folder, &["start"], &[]);
    }

    /// Changes something inside it: an Erlang expression.
    ///
    /// # Panics
    /// If that fails.
    pub fn evaluate(&self, expression: &str) {
        run(&self.folder, &["ctl"], &["eval", expression]);
    }

    /// Closes every connection, as an operator would.
    ///
    /// # Panics
    /// If that fails.
    pub fn close_all_connections(&self) {
        let arguments = ["close_all_connections", "closed by the test"];
        run(&self.folder, &["ctl"], &arguments);
    }
}

impl Drop for RabbitNode {
    fn drop(&mut self) {
        // Not `run`: a panic during a panic would hide the first.
        let _ = script(&self.folder, &["remove"], &[]).status();
    }
}

fn run(folder: &Folder, verb: &[&str], arguments: &[&str]) -> String {
    let output = script(folder, verb, arguments).output();
    let output = output.expect("tests/rabbitmq starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tests/rabbitmq {verb:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn script(folder: &Folder, verb: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("rabbitmq"));
    command.args(verb).arg(folder.path()).args(arguments);
    command
}
