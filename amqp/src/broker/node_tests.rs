//! The whole broker without a socket: what goes in, what comes out, turn by turn.

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

/// A slow disk: the confirm of a persistent message waits for its batch, those behind it wait too, and deliveries
/// do not.
#[test]
fn the_ticket_releases_the_confirms() {
    let mut node = node(true);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    client.select_confirms(&mut node);
    client.consume(&mut node, "q", 0);
    client.drop_output(&mut node);

    client.publish(&mut node, "q", b"transient", false);
    client.publish(&mut node, "q", b"one", true);
    let (first, batch) = node.turn().expect("a batch");
    assert_eq!(batch.len(), 1, "only the persistent one is stored");
    node.confirm();
    client.publish(&mut node, "q", b"two", true);
    client.publish(&mut node, "nowhere", b"unroutable", true);
    let (second, _) = node.turn().expect("a batch");
    node.confirm();
    let frames = client.take(&mut node);
    let acks = |frames: &[Out]| -> Vec<Out> {
        let acks = frames
            .iter()
            .filter(|out| matches!(out, Out::Ack(..) | Out::Nack(_)));
        acks.cloned().collect()
    };
    assert_eq!(acks(&frames), [Out::Ack(1, false)]);
    assert_eq!(
        frames
            .iter()
            .filter(|out| matches!(out, Out::Deliver { .. }))
            .count(),
        3
    );

    node.stored(first, Outcome::default());
    node.confirm();
    assert_eq!(acks(&client.take(&mut node)), [Out::Ack(2, false)]);
    node.stored(second, Outcome::default());
    node.confirm();
    assert_eq!(acks(&client.take(&mut node)), [Out::Ack(4, true)]);
}

/// An operation the store refuses takes nothing else of its batch with it: its publish is nacked, the message
/// disappears, the others are confirmed.
#[test]
fn a_refused_message_is_nacked_alone() {
    let mut node = node(true);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    client.select_confirms(&mut node);
    client.drop_output(&mut node);
    for body in ["one", "two", "three"] {
        client.publish(&mut node, "q", body.as_bytes(), true);
    }
    let (number, mut batch) = node.turn().expect("a batch");
    let refused = vec![(batch.remove(1), "too large".to_owned())];
    node.stored(number, Outcome { refused });
    node.confirm();
    let expected = [Out::Ack(1, false), Out::Nack(2), Out::Ack(3, false)];
    assert_eq!(client.take(&mut node), expected);
    client.consume(&mut node, "q", 0);
    turn(&mut node);
    assert_eq!(client.take_bodies(&mut node), ["one", "three"]);
}

/// What is stored is settled in the store once it is acknowledged, purged or deleted.
#[test]
fn what_leaves_a_queue_leaves_the_store() {
    let mut node = node(true);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    client.consume(&mut node, "q", 1);
    client.publish(&mut node, "q", b"one", true);
    client.publish(&mut node, "q", b"two", true);
    node.turn();
    client.ack(&mut node, 1);
    let (_, batch) = node.turn().expect("a batch");
    assert!(
        matches!(batch[..], [Op::Settle { position: 0, .. }]),
        "{batch:?}"
    );
    let delete = queue::Delete {
        queue: "q".into(),
        ..queue::Delete::default()
    };
    client.call(
        &mut node,
        AMQPClass::Queue(queue::AMQPMethod::Delete(delete)),
    );
    let (_, batch) = node.turn().expect("a batch");
    assert!(matches!(batch[..], [Op::DeleteQueue { .. }]), "{batch:?}");
    assert_eq!(
        node.world.memory,
        node.peers.get(client.key).map_or(0, unsettled)
    );
}

/// Bytes that a peer's unsettled deliveries count for.
fn unsettled(peer: &Peer) -> u64 {
    peer.channels().map(|channel| channel.ledger.bytes()).sum()
}

/// Two consumers get messages in turn; what one gives back goes to its original place, marked.
#[test]
fn consumers_take_turns_and_requeued_messages_keep_their_place() {
    let mut node = node(false);
    let (one, two) = (Client::open(&mut node), Client::open(&mut node));
    one.declare(&mut node, "q");
    one.consume(&mut node, "q", 3);
    two.consume(&mut node, "q", 3);
    one.drop_output(&mut node);
    two.drop_output(&mut node);
    for body in 0..10 {
        one.publish(&mut node, "q", body.to_string().as_bytes(), false);
    }
    turn(&mut node);
    assert_eq!(one.take_bodies(&mut node), ["0", "2", "4"]);
    assert_eq!(two.take_bodies(&mut node), ["1", "3", "5"]);
    node.disconnect(two.key);
    one.nack(&mut node, 2, false);
    turn(&mut node);
    assert_eq!(
        one.take(&mut node)[0],
        Out::Deliver {
            channel: 1,
            tag: 4,
            redelivered: true
        }
    );
    one.nack(&mut node, 0, true);
    turn(&mut node);
    assert_eq!(one.take_bodies(&mut node), ["0", "1", "2"]);
    for tag in 5..=7 {
        one.ack(&mut node, tag);
    }
    turn(&mut node);
    assert_eq!(one.take_bodies(&mut node), ["3", "4", "5"]);
    for tag in 8..=10 {
        one.ack(&mut node, tag);
    }
    turn(&mut node);
    let frames = one.take(&mut node);
    assert_eq!(
        frames[0],
        Out::Deliver {
            channel: 1,
            tag: 11,
            redelivered: false
        }
    );
}

/// A client that does not read gets no more than the bound plus one message, and goes on when it reads.
#[test]
fn a_slow_consumer_is_bounded() {
    let config = Config {
        write_buffer_max: 10_000,
        ..Config::default()
    };
    let mut node = Node::new(config, false);
    let (slow, fast) = (Client::open(&mut node), Client::open(&mut node));
    slow.declare(&mut node, "q");
    slow.consume(&mut node, "q", 0);
    for _ in 0..100 {
        fast.publish(&mut node, "q", &[b'x'; 1000], false);
        turn(&mut node);
    }
    let waiting = node.out(slow.key).unwrap().len();
    assert!((10_000..12_000).contains(&waiting), "{waiting}");
    let mut count = 0;
    while node.message_count()
        > node
            .peers
            .get(slow.key)
            .map_or(0, |p| p.channels().map(|c| c.ledger.len()).sum::<usize>())
    {
        count += slow.take_bodies(&mut node).len();
        turn(&mut node);
    }
    count += slow.take_bodies(&mut node).len();
    assert_eq!(count, 100);
}

/// Over the memory mark, connections that publish are held back and told so; others are not; below it, they go on.
#[test]
fn memory_has_a_mark() {
    let config = Config {
        memory_high_water: 10_000,
        ..Config::default()
    };
    let mut node = Node::new(config, false);
    let (publisher, consumer) = (Client::open(&mut node), Client::open(&mut node));
    publisher.declare(&mut node, "q");
    publisher.drop_output(&mut node);
    for _ in 0..12 {
        publisher.publish(&mut node, "q", &[b'x'; 1000], false);
    }
    turn(&mut node);
    assert!(!node.takes_input(publisher.key));
    assert!(node.takes_input(consumer.key));
    let is_blocked = |out: &Out| {
        let Out::Other(0, AMQPClass::Connection(method)) = out else {
            return None;
        };
        Some(matches!(method, connection::AMQPMethod::Blocked(_)))
    };
    assert_eq!(is_blocked(&publisher.take(&mut node)[0]), Some(true));
    consumer.consume(&mut node, "q", 0);
    turn(&mut node);
    for tag in 1..=12 {
        consumer.ack(&mut node, tag);
    }
    turn(&mut node);
    assert!(node.takes_input(publisher.key));
    assert_eq!(is_blocked(&publisher.take(&mut node)[0]), Some(false));
    assert_eq!(node.world.memory, 0);
}

/// The worker acks a job once its result is taken. Results pass the first mark, so that acks can bring memory down
/// and the producer is read again; a second mark bounds them.
#[test]
fn results_pass_the_memory_mark_up_to_a_second_one() {
    let config = Config {
        memory_high_water: 10_000,
        ..Config::default()
    };
    let mut node = Node::new(config, false);
    let (producer, worker) = (Client::open(&mut node), Client::open(&mut node));
    let results = Client::open_with(&mut node, Some("results"), 4096);
    let other = Client::open_with(&mut node, Some("something else"), 4096);
    producer.declare(&mut node, "jobs");
    producer.declare(&mut node, "replies");
    worker.consume(&mut node, "jobs", 0);
    // Everyone publishes, so everyone could be held back.
    for client in [&producer, &results, &other] {
        client.publish(&mut node, "replies", b"", false);
    }
    for _ in 0..9 {
        producer.publish(&mut node, "jobs", &[b'x'; 1000], false);
    }
    turn(&mut node);
    let read = |node: &Node| [&producer, &other, &results].map(|c| node.takes_input(c.key));
    assert_eq!(read(&node), [false, false, true]);
    results.drop_output(&mut node);

    // Results go on; with each a job is acked.
    for tag in 1..=3 {
        results.publish(&mut node, "replies", b"small", false);
        turn(&mut node);
        assert_eq!(read(&node), [false, false, true]);
        worker.ack(&mut node, tag);
        turn(&mut node);
    }
    assert_eq!(read(&node), [true; 3]);
    assert_eq!(results.take(&mut node), [], "it was never told to stop");

    // Results that nobody consumes come to their own bound.
    for _ in 0..5 {
        assert!(node.takes_input(results.key));
        results.publish(&mut node, "replies", &[b'x'; 1000], false);
        turn(&mut node);
    }
    assert!(node.world.memory > 12_500);
    assert_eq!(read(&node), [false; 3]);
    let told = results.take(&mut node);
    let [Out::Other(0, AMQPClass::Connection(connection::AMQPMethod::Blocked(_)))] = &told[..]
    else {
        panic!("{told:?}");
    };
    // Back at the first mark the results go on, and the producer later.
    for tag in 4..=7 {
        worker.ack(&mut node, tag);
    }
    turn(&mut node);
    assert!((8000..=10_000).contains(&node.world.memory));
    assert_eq!(read(&node), [false, false, true]);
    for tag in 8..=9 {
        worker.ack(&mut node, tag);
    }
    turn(&mut node);
    assert_eq!(read(&node), [true; 3]);
}

/// Properties cannot be cut into frames: a consumer whose frames are too small for them loses its channel, and the
/// message waits for one who can take it.
#[test]
fn properties_over_the_consumers_frame_max_are_not_sent() {
    let mut node = node(false);
    let large = Client::open_with(&mut node, None, 100_000);
    let (small, getter) = (Client::open(&mut node), Client::open(&mut node));
    large.declare(&mut node, "q");
    small.consume(&mut node, "q", 0);
    small.drop_output(&mut node);
    large.publish(&mut node, "q", b"first", false);
    let mut headers = FieldTable::default();
    let text = crate::protocol::AMQPValue::LongString("x".repeat(5000).into());
    headers.insert("h".into(), text);
    let properties = RawProperties::from(BasicProperties::default().with_headers(headers));
    let publish = Publish {
        routing_key: "q",
        ..Publish::default()
    };
    let mut bytes = Vec::new();
    encode::publish(&mut bytes, 1, &publish, properties.as_wire(), b"big", 9000);
    large.send(&mut node, &bytes);
    turn(&mut node);
    let closed = |out: Vec<Out>| match out.last() {
        Some(Out::Other(1, AMQPClass::Channel(channel::AMQPMethod::Close(close)))) => {
            close.reply_code
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(closed(small.take(&mut node)), 406);
    assert_eq!(node.phase(small.key), Some(Phase::Running));
    assert_eq!(node.message_count(), 2);

    large.consume(&mut node, "q", 0);
    turn(&mut node);
    assert_eq!(large.take_bodies(&mut node), ["first", "big"]);
    node.disconnect(large.key);
    let get = basic::AMQPMethod::Get(basic::Get {
        queue: "q".into(),
        no_ack: true,
    });
    getter.call(&mut node, AMQPClass::Basic(get.clone()));
    assert!(matches!(getter.take(&mut node)[0], Out::GetOk(1)));
    getter.call(&mut node, AMQPClass::Basic(get));
    assert_eq!(closed(getter.take(&mut node)), 406);
    assert_eq!(node.message_count(), 1);
}

/// A peer that asks and never reads the answers is not listened to for ever.
#[test]
fn unread_answers_are_bounded() {
    let mut node = node(false);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    for _ in 0..8 {
        client.publish(&mut node, "q", &vec![b'x'; 1 << 20], false);
    }
    let get = basic::AMQPMethod::Get(basic::Get {
        queue: "q".into(),
        no_ack: true,
    });
    let mut bytes = Vec::new();
    for _ in 0..8 {
        encode::method(&mut bytes, 1, &AMQPClass::Basic(get.clone()));
    }
    let taken = node.receive(client.key, &bytes);
    assert!(taken < bytes.len());
    assert!(!node.takes_input(client.key));
    assert!(node.out(client.key).unwrap().len() < 6 << 20);
    client.drop_output(&mut node);
    assert_eq!(
        node.receive(client.key, &bytes[taken..]),
        bytes.len() - taken
    );
}

/// A message never waits for another channel's half message, and its bytes are counted while it grows.
#[test]
fn a_message_under_way_counts_and_is_forgotten_with_its_channel() {
    let mut node = node(false);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    let mut bytes = Vec::new();
    let publish = Publish {
        routing_key: "q",
        ..Publish::default()
    };
    encode::publish(&mut bytes, 1, &publish, &[0, 0], &[0; 10_000], 4096);
    node.receive(client.key, &bytes[..8200]);
    assert!(node.world.memory > 4000);
    node.disconnect(client.key);
    assert_eq!(node.world.memory, 0);
    assert_eq!(node.message_count(), 0);
}

/// `Origin` names who publishes, so a store that answers late cannot hit another connection in the same slot.
#[test]
fn a_late_refusal_does_not_hit_the_next_connection() {
    let mut node = node(true);
    let first = Client::open(&mut node);
    first.declare(&mut node, "q");
    first.select_confirms(&mut node);
    first.publish(&mut node, "q", b"one", true);
    let (number, mut batch) = node.turn().expect("a batch");
    node.disconnect(first.key);
    let second = Client::open(&mut node);
    second.select_confirms(&mut node);
    let op = batch.remove(0);
    let Op::Put {
        origin: Some(Origin { peer, .. }),
        ..
    } = op
    else {
        panic!("a put with an origin");
    };
    assert_ne!(Key::<Peer>::from_bits(peer), second.key);
    let refused = vec![(op, "full".to_owned())];
    node.stored(number, Outcome { refused });
    node.confirm();
    assert_eq!(second.take(&mut node), []);
}

/// A message past its time is not delivered, however it came to be at the front, and an unused queue goes.
#[test]
fn time_to_live_of_messages_and_queues() {
    let mut node = node(false);
    let client = Client::open(&mut node);
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-message-ttl".into(),
        crate::protocol::AMQPValue::LongInt(1000),
    );
    arguments.insert(
        "x-expires".into(),
        crate::protocol::AMQPValue::LongInt(5000),
    );
    let declare = queue::Declare {
        queue: "q".into(),
        arguments,
        ..queue::Declare::default()
    };
    client.call(
        &mut node,
        AMQPClass::Queue(queue::AMQPMethod::Declare(declare)),
    );
    client.publish(&mut node, "q", b"old", false);
    node.set_time(500);
    client.publish(&mut node, "q", b"young", false);
    node.set_time(1001);
    client.consume(&mut node, "q", 0);
    turn(&mut node);
    client.take_bodies(&mut node);
    client.nack(&mut node, 1, false);
    node.set_time(1501);
    turn(&mut node);
    assert_eq!(
        client.take(&mut node),
        [],
        "what came back had expired meanwhile"
    );
    assert_eq!(node.world.memory, 0);

    node.set_time(7000);
    node.sweep();
    assert!(
        node.world.vhost.queue_named("q").is_some(),
        "it has a consumer"
    );
    let cancel = basic::AMQPMethod::Cancel(basic::Cancel {
        consumer_tag: "c".into(),
        nowait: true,
    });
    client.call(&mut node, AMQPClass::Basic(cancel));
    node.set_time(12_000);
    node.sweep();
    assert!(node.world.vhost.queue_named("q").is_some());
    node.set_time(12_001);
    node.sweep();
    assert!(node.world.vhost.queue_named("q").is_none());
    assert!(!node.has_timed());
}
