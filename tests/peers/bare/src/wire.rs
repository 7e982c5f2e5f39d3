//! One blocking connection around the codec.

use crate::measure::Job;
use amqp::codec::{Frame, Method, encode, parse_frame};
use amqp::protocol::{AMQPClass, FieldTable, basic, channel, connection, queue};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const FRAME_MAX: u32 = 131_072;

/// A connection with channel 1 open.
pub(crate) struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    start: usize,
    end: usize,
    pub(crate) out: Vec<u8>,
    pub(crate) frame_max: u32,
}

impl Wire {
    pub(crate) fn flush(&mut self) {
        self.stream.write_all(&self.out).expect("written");
        self.out.clear();
    }

    pub(crate) fn send(&mut self, id: u16, class: AMQPClass) {
        encode::method(&mut self.out, id, &class);
        self.flush();
    }

    /// Reads once more and gives every whole frame to `each`.
    pub(crate) fn read(&mut self, mut each: impl FnMut(Frame<'_>, &mut Vec<u8>)) {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let count = self.stream.read(&mut self.input[self.end..]).expect("read");
        assert!(count > 0, "the server hung up");
        self.end += count;
        while let Some((frame, len)) =
            parse_frame(&self.input[self.start..self.end], FRAME_MAX).expect("a good frame")
        {
            self.start += len;
            each(frame, &mut self.out);
        }
    }

    /// Waits for one method that is none of the hot ones.
    pub(crate) fn answer(&mut self) {
        let mut answered = false;
        while !answered {
            self.read(|frame, _| answered |= matches!(frame, Frame::Method(_, Method::Other(_))));
        }
    }

    pub(crate) fn connect(job: &Job) -> Wire {
        let stream = TcpStream::connect((job.host.as_str(), job.port)).expect("connects");
        stream.set_nodelay(true).expect("nodelay");
        // A server that falls silent fails the run instead of holding it up for ever.
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).expect("a timeout");
        let mut wire = Wire {
            stream,
            input: vec![0; 2 * FRAME_MAX as usize],
            start: 0,
            end: 0,
            out: Vec::new(),
            frame_max: FRAME_MAX,
        };
        wire.out.extend_from_slice(&amqp::protocol::PROTOCOL_HEADER);
        wire.flush();
        wire.answer();
        let start_ok = connection::StartOk {
            client_properties: FieldTable::default(),
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: "en_US".into(),
        };
        wire.send(
            0,
            AMQPClass::Connection(connection::AMQPMethod::StartOk(start_ok)),
        );
        let mut wish = None;
        while wish.is_none() {
            wire.read(|frame, _| wish = frame_max_of(&frame));
        }
        wire.frame_max = wish.map_or(FRAME_MAX, |wish| wish.min(FRAME_MAX));
        let tune = connection::TuneOk {
            channel_max: 2047,
            frame_max: wire.frame_max,
            heartbeat: 0,
        };
        wire.send(
            0,
            AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune)),
        );
        let open = connection::Open {
            virtual_host: "/".into(),
        };
        wire.send(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)));
        wire.answer();
        wire.send(
            1,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        );
        wire.answer();
        wire
    }

    pub(crate) fn barrier(&mut self, job: &Job) {
        let declare = queue::Declare {
            queue: job.queue.as_str().into(),
            passive: true,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        self.send(1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
        self.answer();
    }

    pub(crate) fn consume(&mut self, job: &Job, no_ack: bool) {
        let consume = basic::Consume {
            queue: job.queue.as_str().into(),
            consumer_tag: "c".into(),
            no_local: false,
            no_ack,
            exclusive: false,
            nowait: true,
            arguments: FieldTable::default(),
        };
        self.send(1, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
    }
}

/// What a server wishes in its Tune.
fn frame_max_of(frame: &Frame<'_>) -> Option<u32> {
    match frame {
        Frame::Method(0, Method::Other(class)) => match &**class {
            AMQPClass::Connection(connection::AMQPMethod::Tune(tune)) => Some(tune.frame_max),
            _ => None,
        },
        _ => None,
    }
}
