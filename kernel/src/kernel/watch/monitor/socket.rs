//! The monitor's socket, and its place at a path: one that a dead process left there is replaced, and
//! nothing else ever is.
//!
//! A socket on which nobody listens *yet* looks as one on which nobody listens any more. So who looks,
//! takes away or binds has a lock, and a socket is told from another by its device and inode, which no
//! other has while it is open.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{
        self,
        ErrorKind::{AddrInUse, AlreadyExists, ConnectionRefused, NotFound},
    },
    os::unix::{
        fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

/// How often it is tried again when what lay there goes, or comes, between two looks at it.
const TRIES: usize = 100;

/// A socket that listens; dropped, it takes its file away.
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    id: Id,
}

/// Device and inode.
type Id = (u64, u64);

impl Socket {
    /// Listens at the path, for this user only.
    pub(super) fn bind(path: &Path) -> io::Result<Socket> {
        let _lock = Lock::take(path)?;
        let listener = listen(path)?;
        let socket = Socket {
            listener,
            path: path.to_owned(),
            id: id_of(&fs::symlink_metadata(path)?),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }
}

impl Drop for Socket {
    /// It listens still, so nobody takes it for dead and puts another in its place meanwhile.
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| id_of(&found) == self.id) {
            fs::remove_file(&self.path).ok();
        }
    }
}

fn id_of(file: &fs::Metadata) -> Id {
    (file.dev(), file.ino())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    for _ in 0..TRIES {
        match UnixListener::bind(path) {
            Err(e) if e.kind() == AddrInUse => take_away(path)?,
            other => return other,
        }
    }
    let text = "something comes and goes where the monitor's socket is to be";
    Err(io::Error::new(AddrInUse, text))
}

/// Removes the socket at the path, if nobody listens on it any more.
fn take_away(path: &Path) -> io::Result<()> {
    let gone = |e: io::Error| match e.kind() {
        NotFound => Ok(()), // another was faster
        _ => Err(e),
    };
    match fs::symlink_metadata(path) {
        Ok(found) => refuse_others(found.file_type())?,
        Err(e) => return gone(e),
    }
    // Without waiting: to a socket that is full of clients a blocking one would wait for their end.
    match mio::net::UnixStream::connect(path) {
        Err(e) if e.kind() == ConnectionRefused => fs::remove_file(path).or_else(gone),
        Err(e) if e.kind() == NotFound => Ok(()),
        _ => Err(io::Error::new(AddrInUse, "somebody listens there already")),
    }
}

/// To connect to a file of another kind is refused as well.
fn refuse_others(kind: fs::FileType) -> io::Result<()> {
    let what = match () {
        () if kind.is_socket() => return Ok(()),
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () => "a device or pipe",
    };
    let text = format!("{what} lies where the monitor's socket is to be; it is left alone");
    Err(io::Error::new(AlreadyExists, text))
}

/// An empty file beside the socket, locked, and there only while a kernel sees to the socket. (The lock
/// of a process that dies is free.)
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Does not wait: who has it makes a monitor at this very path.
    fn take(socket: &Path) -> io::Result<Lock> {
        let mut path = OsString::from(socket);
        path.push(".starting");
        let path = PathBuf::from(path);
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        for _ in 0..TRIES {
            let file = options.open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(e)) => return Err(e),
            }
            let held = file.metadata()?;
            // Else it is one that was taken away since it was opened, and locks nobody out.
            if fs::symlink_metadata(&path).is_ok_and(|found| id_of(&found) == id_of(&held)) {
                return Lock::of_nobody_else(path, file, &held);
            }
        }
        let text = "another kernel makes its monitor there at this moment";
        Err(io::Error::new(AddrInUse, text))
    }

    fn of_nobody_else(path: PathBuf, file: File, held: &fs::Metadata) -> io::Result<Lock> {
        if held.is_file() && held.len() == 0 {
            return Ok(Lock { path, file });
        }
        let text = format!("{} is in the way; it is left alone", path.display());
        Err(io::Error::new(AlreadyExists, text))
    }
}

impl Drop for Lock {
    /// The file goes first: who opens it after the lock is free finds that it is not there any more.
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
        self.file.unlock().ok(); // a child that is being started may have it open as well
    }
}
