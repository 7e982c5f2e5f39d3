//! `olive demo`: a broker, a worker and about 2,000 jobs of every kind, in one program, over AMQP.
//!
//! Everything is as in earnest: the producer has its own connection, results come back as
//! messages, what cannot be run is found in the dead-letter queue. Each job is held against the
//! fate that `plan` says it must have.

mod plan;
mod show;
mod tally;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp::client::{Channel, Consume, ConsumerEvent};
use amqp::protocol::AMQPValue;
use kernel::sync::{Receiver, Sender, mailbox};

use crate::app::{Embedded, start_log};
use crate::config::{Config, Source};
use crate::outcome::Reply;
use crate::preflight::python_answers;
use crate::producer::Producer;
use crate::registry::Registry;
use crate::worker::{self, Stop, Summary, WorkerError};
use plan::{Group, groups};
use show::Show;
use tally::Tally;

/// With nothing settled for this long, the rest is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the demo hears.
enum Heard {
    Reply {
        id: String,
        body: Vec<u8>,
    },
    Dead {
        id: String,
        reason: String,
    },
    /// A connection of the demo's, or the worker, ended before its time.
    Ended(String),
}

/// Runs the command.
pub(crate) fn demo(mut config: Config, registry: Registry) -> ExitCode {
    let is_default = |name| {
        config
            .settings
            .iter()
            .any(|s| s.name == name && s.source == Source::Default)
    };
    // Each dead letter is a warning, and the demo has many on purpose.
    let quiet = is_default("log_level");
    start_log(if quiet {
        log::LevelFilter::Error
    } else {
        config.log_level
    });
    let folder = match Folder::make() {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("olive demo: no temporary folder: {error}");
            return ExitCode::FAILURE;
        }
    };
    config.amqp_url = None;
    config.broker_listen = ([127, 0, 0, 1], 0).into();
    config.python_modules = vec![plan::PYTHON_MODULE.to_owned()];
    config.python_path = vec![folder.0.clone()];
    let (task, argv) = plan::EXECUTABLE;
    config.executables = [(task.to_owned(), argv.map(str::to_owned).to_vec())].into();
    let has_python = python_answers(&config.python).is_ok();

    match kernel::run(run(Rc::new(config), Arc::new(registry), has_python)) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(text)) => {
            eprintln!("olive demo: {text}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("olive demo: the runtime did not start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A folder with the demo's Python module, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn make() -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("olive-demo-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder)?;
        let module = folder.join(format!("{}.py", plan::PYTHON_MODULE));
        std::fs::write(module, plan::PYTHON_SOURCE)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left in the system's temporary one is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn run(config: Rc<Config>, registry: Arc<Registry>, python: bool) -> Result<bool, String> {
    let embedded = Embedded::start(&config).await?;
    let broker = embedded.options(&config);
    let stop = Stop::new();
    let worker = kernel::spawn(worker::run(
        Rc::clone(&config),
        registry,
        broker.clone(),
        stop.clone(),
    ));
    println!(
        "embedded broker on {}, one worker with {} places, everything over AMQP",
        embedded.address(),
        config.num_workers
    );
    let producer = Producer::connect(&config, broker.named("olive demo")).await;
    let producer = producer.map_err(|e| e.to_string())?;
    let producer = producer.with_replies().await.map_err(|e| e.to_string())?;
    let letters = producer.channel().connection().channel().await;
    let letters = letters.map_err(|e| e.to_string())?;

    let all: Vec<Group> = groups();
    let sent: Vec<bool> = all.iter().map(|g| python || !g.python).collect();
    let mut tally = Tally::new(&all);
    let (heard, ears) = mailbox();
    let listener = kernel::spawn(dead_letters(letters, config.dead_queue(), heard.clone()));
    let started = Instant::now();
    let mut show = Show::start(
        all.iter()
            .zip(&sent)
            .filter(|(_, s)| **s)
            .map(|(g, _)| g.count)
            .sum(),
    );
    let producer = send_all(producer, &all, &sent, &mut tally).await?;
    let replies = kernel::spawn(replies(producer, heard));

    let trouble = listen(&ears, &mut tally, &mut show).await;
    show.end(started.elapsed());
    stop.ask();
    let ended = worker
        .join()
        .await
        .map_err(|e| format!("the worker: {e:?}"))?;
    for task in [&listener, &replies] {
        let _ = task.cancel().await;
    }
    embedded.stop().await;
    show::table(&all, &sent, tally.rows());
    if let Some(trouble) = trouble {
        println!("{trouble}");
    }
    Ok(verdict(&ended, &tally))
}

fn verdict(ended: &Result<Summary, WorkerError>, tally: &Tally) -> bool {
    if let Err(error) = ended {
        println!("the worker ended: {error}");
    }
    let right = ended.is_ok() && tally.all_right();
    println!(
        "{}",
        if right {
            "every job had the fate it should have"
        } else {
            "NOT every job had the fate it should have"
        }
    );
    right
}

/// Sends all jobs, the groups mixed, and waits until the broker has them.
async fn send_all(
    producer: Producer,
    all: &[Group],
    sent: &[bool],
    tally: &mut Tally,
) -> Result<Producer, String> {
    let longest = all.iter().map(|g| g.count).max().unwrap_or(0);
    let mut confirms = Vec::new();
    for round in 0..longest {
        for (index, group) in all.iter().enumerate() {
            // Spread evenly: a group of 10 gets one of each hundred rounds of a thousand.
            let before = round * group.count / longest;
            let due = (round + 1) * group.count / longest;
            for number in (before..due).filter(|_| sent[index]) {
                let tid = uuid::Uuid::new_v4().to_string();
                let (body, value) = (group.make)(number, &tid);
                confirms.push(
                    producer
                        .send(&tid, &body)
                        .await
                        .map_err(|e| e.to_string())?,
                );
                tally.sent(tid, index, value);
            }
        }
    }
    for confirm in confirms {
        confirm.await.map_err(|e| e.to_string())?;
    }
    Ok(producer)
}

async fn replies(mut producer: Producer, heard: Sender<Heard>) {
    loop {
        let event = match producer.next_reply().await {
            Ok((id, body)) => Heard::Reply { id, body },
            Err(error) => Heard::Ended(format!("no more results: {error}")),
        };
        let over = matches!(event, Heard::Ended(_));
        if heard.send(event).is_err() || over {
            return;
        }
    }
}

async fn dead_letters(channel: Channel, queue: String, heard: Sender<Heard>) {
    let ended = |text: String| drop(heard.send(Heard::Ended(text)));
    let mut consumer = match channel.consume(Consume::new(queue)).await {
        Ok(consumer) => consumer,
        Err(error) => return ended(format!("no dead letters: {error}")),
    };
    loop {
        match consumer.next().await {
            ConsumerEvent::Delivery(delivery) => {
                let id = delivery.properties.fields().correlation_id.unwrap_or(b"");
                let event = Heard::Dead {
                    id: String::from_utf8_lossy(id).into_owned(),
                    reason: reason(&delivery.properties),
                };
                if delivery.ack().is_err() || heard.send(event).is_err() {
                    return;
                }
            }
            other => return ended(format!("no more dead letters: {other:?}")),
        }
    }
}

fn reason(properties: &amqp::codec::RawProperties) -> String {
    let headers = properties.headers().unwrap_or_default();
    match headers.inner().get("x-olive-reason") {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        _ => "none given".to_owned(),
    }
}

/// Listens until every job is settled; says why, if it is given up before.
async fn listen(ears: &Receiver<Heard>, tally: &mut Tally, show: &mut Show) -> Option<String> {
    while tally.settled() < tally.total() {
        let heard = kernel::ignore_after(PATIENCE, ears.recv()).await;
        match heard {
            Ok(Some(Some(Heard::Reply { id, body }))) => {
                match serde_json::from_slice::<Reply>(&body) {
                    Ok(reply) => {
                        let value = reply.value.map(|v| serde_json::from_str(v.get()));
                        tally.replied(&id, reply.status, value.and_then(Result::ok));
                    }
                    Err(error) => return Some(format!("a result that is none: {error}")),
                }
            }
            Ok(Some(Some(Heard::Dead { id, reason }))) => tally.died(&id, &reason),
            Ok(Some(Some(Heard::Ended(text)))) => return Some(text),
            Ok(None) => return Some(format!("nothing happened for {PATIENCE:?}")),
            Ok(Some(None)) | Err(_) => return Some("the demo was interrupted".to_owned()),
        }
        show.at(tally.settled());
    }
    None
}
