//! `olive queue stat` for people.

use std::io::{self, Write};

use persipubsub::{Stat, Strategy};

pub(super) fn stat(stat: &Stat, output: &mut impl Write) -> io::Result<()> {
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
        "timeout     {}, strategy {}",
        stat.message_timeout_seconds
            .map_or("none".to_owned(), |seconds| format!("{seconds} s")),
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
