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

/// No descriptors, no memory, or (`ENOSPC`, which only watching says) no more that epoll may watch.
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

    /// Waits until `take` has something to take that `watch` can watch. An error is what no patience
    /// helps against.
    pub(super) async fn accept<T, U>(
        &self,
        mut take: impl FnMut(&L) -> io::Result<T>,
        watch: impl Fn(T) -> io::Result<U>,
    ) -> io::Result<U> {
        let mut take = |listener: &L| match take(listener) {
            // The descriptor is made first: without one, the system does not look who is there. Who comes
            // after the poll makes a new edge.
            Err(e) if is_one_of(&SHORTAGES, &e) && !has_callers(listener) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            taken => taken,
        };
        loop {
            let taking = Doing::new(&self.io, READ, |io: &Io<L>| {
                match io.attempt(READ, &mut take) {
                    // An operation like any other: a flood of them keeps nobody from running.
                    Err(e) if is_one_of(&OF_ONE_CONNECTION, &e) => Ok(ControlFlow::Continue(())),
                    taken => taken.map(ControlFlow::Break),
                }
            });
            let short = match taking.await {
                Ok(taken) => match watch(taken) {
                    Err(e) if is_one_of(&SHORTAGES, &e) => Short::OfWatches(e),
                    watched => return watched,
                },
                Err(e) if is_one_of(&SHORTAGES, &e) => Short::OfDescriptors(e),
                Err(e) => return Err(e),
            };
            self.sit_out(short).await?;
        }
    }

    /// The listener stays ready meanwhile: who is not accepted is in the backlog.
    async fn sit_out(&self, short: Short) -> io::Result<()> {
        let last = self.short.replace(Some(now()));
        if last.is_none_or(|last| now() - last > EPISODE) {
            log::warn!("kernel: {:?} {short}", self.inner());
        }
        Ok(sleep(PAUSE).await?)
    }
}

/// What there is not enough of, with the system's error.
#[derive(Debug)]
enum Short {
    OfDescriptors(io::Error),
    OfWatches(io::Error),
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Short::OfDescriptors(e) => write!(
                f,
                "cannot accept: {e}; new connections wait until others end. Raise the limit (`ulimit -n` for open \
                 files), or bound how many connections there are"
            ),
            Short::OfWatches(e) => write!(
                f,
                "has accepted a connection that epoll cannot watch, and closed it: {e}; so it goes with new ones \
                 until others end. Raise the limit (`sysctl fs.epoll.max_user_watches`), or bound how many \
                 connections there are"
            ),
        }
    }
}

/// True if somebody waits to be accepted, and if that cannot be known.
pub(crate) fn has_callers(listener: &impl AsRawFd) -> bool {
    let mut asked = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: poll(2) writes to this one entry, which is ours; with a timeout of 0 it does not wait.
    unsafe { libc::poll(&mut asked, 1, 0) != 0 }
}

fn is_one_of(numbers: &[i32], error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|number| numbers.contains(&number))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream, rc::Rc};

    use super::*;
    use crate::{spawn, yield_now};

    /// Not one that listens, but one that can be watched: ready to be read when the other end is written
    /// to, or dropped.
    fn listening() -> (Listening<UnixStream>, UnixStream) {
        let (listener, caller) = UnixStream::pair().unwrap();
        (Listening::new(listener).unwrap(), caller)
    }

    fn virtual_run(main: impl Future<Output = ()> + 'static) {
        let builder = crate::Kernel::builder().manual_clock(crate::ManualClock::new());
        builder.build().unwrap().run(main);
    }

    #[test]
    #[cfg_attr(any(miri, bare), ignore = "needs a system")]
    fn connections_that_were_lost_are_passed_over_and_keep_nobody_from_running() {
        crate::run(async {
            let other = spawn(async { yield_now().await });
            let (mut lost, mut others) = (OF_ONE_CONNECTION.iter().cycle().take(10_000), 0);
            let (listening, _caller) = listening();
            let take = |_: &UnixStream| {
                others += usize::from(other.is_finished());
                match lost.next() {
                    Some(number) => Err(io::Error::from_raw_os_error(*number)),
                    None => Ok("at last"),
                }
            };
            let taken = listening.accept(take, Ok);
            assert_eq!(taken.await.unwrap(), "at last");
            assert!(others > 0, "the other task ran in between");
        })
        .unwrap();
    }

    #[test]
    #[cfg_attr(any(miri, bare), ignore = "needs a system")]
    fn a_shortage_is_sat_out_on_the_kernels_clock_and_other_errors_come_out() {
        virtual_run(async {
            let start = now();
            let mut errors = SHORTAGES.iter().chain([&libc::EINVAL]);
            let (listening, caller) = listening();
            drop(caller); // now it is ready, and stays so
            let take = |_: &UnixStream| match errors.next() {
                Some(number) => Err::<(), _>(io::Error::from_raw_os_error(*number)),
                None => unreachable!("the last one comes out"),
            };
            let error = listening.accept(take, Ok).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            assert_eq!(now() - start, PAUSE * SHORTAGES.len() as u32);
        });
    }

    #[test]
    #[cfg_attr(any(miri, bare), ignore = "needs a system")]
    fn a_shortage_that_keeps_nobody_out_is_none() {
        virtual_run(async {
            let start = now();
            let (listening, mut caller) = listening();
            let tries = Rc::new(Cell::new(0));
            let accepting = spawn({
                let tries = tries.clone();
                let take = move |_: &UnixStream| {
                    tries.set(tries.get() + 1);
                    match tries.get() {
                        1 => Err(io::Error::from_raw_os_error(libc::EMFILE)),
                        _ => Ok(()),
                    }
                };
                async move {
                    listening.accept(take, Ok).await?;
                    io::Result::Ok(listening.short.get())
                }
            });
            while tries.get() == 0 {
                yield_now().await.unwrap();
            }
            caller.write_all(b"x").unwrap();
            assert_eq!(accepting.join().await.unwrap().unwrap(), None, "no warning");
            assert_eq!((tries.get(), now() - start), (2, Duration::ZERO));
        });
    }

    /// Nobody is there any more then: the one who was has been accepted.
    #[test]
    #[cfg_attr(any(miri, bare), ignore = "needs a system")]
    fn what_cannot_be_watched_was_accepted_all_the_same() {
        virtual_run(async {
            let start = now();
            let (listening, _caller) = listening();
            let full = Cell::new(true);
            let watch = |()| match full.replace(false) {
                true => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                false => Ok("the next one"),
            };
            let watched = listening.accept(|_| Ok(()), watch).await;
            assert_eq!(watched.unwrap(), "the next one");
            assert_eq!((listening.short.get(), now() - start), (Some(start), PAUSE));
            let text = Short::OfWatches(io::Error::from_raw_os_error(libc::ENOSPC)).to_string();
            assert!(text.contains("closed it") && !text.contains("cannot accept"));
        });
    }
}
