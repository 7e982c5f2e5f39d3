//! AMQP URIs, as RabbitMQ's specification has them: `amqp://user:password@host:port/vhost?parameters`.
//!
//! Parameters with an unknown name are an error rather than ignored, because a misspelt `heartbeat` is otherwise found
//! in production.

use crate::error::Error;
use crate::options::{ConnectOptions, Mechanism};
use crate::tls::{ServerName, TlsOptions};
use std::time::Duration;

/// Parser of AMQP URIs.
#[derive(Debug, Clone, Copy)]
pub struct Uri;

impl Uri {
    /// Reads `amqp://user:password@host:port/vhost?parameter=value&…`.
    ///
    /// Parts left out have the defaults of [`ConnectOptions`]. All parts may be percent-encoded; no path means the
    /// virtual host `/`, the path `/` alone means the one with the empty name. Parameters: `heartbeat` (seconds),
    /// `connection_timeout` (milliseconds), `channel_max`, `frame_max`, `auth_mechanism` (`plain`, `amqplain`,
    /// `external`; several times, in order of preference), `name` (of the connection).
    ///
    /// With `amqps://` also `cacertfile`, `certfile`, `keyfile` (paths), `verify` (`verify_peer`, the default, or
    /// `verify_none`) and `server_name_indication` (a name, or `disable`): see [`TlsOptions`].
    /// `fail_if_no_peer_cert` is a server's setting and has no effect here.
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
                options.tls = Some(TlsOptions::default());
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
        let mut mechanisms = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value, name)?;
            match name {
                "auth_mechanism" => mechanisms.push(parse_mechanism(&value)?),
                _ => parse_parameter(name, &value, &mut options)?,
            }
        }
        if !mechanisms.is_empty() {
            options.mechanisms = mechanisms;
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
        "cacertfile"
        | "certfile"
        | "keyfile"
        | "verify"
        | "server_name_indication"
        | "fail_if_no_peer_cert"
        | "password"
        | "depth" => {
            let tls = options
                .tls
                .as_mut()
                .ok_or_else(|| wrong(format!("{name} is for amqps:// only, this is amqp://")))?;
            parse_tls_parameter(name, value, tls)?;
        }
        _ => return Err(wrong(format!("unknown parameter {name:?}"))),
    }
    Ok(())
}

fn parse_mechanism(value: &str) -> Result<Mechanism, Error> {
    match value.to_ascii_lowercase().as_str() {
        "plain" => Ok(Mechanism::Plain),
        "amqplain" => Ok(Mechanism::AmqPlain),
        "external" => Ok(Mechanism::External),
        _ => Err(wrong(format!(
            "auth_mechanism={value:?}: use plain, amqplain or external"
        ))),
    }
}

fn parse_tls_parameter(name: &str, value: &str, tls: &mut TlsOptions) -> Result<(), Error> {
    match (name, value) {
        ("cacertfile", _) => tls.ca_file = Some(value.into()),
        ("certfile", _) => tls.cert_file = Some(value.into()),
        ("keyfile", _) => tls.key_file = Some(value.into()),
        ("verify", "verify_peer") => tls.verify_peer = true,
        ("verify", "verify_none") => tls.verify_peer = false,
        ("verify", _) => {
            return Err(wrong(format!(
                "verify={value:?}: use verify_peer or verify_none"
            )));
        }
        ("server_name_indication", "disable") => tls.server_name = ServerName::Disabled,
        ("server_name_indication", _) => tls.server_name = ServerName::Named(value.to_owned()),
        ("fail_if_no_peer_cert", _) => {}
        ("password", _) => {
            return Err(wrong(
                "keys with a password are not read: decrypt the keyfile",
            ));
        }
        _ => return Err(wrong(format!("{name} is not supported"))),
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

    /// Appendix A of RabbitMQ's URI specification; what it leaves undefined has our defaults.
    #[test]
    fn the_specification_s_examples() {
        let escaped = "amqp://user%61:%61pass@ho%61st:10000/v%2fhost";
        for (uri, user_password_host_port_vhost) in [
            (
                "amqp://user:pass@host:10000/vhost",
                "user|pass|host|10000|vhost",
            ),
            (escaped, "usera|apass|hoast|10000|v/host"),
            ("amqp://", "guest|guest|127.0.0.1|5672|/"),
            ("amqp://:@/", "||127.0.0.1|5672|"),
            ("amqp://user@", "user|guest|127.0.0.1|5672|/"),
            ("amqp://user:pass@", "user|pass|127.0.0.1|5672|/"),
            ("amqp://host", "guest|guest|host|5672|/"),
            ("amqp://:10000", "guest|guest|127.0.0.1|10000|/"),
            ("amqp:///vhost", "guest|guest|127.0.0.1|5672|vhost"),
            ("amqp://host/", "guest|guest|host|5672|"),
            ("amqp://host/%2F", "guest|guest|host|5672|/"),
            ("amqp://[::1]", "guest|guest|::1|5672|/"),
            ("amqp://[::1]:10000/v", "guest|guest|::1|10000|v"),
            ("amqps://host", "guest|guest|host|5671|/"),
        ] {
            let o = Uri::parse(uri).unwrap();
            let parts = [&o.user, &o.password, &o.host, &o.port.to_string(), &o.vhost];
            assert_eq!(
                parts.map(String::as_str).join("|"),
                user_password_host_port_vhost,
                "{uri}"
            );
        }
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
        assert_eq!(options.mechanisms, [Mechanism::External]);
        let options = Uri::parse("amqp://h?auth_mechanism=EXTERNAL&auth_mechanism=plain").unwrap();
        assert_eq!(options.mechanisms, [Mechanism::External, Mechanism::Plain]);
    }

    #[test]
    fn parameters_of_tls() {
        let options = Uri::parse(
            "amqps://h?cacertfile=%2Fca.pem&certfile=c.pem&keyfile=k.pem&verify=verify_none&server_name_indication=other",
        )
        .unwrap();
        let tls = options.tls.unwrap();
        assert_eq!(tls.ca_file.as_deref(), Some("/ca.pem".as_ref()));
        assert_eq!(tls.cert_file.as_deref(), Some("c.pem".as_ref()));
        assert_eq!(tls.key_file.as_deref(), Some("k.pem".as_ref()));
        assert!(!tls.verify_peer);
        assert_eq!(tls.server_name, ServerName::Named("other".into()));
        let options = Uri::parse("amqps://h?server_name_indication=disable&verify=verify_peer");
        let tls = options.unwrap().tls.unwrap();
        assert_eq!(tls.server_name, ServerName::Disabled);
        assert!(tls.verify_peer);
        assert_eq!(
            Uri::parse("amqps://h").unwrap().tls,
            Some(TlsOptions::default())
        );
        assert_eq!(Uri::parse("amqp://h").unwrap().tls, None);
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
            ("amqp://u:secret@h?cacertfile=x", "amqps"),
            ("amqps://u:secret@h?verify=maybe", "verify_peer"),
            ("amqps://u:secret@h?password=secret", "decrypt"),
            ("amqp://u:secret@h?auth_mechanism=magic", "amqplain"),
        ] {
            let text = Uri::parse(uri).unwrap_err().to_string();
            assert!(text.contains(part), "{uri}: {text}");
            assert!(!text.contains("secr"), "{uri}: {text}");
        }
        assert!(!format!("{:?}", Uri::parse("amqp://u:secret@h").unwrap()).contains("secret"));
    }
}
