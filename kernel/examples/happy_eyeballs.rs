//! Connects to a host by whichever of its addresses answers first, and tells how it went.
//!
//! `cargo run -p kernel --example happy_eyeballs -- example.org 80`

use std::{io, net::SocketAddr};

use kernel::net::{TcpStream, happy_eyeballs, lookup_host};

/// Looks the host up and races for its addresses; `tell` hears of every step.
pub async fn connect(
    host: &str,
    port: u16,
    tell: impl Fn(String) + Clone + 'static,
) -> io::Result<(SocketAddr, TcpStream)> {
    let start = kernel::now();
    let tell = move |what: &str, address: SocketAddr| {
        let ms = (kernel::now() - start).as_millis();
        tell(format!("{ms:5} ms  {what} {address}"));
    };
    let addresses = lookup_host(host, port).await?;
    addresses.iter().for_each(|address| tell("found", *address));
    // Each attempt is a task of its own, so it can say what became of it. Those that are too
    // late are cancelled: their connect comes back with an error, and they end.
    happy_eyeballs(&addresses, |address| {
        let tell = tell.clone();
        async move {
            tell("trying", address);
            let result = TcpStream::connect(address).await;
            match &result {
                Ok(_) => tell("connected to", address),
                Err(e) => tell(&format!("gave up ({e})"), address),
            }
            result.map(|stream| (address, stream))
        }
    })
    .await
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let host = args.next().unwrap_or_else(|| "localhost".into());
    let port = args.next().and_then(|port| port.parse().ok()).unwrap_or(80);
    kernel::run(async move {
        let (winner, _) = connect(&host, port, |line| println!("{line}")).await?;
        println!("{host} is {winner}");
        Ok(())
    })?
}
