//! What a broker is started with.

use std::net::SocketAddr;
use std::time::Duration;

/// A user who may connect.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User({:?})", self.name)
    }
}

/// Settings of a broker. All have defaults; change the fields that matter.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Default `127.0.0.1:5672`; port 0 picks a free one. An address that is not loopback needs
    /// at least one entry in `users`.
    pub listen: SocketAddr,
    /// Users beside `guest`/`guest`, which may always log in from loopback and never from elsewhere. A user named
    /// `guest` here gets that password instead and may still come from loopback only. Default: none.
    pub users: Vec<User>,
    /// The heartbeat interval we suggest; the client decides, and 0 switches heartbeats off. Default 60 s; whole
    /// seconds, at most 65,535.
    pub heartbeat: Duration,
    /// The largest frame in bytes. Default 131,072; at least 4,096.
    pub frame_max: u32,
    /// The highest channel number of a connection. Default 2,047; at least 1.
    pub channel_max: u16,
    /// The largest message body in bytes. Default 128 MiB.
    pub body_max: u64,
    /// Connections at the same time; more are closed at once. Default 10,000.
    pub connections_max: usize,
    /// When the messages held are over this many bytes, connections that publish are not read from until it is
    /// down by a fifth, and told so (`connection.blocked`). A connection that says of itself that it brings results
    /// (client property `olive-role` = `results`) is held back only over a second mark, a quarter above this one,
    /// until it is back at the first: memory falls when jobs are acked, and they are acked after their results are
    /// taken. Default 1 GiB.
    pub memory_high_water: u64,
    /// Once this many bytes wait to be written to a connection, its consumers get no more until half of them are
    /// gone. Default 256 KiB.
    pub write_buffer_max: usize,
    /// How long a client may take from connecting to `connection.open`. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a stopping broker waits for clients to answer its Close. Default 2 s.
    pub stop_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 5672)),
            users: Vec::new(),
            heartbeat: Duration::from_secs(60),
            frame_max: 128 * 1024,
            channel_max: 2047,
            body_max: 128 * 1024 * 1024,
            connections_max: 10_000,
            memory_high_water: 1 << 30,
            write_buffer_max: 256 * 1024,
            handshake_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(2),
        }
    }
}

impl Config {
    /// Over so many bytes, connections that bring results are held back too.
    pub(crate) fn second_memory_mark(&self) -> u64 {
        self.memory_high_water
            .saturating_add(self.memory_high_water / 4)
    }

    /// The defaults on this address.
    pub fn on(listen: SocketAddr) -> Self {
        Config {
            listen,
            ..Config::default()
        }
    }

    /// Whether this user may log in with this password from there.
    pub(crate) fn admits(&self, name: &[u8], password: &[u8], is_loopback: bool) -> bool {
        if name == b"guest" && !is_loopback {
            return false;
        }
        match self.users.iter().find(|user| user.name.as_bytes() == name) {
            Some(user) => is_same(user.password.as_bytes(), password),
            None => name == b"guest" && is_same(b"guest", password),
        }
    }
}

/// Compares without telling by its time how many bytes were right.
fn is_same(expected: &[u8], given: &[u8]) -> bool {
    let difference = expected
        .iter()
        .zip(given)
        .fold(0, |sum, (a, b)| sum | (a ^ b));
    expected.len() == given.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_comes_from_loopback_only() {
        let mut config = Config::default();
        assert!(config.admits(b"guest", b"guest", true));
        assert!(!config.admits(b"guest", b"guest", false));
        assert!(!config.admits(b"guest", b"guess", true));
        assert!(!config.admits(b"ann", b"guest", true));
        let user = |name: &str, password: &str| User {
            name: name.into(),
            password: password.into(),
        };
        config.users = vec![user("ann", "secret"), user("guest", "other")];
        assert!(config.admits(b"ann", b"secret", false));
        assert!(!config.admits(b"ann", b"secre", false));
        assert!(!config.admits(b"guest", b"guest", true));
        assert!(config.admits(b"guest", b"other", true));
        assert!(!config.admits(b"guest", b"other", false));
    }
}
