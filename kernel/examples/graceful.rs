//! A server that ends well: on SIGTERM or Ctrl-C it accepts nobody any more, lets its clients finish
//! what they are at, within a deadline, and then ends.
//!
//! `cargo run -p kernel --example graceful -- 127.0.0.1:7777`, then `nc 127.0.0.1 7777`. Each line is
//! a request: for how many seconds to work. Press Ctrl-C at the server meanwhile.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use kernel::{
    TaskGroup, ignore_after,
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    shield,
    signal::{SIGINT, SIGTERM, Signals},
    sleep, timeout_after, yield_now,
};

/// No request takes longer, and so, but for `LINGER`, neither does the end of the server.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a client has for hanging up when we do.
const LINGER: Duration = Duration::from_secs(1);

/// Serves until a signal comes, and ends well then; fails if the listener does.
pub async fn serve_until(
    mut signals: Signals,
    listener: TcpListener,
    deadline: Duration,
) -> io::Result<()> {
    let mut parts = TaskGroup::new();
    parts.spawn(serve(listener, deadline));
    parts.spawn(async move { Ok(signals.next().await.map(drop)?) });
    parts.join_any().await?; // the first to end cancels the other, and waits until that has ended too
    Ok(())
}

/// Serves until the task is cancelled or the listener fails; ends when the last client has left.
async fn serve(listener: TcpListener, deadline: Duration) -> io::Result<()> {
    let mut clients = TaskGroup::new();
    let ended = loop {
        match listener.accept().await {
            Ok((stream, _)) => clients.spawn(converse(stream, deadline)),
            Err(e) => break e, // a cancellation comes out here
        };
        while let Some(left) = clients.try_next() {
            let _ = left.inspect_err(|e| println!("a client was lost: {e}"));
        }
    };
    drop(listener); // nobody new comes
    clients.cancel_all().await; // returns when they have ended
    Err(ended)
}

/// One client. What it sent and we did not read would make our close a reset, which may overtake the
/// last answer; so it hangs up first, if it does so soon.
async fn converse(stream: TcpStream, deadline: Duration) -> io::Result<()> {
    let ended = answer_all(&stream, deadline).await;
    let _ = stream.shutdown_write(); // fails if the client has gone
    let rest = async {
        while stream.read(&mut [0; 1024]).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = shield(ignore_after(LINGER, rest)).await; // behind a long request the cleanup budget is over
    ended
}

/// As many requests as it brings. Between two of them it can be cancelled; a request that has begun is
/// under a shield, and the deadline is under it too, where it still works.
async fn answer_all(stream: &TcpStream, deadline: Duration) -> io::Result<()> {
    let mut requests = BufReader::new(stream);
    while let Some(request) = requests.read_line().await? {
        shield(timeout_after(deadline, answer(stream, request))).await?;
        yield_now().await?; // if the next request is here already, nothing else waits, and nothing tells
    }
    Ok(())
}

async fn answer(stream: &TcpStream, request: &str) -> io::Result<()> {
    let seconds = request.parse().map(Duration::try_from_secs_f64);
    let Ok(Ok(time)) = seconds else {
        return stream.write_all(b"how many seconds?\n").await;
    };
    stream.write_all(b"working\n").await?;
    sleep(time).await?;
    stream.write_all(b"done\n").await
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7777".into());
    let address: SocketAddr = address.parse()?;
    kernel::run(async move {
        let signals = Signals::new(&[SIGTERM, SIGINT])?; // before it is told that it can be ended
        let listener = TcpListener::bind(address)?;
        println!("listening on {}", listener.local_addr()?);
        serve_until(signals, listener, DEADLINE).await
    })??;
    println!("everybody has left");
    Ok(())
}
