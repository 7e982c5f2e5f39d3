//! Descriptors: registered once, waited for by `Trap::Readable` and `Trap::Writable`, released.

use std::{io, os::fd::AsRawFd, rc::Rc};

use super::Trap;
use crate::{
    error::Error,
    kernel::{Core, reactor::Source, wait::NONE},
};

/// A descriptor registered with the kernel's reactor. Clones are the same registration.
///
/// It belongs to that kernel, and may be kept over its runs; in the run of another, who has to wait
/// for it gets [`Error::OtherRun`]. It may be released at any time.
///
/// The reactor speaks once when a descriptor becomes ready (it is edge-triggered), so what it said
/// is remembered here until the owner takes it back. The owner tries; on `WouldBlock` it says
/// [`clear`](Registered::clear), asks for [`Registered::trap`], and tries again. When it is done
/// with the descriptor it says [`release`](Registered::release).
///
/// # Examples
/// ```
/// use std::io::{ErrorKind, Read, Write};
/// use kernel::trap::{Direction, Registered, ask};
///
/// # kernel::run(async {
/// let (mut ours, mut other) = std::os::unix::net::UnixStream::pair()?;
/// ours.set_nonblocking(true)?;
/// let source = Registered::new(&ours, true)?;
/// kernel::spawn(async move { other.write_all(b"hello") });
/// let mut bytes = [0; 8];
/// let read = loop {
///     match ours.read(&mut bytes) {
///         Err(e) if e.kind() == ErrorKind::WouldBlock => source.clear(Direction::Read),
///         result => break result?,
///     }
///     ask(source.trap(Direction::Read)).await?;
/// };
/// source.release();
/// assert_eq!(&bytes[..read], b"hello");
/// # std::io::Result::Ok(()) }).unwrap().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Registered(pub(crate) Rc<Source>);

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the descriptor to us.
    Read,
    /// From us to the descriptor.
    Write,
}

pub(crate) const READ: Direction = Direction::Read;
pub(crate) const WRITE: Direction = Direction::Write;

impl Registered {
    /// Registers a non-blocking descriptor for both directions. `ready` is what to believe until
    /// the reactor speaks: true costs a try that may say `WouldBlock`, false is for what is known
    /// not to be ready, such as a socket that connects.
    ///
    /// # Errors
    /// The system's: `PermissionDenied` for what epoll refuses, such as regular files and `/dev/null`.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn new(descriptor: &impl AsRawFd, ready: bool) -> io::Result<Registered> {
        let fd = descriptor.as_raw_fd();
        Core::current_ref(|core| core.reactor.register(&core.me, fd, ready)).map(Registered)
    }

    /// True if it is believed to be ready: a trap would be answered at once, unless it is
    /// [in doubt](Registered::is_in_doubt).
    #[inline]
    pub fn is_ready(&self, direction: Direction) -> bool {
        self.0.is_ready(direction as usize)
    }

    /// The request to wait until it is ready.
    pub fn trap(&self, direction: Direction) -> Trap {
        match direction {
            Direction::Read => Trap::Readable(self.clone()),
            Direction::Write => Trap::Writable(self.clone()),
        }
    }

    /// The system said `WouldBlock`: it is not ready.
    pub fn clear(&self, direction: Direction) {
        self.0.clear(direction as usize);
    }

    /// A byte stream moved less than asked, so it is not ready: unless its end was announced, which
    /// nothing would announce again, or urgent data came, behind which more may be. To be said only
    /// of what tells by a short read that nothing is left, as TCP and pipes do, and Unix sockets (that
    /// may carry descriptors) and terminals do not; and of all that was asked of the system, which takes 1024 slices at most.
    pub fn clear_after_short(&self, direction: Direction) {
        self.0.clear_after_short(direction as usize);
    }

    /// A byte stream filled the buffer, so there may be more. Where there was none for several times,
    /// the source is [in doubt](Registered::is_in_doubt).
    pub fn filled(&self) {
        self.0.maybe_more();
    }

    /// True if the last read left open whether there is more, and such reads have lately left
    /// nothing. To try would probably say `WouldBlock`; a trap is answered by what comes next, or
    /// in the next turns of the loop, to try then.
    #[inline]
    pub fn is_in_doubt(&self) -> bool {
        self.0.is_in_doubt(READ as usize)
    }

    /// Has readiness last until the system says `WouldBlock`.
    pub(crate) fn distrust_short(&self, direction: Direction) {
        self.0.distrust_short(direction as usize);
    }

    /// Asks the system whether it is ready now, whatever is remembered: for descriptors that
    /// somebody else reads or writes. The next trap in this direction waits for its word.
    ///
    /// # Errors
    /// The system's; [`Error::OtherRun`] in the run of another kernel.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn rearm(&self, direction: Direction) -> io::Result<()> {
        Core::current_ref(|core| match self.0.is_of(core) {
            true => {
                self.clear(direction);
                core.reactor.rearm(&self.0)
            }
            false => Err(Error::OtherRun.into()),
        })
    }

    /// Ends the registration, while the descriptor is still open. Who waits for it comes back with
    /// [`Error::Closed`]; a trap asked later does not wait.
    pub fn release(&self) {
        if let Some(core) = self.0.owner.upgrade()
            && let Err(e) = core.reactor.deregister(&self.0)
        {
            log::debug!("kernel: deregistering {:?}: {e}", self.0);
        }
        self.forget();
    }

    /// As [`release`](Registered::release), for a descriptor that is about to be closed for good,
    /// which ends its registration with the system: spares a system call.
    pub fn forget(&self) {
        let Some(core) = self.0.owner.upgrade() else {
            return; // the kernel is gone, and its epoll with it
        };
        core.reactor.forget(&self.0);
        for direction in [READ, WRITE] {
            // Marked as ready, so that a trap that is asked only later does not wait either.
            self.distrust_short(direction);
            match core.reactor.mark(&self.0, direction as usize) {
                NONE => {}
                wait => core.answer(wait, Err(Error::Closed)),
            }
        }
    }
}
