//! What a wait may come back with instead of its answer.
//!
//! Cancellation and timeouts are errors *at the trap*: the task keeps running, may clean up with
//! further awaits, and passes the error on with `?`. The three timeouts are Curio's, told apart
//! by whose deadline it was; see the chapter on timeouts in `docs/`.

use std::{any::Any, fmt, io};

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
    /// The task panicked; the payload is what `panic!` was given.
    Panicked(Box<dyn Any + Send>),
    /// The *joining* task was cancelled or timed out while it waited; the joined one goes on.
    Interrupted(Error),
}

impl JoinError {
    /// The text of the panic, if the task panicked with a text.
    pub fn panic_message(&self) -> Option<&str> {
        match self {
            JoinError::Panicked(payload) => Some(panic_text(payload.as_ref())),
            _ => None,
        }
    }
}

/// The text in a panic's payload.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a panic without a text)")
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Cancelled => f.write_str("Cancelled"),
            JoinError::Panicked(p) => f
                .debug_tuple("Panicked")
                .field(&panic_text(p.as_ref()))
                .finish(),
            JoinError::Interrupted(e) => f.debug_tuple("Interrupted").field(e).finish(),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Cancelled => f.write_str("the joined task was cancelled and dropped"),
            JoinError::Panicked(p) => {
                write!(f, "the joined task panicked: {}", panic_text(p.as_ref()))
            }
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
            other => io::Error::other(other.to_string()),
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
