//! Deployment from a JSON file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::{HighWaterMark, Strategy, check_name};
use crate::control::Setup;
use crate::engine::{Durability, Options};
use crate::environment::Environment;
use crate::error::{Error, Result};

/// What a deployment file says. Unknown fields are refused; all but `path` have defaults.
///
/// ```json
/// {
///   "path": "/var/lib/app/queue",
///   "subscribers": ["indexer", "mailer"],
///   "high_water_mark": { "message_timeout": 500, "max_messages": 65536, "max_bytes": 32212254720 },
///   "strategy": "prune_first",
///   "max_attempts": 0,
///   "lmdb": { "map_size": 34359738368, "max_readers": 1024 },
///   "durability": "sync"
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// The directory; created if missing. A relative one is relative to the deployment file.
    pub path: PathBuf,
    #[serde(default)]
    subscribers: Vec<String>,
    #[serde(default)]
    high_water_mark: Mark,
    #[serde(default)]
    strategy: Strategy,
    max_attempts: Option<u32>,
    #[serde(default)]
    lmdb: Lmdb,
    #[serde(default)]
    durability: Level,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    /// Seconds; `null` for no timeout.
    #[serde(default, deserialize_with = "given")]
    message_timeout: Option<Option<f64>>,
    max_messages: Option<u64>,
    max_bytes: Option<u64>,
}

/// Tells a field that is `null` from one that is missing.
fn given<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lmdb {
    map_size: Option<usize>,
    max_readers: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    #[default]
    Sync,
    /// Seconds.
    Interval(f64),
    None,
}

impl Deployment {
    /// Reads a deployment file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Config`] if it does not say what it must.
    pub fn load(file: impl AsRef<Path>) -> Result<Self> {
        let file = file.as_ref();
        let text = std::fs::read_to_string(file).map_err(|error| Error::from(error).at(file))?;
        let mut deployment = Self::understand(&text)
            .map_err(|error| Error::Config(format!("{}: {error}", file.display())))?;
        if let Some(folder) = file.parent() {
            deployment.path = folder.join(&deployment.path);
        }
        Ok(deployment)
    }

    /// Reads a deployment from its text.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn parse(text: &str) -> Result<Self> {
        Self::understand(text).map_err(|error| Error::Config(format!("deployment: {error}")))
    }

    fn understand(text: &str) -> Result<Self, String> {
        let deployment: Deployment =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let bad = |text: &str| Err(text.to_owned());
        if deployment.high_water_mark.max_messages == Some(0) {
            return bad("high_water_mark.max_messages must be at least 1");
        }
        if deployment
            .subscribers
            .iter()
            .any(|name| check_name(name).is_err())
        {
            return bad("subscribers: a name must have 1 to 255 bytes");
        }
        let times = [
            deployment.high_water_mark.message_timeout.flatten(),
            deployment.durability.seconds(),
        ];
        if times
            .into_iter()
            .flatten()
            .any(|time| Duration::try_from_secs_f64(time).is_err())
        {
            return bad("a time must be a number of seconds, 0 or more");
        }
        let sizes = deployment.options().check();
        sizes.map_err(|error| format!("lmdb.{error}"))?;
        Ok(deployment)
    }

    /// What the store is to be initialised with.
    pub fn setup(&self) -> Setup {
        let default = HighWaterMark::default();
        let mark = &self.high_water_mark;
        let message_timeout = match mark.message_timeout {
            None => default.message_timeout,
            Some(None) => Duration::MAX,
            Some(Some(seconds)) => Duration::from_secs_f64(seconds),
        };
        let high_water_mark = HighWaterMark {
            message_timeout,
            max_messages: mark.max_messages.unwrap_or(default.max_messages),
            max_bytes: mark.max_bytes.unwrap_or(default.max_bytes),
        };
        let (strategy, max_attempts) = (self.strategy, self.max_attempts.unwrap_or(0));
        Setup {
            subscribers: self.subscribers.clone(),
            high_water_mark,
            strategy,
            max_attempts,
        }
    }

    /// How the store is to be opened.
    pub fn options(&self) -> Options {
        let default = Options::default();
        Options {
            map_size: self.lmdb.map_size,
            max_readers: self.lmdb.max_readers.unwrap_or(default.max_readers),
            durability: match self.durability {
                Level::Sync => Durability::Sync,
                Level::Interval(seconds) => Durability::Interval(Duration::from_secs_f64(seconds)),
                Level::None => Durability::None,
            },
        }
    }

    /// Creates, initialises or brings in line the store that the file describes, and opens it.
    ///
    /// # Errors
    /// As [`Environment::open`] and [`Control::reinitialize`](crate::Control::reinitialize).
    pub fn deploy(&self) -> Result<Environment> {
        let env = Environment::create(&self.path, self.options())?;
        let control = env.new_control();
        control.reinitialize(&self.setup())?;
        if let Some(max_attempts) = self.max_attempts {
            for name in &self.subscribers {
                control.set_max_attempts(name, max_attempts)?;
            }
        }
        Ok(env)
    }
}

impl Level {
    fn seconds(self) -> Option<f64> {
        match self {
            Level::Interval(seconds) => Some(seconds),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_path_has_a_default() {
        let deployment = Deployment::parse(r#"{"path": "q"}"#).unwrap();
        assert_eq!(deployment.setup(), Setup::default());
        assert_eq!(deployment.options(), Options::default());
    }

    #[test]
    fn every_field_is_heard() {
        let text = r#"{"path": "q", "subscribers": ["a"], "strategy": "reject", "max_attempts": 3,
            "high_water_mark": {"message_timeout": 1.5, "max_messages": 10, "max_bytes": 20},
            "lmdb": {"map_size": 1048576, "max_readers": 9}, "durability": {"interval": 0.5}}"#;
        let deployment = Deployment::parse(text).unwrap();
        let setup = deployment.setup();
        assert_eq!(
            (setup.subscribers, setup.strategy, setup.max_attempts),
            (vec!["a".into()], Strategy::Reject, 3)
        );
        let hwm = setup.high_water_mark;
        assert_eq!(
            (
                hwm.message_timeout.as_millis(),
                hwm.max_messages,
                hwm.max_bytes
            ),
            (1500, 10, 20)
        );
        let options = deployment.options();
        assert_eq!((options.map_size, options.max_readers), (Some(1 << 20), 9));
        assert_eq!(
            options.durability,
            Durability::Interval(Duration::from_millis(500))
        );
        let none =
            Deployment::parse(r#"{"path": "q", "high_water_mark": {"message_timeout": null}}"#)
                .unwrap();
        assert_eq!(none.setup().high_water_mark.message_timeout, Duration::MAX);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("{}", "path"),
            (r#"{"path": "q", "max_msgs_num": 1}"#, "max_msgs_num"),
            (r#"{"path": "q", "strategy": "prune"}"#, "prune_first"),
            (
                r#"{"path": "q", "high_water_mark": {"max_messages": 0}}"#,
                "max_messages",
            ),
            (
                r#"{"path": "q", "high_water_mark": {"message_timeout": -1}}"#,
                "seconds",
            ),
            (r#"{"path": "q", "subscribers": [""]}"#, "subscribers"),
            (
                r#"{"path": "q", "lmdb": {"max_readers": 0}}"#,
                "max_readers",
            ),
            (
                r#"{"path": "q", "lmdb": {"max_readers": 4294967295}}"#,
                "lmdb.max_readers",
            ),
            (
                r#"{"path": "q", "lmdb": {"map_size": 18446744073709551615}}"#,
                "lmdb.map_size",
            ),
        ] {
            let error = Deployment::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
