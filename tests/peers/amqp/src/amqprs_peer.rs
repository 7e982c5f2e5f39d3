//! amqprs on tokio.

use amqprs::callbacks::ChannelCallback;
use amqprs::channel::*;
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return};
use bare::measure::{BATCH, Job, Stopwatch, WINDOW, report_round_trips};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

type Result<T> = std::result::Result<T, amqprs::error::Error>;

#[derive(Default)]
struct Confirmed {
    up_to: AtomicU64,
    changed: Notify,
}

struct Callback(Arc<Confirmed>);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
pub async fn run(job: Job) {
    let arguments = OpenConnectionArguments::new(&job.host, job.port, "guest", "guest");
    let connection = Connection::open(&arguments).await.expect("connects");
    let channel = connection.open_channel(None).await.expect("a channel");
    match job.scenario.as_str() {
        "publish" | "confirm" => publish(&job, &channel).await,
        "pingpong" => pingpong(&job, &channel).await,
        _ => consume(&job, &channel).await,
    }
    connection.close().await.expect("closed");
}

async fn barrier(channel: &Channel, job: &Job) {
    let arguments = QueueDeclareArguments::new(&job.queue)
        .passive(true)
        .finish();
    channel.queue_declare(arguments).await.expect("there");
}

async fn publish(job: &Job, channel: &Channel) {
    let confirmed = Arc::new(Confirmed::default());
    let confirms = job.scenario == "confirm";
    if confirms {
        channel
            .register_callback(Callback(Arc::clone(&confirmed)))
            .await
            .expect("registered");
        channel
            .confirm_select(ConfirmSelectArguments::default())
            .await
            .expect("confirms");
    }
    let arguments = BasicPublishArguments::new("", &job.queue);
    let body = job.body();
    let watch = Stopwatch::start();
    let wait = async |up_to: u64| {
        while confirms && confirmed.up_to.load(Ordering::Acquire) < up_to {
            let changed = confirmed.changed.notified();
            if confirmed.up_to.load(Ordering::Acquire) < up_to {
                changed.await;
            }
        }
    };
    for number in 1..=job.count as u64 {
        channel
            .basic_publish(BasicProperties::default(), body.clone(), arguments.clone())
            .await
            .expect("published");
        wait(number.saturating_sub(WINDOW as u64)).await;
    }
    wait(job.count as u64).await;
    barrier(channel, job).await;
    watch.report(job.count);
}

async fn consume(job: &Job, channel: &Channel) {
    channel
        .basic_qos(BasicQosArguments::new(0, job.prefetch(), false))
        .await
        .expect("qos");
    let batch = job.scenario == "consume-batch";
    let watch = Stopwatch::start();
    let (_, mut messages) = channel
        .basic_consume_rx(BasicConsumeArguments::new(&job.queue, "c"))
        .await
        .expect("consumes");
    for number in 1..=job.count {
        let message = messages.recv().await.expect("a delivery");
        assert_eq!(message.content.expect("a body").len(), job.size);
        let tag = message.deliver.expect("a deliver").delivery_tag();
        if !batch {
            channel
                .basic_ack(BasicAckArguments::new(tag, false))
                .await
                .expect("acked");
        } else if number % BATCH == 0 || number == job.count {
            channel
                .basic_ack(BasicAckArguments::new(tag, true))
                .await
                .expect("acked");
        }
    }
    barrier(channel, job).await;
    watch.report(job.count);
}

async fn pingpong(job: &Job, channel: &Channel) {
    let body = job.body();
    let publish = BasicPublishArguments::new("", &job.queue);
    let arguments = BasicConsumeArguments::new(&job.queue, "c")
        .manual_ack(false)
        .finish();
    let (_, mut messages) = channel.basic_consume_rx(arguments).await.expect("consumes");
    let mut times = Vec::new();
    for _ in 0..job.count {
        let start = Instant::now();
        channel
            .basic_publish(BasicProperties::default(), body.clone(), publish.clone())
            .await
            .expect("published");
        messages.recv().await.expect("a delivery");
        times.push(start.elapsed().as_secs_f64());
    }
    report_round_trips(times);
}

#[async_trait::async_trait]
impl ChannelCallback for Callback {
    async fn close(&mut self, _: &Channel, _: CloseChannel) -> Result<()> {
        Ok(())
    }
    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<()> {
        Ok(())
    }
    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool> {
        Ok(active)
    }
    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.0
            .up_to
            .fetch_max(ack.delivery_tag(), Ordering::Release);
        self.0.changed.notify_one();
    }
    async fn publish_nack(&mut self, _: &Channel, _: Nack) {
        panic!("no publish is refused here");
    }
    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {
        panic!("no publish comes back here");
    }
}
