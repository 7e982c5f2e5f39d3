//! What a wait may come back with instead of its answer.
//!
//! Cancellation and timeouts are errors *at the trap*: the task keeps running, may clean up with
//! further awaits, and passes the error on with `?`. The three timeouts are Curio's, told apart
//! by whose deadline it was; see the chapter on timeouts in `docs/`.

use std::{
    any::Any,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
};

/// Why a wait ended without its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// The task was cancelled. It may clean up (traps work again, within the cleanup budget) and
    /// should then return.
    Cancelled,
    /// The deadline of the innermost enclosing `timeout_after` passed; outside of it, the
    /// timeout's own verdict on itself.
    TaskTimeout,
    /// The deadline of an *outer* `timeout_after` passed, and what stands inside is given up.
    TimeoutCancellation,
    /// An inner block timed out, nobody handled it, and it reached an outer `timeout_after`.
    UncaughtTimeout,
    /// A task tried to cancel or join itself.
    OneSelf,
    /// Another task waits for the same descriptor in the same direction.
    Busy,
    /// The other side is gone: all senders or all receivers were dropped, or it was closed.
    Closed,
    /// What was waited for belongs to another kernel, or the wait began in a run that is over.
    /// Streams, bells and waits are made inside the run that uses them.
    OtherRun,
}

impl Error {
    /// Finds the kernel error that an `io::Error` carries, if it carries one.
    ///
    /// ```
    /// use std::io;
    /// let e = io::Error::from(kernel::Error::Cancelled);
    /// assert_eq!(kernel::Error::in_io(&e), Some(kernel::Error::Cancelled));
    /// assert_eq!(kernel::Error::in_io(&io::Error::other("disk on fire")), None);
    /// ```
    pub fn in_io(error: &io::Error) -> Option<Error> {
        Error::in_chain(error)
    }

    /// Finds the kernel error that any error is, carries, or was caused by: in boxes, in
    /// `io::Error`s, in a [`JoinError`], and along [`source`](std::error::Error::source).
    ///
    /// ```
    /// use std::{error, io, time::Duration};
    /// type Boxed = Box<dyn error::Error + Send + Sync>;
    ///
    /// async fn work() -> Result<(), Boxed> {
    ///     let nobody = std::os::unix::net::UnixStream::pair()?;
    ///     let stream = kernel::net::UnixStream::from_std(nobody.0)?;
    ///     stream.read(&mut [0; 8]).await?; // the timeout is in an `io::Error` in a `Box`
    ///     Ok(())
    /// }
    ///
    /// let late = kernel::run(kernel::timeout_after(Duration::from_millis(1), work()));
    /// let error = late.unwrap().unwrap_err();
    /// assert_eq!(kernel::Error::in_chain(&*error), Some(kernel::Error::TaskTimeout));
    /// ```
    pub fn in_chain(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ours) = error.downcast_ref::<Error>() {
                return Some(*ours);
            }
            if let Some(JoinError::Interrupted(ours)) = error.downcast_ref() {
                return Some(*ours);
            }
            // The source of an `io::Error` is that of what it carries; what it carries is skipped.
            next = match error.downcast_ref::<io::Error>() {
                Some(io) => io.get_ref().map(|carried| carried as _),
                None => error.source(),
            };
        }
        None
    }

    /// True for the three timeouts.
    pub fn is_timeout(self) -> bool {
        matches!(
            self,
            Error::TaskTimeout | Error::TimeoutCancellation | Error::UncaughtTimeout
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Cancelled => "the task was cancelled",
            Error::TaskTimeout => "the time allowed is over",
            Error::TimeoutCancellation => "given up because an outer timeout passed",
            Error::UncaughtTimeout => "an inner timeout passed and was not handled",
            Error::OneSelf => "a task can neither cancel nor join itself",
            Error::Busy => "another task already waits for this in the same direction",
            Error::Closed => "the other side is closed",
            Error::OtherRun => {
                "this belongs to another kernel or to a run that is over: make it inside the run that uses it"
            }
        })
    }
}

impl std::error::Error for Error {}

/// `ErrorKind::Other`, never `Interrupted`: loops retry that one, and a cancellation would be lost.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::other(error)
    }
}

/// How a joined task failed to give its value.
#[non_exhaustive]
pub enum JoinError {
    /// The task was dropped before its end: a second cancel, or the cleanup budget was used up.
    /// A task that answers its cancellation by returning gives its value as usual.
    Cancelled,
    /// The task panicked.
    Panicked(Panic),
    /// The *joining* task was cancelled or timed out while it waited; the joined one goes on.
    Interrupted(Error),
}

impl JoinError {
    /// The text of the panic, if the task panicked with a text.
    pub fn panic_message(&self) -> Option<&str> {
        match self {
            JoinError::Panicked(panic) => Some(panic.text()),
            _ => None,
        }
    }
}

/// What a task panicked with.
///
/// A payload is `Send` and no more, but errors should be `Sync` too (`io::Error`, `anyhow` and boxes
/// ask for it): so nobody gets at it through a reference.
pub struct Panic(Box<Inner>);

struct Inner {
    text: String,
    /// Locked by nobody, ever: it makes the payload `Sync`. `None` once it was taken out.
    payload: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Panic {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Panic {
        let text = payload
            .downcast_ref::<&'static str>()
            .map(|s| s.to_string());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Panic(Box::new(Inner {
            text: text.unwrap_or_else(|| "(a panic without a text)".into()),
            payload: Mutex::new(Some(payload)),
        }))
    }

    /// The text, if `panic!` was given one, or a text that says that it was not.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// What `panic!` was given; [`std::panic::resume_unwind`] goes on with it.
    pub fn into_payload(mut self) -> Box<dyn Any + Send> {
        let payload = self.0.take();
        payload.expect("only this and the drop take it out")
    }
}

impl Inner {
    fn take(&mut self) -> Option<Box<dyn Any + Send>> {
        let payload = self.payload.get_mut();
        payload.unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A payload may be anything, also what panics in its own drop: that must not end whoever only
/// wanted to know that a task has panicked.
impl Drop for Inner {
    fn drop(&mut self) {
        let mut payload = self.take();
        for _ in 0..3 {
            let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload.take()))) else {
                return;
            };
            log::error!("kernel: the drop of what was panicked with panicked");
            payload = Some(another);
        }
        std::mem::forget(payload); // a chain of such that may have no end
    }
}

/// An error of the system, which does not say what it was about. Its number is the source's: an
/// `io::Error` with a text of its own has none.
pub(crate) fn about(what: impl fmt::Display, error: io::Error) -> io::Error {
    let what = what.to_string();
    io::Error::new(error.kind(), About { what, error })
}

#[derive(Debug)]
struct About {
    what: String,
    error: io::Error,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.error)
    }
}

impl std::error::Error for About {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Runs foreign code that belongs to no task: if it panics that is logged, and the run goes on.
pub(crate) fn contain(what: &str, code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        let panic = Panic::new(payload);
        log::error!("kernel: {what} panicked: {panic}");
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.text(), f)
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Cancelled => f.write_str("Cancelled"),
            JoinError::Panicked(panic) => f.debug_tuple("Panicked").field(panic).finish(),
            JoinError::Interrupted(e) => f.debug_tuple("Interrupted").field(e).finish(),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Cancelled => f.write_str("the joined task was cancelled and dropped"),
            JoinError::Panicked(panic) => write!(f, "the joined task panicked: {panic}"),
            JoinError::Interrupted(e) => write!(f, "while joining: {e}"),
        }
    }
}

impl std::error::Error for JoinError {}

impl From<Error> for JoinError {
    fn from(error: Error) -> JoinError {
        JoinError::Interrupted(error)
    }
}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> io::Error {
        match error {
            JoinError::Interrupted(e) => e.into(),
            other => io::Error::other(other),
        }
    }
}

/// What can be said about an error whose type is only known as `E`.
pub(crate) enum Told {
    /// It is, or carries, this kernel error.
    Ours(Error),
    /// It is of a type we can look into, and carries none.
    Foreign,
    /// A type we cannot look into.
    Opaque,
}

/// Looks into the error types that commonly carry ours. `timeout_after` only asks for
/// `E: From<Error>`, which has no way back; types of the user's own stay opaque.
pub(crate) fn look_into<E: 'static>(error: &E) -> Told {
    let any: &dyn Any = error;
    let error: &(dyn std::error::Error + 'static) = if let Some(e) = any.downcast_ref::<Error>() {
        e
    } else if let Some(e) = any.downcast_ref::<io::Error>() {
        e
    } else if let Some(e) = any.downcast_ref::<JoinError>() {
        e
    } else if let Some(e) = any.downcast_ref::<Box<dyn std::error::Error>>() {
        &**e
    } else if let Some(e) = any.downcast_ref::<Box<dyn std::error::Error + Send + Sync>>() {
        &**e
    } else {
        return Told::Opaque;
    };
    Error::in_chain(error).map_or(Told::Foreign, Told::Ours)
}
