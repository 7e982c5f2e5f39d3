//! Where a setting's value comes from: flag, environment, TOML file, default, in that order.
//!
//! Everything here is still text; `config` gives it types. The environment is an argument, so
//! that tests need no process-wide state.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::ConfigError;

/// One setting: its name, its default and what it means.
pub(super) struct Spec {
    pub name: &'static str,
    /// In text, as it would stand in the environment.
    pub default: &'static str,
    pub meaning: &'static str,
}

/// Where a value was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A command-line flag or the program itself.
    Flag,
    /// This environment variable, in the case in which it was found.
    Environment(String),
    /// This TOML file.
    File(PathBuf),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("command line"),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Default => f.write_str("default"),
        }
    }
}

/// One setting with its value, for `olive config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name, as in the environment and in the file.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// The value as text; empty means "not set".
    pub value: String,
    /// Where the value was found.
    pub source: Source,
}

/// A TOML file as text values, and its table of executables.
#[derive(Default)]
pub(super) struct FileValues {
    pub values: BTreeMap<String, String>,
    pub executables: BTreeMap<String, Vec<String>>,
}

/// Looks every setting up in its sources, the strongest first. An empty environment variable
/// counts as absent.
pub(super) fn resolve(
    specs: &'static [Spec],
    flags: &[(&str, String)],
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<(&Path, &FileValues)>,
) -> Vec<Setting> {
    specs
        .iter()
        .map(|spec| {
            let (value, source) = find(spec, flags, env, file);
            Setting {
                name: spec.name,
                meaning: spec.meaning,
                value,
                source,
            }
        })
        .collect()
}

fn find(
    spec: &Spec,
    flags: &[(&str, String)],
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<(&Path, &FileValues)>,
) -> (String, Source) {
    if let Some((_, value)) = flags.iter().rfind(|(name, _)| *name == spec.name) {
        return (value.clone(), Source::Flag);
    }
    for name in [spec.name.to_owned(), spec.name.to_ascii_uppercase()] {
        if let Some(value) = env(&name).filter(|value| !value.trim().is_empty()) {
            return (value, Source::Environment(name));
        }
    }
    if let Some((path, found)) = file
        && let Some(value) = found.values.get(spec.name)
    {
        return (value.clone(), Source::File(path.to_owned()));
    }
    (spec.default.to_owned(), Source::Default)
}

/// Reads a TOML file: the settings by their names, and a table `[executables]` of
/// `"task.name" = ["program", "argument", …]`.
pub(super) fn parse_file(
    path: &Path,
    text: &str,
    specs: &[Spec],
) -> Result<FileValues, ConfigError> {
    let wrong = |name: &str, expected: &str, found: String| ConfigError {
        name: name.to_owned(),
        source: Source::File(path.to_owned()),
        expected: expected.to_owned(),
        found,
    };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        wrong("the file", "TOML", e.to_string().trim_end().to_owned())
    })?;
    let mut result = FileValues::default();
    for (name, value) in table {
        if name == "executables" {
            let toml::Value::Table(entries) = value else {
                return Err(wrong(&name, "a table", value.to_string()));
            };
            for (task, argv) in entries {
                let argv = argv_of(&argv).ok_or_else(|| {
                    wrong(
                        &format!("executables.{task}"),
                        "a list: program, then its arguments",
                        argv.to_string(),
                    )
                })?;
                result.executables.insert(task, argv);
            }
        } else if specs.iter().any(|spec| spec.name == name) {
            let text = text_of(&value).ok_or_else(|| {
                wrong(
                    &name,
                    "text, a number, true or false, or a list of text",
                    value.to_string(),
                )
            })?;
            result.values.insert(name, text);
        } else {
            return Err(wrong(
                &name,
                "a setting olive knows (`olive config` lists them)",
                name.clone(),
            ));
        }
    }
    Ok(result)
}

fn argv_of(value: &toml::Value) -> Option<Vec<String>> {
    let list = value.as_array()?;
    let argv: Option<Vec<String>> = list
        .iter()
        .map(|part| part.as_str().map(str::to_owned))
        .collect();
    argv.filter(|argv| argv.first().is_some_and(|program| !program.is_empty()))
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => {
            Some(value.to_string())
        }
        toml::Value::Array(list) => list
            .iter()
            .map(toml::Value::as_str)
            .collect::<Option<Vec<_>>>()
            .map(|parts| parts.join(",")),
        _ => None,
    }
}
