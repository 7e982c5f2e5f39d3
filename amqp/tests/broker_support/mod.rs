//! A broker on a thread of its own, and a client that sends exactly what a test says.

#![allow(dead_code, reason = "each test file uses its part")]

use amqp::broker::{Broker, Config, MemoryStore};
use amqp::codec::{Frame, Method, encode, parse_frame};
use amqp::protocol::{AMQPClass, AMQPValue, FieldTable, PROTOCOL_HEADER, channel, connection};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a broker that runs until the test process ends.
pub fn start(change: impl FnOnce(&mut Config)) -> SocketAddr {
    let mut config = Config::on(([127, 0, 0, 1], 0).into());
    change(&mut config);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        kernel::run(async move {
            let broker = Broker::bind(config, MemoryStore::new()).await.unwrap();
            sender.send(broker.local_addr()).unwrap();
            broker.serve().await.unwrap();
        })
        .unwrap();
    });
    receiver.recv_timeout(PATIENCE).expect("the broker starts")
}

/// A frame that came, owned.
#[derive(Debug, Clone, PartialEq)]
pub enum Got {
    /// Tag, redelivered.
    Deliver(u64, bool),
    GetOk(u64, bool),
    Header(Vec<u8>),
    Body(Vec<u8>),
    Ack(u64, bool),
    Heartbeat,
    Method(u16, AMQPClass),
}

/// A socket to the broker.
pub struct Raw {
    pub socket: TcpStream,
    input: Vec<u8>,
}

impl Raw {
    /// Connects and sends nothing.
    pub fn connect(address: SocketAddr) -> Raw {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Raw {
            socket,
            input: Vec::new(),
        }
    }

    /// Connects, logs in as guest, opens channel 1.
    pub fn open(address: SocketAddr) -> Raw {
        let mut raw = Raw::connect(address);
        raw.log_in("PLAIN", b"\0guest\0guest", 0);
        raw.call(
            0,
            AMQPClass::Connection(connection::AMQPMethod::Open(connection::Open {
                virtual_host: "/".into(),
            })),
        );
        raw.call(
            1,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        );
        raw
    }

    /// The handshake up to Tune-Ok.
    pub fn log_in(&mut self, mechanism: &str, response: &[u8], heartbeat: u16) {
        self.send(&PROTOCOL_HEADER);
        let start = self.next().expect("Start");
        assert!(matches!(
            start,
            Got::Method(0, AMQPClass::Connection(connection::AMQPMethod::Start(_)))
        ));
        self.method(0, start_ok(mechanism, response));
        let tune_ok = connection::TuneOk {
            channel_max: 0,
            frame_max: 0,
            heartbeat,
        };
        self.method(
            0,
            AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok)),
        );
        assert!(matches!(
            self.next(),
            Some(Got::Method(
                0,
                AMQPClass::Connection(connection::AMQPMethod::Tune(_))
            ))
        ));
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub fn method(&mut self, channel: u16, method: AMQPClass) {
        let mut bytes = Vec::new();
        encode::method(&mut bytes, channel, &method);
        self.send(&bytes);
    }

    /// Sends a method and takes the answer.
    pub fn call(&mut self, channel: u16, method: AMQPClass) -> Got {
        self.method(channel, method);
        self.next().expect("an answer")
    }

    /// The next frame; `None`: the broker has closed the connection.
    pub fn next(&mut self) -> Option<Got> {
        loop {
            if let Some((frame, len)) = parse_frame(&self.input, 1 << 24).unwrap() {
                let got = owned(frame);
                self.input.drain(..len);
                return Some(got);
            }
            let mut bytes = [0; 4096];
            match self.socket.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                // A reset: the broker has closed while we were still sending.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came in {PATIENCE:?}: {error}"),
            }
        }
    }

    /// Reply code and scope of the Close that comes next.
    pub fn next_close(&mut self) -> Option<(Scope, u16)> {
        loop {
            match self.next()? {
                Got::Method(_, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
                    return Some((Scope::Connection, close.reply_code));
                }
                Got::Method(_, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                    return Some((Scope::Channel, close.reply_code));
                }
                _ => {}
            }
        }
    }
}

/// What a Close closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Channel,
    Connection,
}

pub fn start_ok(mechanism: &str, response: &[u8]) -> AMQPClass {
    let mut capabilities = FieldTable::default();
    for name in ["consumer_cancel_notify", "authentication_failure_close"] {
        capabilities.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut client_properties = FieldTable::default();
    client_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties,
        mechanism: mechanism.into(),
        response: response.into(),
        locale: "en_US".into(),
    }))
}

fn owned(frame: Frame<'_>) -> Got {
    match frame {
        Frame::Heartbeat => Got::Heartbeat,
        Frame::Header(_, header) => Got::Header(header.as_wire().to_vec()),
        Frame::Body(_, body) => Got::Body(body.to_vec()),
        Frame::Method(channel, method) => match method {
            Method::Deliver(deliver) => Got::Deliver(deliver.delivery_tag, deliver.redelivered),
            Method::GetOk(get_ok) => Got::GetOk(get_ok.delivery_tag, get_ok.redelivered),
            Method::Ack(ack) => Got::Ack(ack.delivery_tag, ack.multiple),
            Method::Other(class) => Got::Method(channel, *class),
            other => panic!("a server does not send {other:?}"),
        },
    }
}
