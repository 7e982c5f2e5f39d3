//! hyper serves HTTP on the kernel.
//!
//! `cargo run --release -p kernel --features hyper --example hyper_server -- 127.0.0.1:8080`, then
//! `curl http://127.0.0.1:8080/` and, for load, `wrk -t1 -c64 -d5 http://127.0.0.1:8080/`. Ctrl-C
//! ends it as the example `graceful` does: nobody new comes, and requests that have begun are answered.

use std::{error::Error, future::poll_fn, io, net::SocketAddr, pin::pin, rc::Rc, time::Duration};

use futures::future::{Either, select};
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, Response, server::conn::http1, service::service_fn};
use kernel::adapt::{Polled, Timer};
use kernel::net::{TcpListener, TcpStream};
use kernel::signal::{SIGINT, SIGTERM, Signals};
use kernel::{TaskGroup, ignore_after, shield, sync::Event};

/// Serves until the task is cancelled or the listener fails, then lets the connections end.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let (mut connections, closing) = (TaskGroup::new(), Rc::new(Event::new()));
    let ended = loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.spawn(converse(stream, closing.clone())),
            Err(e) => break e,
        };
        while let Some(left) = connections.try_next() {
            let _ = left.inspect_err(|e| println!("a connection was lost: {e}"));
        }
    };
    drop(listener); // nobody new comes
    closing.set();
    let leaving = async {
        while connections.next().await?.is_some() {}
        Ok::<_, kernel::Error>(())
    };
    let _ = shield(ignore_after(Duration::from_secs(10), leaving)).await;
    connections.cancel_all().await; // who is still there
    Err(ended)
}

/// One connection, with as many requests as it brings. hyper knows nothing of the kernel: it
/// polls, and its polls end in our traps.
async fn converse(stream: TcpStream, closing: Rc<Event>) -> Result<(), hyper::Error> {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(Timer)
        .header_read_timeout(Duration::from_secs(30))
        .serve_connection(Polled::new(stream), service_fn(answer));
    match select(pin!(closing.wait()), pin!(connection)).await {
        Either::Right((ended, _)) => ended,
        Either::Left((_, mut connection)) => {
            connection.as_mut().graceful_shutdown(); // behind the request that it is at, if any
            connection.await
        }
    }
}

type Answer = Result<Response<String>, Box<dyn Error + Send + Sync>>;

/// What answers a request may use all that a task may.
async fn answer(request: Request<Incoming>) -> Answer {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => (200, "Hello from the kernel\n".into()),
        (&Method::GET, "/sleep") => {
            kernel::sleep(Duration::from_millis(10)).await?;
            (200, "Slept for 10 ms\n".into())
        }
        (&Method::GET, "/thread") => {
            let thread = kernel::run_in_thread(|| std::thread::current().id());
            (200, format!("Answered by {:?}\n", thread.await?))
        }
        (&Method::POST, "/length") => (200, format!("{}\n", length(request.into_body()).await?)),
        _ => (404, "No such page\n".into()),
    };
    Ok(Response::builder().status(status).body(text)?)
}

/// Reads a body to its end, keeping none of it.
async fn length(mut body: Incoming) -> Result<usize, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = poll_fn(|cx| pin!(&mut body).poll_frame(cx)).await {
        length += frame?.data_ref().map_or(0, |bytes| bytes.len());
    }
    Ok(length)
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let address: SocketAddr = address.parse()?;
    kernel::run(async move {
        let mut signals = Signals::new(&[SIGINT, SIGTERM])?;
        let listener = TcpListener::bind(address)?;
        println!("http://{}/", listener.local_addr()?);
        let mut parts = TaskGroup::new();
        parts.spawn(serve(listener));
        parts.spawn(async move { Ok(signals.next().await.map(drop)?) });
        Ok(parts.join_any().await.map(drop)?) // the first to end ends the other
    })?
}
