//! Reading into the unused room of vectors: nothing is cleared first that the system is about to overwrite.

use std::{io, os::fd::AsRawFd};

use super::Io;
use crate::trap::READ;

impl<S: AsRawFd> Io<S> {
    /// Appends to the first vector at most so many bytes, and what there is beyond them to the second, but never more
    /// than they have room for. One system call.
    pub(crate) fn try_read_spare(
        &self,
        mut parts: [(&mut Vec<u8>, usize); 2],
    ) -> io::Result<usize> {
        let places = parts.each_mut().map(|(vec, most)| {
            let room = vec.spare_capacity_mut();
            libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: room.len().min(*most),
            }
        });
        let read = self.attempt(READ, |stream| {
            // SAFETY: each place is the spare capacity of a vector borrowed for this call, and no longer than it.
            let read = unsafe { libc::readv(stream.as_raw_fd(), places.as_ptr(), 2) };
            usize::try_from(read).map_err(|_| io::Error::last_os_error())
        })?;
        let mut left = read;
        for ((vec, _), place) in parts.iter_mut().zip(&places) {
            let here = left.min(place.iov_len);
            // SAFETY: `here` is no more than the spare capacity, and the system has filled the places in their order.
            unsafe { vec.set_len(vec.len() + here) };
            left -= here;
        }
        if read > 0 && read < places.iter().map(|place| place.iov_len).sum() {
            self.drained(READ);
        }
        Ok(read)
    }
}
