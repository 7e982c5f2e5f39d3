//! Bells: how a thread tells one task that something is ready for it.

use std::{
    cell::Cell,
    fmt,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use slab::Slab;

use crate::{
    error::Error,
    kernel::{
        Core,
        outside::{Flag, Note, Shared},
        wait::NONE,
    },
    trap::{BellKey, Trap, ask},
};

/// Index and serial number of a bell. No two bells have the same, of whatever kernel.
pub(crate) type BellId = (u32, u32);

/// The bells that were made, by all kernels.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Something any thread may ring, and one task waits for ([`Trap::Bell`]).
///
/// Ringing is remembered until it is waited for; ringing twice is ringing once. It is how a pool
/// of threads, or anything else outside, hands results to tasks without the kernel knowing it:
/// put the result where both can see it, then ring.
#[derive(Debug)]
pub struct Bell {
    rope: Arc<Rope>,
    owner: Weak<Core>,
}

/// The end of a [`Bell`] that may be sent to other threads.
#[derive(Clone, Debug)]
pub struct Ringer {
    rope: Arc<Rope>,
}

/// What a bell and its ringers share.
pub(crate) struct Rope {
    pub(crate) id: BellId,
    pub(crate) noted: Flag,
    shared: Arc<Shared>,
}

impl fmt::Debug for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rope")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Bell {
    /// Makes a bell of the running kernel.
    ///
    /// # Panics
    /// Outside a running kernel.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Bell {
        let core = Core::current();
        let rope = Rope {
            id: core.new_bell(),
            noted: Flag::default(),
            shared: core.shared.clone(),
        };
        Bell {
            rope: Arc::new(rope),
            owner: Rc::downgrade(&core),
        }
    }

    /// The end to give away.
    pub fn ringer(&self) -> Ringer {
        Ringer {
            rope: self.rope.clone(),
        }
    }

    /// Waits until it is rung, or returns at once if it was rung since the last wait.
    ///
    /// # Cancellation
    /// Safe: a ring that was not taken stays.
    ///
    /// # Errors
    /// Cancellation and timeouts; [`Error::Busy`] if another task waits;
    /// [`Error::OtherRun`] in another kernel than its own.
    pub async fn wait(&self) -> Result<(), Error> {
        if !self.is_at_home() {
            return Err(Error::OtherRun);
        }
        ask(Trap::Bell(self.key())).await
    }

    /// What to ask for in a [`Trap::Bell`].
    pub fn key(&self) -> BellKey {
        BellKey(self.rope.id)
    }

    /// True while its own kernel runs.
    pub(crate) fn is_at_home(&self) -> bool {
        let owner = self.owner.as_ptr();
        Core::with_current(|core| std::ptr::eq(core, owner)).unwrap_or(false)
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some(core) = self.owner.upgrade() {
            core.drop_bell(self.rope.id);
        }
    }
}

impl Ringer {
    /// Rings. Wakes the kernel if it sleeps; does nothing if the bell or the kernel is gone.
    pub fn ring(&self) {
        if self.rope.noted.raise() {
            self.rope.shared.note(Note::Ring(self.rope.clone()));
        }
    }
}

/// A bell as the kernel holds it.
pub(crate) struct BellState {
    serial: u32,
    pub(crate) rung: Cell<bool>,
    pub(crate) waiter: Cell<u32>,
}

pub(crate) fn find_bell(bells: &Slab<BellState>, key: BellKey) -> Option<&BellState> {
    let (index, serial) = key.0;
    let bell = bells.get(index as usize)?;
    (bell.serial == serial).then_some(bell)
}

impl Core {
    pub(crate) fn new_bell(&self) -> BellId {
        let serial = MADE.fetch_add(1, Ordering::Relaxed);
        let index = self.bells.borrow_mut().insert(BellState {
            serial,
            rung: Cell::new(false),
            waiter: Cell::new(NONE),
        });
        (index as u32, serial)
    }

    /// Whoever waits in a trap made of its key learns that it is gone.
    pub(crate) fn drop_bell(&self, id: BellId) {
        let bell = self.bells.borrow_mut().remove(id.0 as usize);
        match bell.waiter.get() {
            NONE => {}
            waiter => self.answer(waiter, Err(Error::Closed)),
        }
    }

    pub(crate) fn ring(&self, id: BellId) {
        let waiter = match find_bell(&self.bells.borrow(), BellKey(id)) {
            Some(bell) => {
                let waiter = bell.waiter.replace(NONE);
                bell.rung.set(waiter == NONE);
                waiter
            }
            None => NONE,
        };
        if waiter != NONE {
            self.answer(waiter, Ok(()));
        }
    }
}
