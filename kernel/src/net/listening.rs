//! Accepting, also in bad times: what passes is passed over, and a shortage is sat out.

use std::{
    cell::Cell,
    fmt, io,
    ops::ControlFlow,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use crate::{
    io::{Doing, Io},
    sleep,
    trap::{READ, now},
};

/// How long a shortage is sat out before the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// A shortage after this long without any is another one, and is told of again.
const EPISODE: Duration = Duration::from_secs(60);

/// Linux gives an error that the connection has met already as that of `accept` (accept(2), "Error
/// handling"); it is over with that. `EOPNOTSUPP`, which stands there too, is left out: it is also what
/// a socket says that can never accept, and would be passed over for ever.
const OF_ONE_CONNECTION: [i32; 8] = [
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::ENOPROTOOPT,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
];

/// No descriptors, no memory, or (`ENOSPC`) no more that epoll may watch.
const SHORTAGES: [i32; 5] = [
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::ENOSPC,
];

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listening<L> {
    io: Io<L>,
    /// When something was short last, by the kernel's clock.
    short: Cell<Option<Instant>>,
}

impl<L: AsRawFd + fmt::Debug> Listening<L> {
    pub(super) fn new(inner: L) -> io::Result<Listening<L>> {
        Ok(Listening {
            io: Io::new(inner, true)?,
            short: Cell::new(None),
        })
    }

    pub(super) fn inner(&self) -> &L {
        &self.io.inner
    }

    /// Waits until `take` has something to take. An error is what no patience helps against.
    pub(super) async fn accept<T>(
        &self,
        mut take: impl FnMut(&L) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let taking = Doing::new(&self.io, READ, |io: &Io<L>| {
                match io.attempt(READ, &mut take) {
                    // An operation like any other: a flood of them keeps nobody from running.
                    Err(e) if is_one_of(&OF_ONE_CONNECTION, &e) => Ok(ControlFlow::Continue(())),
                    taken => taken.map(ControlFlow::Break),
                }
            });
            match taking.await {
                Err(e) if is_one_of(&SHORTAGES, &e) => self.sit_out(&e).await?,
                taken => return taken,
            }
        }
    }

    /// The listener stays ready meanwhile: who is not accepted is in the backlog.
    async fn sit_out(&self, shortage: &io::Error) -> io::Result<()> {
        let last = self.short.replace(Some(now()));
        if last.is_none_or(|last| now() - last > EPISODE) {
            log::warn!(
                "kernel: {:?} cannot accept: {shortage}; new connections wait until others end. Raise the limit \
                 (`ulimit -n` for open files), or bound how many connections there are",
                self.inner()
            );
        }
        Ok(sleep(PAUSE).await?)
    }
}

fn is_one_of(numbers: &[i32], error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|number| numbers.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{spawn, yield_now};

    fn listening() -> Listening<std::net::UdpSocket> {
        // Never asked for anything: a descriptor that can be watched.
        Listening::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap()
    }

    #[test]
    #[cfg_attr(any(miri, bare), ignore = "needs a system")]
    fn connections_that_were_lost_are_passed_over_and_keep_nobody_from_running() {
        crate::run(async {
            let other = spawn(async { yield_now().await });
            let (mut lost, mut others) = (OF_ONE_CONNECTION.iter().cycle().take(10_000), 0);
            let listening = listening();
            let taken = listening.accept(|_| {
                others += usize::from(other.is_finished());
                match lost.next() {
                    Some(number) => Err(io::Error::from_raw_os_error(*number)),
                    None => Ok("at last"),
                }
            });
            assert_eq!(taken.await.unwrap(), "at last");
            assert!(others > 0, "the other task ran in between");
        })
        .unwrap();
    }

    #[test]
    #[cfg_attr(any(miri, bare), ignore = "needs a system")]
    fn a_shortage_is_sat_out_on_the_kernels_clock_and_other_errors_come_out() {
        let mut kernel = crate::Kernel::builder()
            .manual_clock(crate::ManualClock::new())
            .build()
            .unwrap();
        kernel.run(async {
            let start = now();
            let mut errors = SHORTAGES.iter().chain([&libc::EINVAL]);
            let listening = listening();
            let taken = listening.accept(|_| match errors.next() {
                Some(number) => Err::<(), _>(io::Error::from_raw_os_error(*number)),
                None => unreachable!("the last one comes out"),
            });
            let error = taken.await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            assert_eq!(now() - start, PAUSE * SHORTAGES.len() as u32);
        });
    }
}
