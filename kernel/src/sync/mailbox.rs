//! Queues between tasks. (Rust says channel; in this project that word belongs to AMQP.)

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    future::Future,
    rc::Rc,
};

use crate::{
    WaitQueue,
    error::Error,
    sync::{shortcut::shortcut, wait_for_one},
    trap::{Ask, Trap, ask, breathe},
};

struct Shared<T> {
    items: RefCell<VecDeque<T>>,
    /// `usize::MAX` for an unbounded one; 0 once all receivers are gone.
    bound: Cell<usize>,
    senders: Cell<usize>,
    receivers: Cell<usize>,
    /// Rooms handed to senders that waited and have not used them yet. While senders wait, items and
    /// these are all the room there is: nobody overtakes them.
    promised: Cell<usize>,
    /// Waiting for an item.
    takers: WaitQueue,
    /// Waiting for room.
    givers: WaitQueue,
}

/// A queue without a bound: sending never waits. What limits it has to be said by who uses it.
///
/// # Examples
/// ```
/// kernel::run(async {
///     let (to_printer, printer) = kernel::sync::mailbox();
///     kernel::spawn(async move {
///         while let Some(line) = printer.recv().await.unwrap() {
///             println!("{line}");
///         }
///     });
///     to_printer.send("hello").unwrap();
/// }).unwrap();
/// ```
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = new(usize::MAX);
    (
        Sender {
            shared: shared.clone(),
        },
        Receiver { shared },
    )
}

/// A queue that holds up to `bound` items; sending waits for room.
///
/// # Panics
/// If `bound` is 0.
pub fn mailbox_bounded<T>(bound: usize) -> (BoundedSender<T>, Receiver<T>) {
    assert!(bound > 0, "a mailbox has room for at least one item");
    let shared = new(bound);
    (
        BoundedSender {
            shared: shared.clone(),
        },
        Receiver { shared },
    )
}

fn new<T>(bound: usize) -> Rc<Shared<T>> {
    Rc::new(Shared {
        items: RefCell::default(),
        bound: Cell::new(bound),
        senders: Cell::new(1),
        receivers: Cell::new(1),
        promised: Cell::new(0),
        takers: WaitQueue::named("Mailbox (item)"),
        givers: WaitQueue::named("Mailbox (room)"),
    })
}

/// An item that could not be sent.
pub struct SendError<T> {
    /// The item.
    pub item: T,
    /// Why: [`Error::Closed`], a cancellation or a timeout.
    pub reason: Error,
}

impl<T> From<SendError<T>> for Error {
    fn from(e: SendError<T>) -> Error {
        e.reason
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not send: {}", self.reason)
    }
}

impl<T> std::error::Error for SendError<T> {}

impl<T> Shared<T> {
    /// True if there is room for one more that no waiting sender has a claim to.
    #[inline]
    fn has_room(&self, items: &VecDeque<T>) -> bool {
        items.len() + self.promised.get() < self.bound.get()
    }

    /// Puts an item in; gives it back if there is no room for it.
    #[inline]
    fn put(&self, item: T) -> Result<(), T> {
        let mut items = self.items.borrow_mut();
        if !self.has_room(&items) {
            return Err(item);
        }
        items.push_back(item);
        drop(items);
        self.takers.wake(1);
        Ok(())
    }

    /// As `put`, with the error for an item that found no room.
    #[inline]
    fn try_send(&self, item: T) -> Result<(), SendError<T>> {
        self.put(item).map_err(|item| {
            let reason = match self.is_closed() {
                true => Error::Closed,
                false => Error::Busy,
            };
            SendError { item, reason }
        })
    }

    fn is_closed(&self) -> bool {
        self.receivers.get() == 0
    }

    /// An item was taken: its room belongs to the first sender in line.
    #[inline]
    fn hand_on_room(&self) {
        if self.givers.wake(1) > 0 {
            self.promised.set(self.promised.get() + 1);
        }
    }

    /// A promised room is used, or given up. (After the last receiver all wake, promised or not.)
    fn redeem(&self) {
        self.promised.set(self.promised.get().saturating_sub(1));
    }

    /// Waits until there is room for an item, or nobody left to take it.
    async fn room(&self) -> Result<(), Error> {
        breathe().await?;
        let has_room = self.has_room(&self.items.borrow());
        match has_room || self.is_closed() {
            true => Ok(()),
            false => self.wait_for_room().await,
        }
    }

    /// Stands in the line of senders until there is room. Dropped when it has got it, it hands it on.
    async fn wait_for_room(&self) -> Result<(), Error> {
        struct Turn<'a, T>(&'a Shared<T>, Ask);
        impl<T> Drop for Turn<'_, T> {
            fn drop(&mut self) {
                if self.1.was_granted() {
                    self.0.redeem();
                    self.0.hand_on_room();
                }
            }
        }
        let mut turn = Turn(self, ask(Trap::Wait(self.givers.clone())));
        (&mut turn.1).await?;
        self.redeem(); // the item is put in before anybody else runs
        Ok(())
    }

    fn sender_gone(&self) {
        self.senders.set(self.senders.get() - 1);
        if self.senders.get() == 0 {
            self.takers.wake(usize::MAX);
        }
    }
}

/// The sending end of an unbounded mailbox.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Puts an item in; never waits.
    ///
    /// # Errors
    /// [`Error::Closed`], with the item, if all receivers are gone.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.shared.try_send(item)
    }

    /// How many items wait to be taken.
    pub fn len(&self) -> usize {
        self.shared.items.borrow().len()
    }

    /// True if nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if all receivers are gone.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }
}

/// The sending end of a bounded mailbox.
pub struct BoundedSender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> BoundedSender<T> {
    /// Puts an item in, waiting for room if there is none. Senders that wait are served in order of
    /// arrival, and nobody who comes later overtakes them.
    ///
    /// # Cancellation
    /// Safe: the item comes back in the error; if the future is dropped, it is dropped with it.
    ///
    /// # Errors
    /// [`Error::Closed`] if all receivers are gone; cancellation and timeouts.
    pub fn send(&self, item: T) -> impl Future<Output = Result<(), SendError<T>>> {
        shortcut(
            (&*self.shared, item),
            |(shared, item)| shared.put(item).map(Ok).map_err(|item| (shared, item)),
            |(shared, item)| async move {
                match shared.room().await {
                    Ok(()) => shared.try_send(item),
                    Err(reason) => Err(SendError { item, reason }),
                }
            },
        )
    }

    /// Puts an item in if there is room that no waiting sender has a claim to.
    ///
    /// # Errors
    /// [`Error::Closed`] if all receivers are gone, [`Error::Busy`] if there is no room.
    pub fn try_send(&self, item: T) -> Result<(), SendError<T>> {
        self.shared.try_send(item)
    }

    /// How many items wait to be taken.
    pub fn len(&self) -> usize {
        self.shared.items.borrow().len()
    }

    /// True if nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The receiving end. Clones take from the same queue; each item goes to one of them.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// Waits for the next item; `None` when all senders are gone and everything was taken.
    ///
    /// # Cancellation
    /// Safe: an item is never taken and lost.
    ///
    /// # Errors
    /// Cancellation and timeouts.
    pub fn recv(&self) -> impl Future<Output = Result<Option<T>, Error>> {
        shortcut(
            self,
            |this| this.try_recv().map(|item| Ok(Some(item))).ok_or(this),
            |this| async move {
                breathe().await?;
                loop {
                    if let Some(item) = this.try_recv() {
                        return Ok(Some(item));
                    }
                    if this.shared.senders.get() == 0 {
                        return Ok(None);
                    }
                    wait_for_one(&this.shared.takers).await?;
                }
            },
        )
    }

    /// Takes the next item if there is one.
    #[inline]
    pub fn try_recv(&self) -> Option<T> {
        let item = self.shared.items.borrow_mut().pop_front()?;
        self.shared.hand_on_room();
        Some(item)
    }

    /// How many items wait to be taken.
    pub fn len(&self) -> usize {
        self.shared.items.borrow().len()
    }

    /// True if nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

macro_rules! counted {
    ($name:ident, $field:ident) => {
        impl<T> Clone for $name<T> {
            fn clone(&self) -> $name<T> {
                self.shared.$field.set(self.shared.$field.get() + 1);
                $name {
                    shared: self.shared.clone(),
                }
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("len", &self.shared.items.borrow().len())
                    .finish_non_exhaustive()
            }
        }
    };
}
counted!(Sender, senders);
counted!(BoundedSender, senders);
counted!(Receiver, receivers);

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.sender_gone();
    }
}

impl<T> Drop for BoundedSender<T> {
    fn drop(&mut self) {
        self.shared.sender_gone();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.set(self.shared.receivers.get() - 1);
        if self.shared.is_closed() {
            self.shared.bound.set(0);
            let left = self.shared.items.take();
            self.shared.givers.wake(usize::MAX);
            drop(left);
        }
    }
}
