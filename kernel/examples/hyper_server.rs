//! hyper serves HTTP on the kernel.
//!
//! `cargo run --release -p kernel --features hyper --example hyper_server -- 127.0.0.1:8080`, then
//! `curl http://127.0.0.1:8080/` and, for load, `wrk -t1 -c64 -d5 http://127.0.0.1:8080/`. Ctrl-C
//! ends it.

use std::{error::Error, future::poll_fn, io, net::SocketAddr, pin::Pin, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use kernel::{
    adapt::{Polled, Timer},
    net::{TcpListener, TcpStream},
    signal::{SIGINT, SIGTERM, Signals},
};

/// Accepts connections until the task is cancelled or the listener fails.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        kernel::spawn(async move {
            if let Err(e) = converse(stream).await {
                log::info!("{peer}: {e}");
            }
        })
        .name("connection")
        .detach();
    }
}

/// One connection, with as many requests as it brings. hyper knows nothing of the kernel: it
/// polls, and its polls end in our traps.
async fn converse(stream: TcpStream) -> Result<(), hyper::Error> {
    http1::Builder::new()
        .timer(Timer)
        .header_read_timeout(Duration::from_secs(30))
        .serve_connection(Polled::new(stream), service_fn(answer))
        .await
}

/// What answers a request may use all that a task may.
async fn answer(
    request: Request<Incoming>,
) -> Result<Response<String>, Box<dyn Error + Send + Sync>> {
    let text = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => "Hello from the kernel\n".into(),
        (&Method::GET, "/sleep") => {
            kernel::sleep(Duration::from_millis(10)).await?;
            "Slept for 10 ms\n".into()
        }
        (&Method::GET, "/thread") => {
            let thread = kernel::run_in_thread(|| format!("{:?}", std::thread::current().id()));
            format!("Answered by {}\n", thread.await?)
        }
        (&Method::POST, "/length") => format!("{}\n", length(request.into_body()).await?),
        _ => {
            let mut nothing = Response::new("No such page\n".into());
            *nothing.status_mut() = StatusCode::NOT_FOUND;
            return Ok(nothing);
        }
    };
    Ok(Response::new(text))
}

/// Reads a body to its end, keeping none of it.
async fn length(mut body: Incoming) -> Result<usize, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        length += frame?.data_ref().map_or(0, |bytes| bytes.len());
    }
    Ok(length)
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let address: SocketAddr = address.parse()?;
    kernel::run(async move {
        let listener = TcpListener::bind(address)?;
        println!("http://{}/", listener.local_addr()?);
        let mut signals = Signals::new(&[SIGINT, SIGTERM])?;
        let server = kernel::spawn(serve(listener)).name("server");
        signals.next().await?;
        server.cancel().await?; // the connections end with the kernel
        Ok(())
    })?
}
