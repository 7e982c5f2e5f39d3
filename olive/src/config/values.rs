//! What stands in the sources as text becomes a [`Config`], value by value; what cannot be used is named.

use super::{Config, ConfigError, QueueType, Setting, Source, WorkerType};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

impl Config {
    pub(super) fn from_settings(
        settings: Vec<Setting>,
        executables: BTreeMap<String, Vec<String>>,
    ) -> Result<Self, ConfigError> {
        let get = |name: &str| {
            settings
                .iter()
                .find(|setting| setting.name == name)
                .expect("every name asked for is in SPECS")
        };
        let name_of = |name| typed(get(name), "1 to 255 bytes of text", amqp_name);
        Ok(Config {
            amqp_url: url(get("olive_amqp_url"))?,
            exchange: name_of("olive_amqp_exchange_name")?,
            queue: name_of("olive_amqp_queue_name")?,
            routing_key: name_of("olive_amqp_routing_key")?,
            queue_type: typed(get("olive_amqp_queue_type"), "classic or quorum", |v| {
                choose(
                    v,
                    &[
                        ("classic", QueueType::Classic),
                        ("quorum", QueueType::Quorum),
                    ],
                )
            })?,
            qos: typed(
                get("olive_amqp_qos"),
                "a whole number up to 65535 (0 or less: no limit)",
                |v| u16::try_from(number(v)?.max(0)).ok(),
            )?,
            num_workers: typed(
                get("olive_worker_num_workers"),
                "a whole number from 1 to 10000",
                |v| {
                    usize::try_from(number(v)?)
                        .ok()
                        .filter(|n| (1..=10_000).contains(n))
                },
            )?,
            worker_type: typed(get("olive_worker_worker_type"), "thread or process", |v| {
                choose(
                    v,
                    &[
                        ("thread", WorkerType::Thread),
                        ("process", WorkerType::Process),
                    ],
                )
            })?,
            drain_timeout: typed(
                get("olive_worker_drain_timeout"),
                "seconds, from 0 to 1000000",
                |v| {
                    v.parse()
                        .ok()
                        .filter(|s| (0.0..=1e6).contains(s))
                        .map(Duration::from_secs_f64)
                },
            )?,
            python: get("olive_python").value.clone().into(),
            python_modules: typed(
                get("olive_python_modules"),
                "module names such as myapp.tasks, separated by commas",
                module_names,
            )?,
            python_path: std::env::split_paths(&get("olive_python_path").value)
                .filter(|folder| !folder.as_os_str().is_empty())
                .collect(),
            executables,
            broker_listen: typed(
                get("olive_broker_listen"),
                "an address and port such as 127.0.0.1:5672",
                |v| v.parse().ok(),
            )?,
            broker_user: name_of("olive_broker_user")?,
            broker_password: get("olive_broker_password").value.clone(),
            log_level: typed(
                get("log_level"),
                "off, error, warn, info, debug or trace",
                log_level,
            )?,
            notices: {
                typed(get("olive_amqp_global_qos"), "true or false", truth)?;
                notices(&settings)
            },
            settings,
        })
    }
}

fn typed<T>(
    setting: &Setting,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, ConfigError> {
    parse(setting.value.trim()).ok_or_else(|| ConfigError {
        name: setting.name.to_owned(),
        source: setting.source.clone(),
        expected: expected.to_owned(),
        found: setting.value.clone(),
    })
}

fn url(setting: &Setting) -> Result<Option<String>, ConfigError> {
    let url = setting.value.trim();
    if url.is_empty() {
        return Ok(None);
    }
    match amqp::Uri::parse(url) {
        Ok(_) => Ok(Some(url.to_owned())),
        Err(error) => Err(ConfigError {
            name: setting.name.to_owned(),
            source: setting.source.clone(),
            expected: format!("amqp://user:password@host:port/vhost ({error})"),
            found: without_password(url),
        }),
    }
}

/// Queue, exchange and key are short strings in AMQP; the dead-letter queue's suffix must fit too.
fn amqp_name(value: &str) -> Option<String> {
    (1..=250).contains(&value.len()).then(|| value.to_owned())
}

fn number(value: &str) -> Option<i64> {
    i64::from_str(value).ok()
}

fn choose<T: Copy>(value: &str, choices: &[(&str, T)]) -> Option<T> {
    let found = choices
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(value));
    found.map(|(_, choice)| *choice)
}

fn truth(value: &str) -> Option<bool> {
    choose(
        value,
        &[
            ("true", true),
            ("1", true),
            ("yes", true),
            ("false", false),
            ("0", false),
            ("no", false),
        ],
    )
}

/// Rust's names, and Python's for those who bring an old configuration.
fn log_level(value: &str) -> Option<log::LevelFilter> {
    match value.to_ascii_lowercase().as_str() {
        "warning" => Some(log::LevelFilter::Warn),
        "critical" => Some(log::LevelFilter::Error),
        other => other.parse().ok(),
    }
}

fn module_names(value: &str) -> Option<Vec<String>> {
    let names = value
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names
        .map(|name| is_module_name(name).then(|| name.to_owned()))
        .collect()
}

fn is_module_name(name: &str) -> bool {
    name.split('.').all(|part| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.chars().all(|c| c == '_' || c.is_alphanumeric())
    })
}

fn notices(settings: &[Setting]) -> Vec<String> {
    let set = |name: &str| {
        settings
            .iter()
            .any(|s| s.name == name && s.source != Source::Default)
    };
    let mut notices = Vec::new();
    if set("olive_amqp_global_qos") {
        notices.push("olive_amqp_global_qos has no effect: olive sets prefetch for its own consumer only, and RabbitMQ 4.3 refuses the global kind".into());
    }
    if set("olive_worker_pool_imp") {
        notices.push("olive_worker_pool_imp has no effect: olive has one pool".into());
    }
    notices
}

/// A URL with its password replaced, for logs and `olive config`.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let Some(at) = rest[..authority_end].rfind('@') else {
        return url.to_owned();
    };
    match rest[..at].split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***{}", &rest[at..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("amqp://u:p@h:1/v"), "amqp://u:***@h:1/v");
        assert_eq!(without_password("amqp://u:p@ss@h/"), "amqp://u:***@h/");
        assert_eq!(without_password("amqp://h/v@x:y"), "amqp://h/v@x:y");
        assert_eq!(without_password("nonsense"), "nonsense");
    }
}
