//! What can go wrong, in one enum.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What ran out when a message was refused as [`Error::Full`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// `max_messages` of the high-water mark, under the strategy `reject`.
    Messages,
    /// `max_bytes` of the high-water mark, under the strategy `reject`.
    Bytes,
    /// The LMDB map. Deletes still succeed: a reserve is kept for them.
    Map,
    /// The disk. Deletes still succeed: their pages were allocated beforehand.
    Disk,
    /// The table of leases: far too many messages are being worked on at once.
    Leases,
}

/// What a call of this crate can answer instead of a result.
///
/// Errors are clones of one cause when several calls shared a commit that failed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// Nobody has initialised this queue yet: a control must do it first (`olive queue init`).
    NotInitialized(PathBuf),
    /// This process already has an environment of this path. LMDB's locks belong to the process, so a
    /// second one would break them; share the first (it is `Send + Sync` and cheap to clone).
    AlreadyOpen(PathBuf),
    /// The store was open when this process was forked from another one. LMDB's locks do not come along,
    /// and what does cannot be closed, so this process can never use it: open it only after the fork, or
    /// let the child `exec`.
    Forked,
    /// No subscriber of this name is registered (any more).
    UnknownSubscriber(String),
    /// A subscriber's name must have 1 to 255 bytes.
    InvalidName(String),
    /// Not stored, because this resource ran out. Nothing of the call was stored.
    Full(Resource),
    /// The body has more bytes than this store could ever take.
    TooLarge {
        /// Bytes of the body.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The directory holds a store of another format, or no store at all.
    Format(String),
    /// Other processes have this store open, and the operation needs it alone.
    Busy(PathBuf),
    /// A setting that cannot be; the text names it, and the deployment file it stands in.
    Config(String),
    /// The operating system refused.
    Io {
        /// The file or directory concerned; empty where that is not known.
        path: PathBuf,
        /// What it answered.
        cause: Arc<io::Error>,
    },
    /// LMDB failed in a way that is none of the above.
    Lmdb(String),
    /// The wait was cancelled, or its time ran out (asynchronous API only).
    #[cfg(feature = "kernel")]
    Kernel(kernel::Error),
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Says what an error of the operating system was about, unless it does already.
    pub(crate) fn at(self, about: &Path) -> Self {
        match self {
            Error::Io { path, cause } if path.as_os_str().is_empty() => Error::Io {
                path: about.to_owned(),
                cause,
            },
            other => other,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::NotInitialized(path) => {
                write!(
                    f,
                    "{} is not initialised: a control must do that first",
                    path.display()
                )
            }
            Error::AlreadyOpen(path) => {
                write!(
                    f,
                    "{} is already open in this process: share that environment",
                    path.display()
                )
            }
            Error::Forked => write!(
                f,
                "the store was opened before this process was forked: open it only after the fork, or exec"
            ),
            Error::UnknownSubscriber(name) => write!(f, "no subscriber is called {name:?}"),
            Error::InvalidName(name) => write!(
                f,
                "{name:?} cannot name a subscriber: it has {} bytes, 1 to 255 are needed",
                name.len()
            ),
            Error::Full(Resource::Messages) => write!(
                f,
                "full: max_messages reached, and the strategy is to reject"
            ),
            Error::Full(Resource::Bytes) => {
                write!(f, "full: max_bytes reached, and the strategy is to reject")
            }
            Error::Full(Resource::Map) => {
                write!(f, "full: no page of the LMDB map is left (map_size)")
            }
            Error::Full(Resource::Disk) => write!(f, "full: no space is left on the disk"),
            Error::Full(Resource::Leases) => {
                write!(f, "full: too many messages are leased at once")
            }
            Error::TooLarge { len, max } => {
                write!(f, "a body of {len} bytes is too large: at most {max} fit")
            }
            Error::Format(text) => write!(f, "not a store of this version: {text}"),
            Error::Busy(path) => write!(f, "{} is open in another process", path.display()),
            Error::Config(text) => write!(f, "{text}"),
            Error::Io { path, cause } if path.as_os_str().is_empty() => write!(f, "{cause}"),
            Error::Io { path, cause } => write!(f, "{}: {cause}", path.display()),
            Error::Lmdb(text) => write!(f, "LMDB: {text}"),
            #[cfg(feature = "kernel")]
            Error::Kernel(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(feature = "kernel")]
impl From<kernel::Error> for Error {
    fn from(error: kernel::Error) -> Self {
        Error::Kernel(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::Full(Resource::Disk),
            _ => Error::Io {
                path: PathBuf::new(),
                cause: Arc::new(error),
            },
        }
    }
}

impl From<heed::Error> for Error {
    fn from(error: heed::Error) -> Self {
        use heed::MdbError;
        match error {
            heed::Error::Io(error) => error.into(),
            // A batch with more dirty pages than LMDB can hold is the same thing to its sender.
            heed::Error::Mdb(MdbError::MapFull | MdbError::TxnFull) => Error::Full(Resource::Map),
            heed::Error::Mdb(MdbError::Invalid | MdbError::VersionMismatch) => {
                Error::Format("data.mdb was not written by this version of LMDB".to_owned())
            }
            other => Error::Lmdb(other.to_string()),
        }
    }
}
