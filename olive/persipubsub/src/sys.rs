//! What the operating system gives, with a safe surface: byte locks that end with their process, a
//! shared page of futexes, clocks, and space reserved on the disk. All `unsafe` of the crate that is
//! not LMDB's stands here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Opens a file as it is, or makes an empty one.
fn open_or_make(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Single bytes of one file, locked by open file description: the kernel releases them when the
/// process ends however it ends, and two environments of one process do not share them.
pub(crate) struct ByteLocks(File);

impl ByteLocks {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(ByteLocks(open_or_make(path)?))
    }

    /// Waits until `byte` is ours alone.
    pub(crate) fn lock(&self, byte: u32) -> io::Result<()> {
        loop {
            match self.control(libc::F_OFD_SETLKW, libc::F_WRLCK, byte) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(|_| ()),
            }
        }
    }

    /// Takes `byte` alone if nobody has it.
    pub(crate) fn try_lock(&self, byte: u32) -> io::Result<bool> {
        match self.control(libc::F_OFD_SETLK, libc::F_WRLCK, byte) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until `byte` is ours together with others who share it.
    pub(crate) fn share(&self, byte: u32) -> io::Result<()> {
        self.control(libc::F_OFD_SETLKW, libc::F_RDLCK, byte)
            .map(|_| ())
    }

    pub(crate) fn unlock(&self, byte: u32) -> io::Result<()> {
        self.control(libc::F_OFD_SETLK, libc::F_UNLCK, byte)
            .map(|_| ())
    }

    /// Whether somebody else holds `byte`. When in doubt, yes.
    pub(crate) fn is_held(&self, byte: u32) -> bool {
        self.control(libc::F_OFD_GETLK, libc::F_WRLCK, byte)
            .map_or(true, |kind| kind != libc::F_UNLCK)
    }

    fn control(&self, command: i32, kind: i32, byte: u32) -> io::Result<i32> {
        // SAFETY: `flock` is plain data for which all zeroes are a value.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = byte.into();
        lock.l_len = 1;
        // SAFETY: the descriptor is open as long as `self`, and `lock` outlives the call.
        let answer = unsafe { libc::fcntl(self.0.as_raw_fd(), command, &mut lock) };
        if answer == -1 {
            Err(io::Error::last_os_error())
        } else {
            Ok(lock.l_type.into())
        }
    }
}

const SLOTS: usize = 1024;

/// The slot that every ring rings: for one listener that wakes many.
pub(crate) const ANY: u32 = u32::MAX;

#[repr(C)]
struct Slot {
    /// Grows with every commit that gave this slot's queues something to do. The futex.
    changes: AtomicU32,
    /// Set by whoever is about to sleep; cleared, with a wake-up of all, by the next commit. A
    /// sleeper that was killed leaves it set, which costs one needless system call and then heals.
    asleep: AtomicU32,
}

/// The bell: a file mapped by every process that has the store open, one futex for each queue
/// (queues that share a slot wake each other for nothing, which is harmless).
pub(crate) struct Bell {
    slots: *const Slot,
}

// SAFETY: the mapping is only read and written through atomics, and lives as long as the `Bell`.
unsafe impl Send for Bell {}
// SAFETY: as above.
unsafe impl Sync for Bell {}

impl Bell {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = open_or_make(path)?;
        let len = (SLOTS + 1) * size_of::<Slot>();
        allocate(&file, len as u64)?;
        file.set_len(len as u64)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh shared mapping of a file that has `len` bytes; nothing else is touched.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Bell { slots: at.cast() })
    }

    fn slot(&self, queue: u32) -> &Slot {
        let index = if queue == ANY {
            SLOTS
        } else {
            queue as usize % SLOTS
        };
        // SAFETY: the index is at most SLOTS, the mapping has one more and is page-aligned, and
        // zeroes are valid atomics.
        unsafe { &*self.slots.add(index) }
    }

    /// The state to compare with in [`wait`](Self::wait): take it *before* looking into the queue.
    pub(crate) fn prepare(&self, queue: u32) -> u32 {
        let slot = self.slot(queue);
        let seen = slot.changes.load(Ordering::SeqCst);
        slot.asleep.store(1, Ordering::SeqCst);
        seen
    }

    /// The state of a queue's slot, for a listener that sleeps on [`ANY`].
    #[cfg(feature = "kernel")]
    pub(crate) fn changes(&self, queue: u32) -> u32 {
        self.slot(queue).changes.load(Ordering::SeqCst)
    }

    /// Sleeps until [`ring`](Self::ring) was called after `seen` was taken, or `timeout` has passed.
    pub(crate) fn wait(&self, queue: u32, seen: u32, timeout: Duration) {
        let time = libc::timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let futex = &raw const self.slot(queue).changes;
        // SAFETY: the futex and the timeout outlive the call; FUTEX_WAIT only reads them. Every
        // outcome (woken, changed meanwhile, timeout, signal) means the same: look again.
        unsafe { libc::syscall(libc::SYS_futex, futex, libc::FUTEX_WAIT, seen, &time) };
    }

    /// Tells whoever waits for this queue to look again. Without sleepers: no system call.
    pub(crate) fn ring(&self, queue: u32) {
        self.ring_slot(self.slot(queue));
        self.ring_slot(self.slot(ANY));
    }

    fn ring_slot(&self, slot: &Slot) {
        // In this order: whoever prepares in between sleeps on the old number, so not at all. The other
        // way round it would sleep on the new one with nobody knowing.
        let asleep = slot.asleep.swap(0, Ordering::SeqCst) != 0;
        slot.changes.fetch_add(1, Ordering::SeqCst);
        if asleep {
            let futex = &raw const slot.changes;
            // SAFETY: FUTEX_WAKE only uses the address.
            unsafe { libc::syscall(libc::SYS_futex, futex, libc::FUTEX_WAKE, i32::MAX) };
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // SAFETY: mapped in `open` with this length; no reference into it outlives `self`.
        unsafe {
            libc::munmap(
                self.slots.cast_mut().cast(),
                (SLOTS + 1) * size_of::<Slot>(),
            )
        };
    }
}

/// Makes the first `len` bytes of `file` exist on the disk, so that writing them cannot fail for
/// want of space, nor end the process when they are written through a map (`SIGBUS`). File systems
/// that cannot do it are left as they are.
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    fallocate(file, 0, len)
}

/// The same for a file that LMDB is about to open, or to make: its length stays as it is, since LMDB
/// reads from it what the file is.
pub(crate) fn reserve(path: &Path, len: u64) -> Result<()> {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    // The mode is LMDB's: messages are nobody else's to read.
    let file = options.mode(0o600).open(path);
    file.and_then(|file| fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, len))
        .map_err(|error| Error::from(error).at(path))
}

/// Bytes of LMDB's lock file: a line of the processor's cache for each reader, and some before them.
pub(crate) fn lock_file_len(readers: u32) -> u64 {
    64 * (u64::from(readers) + 4)
}

fn fallocate(file: &File, mode: i32, len: u64) -> io::Result<()> {
    // SAFETY: plain system call on an open descriptor.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, len as libc::off_t) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                Ok(())
            }
            error => Err(error),
        },
    }
}

/// Every lock of this crate is held for moments in which nothing can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic happens under this lock")
}

/// Milliseconds since the machine started, time asleep included; steps of the wall clock do not
/// touch it.
pub(crate) fn boottime_ms() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call; CLOCK_BOOTTIME exists on every Linux we run on.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Milliseconds since 1970 by the wall clock.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// A name for the time since the machine started: what must not outlive a restart is kept under it.
pub(crate) fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.chars().filter(char::is_ascii_hexdigit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn a_byte_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        let (one, two) = (
            ByteLocks::open(&path).unwrap(),
            ByteLocks::open(&path).unwrap(),
        );
        assert!(one.try_lock(5).unwrap());
        assert!(!two.try_lock(5).unwrap());
        assert!(two.is_held(5) && !two.is_held(6));
        drop(one);
        assert!(!two.is_held(5));
        assert!(two.try_lock(5).unwrap());
    }

    #[test]
    fn a_ring_after_prepare_is_never_missed() {
        let dir = tempfile::tempdir().unwrap();
        let bell = Arc::new(Bell::open(&dir.path().join("bell")).unwrap());
        let seen = bell.prepare(3);
        bell.ring(3);
        let begin = Instant::now();
        bell.wait(3, seen, Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(30));
        let seen = bell.prepare(3);
        let other = {
            let bell = bell.clone();
            std::thread::spawn(move || bell.ring(3 + SLOTS as u32))
        };
        bell.wait(3, seen, Duration::from_secs(60));
        other.join().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
