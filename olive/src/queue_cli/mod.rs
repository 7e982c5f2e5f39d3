//! `olive queue …`: persipubsub from a shell, with pipes in mind.
//!
//! A message is a line by default, or ends with NUL (`--nul`), or follows its length (`--length`, a
//! 32-bit big-endian count of bytes), the same on standard input and output. What is received is
//! settled only after it was written out, so a broken pipe loses nothing.

mod args;
mod failure;
mod framing;
mod show;

use std::ffi::OsString;
use std::io::{self, BufReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use persipubsub::{
    BODY_MAX, Backlog, Control, Deployment, Environment, Error, HighWaterMark, Options, Publisher,
    Setup,
};

use args::{Clear, Cli, Command, Compact, Init, Prune, Receive, Send, Show, Top};
use failure::{Failure, Outcome, say};

/// Bodies of so many bytes are sent without waiting for a full batch: 4 MiB.
const SEND_BYTES: usize = 4 << 20;

/// Runs `olive queue` with these arguments, of which the first is the program's name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let path = command.path().to_owned();
    let outcome = match command {
        Command::Init(args) => init(args),
        Command::Send(args) => send(args),
        Command::Receive(args) => receive(args),
        Command::Top(args) => top(args),
        Command::Stat(args) => stat(args),
        Command::Prune(args) => prune(args),
        Command::Clear(args) => clear(args),
        Command::Compact(args) => compact(args),
    };
    failure::report(&path, outcome)
}

/// Opens a queue that must be there: a mistyped path is an error, not a new queue.
fn open(path: &Path) -> Result<Environment, Failure> {
    must_exist(path)?;
    Ok(Environment::open(path)?)
}

fn must_exist(path: &Path) -> Outcome {
    match path.join("data.mdb").exists() {
        true => Ok(()),
        false => Err(Error::NotInitialized(path.to_owned()).into()),
    }
}

/// One line on standard output, where it may be the last thing that a pipe hears.
fn print(line: impl std::fmt::Display) -> Outcome {
    writeln!(io::stdout(), "{line}").map_err(Failure::Output)
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
    let mut setup = Setup::new(&args.subscribers);
    if control.is_initialized()? {
        let stat = control.stat()?;
        setup.high_water_mark = HighWaterMark {
            message_timeout: stat
                .message_timeout_seconds
                .map_or(Duration::MAX, Duration::from_secs_f64),
            max_messages: stat.max_messages,
            max_bytes: stat.max_bytes,
        };
        setup.strategy = stat.strategy;
        if args.from_oldest {
            for name in &args.subscribers {
                control.add_subscriber(name, Backlog::Oldest)?;
            }
        }
    }
    let mark = &mut setup.high_water_mark;
    mark.message_timeout = args.message_timeout.unwrap_or(mark.message_timeout);
    mark.max_messages = args.max_messages.unwrap_or(mark.max_messages);
    mark.max_bytes = args.max_bytes.unwrap_or(mark.max_bytes);
    setup.strategy = args.strategy.unwrap_or(setup.strategy);
    setup.max_attempts = args.max_attempts.unwrap_or(0);
    control.reinitialize(&setup)?;
    if let Some(max_attempts) = args.max_attempts {
        let named = match args.subscribers.is_empty() {
            true => control.subscribers()?,
            false => args.subscribers,
        };
        for name in named {
            control.set_max_attempts(&name, max_attempts)?;
        }
    }
    Ok(())
}

fn send(args: Send) -> Outcome {
    let env = open(&args.path)?;
    let publisher = env.new_publisher()?;
    if env.new_control().subscribers()?.is_empty() {
        say(format_args!(
            "{}: nobody is registered, so what is sent is forgotten at once",
            args.path.display()
        ));
    }
    if !args.messages.is_empty() {
        publisher.send_many(args.messages.into_iter().map(OsString::into_vec))?;
        return Ok(());
    }
    let mut sent = 0;
    let outcome = send_input(&args, &publisher, &mut sent);
    if outcome.is_err() && sent > 0 {
        say(format_args!("{sent} messages of the input were sent"));
    }
    outcome
}

fn send_input(args: &Send, publisher: &Publisher, sent: &mut usize) -> Outcome {
    let mut input = BufReader::with_capacity(1 << 18, io::stdin().lock());
    let (mut batch, mut bytes) = (Vec::new(), 0);
    loop {
        let message = args.framing.read(&mut input, BODY_MAX);
        let message = message.map_err(Failure::Input)?;
        let end = message.is_none();
        bytes += message.as_ref().map_or(0, Vec::len);
        batch.extend(message);
        // One transaction for what has come; a slow writer's line does not wait for the next one.
        let pause = end || !args.framing.is_whole(input.buffer());
        let full = batch.len() >= args.batch as usize || bytes >= SEND_BYTES;
        if (pause || full) && !batch.is_empty() {
            let many = batch.len();
            publisher.send_many(std::mem::take(&mut batch))?;
            (*sent, bytes) = (*sent + many, 0);
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
            .try_for_each(|body| args.framing.write(&mut output, body))
            .and_then(|()| output.flush())
            .map_err(Failure::Output)?;
        batch.ack()?;
    }
    Ok(())
}

fn top(args: Top) -> Outcome {
    let subscriber = open(&args.path)?.new_subscriber(&args.subscriber)?;
    let message = subscriber
        .receive_to_top(args.timeout)?
        .ok_or(Failure::Nothing)?;
    let mut output = io::stdout().lock();
    args.framing
        .write(&mut output, &message)
        .and_then(|()| output.flush())
        .map_err(Failure::Output)?;
    Ok(message.ack()?)
}

fn stat(args: Show) -> Outcome {
    let stat = open(&args.path)?.new_control().stat()?;
    if args.json {
        return print(serde_json::to_string(&stat).expect("numbers and names"));
    }
    show::stat(&stat, &mut io::stdout().lock()).map_err(Failure::Output)
}

fn prune(args: Prune) -> Outcome {
    let control = open(&args.path)?.new_control();
    let gone = match args.subscriber {
        Some(name) => control.prune_all_messages_for(&name)?,
        None => control.prune_dangling_messages()?,
    };
    print(format_args!("{gone} messages removed"))
}

fn clear(args: Clear) -> Outcome {
    let control = open(&args.path)?.new_control();
    if args.subscribers {
        let gone = control.clear_subscribers()?;
        return print(format_args!("{gone} subscribers removed"));
    }
    if args.subscriber.is_empty() {
        let gone = control.clear_messages()?;
        return print(format_args!("{gone} messages removed"));
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
            must_exist(&args.path)?;
            Control::compact(&args.path, Options::default())?;
        }
    }
    Ok(())
}
