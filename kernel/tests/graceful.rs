//! The example `graceful`, ended by signals. In a file of its own: a signal is for the whole process.
#![cfg(feature = "signal")]

#[path = "../examples/graceful.rs"]
mod graceful;

use std::{io, time::Duration};

use kernel::{
    JoinHandle,
    io::BufReader,
    net::{TcpListener, TcpStream},
    signal::{SIGINT, SIGTERM, Signals},
    spawn, timeout_after,
};

const LONG: Duration = Duration::from_secs(60);

struct Client(BufReader<TcpStream>);

impl Client {
    async fn ask(&mut self, request: &str) -> io::Result<()> {
        self.0.get_ref().write_all(request.as_bytes()).await
    }

    async fn hear(&mut self) -> io::Result<Option<String>> {
        let line = timeout_after(LONG, self.0.read_line()).await?;
        Ok(line.map(String::from))
    }
}

type Server = JoinHandle<io::Result<()>>;

/// A server, and two clients, of whom the first is in the middle of a request of so many seconds.
async fn busy_and_idle(time: &str, deadline: Duration) -> io::Result<(Server, Client, Client)> {
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
    let address = listener.local_addr()?;
    let signals = Signals::new(&[SIGTERM, SIGINT])?;
    let server = spawn(graceful::serve_until(signals, listener, deadline));
    let come =
        || async { io::Result::Ok(Client(BufReader::new(TcpStream::connect(address).await?))) };
    let (mut busy, idle) = (come().await?, come().await?);
    busy.ask(time).await?;
    assert_eq!(busy.hear().await?.as_deref(), Some("working"));
    Ok((server, busy, idle))
}

fn raise(signal: i32) {
    // SAFETY: raise(3) takes an integer; the server, which has answered, catches these.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

#[test]
fn clients_finish_what_they_are_at_within_the_deadline() {
    kernel::run(async {
        let (server, mut busy, mut idle) = busy_and_idle("0.05\n", LONG).await?;
        idle.ask("a while\n").await?;
        assert_eq!(idle.hear().await?.as_deref(), Some("how many seconds?"));
        raise(SIGTERM);
        assert_eq!(idle.hear().await?, None);
        drop(idle); // else the server would wait for that a little
        let newcomer = TcpStream::connect(busy.0.get_ref().peer_addr()?).await;
        assert!(newcomer.is_err(), "nobody listens any more");
        assert_eq!(busy.hear().await?.as_deref(), Some("done"));
        assert_eq!(busy.hear().await?, None);
        drop(busy);
        timeout_after(LONG, server.join()).await??;

        let (server, mut busy, idle) = busy_and_idle("3600\n", Duration::from_millis(50)).await?;
        drop(idle);
        raise(SIGINT);
        assert_eq!(busy.hear().await?, None);
        drop(busy);
        timeout_after(LONG, server.join()).await??;

        // A request that nobody will read: at the close the system answers it with a reset.
        let (server, mut busy, idle) = busy_and_idle("3600\n", Duration::from_millis(50)).await?;
        drop(idle);
        busy.ask("0\n").await?;
        raise(SIGTERM);
        while busy.hear().await?.is_some() {}
        drop(busy);
        timeout_after(LONG, server.join()).await??;
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}
