//! How to reach a broker and what to insist on.

use crate::tls::TlsOptions;
use std::time::Duration;

/// Which login to use (AMQP 0-9-1 §4.2.2, SASL).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mechanism {
    /// User name and password as RFC 4616 has them.
    #[default]
    Plain,
    /// User name and password in an AMQP table; some old brokers want it.
    AmqPlain,
    /// The TLS client certificate says who we are.
    External,
}

impl Mechanism {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::AmqPlain => "AMQPLAIN",
            Mechanism::External => "EXTERNAL",
        }
    }
}

/// The client property by which a connection says what it is for, and its one value that means something.
pub(crate) const ROLE: &str = "olive-role";
pub(crate) const ROLE_RESULTS: &str = "results";

/// Everything needed to open a connection. [`ConnectOptions::default`] is a broker on this machine as `guest`.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Host name or address. Default `127.0.0.1`.
    pub host: String,
    /// TCP port. Default 5672, with TLS 5671.
    pub port: u16,
    /// TLS (`amqps://`); needs the crate's feature `tls`. Default none.
    pub tls: Option<TlsOptions>,
    /// User name. Default `guest`.
    pub user: String,
    /// Password. Default `guest`.
    pub password: String,
    /// Virtual host. Default `/`.
    pub vhost: String,
    /// How to log in: the first of these that the server offers. Default PLAIN only.
    pub mechanisms: Vec<Mechanism>,
    /// Heartbeat interval we ask for, whole seconds; zero switches heartbeats off. Default 15 s. The lower wish of
    /// the two ends counts. A dead peer is noticed after two intervals.
    pub heartbeat: Duration,
    /// Most channels we want; 0 = as many as the server allows. Default 0.
    pub channel_max: u16,
    /// Largest frame in bytes we want; at least 4,096. Default 131,072. The lower wish of the two ends counts.
    pub frame_max: u32,
    /// Largest message we accept, in bytes. Default 128 MiB.
    pub max_message_bytes: u64,
    /// What the broker's management shows as this connection's name. Default none.
    pub connection_name: Option<String>,
    /// Client properties to send beside those we always do: a few short names and texts. Default none.
    pub client_properties: Vec<(String, String)>,
    /// Limit for the whole of opening: name, TCP, TLS, login. Default 10 s.
    pub connect_timeout: Duration,
    /// Limit for the server's answer to a declare, bind and the like. Default 20 s.
    pub answer_timeout: Duration,
    /// Limit for the confirm of a publish. Default 30 s.
    pub publish_timeout: Duration,
    /// How many publishes of a channel may await their confirm; then publishing waits. Default 1,000.
    pub confirm_window: usize,
    /// Bytes that may wait to be written; then publishing waits. Default 256 KiB.
    pub write_buffer_bytes: usize,
    /// Bytes of deliveries that may wait for their consumers; then we stop reading from the server, which delays
    /// confirms and answers too. Prefetch keeps well below it. Default 64 MiB.
    pub read_buffer_bytes: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions {
            host: "127.0.0.1".into(),
            port: 5672,
            tls: None,
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
            mechanisms: vec![Mechanism::Plain],
            heartbeat: Duration::from_secs(15),
            channel_max: 0,
            frame_max: 128 * 1024,
            max_message_bytes: 128 * 1024 * 1024,
            connection_name: None,
            client_properties: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(20),
            publish_timeout: Duration::from_secs(30),
            confirm_window: 1000,
            write_buffer_bytes: 256 * 1024,
            read_buffer_bytes: 64 * 1024 * 1024,
        }
    }
}

impl std::fmt::Debug for ConnectOptions {
    /// As [`ConnectOptions::address`] with user and virtual host: the password is never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ConnectOptions({}@{} vhost {:?})",
            self.user,
            self.address(),
            self.vhost
        )
    }
}

impl ConnectOptions {
    /// `host:port`, as a person would write it.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Sets the name that the broker's management shows.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.connection_name = Some(name.into());
        self
    }

    /// Tells the embedded broker that this connection publishes results: at its memory mark it goes on reading
    /// from it, up to a second mark. Other brokers show the property and do nothing with it.
    pub fn brings_results(mut self) -> Self {
        self.client_properties
            .push((ROLE.into(), ROLE_RESULTS.into()));
        self
    }
}
