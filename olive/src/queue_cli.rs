//! `olive queue …`: persipubsub from a shell, with pipes in mind.
//!
//! A message is a line by default, or ends with NUL (`--nul`), or follows its length (`--length`, a
//! 32-bit big-endian count of bytes), the same on standard input and output. What is received is
//! settled only after it was written out, so a broken pipe loses nothing.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use persipubsub::{
    Control, Deployment, Environment, Error, HighWaterMark, Options, Setup, Stat, Strategy,
    Subscriber,
};

/// A brokerless, persistent publish/subscribe queue: one directory, any number of processes.
#[derive(Parser)]
#[command(name = "olive queue", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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

#[derive(Args)]
struct Init {
    /// The queue's directory, created if missing
    #[arg(required_unless_present = "config", conflicts_with = "config")]
    path: Option<PathBuf>,
    /// Take everything from a deployment file (JSON)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A subscriber to register; may be repeated
    #[arg(
        long = "subscriber",
        short,
        value_name = "NAME",
        conflicts_with = "config"
    )]
    subscribers: Vec<String>,
    /// Most messages stored [default: 65536]
    #[arg(long, value_name = "N", conflicts_with = "config")]
    max_messages: Option<u64>,
    /// Most bytes of bodies stored [default: 30 GiB]
    #[arg(long, value_name = "BYTES", conflicts_with = "config")]
    max_bytes: Option<u64>,
    /// Age past which a message is not delivered [default: 500]
    #[arg(long, value_name = "SECONDS", conflicts_with = "config", value_parser = seconds)]
    message_timeout: Option<Duration>,
    /// prune_first, prune_last or reject [default: prune_first]
    #[arg(long, value_name = "STRATEGY", conflicts_with = "config", value_parser = strategy)]
    strategy: Option<Strategy>,
    /// Attempts before a message becomes a dead letter; 0: any number [default: 0]
    #[arg(long, value_name = "N", conflicts_with = "config")]
    max_attempts: Option<u32>,
    /// Most bytes the file can grow to, for a new queue [default: 32 GiB]
    #[arg(long, value_name = "BYTES", conflicts_with = "config")]
    map_size: Option<usize>,
}

/// Where one message ends.
#[derive(Args, Clone, Copy)]
struct Framing {
    /// A message ends with NUL instead of a line's end
    #[arg(long, short = '0', conflicts_with = "length")]
    nul: bool,
    /// A message follows its length, 4 bytes, big-endian
    #[arg(long)]
    length: bool,
}

#[derive(Args)]
struct Send {
    /// The queue's directory
    path: PathBuf,
    /// Messages; without any, standard input is read
    messages: Vec<String>,
    #[command(flatten)]
    framing: Framing,
    /// Most messages in one transaction
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
}

#[derive(Args)]
struct Receive {
    /// The queue's directory
    path: PathBuf,
    /// Its subscriber
    subscriber: String,
    #[command(flatten)]
    framing: Framing,
    /// How many messages
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, conflicts_with_all = ["all", "follow"])]
    count: u64,
    /// All that is there, without waiting
    #[arg(long, conflicts_with = "follow")]
    all: bool,
    /// All that is there and all that comes, for ever
    #[arg(long)]
    follow: bool,
    /// How long to wait for a message
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    timeout: Duration,
    /// The subscriber's dead letters instead
    #[arg(long)]
    dead: bool,
}

#[derive(Args)]
struct Top {
    /// The queue's directory
    path: PathBuf,
    /// Its subscriber
    subscriber: String,
    #[command(flatten)]
    framing: Framing,
    /// How long to wait for a message
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    timeout: Duration,
}

#[derive(Args)]
struct Show {
    /// The queue's directory
    path: PathBuf,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Prune {
    /// The queue's directory
    path: PathBuf,
    /// All messages of this subscriber, whatever their age
    #[arg(long, short, value_name = "NAME")]
    subscriber: Option<String>,
}

#[derive(Args)]
struct Clear {
    /// The queue's directory
    path: PathBuf,
    /// Forget all subscribers, and with them all messages
    #[arg(long, conflicts_with = "subscriber")]
    subscribers: bool,
    /// Forget this subscriber and its messages; may be repeated
    #[arg(long, short, value_name = "NAME")]
    subscriber: Vec<String>,
}

#[derive(Args)]
struct Compact {
    /// The queue's directory
    path: PathBuf,
    /// Write a compact copy to this new file instead, while others use the queue
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "a number of seconds is needed".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

fn strategy(text: &str) -> Result<Strategy, String> {
    match text {
        "prune_first" => Ok(Strategy::PruneFirst),
        "prune_last" => Ok(Strategy::PruneLast),
        "reject" => Ok(Strategy::Reject),
        _ => Err("prune_first, prune_last or reject".to_owned()),
    }
}

/// What ends a command early.
#[derive(Debug)]
enum Failure {
    Store(Error),
    Io(io::Error),
    /// Nothing came in time.
    Nothing,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Store(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

type Outcome = Result<(), Failure>;

/// Runs `olive queue` with these arguments, of which the first is the program's name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match cli.command {
        Command::Init(args) => init(args),
        Command::Send(args) => send(args),
        Command::Receive(args) => receive(args),
        Command::Top(args) => top(args),
        Command::Stat(args) => stat(args),
        Command::Prune(args) => prune(args),
        Command::Clear(args) => clear(args),
        Command::Compact(args) => compact(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Nothing) => ExitCode::from(3),
        // Whoever reads our output has had enough: that is how pipes end.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(Failure::Io(error)) => complain(&error),
        Err(Failure::Store(error)) => complain(&error),
    }
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("olive queue: {error}");
    ExitCode::FAILURE
}

/// Opens a queue that must be there: a mistyped path is an error, not a new queue.
fn open(path: &PathBuf) -> Result<Environment, Failure> {
    if !path.join("data.mdb").exists() {
        return Err(Error::NotInitialized(path.clone()).into());
    }
    Ok(Environment::open(path)?)
}

fn init(args: Init) -> Outcome {
    if let Some(file) = args.config {
        Deployment::load(file)?.deploy()?;
        return Ok(());
    }
    let path = args.path.expect("clap asks for a path without --config");
    let options = Options {
        map_size: args.map_size,
        ..Options::default()
    };
    let control = Environment::create(path, options)?.new_control();
    // What is not said stays as it is in a queue that is there.
    let (mut hwm, mut chosen) = (HighWaterMark::default(), Strategy::default());
    if control.is_initialized()? {
        let stat = control.stat()?;
        hwm = HighWaterMark {
            message_timeout: Duration::try_from_secs_f64(stat.message_timeout_seconds)
                .unwrap_or(Duration::MAX),
            max_messages: stat.max_messages,
            max_bytes: stat.max_bytes,
        };
        chosen = stat.strategy;
    }
    let high_water_mark = HighWaterMark {
        message_timeout: args.message_timeout.unwrap_or(hwm.message_timeout),
        max_messages: args.max_messages.unwrap_or(hwm.max_messages),
        max_bytes: args.max_bytes.unwrap_or(hwm.max_bytes),
    };
    let (strategy, max_attempts) = (
        args.strategy.unwrap_or(chosen),
        args.max_attempts.unwrap_or(0),
    );
    control.reinitialize(&Setup {
        subscribers: args.subscribers.clone(),
        high_water_mark,
        strategy,
        max_attempts,
    })?;
    for name in args
        .subscribers
        .iter()
        .filter(|_| args.max_attempts.is_some())
    {
        control.set_max_attempts(name, max_attempts)?;
    }
    Ok(())
}

fn send(args: Send) -> Outcome {
    let publisher = open(&args.path)?.new_publisher()?;
    if !args.messages.is_empty() {
        publisher.send_many(args.messages)?;
        return Ok(());
    }
    let mut input = BufReader::with_capacity(1 << 18, io::stdin().lock());
    let mut batch = Vec::new();
    loop {
        let message = args.framing.read(&mut input)?;
        let end = message.is_none();
        batch.extend(message);
        // One transaction for what has come; a slow writer's line does not wait for the next one.
        let pause = end || !args.framing.is_whole(input.buffer());
        if (pause || batch.len() >= args.batch as usize) && !batch.is_empty() {
            publisher.send_many(std::mem::take(&mut batch))?;
        }
        if end {
            return Ok(());
        }
    }
}

fn receive(args: Receive) -> Outcome {
    let mut subscriber = open(&args.path)?.new_subscriber(&args.subscriber)?;
    if args.dead {
        subscriber = subscriber.dead_letters();
    }
    let (mut left, timeout) = match (args.all, args.follow) {
        (true, _) => (u64::MAX, Duration::ZERO),
        (_, true) => (u64::MAX, Duration::MAX),
        _ => (args.count, args.timeout),
    };
    let mut any = false;
    while left > 0 {
        let batch = subscriber.receive_batch(left.min(100) as usize, timeout)?;
        if batch.is_empty() {
            return if any || args.all {
                Ok(())
            } else {
                Err(Failure::Nothing)
            };
        }
        any = true;
        left -= batch.len() as u64;
        let mut output = io::stdout().lock();
        batch
            .bodies()
            .try_for_each(|body| args.framing.write(&mut output, body))?;
        output.flush()?;
        batch.ack()?;
    }
    Ok(())
}

fn top(args: Top) -> Outcome {
    let subscriber: Subscriber = open(&args.path)?.new_subscriber(&args.subscriber)?;
    let message = subscriber
        .receive_to_top(args.timeout)?
        .ok_or(Failure::Nothing)?;
    let mut output = io::stdout().lock();
    args.framing.write(&mut output, &message)?;
    output.flush()?;
    Ok(message.ack()?)
}

fn stat(args: Show) -> Outcome {
    let stat = open(&args.path)?.new_control().stat()?;
    let mut output = io::stdout().lock();
    if args.json {
        return Ok(writeln!(
            output,
            "{}",
            serde_json::to_string(&stat).expect("numbers and names")
        )?);
    }
    Ok(show(&stat, &mut output)?)
}

fn show(stat: &Stat, output: &mut impl Write) -> io::Result<()> {
    let Stat {
        messages,
        bytes,
        max_messages,
        max_bytes,
        next_sequence,
        ..
    } = stat;
    writeln!(
        output,
        "messages    {messages} of {max_messages}, {bytes} bytes of {max_bytes}, next is {next_sequence}"
    )?;
    writeln!(
        output,
        "timeout     {} s, strategy {}",
        stat.message_timeout_seconds,
        text(stat.strategy)
    )?;
    let Stat {
        file_bytes,
        used_bytes,
        free_pages,
        map_bytes,
        readers,
        ..
    } = stat;
    writeln!(
        output,
        "file        {file_bytes} bytes, {used_bytes} in use, {free_pages} pages free, map {map_bytes}, readers {readers}"
    )?;
    if !stat.subscribers.is_empty() {
        writeln!(
            output,
            "\n{:<24} {:>10} {:>8} {:>8} {:>6} {:>12} {:>10} {:>10}",
            "subscriber", "depth", "leased", "delayed", "dead", "bytes", "lag", "oldest s"
        )?;
    }
    for one in &stat.subscribers {
        let age = one
            .oldest_age_seconds
            .map_or("-".to_owned(), |age| format!("{age:.1}"));
        writeln!(
            output,
            "{:<24} {:>10} {:>8} {:>8} {:>6} {:>12} {:>10} {age:>10}",
            one.name, one.depth, one.leased, one.delayed, one.dead, one.bytes, one.lag
        )?;
    }
    Ok(())
}

fn text(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::PruneFirst => "prune_first",
        Strategy::PruneLast => "prune_last",
        Strategy::Reject => "reject",
    }
}

fn prune(args: Prune) -> Outcome {
    let control = open(&args.path)?.new_control();
    let gone = match args.subscriber {
        Some(name) => control.prune_all_messages_for(&name)?,
        None => control.prune_dangling_messages()?,
    };
    Ok(writeln!(io::stdout(), "{gone} messages removed")?)
}

fn clear(args: Clear) -> Outcome {
    let control = open(&args.path)?.new_control();
    if args.subscribers {
        return Ok(writeln!(
            io::stdout(),
            "{} subscribers removed",
            control.clear_subscribers()?
        )?);
    }
    if args.subscriber.is_empty() {
        return Ok(writeln!(
            io::stdout(),
            "{} messages removed",
            control.clear_messages()?
        )?);
    }
    for name in args.subscriber {
        if !control.remove_subscriber(&name)? {
            return Err(Error::UnknownSubscriber(name).into());
        }
    }
    Ok(())
}

fn compact(args: Compact) -> Outcome {
    match args.to {
        Some(file) => open(&args.path)?.new_control().compact_to(file)?,
        None => {
            drop(open(&args.path)?);
            Control::compact(&args.path, Options::default())?;
        }
    }
    Ok(())
}

impl Framing {
    /// The next message, or `None` at the end of the input.
    fn read(self, input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
        if self.length {
            return read_counted(input);
        }
        let end = if self.nul { 0 } else { b'\n' };
        let mut message = Vec::new();
        if input.read_until(end, &mut message)? == 0 {
            return Ok(None);
        }
        if message.last() == Some(&end) {
            message.pop();
        }
        Ok(Some(message))
    }

    /// Whether these bytes begin with a whole message.
    fn is_whole(self, bytes: &[u8]) -> bool {
        match bytes.first_chunk::<4>() {
            Some(len) if self.length => bytes.len() - 4 >= u32::from_be_bytes(*len) as usize,
            _ => !self.length && bytes.contains(if self.nul { &0 } else { &b'\n' }),
        }
    }

    fn write(self, output: &mut impl Write, message: &[u8]) -> io::Result<()> {
        if self.length {
            let len = u32::try_from(message.len()).map_err(io::Error::other)?;
            output.write_all(&len.to_be_bytes())?;
            return output.write_all(message);
        }
        output.write_all(message)?;
        output.write_all(if self.nul { b"\0" } else { b"\n" })
    }
}

fn read_counted(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    if input.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len);
    // Not allocated before it has come: the length is the writer's claim.
    let mut message = Vec::new();
    input.take(len.into()).read_to_end(&mut message)?;
    if message.len() < len as usize {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the input ends inside a message",
        ));
    }
    Ok(Some(message))
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
    fn every_framing_reads_what_it_wrote() {
        let framings = [(false, false), (true, false), (false, true)];
        for (nul, length) in framings {
            let framing = Framing { nul, length };
            let mut bytes = Vec::new();
            let messages = [&b"one"[..], b"", b"three words long"];
            messages
                .iter()
                .for_each(|message| framing.write(&mut bytes, message).unwrap());
            let mut input = &bytes[..];
            assert!(framing.is_whole(&bytes) && !framing.is_whole(&bytes[..3]));
            for message in messages {
                assert_eq!(framing.read(&mut input).unwrap().unwrap(), message);
            }
            assert_eq!(framing.read(&mut input).unwrap(), None);
        }
    }

    #[test]
    fn the_last_line_needs_no_end_and_a_cut_message_is_an_error() {
        let lines = Framing {
            nul: false,
            length: false,
        };
        assert_eq!(lines.read(&mut &b"no end"[..]).unwrap().unwrap(), b"no end");
        let counted = Framing {
            nul: false,
            length: true,
        };
        assert!(counted.read(&mut &b"\0\0\0\x05abc"[..]).is_err());
        assert!(counted.read(&mut &b"\0\0"[..]).is_err());
    }
}
