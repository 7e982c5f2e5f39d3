//! The client under test.

use amqp::client::{
    Channel, ConnectOptions, Connection, Consume, Consumer, ConsumerEvent, Delivery, Publish,
    QueueDeclare,
};
use bare::measure::{BATCH, Job, Stopwatch, WINDOW, report_round_trips};
use std::collections::VecDeque;
use std::time::Instant;

pub fn run(job: Job) {
    kernel::run(async move {
        let options = ConnectOptions {
            host: job.host.clone(),
            port: job.port,
            ..ConnectOptions::default()
        };
        let connection = Connection::open(options).await.expect("connects");
        let channel = connection.channel().await.expect("a channel");
        match job.scenario.as_str() {
            "publish" => publish(&job, &channel).await,
            "confirm" => confirm(&job, &channel).await,
            "pingpong" => pingpong(&job, &channel).await,
            _ => consume(&job, &channel).await,
        }
        connection.close().await;
    })
    .expect("a kernel starts");
}

async fn publish(job: &Job, channel: &Channel) {
    let body = job.body();
    let watch = Stopwatch::start();
    for _ in 0..job.count {
        channel
            .publish_unconfirmed(Publish::new("", &job.queue, &body))
            .await
            .expect("published");
    }
    channel
        .queue_declare(QueueDeclare::new(&job.queue).passive())
        .await
        .expect("the server has read all");
    watch.report(job.count);
}

async fn confirm(job: &Job, channel: &Channel) {
    let body = job.body();
    channel.confirm_select().await.expect("confirms");
    let mut confirms = VecDeque::with_capacity(WINDOW + 1);
    let watch = Stopwatch::start();
    for _ in 0..job.count {
        confirms.push_back(
            channel
                .publish_pending(Publish::new("", &job.queue, &body))
                .await
                .expect("published"),
        );
        if confirms.len() == WINDOW {
            confirms
                .pop_front()
                .expect("it is full")
                .await
                .expect("confirmed");
        }
    }
    for confirm in confirms {
        confirm.await.expect("confirmed");
    }
    watch.report(job.count);
}

async fn next(consumer: &mut Consumer) -> Delivery {
    match consumer.next().await {
        ConsumerEvent::Delivery(delivery) => delivery,
        other => panic!("a delivery was due, not {other:?}"),
    }
}

async fn consume(job: &Job, channel: &Channel) {
    channel.qos(job.prefetch()).await.expect("qos");
    let batch = job.scenario == "consume-batch";
    let watch = Stopwatch::start();
    let mut consumer = channel
        .consume(Consume::new(&job.queue))
        .await
        .expect("consumes");
    for number in 1..=job.count {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.body.len(), job.size);
        if !batch {
            delivery.ack().expect("acked");
        } else {
            let (_, acker) = delivery.into_parts();
            if number % BATCH == 0 || number == job.count {
                acker.ack_through().expect("acked");
            } else {
                acker.leave();
            }
        }
    }
    channel
        .queue_declare(QueueDeclare::new(&job.queue).passive())
        .await
        .expect("the server has read all");
    watch.report(job.count);
}

async fn pingpong(job: &Job, channel: &Channel) {
    let body = job.body();
    let mut consumer = channel
        .consume(Consume::new(&job.queue).no_ack(true))
        .await
        .expect("consumes");
    let mut times = Vec::with_capacity(job.count);
    for _ in 0..job.count {
        let start = Instant::now();
        channel
            .publish_unconfirmed(Publish::new("", &job.queue, &body))
            .await
            .expect("published");
        next(&mut consumer).await;
        times.push(start.elapsed().as_secs_f64());
    }
    report_round_trips(times);
}
