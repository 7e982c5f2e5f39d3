//! amiquip: blocking calls, a thread for the connection.

use amiquip::{
    Auth, Channel, Confirm, Connection, ConnectionOptions, ConnectionTuning, ConsumerMessage,
    ConsumerOptions, Exchange, Publish, Queue,
};
use bare::measure::{BATCH, Job, Stopwatch, WINDOW, report_round_trips};
use std::time::Instant;

pub fn run(job: Job) {
    let mut connection = match job.scenario.as_str() {
        "pingpong" => connect_undelayed(&job),
        _ => Connection::insecure_open_tuned(&job.url(), ConnectionTuning::default()),
    }
    .expect("connects");
    let channel = connection.open_channel(None).expect("a channel");
    match job.scenario.as_str() {
        "publish" | "confirm" => publish(&job, &channel),
        "pingpong" => pingpong(&job, &channel),
        _ => consume(&job, &channel),
    }
    drop(channel);
    // Its loop sometimes ends before the close is through; the figures are out by then.
    let _ = connection.close();
}

/// With TCP_NODELAY, which amiquip does not set by itself: a lone message may wait there for the other end's
/// delayed ack, so that some processes needed 43 ms a round trip, and the row ten minutes.
fn connect_undelayed(job: &Job) -> amiquip::Result<Connection> {
    let address = format!("{}:{}", job.host, job.port);
    let stream = std::net::TcpStream::connect(address).expect("connects");
    stream.set_nodelay(true).expect("a socket");
    let stream = mio_of_amiquip::net::TcpStream::from_stream(stream).expect("a socket");
    let options = ConnectionOptions::<Auth>::default();
    Connection::insecure_open_stream(stream, options, ConnectionTuning::default())
}

fn queue<'a>(channel: &'a Channel, job: &Job) -> Queue<'a> {
    channel
        .queue_declare_passive(job.queue.as_str())
        .expect("there")
}

fn publish(job: &Job, channel: &Channel) {
    let confirms = (job.scenario == "confirm").then(|| {
        channel.enable_publisher_confirms().expect("confirms");
        channel.listen_for_publisher_confirms().expect("listens")
    });
    let body = job.body();
    let exchange = Exchange::direct(channel);
    let watch = Stopwatch::start();
    let mut confirmed = 0;
    let mut wait = |up_to: u64| {
        let Some(confirms) = &confirms else { return };
        while confirmed < up_to {
            match confirms.recv().expect("confirmed") {
                Confirm::Ack(ack) => confirmed = confirmed.max(ack.delivery_tag),
                Confirm::Nack(_) => panic!("no publish is refused here"),
            }
        }
    };
    for number in 1..=job.count as u64 {
        exchange
            .publish(Publish::new(&body, job.queue.as_str()))
            .expect("published");
        wait(number.saturating_sub(WINDOW as u64));
    }
    wait(job.count as u64);
    queue(channel, job);
    watch.report(job.count);
}

fn consume(job: &Job, channel: &Channel) {
    channel.qos(0, job.prefetch(), false).expect("qos");
    let batch = job.scenario == "consume-batch";
    let queue = queue(channel, job);
    let watch = Stopwatch::start();
    let consumer = queue.consume(ConsumerOptions::default()).expect("consumes");
    for number in 1..=job.count {
        let ConsumerMessage::Delivery(delivery) = consumer.receiver().recv().expect("a delivery")
        else {
            panic!("a delivery was due");
        };
        assert_eq!(delivery.body.len(), job.size);
        if !batch {
            consumer.ack(delivery).expect("acked");
        } else if number % BATCH == 0 || number == job.count {
            consumer.ack_multiple(delivery).expect("acked");
        }
    }
    channel
        .queue_declare_passive(job.queue.as_str())
        .expect("there");
    watch.report(job.count);
}

fn pingpong(job: &Job, channel: &Channel) {
    let body = job.body();
    let exchange = Exchange::direct(channel);
    let options = ConsumerOptions {
        no_ack: true,
        ..ConsumerOptions::default()
    };
    let queue = queue(channel, job);
    let consumer = queue.consume(options).expect("consumes");
    let mut times = Vec::new();
    for _ in 0..job.count {
        let start = Instant::now();
        exchange
            .publish(Publish::new(&body, job.queue.as_str()))
            .expect("published");
        consumer.receiver().recv().expect("a delivery");
        times.push(start.elapsed().as_secs_f64());
    }
    report_round_trips(times);
}
