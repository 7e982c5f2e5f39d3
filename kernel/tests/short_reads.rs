//! A read or write that moved less than was asked for, and what that says about the next: nothing
//! may be left lying because of it.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Write as _},
    os::fd::{AsRawFd, FromRawFd, RawFd},
    time::Duration,
};

use kernel::{
    AsyncFd,
    net::{TcpListener, TcpStream, UnixStream},
    sleep, timeout_after,
};

const LONG: Duration = Duration::from_secs(30);

/// A hundred bytes in a pipe, read into ten and ten: the rest is still found.
#[test]
fn vectored_io_on_a_descriptor_uses_all_of_its_buffers() {
    kernel::run(async {
        let (r, w) = io::pipe()?;
        let (r, w) = (AsyncFd::new(r)?, AsyncFd::new(w)?);
        let parts = [IoSlice::new(&[1; 30]), IoSlice::new(&[2; 70])];
        assert_eq!(w.write_vectored(&parts).await?, 100);
        assert_eq!(timeout_after(LONG, w.write(&[3; 10])).await?, 10);
        let (mut a, mut b) = ([0; 10], [0; 30]);
        let bufs = &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        assert_eq!(r.read_vectored(bufs).await?, 40);
        assert_eq!((a, b[..20].iter().sum(), b[29]), ([1; 10], 20, 2));
        let mut rest = [0; 200];
        assert_eq!(timeout_after(LONG, r.read(&mut rest)).await?, 70);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// The system takes 1024 slices at once: that it took no more says nothing about its buffer.
#[test]
fn more_slices_than_the_system_takes_at_once() {
    kernel::run(async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
        let a = TcpStream::connect(listener.local_addr()?).await?;
        let (b, _) = listener.accept().await?;
        let bytes = [9; 2000];
        let slices: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
        let sent = a.write_vectored(&slices).await?;
        assert_eq!(sent, 1024);
        timeout_after(LONG, a.write_all(&bytes[sent..])).await?;
        let mut got = [0; 3000];
        let mut count = 0;
        while count < bytes.len() {
            let mut bufs: Vec<_> = got[count..].chunks_mut(1).map(IoSliceMut::new).collect();
            count += timeout_after(LONG, b.read_vectored(&mut bufs)).await?;
        }
        assert_eq!(got[..count], bytes);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// A read stops at urgent data, however much stands behind it; the other side could make us wait
/// for ever.
#[test]
fn what_stands_behind_urgent_data_is_read() {
    kernel::run(async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
        let mut peer = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (stream, _) = listener.accept().await?;
        let mut buf = [0; 64];
        stream.try_read(&mut buf).unwrap_err(); // known to be empty
        for _ in 0..3 {
            peer.write_all(b"abc")?;
            // SAFETY: the pointer and the length are those of a constant.
            let sent =
                unsafe { libc::send(peer.as_raw_fd(), b"X".as_ptr().cast(), 1, libc::MSG_OOB) };
            assert_eq!(sent, 1);
            peer.write_all(b"defg")?;
            arrived(&stream, 3).await?; // what is behind the mark is not counted
            let mut read = Vec::new();
            while read.len() < 7 {
                let n = timeout_after(LONG, stream.read(&mut buf)).await?;
                read.extend_from_slice(&buf[..n]);
            }
            assert_eq!(read, b"abcdefg");
        }
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// Waits until so many bytes can be read, and the kernel has heard of them.
async fn arrived(stream: &impl AsRawFd, bytes: libc::c_int) -> io::Result<()> {
    let mut there = 0;
    while there < bytes {
        // SAFETY: FIONREAD writes one integer through its pointer.
        let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &mut there) };
        assert_eq!(result, 0);
        sleep(Duration::from_millis(1)).await?;
    }
    Ok(())
}

/// A read stops behind bytes that a descriptor came with, also for who does not want it.
#[test]
fn what_stands_behind_a_passed_descriptor_is_read() {
    kernel::run(async {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
        let stream = UnixStream::from_std(ours)?;
        let mut buf = [0; 64];
        stream.try_read(&mut buf).unwrap_err(); // known to be empty
        send_with_descriptor(&theirs, b"abc")?;
        theirs.write_all(b"defg")?;
        sleep(Duration::from_millis(1)).await?; // the event comes
        assert_eq!(timeout_after(LONG, stream.read(&mut buf)).await?, 3);
        assert_eq!(timeout_after(LONG, stream.read(&mut buf)).await?, 4);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// Sends bytes, and a copy of the socket itself with them.
fn send_with_descriptor(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let mut control = [0u64; 8];
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeros is a message without anything in it; the header's pointers are to what
    // lives until the end, the control buffer is large enough for one descriptor and aligned, and
    // sendmsg(2) only reads.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        libc::sendmsg(fd, &message, 0)
    };
    assert_eq!(sent, bytes.len() as isize, "{}", io::Error::last_os_error());
    Ok(())
}

/// A terminal gives one line a read.
#[test]
fn every_line_of_a_terminal_is_read() {
    kernel::run(async {
        let (ours, theirs) = terminal()?;
        (&ours).write_all(b"one\ntwo\nthree\n")?;
        let stream = AsyncFd::new(theirs)?;
        let mut buf = [0; 64];
        for line in ["one\n", "two\n", "three\n"] {
            let n = timeout_after(LONG, stream.read(&mut buf)).await?;
            assert_eq!(&buf[..n], line.as_bytes());
        }
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// A pseudo-terminal: its master, and the end that a program would have.
fn terminal() -> io::Result<(File, File)> {
    let (mut ours, mut theirs) = (0, 0);
    let name = std::ptr::null_mut();
    // SAFETY: openpty(3) writes two descriptors, which are nobody else's; null asks for no more.
    unsafe {
        match libc::openpty(
            &mut ours,
            &mut theirs,
            name,
            std::ptr::null(),
            std::ptr::null(),
        ) {
            0 => Ok((File::from_raw_fd(ours), File::from_raw_fd(theirs))),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A datagram that is shorter than the buffer says nothing of the next, also behind a raw
/// descriptor.
#[test]
fn datagrams_behind_a_raw_descriptor_are_all_read() {
    kernel::run(async {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair()?;
        let socket = AsyncFd::new(ours)?;
        let mut buf = [0; 64];
        socket.try_read(&mut buf).unwrap_err();
        theirs.send(b"one")?;
        theirs.send(b"three")?;
        sleep(Duration::from_millis(1)).await?; // one event for both
        assert_eq!(timeout_after(LONG, socket.read(&mut buf)).await?, 3);
        assert_eq!(timeout_after(LONG, socket.read(&mut buf)).await?, 5);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}
