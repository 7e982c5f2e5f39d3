//! From the protocol header to an open connection, the client's side (AMQP 0-9-1 §2.2.4).
//!
//! One enum, one frame per step: what a phase has to remember is in its variant. No socket and no clock.

use crate::codec::encode;
use crate::error::{CloseReason, Error};
use crate::options::{ConnectOptions, Mechanism};
use crate::protocol::{
    AMQPClass, AMQPValue, FRAME_MIN_SIZE, FieldTable, LongString, PROTOCOL_HEADER, ShortString,
    connection, reply,
};
use connection::AMQPMethod as Connection;
use std::time::Duration;

/// What both ends agreed on.
#[derive(Debug, Clone, PartialEq)]
pub struct Negotiated {
    /// Highest channel number.
    pub channel_max: u16,
    /// Largest frame in bytes.
    pub frame_max: u32,
    /// Heartbeat interval; zero = off.
    pub heartbeat: Duration,
    /// What the server says of itself.
    pub server_properties: FieldTable,
}

impl Negotiated {
    /// Whether the server announced an extension, such as `consumer_cancel_notify`.
    pub fn server_can(&self, name: &str) -> bool {
        capability(&self.server_properties, name)
    }
}

/// Where the login stands.
#[derive(Debug)]
pub(crate) enum Handshake {
    /// The protocol header is out; `connection.start` is due.
    Start,
    /// Our credentials are out; `connection.tune` is due.
    Tune {
        mechanism: Mechanism,
        server_properties: FieldTable,
    },
    /// Our limits and `connection.open` are out; `connection.open-ok` is due.
    Open { negotiated: Negotiated },
}

impl Handshake {
    /// Writes the protocol header.
    pub(crate) fn begin(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&PROTOCOL_HEADER);
        Handshake::Start
    }

    /// One method came on channel 0. Gives the result once the connection is open, else the next phase.
    pub(crate) fn step(
        self,
        method: AMQPClass,
        options: &ConnectOptions,
        out: &mut Vec<u8>,
    ) -> Result<Result<Negotiated, Handshake>, Error> {
        let AMQPClass::Connection(method) = method else {
            return Err(unexpected(&self));
        };
        match (self, method) {
            (Handshake::Start, Connection::Start(start)) => start_ok(start, options, out).map(Err),
            (
                Handshake::Tune {
                    server_properties, ..
                },
                Connection::Tune(tune),
            ) => {
                let negotiated = negotiate(&tune, options, server_properties);
                tune_ok(&negotiated, options, out)?;
                Ok(Err(Handshake::Open { negotiated }))
            }
            (Handshake::Tune { mechanism, .. }, Connection::Secure(_)) => {
                Err(Error::Options(format!(
                    "the server asks for a second step of the login {}, which has none",
                    mechanism.name()
                )))
            }
            (Handshake::Open { negotiated }, Connection::OpenOk(_)) => Ok(Ok(negotiated)),
            (phase, Connection::Close(close)) => Err(phase.closed(&close, options)),
            (phase, _) => Err(unexpected(&phase)),
        }
    }

    /// The server said no: which no depends on what we had just asked.
    fn closed(&self, close: &connection::Close, options: &ConnectOptions) -> Error {
        let reason = close_reason(close);
        match (self, reason.code) {
            (
                Handshake::Open { .. },
                reply::NOT_ALLOWED | reply::INVALID_PATH | reply::ACCESS_REFUSED,
            ) => Error::VhostRefused {
                vhost: options.vhost.clone(),
                reason,
            },
            (_, reply::ACCESS_REFUSED) => Error::LoginRefused(reason),
            _ => Error::ConnectionClosed(reason),
        }
    }

    /// The connection ended in the middle. A server that does not announce `authentication_failure_close` just
    /// hangs up on a wrong password; with any other it was the network, or a server about to stop.
    pub(crate) fn hung_up(&self) -> Option<Error> {
        let Handshake::Tune {
            server_properties, ..
        } = self
        else {
            return None;
        };
        let says_so = capability(server_properties, "authentication_failure_close");
        (!says_so).then(|| {
            Error::LoginRefused(CloseReason {
                code: reply::ACCESS_REFUSED,
                text: "it closed the connection at our login".into(),
                method: (10, 11),
            })
        })
    }
}

fn capability(server_properties: &FieldTable, name: &str) -> bool {
    let table = server_properties
        .inner()
        .get("capabilities")
        .and_then(|value| value.as_field_table());
    let value = table.and_then(|table| table.inner().get(name));
    value.and_then(|value| value.as_bool()) == Some(true)
}

pub(crate) fn close_reason(close: &connection::Close) -> CloseReason {
    CloseReason {
        code: close.reply_code,
        text: close.reply_text.to_string(),
        method: (close.class_id, close.method_id),
    }
}

fn unexpected(phase: &Handshake) -> Error {
    let due = match phase {
        Handshake::Start => "connection.start",
        Handshake::Tune { .. } => "connection.tune",
        Handshake::Open { .. } => "connection.open-ok",
    };
    Error::protocol(
        reply::COMMAND_INVALID,
        format!("something else came where {due} was due"),
    )
}

fn start_ok(
    start: connection::Start,
    options: &ConnectOptions,
    out: &mut Vec<u8>,
) -> Result<Handshake, Error> {
    if (start.version_major, start.version_minor) != (0, 9) {
        let version = format!(
            "it offers version {}-{}",
            start.version_major, start.version_minor
        );
        return Err(Error::NotAmqp(version));
    }
    let offered = start.mechanisms.to_string();
    let offers = |wanted: &&Mechanism| {
        let mut names = offered.split(' ');
        names.any(|name| name.eq_ignore_ascii_case(wanted.name()))
    };
    let Some(&mechanism) = options.mechanisms.iter().find(offers) else {
        let wanted: Vec<_> = options.mechanisms.iter().map(|each| each.name()).collect();
        return Err(Error::Options(format!(
            "the server does not take the login {}, only: {offered}",
            wanted.join(" or ")
        )));
    };
    let texts = [&options.user, &options.password];
    if mechanism == Mechanism::Plain && texts.iter().any(|text| text.contains('\0')) {
        let text = "user name and password cannot hold a NUL with the login PLAIN, which separates them by one";
        return Err(Error::Options(text.into()));
    }
    let start_ok = connection::StartOk {
        client_properties: client_properties(options),
        mechanism: mechanism.name().into(),
        response: credentials(mechanism, options),
        locale: "en_US".into(),
    };
    encode::method(
        out,
        0,
        &AMQPClass::Connection(Connection::StartOk(start_ok)),
    );
    Ok(Handshake::Tune {
        mechanism,
        server_properties: start.server_properties,
    })
}

/// The lower wish counts; 0 is "no wish".
fn negotiate(
    tune: &connection::Tune,
    options: &ConnectOptions,
    server_properties: FieldTable,
) -> Negotiated {
    fn lower<T: Ord + Default + Copy>(a: T, b: T) -> T {
        let none = T::default();
        if a == none || b == none {
            a.max(b)
        } else {
            a.min(b)
        }
    }
    let channel_max = match lower(tune.channel_max, options.channel_max) {
        0 => u16::MAX,
        limit => limit,
    };
    let frame_max =
        lower(tune.frame_max, options.frame_max.max(FRAME_MIN_SIZE)).max(FRAME_MIN_SIZE);
    let ours = u16::try_from(options.heartbeat.as_secs()).unwrap_or(u16::MAX);
    // Zero from us means off, whatever the server suggests; zero from the server leaves it to us.
    let heartbeat = if ours == 0 {
        0
    } else {
        lower(tune.heartbeat, ours)
    };
    Negotiated {
        channel_max,
        frame_max,
        heartbeat: Duration::from_secs(heartbeat.into()),
        server_properties,
    }
}

fn tune_ok(
    negotiated: &Negotiated,
    options: &ConnectOptions,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let tune_ok = connection::TuneOk {
        channel_max: negotiated.channel_max,
        frame_max: negotiated.frame_max,
        heartbeat: negotiated.heartbeat.as_secs() as u16,
    };
    encode::method(out, 0, &AMQPClass::Connection(Connection::TuneOk(tune_ok)));
    let virtual_host = ShortString::try_new(options.vhost.as_str())
        .map_err(|_| Error::Options("the virtual host's name is longer than 255 bytes".into()))?;
    encode::method(
        out,
        0,
        &AMQPClass::Connection(Connection::Open(connection::Open { virtual_host })),
    );
    Ok(())
}

fn credentials(mechanism: Mechanism, options: &ConnectOptions) -> LongString {
    let (user, password) = (options.user.as_str(), options.password.as_str());
    match mechanism {
        Mechanism::Plain => format!("\0{user}\0{password}").into(),
        Mechanism::External => LongString::default(),
        Mechanism::AmqPlain => {
            // A table without its length, as RabbitMQ's own clients send it.
            let mut bytes = Vec::new();
            for (key, value) in [("LOGIN", user), ("PASSWORD", password)] {
                crate::codec::put_short(&mut bytes, key);
                bytes.push(b'S');
                bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
                bytes.extend_from_slice(value.as_bytes());
            }
            bytes.into()
        }
    }
}

fn client_properties(options: &ConnectOptions) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut capabilities = FieldTable::default();
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
    ] {
        capabilities.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut table = FieldTable::default();
    table.insert("product".into(), text("olive amqp"));
    table.insert("version".into(), text(env!("CARGO_PKG_VERSION")));
    table.insert("platform".into(), text("Rust"));
    table.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    if let Some(name) = &options.connection_name {
        table.insert("connection_name".into(), text(name));
    }
    for (name, value) in &options.client_properties {
        table.insert(name.as_str().into(), text(value));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(mechanisms: &str) -> AMQPClass {
        AMQPClass::Connection(Connection::Start(connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: FieldTable::default(),
            mechanisms: mechanisms.into(),
            locales: "en_US".into(),
        }))
    }

    fn tune(channel_max: u16, frame_max: u32, heartbeat: u16) -> AMQPClass {
        AMQPClass::Connection(Connection::Tune(connection::Tune {
            channel_max,
            frame_max,
            heartbeat,
        }))
    }

    fn close(code: u16) -> AMQPClass {
        AMQPClass::Connection(Connection::Close(connection::Close {
            reply_code: code,
            reply_text: "no".into(),
            class_id: 0,
            method_id: 0,
        }))
    }

    fn opened(options: &ConnectOptions, server: AMQPClass) -> Negotiated {
        let mut out = Vec::new();
        let open_ok = AMQPClass::Connection(Connection::OpenOk(connection::OpenOk {}));
        let phase = Handshake::begin(&mut out)
            .step(start("PLAIN"), options, &mut out)
            .unwrap()
            .unwrap_err();
        let phase = phase.step(server, options, &mut out).unwrap().unwrap_err();
        phase.step(open_ok, options, &mut out).unwrap().unwrap()
    }

    #[test]
    fn the_lower_wish_counts_and_zero_is_no_wish() {
        let ours = ConnectOptions::default();
        let agreed = opened(&ours, tune(2047, 131_072, 60));
        assert_eq!(
            (
                agreed.channel_max,
                agreed.frame_max,
                agreed.heartbeat.as_secs()
            ),
            (2047, 131_072, 15)
        );
        let agreed = opened(&ours, tune(0, 0, 0));
        assert_eq!(
            (
                agreed.channel_max,
                agreed.frame_max,
                agreed.heartbeat.as_secs()
            ),
            (65_535, 131_072, 15)
        );
        let agreed = opened(&ours, tune(10, 4096, 3));
        assert_eq!(
            (
                agreed.channel_max,
                agreed.frame_max,
                agreed.heartbeat.as_secs()
            ),
            (10, 4096, 3)
        );
        let off = ConnectOptions {
            heartbeat: Duration::ZERO,
            ..ours
        };
        assert_eq!(opened(&off, tune(0, 0, 60)).heartbeat, Duration::ZERO);
    }

    #[test]
    fn a_refusal_says_what_was_refused() {
        let options = ConnectOptions::default();
        let mut out = Vec::new();
        let at_tune = || Handshake::Tune {
            mechanism: Mechanism::Plain,
            server_properties: FieldTable::default(),
        };
        let at_open = || Handshake::Open {
            negotiated: opened(&options, tune(0, 0, 0)),
        };
        let error = at_tune().step(close(403), &options, &mut out).unwrap_err();
        assert!(matches!(error, Error::LoginRefused(_)) && !error.is_retryable());
        let error = at_open().step(close(530), &options, &mut out).unwrap_err();
        assert!(matches!(error, Error::VhostRefused { .. }) && !error.is_retryable());
        let error = at_open().step(close(320), &options, &mut out).unwrap_err();
        assert!(matches!(error, Error::ConnectionClosed(_)) && error.is_retryable());
        let error = Handshake::Start
            .step(start("EXTERNAL"), &options, &mut out)
            .unwrap_err();
        assert!(error.to_string().contains("only: EXTERNAL"), "{error}");
        let error = Handshake::Start
            .step(tune(0, 0, 0), &options, &mut out)
            .unwrap_err();
        assert!(matches!(error, Error::Protocol { code: 503, .. }));
    }

    #[test]
    fn the_first_login_that_the_server_offers_is_used() {
        let options = ConnectOptions {
            mechanisms: vec![Mechanism::External, Mechanism::AmqPlain, Mechanism::Plain],
            ..ConnectOptions::default()
        };
        let chosen = |offered| {
            let mut out = Vec::new();
            match Handshake::Start.step(start(offered), &options, &mut out) {
                Ok(Err(Handshake::Tune { mechanism, .. })) => mechanism,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(chosen("PLAIN AMQPLAIN"), Mechanism::AmqPlain);
        assert_eq!(chosen("PLAIN external"), Mechanism::External);
        let error = Handshake::Start
            .step(start("GSSAPI"), &options, &mut Vec::new())
            .unwrap_err();
        assert!(error.to_string().contains("PLAIN, only: GSSAPI"), "{error}");
        // RabbitMQ hangs up on it without a word.
        let split = ConnectOptions {
            user: "a\0b".into(),
            ..ConnectOptions::default()
        };
        let step = Handshake::Start.step(start("PLAIN"), &split, &mut Vec::new());
        assert!(matches!(step, Err(Error::Options(_))), "{step:?}");
    }

    #[test]
    fn more_properties_are_sent_beside_our_own() {
        let options = ConnectOptions::default().named("n").brings_results();
        let table = client_properties(&options);
        let of = |name: &str| table.inner().get(name).cloned();
        assert_eq!(
            of("olive-role"),
            Some(AMQPValue::LongString("results".into()))
        );
        assert!(of("product").is_some() && of("connection_name").is_some());
        let table = client_properties(&ConnectOptions::default());
        assert_eq!(table.inner().get("olive-role"), None);
    }
}
