//! What `olive queue` can be told.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use persipubsub::Strategy;

use super::framing::Framing;

/// A brokerless, persistent publish/subscribe queue: one directory, any number of processes.
#[derive(Parser)]
#[command(name = "olive queue", bin_name = "olive queue", max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Create a queue, or bring it in line: limits hold at once, missing subscribers are added
    Init(Init),
    /// Send messages: the arguments, or what comes on standard input
    Send(Send),
    /// Receive messages of a subscriber, oldest first, and write them out
    ///
    /// Exit code 3: nothing came in time.
    Receive(Receive),
    /// Receive the newest message of a subscriber and forget the older ones
    ///
    /// Exit code 3: nothing came in time.
    Top(Top),
    /// Show the queue in numbers
    Stat(Show),
    /// Remove messages whose time is over, or all of one subscriber
    Prune(Prune),
    /// Remove all messages, or subscribers with theirs
    Clear(Clear),
    /// Shrink the file to what is in use; nobody may have the queue open
    Compact(Compact),
}

impl Command {
    /// The queue's directory, or the file that says which.
    pub(super) fn path(&self) -> &Path {
        match self {
            Command::Init(args) => args.path.as_ref().or(args.config.as_ref()),
            Command::Send(args) => Some(&args.path),
            Command::Receive(args) => Some(&args.path),
            Command::Top(args) => Some(&args.path),
            Command::Stat(args) => Some(&args.path),
            Command::Prune(args) => Some(&args.path),
            Command::Clear(args) => Some(&args.path),
            Command::Compact(args) => Some(&args.path),
        }
        .expect("clap asks for a path or --config")
    }
}

#[derive(Args)]
pub(super) struct Init {
    /// The queue's directory, created if missing
    #[arg(required_unless_present = "config", conflicts_with = "config")]
    pub(super) path: Option<PathBuf>,
    /// Take everything from a deployment file (JSON)
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// A subscriber to register; may be repeated
    #[arg(
        long = "subscriber",
        short,
        value_name = "NAME",
        conflicts_with = "config",
        value_parser = name
    )]
    pub(super) subscribers: Vec<String>,
    /// A new subscriber begins with the oldest message kept, not with the next one sent
    #[arg(long, requires = "subscribers", conflicts_with = "config")]
    pub(super) from_oldest: bool,
    /// Most messages stored, at least 1 [default: 65536]
    #[arg(long, value_name = "N", conflicts_with = "config", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max_messages: Option<u64>,
    /// Most bytes of bodies stored [default: 30 GiB]
    #[arg(long, value_name = "BYTES", conflicts_with = "config")]
    pub(super) max_bytes: Option<u64>,
    /// Age past which a message is not delivered; `none` for no such age [default: 500]
    #[arg(long, value_name = "SECONDS", conflicts_with = "config", value_parser = seconds_or_none, allow_hyphen_values = true)]
    pub(super) message_timeout: Option<Duration>,
    /// prune_first, prune_last or reject [default: prune_first]
    #[arg(long, value_name = "STRATEGY", conflicts_with = "config", value_parser = strategy)]
    pub(super) strategy: Option<Strategy>,
    /// Attempts before a message becomes a dead letter, for the subscribers named, else for all; 0:
    /// any number [default: 0]
    #[arg(long, value_name = "N", conflicts_with = "config")]
    pub(super) max_attempts: Option<u32>,
    /// Most bytes the file can grow to, for a new queue [default: 32 GiB]
    #[arg(long, value_name = "BYTES", conflicts_with = "config")]
    pub(super) map_size: Option<usize>,
}

#[derive(Args)]
pub(super) struct Send {
    /// The queue's directory
    pub(super) path: PathBuf,
    /// Messages; without any, standard input is read
    pub(super) messages: Vec<OsString>,
    #[command(flatten)]
    pub(super) framing: Framing,
    /// Most messages in one transaction
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) batch: u32,
}

#[derive(Args)]
pub(super) struct Receive {
    /// The queue's directory
    pub(super) path: PathBuf,
    /// Its subscriber
    pub(super) subscriber: String,
    #[command(flatten)]
    pub(super) framing: Framing,
    /// How many messages
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, conflicts_with_all = ["all", "follow"])]
    pub(super) count: u64,
    /// All that is there, without waiting
    #[arg(long, conflicts_with = "follow")]
    pub(super) all: bool,
    /// All that is there and all that comes, for ever
    #[arg(long)]
    pub(super) follow: bool,
    /// How long to wait for a message
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds, allow_hyphen_values = true)]
    pub(super) timeout: Duration,
    /// The subscriber's dead letters instead
    #[arg(long)]
    pub(super) dead: bool,
}

#[derive(Args)]
pub(super) struct Top {
    /// The queue's directory
    pub(super) path: PathBuf,
    /// Its subscriber
    pub(super) subscriber: String,
    #[command(flatten)]
    pub(super) framing: Framing,
    /// How long to wait for a message
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds, allow_hyphen_values = true)]
    pub(super) timeout: Duration,
}

#[derive(Args)]
pub(super) struct Show {
    /// The queue's directory
    pub(super) path: PathBuf,
    /// As one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct Prune {
    /// The queue's directory
    pub(super) path: PathBuf,
    /// All messages of this subscriber, whatever their age
    #[arg(long, short, value_name = "NAME")]
    pub(super) subscriber: Option<String>,
}

#[derive(Args)]
pub(super) struct Clear {
    /// The queue's directory
    pub(super) path: PathBuf,
    /// Forget all subscribers, and with them all messages
    #[arg(long, conflicts_with = "subscriber")]
    pub(super) subscribers: bool,
    /// Forget this subscriber and its messages; may be repeated
    #[arg(long, short, value_name = "NAME")]
    pub(super) subscriber: Vec<String>,
}

#[derive(Args)]
pub(super) struct Compact {
    /// The queue's directory
    pub(super) path: PathBuf,
    /// Write a compact copy to this new file instead, while others use the queue
    #[arg(long, value_name = "FILE")]
    pub(super) to: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok();
    let time = number.and_then(|number| Duration::try_from_secs_f64(number).ok());
    time.ok_or_else(|| "a number of seconds is needed, 0 or more".to_owned())
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    match text {
        "none" => Ok(Duration::MAX),
        _ => seconds(text),
    }
}

fn name(text: &str) -> Result<String, String> {
    match text.len() {
        1..=255 => Ok(text.to_owned()),
        len => Err(format!("it has {len} bytes, 1 to 255 are needed")),
    }
}

fn strategy(text: &str) -> Result<Strategy, String> {
    match text {
        "prune_first" => Ok(Strategy::PruneFirst),
        "prune_last" => Ok(Strategy::PruneLast),
        "reject" => Ok(Strategy::Reject),
        _ => Err("prune_first, prune_last or reject".to_owned()),
    }
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
    fn times_and_names_have_bounds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["-1", "nan", "1e300", "soon", "none"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!(seconds_or_none("none"), Ok(Duration::MAX));
        assert!(name("").is_err() && name(&"n".repeat(256)).is_err() && name("a b").is_ok());
    }
}
