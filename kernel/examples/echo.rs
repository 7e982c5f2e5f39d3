//! Gives back every byte that it gets: one task for each connection.
//!
//! `cargo run -p kernel --example echo -- 127.0.0.1:7777`, then `nc 127.0.0.1 7777`.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use kernel::net::{TcpListener, TcpStream};

/// A connection on which nothing came for this long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Accepts connections until the task is cancelled or the listener fails. Without a descriptor for
/// another connection it does not: `accept` waits for one.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        // Not joined: what becomes of one connection is nobody else's matter. When the program's
        // main task ends, the kernel cancels the connections that are left.
        kernel::spawn(async move {
            match echo(stream).await {
                Ok(bytes) => println!("{peer} has left after {bytes} bytes"),
                Err(e) => println!("{peer} was lost: {e}"),
            }
        })
        .name("connection");
    }
}

/// Serves one connection to the end of its input; gives how many bytes went back.
async fn echo(stream: TcpStream) -> io::Result<u64> {
    let mut buf = [0; 16 * 1024];
    let mut total = 0;
    loop {
        // A timeout is an error like any other; in an `io::Result` it is inside the `io::Error`.
        let n = kernel::timeout_after(IDLE, stream.read(&mut buf)).await?;
        if n == 0 {
            return Ok(total); // the peer has said all it had to say
        }
        stream.write_all(&buf[..n]).await?;
        total += n as u64;
    }
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7777".into())
        .parse()?;
    kernel::run(async move {
        let listener = TcpListener::bind(address)?;
        println!("listening on {}", listener.local_addr()?);
        serve(listener).await
    })??;
    Ok(())
}
