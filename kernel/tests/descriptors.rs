//! Raw descriptors: level-triggered meaning, and giving a descriptor away.

use std::{
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd},
    os::unix::net::UnixStream as StdUnixStream,
    rc::Rc,
    time::Duration,
};

use kernel::{
    AsyncFd, Error,
    io::Read,
    net::{TcpListener, TcpStream, UnixStream},
    spawn, timeout_after,
};

const LONG: Duration = Duration::from_secs(30);

async fn not_ready(wait: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let late = timeout_after(Duration::from_millis(5), wait).await;
    assert_eq!(Error::in_io(&late.unwrap_err()), Some(Error::TaskTimeout));
    Ok(())
}

/// Somebody else reads the descriptor, a byte at a time, and we see none of it: each wait must
/// still say what is so *now*. With edges alone the second would hang.
#[test]
fn readable_comes_again_while_bytes_are_left() {
    kernel::run(async {
        let (mut theirs, mut peer) = StdUnixStream::pair()?;
        peer.write_all(b"abc")?;
        let watched = AsyncFd::watch(theirs.try_clone()?)?;
        for expected in b"abc" {
            timeout_after(LONG, watched.readable()).await?;
            timeout_after(LONG, watched.readable()).await?; // asking twice takes nothing
            let mut byte = [0];
            theirs.read_exact(&mut byte)?;
            assert_eq!(byte[0], *expected);
        }
        not_ready(watched.readable()).await?;
        peer.write_all(b"d")?;
        timeout_after(LONG, watched.readable()).await?;
        drop(peer);
        theirs.read_exact(&mut [0])?;
        timeout_after(LONG, watched.readable()).await?; // the end counts, as often as asked
        timeout_after(LONG, watched.readable()).await
    })
    .unwrap()
    .unwrap();
}

#[test]
fn writable_means_now_too() {
    kernel::run(async {
        let (theirs, peer) = StdUnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let watched = AsyncFd::watch(theirs.as_fd())?;
        timeout_after(LONG, watched.writable()).await?;
        let block = [0; 64 * 1024];
        while (&theirs).write(&block).is_ok() {}
        not_ready(watched.writable()).await?;
        peer.set_nonblocking(true)?;
        let mut sink = vec![0; 1 << 20];
        while (&peer).read(&mut sink).is_ok() {}
        timeout_after(LONG, watched.writable()).await
    })
    .unwrap()
    .unwrap();
}

/// Asking epoll again for one direction must not cost the other its waiter.
#[test]
fn both_directions_of_one_descriptor_are_waited_for() {
    kernel::run(async {
        let (theirs, mut peer) = StdUnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let block = [0; 64 * 1024];
        while (&theirs).write(&block).is_ok() {}
        let watched = Rc::new(AsyncFd::watch(theirs)?);
        let (r, w) = (watched.clone(), watched.clone());
        let reader = spawn(async move { r.readable().await });
        let writer = spawn(async move { w.writable().await });
        kernel::yield_now().await?;
        peer.write_all(b"x")?;
        timeout_after(LONG, async { Ok::<_, Error>(reader.join().await) })
            .await?
            .unwrap()?;
        assert!(!writer.is_finished());
        peer.set_nonblocking(true)?;
        let mut sink = vec![0; 1 << 20];
        while peer.read(&mut sink).is_ok() {}
        timeout_after(LONG, async { Ok::<_, Error>(writer.join().await) })
            .await?
            .unwrap()
    })
    .unwrap()
    .unwrap();
}

#[test]
fn watching_leaves_the_descriptor_as_it_is() {
    kernel::run(async {
        let (theirs, _peer) = StdUnixStream::pair()?;
        // SAFETY: F_GETFL takes and gives integers only.
        let flags = || unsafe { libc::fcntl(theirs.as_raw_fd(), libc::F_GETFL) };
        let before = flags();
        drop(AsyncFd::watch(theirs.as_fd())?);
        assert_eq!(flags(), before);
        let made = AsyncFd::new(theirs.as_fd())?.into_inner();
        assert_eq!(made.as_raw_fd(), theirs.as_raw_fd());
        assert_ne!(flags(), before);
        assert_eq!(kernel::stats().sources, 0);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// One number is registered once: the second watcher is refused, not silently deaf.
#[test]
fn a_descriptor_is_watched_once_at_a_time() {
    kernel::run(async {
        let (theirs, _peer) = StdUnixStream::pair()?;
        let first = AsyncFd::watch(theirs.as_fd())?;
        let second = AsyncFd::watch(theirs.as_fd()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AlreadyExists);
        assert!(second.to_string().contains("watched already"), "{second}");
        drop(first);
        AsyncFd::watch(theirs.as_fd()).map(drop)
    })
    .unwrap()
    .unwrap();
}

/// A descriptor that was given away is out of epoll, though it stays open; and it can come back.
#[test]
fn a_stream_given_away_and_taken_back() {
    kernel::run(async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let (peer, _) = listener.accept().await?;
        peer.write_all(b"one").await?;
        stream.readable().await?;
        let mut stream = stream.into_std();
        assert_eq!(kernel::stats().sources, 2);
        stream.set_nonblocking(false)?;
        stream.read_exact(&mut [0; 3])?;
        peer.write_all(b"two").await?;
        let stream = TcpStream::from_std(stream)?;
        let mut buf = [0; 3];
        stream.read_exact(&mut buf).await?;
        assert_eq!(&buf, b"two");
        let (a, b) = UnixStream::pair()?;
        (&a.into_std()).write_all(b"x")?;
        assert_eq!(b.read(&mut buf).await?, 1);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// A trap may outlive the stream it was made of: whoever waits in it is told, and not forgotten.
#[test]
fn whoever_waits_for_a_stream_that_goes_away_learns_it() {
    kernel::run(async {
        let (a, _b) = UnixStream::pair()?;
        assert_eq!(
            a.try_read(&mut [0]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let (trap, asked_later) = (a.when_readable(), a.when_readable());
        let waiter = spawn(kernel::ask(trap));
        kernel::yield_now().await?;
        drop(a);
        let told = timeout_after(LONG, async { Ok::<_, Error>(waiter.join().await) }).await?;
        assert_eq!(told.unwrap(), Err(Error::Closed));
        timeout_after(LONG, kernel::ask(asked_later)).await?; // nothing to wait for any more
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// io-release, from outside: the waits end, nothing is registered any more, the descriptor stays open.
#[test]
fn a_source_of_ones_own_is_registered_and_released() {
    use kernel::trap::{Direction, Registered, ask};
    kernel::run(async {
        let (ours, mut theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let source = Registered::new(&ours, false)?;
        assert!(!source.is_ready(Direction::Read));
        theirs.write_all(b"x")?;
        timeout_after(LONG, ask(source.trap(Direction::Read))).await?;
        source.clear(Direction::Read);
        source.rearm(Direction::Read)?; // nobody has read it: it is ready all the same
        timeout_after(LONG, ask(source.trap(Direction::Read))).await?;
        source.clear(Direction::Read);
        let waiter = spawn(ask(source.trap(Direction::Read)));
        kernel::yield_now().await?;
        source.release();
        assert_eq!(waiter.join().await.unwrap(), Err(Error::Closed));
        timeout_after(LONG, ask(source.trap(Direction::Read))).await?;
        assert_eq!(kernel::stats().sources, 0);
        Registered::new(&ours, true)?.release();
        (&ours).read_exact(&mut [0])?;
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// They once moved the first part only, and the next write waited for room that was there.
#[test]
fn vectored_reads_and_writes_move_all_parts() {
    kernel::run(async {
        let (from, to) = io::pipe()?;
        let (from, to) = (AsyncFd::new(from)?, AsyncFd::new(to)?);
        for _ in 0..3 {
            let parts = [io::IoSlice::new(b"ab"), io::IoSlice::new(b"cde")];
            assert_eq!(to.write_vectored(&parts).await?, 5);
            let (mut head, mut rest) = ([0; 3], [0; 8]);
            let mut parts = [
                io::IoSliceMut::new(&mut head),
                io::IoSliceMut::new(&mut rest),
            ];
            assert_eq!(from.read_vectored(&mut parts).await?, 5);
            assert_eq!((&head, &rest[..2]), (b"abc", &b"de"[..]));
        }
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}
