//! From names to addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
};

use crate::{error::about, run_in_thread, trap::breathe};

/// The addresses of a host, in the order in which the system would try them. The system's own
/// resolver is asked (`/etc/hosts`, DNS and whatever else it is set up for), on a thread of the
/// pool, for it blocks. A text that is an address already is not looked up.
///
/// # Cancellation
/// Safe; but a look-up that has begun goes on, on its thread, until the resolver gives it up.
///
/// # Errors
/// The resolver's, with the host before its text: an unknown one, or no answer; never an empty list.
/// `InvalidInput` for an empty text. And cancellation and timeouts.
///
/// # Panics
/// Outside a running kernel.
///
/// # Examples
/// ```
/// # kernel::run(async {
/// use kernel::net::lookup_host;
/// assert_eq!(lookup_host("::1", 80).await?, ["[::1]:80".parse().unwrap()]);
/// assert!(lookup_host("localhost", 80).await?.iter().all(|a| a.ip().is_loopback()));
/// # std::io::Result::Ok(()) }).unwrap().unwrap();
/// ```
pub async fn lookup_host(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        breathe().await?;
        return Ok(vec![(address, port).into()]);
    }
    if host.is_empty() {
        breathe().await?;
        let text = "the host is \"\": a name or an address is expected";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let name = host.to_owned();
    let look = move || Ok((name.as_str(), port).to_socket_addrs()?.collect::<Vec<_>>());
    match run_in_thread(look).await? {
        Ok(addresses) if addresses.is_empty() => {
            let text = format!("{host} has no address");
            Err(io::Error::new(io::ErrorKind::NotFound, text))
        }
        answer => answer.map_err(|e| about(host, e)),
    }
}
