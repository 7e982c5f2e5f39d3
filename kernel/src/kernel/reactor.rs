//! Readiness: mio registration, and what is remembered of each source.
//!
//! mio is edge-triggered: it speaks once when something becomes ready. So a source is registered
//! once, for both directions, and its readiness is *remembered*, also when the edge comes before
//! anybody waits. It is forgotten only when the operating system says `WouldBlock`, or a read or
//! write of a byte stream came back short: the buffer is then known to be empty or full. That is
//! not so of every descriptor, nor for ever: see [`Source::distrust_short`]. Where a read leaves it
//! open whether there is more, a source may be in doubt: see `doubt.rs`.

pub(crate) mod doubt;

use std::{
    cell::Cell,
    io,
    os::fd::RawFd,
    rc::{Rc, Weak},
    time::Duration,
};

use mio::{Interest, Token, unix::SourceFd};
use slab::Slab;

use crate::{
    across::{Alarm, Events, Poll, Registry},
    kernel::{
        Core,
        held::Held,
        reactor::doubt::{Doubt, Doubted},
        wait::{NONE, WaitId},
    },
};

/// Index of the two directions in [`Source`].
pub(crate) const READ: usize = 0;
pub(crate) const WRITE: usize = 1;

/// What a source is watched for that somebody else reads or writes.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// What every other source is registered for: urgent data too, behind which a read stops short.
#[cfg(any(target_os = "linux", target_os = "android"))]
const ALL: Interest = BOTH.add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const ALL: Interest = BOTH;

/// The token of the cross-thread waker.
const WAKE: Token = Token(usize::MAX);

/// What is remembered of one registered descriptor. Shared by its stream and the reactor.
#[derive(Debug)]
pub(crate) struct Source {
    /// The kernel it is registered with, which may be gone, or not be the one that runs now.
    pub(crate) owner: Weak<Core>,
    pub(crate) fd: RawFd,
    pub(crate) token: usize,
    ready: [Cell<bool>; 2],
    /// A short read or write says nothing: see `distrust_short`.
    lasting: [Cell<bool>; 2],
    /// Whether a reader that believes it to be ready should wait for an event first.
    pub(crate) doubt: Doubt,
    /// The one wait in each direction, or `NONE`.
    pub(crate) waiter: [Cell<WaitId>; 2],
}

impl Source {
    /// True if it is registered with this kernel.
    #[inline]
    pub(crate) fn is_of(&self, core: &Core) -> bool {
        Weak::ptr_eq(&self.owner, &core.me)
    }

    pub(crate) fn is_ready(&self, direction: usize) -> bool {
        self.ready[direction].get()
    }

    /// The system said `WouldBlock`.
    pub(crate) fn clear(&self, direction: usize) {
        self.ready[direction].set(false);
        if direction == READ {
            self.doubt.found_nothing();
        }
    }

    /// A byte stream moved less than asked.
    pub(crate) fn clear_after_short(&self, direction: usize) {
        match (direction, self.lasting[direction].get()) {
            (READ, true) => self.maybe_more(),
            (READ, false) => self.doubt.found_more(),
            _ => {}
        }
        if !self.lasting[direction].get() {
            self.ready[direction].set(false);
        }
    }

    /// A read has got something, and says nothing about what is left: it filled its buffer, or
    /// short ones are not trusted.
    pub(crate) fn maybe_more(&self) {
        self.doubt.begin();
    }

    /// Ready as far as is known, but there may well be nothing to read.
    pub(crate) fn is_in_doubt(&self, direction: usize) -> bool {
        direction == READ && self.doubt.is_open()
    }

    /// From now on readiness lasts until `WouldBlock`, for more may be there after a short read or
    /// write: the end of the stream, which was announced and is not announced again; what stands
    /// behind urgent data; the next of a terminal's lines.
    pub(crate) fn distrust_short(&self, direction: usize) {
        self.lasting[direction].set(true);
    }
}

/// mio's poll and the table of sources.
pub(crate) struct Reactor {
    poll: Held<Poll>,
    events: Held<Events>,
    registry: Registry,
    sources: Held<Slab<Rc<Source>>>,
    doubted: Held<Doubted>,
    /// Counts registrations; the upper half of a token, so that an old event finds no new source.
    registrations: Cell<u32>,
}

impl Reactor {
    pub(crate) fn new() -> io::Result<(Reactor, Alarm)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Alarm::new(&registry, WAKE)?;
        let reactor = Reactor {
            poll: Held::new(poll),
            events: Held::new(Events::with_capacity(1024)),
            registry,
            sources: Held::default(),
            doubted: Held::default(),
            registrations: Cell::new(0),
        };
        Ok((reactor, waker))
    }

    pub(crate) fn len(&self) -> usize {
        self.sources.borrow().len()
    }

    /// Registers a source for both directions; `owner` is this reactor's kernel. `ready` is what to
    /// assume until the first event: true costs one system call that may say `WouldBlock`, false may
    /// not be used where no event would come.
    pub(crate) fn register(
        &self,
        owner: &Weak<Core>,
        fd: RawFd,
        ready: bool,
    ) -> io::Result<Rc<Source>> {
        let serial = self.registrations.get().wrapping_add(1) & 0x7fff_ffff;
        self.registrations.set(serial);
        let mut sources = self.sources.borrow_mut();
        let entry = sources.vacant_entry();
        let token = entry.key() | (serial as usize) << 32;
        self.registry
            .register(&mut SourceFd(&fd), Token(token), ALL)?;
        let source = Rc::new(Source {
            owner: owner.clone(),
            fd,
            token,
            ready: [Cell::new(ready), Cell::new(ready)],
            lasting: Default::default(),
            doubt: Doubt::default(),
            waiter: [Cell::new(NONE), Cell::new(NONE)],
        });
        entry.insert(source.clone());
        Ok(source)
    }

    /// Asks for a fresh event if the source is ready now: level-triggered meaning, for one system
    /// call a wait. For descriptors whose reading we do not see.
    pub(crate) fn rearm(&self, source: &Source) -> io::Result<()> {
        let mut descriptor = SourceFd(&source.fd);
        (self.registry).reregister(&mut descriptor, Token(source.token), BOTH)
    }

    /// Forgets a source. Closing its descriptor takes it out of epoll.
    pub(crate) fn forget(&self, source: &Source) {
        let index = source.token & 0xffff_ffff;
        let mut sources = self.sources.borrow_mut();
        if sources.get(index).is_some_and(|s| s.token == source.token) {
            sources.remove(index);
        }
    }

    /// Takes a source out of epoll, for descriptors that live on elsewhere.
    pub(crate) fn deregister(&self, source: &Source) -> io::Result<()> {
        self.registry.deregister(&mut SourceFd(&source.fd))
    }

    /// Waits for events, for as long at most.
    #[inline]
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = self.events.borrow_mut();
        match self.poll.borrow_mut().poll(&mut events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    /// Remembers the readiness that was found, and hands over the waits that this answers.
    #[inline]
    pub(crate) fn read_events(&self, mut answer: impl FnMut(WaitId)) {
        let events = self.events.borrow();
        let sources = self.sources.borrow();
        for event in events.iter() {
            let token = event.token().0;
            let Some(source) = sources
                .get(token & 0xffff_ffff)
                .filter(|s| s.token == token)
            else {
                continue; // the waker, or a source that is gone
            };
            let (error, urgent) = (event.is_error(), event.is_priority());
            let ends = [event.is_read_closed(), event.is_write_closed()].map(|end| end || error);
            if event.is_readable() || urgent || ends[READ] {
                hand(self.mark(source, READ), &mut answer);
            }
            if event.is_writable() || ends[WRITE] {
                hand(self.mark(source, WRITE), &mut answer);
            }
            if urgent || ends[READ] {
                source.distrust_short(READ);
            }
            if ends[WRITE] {
                source.distrust_short(WRITE);
            }
        }
    }

    /// Ready from now on; gives the wait that this answers, or `NONE`.
    #[inline]
    pub(crate) fn mark(&self, source: &Source, direction: usize) -> WaitId {
        source.ready[direction].set(true);
        if direction == READ {
            self.end_doubt(source);
        }
        source.waiter[direction].replace(NONE)
    }

    /// Somebody waits for a source in doubt.
    pub(crate) fn wait_in_doubt(&self, source: &Rc<Source>) {
        self.doubted.borrow_mut().add(source);
    }

    /// There was news of it, or who waited has given up: the next read tries.
    #[inline]
    pub(crate) fn end_doubt(&self, source: &Source) {
        source.doubt.end();
        self.doubted.borrow_mut().remove(source);
    }

    /// True if somebody waits for a source in doubt: the kernel may not sleep over it.
    #[inline]
    pub(crate) fn has_doubts(&self) -> bool {
        !self.doubted.borrow().is_empty()
    }

    /// There was a look for I/O. Who was in doubt at the one before already is told to try; if
    /// there is nothing else to do, everybody is.
    pub(crate) fn settle_doubts(&self, all: bool, mut answer: impl FnMut(WaitId)) {
        self.doubted.borrow_mut().settle(all, |source| {
            source.ready[READ].set(true);
            hand(source.waiter[READ].replace(NONE), &mut answer);
        });
    }
}

fn hand(wait: WaitId, to: &mut impl FnMut(WaitId)) {
    if wait != NONE {
        to(wait);
    }
}
