//! The rows against RabbitMQ: whether the client keeps up with a bare loop there, and is ahead of its peers.

use crate::client;
use crate::rows::Rows;
use amqp::blocking;
use amqp::{QueueDeclare, Uri};
use bare::measure::Job;
use common::{Bound, Row, interleave, ratio};

/// The bare loop is the second: [`beside_bare`]; behind it the peers: [`ahead`].
const LIBRARIES: [&str; 5] = ["ours", "raw", "lapin", "amqprs", "amiquip"];

pub fn bench(url: &str, rows: &Rows, rounds: usize, scale: usize) {
    let rabbit = Rabbit::open(url);
    if rows.has("rabbit-confirm") {
        rabbit.confirm(rounds, 30_000 * scale);
    }
    if rows.has("rabbit-consume") {
        rabbit.consume(rounds, 30_000 * scale);
    }
    if rows.has("rabbit-pingpong") {
        rabbit.pingpong(rounds, 3_000 * scale);
    }
    rabbit.close();
}

/// A queue on the broker, and the connection that clears it between the clients.
struct Rabbit {
    host: String,
    port: u16,
    connection: blocking::Connection,
    channel: blocking::Channel,
    queue: String,
}

impl Rabbit {
    fn open(url: &str) -> Self {
        let mut options = Uri::parse(url).expect("the broker's URL");
        // It idles between the rounds, and a blocking connection sends nothing then.
        options.heartbeat = std::time::Duration::ZERO;
        let (host, port) = (options.host.clone(), options.port);
        let connection = blocking::Connection::open(options).expect("the broker");
        let channel = connection.channel().expect("a channel");
        let queue = format!("amqp-bench-{}", std::process::id());
        channel
            .queue_declare(QueueDeclare::new(&queue))
            .expect("declared");
        Rabbit {
            host,
            port,
            connection,
            channel,
            queue,
        }
    }

    fn close(self) {
        self.channel
            .queue_delete(&self.queue, false, false)
            .expect("deleted");
        self.connection.close();
    }

    fn job(&self, scenario: &str, count: usize) -> Job {
        Job {
            scenario: scenario.into(),
            size: 16,
            count,
            host: self.host.clone(),
            port: self.port,
            queue: self.queue.clone(),
        }
    }

    fn confirm(&self, rounds: usize, count: usize) {
        let confirm = self.job("confirm", count);
        let rates = compare(
            rounds,
            "publish with confirms",
            "messages a second",
            &|library| {
                let rate = client(library, &confirm).rate;
                self.channel.queue_purge(&self.queue).expect("purged");
                rate
            },
        );
        beside_bare("rabbit-confirm-rate", &rates, Bound::AtLeast, 0.95);
        ahead("rabbit-confirm-vs-peers", &rates);
    }

    fn consume(&self, rounds: usize, count: usize) {
        let consume = self.job("consume-80", count);
        let preload = self.job("confirm", count);
        let rates = compare(
            rounds,
            "consume, ack each, prefetch 80",
            "messages a second",
            &|library| {
                client("raw", &preload);
                client(library, &consume).rate
            },
        );
        beside_bare("rabbit-consume-rate", &rates, Bound::AtLeast, 0.95);
        ahead("rabbit-consume-vs-peers", &rates);
    }

    /// Where the system places two ends that wait for each other differs from run to run more than the clients
    /// do: hence three times the rounds.
    fn pingpong(&self, rounds: usize, count: usize) {
        let pingpong = self.job("pingpong", count);
        let times = compare(
            3 * rounds,
            "ping-pong",
            "us a round trip, median",
            &|library| client(library, &pingpong).cost,
        );
        beside_bare("rabbit-pingpong", &times, Bound::AtMost, 1.15);
    }
}

fn compare(rounds: usize, title: &str, unit: &str, run: &dyn Fn(&str) -> f64) -> Vec<Row> {
    let measured = LIBRARIES.map(|library| {
        let each: Box<dyn FnMut() -> f64> = Box::new(move || run(library));
        (library, each)
    });
    let rows = interleave(rounds, measured.into());
    println!("\n{title}, 16 bytes, RabbitMQ");
    Row::print_table(unit, &rows);
    rows
}

fn beside_bare(name: &str, rows: &[Row], bound: Bound, target: f64) {
    ratio(name, rows[0].median_ratio(&rows[1]), bound, target);
}

fn ahead(name: &str, rates: &[Row]) {
    let best = rates[2..]
        .iter()
        .max_by(|a, b| a.median().total_cmp(&b.median()))
        .expect("there are peers");
    ratio(name, rates[0].median_ratio(best), Bound::AtLeast, 1.0);
}
