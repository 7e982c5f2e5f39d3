//! Sockets and descriptors.

use std::io::{self, IoSlice, IoSliceMut};

use kernel::{
    AsyncFd,
    net::{
        TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream, happy_eyeballs,
        lookup_host,
    },
    run_in_thread, sleep, spawn, timeout_after, yield_now,
};

use crate::support::{SECOND, everywhere, nothing};

/// How long a peer waits for who was disturbed and will not come.
const PATIENCE: std::time::Duration = SECOND.saturating_mul(10);

/// All that a byte stream can do, against a peer that gives every byte back. A macro, because the
/// methods of the streams are their own.
macro_rules! talk {
    ($stream:expr) => {{
        let stream = $stream;
        stream.writable().await?;
        stream.write_all(b"hello").await?;
        stream.readable().await?;
        stream.read_exact(&mut [0; 5]).await?;
        let parts = [IoSlice::new(b"a"), IoSlice::new(b"b")];
        assert_eq!(stream.write_vectored(&parts).await?, 2);
        let (mut a, mut b) = ([0], [0]);
        let mut read = 0;
        while read < 2 {
            let mut parts = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
            read += stream.read_vectored(&mut parts).await?;
        }
        assert_eq!(stream.write(b"x").await?, 1);
        assert_eq!(stream.read(&mut [0; 8]).await?, 1);
    }};
}

#[test]
fn tcp() {
    let scenario = || async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
        let address = listener.local_addr()?;
        let server = spawn(timeout_after(PATIENCE, async move {
            for _ in 0..2 {
                let (stream, _) = listener.accept().await?;
                kernel::io::copy(&stream, &stream).await?;
            }
            io::Result::Ok(())
        }));
        talk!(TcpStream::connect(address).await?);
        let by_name = TcpStream::connect_host("127.0.0.1", address.port()).await?;
        drop(by_name);
        server.join().await?
    };
    everywhere(3, scenario, nothing);
}

#[test]
fn accepting() {
    let scenario = || async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
        let address = listener.local_addr()?;
        let client = spawn(async move {
            yield_now().await?;
            TcpStream::connect(address).await
        });
        listener.accept().await?;
        client.wait().await?;
        let folder = Folder::new();
        let listener = UnixListener::bind(&folder.0)?;
        let path = folder.0.clone();
        let client = spawn(async move {
            yield_now().await?;
            UnixStream::connect(path).await
        });
        listener.accept().await?;
        client.wait().await?;
        io::Result::Ok(())
    };
    everywhere(3, scenario, nothing);
}

/// A socket's path; the file goes with it.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Folder {
        let name = format!("kernel-everywhere-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn unix_sockets() {
    let scenario = || async {
        let folder = Folder::new();
        let listener = UnixListener::bind(&folder.0)?;
        let server = spawn(async move {
            let (stream, _) = listener.accept().await?;
            kernel::io::copy(&stream, &stream).await
        });
        talk!(UnixStream::connect(&folder.0).await?);
        server.wait().await?;
        io::Result::Ok(())
    };
    everywhere(3, scenario, nothing);
}

#[test]
fn descriptors() {
    let scenario = || async {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let peer = UnixStream::from_std(theirs)?;
        let echo = spawn(async move { kernel::io::copy(&peer, &peer).await });
        talk!(AsyncFd::new(ours)?);
        echo.wait().await?;
        let (theirs, ours) = io::pipe()?;
        let ours = AsyncFd::new(ours)?;
        let writer = spawn(async move {
            sleep(SECOND).await?;
            ours.write_all(b"hello").await
        });
        let watched = AsyncFd::watch(theirs)?;
        watched.readable().await?;
        watched.readable().await?; // it is still there
        writer.join().await?
    };
    everywhere(3, scenario, nothing);
}

#[test]
fn udp() {
    let scenario = || async {
        let server = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
        let address = server.local_addr()?;
        let echo = spawn(timeout_after(PATIENCE, async move {
            let mut buf = [0; 64];
            for _ in 0..2 {
                let (n, from) = server.recv_from(&mut buf).await?;
                server.send_to(&buf[..n], from).await?;
            }
            io::Result::Ok(())
        }));
        let client = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
        client.writable().await?;
        client.send_to(b"hello", address).await?;
        client.readable().await?;
        client.recv_from(&mut [0; 64]).await?;
        client.connect(address)?;
        client.send(b"hello").await?;
        assert_eq!(client.recv(&mut [0; 64]).await?, 5);
        echo.join().await?
    };
    everywhere(2, scenario, nothing);
}

#[test]
fn unix_datagrams() {
    let scenario = || async {
        let (a, b) = UnixDatagram::pair()?;
        let echo = spawn(timeout_after(PATIENCE, async move {
            let mut buf = [0; 64];
            for _ in 0..2 {
                let (n, _) = b.recv_from(&mut buf).await?;
                b.send(&buf[..n]).await?;
            }
            io::Result::Ok(())
        }));
        for _ in 0..2 {
            a.writable().await?;
            a.send(b"hello").await?;
            a.readable().await?;
            assert_eq!(a.recv(&mut [0; 64]).await?, 5);
        }
        echo.join().await?
    };
    everywhere(2, scenario, nothing);
}

/// A sender that has to wait for room.
#[test]
fn a_full_socket() {
    let scenario = || async {
        let (a, b) = UnixStream::pair()?;
        let slow = spawn(async move {
            sleep(SECOND).await?;
            while b.read(&mut [0; 65536]).await? > 0 {}
            io::Result::Ok(())
        });
        a.write_all(&[7; 1 << 20]).await?;
        drop(a);
        slow.join().await?
    };
    everywhere(1, scenario, nothing);
}

#[test]
fn names_of_hosts() {
    let scenario = || async {
        let addresses = lookup_host("localhost", 80).await?;
        let attempt = |address: std::net::SocketAddr| async move {
            sleep(SECOND).await?;
            run_in_thread(move || address.port()).await?;
            io::Result::Ok(())
        };
        happy_eyeballs(&addresses, attempt).await
    };
    everywhere(2, scenario, nothing);
}
