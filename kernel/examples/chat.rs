//! A chat: each line that somebody writes goes to everybody else.
//!
//! `cargo run -p kernel --example chat -- 127.0.0.1:7777`, then `nc 127.0.0.1 7777` in two windows.
//! Ctrl-C ends it, and everybody is told so: that is the cleanup of a cancelled task.

use std::{cell::RefCell, collections::BTreeMap, error::Error, io, net::SocketAddr, rc::Rc};

use kernel::{
    TaskGroup,
    net::{TcpListener, TcpStream},
    signal::{SIGINT, SIGTERM, Signals},
    sync::{Receiver, Sender, mailbox},
};

/// Who is here, each with the mailbox of what is to be written to them. `Rc` and `RefCell` will
/// do: all tasks are on one thread.
type Room = Rc<RefCell<BTreeMap<SocketAddr, Sender<Rc<str>>>>>;

fn say(room: &Room, from: SocketAddr, line: &str) {
    let line: Rc<str> = format!("{from}: {line}\n").into();
    for (_, to) in room.borrow().iter().filter(|(peer, _)| **peer != from) {
        let _ = to.send(line.clone()); // one who has just left misses nothing
    }
}

/// Accepts people until the task is cancelled or the listener fails.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let room = Room::default();
    loop {
        let (stream, peer) = listener.accept().await?;
        kernel::spawn(visit(Rc::new(stream), peer, room.clone())).name("visitor");
    }
}

/// One person's stay: a task that reads and one that writes; the first to end ends the other.
async fn visit(stream: Rc<TcpStream>, peer: SocketAddr, room: Room) {
    let (to_peer, lines) = mailbox();
    room.borrow_mut().insert(peer, to_peer);
    say(&room, peer, "(has come)");
    let mut both = TaskGroup::new();
    both.spawn(read_lines(stream.clone(), peer, room.clone()));
    both.spawn(write_lines(stream.clone(), lines));
    let ended = both.join_any().await;
    room.borrow_mut().remove(&peer);
    say(&room, peer, "(has left)");
    if ended.is_err() {
        // Cancelled, or the connection broke. In the first case our traps work again for a
        // while, so there is time to say goodbye; in the second this fails, and nobody minds.
        let _ = stream.write_all(b"(the chat is over)\n").await;
    }
}

async fn read_lines(stream: Rc<TcpStream>, peer: SocketAddr, room: Room) -> io::Result<()> {
    let (mut text, mut buf) = (Vec::new(), [0; 1024]);
    loop {
        let n = stream.read(&mut buf).await?;
        if n == 0 {
            return Ok(());
        }
        text.extend_from_slice(&buf[..n]);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            say(&room, peer, String::from_utf8_lossy(&line).trim_end());
        }
        if text.len() > 64 * 1024 {
            return Err(io::Error::other("a line without an end"));
        }
    }
}

async fn write_lines(stream: Rc<TcpStream>, lines: Receiver<Rc<str>>) -> io::Result<()> {
    while let Some(line) = lines.recv().await? {
        stream.write_all(line.as_bytes()).await?;
    }
    Ok(())
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7777".into())
        .parse()?;
    kernel::run(async move {
        let mut signals = Signals::new(&[SIGINT, SIGTERM])?;
        let listener = TcpListener::bind(address)?;
        println!("listening on {}", listener.local_addr()?);
        let mut parts = TaskGroup::<(), io::Error>::new();
        parts.spawn(serve(listener));
        parts.spawn(async move { Ok(signals.next().await.map(drop)?) });
        parts.join_any().await?; // a signal, or the listener has failed: that must not pass in silence
        io::Result::Ok(()) // main ends: the kernel cancels the rest, and waits for their cleanup
    })??;
    Ok(())
}
