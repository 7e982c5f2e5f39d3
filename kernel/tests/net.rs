//! Sockets, descriptors, signals.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr},
    rc::Rc,
    time::Duration,
};

use kernel::{
    AsyncFd, Error,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    spawn,
};

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

#[test]
fn echo_over_tcp_with_half_close() {
    kernel::run(async {
        let listener = TcpListener::bind(loopback()).unwrap();
        let address = listener.local_addr().unwrap();
        let server = spawn(async move {
            let (stream, _) = listener.accept().await?;
            let mut buf = [0; 4096];
            loop {
                match stream.read(&mut buf).await? {
                    0 => return io::Result::Ok(()),
                    n => stream.write_all(&buf[..n]).await?,
                }
            }
        });
        let stream = Rc::new(TcpStream::connect(address).await.unwrap());
        stream.set_nodelay(true).unwrap();
        let message: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let (writer, sent) = (stream.clone(), message.clone());
        let writer = spawn(async move {
            writer.write_all(&sent).await?;
            writer.shutdown(Shutdown::Write)
        });
        let mut back = vec![0; message.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert!(back == message);
        assert_eq!(stream.read(&mut back).await.unwrap(), 0);
        writer.join().await.unwrap().unwrap();
        server.join().await.unwrap().unwrap();
        drop(stream);
        assert_eq!(kernel::stats().sources, 0);
    })
    .unwrap();
}

#[test]
fn a_refused_connection_says_so() {
    kernel::run(async {
        let address = TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
        let error = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    })
    .unwrap();
}

#[test]
fn two_readers_of_one_stream_are_an_error() {
    kernel::run(async {
        let (a, _b) = UnixStream::pair().unwrap();
        let a = Rc::new(a);
        let other = a.clone();
        let first = spawn(async move { other.read(&mut [0; 8]).await });
        kernel::yield_now().await.unwrap();
        let error = a.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(Error::in_io(&error), Some(Error::Busy));
        first.cancel().await.unwrap();
        let error = first.join().await.unwrap().unwrap_err();
        assert_eq!(Error::in_io(&error), Some(Error::Cancelled));
    })
    .unwrap();
}

#[test]
fn a_read_that_times_out_leaves_the_stream_usable() {
    kernel::run(async {
        let (a, b) = UnixStream::pair().unwrap();
        let mut buf = [0; 8];
        let late = kernel::timeout_after(Duration::from_millis(5), a.read(&mut buf)).await;
        assert_eq!(Error::in_io(&late.unwrap_err()), Some(Error::TaskTimeout));
        b.write_all(b"hello").await.unwrap();
        assert_eq!(a.read(&mut buf).await.unwrap(), 5);
        assert_eq!(kernel::stats().timers, 0);
    })
    .unwrap();
}

#[test]
fn a_stream_whose_end_came_with_the_last_bytes_still_ends() {
    kernel::run(async {
        let (a, b) = UnixStream::pair().unwrap();
        b.write_all(b"bye").await.unwrap();
        drop(b);
        let mut buf = [0; 64];
        a.readable().await.unwrap();
        assert_eq!(a.read(&mut buf).await.unwrap(), 3);
        assert_eq!(a.read(&mut buf).await.unwrap(), 0);
    })
    .unwrap();
}

#[test]
fn readiness_that_comes_before_anybody_waits_is_remembered() {
    kernel::run(async {
        let (a, b) = UnixStream::pair().unwrap();
        let mut buf = [0; 8];
        a.try_read(&mut buf).unwrap_err(); // known to be empty
        b.write_all(b"early").await.unwrap();
        kernel::sleep(Duration::from_millis(1)).await.unwrap(); // the event comes, to nobody
        assert_eq!(a.read(&mut buf).await.unwrap(), 5);
    })
    .unwrap();
}

#[test]
fn readable_of_a_raw_descriptor_keeps_level_meaning() {
    kernel::run(async {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let fd = AsyncFd::new(ours).unwrap();
        let other = AsyncFd::new(theirs).unwrap();
        other.write_all(b"ab").await.unwrap();
        for _ in 0..3 {
            fd.readable().await.unwrap(); // nobody reads: it stays ready
        }
        let mut byte = [0];
        fd.read(&mut byte).await.unwrap();
        fd.readable().await.unwrap(); // a partial read leaves it ready
        fd.read(&mut byte).await.unwrap();
        let empty = kernel::timeout_after(Duration::from_millis(5), fd.readable()).await;
        assert_eq!(Error::in_io(&empty.unwrap_err()), Some(Error::TaskTimeout));
        drop(fd);
        assert_eq!(kernel::stats().sources, 1);
    })
    .unwrap();
}

#[test]
fn what_epoll_refuses_is_called_by_its_name_with_advice() {
    kernel::run(async {
        for (path, sort) in [
            ("/proc/self/exe", "a regular file"),
            ("/", "a directory"),
            ("/dev/null", "a character device"),
        ] {
            let file = std::fs::File::open(path).unwrap();
            let error = AsyncFd::new(file).unwrap_err().to_string();
            for part in [sort, "EPERM", "run_in_thread"] {
                assert!(error.contains(part), "{path}: {error}");
            }
        }
        assert_eq!(kernel::stats().sources, 0);
    })
    .unwrap();
}

#[test]
fn errors_say_which_path_or_host() {
    use kernel::net::{UnixDatagram, lookup_host};
    kernel::run(async {
        let path = "/no/such/folder/socket";
        let errors = [
            UnixListener::bind(path).unwrap_err(),
            UnixStream::connect(path).await.unwrap_err(),
            UnixDatagram::bind(path).unwrap_err(),
            UnixDatagram::unbound().unwrap().connect(path).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
            assert!(error.to_string().starts_with(path), "{error}");
        }
        // A name that no resolver is asked for: it has a zero byte.
        let error = lookup_host("no\0host", 80).await.unwrap_err().to_string();
        assert!(error.starts_with("no\0host: "), "{error}");
        let error = lookup_host("", 80).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("expected"), "{error}");
    })
    .unwrap();
}

/// Patience is for what passes.
#[test]
fn a_socket_that_cannot_accept_says_so() {
    use std::os::fd::OwnedFd;
    kernel::run(async {
        let socket: OwnedFd = std::net::UdpSocket::bind(loopback())?.into();
        let error = TcpListener::from_std(socket.into())?.accept().await;
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// As a server takes over a socket that its supervisor opened for it.
#[test]
fn a_unix_listener_of_the_standard_library_is_taken_over() {
    use std::os::{
        fd::{AsFd, AsRawFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    };
    kernel::run(async {
        let name = format!("kernel-taken-over-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name)?;
        let listener = UnixListener::from_std(StdUnixListener::bind_addr(&address)?)?;
        assert_eq!(listener.as_fd().as_raw_fd(), listener.as_raw_fd());
        let theirs = UnixStream::from_std(StdUnixStream::connect_addr(&address)?)?;
        let (ours, _) = listener.accept().await?;
        for stream in [&theirs, &ours] {
            let peer = stream.peer_credentials()?;
            // SAFETY: these only give numbers.
            let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
            assert_eq!(
                (peer.uid, peer.gid, peer.pid),
                (uid, gid, std::process::id())
            );
        }
        std::io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

#[cfg(feature = "signal")]
#[test]
fn a_signal_that_cannot_be_caught_is_refused() {
    use kernel::signal::Signals;
    kernel::run(async {
        let before = kernel::stats();
        for signal in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV] {
            let error = Signals::new(&[libc::SIGUSR2, signal]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("signal {signal}")));
        }
        assert_eq!(kernel::stats(), before);
    })
    .unwrap();
}

#[cfg(feature = "signal")]
#[test]
fn a_signal_is_awaited() {
    use kernel::signal::{SIGUSR1, Signals};
    kernel::run(async {
        let mut signals = Signals::new(&[SIGUSR1]).unwrap();
        for _ in 0..2 {
            // SAFETY: raise(3) on a signal we have just caught.
            assert_eq!(unsafe { libc::raise(SIGUSR1) }, 0);
            assert_eq!(signals.next().await, Ok(SIGUSR1));
        }
    })
    .unwrap();
}
