//! Happy eyeballs: connecting to whichever of a host's addresses answers first.

use std::{collections::VecDeque, future::Future, io, net::SocketAddr, time::Duration};

use super::{TcpStream, lookup_host};
use crate::{GroupError, JoinError, TaskGroup, ignore_after};

/// How long an attempt is alone before the next begins (RFC 8305, section 5: "Connection Attempt
/// Delay", 250 ms recommended).
const STAGGER: Duration = Duration::from_millis(250);

impl TcpStream {
    /// Connects to a host by name: looks it up, then tries its addresses with
    /// [`happy_eyeballs`].
    ///
    /// # Cancellation
    /// Safe: all attempts are given up.
    ///
    /// # Errors
    /// As [`lookup_host`] and [`happy_eyeballs`].
    pub async fn connect_host(host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses = lookup_host(host, port).await?;
        happy_eyeballs(&addresses, TcpStream::connect).await
    }
}

/// Tries several addresses of one host and gives the first success (RFC 8305).
///
/// The families take turns, beginning with that of the first address. The next attempt begins
/// when one has failed, or when nothing has come of it for 250 ms; those before go on. When one
/// succeeds, the others are cancelled, and have ended when this returns.
///
/// # Cancellation
/// All attempts are cancelled and awaited. Dropped midway, it drops them.
///
/// # Errors
/// The error of the attempt that failed last, if all did; `InvalidInput` without any address;
/// cancellation and timeouts.
///
/// # Panics
/// If an attempt does.
pub async fn happy_eyeballs<T: 'static, F>(
    addresses: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>> + 'static,
{
    let mut attempts = TaskGroup::new();
    let result = race(take_turns(addresses), attempt, &mut attempts).await;
    attempts.cancel_all().await;
    result
}

async fn race<T: 'static, F>(
    mut addresses: VecDeque<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
    attempts: &mut TaskGroup<T, io::Error>,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>> + 'static,
{
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
    loop {
        let ended = match addresses.pop_front() {
            Some(address) => {
                attempts.spawn(attempt(address));
                match addresses.is_empty() {
                    true => attempts.next().await?,
                    false => match ignore_after(STAGGER, attempts.next()).await? {
                        Some(ended) => ended,
                        None => continue, // nothing came of it yet: the next one's turn
                    },
                }
            }
            None => attempts.next().await?,
        };
        match ended {
            None => return Err(last),
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(GroupError::Task(e))) => last = e,
            Some(Err(GroupError::Join(JoinError::Panicked(panic)))) => {
                std::panic::resume_unwind(panic.into_payload())
            }
            Some(Err(GroupError::Join(e))) => last = io::Error::other(e.to_string()),
        }
    }
}

/// One of each family in turn, in the order given, beginning with the first one's.
fn take_turns(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first = |a: &&SocketAddr| a.is_ipv6() == addresses[0].is_ipv6();
    let (mut ours, mut others) = (
        addresses.iter().filter(first),
        addresses.iter().filter(|a| !first(a)),
    );
    let mut order = VecDeque::new();
    while order.len() < addresses.len() {
        order.extend(ours.next());
        order.extend(others.next());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(addresses: &[&str]) -> Vec<String> {
        let parsed: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        take_turns(&parsed).iter().map(|a| a.to_string()).collect()
    }

    #[test]
    fn families_take_turns_from_the_first_on() {
        assert!(turns(&[]).is_empty());
        assert_eq!(turns(&["1.1.1.1:1"]), ["1.1.1.1:1"]);
        let mixed = [
            "[::1]:1",
            "[::2]:1",
            "[::3]:1",
            "1.1.1.1:1",
            "[::4]:1",
            "1.1.1.2:1",
        ];
        let expected = [
            "[::1]:1",
            "1.1.1.1:1",
            "[::2]:1",
            "1.1.1.2:1",
            "[::3]:1",
            "[::4]:1",
        ];
        assert_eq!(turns(&mixed), expected);
        assert_eq!(
            turns(&["1.1.1.1:1", "1.1.1.2:1", "[::1]:1"]),
            ["1.1.1.1:1", "[::1]:1", "1.1.1.2:1"]
        );
    }
}
