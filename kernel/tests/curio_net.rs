//! What Curio's tests of sockets check, where no test of ours did so yet.
//! docs/src/kernel/curio.md says which is which.

use std::{io, net::Ipv4Addr, pin::Pin, rc::Rc, time::Duration};

use kernel::{
    Error,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    spawn, stats, timeout_after, yield_now,
};

type Wait = Pin<Box<dyn Future<Output = io::Result<()>>>>;

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

/// Each kind of wait for a peer that does nothing. (`peer` stays alive in each.)
fn waits() -> [(&'static str, Wait); 5] {
    let pair = || UnixStream::pair().unwrap();
    let accept = async {
        let listener = listener();
        listener.accept().await.map(drop)
    };
    let read = async move {
        let (ours, _peer) = pair();
        ours.read(&mut [0; 8]).await.map(drop)
    };
    let read_exact = async move {
        let (ours, peer) = pair();
        peer.write_all(b"half").await?;
        ours.read_exact(&mut [0; 8]).await
    };
    let write_all = async move {
        let (ours, _peer) = pair();
        ours.write_all(&vec![0; 10_000_000]).await
    };
    let readable = async move {
        let (ours, _peer) = pair();
        // Until the system has said otherwise, a new stream is believed to be ready.
        let nothing = ours.try_read(&mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        Ok(ours.readable().await?)
    };
    [
        ("accept", Box::pin(accept)),
        ("read", Box::pin(read)),
        ("read_exact", Box::pin(read_exact)),
        ("write_all", Box::pin(write_all)),
        ("readable", Box::pin(readable)),
    ]
}

#[test]
fn every_wait_for_a_peer_can_be_cancelled() {
    kernel::run(async {
        for (what, wait) in waits() {
            let task = spawn(wait);
            for _ in 0..3 {
                yield_now().await.unwrap();
            }
            assert!(!task.is_finished(), "{what} does not wait");
            task.cancel().await.unwrap();
            let error = task.join().await.unwrap().unwrap_err();
            assert_eq!(Error::in_io(&error), Some(Error::Cancelled), "{what}");
        }
        assert_eq!(stats().sources, 0);
    })
    .unwrap();
}

#[test]
fn every_wait_for_a_peer_can_time_out() {
    kernel::run(async {
        for (what, wait) in waits() {
            let error = timeout_after(Duration::from_millis(5), wait)
                .await
                .unwrap_err();
            assert_eq!(Error::in_io(&error), Some(Error::TaskTimeout), "{what}");
        }
        assert_eq!(stats().sources, 0);
    })
    .unwrap();
}

#[test]
fn a_second_writer_is_refused_and_the_reader_goes_on() {
    kernel::run(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        while ours.try_write(&[0; 100_000]).is_ok() {} // until there is no room
        let ours = Rc::new(ours);
        let (reading, writing) = (ours.clone(), ours.clone());
        let reader = spawn(async move {
            let mut buf = [0; 5];
            reading.read_exact(&mut buf).await.map(|()| buf)
        });
        let writer = spawn(async move { writing.write(b"x").await });
        yield_now().await.unwrap();
        let error = ours.write(b"y").await.unwrap_err();
        assert_eq!(Error::in_io(&error), Some(Error::Busy));
        writer.cancel().await.unwrap();
        theirs.write_all(b"hello").await.unwrap();
        assert_eq!(&reader.join().await.unwrap().unwrap(), b"hello");
    })
    .unwrap();
}

#[test]
fn echo_over_a_unix_socket() {
    let folder = std::env::temp_dir().join(format!("kernel-unix-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    let (bound, clean) = (path.clone(), folder.clone());
    kernel::run(async move {
        let listener = UnixListener::bind(&bound).unwrap();
        let server = spawn(async move {
            let (stream, _) = listener.accept().await?;
            let mut buf = [0; 64];
            while let n @ 1.. = stream.read(&mut buf).await? {
                stream.write_all(&buf[..n]).await?;
            }
            io::Result::Ok(())
        });
        let stream = UnixStream::connect(&bound).await.unwrap();
        let mut back = [0; 4];
        for message in [b"Msg1", b"Msg2"] {
            stream.write_all(message).await.unwrap();
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, message);
        }
        drop(stream);
        server.join().await.unwrap().unwrap();
        let taken = UnixListener::bind(&bound).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse); // the file is still there
        assert!(taken.to_string().contains(bound.to_str().unwrap()));
        let missing = UnixStream::connect(bound.with_file_name("none")).await;
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    })
    .unwrap();
    std::fs::remove_dir_all(clean).unwrap();
}

#[test]
fn an_address_in_use_is_an_error() {
    kernel::run(async {
        let first = listener();
        let second = TcpListener::bind(first.local_addr().unwrap());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(stats().sources, 1);
    })
    .unwrap();
}

#[test]
fn sockets_of_the_standard_library_are_taken_over() {
    kernel::run(async {
        let theirs = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = theirs.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let listener = TcpListener::from_std(theirs).unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        let client = TcpStream::from_std(client).unwrap();
        client.write_all(b"over").await.unwrap();
        let mut buf = [0; 4];
        server.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"over");
    })
    .unwrap();
}

#[test]
fn a_peer_that_goes_away_in_the_middle_is_an_end_or_an_error() {
    kernel::run(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"half").await.unwrap();
        drop(theirs);
        let short = ours.read_exact(&mut [0; 8]).await.unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        let gone = ours.write_all(b"x").await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    })
    .unwrap();
}
