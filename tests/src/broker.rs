//! The broker a scenario runs on.

use crate::process::Program;
use crate::{Folder, olive};
use std::net::SocketAddr;

/// A broker that speaks AMQP, as a process of its own.
pub struct Broker {
    url: String,
    /// `None`: RabbitMQ, which `tests/run` starts and stops.
    program: Option<(Program, Folder)>,
}

impl Broker {
    /// An `olive broker` on a free port of loopback, for this test alone.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn embedded() -> Self {
        Broker::embedded_on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// As [`embedded`](Self::embedded), on an address.
    ///
    /// # Panics
    /// As `embedded`.
    pub fn embedded_on(listen: SocketAddr) -> Self {
        let folder = Folder::new();
        let mut command = olive();
        command
            .args(["broker", "--listen", &listen.to_string()])
            .current_dir(folder.path());
        let program = Program::start(command);
        let line = program.wait_for(&["127.0.0.1:"]);
        let address = address_in(&line).unwrap_or_else(|| panic!("no address in {line:?}"));
        Broker {
            url: format!("amqp://guest:guest@{address}/%2F"),
            program: Some((program, folder)),
        }
    }

    /// The RabbitMQ node that `OLIVE_TEST_AMQP_URL` names.
    ///
    /// # Panics
    /// If the variable is not set.
    pub fn rabbitmq() -> Self {
        let url = std::env::var("OLIVE_TEST_AMQP_URL")
            .expect("OLIVE_TEST_AMQP_URL names a broker; tests/run sets it");
        Broker::at(&url)
    }

    /// A broker that somebody else started.
    pub fn at(url: &str) -> Self {
        Broker {
            url: url.to_owned(),
            program: None,
        }
    }

    /// Where it is, with user and password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `host:port`.
    ///
    /// # Panics
    /// If `OLIVE_TEST_AMQP_URL` is no AMQP URL.
    pub fn address(&self) -> String {
        let options = amqp::Uri::parse(&self.url).expect("the broker's URL is one");
        options.address()
    }

    /// The process, if the broker is ours.
    pub fn program(&self) -> Option<&Program> {
        self.program.as_ref().map(|(program, _)| program)
    }
}

/// The first address of loopback in a line, with its port.
pub fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("127.0.0.1:")?;
    let end = after
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(after.len());
    let port = after[..end].parse().ok().filter(|port| *port != 0)?;
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_a_line_for_people() {
        let port = |line| address_in(line).map(|address| address.port());
        assert_eq!(port("listening on 127.0.0.1:5672."), Some(5672));
        assert_eq!(port("amqp://guest:guest@127.0.0.1:40001/%2F"), Some(40001));
        assert_eq!(port("127.0.0.1:0"), None);
        assert_eq!(port("nothing"), None);
    }
}
