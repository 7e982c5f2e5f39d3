//! `olive send`: submits jobs and, if asked to, waits for their results.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use amqp::client::{ConnectOptions, Uri};
use clap::Args;
use serde_json::value::RawValue;

use crate::app::start_log;
use crate::config::{Config, without_password};
use crate::job::NewJob;
use crate::outcome::{Reply, Status};
use crate::producer::{Producer, SendError};

/// After this long without any result, the person is told what may be wrong.
const WONDER_AFTER: Duration = Duration::from_secs(5);

/// The arguments of `olive send`.
#[derive(Args, Debug)]
pub(crate) struct SendArgs {
    /// Name of the task, such as olive.tasks.sleep_n
    func: String,
    /// Positional arguments, each as JSON: 1 '"text"' '[1, 2]'
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    args: Vec<String>,
    /// Named arguments, as a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    kwargs: String,
    /// Wait for the result, print it, and exit by the outcome
    #[arg(long)]
    wait: bool,
    /// Seconds the job may run; it is killed after that
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// How many times to submit it, each a job of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,
}

/// What a result makes of the exit code.
fn exit_code(status: Status) -> u8 {
    match status {
        Status::Done => 0,
        Status::Failed => 3,
        Status::Timeout => 4,
        Status::Rejected => 5,
        Status::Cancelled => 6,
    }
}

/// Checked arguments, as they stand in each job.
struct Checked {
    args: Box<RawValue>,
    kwargs: Box<RawValue>,
    timeout: f64,
    broker: ConnectOptions,
    url: String,
}

fn check(config: &Config, args: &SendArgs) -> Result<Checked, String> {
    let mut values = Vec::new();
    for (index, text) in args.args.iter().enumerate() {
        let value: &RawValue = serde_json::from_str(text).map_err(|e| {
            format!(
                "argument {} is not JSON: {text} ({e}); text needs double quotes, so in a shell: '\"{text}\"'",
                index + 1
            )
        })?;
        values.push(value);
    }
    let kwargs = RawValue::from_string(args.kwargs.clone())
        .ok()
        .filter(|raw| raw.get().trim_start().starts_with('{'))
        .ok_or_else(|| format!("--kwargs is not a JSON object: {}", args.kwargs))?;
    let timeout = match args.timeout {
        None => -1.0,
        Some(seconds) if seconds > 0.0 && seconds <= 1e9 => seconds,
        Some(seconds) => return Err(format!("--timeout must be above 0, found {seconds}")),
    };
    let url = config
        .amqp_url
        .clone()
        .unwrap_or(Config::DEFAULT_URL.to_owned());
    Ok(Checked {
        args: serde_json::value::to_raw_value(&values).expect("JSON in a list is JSON"),
        kwargs,
        timeout,
        broker: Uri::parse(&url).expect("the configuration was checked"),
        url: without_password(&url),
    })
}

/// Runs the command.
pub(crate) fn send(config: Config, args: SendArgs) -> ExitCode {
    // A person sends; what the client logs at info is noise to them.
    start_log(config.log_level.min(log::LevelFilter::Warn));
    let checked = match check(&config, &args) {
        Ok(checked) => checked,
        Err(text) => {
            eprintln!("olive: {text}");
            return ExitCode::from(2);
        }
    };
    let url = checked.url.clone();
    let sent = kernel::run(async move { submit(&config, &args, checked).await });
    match sent {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            eprintln!("olive: {url}: {error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("olive: the runtime did not start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn submit(config: &Config, args: &SendArgs, checked: Checked) -> Result<u8, SendError> {
    let mut producer = Producer::connect(config, checked.broker.named("olive send")).await?;
    if args.wait {
        producer = producer.with_replies().await?;
    }
    let mut waiting = HashSet::new();
    let mut confirms = std::collections::VecDeque::new();
    for _ in 0..args.count {
        let tid = uuid::Uuid::new_v4().to_string();
        let body = NewJob {
            func: &args.func,
            args: &checked.args,
            kwargs: &checked.kwargs,
            tid: &tid,
            timeout: checked.timeout,
            resp_exchange: None,
            resp_routing_key: None,
        }
        .to_json();
        confirms.push_back(producer.send(&tid, &body).await?);
        if confirms.len() > 1000 {
            confirms.pop_front().expect("there are over 1000").await?;
        }
        if args.wait {
            waiting.insert(tid);
        } else if args.count == 1 {
            println!("{tid}");
        }
    }
    for confirm in confirms {
        confirm.await?;
    }
    if args.count != 1 {
        eprintln!("{} jobs sent", args.count);
    }
    let code = results(&mut producer, waiting).await?;
    producer.close().await;
    Ok(code)
}

/// Prints one line a result: the value to standard output, anything else to standard error.
/// Returns the exit code of the worst.
async fn results(producer: &mut Producer, mut waiting: HashSet<String>) -> Result<u8, SendError> {
    let mut worst = 0;
    let mut wondered = false;
    while !waiting.is_empty() {
        let reply = async { producer.next_reply().await };
        let reply = if wondered {
            Some(reply.await?)
        } else {
            kernel::ignore_after(WONDER_AFTER, reply).await?
        };
        let Some((id, body)) = reply else {
            wondered = true;
            eprintln!("olive: no result yet; is a worker running, and not busy? Still waiting");
            continue;
        };
        if !waiting.remove(&id) {
            continue;
        }
        wondered = true;
        worst = worst.max(print(&body));
    }
    Ok(worst)
}

fn print(body: &[u8]) -> u8 {
    let Ok(reply) = serde_json::from_slice::<Reply>(body) else {
        eprintln!(
            "olive: a result that is none: {}",
            String::from_utf8_lossy(body)
        );
        return 1;
    };
    match (&reply.value, &reply.error) {
        (Some(value), _) => println!("{}", value.get()),
        (None, Some(error)) => {
            if let Some(traceback) = &error.traceback {
                eprintln!("{}", traceback.trim_end());
            }
            eprintln!("{} after {:.3} s: {error}", reply.status, reply.seconds);
        }
        (None, None) => eprintln!("{}", reply.status),
    }
    exit_code(reply.status)
}
