//! Frames with descriptors beside them, over a Unix socket (`SCM_RIGHTS`).
//!
//! Handing descriptors over explicitly is what lets every other one be close-on-exec: a child
//! gets its three and nothing else, however many are being started at the same time.

use super::frame::{self, TooLarge};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// A program's standard input, output and error.
const MAX_FDS: usize = 3;

/// Sends one frame with descriptors, without waiting: it must fit into the socket's buffer, which
/// holds more than `max` bytes and is empty between requests.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
    max: usize,
) -> io::Result<()> {
    let bytes = frame::encode(message, max)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(beside.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, flags)?;
    if sent < bytes.len() {
        return Err(io::Error::other(
            "the supervisor does not read its commands",
        ));
    }
    Ok(())
}

/// Reads one frame and the descriptors that came with it from a blocking socket; `None` at its end.
pub(super) fn receive(
    mut socket: &UnixStream,
    max: usize,
) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut header = [0; 4];
    let Some((read, fds)) = receive_some(socket, &mut header)? else {
        return Ok(None);
    };
    socket.read_exact(&mut header[read..])?;
    let len = u32::from_be_bytes(header) as usize;
    if len > max {
        return Err(TooLarge { len, max }.into());
    }
    let mut payload = vec![0; len];
    socket.read_exact(&mut payload)?;
    Ok(Some((payload, fds)))
}

fn receive_some(
    socket: &UnixStream,
    bytes: &mut [u8],
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(bytes)];
    let read = loop {
        match recvmsg(socket, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    let mut fds = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((read > 0).then_some((read, fds)))
}

/// Reads what is there now, whatever is known of the descriptor's readiness; `None` if nothing is.
pub(super) fn read_now(from: impl AsFd, buffer: &mut [u8]) -> Option<usize> {
    rustix::io::read(from, buffer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_frame_arrives_with_its_descriptors_and_without() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&ours, &"take this", &[writer.as_fd()], 100).unwrap();
        send(&ours, &"and that", &[], 100).unwrap();
        drop((ours, writer));

        let (payload, fds) = receive(&theirs, 100).unwrap().unwrap();
        assert_eq!(payload, b"\"take this\"");
        let [passed] = <[OwnedFd; 1]>::try_from(fds).unwrap();
        let flags = rustix::io::fcntl_getfd(&passed).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        io::PipeWriter::from(passed).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");

        let (payload, fds) = receive(&theirs, 100).unwrap().unwrap();
        assert_eq!((&payload[..], fds.len()), (&b"\"and that\""[..], 0));
        assert!(receive(&theirs, 100).unwrap().is_none());
    }
}
