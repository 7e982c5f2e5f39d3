//! The configuration: one value made at start, frozen afterwards, handed down.
//!
//! A value given on the command line wins over the environment (the name in either case, an empty
//! variable counts as absent), the environment over the TOML file, the file over the default.
//! Each value remembers where it came from, and an error names that place.

mod sources;
mod specs;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use sources::{Setting, Source};
use sources::{parse_file, resolve};
use specs::SPECS;
pub use values::without_password;

/// The file read when none is named, if it is there.
const DEFAULT_FILE: &str = "olive.toml";

/// Everything a worker or producer needs to know, with types.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker's URL; `None` means the embedded broker.
    pub amqp_url: Option<String>,
    /// The direct exchange that jobs are published to.
    pub exchange: String,
    /// The queue that jobs are taken from.
    pub queue: String,
    /// The key that binds the queue to the exchange.
    pub routing_key: String,
    /// Classic or quorum.
    pub queue_type: QueueType,
    /// Prefetch; 0 means no limit.
    pub qos: u16,
    /// How many jobs run at once; at least 1.
    pub num_workers: usize,
    /// Where Rust tasks without a timeout run.
    pub worker_type: WorkerType,
    /// How long running jobs get to finish once asked to stop.
    pub drain_timeout: Duration,
    /// The Python interpreter.
    pub python: PathBuf,
    /// The modules whose public functions are tasks.
    pub python_modules: Vec<String>,
    /// Folders to find Python modules in, before the usual ones.
    pub python_path: Vec<PathBuf>,
    /// Programs that are tasks: task name → program and arguments. From the file only.
    pub executables: BTreeMap<String, Vec<String>>,
    /// Where the embedded broker listens.
    pub broker_listen: SocketAddr,
    /// The embedded broker's only user.
    pub broker_user: String,
    /// That user's password.
    pub broker_password: String,
    /// What is logged.
    pub log_level: log::LevelFilter,
    /// Each setting as text with its source, in the order `olive config` prints.
    pub settings: Vec<Setting>,
    /// What the operator should be told at start: settings without effect.
    pub notices: Vec<String>,
}

/// `olive_amqp_queue_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// A queue on one node.
    Classic,
    /// A replicated queue; declared with a delivery limit and dead-lettering.
    Quorum,
}

/// `olive_worker_worker_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerType {
    /// On threads of the worker's own process.
    Thread,
    /// In processes of the same binary.
    Process,
}

/// A value that cannot be used: which setting, from where, what was expected and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The setting.
    pub name: String,
    /// Where the value stands.
    pub source: Source,
    /// What would have been accepted.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError {
            name,
            source,
            expected,
            found,
        } = self;
        write!(f, "{name}: expected {expected}, found {found:?} ({source})")
    }
}

impl std::error::Error for ConfigError {}

impl Default for Config {
    /// The defaults alone: no environment, no file.
    fn default() -> Self {
        Config::from_parts(&[], &|_| None, None).expect("the defaults are valid")
    }
}

impl Config {
    /// The configuration of this process: environment, then the file named by `olive_config` or
    /// `./olive.toml` if it exists, then the defaults.
    ///
    /// # Errors
    /// A file that cannot be read or is no TOML, an unknown name in it, a value that is not what
    /// its setting takes.
    pub fn load() -> Result<Self, ConfigError> {
        Config::load_with(&[], None)
    }

    /// As [`load`](Self::load), with flags (setting name and value) that win over the rest, and
    /// with the file to read, if the caller was told one.
    ///
    /// # Errors
    /// As for `load`.
    pub fn load_with(flags: &[(&str, String)], file: Option<&Path>) -> Result<Self, ConfigError> {
        let env = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
        let named = file.map(Path::to_owned).or_else(|| {
            let name = env("olive_config").or_else(|| env("OLIVE_CONFIG"));
            name.filter(|name| !name.is_empty()).map(PathBuf::from)
        });
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        match std::fs::read_to_string(&path) {
            Ok(text) => Config::from_parts(flags, &env, Some((&path, &text))),
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
                Config::from_parts(flags, &env, None)
            }
            Err(e) => Err(ConfigError {
                name: "the configuration file".into(),
                source: Source::File(path),
                expected: "a file that can be read".into(),
                found: e.to_string(),
            }),
        }
    }

    fn from_parts(
        flags: &[(&str, String)],
        env: &dyn Fn(&str) -> Option<String>,
        file: Option<(&Path, &str)>,
    ) -> Result<Self, ConfigError> {
        let parsed = match file {
            Some((path, text)) => Some((path, parse_file(path, text, SPECS)?)),
            None => None,
        };
        let settings = resolve(
            SPECS,
            flags,
            env,
            parsed.as_ref().map(|(path, values)| (*path, values)),
        );
        let executables = parsed.map(|(_, f)| f.executables).unwrap_or_default();
        Config::from_settings(settings, executables)
    }

    /// The URL that is connected to when none is configured: the default broker on this machine.
    pub const DEFAULT_URL: &'static str = "amqp://guest:guest@127.0.0.1:5672/%2F";

    /// The name of the dead-letter queue.
    pub fn dead_queue(&self) -> String {
        format!("{}.dead", self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(
        flags: &[(&str, &str)],
        env: &[(&str, &str)],
        file: Option<&str>,
    ) -> Result<Config, ConfigError> {
        let flags: Vec<(&str, String)> = flags.iter().map(|(n, v)| (*n, v.to_string())).collect();
        let env = |name: &str| {
            let found = env.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| v.to_string())
        };
        Config::from_parts(
            &flags,
            &env,
            file.map(|text| (Path::new("olive.toml"), text)),
        )
    }

    fn source(config: &Config, name: &str) -> String {
        let found = config.settings.iter().find(|s| s.name == name).unwrap();
        format!("{} from {}", found.value, found.source)
    }

    #[test]
    fn the_defaults_are_the_published_ones() {
        let c = Config::default();
        assert_eq!(
            (c.exchange.as_str(), c.queue.as_str()),
            ("Olive.x", "Olive.q")
        );
        assert_eq!(
            (c.routing_key.as_str(), c.qos, c.num_workers),
            ("Olive.k", 80, 20)
        );
        assert_eq!(c.worker_type, WorkerType::Thread);
        assert_eq!(c.drain_timeout, Duration::from_secs(25));
        assert_eq!(c.dead_queue(), "Olive.q.dead");
        assert!(c.amqp_url.is_none() && c.notices.is_empty());
    }

    #[test]
    fn the_nearer_source_wins() {
        let name = "olive_worker_num_workers";
        let file = Some("olive_worker_num_workers = 3");
        let all = config(&[(name, "1")], &[(name, "2")], file).unwrap();
        assert_eq!(
            (all.num_workers, source(&all, name)),
            (1, "1 from command line".into())
        );
        let env = config(&[], &[("OLIVE_WORKER_NUM_WORKERS", "2")], file).unwrap();
        assert_eq!(
            source(&env, name),
            "2 from environment OLIVE_WORKER_NUM_WORKERS"
        );
        let file = config(&[], &[(name, "")], file).unwrap();
        assert_eq!(source(&file, name), "3 from file olive.toml");
        assert_eq!(
            source(&config(&[], &[], None).unwrap(), name),
            "20 from default"
        );
    }

    #[test]
    fn a_wrong_value_is_named() {
        let e = config(&[], &[("OLIVE_WORKER_NUM_WORKERS", "twenty")], None).unwrap_err();
        assert_eq!(
            e.to_string(),
            "olive_worker_num_workers: expected a whole number from 1 to 10000, found \"twenty\" \
             (environment OLIVE_WORKER_NUM_WORKERS)"
        );
        for (name, value) in [
            ("olive_amqp_url", "http://host"),
            ("olive_amqp_qos", "70000"),
            ("olive_amqp_queue_type", "lazy"),
            ("olive_worker_worker_type", "fiber"),
            ("olive_worker_drain_timeout", "-1"),
            ("olive_worker_drain_timeout", "nan"),
            ("olive_python_modules", "os; rm"),
            ("olive_broker_listen", "localhost"),
            ("olive_amqp_global_qos", "maybe"),
            ("log_level", "loud"),
        ] {
            assert_eq!(config(&[(name, value)], &[], None).unwrap_err().name, name);
        }
    }

    #[test]
    fn a_file_is_read_strictly() {
        let text = "olive_python_modules = ['a.b', 'c']\nlog_level = 'DEBUG'\n\
                    [executables]\n'shop.resize' = ['/usr/bin/env', 'true']";
        let c = config(&[], &[], Some(text)).unwrap();
        assert_eq!(c.python_modules, ["a.b", "c"]);
        assert_eq!(c.log_level, log::LevelFilter::Debug);
        assert_eq!(c.executables["shop.resize"], ["/usr/bin/env", "true"]);
        for (text, name) in [
            ("olive_qos = 1", "olive_qos"),
            ("olive_amqp_qos = {}", "olive_amqp_qos"),
            ("executables = 1", "executables"),
            ("[executables]\nx = []", "executables.x"),
            ("[executables]\nx = 'ls -l'", "executables.x"),
            ("= 1", "the file"),
        ] {
            assert_eq!(
                config(&[], &[], Some(text)).unwrap_err().name,
                name,
                "{text}"
            );
        }
    }

    #[test]
    fn qos_of_zero_or_less_is_no_limit() {
        for value in ["0", "-1"] {
            assert_eq!(
                config(&[("olive_amqp_qos", value)], &[], None).unwrap().qos,
                0
            );
        }
    }

    #[test]
    fn old_settings_are_accepted_with_a_notice() {
        let env = [
            ("olive_amqp_global_qos", "true"),
            ("olive_worker_pool_imp", "curio"),
        ];
        assert_eq!(config(&[], &env, None).unwrap().notices.len(), 2);
    }
}
