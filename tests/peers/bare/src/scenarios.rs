//! What is measured, as a bare loop does it.

use crate::measure::{BATCH, Job, Stopwatch, WINDOW, report_round_trips};
use crate::wire::Wire;
use amqp::codec::{Ack, Frame, Method, Publish, encode};
use amqp::protocol::{AMQPClass, basic, confirm};
use std::time::Instant;

/// Runs one scenario and prints its figures.
pub fn run(job: Job) {
    let wire = &mut Wire::connect(&job);
    match job.scenario.as_str() {
        "publish" => publish(&job, wire),
        "confirm" | "confirm-persistent" => confirm(&job, wire, WINDOW),
        "confirm-one" => confirm(&job, wire, 1),
        "pingpong" => pingpong(&job, wire),
        _ => consume(&job, wire),
    }
}

/// Appends one message of the job.
fn write_message(job: &Job, body: &[u8], wire: &mut Wire) {
    let publish = Publish {
        exchange: "",
        routing_key: &job.queue,
        mandatory: false,
        immediate: false,
    };
    // No properties at all, or delivery mode 2 alone.
    let properties: &[u8] = match job.scenario.as_str() {
        "confirm-persistent" => &[0x10, 0, 2],
        _ => &[0, 0],
    };
    let (out, frame_max) = (&mut wire.out, wire.frame_max);
    encode::publish(out, 1, &publish, properties, body, frame_max);
}

fn publish(job: &Job, wire: &mut Wire) {
    let body = job.body();
    let watch = Stopwatch::start();
    for _ in 0..job.count {
        write_message(job, &body, wire);
        if wire.out.len() > 64 * 1024 {
            wire.flush();
        }
    }
    wire.barrier(job);
    watch.report(job.count);
}

fn confirm(job: &Job, wire: &mut Wire, window: usize) {
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
    wire.send(1, AMQPClass::Confirm(select));
    wire.answer();
    let body = job.body();
    let watch = Stopwatch::start();
    let (mut sent, mut confirmed) = (0, 0);
    while confirmed < job.count {
        while sent < job.count && sent - confirmed < window {
            write_message(job, &body, wire);
            sent += 1;
        }
        wire.flush();
        wire.read(|frame, _| {
            // Good enough for a floor: confirms come about in order.
            if let Frame::Method(_, Method::Ack(ack)) = frame {
                confirmed = confirmed.max(ack.delivery_tag as usize);
            }
        });
    }
    watch.report(job.count);
}

fn pingpong(job: &Job, wire: &mut Wire) {
    let body = job.body();
    wire.consume(job, true);
    let mut times = Vec::new();
    for _ in 0..job.count {
        let start = Instant::now();
        write_message(job, &body, wire);
        wire.flush();
        let mut there = false;
        while !there {
            wire.read(|frame, _| there |= matches!(frame, Frame::Body(..)));
        }
        times.push(start.elapsed().as_secs_f64());
    }
    report_round_trips(times);
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
                    if !batch || got % BATCH == 0 || got == job.count {
                        let ack = Ack {
                            delivery_tag: tag,
                            multiple: batch,
                        };
                        encode::ack(out, 1, ack);
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
