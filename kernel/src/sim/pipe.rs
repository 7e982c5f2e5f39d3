//! A connection in memory, in place of a socket.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
};

use crate::{
    WaitQueue,
    io::{Read, Write},
    trap::Trap,
};

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
