//! What a stream remembers: its end, however it comes, and what a read that filled its buffer has
//! left behind. On TCP, Unix and raw sockets, by readers that have learnt to doubt and ones that
//! have not.

use std::{
    io::{self, ErrorKind, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream as StdUnix,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use futures::poll;
use kernel::{
    AsyncFd, Error, Kernel, ManualClock,
    io::{Read, Write},
    net::{TcpStream, UnixStream},
    spawn, timeout_after,
    trap::{Direction, Registered},
    yield_now,
};

/// More than the filled buffers that have to be the whole, until they are taken for it.
const ENOUGH: usize = 20;

/// The other side: blocking, and not of the kernel.
trait Peer: io::Read + io::Write + 'static {
    fn end(&self);
}

impl Peer for StdUnix {
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Peer for std::net::TcpStream {
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

fn tcp() -> (TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    theirs.set_nodelay(true).unwrap();
    let ours = TcpStream::from_std(listener.accept().unwrap().0).unwrap();
    (ours, theirs)
}

fn unix() -> (UnixStream, StdUnix) {
    let (ours, theirs) = StdUnix::pair().unwrap();
    (UnixStream::from_std(ours).unwrap(), theirs)
}

fn raw() -> (AsyncFd<StdUnix>, StdUnix) {
    let (ours, theirs) = StdUnix::pair().unwrap();
    (AsyncFd::new(ours).unwrap(), theirs)
}

/// Reads so often exactly what came, and then nothing, that the next time it is taken for all.
async fn learn(rounds: usize, ours: &impl Read, theirs: &mut impl Peer) {
    for _ in 0..rounds {
        let mut buf = [0; 4];
        let mut read = pin!(ours.read(&mut buf));
        assert!(poll!(&mut read).is_pending()); // it finds nothing, or doubts
        theirs.write_all(b"pair").unwrap();
        assert_eq!(read.await.unwrap(), 4);
    }
    if rounds == ENOUGH {
        theirs.write_all(b"pair").unwrap();
        let mut buf = [0; 4];
        let mut read = pin!(ours.read(&mut buf));
        assert!(poll!(&mut read).is_pending(), "it has not learnt to doubt");
        assert_eq!(read.await.unwrap(), 4);
    }
}

async fn expect(ours: &impl Read, what: &[u8]) {
    let mut buf = [0; 4];
    let read = timeout_after(Duration::from_secs(60), ours.read(&mut buf));
    assert_eq!(read.await.map(|n| buf[..n].to_vec()).unwrap(), what);
}

/// Runs a scenario on each kind of stream, learnt and not.
macro_rules! everywhere {
    ($scenario:ident) => {
        for rounds in [0, ENOUGH] {
            kernel::run(async move {
                macro_rules! on {
                    ($pair:ident) => {
                        let (ours, mut theirs) = $pair();
                        learn(rounds, &ours, &mut theirs).await;
                        $scenario(ours, theirs).await;
                    };
                }
                on!(tcp);
                on!(unix);
                on!(raw);
            })
            .unwrap();
        }
    };
}

async fn rest(ours: impl Read, mut theirs: impl Peer) {
    theirs.write_all(b"some more pie").unwrap();
    for piece in [&b"some"[..], b" mor", b"e pi", b"e"] {
        expect(&ours, piece).await;
    }
    theirs.write_all(b"then").unwrap();
    expect(&ours, b"then").await;
}

#[test]
fn what_a_full_read_leaves_behind_is_read_without_an_event() {
    everywhere!(rest);
}

async fn end_with_the_last_bytes(ours: impl Read, mut theirs: impl Peer) {
    theirs.write_all(b"last").unwrap();
    drop(theirs);
    expect(&ours, b"last").await;
    expect(&ours, b"").await;
    expect(&ours, b"").await;
}

async fn end_with_a_short_read(ours: impl Read, mut theirs: impl Peer) {
    theirs.write_all(b"end").unwrap();
    drop(theirs);
    expect(&ours, b"end").await;
    expect(&ours, b"").await;
}

async fn end_after_a_full_read(ours: impl Read + 'static, mut theirs: impl Peer) {
    theirs.write_all(b"last").unwrap();
    expect(&ours, b"last").await;
    let reader = spawn(async move { expect(&ours, b"").await });
    yield_now().await.unwrap();
    drop(theirs);
    reader.join().await.unwrap();
}

async fn end_after_a_short_read(ours: impl Read + 'static, mut theirs: impl Peer) {
    theirs.write_all(b"end").unwrap();
    expect(&ours, b"end").await;
    let reader = spawn(async move { expect(&ours, b"").await });
    yield_now().await.unwrap();
    drop(theirs);
    reader.join().await.unwrap();
}

async fn end_behind_unread_bytes(ours: impl Read, mut theirs: impl Peer) {
    theirs.write_all(b"some, and the rest").unwrap();
    expect(&ours, b"some").await;
    theirs.end();
    kernel::sleep(Duration::from_millis(1)).await.unwrap(); // the event comes, to nobody
    for piece in [&b", an"[..], b"d th", b"e re", b"st", b"", b""] {
        expect(&ours, piece).await;
    }
}

async fn half_an_end(ours: impl Read + Write, mut theirs: impl Peer) {
    theirs.write_all(b"mine").unwrap();
    theirs.end();
    expect(&ours, b"mine").await;
    expect(&ours, b"").await;
    ours.write_all(b"yours").await.unwrap();
    let mut buf = [0; 5];
    theirs.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"yours");
}

#[test]
fn the_end_is_read_however_it_comes() {
    everywhere!(end_with_the_last_bytes);
    everywhere!(end_with_a_short_read);
    everywhere!(end_after_a_full_read);
    everywhere!(end_after_a_short_read);
    everywhere!(end_behind_unread_bytes);
    everywhere!(half_an_end);
}

/// It closes with something unread, so the system resets the connection.
#[test]
fn a_peer_that_resets_is_noticed_at_every_moment() {
    for (rounds, last) in [(0, ""), (0, "last"), (ENOUGH, ""), (ENOUGH, "last")] {
        kernel::run(async move {
            let (ours, mut theirs) = tcp();
            learn(rounds, &ours, &mut theirs).await;
            ours.write_all(b"never read").await.unwrap();
            theirs.write_all(last.as_bytes()).unwrap();
            drop(theirs);
            let mut buf = [0; 4];
            let error = loop {
                let read = timeout_after(Duration::from_secs(60), ours.read(&mut buf));
                match read.await {
                    Ok(n) => assert_eq!(&buf[..n], last.as_bytes()),
                    Err(e) => break e,
                }
            };
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        })
        .unwrap();
    }
}

async fn given_up_in_doubt(ours: impl Read, mut theirs: impl Peer) {
    theirs.write_all(b"some more pies").unwrap();
    expect(&ours, b"some").await;
    let mut buf = [0; 4];
    // Whether it doubts or not: what it did not give is still there.
    if poll!(pin!(ours.read(&mut buf))).is_pending() {
        expect(&ours, b" mor").await;
    }
    expect(&ours, b"e pi").await;
    expect(&ours, b"es").await;
}

#[test]
fn a_read_that_is_dropped_in_doubt_loses_nothing() {
    everywhere!(given_up_in_doubt);
}

async fn tried_in_doubt(ours: impl Read, mut theirs: impl Peer) {
    theirs.write_all(b"some more").unwrap();
    expect(&ours, b"some").await;
    let mut buf = [0; 4];
    assert_eq!(ours.try_read(&mut buf).unwrap(), 4);
    assert_eq!(ours.try_read(&mut buf).unwrap(), 1);
    let nothing = ours.try_read(&mut buf).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_try_does_not_doubt() {
    everywhere!(tried_in_doubt);
}

/// The kernel never runs out of other things to do.
async fn beside_the_busy(ours: impl Read, theirs: impl Peer) {
    let busy = spawn(async { while yield_now().await.is_ok() {} });
    rest(ours, theirs).await;
    busy.cancel().await.unwrap();
}

#[test]
fn other_tasks_do_not_keep_a_doubt_from_being_settled() {
    everywhere!(beside_the_busy);
}

/// A clock that jumps when nothing can happen: it would jump over the timeout of the read.
#[test]
fn no_time_passes_over_a_doubt() {
    let clock = ManualClock::new();
    let mut kernel = Kernel::builder().manual_clock(clock).build().unwrap();
    kernel.run(async {
        let (ours, mut theirs) = unix();
        learn(ENOUGH, &ours, &mut theirs).await;
        rest(ours, theirs).await;
    });
}

#[test]
fn a_source_is_doubted_after_some_reads_that_left_nothing() {
    kernel::run(async {
        let (ours, _theirs) = StdUnix::pair().unwrap();
        let source = Registered::new(&ours, true).unwrap();
        let mut rounds = 0;
        while !source.is_in_doubt() {
            source.clear(Direction::Read);
            source.filled();
            rounds += 1;
        }
        assert_eq!(rounds, 9);
        source.clear_after_short(Direction::Read); // there was more
        source.filled();
        assert!(!source.is_in_doubt());
        source.release();
    })
    .unwrap();
}

/// A reader who looks in, gives up, and comes again, each time or each few times in the same step.
async fn looking_in(ours: impl Read, mut theirs: impl Peer) {
    for steps in [0, 1, 2] {
        theirs.write_all(b"some more pie").unwrap();
        expect(&ours, b"some").await;
        let (mut got, mut buf) = (Vec::new(), [0; 4]);
        for _ in 0..100 {
            let read = poll!(pin!(ours.read(&mut buf)));
            if let Poll::Ready(n) = read {
                got.extend_from_slice(&buf[..n.unwrap()]);
            }
            for _ in 0..steps {
                yield_now().await.unwrap();
            }
        }
        assert_eq!(got, b" more pie");
    }
}

#[test]
fn who_looks_in_again_and_again_finds_what_is_left() {
    everywhere!(looking_in);
}

/// A reader who waits for no time at all, between turns of the loop.
async fn in_no_time(ours: impl Read, mut theirs: impl Peer) {
    theirs.write_all(b"some more pie").unwrap();
    expect(&ours, b"some").await;
    let (mut got, mut buf) = (Vec::new(), [0; 4]);
    while got.len() < 9 {
        let read = timeout_after(Duration::from_nanos(1), ours.read(&mut buf));
        match read.await {
            Ok(n) => got.extend_from_slice(&buf[..n]),
            Err(e) => assert_eq!(Error::in_io(&e), Some(Error::TaskTimeout)),
        }
        kernel::sleep(Duration::from_micros(10)).await.unwrap();
    }
    assert_eq!(got, b" more pie");
}

#[test]
fn who_never_waits_long_enough_finds_what_is_left() {
    everywhere!(in_no_time);
}

/// Somebody else tries, while a reader waits in doubt, and leaves something.
async fn robbed_in_doubt(ours: impl Read + 'static, mut theirs: impl Peer) {
    let ours = Rc::new(ours);
    theirs.write_all(b"some more pie").unwrap();
    expect(&*ours, b"some").await;
    let reader = ours.clone();
    let reader = spawn(async move {
        let mut buf = [0; 4];
        let read = timeout_after(Duration::from_secs(60), reader.read(&mut buf));
        read.await.map(|n| buf[..n].to_vec())
    });
    let robber = spawn(async move {
        let mut buf = [0; 4];
        ours.try_read(&mut buf).map(|n| buf[..n].to_vec())
    });
    let mut got = [reader.join().await, robber.join().await].map(|read| read.unwrap().unwrap());
    got.sort();
    assert_eq!(got, [&b" mor"[..], b"e pi"]);
}

#[test]
fn a_try_beside_a_reader_in_doubt_strands_nobody() {
    everywhere!(robbed_in_doubt);
}

/// Reads on from a stream that was in doubt when its kernel ended, or before the run did.
#[test]
fn a_doubt_does_not_outlive_its_run() {
    let doubted = async || {
        let (ours, mut theirs) = unix();
        learn(ENOUGH, &ours, &mut theirs).await;
        theirs.write_all(b"some more").unwrap();
        expect(&ours, b"some").await;
        (ours, theirs)
    };
    let on = async |ours: UnixStream| {
        expect(&ours, b" mor").await;
        expect(&ours, b"e").await;
    };
    let (ours, _theirs) = kernel::run(doubted()).unwrap();
    kernel::run(on(ours)).unwrap();

    let mut kernel = Kernel::builder().build().unwrap();
    let (ours, _theirs) = kernel.run(async move {
        let (ours, theirs) = doubted().await;
        let mut buf = [0; 4];
        assert!(poll!(pin!(ours.read(&mut buf))).is_pending());
        (ours, theirs)
    });
    kernel.run(on(ours));
}

/// Waits in doubt for streams that are dropped or closed then, with others that are not.
#[test]
fn many_in_doubt_are_all_told() {
    for busy in [false, true] {
        kernel::run(async move {
            let busy = spawn(async move { while busy && yield_now().await.is_ok() {} });
            let mut readers = Vec::new();
            let mut peers = Vec::new();
            for n in 0..100 {
                let (ours, mut theirs) = unix();
                learn(ENOUGH, &ours, &mut theirs).await;
                theirs.write_all(b"some more").unwrap();
                peers.push(theirs);
                readers.push(spawn(async move {
                    expect(&ours, b"some").await;
                    if n % 3 == 0 {
                        // Given up in doubt, and closed.
                        let mut buf = [0; 4];
                        assert!(poll!(pin!(ours.read(&mut buf))).is_pending());
                        yield_now().await.unwrap();
                        return;
                    }
                    expect(&ours, b" mor").await;
                    expect(&ours, b"e").await;
                }));
            }
            for (n, reader) in readers.into_iter().enumerate() {
                match n % 5 {
                    1 => drop(reader.cancel().await),
                    _ => reader.join().await.unwrap(),
                }
            }
            busy.cancel().await.unwrap();
        })
        .unwrap();
    }
}

/// The doubt is settled once; then the kernel sleeps.
#[test]
fn a_kernel_does_not_stay_awake_over_a_doubt() {
    kernel::run(async {
        let (ours, mut theirs) = unix();
        learn(ENOUGH, &ours, &mut theirs).await;
        let waker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            theirs.write_all(b"late").unwrap();
            theirs
        });
        let before = cpu();
        expect(&ours, b"late").await;
        assert!(cpu() - before < Duration::from_millis(150));
        waker.join().unwrap();
    })
    .unwrap();
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let mut time = std::mem::MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call fills what it is given a pointer to, or says that it did not.
    let time = unsafe {
        assert_eq!(
            libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()),
            0
        );
        time.assume_init()
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
