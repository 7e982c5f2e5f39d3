//! Whole programs in a test: no real time, a seeded order, pipes instead of sockets.
//!
//! Nothing in here is needed to run the kernel. It is offered to users of the crate because a
//! program on one thread, with time as a parameter, can be run again exactly.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use crate::{
    Kernel, ManualClock, WaitQueue,
    io::{Read, Write},
    ps, spawn,
    sync::Event,
    time::{sleep, yield_now},
    trap::Trap,
};

/// A kernel whose clock jumps from deadline to deadline and which runs ready tasks in an order
/// that only the seed decides.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// let hour = kernel::sim::Sim::new(7).run(async {
///     let start = kernel::now();
///     kernel::sleep(Duration::from_secs(3600)).await.unwrap();
///     kernel::now() - start
/// });
/// assert_eq!(hour, Duration::from_secs(3600)); // at once
/// ```
#[derive(Debug)]
pub struct Sim {
    kernel: Kernel,
    clock: ManualClock,
}

impl Sim {
    /// A simulation with this seed. The same seed and program give the same run.
    ///
    /// # Panics
    /// If the operating system gives no epoll.
    pub fn new(seed: u64) -> Sim {
        let clock = ManualClock::new();
        let kernel = Kernel::builder()
            .manual_clock(clock.clone())
            .shuffle(seed)
            .build();
        Sim {
            kernel: kernel.expect("a simulation needs an epoll descriptor as any kernel does"),
            clock,
        }
    }

    /// The clock, for tests that move it themselves.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// As [`Kernel::run`].
    #[track_caller]
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        self.kernel.run(main)
    }
}

/// Two ends of a connection in memory; each direction holds up to `capacity` bytes.
pub fn pipe(capacity: usize) -> (Pipe, Pipe) {
    let (a, b) = (Way::new(capacity), Way::new(capacity));
    let left = Pipe {
        incoming: a.clone(),
        outgoing: b.clone(),
    };
    let right = Pipe {
        incoming: b,
        outgoing: a,
    };
    (left, right)
}

/// One end of an in-memory connection; reads and writes as a socket does.
#[derive(Debug)]
pub struct Pipe {
    incoming: Rc<Way>,
    outgoing: Rc<Way>,
}

/// One direction.
#[derive(Debug)]
struct Way {
    bytes: RefCell<VecDeque<u8>>,
    capacity: usize,
    closed: Cell<bool>,
    readers: WaitQueue,
    writers: WaitQueue,
}

impl Way {
    fn new(capacity: usize) -> Rc<Way> {
        Rc::new(Way {
            bytes: RefCell::default(),
            capacity,
            closed: Cell::new(false),
            readers: WaitQueue::named("Pipe (bytes)"),
            writers: WaitQueue::named("Pipe (room)"),
        })
    }

    fn close(&self) {
        self.closed.set(true);
        self.readers.wake(usize::MAX);
        self.writers.wake(usize::MAX);
    }
}

impl Read for Pipe {
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let way = &self.incoming;
        let n = buf.len().min(way.bytes.borrow().len());
        if n == 0 && !way.closed.get() && !buf.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buf.iter_mut()
            .zip(way.bytes.borrow_mut().drain(..n))
            .for_each(|(to, from)| *to = from);
        way.writers.wake(usize::MAX);
        Ok(n)
    }

    fn when_readable(&self) -> Trap {
        Trap::Wait(self.incoming.readers.clone())
    }
}

impl Write for Pipe {
    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        let way = &self.outgoing;
        if way.closed.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = buf.len().min(way.capacity - way.bytes.borrow().len());
        if n == 0 && !buf.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        way.bytes.borrow_mut().extend(&buf[..n]);
        way.readers.wake(usize::MAX);
        Ok(n)
    }

    fn when_writable(&self) -> Trap {
        Trap::Wait(self.outgoing.writers.clone())
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.outgoing.close();
        Ok(())
    }
}

impl Pipe {
    /// Reads what is there, up to the buffer's length; 0 is the end.
    ///
    /// # Cancellation
    /// Safe: nothing has been read if it is dropped or comes back with an error.
    ///
    /// # Errors
    /// Cancellation and timeouts.
    pub async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        Read::read(self, buf).await
    }

    /// Writes as much as there is room for.
    ///
    /// # Cancellation
    /// Safe: nothing has been written if it is dropped or comes back with an error.
    ///
    /// # Errors
    /// `BrokenPipe` once the other end is gone; cancellation and timeouts.
    pub async fn write(&self, buf: &[u8]) -> io::Result<usize> {
        Write::write(self, buf).await
    }

    /// Writes the whole buffer.
    ///
    /// # Cancellation
    /// Not safe in the middle: a part may have been written.
    ///
    /// # Errors
    /// As [`write`](Pipe::write).
    pub async fn write_all(&self, buf: &[u8]) -> io::Result<()> {
        Write::write_all(self, buf).await
    }

    /// The other end reads the end of the stream; this one can still read.
    pub fn shutdown_write(&self) {
        self.outgoing.close();
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.outgoing.close();
        self.incoming.close();
    }
}

/// Runs a scenario again and again, cancelling it at its first await, its second, and so on, until
/// it gets through; and each time looks for what was left behind. Gives the number of awaits.
///
/// Each await is tried in four ways: cancelled at once and a little later (so that the wait may
/// have been answered in between), softly (the scenario sees the error) and hard (its future is
/// dropped). Afterwards no wait, deadline, scope, descriptor, bell or task may be left, once a
/// virtual minute has passed. `check` looks at what only the scenario knows, such as permits.
///
/// # Panics
/// If something was left behind, naming the await and the way.
pub fn cancel_everywhere<F, S>(scenario: S, check: impl Fn() + 'static) -> usize
where
    F: Future + 'static,
    S: Fn() -> F,
{
    let check = Rc::new(check);
    for at in 1.. {
        let mut through = false;
        for way in 0..4 {
            let (later, hard) = (way & 1 != 0, way & 2 != 0);
            let (future, check) = (scenario(), check.clone());
            let cancelled = Sim::new(at).run(async move {
                let before = ps::stats();
                let cancelled = cancel_once(future, at, later, hard).await;
                sleep(Duration::from_secs(60))
                    .await
                    .expect("nobody cancels main");
                let how = format!("await {at}, later: {later}, hard: {hard}");
                assert_eq!(
                    ps::stats(),
                    before,
                    "left behind after a cancel at {how}: {:?}",
                    ps::ps()
                );
                check();
                cancelled
            });
            through |= !cancelled;
        }
        if through {
            return at as usize - 1;
        }
    }
    unreachable!("the loop ends when the scenario gets through")
}

/// Runs a future as a task and cancels it at its `at`th pause; false if it had fewer.
async fn cancel_once<F: Future + 'static>(future: F, at: u64, later: bool, hard: bool) -> bool {
    let reached = Event::new();
    let seen = reached.clone();
    let task = spawn(async move {
        let mut future = pin!(future);
        let mut pauses = 0;
        poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            pauses += 1;
            if polled.is_ready() || pauses == at {
                seen.set();
            }
            polled.map(drop)
        })
        .await
    });
    reached.wait().await.expect("nobody cancels main");
    if later {
        yield_now().await.expect("nobody cancels main");
    }
    let running = !task.is_finished();
    let ended = task.cancel();
    if hard {
        task.cancel();
    }
    ended.await.expect("nobody cancels main");
    running
}
