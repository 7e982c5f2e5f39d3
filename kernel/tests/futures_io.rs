//! Code written for `futures-io`, over our streams.
#![cfg(feature = "futures-io")]

use std::{io, time::Duration};

use futures::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use kernel::{
    Error,
    adapt::Polled,
    net::{TcpListener, TcpStream, UnixStream},
    sim::{Sim, cancel_everywhere, pipe},
    sleep, spawn, timeout_after,
};

/// The ecosystem's copy, line reader and vectored writer, across a real connection.
#[test]
fn foreign_helpers_work_over_tcp() {
    kernel::run(async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
        let address = listener.local_addr()?;
        let server = spawn(async move {
            let (read, mut write) = Polled::new(listener.accept().await?.0).split();
            let copied = copy(read, &mut write).await?;
            write.close().await?;
            io::Result::Ok(copied)
        });
        let stream = Polled::new(TcpStream::connect(address).await?);
        let (read, mut write) = stream.split();
        let writer = spawn(async move {
            for n in 0..10_000 {
                write.write_all(format!("line {n}\n").as_bytes()).await?;
            }
            let parts = [io::IoSlice::new(b"the "), io::IoSlice::new(b"end\n")];
            assert_eq!(write.write_vectored(&parts).await?, 8);
            write.close().await
        });
        let mut lines = BufReader::new(read);
        let mut line = String::new();
        for n in 0..10_000 {
            line.clear();
            lines.read_line(&mut line).await?;
            assert_eq!(line, format!("line {n}\n"));
        }
        line.clear();
        lines.read_to_string(&mut line).await?;
        assert_eq!(line, "the end\n");
        writer.join().await.unwrap()?;
        server.join().await.unwrap().map(drop)
    })
    .unwrap()
    .unwrap();
}

#[test]
fn a_cancellation_comes_out_as_an_error_of_the_stream() {
    kernel::run(async {
        let (a, b) = UnixStream::pair()?;
        let mut a = Polled::new(a);
        let late = timeout_after(Duration::from_millis(5), a.read(&mut [0; 8])).await;
        assert_eq!(Error::in_io(&late.unwrap_err()), Some(Error::TaskTimeout));
        b.write_all(b"x").await?;
        assert_eq!(a.read(&mut [0; 8]).await?, 1); // and it goes on
        let reader = spawn(async move { a.read(&mut [0; 8]).await });
        kernel::yield_now().await?;
        reader.cancel().await?;
        let error = reader.join().await.unwrap().unwrap_err();
        assert_eq!(Error::in_io(&error), Some(Error::Cancelled));
        assert_eq!(kernel::stats().sources, 1);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// A read that is given up by a `select!` stays registered in the stream, and serves the next.
#[test]
fn a_read_dropped_midway_is_taken_up_by_the_next() {
    Sim::new(3).run(async {
        let (a, b) = pipe(8);
        let mut a = Polled::new(a);
        let mut buf = [0; 8];
        {
            let read = a.read(&mut buf);
            let nap = sleep(Duration::from_secs(1));
            futures::pin_mut!(read, nap);
            let first = futures::future::select(read, nap).await;
            assert!(matches!(first, futures::future::Either::Right(_)));
        }
        b.write_all(b"late").await.unwrap();
        assert_eq!(a.read(&mut buf).await.unwrap(), 4);
        drop(a);
        assert_eq!(kernel::stats().waits, 0);
    });
}

/// A stream that always has something: others still get their turn.
#[test]
fn a_stream_that_is_always_ready_starves_nobody() {
    kernel::run(async {
        let zeros = std::fs::File::open("/dev/zero").unwrap();
        struct Zeros(std::fs::File);
        impl kernel::io::Read for Zeros {
            fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
                io::Read::read(&mut &self.0, buf)
            }
            fn when_readable(&self) -> kernel::Trap {
                unreachable!("zeros are always there")
            }
        }
        let mut endless = Polled::new(Zeros(zeros));
        let greedy = spawn(async move {
            let mut buf = [0; 16];
            while endless.read(&mut buf).await.is_ok() {}
        });
        sleep(Duration::from_millis(1)).await.unwrap();
        greedy.cancel().await.unwrap();
        greedy.join().await.unwrap();
    })
    .unwrap();
}

#[test]
fn cancelled_at_every_await_it_leaves_nothing() {
    cancel_everywhere(
        || async {
            let (a, b) = UnixStream::pair()?;
            spawn(async move {
                let (read, mut write) = Polled::new(b).split();
                copy(read, &mut write).await
            });
            let mut a = Polled::new(a);
            for _ in 0..3 {
                a.write_all(b"hello").await?;
                a.read_exact(&mut [0; 5]).await?;
            }
            a.close().await
        },
        || (),
    );
}
