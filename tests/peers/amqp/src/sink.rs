//! The scripted server: it swallows publishes, confirms them, and blasts deliveries as prefetch allows.
//!
//! A consumer of queue `blast-COUNT-SIZE` gets that many messages of that size. Everything else is answered just as
//! far as the clients here ask.

use amqp::codec::{Ack, Deliver, Frame, Method, encode, parse_frame};
use amqp::protocol::{AMQPClass, FieldTable, basic, channel, confirm, connection, queue};
use basic::AMQPMethod as Basic;
use connection::AMQPMethod as Connection;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const FRAME_MAX: u32 = 131_072;

/// Serves one connection after the other, each in a thread; prints the port first.
pub fn run() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    println!("{}", listener.local_addr().expect("bound").port());
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(stream));
    }
}

#[derive(Default)]
struct Peer {
    out: Vec<u8>,
    confirms: bool,
    published: u64,
    told: u64,
    prefetch: u64,
    /// Tag and channel of the consumer.
    consumer: Option<(String, u16)>,
    left: u64,
    body: Vec<u8>,
    delivered: u64,
    acked: u64,
}

fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut input = vec![0; 4 * FRAME_MAX as usize];
    let (mut start, mut end) = (0, 0);
    let mut greeting = [0; 8];
    if stream.read_exact(&mut greeting).is_err() {
        return;
    }
    let mut peer = Peer::default();
    let hello = connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: FieldTable::default(),
        mechanisms: "PLAIN AMQPLAIN".into(),
        locales: "en_US".into(),
    };
    peer.say(0, AMQPClass::Connection(Connection::Start(hello)));
    loop {
        if stream.write_all(&peer.out).is_err() {
            return;
        }
        peer.out.clear();
        if start > 0 {
            input.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
        match stream.read(&mut input[end..]) {
            Ok(0) | Err(_) => return,
            Ok(count) => end += count,
        }
        while let Some((frame, len)) =
            parse_frame(&input[start..end], FRAME_MAX).expect("clients send good frames")
        {
            start += len;
            peer.on_frame(frame);
        }
        peer.after_read();
    }
}

impl Peer {
    fn say(&mut self, id: u16, class: AMQPClass) {
        encode::method(&mut self.out, id, &class);
    }

    fn on_frame(&mut self, frame: Frame<'_>) {
        match frame {
            Frame::Method(_, Method::Publish(_)) => self.published += 1,
            Frame::Method(_, Method::Ack(ack)) if ack.multiple => {
                self.acked = self.acked.max(ack.delivery_tag)
            }
            // Counted, whatever the order: the window stays as wide as the prefetch.
            Frame::Method(_, Method::Ack(_)) => self.acked += 1,
            Frame::Method(id, Method::Other(class)) => self.on_other(id, *class),
            _ => {}
        }
    }

    fn after_read(&mut self) {
        if self.confirms && self.published > self.told {
            self.told = self.published;
            encode::ack(
                &mut self.out,
                1,
                Ack {
                    delivery_tag: self.published,
                    multiple: true,
                },
            );
        }
        let Some((consumer_tag, id)) = &self.consumer else {
            return;
        };
        while self.left > 0 && self.delivered - self.acked < self.prefetch {
            self.left -= 1;
            self.delivered += 1;
            let deliver = Deliver {
                consumer_tag,
                delivery_tag: self.delivered,
                redelivered: false,
                exchange: "",
                routing_key: "blast",
            };
            encode::deliver(&mut self.out, *id, &deliver);
            encode::content(&mut self.out, *id, &[0, 0], &self.body, FRAME_MAX);
        }
    }

    fn on_other(&mut self, id: u16, class: AMQPClass) {
        let answer = match class {
            AMQPClass::Connection(Connection::StartOk(_)) => {
                let tune = connection::Tune {
                    channel_max: 2047,
                    frame_max: FRAME_MAX,
                    heartbeat: 60,
                };
                AMQPClass::Connection(Connection::Tune(tune))
            }
            AMQPClass::Connection(Connection::Open(_)) => {
                AMQPClass::Connection(Connection::OpenOk(connection::OpenOk {}))
            }
            AMQPClass::Connection(Connection::Close(_)) => {
                AMQPClass::Connection(Connection::CloseOk(connection::CloseOk {}))
            }
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
                AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
            }
            AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => {
                let ok = queue::DeclareOk {
                    queue: declare.queue,
                    message_count: 0,
                    consumer_count: 0,
                };
                AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))
            }
            AMQPClass::Basic(Basic::Qos(qos)) => {
                self.prefetch = u64::from(qos.prefetch_count);
                AMQPClass::Basic(Basic::QosOk(basic::QosOk {}))
            }
            AMQPClass::Basic(Basic::Consume(consume)) => {
                let name = consume.queue.to_string();
                let mut numbers = name
                    .split('-')
                    .skip(1)
                    .map(|text| text.parse::<u64>().expect("blast-COUNT-SIZE"));
                self.left = numbers.next().expect("a count");
                self.body = vec![b'x'; numbers.next().expect("a size") as usize];
                let tag = if consume.consumer_tag.as_str().is_empty() {
                    "made-up"
                } else {
                    consume.consumer_tag.as_str()
                };
                self.consumer = Some((tag.to_owned(), id));
                if consume.nowait {
                    return;
                }
                AMQPClass::Basic(Basic::ConsumeOk(basic::ConsumeOk {
                    consumer_tag: tag.into(),
                }))
            }
            AMQPClass::Basic(Basic::Cancel(cancel)) => {
                AMQPClass::Basic(Basic::CancelOk(basic::CancelOk {
                    consumer_tag: cancel.consumer_tag,
                }))
            }
            AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => {
                self.confirms = true;
                AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
            }
            _ => return,
        };
        self.say(id, answer);
    }
}
