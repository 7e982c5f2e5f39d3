//! A program that serves tasks: the worker, with the embedded broker where no other is configured.

use std::fmt;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use amqp::broker::{BindError, Broker, Config as BrokerConfig, MemoryStore, User};
use amqp::client::{ConnectOptions, Uri};

use crate::config::{Config, Source, without_password};
use crate::registry::{Registry, Task};
use crate::worker::{self, Stop, Summary, WorkerError};
use crate::{pool, preflight, probe};

/// Exit code when jobs were cut off by the end of the drain.
pub const EXIT_CUT_OFF: u8 = 3;

/// A worker of one's own: Rust functions under task names, then [`run`](App::run).
///
/// ```no_run
/// use olive::{App, Config};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// struct Order { item: String, count: u32 }
/// #[derive(Serialize)]
/// struct Receipt { cents: u64 }
///
/// fn main() -> std::process::ExitCode {
///     App::new(Config::load())
///         .task("shop.charge", |order: Order| -> Result<Receipt, String> {
///             if order.count == 0 {
///                 return Err(format!("no {} ordered", order.item));
///             }
///             Ok(Receipt { cents: 250 * u64::from(order.count) })
///         })
///         .task("shop.add", |a: i64, b: i64| Ok::<_, String>(a + b))
///         .run()
/// }
/// ```
///
/// Nothing happens before `run`; have nothing with side effects happen before it in `main` either,
/// for a process that runs one task comes by there too.
pub struct App {
    config: Result<Config, crate::config::ConfigError>,
    registry: Registry,
}

impl App {
    /// A worker with the built-in tasks. Takes a [`Config`], or what [`Config::load`] returns: its
    /// error is then reported by `run`.
    pub fn new(config: impl IntoConfig) -> Self {
        App {
            config: config.into_config(),
            registry: Registry::with_builtins(),
        }
    }

    /// Registers a function under a task name: see [`registry`](crate::registry) for how a job's
    /// arguments become its parameters.
    ///
    /// # Panics
    /// If the name is empty or taken.
    pub fn task<Args>(mut self, name: &str, function: impl Task<Args>) -> Self {
        self.registry.add(name, function);
        self
    }

    /// Serves tasks until SIGTERM or Ctrl-C, logging to standard error; what `main` returns.
    ///
    /// The exit code is 0 after a clean drain, 3 if jobs were cut off, 1 for what cannot be helped
    /// by trying again (which is then said), 2 for a configuration that is wrong.
    pub fn run(self) -> ExitCode {
        if let Some(code) = pool::enter_hidden_mode(&self.registry) {
            return code;
        }
        match self.config {
            Ok(config) => serve(config, self.registry),
            Err(error) => {
                eprintln!("olive: {error}");
                ExitCode::from(2)
            }
        }
    }
}

/// What [`App::new`] takes.
pub trait IntoConfig {
    /// The configuration, or why there is none.
    fn into_config(self) -> Result<Config, crate::config::ConfigError>;
}

impl IntoConfig for Config {
    fn into_config(self) -> Result<Config, crate::config::ConfigError> {
        Ok(self)
    }
}

impl IntoConfig for Result<Config, crate::config::ConfigError> {
    fn into_config(self) -> Result<Config, crate::config::ConfigError> {
        self
    }
}

/// Why there is nothing to serve.
#[derive(Debug)]
enum StartError {
    Kernel(std::io::Error),
    Broker(String),
    Worker(WorkerError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Kernel(e) => write!(f, "the runtime did not start: {e}"),
            StartError::Broker(text) => f.write_str(text),
            StartError::Worker(e) => write!(f, "{e}"),
        }
    }
}

/// Sends the log to standard error, from `level` on.
pub(crate) fn start_log(level: log::LevelFilter) {
    // An error means that the program has a logger of its own: that one stays.
    let _ = env_logger::Builder::new()
        .filter_level(level)
        .target(env_logger::Target::Stderr)
        .try_init();
}

/// Runs a worker (and a broker, if none is configured) until asked to stop.
pub(crate) fn serve(config: Config, registry: Registry) -> ExitCode {
    start_log(config.log_level);
    for notice in &config.notices {
        log::warn!("{notice}");
    }
    if let Err(text) = preflight::check(&config) {
        log::error!("{text}");
        return ExitCode::from(2);
    }
    let served = kernel::run(async move {
        let stop = Stop::new();
        ask_on_signals(&stop).map_err(StartError::Kernel)?;
        work(Rc::new(config), Arc::new(registry), stop).await
    });
    match served.map_err(StartError::Kernel).and_then(|ended| ended) {
        Ok(summary) => {
            let counts = summary.counts;
            log::info!(
                "stopped: {} jobs done, {} dead-lettered, {} given back, {} cut off",
                counts.done,
                counts.dead,
                counts.given_back,
                summary.cut_off
            );
            if summary.cut_off == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(EXIT_CUT_OFF)
            }
        }
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn work(
    config: Rc<Config>,
    registry: Arc<Registry>,
    stop: Stop,
) -> Result<Summary, StartError> {
    if let Some(url) = &config.amqp_url {
        let broker = Uri::parse(url).expect("the configuration was checked");
        log::info!("broker {}", without_password(url));
        return worker::run(config, registry, broker, stop)
            .await
            .map_err(StartError::Worker);
    }
    let embedded = Embedded::start(&config).await.map_err(StartError::Broker)?;
    embedded.announce(&config);
    let broker = embedded.options(&config);
    let ended = worker::run(config, registry, broker, stop).await;
    embedded.stop().await; // last: the worker settles to it
    ended.map_err(StartError::Worker)
}

/// Runs the embedded broker alone until asked to stop.
pub(crate) fn serve_broker(config: Config) -> ExitCode {
    start_log(config.log_level);
    let served = kernel::run(async move {
        let stop = Stop::new();
        ask_on_signals(&stop).map_err(StartError::Kernel)?;
        let embedded = Embedded::start(&config).await.map_err(StartError::Broker)?;
        embedded.announce(&config);
        let asked = stop.draining().await;
        embedded.stop().await;
        asked.map_err(|e| StartError::Worker(e.into()))
    });
    match served.map_err(StartError::Kernel).and_then(|ended| ended) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// SIGTERM and Ctrl-C ask `stop`, each time they come.
fn ask_on_signals(stop: &Stop) -> std::io::Result<()> {
    let mut signals =
        kernel::signal::Signals::new(&[kernel::signal::SIGTERM, kernel::signal::SIGINT])?;
    let stop = stop.clone();
    kernel::spawn(async move {
        while let Ok(signal) = signals.next().await {
            log::info!("signal {signal}");
            stop.ask();
        }
    })
    .name("signals")
    .daemon()
    .detach();
    Ok(())
}

/// The embedded broker, serving on this kernel.
pub(crate) struct Embedded {
    address: SocketAddr,
    stopper: amqp::broker::Stopper,
    serving: kernel::JoinHandle<Result<(), kernel::Error>>,
}

impl Embedded {
    /// Starts it where the configuration says.
    ///
    /// # Errors
    /// In words: the port is taken (by whom, and both cures), or users are missing.
    pub async fn start(config: &Config) -> Result<Self, String> {
        let (user, password) = (&config.broker_user, &config.broker_password);
        let is_default = user == "guest" && password == "guest";
        let users = (!is_default).then(|| User {
            name: user.clone(),
            password: password.clone(),
        });
        let settings = BrokerConfig {
            users: users.into_iter().collect(),
            ..BrokerConfig::on(config.broker_listen)
        };
        let broker = match Broker::bind(settings, MemoryStore).await {
            Ok(broker) => broker,
            Err(error) => return Err(explain(error).await),
        };
        Ok(Embedded {
            address: broker.local_addr(),
            stopper: broker.stopper(),
            serving: kernel::spawn(async move { broker.serve().await }).name("broker"),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How to connect to it.
    pub fn options(&self, config: &Config) -> ConnectOptions {
        ConnectOptions {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            user: config.broker_user.clone(),
            password: config.broker_password.clone(),
            ..Uri::parse(Config::DEFAULT_URL).expect("our own default URL")
        }
    }

    fn announce(&self, config: &Config) {
        let address = self.address;
        log::info!("embedded broker on amqp://{address}/%2F, for any AMQP 0-9-1 client");
        log::warn!(
            "it keeps messages in memory only: jobs that wait are lost when this program ends"
        );
        log::info!("send it a job:  {}", send_command(config, address));
    }

    /// Closes all connections and stops, saying what is lost with it.
    pub async fn stop(self) {
        if let Ok(stopped) = self.stopper.stop().await
            && stopped.messages_dropped > 0
        {
            let dropped = stopped.messages_dropped;
            log::warn!("the embedded broker drops {dropped} messages it held in memory");
        }
        let _ = self.serving.join().await;
    }
}

/// Settings that must be the same at both ends, beside the URL.
const SHARED: [&str; 4] = [
    "olive_amqp_exchange_name",
    "olive_amqp_queue_name",
    "olive_amqp_routing_key",
    "olive_amqp_queue_type",
];

/// The command that sends a job to the embedded broker, to be pasted into a shell (pure). A password of the
/// operator's own is left for them to fill in.
fn send_command(config: &Config, address: SocketAddr) -> String {
    let login = match (&*config.broker_user, &*config.broker_password) {
        ("guest", "guest") => "guest:guest".to_owned(),
        (user, _) => format!("{user}:PASSWORD"),
    };
    let url = format!("amqp://{login}@{address}/%2F");
    let url = (url != Config::DEFAULT_URL).then_some(("olive_amqp_url", &*url));
    let others = config
        .settings
        .iter()
        .filter(|setting| SHARED.contains(&setting.name) && setting.source != Source::Default)
        .map(|setting| (setting.name, &*setting.value));
    let mut command = String::new();
    for (name, value) in url.into_iter().chain(others) {
        command += &format!("{name}={} ", for_shell(value));
    }
    command + "olive send olive.tasks.sleep_n 1 --wait"
}

/// A word of a shell's command line.
fn for_shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:/@%[]".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

async fn explain(error: BindError) -> String {
    match error {
        BindError::Io { listen, source } if source.kind() == std::io::ErrorKind::AddrInUse => {
            kernel::run_in_thread(move || probe::advice(listen))
                .await
                .unwrap_or_else(|e| e.to_string())
        }
        BindError::NoUsers { listen } => format!(
            "the embedded broker will not listen on {listen}, which others can reach, with the \
             user guest: set olive_broker_user and olive_broker_password, or listen on 127.0.0.1"
        ),
        other => format!("the embedded broker did not start: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_shown_leads_to_this_worker() {
        let command = |config: &Config, port| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let command = send_command(config, address);
            command
                .strip_suffix("olive send olive.tasks.sleep_n 1 --wait")
                .expect("the same job always")
                .to_owned()
        };
        let mut config = Config::default();
        assert_eq!(command(&config, 5672), "");
        assert_eq!(
            command(&config, 9),
            "olive_amqp_url=amqp://guest:guest@127.0.0.1:9/%2F "
        );
        config.broker_user = "shop".into();
        let queue = config.settings.iter_mut().find(|s| s.name == SHARED[1]);
        let queue = queue.expect("a setting");
        (queue.value, queue.source) = ("the shop's".into(), Source::Flag);
        assert_eq!(
            command(&config, 5672),
            r"olive_amqp_url=amqp://shop:PASSWORD@127.0.0.1:5672/%2F olive_amqp_queue_name='the shop'\''s' "
        );
    }
}
