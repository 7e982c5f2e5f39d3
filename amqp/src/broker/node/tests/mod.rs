//! The whole broker without a socket: what goes in, what comes out, turn by turn.

mod bounds;
mod confirms;
mod delivery;

use super::*;
use crate::broker::store::Origin;
use crate::codec::{Deliver, Frame, Method, Publish, RawProperties, parse_frame};
use crate::protocol::{
    BasicProperties, FieldTable, PROTOCOL_HEADER, basic, channel, confirm, connection, queue,
};

/// A frame that came out, owned.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Out {
    Deliver {
        channel: u16,
        tag: u64,
        redelivered: bool,
    },
    GetOk(u64),
    Body(Vec<u8>),
    Header,
    Heartbeat,
    Ack(u64, bool),
    Nack(u64),
    Other(u16, AMQPClass),
}

/// One client of a node under test.
pub(super) struct Client {
    pub(super) key: Key<Peer>,
}

const ALL_CAPABILITIES: [&str; 3] = [
    "consumer_cancel_notify",
    "connection.blocked",
    "authentication_failure_close",
];

impl Client {
    /// Connects and goes through the handshake; channel 1 is open then.
    pub(super) fn open(node: &mut Node) -> Client {
        Self::open_with(node, None, 4096)
    }

    fn open_with(node: &mut Node, role: Option<&str>, frame_max: u32) -> Client {
        let client = Client {
            key: node.connect(true, "test".into()),
        };
        client.send(node, &handshake_as(role, frame_max));
        assert_eq!(node.phase(client.key), Some(Phase::Running));
        client.drop_output(node);
        client
    }

    fn send(&self, node: &mut Node, bytes: &[u8]) {
        assert_eq!(node.receive(self.key, bytes), bytes.len());
    }

    fn call(&self, node: &mut Node, method: AMQPClass) {
        let mut bytes = Vec::new();
        encode::method(&mut bytes, 1, &method);
        self.send(node, &bytes);
    }

    pub(super) fn publish(&self, node: &mut Node, key: &str, body: &[u8], persistent: bool) {
        let mut bytes = Vec::new();
        let properties = match persistent {
            true => BasicProperties::default().with_delivery_mode(2),
            false => BasicProperties::default(),
        };
        let publish = Publish {
            routing_key: key,
            ..Publish::default()
        };
        let properties = RawProperties::from(properties);
        encode::publish(&mut bytes, 1, &publish, properties.as_wire(), body, 4096);
        self.send(node, &bytes);
    }

    pub(super) fn declare(&self, node: &mut Node, name: &str) {
        let declare = queue::Declare {
            queue: name.into(),
            durable: true,
            ..queue::Declare::default()
        };
        self.call(node, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
    }

    pub(super) fn consume(&self, node: &mut Node, name: &str, prefetch_count: u16) {
        let qos = basic::Qos {
            prefetch_count,
            global: false,
        };
        self.call(node, AMQPClass::Basic(basic::AMQPMethod::Qos(qos)));
        let consume = basic::Consume {
            queue: name.into(),
            consumer_tag: "c".into(),
            nowait: true,
            ..basic::Consume::default()
        };
        self.call(node, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
    }

    fn select_confirms(&self, node: &mut Node) {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: true });
        self.call(node, AMQPClass::Confirm(select));
    }

    fn ack(&self, node: &mut Node, delivery_tag: u64) {
        let mut bytes = Vec::new();
        let ack = Ack {
            delivery_tag,
            multiple: false,
        };
        encode::ack(&mut bytes, 1, ack);
        self.send(node, &bytes);
    }

    fn nack(&self, node: &mut Node, delivery_tag: u64, multiple: bool) {
        let mut bytes = Vec::new();
        let nack = Nack {
            delivery_tag,
            multiple,
            requeue: true,
        };
        encode::nack(&mut bytes, 1, nack);
        self.send(node, &bytes);
    }

    pub(super) fn drop_output(&self, node: &mut Node) {
        if let Some(out) = node.out(self.key) {
            out.advance(out.len());
        }
        node.drained(self.key);
    }

    /// All frames that wait for this client, taken.
    pub(super) fn take(&self, node: &mut Node) -> Vec<Out> {
        let bytes = node.out(self.key).unwrap().pending().to_vec();
        self.drop_output(node);
        let (mut at, mut frames) = (0, Vec::new());
        while let Some((frame, len)) = parse_frame(&bytes[at..], 1 << 20).unwrap() {
            at += len;
            frames.push(owned(frame));
        }
        assert_eq!(at, bytes.len(), "only whole frames");
        frames
    }

    /// The bodies delivered.
    fn take_bodies(&self, node: &mut Node) -> Vec<String> {
        let bodies = self.take(node).into_iter().filter_map(|out| match out {
            Out::Body(body) => Some(String::from_utf8(body).unwrap()),
            _ => None,
        });
        bodies.collect()
    }
}

pub(super) fn handshake_bytes() -> Vec<u8> {
    handshake_as(None, 4096)
}

fn handshake_as(role: Option<&str>, frame_max: u32) -> Vec<u8> {
    let mut capabilities = FieldTable::default();
    for name in ALL_CAPABILITIES {
        capabilities.insert(name.into(), crate::protocol::AMQPValue::Boolean(true));
    }
    let mut client_properties = FieldTable::default();
    let capabilities = crate::protocol::AMQPValue::FieldTable(capabilities);
    client_properties.insert("capabilities".into(), capabilities);
    if let Some(role) = role {
        let role = crate::protocol::AMQPValue::LongString(role.into());
        client_properties.insert("olive-role".into(), role);
    }
    let mut bytes = PROTOCOL_HEADER.to_vec();
    let start_ok = connection::StartOk {
        client_properties,
        mechanism: "PLAIN".into(),
        response: "\0guest\0guest".into(),
        locale: "en_US".into(),
    };
    let tune_ok = connection::TuneOk {
        channel_max: 100,
        frame_max,
        heartbeat: 0,
    };
    let open = connection::Open {
        virtual_host: "/".into(),
    };
    for method in [
        connection::AMQPMethod::StartOk(start_ok),
        connection::AMQPMethod::TuneOk(tune_ok),
        connection::AMQPMethod::Open(open),
    ] {
        encode::method(&mut bytes, 0, &AMQPClass::Connection(method));
    }
    let open = channel::AMQPMethod::Open(channel::Open {});
    encode::method(&mut bytes, 1, &AMQPClass::Channel(open));
    bytes
}

fn owned(frame: Frame<'_>) -> Out {
    match frame {
        Frame::Heartbeat => Out::Heartbeat,
        Frame::Header(..) => Out::Header,
        Frame::Body(_, body) => Out::Body(body.to_vec()),
        Frame::Method(channel, method) => match method {
            Method::Deliver(Deliver {
                delivery_tag: tag,
                redelivered,
                ..
            }) => Out::Deliver {
                channel,
                tag,
                redelivered,
            },
            Method::GetOk(get_ok) => Out::GetOk(get_ok.delivery_tag),
            Method::Ack(ack) => Out::Ack(ack.delivery_tag, ack.multiple),
            Method::Nack(nack) => Out::Nack(nack.delivery_tag),
            Method::Other(class) => Out::Other(channel, *class),
            other => panic!("a server does not send {other:?}"),
        },
    }
}

pub(super) fn node(is_lasting: bool) -> Node {
    Node::new(Config::default(), is_lasting)
}

/// A turn with a store that is done at once.
pub(super) fn turn(node: &mut Node) {
    if let Some((number, _)) = node.turn() {
        node.stored(number, Outcome::default());
    }
    node.confirm();
}
