//! lapin on tokio: `lapin` pipelined (futures made in bulk, awaited together), `lapin-awaited` one by one.

use bare::measure::{BATCH, Job, Stopwatch, WINDOW, report_round_trips};
use futures_lite::StreamExt;
use futures_util::future::try_join_all;
use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use std::collections::VecDeque;
use std::time::Instant;

pub fn run(job: Job, awaited: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("tokio");
    runtime.block_on(async move {
        let connection = Connection::connect(&job.url(), ConnectionProperties::default())
            .await
            .expect("connects");
        let channel = connection.create_channel().await.expect("a channel");
        match job.scenario.as_str() {
            "publish" | "confirm" => publish(&job, &channel, awaited).await,
            "pingpong" => pingpong(&job, &channel).await,
            _ => consume(&job, &channel, awaited).await,
        }
        connection.close(200, "bye".into()).await.expect("closed");
    });
}

async fn one(channel: &Channel, job: &Job, body: &[u8]) -> lapin::Result<lapin::PublisherConfirm> {
    let (queue, options) = (job.queue.as_str().into(), BasicPublishOptions::default());
    channel
        .basic_publish("".into(), queue, options, body, BasicProperties::default())
        .await
}

async fn barrier(channel: &Channel, job: &Job) {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(job.queue.as_str().into(), options, FieldTable::default())
        .await
        .expect("there");
}

async fn publish(job: &Job, channel: &Channel, awaited: bool) {
    let body = job.body();
    if job.scenario == "confirm" {
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("confirms");
    }
    let watch = Stopwatch::start();
    let mut confirms = VecDeque::new();
    let mut left = job.count;
    while left > 0 {
        let chunk = left.min(if awaited { 1 } else { WINDOW / 2 });
        left -= chunk;
        confirms.extend(
            try_join_all((0..chunk).map(|_| one(channel, job, &body)))
                .await
                .expect("published"),
        );
        while confirms.len() > WINDOW / 2 {
            confirms
                .pop_front()
                .expect("not empty")
                .await
                .expect("confirmed");
        }
    }
    for confirm in confirms {
        confirm.await.expect("confirmed");
    }
    barrier(channel, job).await;
    watch.report(job.count);
}

async fn consume(job: &Job, channel: &Channel, awaited: bool) {
    channel
        .basic_qos(job.prefetch(), BasicQosOptions::default())
        .await
        .expect("qos");
    let batch = job.scenario == "consume-batch";
    let watch = Stopwatch::start();
    let mut consumer = channel
        .basic_consume(
            job.queue.as_str().into(),
            "c".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("consumes");
    let mut held = Vec::new();
    for number in 1..=job.count {
        let delivery = consumer
            .next()
            .await
            .expect("a delivery")
            .expect("a delivery");
        assert_eq!(delivery.data.len(), job.size);
        let last = number == job.count;
        if batch {
            if number % BATCH == 0 || last {
                delivery
                    .ack(BasicAckOptions { multiple: true })
                    .await
                    .expect("acked");
            }
        } else if awaited {
            delivery
                .ack(BasicAckOptions::default())
                .await
                .expect("acked");
        } else {
            held.push(delivery);
            if held.len() == BATCH || last {
                try_join_all(
                    held.iter()
                        .map(|delivery| delivery.ack(BasicAckOptions::default())),
                )
                .await
                .expect("acked");
                held.clear();
            }
        }
    }
    barrier(channel, job).await;
    watch.report(job.count);
}

async fn pingpong(job: &Job, channel: &Channel) {
    let body = job.body();
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut consumer = channel
        .basic_consume(
            job.queue.as_str().into(),
            "c".into(),
            options,
            FieldTable::default(),
        )
        .await
        .expect("consumes");
    let mut times = Vec::new();
    for _ in 0..job.count {
        let start = Instant::now();
        one(channel, job, &body).await.expect("published");
        consumer
            .next()
            .await
            .expect("a delivery")
            .expect("a delivery");
        times.push(start.elapsed().as_secs_f64());
    }
    report_round_trips(times);
}
