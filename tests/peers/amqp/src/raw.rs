//! The floor: a bare blocking loop around the codec, without channels, errors, confirms' owners or heartbeats.

use crate::measure::{BATCH, Job, Stopwatch, WINDOW, report_round_trips};
use amqp::codec::{Ack, Frame, Method, Publish, encode, parse_frame};
use amqp::protocol::{AMQPClass, FieldTable, basic, channel, confirm, connection, queue};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

const FRAME_MAX: u32 = 131_072;

struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    start: usize,
    end: usize,
    out: Vec<u8>,
}

impl Wire {
    fn flush(&mut self) {
        self.stream.write_all(&self.out).expect("written");
        self.out.clear();
    }

    fn send(&mut self, id: u16, class: AMQPClass) {
        encode::method(&mut self.out, id, &class);
        self.flush();
    }

    /// Reads once more and gives every whole frame to `each`.
    fn read(&mut self, mut each: impl FnMut(Frame<'_>, &mut Vec<u8>)) {
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
    fn answer(&mut self) {
        let mut answered = false;
        while !answered {
            self.read(|frame, _| answered |= matches!(frame, Frame::Method(_, Method::Other(_))));
        }
    }

    fn connect(job: &Job) -> Wire {
        let stream = TcpStream::connect((job.host.as_str(), job.port)).expect("connects");
        stream.set_nodelay(true).expect("nodelay");
        let mut wire = Wire {
            stream,
            input: vec![0; 2 * FRAME_MAX as usize],
            start: 0,
            end: 0,
            out: Vec::new(),
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
        wire.answer();
        let tune = connection::TuneOk {
            channel_max: 2047,
            frame_max: FRAME_MAX,
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

    fn barrier(&mut self, job: &Job) {
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

    fn consume(&mut self, job: &Job, no_ack: bool) {
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

pub fn run(job: Job) {
    let wire = &mut Wire::connect(&job);
    let body = job.body();
    let publish = Publish {
        exchange: "",
        routing_key: &job.queue,
        mandatory: false,
        immediate: false,
    };
    match job.scenario.as_str() {
        "publish" => {
            let watch = Stopwatch::start();
            for _ in 0..job.count {
                encode::publish(&mut wire.out, 1, &publish, &[0, 0], &body, FRAME_MAX);
                if wire.out.len() > 64 * 1024 {
                    wire.flush();
                }
            }
            wire.barrier(&job);
            watch.report(job.count);
        }
        "confirm" => {
            wire.send(
                1,
                AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select {
                    nowait: false,
                })),
            );
            wire.answer();
            let watch = Stopwatch::start();
            let (mut sent, mut confirmed) = (0, 0);
            let mut singles = 0;
            while confirmed < job.count {
                while sent < job.count && sent - confirmed < WINDOW {
                    encode::publish(&mut wire.out, 1, &publish, &[0, 0], &body, FRAME_MAX);
                    sent += 1;
                }
                wire.flush();
                wire.read(|frame, _| {
                    if let Frame::Method(_, Method::Ack(ack)) = frame {
                        if ack.multiple {
                            confirmed = confirmed.max(ack.delivery_tag as usize);
                            singles = 0;
                        } else {
                            // Good enough for a floor: single confirms come in order.
                            singles += 1;
                            confirmed = confirmed.max(ack.delivery_tag as usize);
                        }
                    }
                });
            }
            watch.report(job.count);
        }
        "pingpong" => {
            wire.consume(&job, true);
            let mut times = Vec::new();
            for _ in 0..job.count {
                let start = Instant::now();
                encode::publish(&mut wire.out, 1, &publish, &[0, 0], &body, FRAME_MAX);
                wire.flush();
                let mut there = false;
                while !there {
                    wire.read(|frame, _| there |= matches!(frame, Frame::Body(..)));
                }
                times.push(start.elapsed().as_secs_f64());
            }
            report_round_trips(times);
        }
        _ => consume(&job, wire),
    }
}

fn consume(job: &Job, wire: &mut Wire) {
    let qos = basic::Qos {
        prefetch_count: job.prefetch(),
        global: false,
    };
    wire.send(1, AMQPClass::Basic(basic::AMQPMethod::Qos(qos)));
    wire.answer();
    let batch = job.scenario == "consume-batch";
    let watch = Stopwatch::start();
    wire.consume(job, false);
    let mut got = 0;
    let mut tag = 0;
    let mut missing = 0;
    while got < job.count {
        wire.read(|frame, out| match frame {
            Frame::Method(_, Method::Deliver(deliver)) => tag = deliver.delivery_tag,
            Frame::Header(_, header) => missing = header.body_size as usize,
            Frame::Body(_, piece) => {
                missing -= piece.len();
                if missing == 0 {
                    got += 1;
                    if !batch {
                        encode::ack(
                            out,
                            1,
                            Ack {
                                delivery_tag: tag,
                                multiple: false,
                            },
                        );
                    } else if got % BATCH == 0 || got == job.count {
                        encode::ack(
                            out,
                            1,
                            Ack {
                                delivery_tag: tag,
                                multiple: true,
                            },
                        );
                    }
                }
            }
            _ => {}
        });
        wire.flush();
    }
    wire.barrier(job);
    watch.report(job.count);
}
