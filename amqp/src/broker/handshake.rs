//! Start, Tune, Open: from the protocol header to an open connection (AMQP 0-9-1 §2.2.4).

use super::fault::Fault;
use super::peer::{Peer, Phase};
use super::world::World;
use crate::options::{ROLE, ROLE_RESULTS};
use crate::protocol::connection::{AMQPMethod as Connection, OpenOk, Start, StartOk, Tune, TuneOk};
use crate::protocol::{AMQPClass, AMQPValue, FRAME_MIN_SIZE, FieldTable, reply};
use std::time::Duration;

/// Which answer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    StartOk,
    TuneOk,
    Open,
}

/// What we say we can do. Each of these has a test; what we cannot do is not listed.
const CAPABILITIES: [&str; 7] = [
    "publisher_confirms",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// The protocol header was right: says who we are.
pub(crate) fn start(peer: &mut Peer) {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut capabilities = FieldTable::default();
    for name in CAPABILITIES {
        capabilities.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut server_properties = FieldTable::default();
    let mut say = |name: &str, value| {
        server_properties.insert(name.into(), value);
    };
    say("capabilities", AMQPValue::FieldTable(capabilities));
    say("product", text("olive"));
    say("version", text(env!("CARGO_PKG_VERSION")));
    say("platform", text("Rust"));
    say(
        "information",
        text("olive's embedded broker: one node, one virtual host"),
    );
    let start = Start {
        version_major: 0,
        version_minor: 9,
        server_properties,
        mechanisms: "PLAIN AMQPLAIN".into(),
        locales: "en_US".into(),
    };
    peer.say(0, AMQPClass::Connection(Connection::Start(start)));
    peer.phase = Phase::Handshake(Step::StartOk);
}

/// Takes one answer and goes on to the next step.
pub(crate) fn answer(
    peer: &mut Peer,
    step: Step,
    method: AMQPClass,
    world: &mut World,
) -> Result<(), Fault> {
    match (step, method) {
        (Step::StartOk, AMQPClass::Connection(Connection::StartOk(ok))) => {
            if !log_in(peer, &ok, world)? {
                return Ok(());
            }
            let tune = Tune {
                channel_max: peer.terms.channel_max,
                frame_max: peer.terms.frame_max,
                heartbeat: u16::try_from(world.config.heartbeat.as_secs()).unwrap_or(u16::MAX),
            };
            peer.say(0, AMQPClass::Connection(Connection::Tune(tune)));
            peer.phase = Phase::Handshake(Step::TuneOk);
        }
        (Step::TuneOk, AMQPClass::Connection(Connection::TuneOk(ok))) => {
            tune(peer, &ok)?;
            peer.phase = Phase::Handshake(Step::Open);
        }
        (Step::Open, AMQPClass::Connection(Connection::Open(open))) => {
            if open.virtual_host.as_str() != "/" {
                let text = format!("vhost {} not found", open.virtual_host);
                return Err(Fault::not_allowed(text).in_method(10, 40));
            }
            peer.say(0, AMQPClass::Connection(Connection::OpenOk(OpenOk {})));
            peer.phase = Phase::Running;
        }
        (_, AMQPClass::Connection(Connection::Close(_))) => {
            let ok = crate::protocol::connection::CloseOk {};
            peer.say(0, AMQPClass::Connection(Connection::CloseOk(ok)));
            peer.phase = Phase::Closed;
        }
        _ => {
            return Err(Fault::command_invalid(
                "not the answer that is due in the handshake",
            ));
        }
    }
    Ok(())
}

/// Checks the credentials. `false`: refused, and the connection ends without a Close.
fn log_in(peer: &mut Peer, ok: &StartOk, world: &World) -> Result<bool, Fault> {
    let capabilities = match ok.client_properties.inner().get("capabilities") {
        Some(AMQPValue::FieldTable(table)) => table.clone(),
        _ => FieldTable::default(),
    };
    let knows = |name: &str| capabilities.inner().get(name) == Some(&AMQPValue::Boolean(true));
    peer.terms.knows_cancel = knows("consumer_cancel_notify");
    peer.terms.knows_blocked = knows("connection.blocked");
    peer.terms.brings_results = matches!(
        ok.client_properties.inner().get(ROLE),
        Some(AMQPValue::LongString(role)) if role.as_bytes() == ROLE_RESULTS.as_bytes()
    );
    peer.terms.knows_login_close = knows("authentication_failure_close");

    let mechanism = ok.mechanism.as_str();
    let response = ok.response.as_bytes();
    let credentials = match mechanism {
        "PLAIN" => plain(response),
        "AMQPLAIN" => amqplain(response),
        _ => {
            let text = format!("authentication mechanism {mechanism} is not offered");
            return Err(Fault::new(reply::NOT_ALLOWED, text).in_method(10, 11));
        }
    };
    let Some((user, password)) = credentials else {
        let text = format!("malformed {mechanism} response");
        return Err(Fault::new(reply::SYNTAX_ERROR, text).in_method(10, 11));
    };
    if world.config.admits(user, password, peer.terms.is_loopback) {
        peer.terms.user = String::from_utf8_lossy(user).into_owned();
        return Ok(true);
    }
    let hint = match user == b"guest" && !peer.terms.is_loopback {
        true => " (guest may come from loopback only)",
        false => "",
    };
    let text = format!("Login was refused using authentication mechanism {mechanism}{hint}");
    if !peer.terms.knows_login_close {
        // Before this capability existed, the end of the connection was the only sign (§2.2.4); clients without
        // it do not expect a Close here.
        log::warn!("{text}");
        peer.phase = Phase::Closed;
        peer.out.seal();
        return Ok(false);
    }
    Err(Fault::access_refused(text))
}

/// RFC 4616: authorisation id, user, password, each preceded by a zero byte. Authorisation id is ignored.
fn plain(response: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = response.splitn(3, |&byte| byte == 0);
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    Some((user, password))
}

/// A table without its length, holding the long strings LOGIN and PASSWORD.
fn amqplain(mut response: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut login, mut password) = (None, None);
    while let Some((&len, rest)) = response.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(len))?;
        let rest = rest.strip_prefix(b"S")?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        match name {
            b"LOGIN" => login = Some(value),
            b"PASSWORD" => password = Some(value),
            _ => {}
        }
        response = rest;
    }
    Some((login?, password?))
}

/// The client's answer to Tune may lower what we offered; 0 means that it sets no limit of its own.
fn tune(peer: &mut Peer, ok: &TuneOk) -> Result<(), Fault> {
    let terms = &mut peer.terms;
    let refuse = |what: &str, theirs: u64, ours: u64| {
        let text = format!("negotiated {what} = {theirs} is not within what was offered ({ours})");
        Err(Fault::not_allowed(text).in_method(10, 31))
    };
    match ok.frame_max {
        0 => {}
        max if max > terms.frame_max || max < FRAME_MIN_SIZE => {
            return refuse("frame_max", max.into(), terms.frame_max.into());
        }
        max => terms.frame_max = max,
    }
    match ok.channel_max {
        0 => {}
        max if max > terms.channel_max => {
            return refuse("channel_max", max.into(), terms.channel_max.into());
        }
        max => terms.channel_max = max,
    }
    terms.heartbeat = Duration::from_secs(ok.heartbeat.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_in_both_forms() {
        let user: &[u8] = b"ann";
        assert_eq!(plain(b"\0ann\0pass"), Some((user, &b"pass"[..])));
        assert_eq!(plain(b"x\0ann\0"), Some((user, &b""[..])));
        assert_eq!(plain(b"\0ann"), None);
        let response = b"\x05LOGINS\0\0\0\x03ann\x08PASSWORDS\0\0\0\x04pass";
        assert_eq!(amqplain(response), Some((user, &b"pass"[..])));
        for end in 0..response.len() {
            assert_eq!(amqplain(&response[..end]), None);
        }
        assert_eq!(amqplain(b"\x05LOGINS\xff\xff\xff\xffann"), None);
    }
}
