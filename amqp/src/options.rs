//! How to reach a broker: [`ConnectOptions`], and the AMQP URI they are usually written as.
//!
//! The URI follows RabbitMQ's specification (`amqp://user:password@host:port/vhost?parameters`); parameters with an
//! unknown name are an error rather than ignored, because a misspelt `heartbeat` is otherwise found in production.

use crate::error::Error;
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
    /// Whether to speak TLS (`amqps://`); needs the feature `tls`.
    pub tls: bool,
    /// User name. Default `guest`.
    pub user: String,
    /// Password. Default `guest`.
    pub password: String,
    /// Virtual host. Default `/`.
    pub vhost: String,
    /// How to log in. Default PLAIN.
    pub mechanism: Mechanism,
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
            tls: false,
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
            mechanism: Mechanism::Plain,
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

/// Parser of AMQP URIs.
#[derive(Debug, Clone, Copy)]
pub struct Uri;

impl Uri {
    /// Reads `amqp://user:password@host:port/vhost?parameter=value&…`.
    ///
    /// Parts left out have the defaults of [`ConnectOptions`]. All parts may be percent-encoded; no path means the
    /// virtual host `/`, the path `/` alone means the one with the empty name. Parameters: `heartbeat` (seconds),
    /// `connection_timeout` (milliseconds), `channel_max`, `frame_max`, `auth_mechanism` (`plain`, `amqplain`,
    /// `external`), `name` (of the connection).
    ///
    /// # Errors
    /// [`Error::Options`], which names the part that is wrong and never shows the password.
    pub fn parse(uri: &str) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::default();
        let (scheme, rest) = uri
            .split_once("://")
            .ok_or_else(|| wrong("it has no scheme: write amqp://host"))?;
        match scheme.to_ascii_lowercase().as_str() {
            "amqp" => {}
            "amqps" => {
                options.tls = true;
                options.port = 5671;
            }
            other => {
                return Err(wrong(format!(
                    "its scheme is {other:?}: only amqp and amqps are known"
                )));
            }
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(path)),
            None => (rest, None),
        };
        let host_port = match authority.rsplit_once('@') {
            Some((login, host_port)) => {
                parse_login(login, &mut options)?;
                host_port
            }
            None => authority,
        };
        parse_host(host_port, &mut options)?;
        if let Some(path) = path {
            if path.contains('/') {
                return Err(wrong("its virtual host contains a '/': write it as %2F"));
            }
            options.vhost = decode(path, "virtual host")?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parse_parameter(name, &decode(value, name)?, &mut options)?;
        }
        Ok(options)
    }
}

impl std::str::FromStr for ConnectOptions {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self, Error> {
        Uri::parse(uri)
    }
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::Options(format!("the AMQP URI is wrong: {what}"))
}

fn parse_login(login: &str, options: &mut ConnectOptions) -> Result<(), Error> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    options.user = decode(user, "user name")?;
    if let Some(password) = password {
        options.password = decode(password, "password")?;
    }
    Ok(())
}

fn parse_host(host_port: &str, options: &mut ConnectOptions) -> Result<(), Error> {
    let (host, port) = if let Some(rest) = host_port.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or_else(|| wrong("its IPv6 address has no closing bracket"))?;
        let port = match after {
            "" => None,
            _ => Some(
                after
                    .strip_prefix(':')
                    .ok_or_else(|| wrong("after ']' only a port may follow"))?,
            ),
        };
        (host, port)
    } else {
        match host_port.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_port, None),
        }
    };
    if !host.is_empty() {
        options.host = decode(host, "host")?;
    }
    if let Some(port) = port.filter(|port| !port.is_empty()) {
        options.port = port
            .parse()
            .map_err(|_| wrong(format!("{port:?} is not a port number")))?;
    }
    Ok(())
}

fn parse_parameter(name: &str, value: &str, options: &mut ConnectOptions) -> Result<(), Error> {
    fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Error> {
        value
            .parse()
            .map_err(|_| wrong(format!("{name}={value:?} is not a number in range")))
    }
    match name {
        "heartbeat" => options.heartbeat = Duration::from_secs(number::<u16>(name, value)?.into()),
        "connection_timeout" => {
            options.connect_timeout = Duration::from_millis(number::<u32>(name, value)?.into())
        }
        "channel_max" => options.channel_max = number(name, value)?,
        "frame_max" => options.frame_max = number(name, value)?,
        "name" => options.connection_name = Some(value.to_owned()),
        "auth_mechanism" => {
            options.mechanism = match value.to_ascii_lowercase().as_str() {
                "plain" => Mechanism::Plain,
                "amqplain" => Mechanism::AmqPlain,
                "external" => Mechanism::External,
                _ => {
                    return Err(wrong(format!(
                        "auth_mechanism={value:?}: use plain, amqplain or external"
                    )));
                }
            }
        }
        _ => return Err(wrong(format!("unknown parameter {name:?}"))),
    }
    Ok(())
}

fn decode(text: &str, part: &str) -> Result<String, Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(
            byte.ok_or_else(|| wrong(format!("its {part} has a '%' without two hex digits")))?,
        );
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong(format!("its {part} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// host, port, user, password, vhost
    fn parts(uri: &str) -> (String, u16, String, String, String) {
        let o = Uri::parse(uri).unwrap();
        (o.host, o.port, o.user, o.password, o.vhost)
    }

    fn expect(uri: &str, host: &str, port: u16, user: &str, password: &str, vhost: &str) {
        assert_eq!(
            parts(uri),
            (
                host.into(),
                port,
                user.into(),
                password.into(),
                vhost.into()
            ),
            "{uri}"
        );
    }

    /// Appendix A of RabbitMQ's URI specification; what it leaves undefined has our defaults.
    #[test]
    fn the_specification_s_examples() {
        expect(
            "amqp://user:pass@host:10000/vhost",
            "host",
            10000,
            "user",
            "pass",
            "vhost",
        );
        expect(
            "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
            "hoast",
            10000,
            "usera",
            "apass",
            "v/host",
        );
        expect("amqp://", "127.0.0.1", 5672, "guest", "guest", "/");
        expect("amqp://:@/", "127.0.0.1", 5672, "", "", "");
        expect("amqp://user@", "127.0.0.1", 5672, "user", "guest", "/");
        expect("amqp://user:pass@", "127.0.0.1", 5672, "user", "pass", "/");
        expect("amqp://host", "host", 5672, "guest", "guest", "/");
        expect("amqp://:10000", "127.0.0.1", 10000, "guest", "guest", "/");
        expect(
            "amqp:///vhost",
            "127.0.0.1",
            5672,
            "guest",
            "guest",
            "vhost",
        );
        expect("amqp://host/", "host", 5672, "guest", "guest", "");
        expect("amqp://host/%2F", "host", 5672, "guest", "guest", "/");
        expect("amqp://[::1]", "::1", 5672, "guest", "guest", "/");
        expect("amqp://[::1]:10000/v", "::1", 10000, "guest", "guest", "v");
        expect("amqps://host", "host", 5671, "guest", "guest", "/");
    }

    #[test]
    fn parameters() {
        let options =
            Uri::parse("amqp://h?heartbeat=5&connection_timeout=1500&channel_max=7&frame_max=8192&name=a%20b&auth_mechanism=external")
                .unwrap();
        assert_eq!(options.heartbeat, Duration::from_secs(5));
        assert_eq!(options.connect_timeout, Duration::from_millis(1500));
        assert_eq!((options.channel_max, options.frame_max), (7, 8192));
        assert_eq!(options.connection_name.as_deref(), Some("a b"));
        assert_eq!(options.mechanism, Mechanism::External);
    }

    #[test]
    fn mistakes_are_named_and_the_password_is_not_shown() {
        for (uri, part) in [
            ("host:5672", "scheme"),
            ("http://host", "scheme"),
            ("amqp://u:secret@h:99999", "port"),
            ("amqp://u:secret@h/a/b", "%2F"),
            ("amqp://u:secr%et@h", "password"),
            ("amqp://u:secret@h?hartbeat=5", "hartbeat"),
            ("amqp://u:secret@h?heartbeat=soon", "heartbeat"),
            ("amqp://[::1", "bracket"),
        ] {
            let text = Uri::parse(uri).unwrap_err().to_string();
            assert!(text.contains(part), "{uri}: {text}");
            assert!(!text.contains("secr"), "{uri}: {text}");
        }
        assert!(!format!("{:?}", Uri::parse("amqp://u:secret@h").unwrap()).contains("secret"));
    }
}
