//! A mailbox into the kernel from other threads.

use std::{cell::RefCell, collections::VecDeque, fmt, marker::PhantomData, rc::Rc, sync::Arc};

use crate::{
    Bell, Ringer,
    across::{Mutex, MutexGuard},
    error::Error,
    trap::{Trap, ask},
};

/// Makes an unbounded mailbox that any thread may put into and one kernel task takes out of.
///
/// Items come out in the order they were put in. A burst of sends wakes the kernel once. It may
/// be made before the kernel runs, and received from in one kernel after another. Nothing bounds it:
/// what limits the queue in practice has to be said by who uses it.
///
/// # Examples
/// ```
/// let (to_kernel, inbox) = kernel::inbox::<u32>();
/// let thread = std::thread::spawn(move || to_kernel.send_all(1..=3));
/// let sum = kernel::run(async move {
///     let mut sum = 0;
///     while let Some(n) = inbox.recv().await.unwrap() {
///         sum += n;
///     }
///     sum
/// });
/// thread.join().unwrap().unwrap();
/// assert_eq!(sum.unwrap(), 6);
/// ```
pub fn inbox<T>() -> (InboxSender<T>, InboxReceiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            items: VecDeque::new(),
            senders: 1,
            receiver: true,
            waiting: None,
        }),
    });
    let receiver = InboxReceiver {
        shared: shared.clone(),
        bell: Default::default(),
        _stays_on_its_thread: PhantomData,
    };
    (InboxSender { shared }, receiver)
}

struct Shared<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    receiver: bool,
    /// Set while the receiver waits; whoever puts something in takes it and rings.
    waiting: Option<Ringer>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Changes the state, then wakes the receiver if it waits.
    fn change<R>(&self, f: impl FnOnce(&mut State<T>) -> R) -> R {
        let mut state = self.lock();
        let result = f(&mut state);
        let waiting = state.waiting.take();
        drop(state);
        if let Some(ringer) = waiting {
            ringer.ring();
        }
        result
    }
}

/// The end that other threads put into. Clones put into the same mailbox.
pub struct InboxSender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> InboxSender<T> {
    /// Puts an item in. Never waits.
    ///
    /// # Errors
    /// [`Error::Closed`] if the receiver is gone; the item is dropped.
    pub fn send(&self, item: T) -> Result<(), Error> {
        self.send_all([item])
    }

    /// Puts several items in, with one wake-up.
    ///
    /// # Errors
    /// [`Error::Closed`] if the receiver is gone; the items are dropped.
    pub fn send_all(&self, items: impl IntoIterator<Item = T>) -> Result<(), Error> {
        // The iterator is the caller's code: it must not run under the lock.
        let items: Vec<T> = items.into_iter().collect();
        let refused = self.shared.change(|state| match state.receiver {
            true => {
                state.items.extend(items);
                None
            }
            false => Some(items),
        });
        refused.map_or(Ok(()), |_| Err(Error::Closed))
    }

    /// True if the receiver is gone.
    pub fn is_closed(&self) -> bool {
        !self.shared.lock().receiver
    }
}

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> InboxSender<T> {
        self.shared.lock().senders += 1;
        InboxSender {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Drop for InboxSender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        let last = state.senders == 0;
        drop(state);
        if last {
            self.shared.change(|_| ());
        }
    }
}

/// The end on the kernel's thread.
pub struct InboxReceiver<T> {
    shared: Arc<Shared<T>>,
    /// Made at the first wait in a kernel, for that kernel.
    bell: RefCell<Option<Bell>>,
    _stays_on_its_thread: PhantomData<Rc<()>>,
}

impl<T> InboxReceiver<T> {
    /// Waits for the next item; `None` when all senders are gone and everything was taken.
    ///
    /// # Cancellation
    /// Safe: an item is never taken and lost.
    ///
    /// # Errors
    /// Cancellation and timeouts; [`Error::Busy`] if another task waits on the same inbox.
    pub async fn recv(&self) -> Result<Option<T>, Error> {
        crate::trap::breathe().await?;
        loop {
            let rung = {
                let mut state = self.shared.lock();
                if let Some(item) = state.items.pop_front() {
                    return Ok(Some(item));
                }
                if state.senders == 0 {
                    return Ok(None);
                }
                self.wait_for_ring(&mut state)
            };
            ask(rung).await?;
        }
    }

    /// Waits until there is something to take; false when all senders are gone and everything
    /// was taken.
    ///
    /// # Cancellation
    /// Safe: nothing is taken.
    ///
    /// # Errors
    /// As [`recv`](InboxReceiver::recv).
    pub async fn ready(&self) -> Result<bool, Error> {
        crate::trap::breathe().await?;
        loop {
            let rung = {
                let mut state = self.shared.lock();
                if !state.items.is_empty() {
                    return Ok(true);
                }
                if state.senders == 0 {
                    return Ok(false);
                }
                self.wait_for_ring(&mut state)
            };
            ask(rung).await?;
        }
    }

    /// Nothing is there: notes whom to wake, in the kernel that runs now, and gives the wait for it.
    fn wait_for_ring(&self, state: &mut State<T>) -> Trap {
        let mut bell = self.bell.borrow_mut();
        let bell = match bell.take() {
            Some(known) if known.is_at_home() => bell.insert(known),
            _ => bell.insert(Bell::new()),
        };
        state.waiting = Some(bell.ringer());
        Trap::Bell(bell.key())
    }

    /// Takes the next item if there is one.
    pub fn try_recv(&self) -> Option<T> {
        self.shared.lock().items.pop_front()
    }

    /// Takes all that is there, with one lock; gives how many that were.
    pub fn drain_into(&self, items: &mut Vec<T>) -> usize {
        let taken = std::mem::take(&mut self.shared.lock().items);
        let count = taken.len();
        items.extend(taken);
        count
    }
}

impl<T> Drop for InboxReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver = false;
        let left = std::mem::take(&mut state.items);
        drop(state);
        drop(left); // not under the lock: an item's drop may be anybody's code
    }
}

impl<T> fmt::Debug for InboxSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxSender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for InboxReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxReceiver").finish_non_exhaustive()
    }
}
