//! UDP and Unix datagram sockets.

use std::{io, rc::Rc, time::Duration};

use kernel::{
    Error,
    net::{UdpSocket, UnixDatagram},
    spawn, timeout_after,
};

fn loopback() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Loopback loses datagrams only when a buffer is full, and these tests have few under way.
#[test]
fn udp_echo_to_several_clients() {
    kernel::run(async {
        let server = UdpSocket::bind(loopback())?;
        let address = server.local_addr()?;
        let echo = spawn(async move {
            let mut buf = [0; 2048];
            loop {
                let (n, from) = server.recv_from(&mut buf).await?;
                assert_eq!(server.send_to(&buf[..n], from).await?, n);
            }
            #[allow(unreachable_code)]
            io::Result::Ok(())
        });
        let clients: Vec<_> = (0..10u8)
            .map(|id| {
                spawn(async move {
                    let client = UdpSocket::bind(loopback())?;
                    client.connect(address)?;
                    assert_eq!(client.peer_addr()?, address);
                    for round in 0..20u8 {
                        client.send(&[id, round]).await?;
                        let mut buf = [0; 16];
                        assert_eq!(client.recv(&mut buf).await?, 2);
                        assert_eq!(buf[..2], [id, round]);
                    }
                    io::Result::Ok(())
                })
            })
            .collect();
        for client in clients {
            client.join().await.unwrap()?;
        }
        echo.cancel().await?;
        let error = echo.join().await.unwrap().unwrap_err();
        assert_eq!(Error::in_io(&error), Some(Error::Cancelled));
        assert_eq!(kernel::stats().sources, 0);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn try_forms_never_wait() {
    kernel::run(async {
        let (a, b) = (UdpSocket::bind(loopback())?, UdpSocket::bind(loopback())?);
        let mut buf = [0; 16];
        let error = b.try_recv_from(&mut buf).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(a.try_send_to(b"abc", b.local_addr()?)?, 3);
        b.readable().await?;
        assert_eq!(b.try_recv_from(&mut buf)?, (3, a.local_addr()?));
        let error = b.try_recv(&mut buf).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        a.connect(b.local_addr()?)?;
        a.try_send(b"long enough to be cut off")?;
        b.readable().await?;
        assert_eq!(b.try_recv(&mut buf)?, 16);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// A datagram shorter than the buffer says nothing about the next: both are there at once.
#[test]
fn two_datagrams_behind_one_event_are_both_received() {
    kernel::run(async {
        let (a, b) = UnixDatagram::pair()?;
        a.send(b"one").await?;
        a.send(b"two").await?;
        let mut buf = [0; 64];
        b.readable().await?;
        for expected in [b"one", b"two"] {
            let n = timeout_after(Duration::from_secs(30), b.recv(&mut buf)).await?;
            assert_eq!(&buf[..n], expected);
        }
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn a_connected_unix_sender_waits_for_room() {
    kernel::run(async {
        let (a, b) = UnixDatagram::pair()?;
        let a = Rc::new(a);
        let mut fits = 0;
        while a.try_send(&[7; 1000]).is_ok() {
            fits += 1;
        }
        let sender = a.clone();
        let waiting = spawn(async move { sender.send(b"the last").await });
        let mut buf = [0; 2000];
        for _ in 0..fits {
            assert_eq!(b.recv(&mut buf).await?, 1000);
        }
        assert_eq!(b.recv(&mut buf).await?, 8);
        assert_eq!(waiting.join().await.unwrap()?, 8);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn unix_datagrams_by_path() {
    let folder = std::env::temp_dir().join(format!("kernel-datagram-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (ours, theirs) = (folder.join("ours"), folder.join("theirs"));
    let result = kernel::run(async move {
        let a = UnixDatagram::bind(&ours)?;
        let b = UnixDatagram::bind(&theirs)?;
        a.try_send_to(b"hello", &theirs)?;
        let mut buf = [0; 64];
        let (n, from) = b.recv_from(&mut buf).await?;
        assert_eq!(&buf[..n], b"hello");
        assert_eq!(from.as_pathname(), Some(ours.as_path()));
        let nameless = UnixDatagram::unbound()?;
        nameless.connect(&theirs)?;
        nameless.send(b"x").await?;
        let (_, from) = b.recv_from(&mut buf).await?;
        assert!(from.is_unnamed());
        io::Result::Ok(())
    });
    std::fs::remove_dir_all(&folder).unwrap();
    result.unwrap().unwrap();
}

#[test]
fn a_socket_given_away_works_elsewhere() {
    kernel::run(async {
        let a = UdpSocket::bind(loopback())?;
        let b = UdpSocket::from_std(std::net::UdpSocket::bind(loopback())?)?;
        let to = b.local_addr()?;
        let a = a.into_std();
        assert_eq!(kernel::stats().sources, 1);
        a.send_to(b"from outside", to)?;
        let mut buf = [0; 64];
        assert_eq!(b.recv_from(&mut buf).await?, (12, a.local_addr()?));
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}
