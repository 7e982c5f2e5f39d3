//! The command line: reads arguments, calls the library, chooses the exit code; nothing else.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError, Setting, without_password};
use crate::registry::Registry;
use crate::{app, demo, pool, queue_cli, send};

/// A task queue: any AMQP client sends jobs, which run Rust functions, Python functions or
/// executables, and are settled exactly as promised.
#[derive(Parser)]
#[command(name = "olive", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    settings: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run jobs until SIGTERM or Ctrl-C; without a URL, with a broker of its own
    ///
    /// Exit code: 0 stopped in good order, 1 something that trying again does not help, 2 wrong
    /// arguments or configuration, 3 stopped with jobs cut off.
    Run,
    /// Submit a job
    ///
    /// Exit code with --wait: 0 done, 3 failed, 4 timed out, 5 rejected, 6 cancelled. 1: it could
    /// not be sent, 2: wrong arguments.
    Send(send::SendArgs),
    /// Run the embedded broker alone
    Broker,
    /// Start a broker and a worker, run about 2,000 jobs of every kind and show what became of them
    Demo,
    /// Print every setting with its value and where it came from
    Config,
    /// A brokerless, persistent publish/subscribe queue in a directory: see `olive queue --help`
    ///
    /// Dispatched before anything else is parsed: it has arguments of its own and no settings.
    #[command(disable_help_flag = true)]
    Queue {
        /// Taken in only to be told where it belongs.
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        _arguments: Vec<OsString>,
    },
}

/// Settings that can be given as flags, to every command.
#[derive(Args)]
#[command(
    next_help_heading = "Settings (also from the environment and olive.toml: see `olive config`)"
)]
struct Flags {
    /// TOML file with settings [default: olive.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Broker, as amqp://user:password@host:port/vhost
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Exchange that jobs are published to
    #[arg(long, global = true, value_name = "NAME")]
    exchange: Option<String>,
    /// Queue that jobs are taken from
    #[arg(long, global = true, value_name = "NAME")]
    queue: Option<String>,
    /// Key that binds the queue to the exchange
    #[arg(long, global = true, value_name = "KEY")]
    routing_key: Option<String>,
    /// classic or quorum
    #[arg(long, global = true, value_name = "TYPE")]
    queue_type: Option<String>,
    /// Most jobs held at once; 0: no limit
    #[arg(long, global = true, value_name = "N", allow_hyphen_values = true)]
    qos: Option<String>,
    /// Jobs that run at once
    #[arg(long, global = true, value_name = "N")]
    workers: Option<String>,
    /// Where Rust tasks without a timeout run: thread or process
    #[arg(long, global = true, value_name = "TYPE")]
    worker_type: Option<String>,
    /// Seconds that running jobs get to finish once asked to stop
    #[arg(long, global = true, value_name = "SECONDS")]
    drain_timeout: Option<String>,
    /// Python modules whose public functions are tasks, separated by commas
    #[arg(long, global = true, value_name = "MODULE", value_delimiter = ',')]
    python: Vec<String>,
    /// Python interpreter, such as venv/bin/python
    #[arg(long, global = true, value_name = "PROGRAM")]
    python_interpreter: Option<String>,
    /// Address of the embedded broker
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// off, error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Flags {
    fn load(&self) -> Result<Config, ConfigError> {
        let modules = (!self.python.is_empty()).then(|| self.python.join(","));
        let flags = [
            ("olive_amqp_url", &self.url),
            ("olive_amqp_exchange_name", &self.exchange),
            ("olive_amqp_queue_name", &self.queue),
            ("olive_amqp_routing_key", &self.routing_key),
            ("olive_amqp_queue_type", &self.queue_type),
            ("olive_amqp_qos", &self.qos),
            ("olive_worker_num_workers", &self.workers),
            ("olive_worker_worker_type", &self.worker_type),
            ("olive_worker_drain_timeout", &self.drain_timeout),
            ("olive_python_modules", &modules),
            ("olive_python", &self.python_interpreter),
            ("olive_broker_listen", &self.listen),
            ("log_level", &self.log_level),
        ];
        let given: Vec<(&str, String)> = flags
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)))
            .collect();
        Config::load_with(&given, self.config.as_deref())
    }
}

/// What the `olive` binary's `main` returns.
pub fn main() -> ExitCode {
    let registry = Registry::with_builtins();
    if let Some(code) = pool::enter_hidden_mode(&registry) {
        return code;
    }
    run(std::env::args_os(), registry)
}

fn run(arguments: impl IntoIterator<Item = OsString>, registry: Registry) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|first| first == "queue") {
        return queue_cli::run(arguments.into_iter().skip(1));
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that go to standard output and end with 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let config = match cli.settings.load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("olive: {error}");
            return ExitCode::from(2);
        }
    };
    match cli.command {
        Command::Run => app::serve(config, registry),
        Command::Broker => app::serve_broker(config),
        Command::Send(args) => send::send(config, args),
        Command::Demo => demo::demo(config, registry),
        Command::Config => print_config(&config),
        Command::Queue { .. } => {
            eprintln!("olive: settings have no place before `queue`; say `olive queue …`");
            ExitCode::from(2)
        }
    }
}

fn print_config(config: &Config) -> ExitCode {
    let shown = |setting: &Setting| match setting.name {
        "olive_broker_password" => "***".to_owned(),
        "olive_amqp_url" => without_password(&setting.value),
        _ => setting.value.clone(),
    };
    let rows: Vec<[String; 3]> = config
        .settings
        .iter()
        .map(|s| [s.name.to_owned(), shown(s), s.source.to_string()])
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let (names, values) = (width(0), width(1));
    for ([name, value, source], setting) in rows.iter().zip(&config.settings) {
        println!(
            "{name:names$}  {value:values$}  ({source})  # {}",
            setting.meaning
        );
    }
    for (task, argv) in &config.executables {
        println!("executable {task}  {argv:?}");
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_stand_before_and_after_the_command() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ').map(OsString::from));
        let cli = parse("olive run --qos -1 --python a.b,c --workers 3 --python d")
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(cli.settings.python, ["a.b", "c", "d"]);
        assert_eq!(cli.settings.qos.as_deref(), Some("-1"));
        assert!(parse("olive --url amqp://h send f 1 -2 --count 3").is_ok());
        assert!(parse("olive").is_err());
        // A module list ends with its word: what follows is not taken for one more module.
        assert!(parse("olive --python a.b run").is_ok());
        assert!(parse("olive run --python a.b c").is_err());
    }
}
