//! Byte streams of every kind, and what is built on them.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::Shutdown,
    rc::Rc,
    time::Duration,
};

use kernel::{
    AsyncFd, Error,
    io::{BufReader, BufWriter, Read, Write, copy, split},
    net::{TcpListener, TcpStream, UnixStream},
    sim::{Sim, pipe},
    sleep, spawn, timeout_after,
};

/// Runs a test over every kind of stream.
fn over_all<F: Future<Output = io::Result<()>>>(test: impl Fn(Rc<dyn Ends>) -> F + Copy + 'static) {
    kernel::run(async move {
        let (a, b) = pipe(5); // small, so that everything comes in pieces
        test(Rc::new((a, b))).await.unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        test(Rc::new((a, b))).await.unwrap();
        let (a, b) = tcp_pair().await.unwrap();
        test(Rc::new((a, b))).await.unwrap();
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        test(Rc::new((
            AsyncFd::new(a).unwrap(),
            AsyncFd::new(b).unwrap(),
        )))
        .await
        .unwrap();
        assert_eq!(kernel::stats().sources, 0);
    })
    .unwrap();
}

/// The two ends of a connection of some kind.
trait Ends {
    fn try_read(&self, end: usize, buf: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, end: usize, buf: &[u8]) -> io::Result<usize>;
    fn traps(&self, end: usize) -> (kernel::Trap, kernel::Trap);
    fn shutdown_write(&self, end: usize) -> io::Result<()>;
}

impl<S: Read + Write> Ends for (S, S) {
    fn try_read(&self, end: usize, buf: &mut [u8]) -> io::Result<usize> {
        [&self.0, &self.1][end].try_read(buf)
    }

    fn try_write(&self, end: usize, buf: &[u8]) -> io::Result<usize> {
        [&self.0, &self.1][end].try_write(buf)
    }

    fn traps(&self, end: usize) -> (kernel::Trap, kernel::Trap) {
        let stream = [&self.0, &self.1][end];
        (stream.when_readable(), stream.when_writable())
    }

    fn shutdown_write(&self, end: usize) -> io::Result<()> {
        [&self.0, &self.1][end].shutdown_write()
    }
}

/// One end; a stream made outside the crate, by the two methods that make a stream.
#[derive(Clone)]
struct End(Rc<dyn Ends>, usize);

impl Read for End {
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(self.1, buf)
    }

    fn when_readable(&self) -> kernel::Trap {
        self.0.traps(self.1).0
    }
}

impl Write for End {
    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(self.1, buf)
    }

    fn when_writable(&self) -> kernel::Trap {
        self.0.traps(self.1).1
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.0.shutdown_write(self.1)
    }
}

async fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    Ok((client, listener.accept().await?.0))
}

#[test]
fn lines_and_frames() {
    over_all(|ends| async move {
        let (ours, theirs) = (End(ends.clone(), 0), End(ends, 1));
        let writer = spawn(async move {
            let mut writer = BufWriter::with_capacity(ours, 8);
            writer.write_all(b"first line\r\n\nthird\n").await?;
            writer.write_all(b"\x05hello").await?;
            writer.write_all(b"the end, without a newline").await?;
            writer.shutdown().await
        });
        let mut reader = BufReader::new(theirs);
        assert_eq!(reader.read_line().await?, Some("first line"));
        assert_eq!(reader.read_line().await?, Some(""));
        assert_eq!(reader.read_until(b'\n').await?, b"third\n");
        let len = reader.read_exact(1).await?[0];
        assert_eq!(reader.read_exact(usize::from(len)).await?, b"hello");
        assert_eq!(
            reader.read_line().await?,
            Some("the end, without a newline")
        );
        assert_eq!(reader.read_line().await?, None);
        assert_eq!(reader.read_to_end().await?, b"");
        let error = reader.read_exact(1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        writer.join().await.unwrap()
    });
}

#[test]
fn copy_echoes_until_the_half_close_and_then_passes_it_on() {
    over_all(|ends| async move {
        let (ours, theirs) = (End(ends.clone(), 0), End(ends, 1));
        let echo = spawn(async move {
            let copied = copy(&theirs, &theirs).await?;
            theirs.shutdown_write()?;
            io::Result::Ok(copied)
        });
        let (read, write) = split(ours);
        let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let writer = spawn(async move { write.write_all(&sent).await }); // its drop half-closes
        let mut back = BufReader::new(read);
        assert!(back.read_to_end().await? == expected);
        assert_eq!(echo.join().await.unwrap()?, 100_000);
        writer.join().await.unwrap()
    });
}

#[test]
fn vectored_reads_and_writes() {
    kernel::run(async {
        let (a, b) = UnixStream::pair()?;
        let parts = [
            IoSlice::new(b"he"),
            IoSlice::new(b""),
            IoSlice::new(b"llo!"),
        ];
        assert_eq!(a.write_vectored(&parts).await?, 6);
        let (mut head, mut tail) = ([0; 2], [0; 9]);
        let bufs = &mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
        assert_eq!(b.read_vectored(bufs).await?, 6);
        assert_eq!((&head, &tail[..4]), (b"he", &b"llo!"[..]));
        assert_eq!(a.try_write_vectored(&parts)?, 6);
        b.readable().await?;
        let bufs = &mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
        assert_eq!(b.try_read_vectored(bufs)?, 6);
        let error = b.try_read_vectored(&mut [IoSliceMut::new(&mut head)]);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // The default forms, of a stream that has nothing better.
        let (a, b) = pipe(64);
        let parts = [IoSlice::new(b""), IoSlice::new(b"ab"), IoSlice::new(b"c")];
        assert_eq!(a.write_vectored(&parts).await?, 2);
        let mut got = [0; 4];
        let bufs = &mut [IoSliceMut::new(&mut []), IoSliceMut::new(&mut got)];
        assert_eq!(b.read_vectored(bufs).await?, 2);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// Cut off at every moment, and taken up again: every line comes once, whole and in order.
#[test]
fn a_cancelled_read_line_loses_nothing() {
    Sim::new(5).run(async {
        let (ours, theirs) = pipe(3);
        let writer = spawn(async move {
            for n in 0..20 {
                for byte in format!("line {n}\n").bytes() {
                    ours.write_all(&[byte]).await.unwrap();
                    sleep(Duration::from_millis(3)).await.unwrap();
                }
            }
        });
        let mut reader = BufReader::new(theirs);
        let (mut lines, mut cut) = (0, 0);
        loop {
            match timeout_after(Duration::from_millis(5), reader.read_line()).await {
                Ok(None) => break,
                Ok(Some(line)) => {
                    assert_eq!(line, format!("line {lines}"));
                    lines += 1;
                }
                Err(e) if Error::in_io(&e) == Some(Error::TaskTimeout) => cut += 1,
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!(lines, 20);
        assert!(cut > 20, "{cut}");
        writer.join().await.unwrap();
    });
}

#[test]
fn a_cancelled_write_takes_all_or_nothing() {
    Sim::new(5).run(async {
        let (ours, theirs) = pipe(3);
        let read = Rc::new(RefCell::new(Vec::new()));
        let to = read.clone();
        let reader = spawn(async move {
            let mut buf = [0; 2];
            loop {
                match theirs.read(&mut buf).await.unwrap() {
                    0 => return,
                    n => to.borrow_mut().extend_from_slice(&buf[..n]),
                }
                sleep(Duration::from_millis(4)).await.unwrap();
            }
        });
        let mut writer = BufWriter::with_capacity(ours, 10);
        let (mut expected, mut cut) = (Vec::new(), 0);
        for n in 0..50u8 {
            let piece = [n; 4];
            while timeout_after(Duration::from_millis(3), writer.write_all(&piece))
                .await
                .is_err()
            {
                cut += 1;
            }
            expected.extend_from_slice(&piece);
        }
        while timeout_after(Duration::from_millis(3), writer.flush())
            .await
            .is_err()
        {
            cut += 1;
        }
        drop(writer);
        reader.join().await.unwrap();
        assert!(cut > 10, "{cut}");
        assert!(*read.borrow() == expected);
    });
}

#[test]
fn a_reader_s_limit_holds_for_every_piece() {
    kernel::run(async {
        let (ours, theirs) = pipe(1 << 20);
        ours.write_all(&[b'x'; 100]).await?;
        let mut reader = BufReader::with_limit(theirs, 10);
        let kind = |error: io::Error| error.kind();
        assert_eq!(
            reader.read_line().await.map_err(kind),
            Err(io::ErrorKind::InvalidData)
        );
        assert_eq!(
            reader.read_exact(11).await.map_err(kind),
            Err(io::ErrorKind::InvalidData)
        );
        assert_eq!(reader.read_exact(10).await?, [b'x'; 10]); // nothing was lost
        let mut buf = [0; 200];
        assert_eq!(reader.read(&mut buf).await?, 90);
        ours.write_all(b"0123456789").await?;
        ours.shutdown_write();
        assert_eq!(reader.read_to_end().await?, b"0123456789");
        // Far more than a first buffer, and more than fits: found while it is read.
        let (ours, theirs) = pipe(1 << 20);
        ours.write_all(&[b'x'; 300_000]).await?;
        let mut reader = BufReader::with_limit(theirs, 100_000);
        assert_eq!(
            reader.read_to_end().await.map_err(kind),
            Err(io::ErrorKind::InvalidData)
        );
        assert_eq!(reader.read_exact(100_000).await?.len(), 100_000);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn a_line_that_is_not_utf8_is_an_error_and_the_next_one_is_not() {
    kernel::run(async {
        let (ours, theirs) = pipe(64);
        ours.write_all(b"\xff\xfe\nfine\n").await?;
        let mut reader = BufReader::new(theirs);
        let error = reader.read_line().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(reader.read_line().await?, Some("fine"));
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn half_close_of_a_socket_leaves_the_other_way_open() {
    kernel::run(async {
        let (a, b) = tcp_pair().await?;
        a.write_all(b"request").await?;
        a.shutdown(Shutdown::Write)?;
        let mut b = BufReader::new(b);
        assert_eq!(b.read_to_end().await?, b"request");
        b.get_ref().write_all(b"answer").await?;
        drop(b);
        assert_eq!(BufReader::new(&a).read_to_end().await?, b"answer");
        let error = a.write_all(b"too late").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// What is read goes behind what the vectors hold, into room that was never written before; neither grows.
#[test]
fn reading_into_the_room_of_two_vectors() {
    kernel::run(async {
        let (a, b) = tcp_pair().await.unwrap();
        let read = async |mut parts: [(&mut Vec<u8>, usize); 2]| loop {
            match b.try_read_spare(parts.each_mut().map(|(vec, most)| (&mut **vec, *most))) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => b.readable().await.unwrap(),
                result => return result.unwrap(),
            }
        };
        let (mut first, mut second) = (Vec::with_capacity(100), Vec::with_capacity(8));
        first.extend_from_slice(b"1:");
        a.write_all(b"abcdefghijk").await.unwrap();
        assert_eq!(read([(&mut first, 4), (&mut second, 5)]).await, 9);
        assert_eq!((&first[..], &second[..]), (&b"1:abcd"[..], &b"efghi"[..]));
        let room = second.capacity() - second.len();
        assert_eq!(read([(&mut second, 1), (&mut first, 0)]).await, 1);
        a.write_all(&[b'x'; 200]).await.unwrap();
        drop(a);
        let mut count = 1;
        while read([(&mut second, usize::MAX), (&mut first, 30)]).await > 0 {
            count += 1;
            first.truncate(6);
            second.truncate(6);
        }
        assert!(count > 200 / (room + 30));
        assert_eq!((first, second), (b"1:abcd".to_vec(), b"efghij".to_vec()));
    })
    .unwrap();
}
