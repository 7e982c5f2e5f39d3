//! The rows of the suite, and which of them are asked for.

/// A row against the scripted sink.
pub struct SinkRow {
    pub name: &'static str,
    pub scenario: &'static str,
    /// Bytes of a body.
    pub size: usize,
    /// Messages of the short form.
    pub count: usize,
    /// For ours over the best peer in Rust; 1 KiB has none: it is printed for the picture.
    pub target: Option<f64>,
}

const fn row(
    name: &'static str,
    scenario: &'static str,
    size: usize,
    count: usize,
    target: Option<f64>,
) -> SinkRow {
    SinkRow {
        name,
        scenario,
        size,
        count,
        target,
    }
}

pub const SINK: [SinkRow; 9] = [
    row("publish", "publish", 16, 100_000, Some(0.2)),
    row("confirm", "confirm", 16, 100_000, Some(0.2)),
    row("consume-80", "consume-80", 16, 60_000, Some(0.25)),
    row("consume-1000", "consume-1000", 16, 60_000, Some(0.25)),
    row("consume-batch", "consume-batch", 16, 60_000, Some(0.3)),
    row("publish-1k", "publish", 1024, 60_000, None),
    row("consume-1k", "consume-80", 1024, 60_000, None),
    row("publish-64k", "publish", 65_536, 5_000, Some(0.8)),
    row("consume-64k", "consume-80", 65_536, 5_000, Some(0.8)),
];

pub const RABBIT: [&str; 3] = ["rabbit-confirm", "rabbit-consume", "rabbit-pingpong"];

/// What stands for all rows against the sink, and for all against RabbitMQ.
const GROUPS: [&str; 2] = ["sink", "rabbit"];

/// The rows to run.
#[derive(Debug, PartialEq)]
pub struct Rows(Vec<&'static str>);

impl Rows {
    /// Reads `--rows NAME,NAME`; all rows without it.
    ///
    /// # Errors
    /// A text for the user: names that no row has, and those that there are.
    pub fn from_arguments(arguments: &[String]) -> Result<Rows, String> {
        let Some(at) = arguments.iter().position(|argument| argument == "--rows") else {
            return Ok(Rows(all().collect()));
        };
        let asked: Vec<&str> = arguments
            .get(at + 1)
            .map(|names| names.split(',').collect())
            .unwrap_or_default();
        let unknown: Vec<&str> = asked
            .iter()
            .copied()
            .filter(|name| !GROUPS.contains(name) && all().all(|row| row != *name))
            .collect();
        if asked.is_empty() || !unknown.is_empty() {
            return Err(format!(
                "--rows wants names with commas between; no row is called {:?}; there are: {}; and for all of a kind: {}",
                unknown.join(","),
                all().collect::<Vec<_>>().join(", "),
                GROUPS.join(", "),
            ));
        }
        let wanted = |row: &&str| asked.iter().any(|name| name == row || *name == group(row));
        Ok(Rows(all().filter(wanted).collect()))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    /// Whether one of them needs a RabbitMQ node.
    pub fn need_rabbit(&self) -> bool {
        RABBIT.iter().any(|name| self.has(name))
    }
}

fn all() -> impl Iterator<Item = &'static str> {
    SINK.iter().map(|row| row.name).chain(RABBIT)
}

fn group(row: &str) -> &'static str {
    GROUPS[usize::from(RABBIT.contains(&row))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(arguments: &str) -> Result<Vec<&'static str>, String> {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        Rows::from_arguments(&arguments).map(|rows| rows.0)
    }

    #[test]
    fn all_are_the_default() {
        assert_eq!(rows("bench URL --quick").unwrap().len(), 12);
    }

    #[test]
    fn names_and_groups() {
        assert_eq!(
            rows("--rows rabbit-pingpong,publish --quick").unwrap(),
            ["publish", "rabbit-pingpong"]
        );
        assert_eq!(rows("--rows sink").unwrap().len(), SINK.len());
        assert_eq!(rows("--rows rabbit").unwrap(), RABBIT);
        assert_eq!(rows("--rows sink,publish").unwrap().len(), SINK.len());
    }

    #[test]
    fn an_unknown_name_is_told_with_those_that_there_are() {
        let text = rows("--rows publish,pingpong").unwrap_err();
        assert!(text.contains("\"pingpong\""), "{text}");
        assert!(text.contains("consume-64k, rabbit-confirm"), "{text}");
        rows("--rows").unwrap_err();
        rows("--rows publish,").unwrap_err();
    }

    #[test]
    fn only_rows_against_rabbitmq_need_it() {
        let needs = |names: &str| {
            let arguments = ["--rows".into(), names.into()];
            Rows::from_arguments(&arguments).unwrap().need_rabbit()
        };
        assert!(!needs("sink"));
        assert!(needs("publish,rabbit-consume"));
    }
}
