//! I/O, threads and processes, cancelled at every await: nothing may be left behind.

use std::{io, time::Duration};

use kernel::{
    AsyncFd,
    io::{BufReader, BufWriter, copy, split},
    net::{UdpSocket, UnixDatagram, UnixStream},
    sim::{cancel_everywhere, pipe},
    sleep, spawn,
};

const SECOND: Duration = Duration::from_secs(1);

fn nothing() {}

#[test]
fn buffered_streams() {
    let awaits = cancel_everywhere(
        || async {
            let (ours, theirs) = pipe(24); // all fits, so those left behind come to their end
            spawn(async move {
                copy(&theirs, &theirs).await?;
                theirs.shutdown_write();
                io::Result::Ok(())
            });
            let (read, write) = split(ours);
            let writer = spawn(async move {
                let mut writer = BufWriter::with_capacity(write, 6);
                for _ in 0..4 {
                    writer.write_all(b"line\n").await?;
                    sleep(SECOND).await?;
                }
                writer.shutdown().await
            });
            let mut reader = BufReader::new(read);
            assert_eq!(reader.read_line().await?, Some("line"));
            assert_eq!(reader.read_until(b'i').await?, b"li");
            assert_eq!(reader.read_exact(3).await?, b"ne\n");
            assert_eq!(reader.read_to_end().await?, b"line\nline\n");
            writer.wait().await?;
            io::Result::Ok(())
        },
        nothing,
    );
    assert!(awaits >= 4, "{awaits}");
}

#[test]
fn datagrams() {
    cancel_everywhere(
        || async {
            let server = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
            let address = server.local_addr()?;
            spawn(async move {
                let mut buf = [0; 64];
                let (n, from) = server.recv_from(&mut buf).await?;
                server.send_to(&buf[..n], from).await
            });
            let client = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
            client.connect(address)?;
            client.send(b"hello").await?;
            assert_eq!(client.recv(&mut [0; 64]).await?, 5);
            let (a, b) = UnixDatagram::pair()?;
            a.send(b"hello").await?;
            b.recv(&mut [0; 64]).await
        },
        nothing,
    );
}

#[test]
fn descriptors() {
    cancel_everywhere(
        || async {
            let (theirs, peer) = std::os::unix::net::UnixStream::pair()?;
            let peer = UnixStream::from_std(peer)?;
            spawn(async move {
                sleep(SECOND).await?;
                peer.write_all(b"hello").await?;
                sleep(SECOND).await?;
                io::Result::Ok(())
            });
            let watched = AsyncFd::watch(theirs)?;
            watched.writable().await?;
            watched.readable().await?;
            watched.readable().await?;
            UnixStream::from_std(watched.into_inner())?
                .read(&mut [0; 8])
                .await?;
            io::Result::Ok(())
        },
        nothing,
    );
}

/// Each time the process must be dead and reaped, and its pidfd and pipes gone.
#[cfg(feature = "process")]
#[test]
fn processes() {
    use kernel::process::{Command, Pool};
    use std::process::Stdio;
    let shell = |script| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped());
        command
    };
    cancel_everywhere(
        move || async move { shell("read line").status().await },
        nothing,
    );
    cancel_everywhere(
        move || async move { shell("echo hello; sleep 0.01 & exit 1").output().await },
        nothing,
    );
    cancel_everywhere(
        move || async move {
            let mut child = shell("sleep 1000").spawn()?;
            child.terminate(SECOND).await
        },
        nothing,
    );
    cancel_everywhere(
        move || async move {
            let pool = Pool::new(1, move || shell("while read line; do echo $line; done"));
            for _ in 0..2 {
                let exchange = pool.call(async |worker| {
                    worker.requests.write_all(b"hello\n").await?;
                    worker.requests.flush().await?;
                    worker.replies.read_line().await.map(drop)
                });
                exchange.await?;
            }
            pool.close(SECOND).await
        },
        nothing,
    );
}
