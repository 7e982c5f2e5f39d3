//! The core against a scripted server: bytes in, bytes out, no socket.

mod bounds;
mod delivery;
mod ends;
mod pieces;
mod refusals;

use super::*;
use crate::codec::{Deliver, Frame, Method, RawProperties, encode, parse_frame};
use crate::error::{Error, PublishError};
use crate::options::ConnectOptions;
use crate::protocol::{
    AMQPClass, FieldTable, PROTOCOL_HEADER, basic, channel, confirm, connection,
};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The server's end: writes frames, reads what the core says.
pub(super) struct Script {
    pub(super) core: Rc<Core>,
    /// Frames for the core, not yet fed.
    pub(super) bytes: Vec<u8>,
}

pub(super) fn method(bytes: &mut Vec<u8>, id: u16, class: AMQPClass) {
    encode::method(bytes, id, &class);
}

pub(super) fn connection_method(method: connection::AMQPMethod) -> AMQPClass {
    AMQPClass::Connection(method)
}

impl Script {
    /// A server that has answered the greeting and the login.
    pub(super) fn opened() -> Self {
        Script::opened_with(ConnectOptions::default())
    }

    pub(super) fn opened_with(options: ConnectOptions) -> Self {
        let mut script = Script {
            core: Core::new(options),
            bytes: Vec::new(),
        };
        assert!(script.output().starts_with(&PROTOCOL_HEADER));
        script.login();
        script.feed();
        assert!(matches!(
            script.core.poll_open(Waker::noop()),
            Poll::Ready(Ok(()))
        ));
        script.output();
        script
    }

    pub(super) fn login(&mut self) {
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: FieldTable::default(),
            mechanisms: "PLAIN AMQPLAIN".into(),
            locales: "en_US".into(),
        };
        method(
            &mut self.bytes,
            0,
            connection_method(connection::AMQPMethod::Start(start)),
        );
        let tune = connection::Tune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        };
        method(
            &mut self.bytes,
            0,
            connection_method(connection::AMQPMethod::Tune(tune)),
        );
        method(
            &mut self.bytes,
            0,
            connection_method(connection::AMQPMethod::OpenOk(connection::OpenOk {})),
        );
    }

    /// Hands what is written to the core, one byte more at a time as a slow network would.
    pub(super) fn feed(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut start = 0;
        for end in 1..=bytes.len() {
            start += self.core.receive(&bytes[start..end]);
        }
    }

    pub(super) fn output(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.core.take_output(&mut out);
        out
    }

    /// What the core says, in short: `basic.ack 3*` and so on.
    pub(super) fn said(&self) -> Vec<String> {
        let out = self.output();
        let mut rest = &out[..];
        let mut said = Vec::new();
        while let Some((frame, len)) = parse_frame(rest, u32::MAX).expect("our own frames are good")
        {
            said.push(match frame {
                Frame::Method(_, Method::Ack(ack)) => {
                    format!(
                        "ack {}{}",
                        ack.delivery_tag,
                        if ack.multiple { "*" } else { "" }
                    )
                }
                Frame::Method(_, Method::Nack(nack)) => format!("nack {}", nack.delivery_tag),
                Frame::Method(_, Method::Reject(reject)) => {
                    format!("reject {}", reject.delivery_tag)
                }
                Frame::Method(_, Method::Publish(_)) => "publish".into(),
                Frame::Method(_, Method::Other(class)) => match *class {
                    AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                        format!("close {}", close.reply_code)
                    }
                    other => format!(
                        "{}.{}",
                        other.get_amqp_class_id(),
                        other.get_amqp_method_id()
                    ),
                },
                Frame::Header(..) => "header".into(),
                Frame::Body(..) => "body".into(),
                other => format!("{other:?}"),
            });
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
        said
    }

    pub(super) fn open_channel(&mut self) -> Rc<Channel> {
        let (channel, call) = self.core.open_channel().unwrap();
        let open_ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
        method(&mut self.bytes, channel.id, AMQPClass::Channel(open_ok));
        self.feed();
        assert!(matches!(call.poll(Waker::noop()), Poll::Ready(Ok(_))));
        self.output();
        channel
    }

    pub(super) fn consume(&mut self, channel: &Channel) -> Rc<ConsumerState> {
        let (consumer, call) = channel.consume(&Consume::new("q").tag("t")).unwrap();
        let ok = basic::ConsumeOk {
            consumer_tag: "t".into(),
        };
        method(
            &mut self.bytes,
            channel.id,
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)),
        );
        self.feed();
        assert!(matches!(call.poll(Waker::noop()), Poll::Ready(Ok(_))));
        self.output();
        consumer
    }

    pub(super) fn confirms(&mut self, channel: &Channel) {
        let op = ops::confirm_select();
        channel.call(&op.method, op.what, op.expects).unwrap();
        let ok = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
        method(&mut self.bytes, channel.id, AMQPClass::Confirm(ok));
        self.feed();
        assert!(channel.has_confirms());
        self.output();
    }

    pub(super) fn deliver(&mut self, tag: u64, body: &[u8]) {
        self.deliver_in_frames_of(4096, tag, body);
    }

    pub(super) fn deliver_in_frames_of(&mut self, frame_max: u32, tag: u64, body: &[u8]) {
        let deliver = Deliver {
            consumer_tag: "t",
            delivery_tag: tag,
            redelivered: false,
            exchange: "x",
            routing_key: "k",
        };
        encode::deliver(&mut self.bytes, 1, &deliver);
        encode::content(&mut self.bytes, 1, &[0, 0], body, frame_max);
    }

    /// Feeds what is written and expects the core to give up with this code, said in a Close.
    fn expect_close(mut self, code: u16) {
        self.feed();
        let error = self.core.closed().expect("the connection must end");
        assert_eq!(
            self.said().last(),
            Some(&format!("close {code}")),
            "{error}"
        );
    }
}
