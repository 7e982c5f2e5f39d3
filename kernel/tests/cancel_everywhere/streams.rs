//! Pipes in memory, and what is built on any stream.

use std::{
    io::{self, IoSlice, IoSliceMut},
    rc::Rc,
};

use kernel::{
    io::{BufReader, BufWriter, Read, Write, copy, split},
    sim::pipe,
    sleep, spawn,
};

use crate::support::{SECOND, everywhere, nothing};

#[test]
fn pipes() {
    let scenario = || async {
        let (a, b) = pipe(4);
        spawn(async move {
            let mut buf = [0; 3];
            while let Ok(n @ 1..) = b.read(&mut buf).await {
                if b.write_all(&buf[..n]).await.is_err() {
                    return;
                }
            }
        });
        for _ in 0..3 {
            a.write_all(b"hello").await?;
            let (mut buf, mut got) = ([0; 5], 0);
            while got < 5 {
                got += a.read(&mut buf[got..]).await?;
            }
            assert_eq!(&buf, b"hello");
        }
        assert_eq!(a.write(b"x").await?, 1);
        assert_eq!(a.read(&mut [0]).await?, 1);
        io::Result::Ok(())
    };
    everywhere(4, scenario, nothing);
}

/// What every stream has from the two traits, here both halves of one and a stream that is shared.
#[test]
fn any_stream() {
    async fn talk(to: &impl Write, from: &impl Read) -> io::Result<()> {
        to.write_all(b"hello").await?;
        from.read_exact(&mut [0; 5]).await?;
        assert_eq!(to.write(b"x").await?, 1);
        assert_eq!(from.read(&mut [0; 5]).await?, 1);
        assert_eq!(to.write_vectored(&[IoSlice::new(b"x")]).await?, 1);
        let mut byte = [0];
        from.read_vectored(&mut [IoSliceMut::new(&mut byte)])
            .await?;
        Ok(())
    }
    let scenario = || async {
        let (a, b) = pipe(3);
        let echo = spawn(async move { copy(&b, &b).await });
        let shared = Rc::new(a);
        talk(&shared, &&shared).await?;
        let (read, write) = split(shared);
        talk(&write, &read).await?;
        drop((read, write));
        echo.wait().await?;
        io::Result::Ok(())
    };
    everywhere(4, scenario, nothing);
}

#[test]
fn buffered_streams() {
    let scenario = || async {
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
        assert_eq!(reader.read(&mut [0; 2]).await?, 2);
        assert_eq!(reader.read_to_end().await?, b"ne\nline\n");
        writer.join().await?
    };
    everywhere(4, scenario, nothing);
}

/// A buffered writer that has to wait for room: what it took and has not written, it still has.
#[test]
fn a_buffered_writer_waits_for_room() {
    let scenario = || async {
        let (ours, theirs) = pipe(4);
        let reader = spawn(async move {
            let mut all = BufReader::new(theirs);
            loop {
                sleep(SECOND).await?;
                if all.read(&mut [0; 3]).await? == 0 {
                    return io::Result::Ok(());
                }
            }
        });
        let mut writer = BufWriter::with_capacity(ours, 4);
        writer.write_all(b"more than fits").await?;
        writer.flush().await?;
        writer.write_all(b"and more").await?;
        writer.shutdown().await?;
        reader.join().await?
    };
    everywhere(4, scenario, nothing);
}
