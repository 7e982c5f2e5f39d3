//! `accept` where no descriptor is left: in a child process of the test, for the limit is its own.
//! It once came back with the error, and a server that passed it on ended, with all connections.
//!
//! Not for ThreadSanitizer: with so few descriptors it cannot name functions, by which alone it knows what of
//! std it must not report.
#![cfg(not(tsan))]

#[path = "../examples/echo.rs"]
mod echo;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream as StdTcpStream},
    os::unix::net::UnixStream as StdUnixStream,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use kernel::{
    Error,
    net::{TcpListener, UnixListener},
    run_in_thread, spawn, timeout_after,
};

/// Says that this is the child.
const CHILD: &str = "KERNEL_FEW_DESCRIPTORS";
const LONG: Duration = Duration::from_secs(60);

/// Runs one test of this file again, in a process that may have 32 files open.
fn child(test: &str) -> Child {
    Command::new("sh")
        .args(["-c", "ulimit -n 32 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Counts the warnings of this kind, and shows them to the parent.
struct Warnings(AtomicUsize);

static WARNINGS: Warnings = Warnings(AtomicUsize::new(0));

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        if text.contains("cannot accept") {
            println!("\nwarned: {text}");
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn flush(&self) {}
}

fn count_warnings() {
    log::set_logger(&WARNINGS).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
}

/// The rest of the child's next line with this beginning.
fn line_of(child: &mut impl BufRead, beginning: &str) -> String {
    let mut line = String::new();
    while child.read_line(&mut line).unwrap() > 0 {
        if let Some(rest) = line.strip_prefix(beginning) {
            return rest.trim_end().into();
        }
        line.clear();
    }
    panic!("the child has ended without a line {beginning:?}");
}

/// Sixty clients, and room for some twenty: whoever is answered leaves, and the next one comes in.
#[test]
fn the_echo_server_serves_everybody_in_turn() {
    if is_child() {
        return serve_echo();
    }
    let mut server = child("the_echo_server_serves_everybody_in_turn");
    let mut says = BufReader::new(server.stdout.take().unwrap());
    let address: SocketAddr = line_of(&mut says, "listening on ").parse().unwrap();
    let clients: Vec<_> = (0..60)
        .map(|n: u8| {
            let mut client = StdTcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(LONG)).unwrap();
            client.write_all(&[n]).unwrap();
            client
        })
        .collect();
    let warning = line_of(&mut says, "warned: ");
    assert!(warning.contains(&address.to_string()) && warning.contains("ulimit -n"));
    for (n, mut client) in clients.into_iter().enumerate() {
        let mut back = [0];
        client.read_exact(&mut back).unwrap();
        assert_eq!(usize::from(back[0]), n);
    }
    drop(server.stdin.take()); // it may end
    assert_eq!(line_of(&mut says, "warnings: "), "1");
    assert!(server.wait().unwrap().success());
}

fn serve_echo() {
    count_warnings();
    kernel::run(async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        println!("\nlistening on {}", listener.local_addr().unwrap());
        let server = spawn(echo::serve(listener));
        run_in_thread(|| io::stdin().read(&mut [0])).await?.unwrap();
        server.cancel().await
    })
    .unwrap()
    .unwrap();
    println!("\nwarnings: {}", WARNINGS.0.load(SeqCst));
}

/// However far it comes: the program's streams, its end, what the kernel watches.
#[cfg(feature = "process")]
#[test]
fn what_cannot_be_started_is_named() {
    use std::error::Error;
    if !is_child() {
        let status = child("what_cannot_be_started_is_named").wait();
        return assert!(status.unwrap().success());
    }
    kernel::run(async {
        let mut failed = 0;
        let mut taken = take_all();
        while let Err(e) = kernel::process::Command::new("true").output().await {
            assert!(
                e.to_string().starts_with("true: "),
                "{failed} are free: {e}"
            );
            let system: Option<&io::Error> = e.source().and_then(|e| e.downcast_ref());
            assert_eq!(system.and_then(|e| e.raw_os_error()), Some(libc::EMFILE));
            failed += 1;
            taken.pop().expect("it starts with what is free now");
        }
        assert!(failed > 1);
    })
    .unwrap();
}

/// Takes every descriptor that is left.
fn take_all() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

async fn warned(times: usize) {
    let long = Instant::now() + LONG;
    while WARNINGS.0.load(SeqCst) < times {
        assert!(Instant::now() < long, "nobody is warned");
        kernel::yield_now().await.unwrap();
    }
}

/// Both kinds of listener: the methods are their own.
macro_rules! interrupted_and_patient {
    ($listener:expr, $client:expr, $warnings:expr) => {{
        let listener = std::rc::Rc::new($listener);
        let mut taken = take_all();
        let accept = || {
            let listener = listener.clone();
            async move { listener.accept().await }
        };
        let nobody = timeout_after(Duration::from_millis(1), accept()).await;
        assert_eq!(Error::in_io(&nobody.unwrap_err()), Some(Error::TaskTimeout));
        assert_eq!(WARNINGS.0.load(SeqCst), $warnings - 1, "nobody is kept out");
        taken.pop(); // for the client's end
        let _client = $client;
        let late = timeout_after(Duration::from_millis(1), accept()).await;
        assert_eq!(Error::in_io(&late.unwrap_err()), Some(Error::TaskTimeout));
        let cancelled = spawn(accept());
        kernel::yield_now().await?;
        cancelled.cancel().await?;
        let cancelled = cancelled.join().await?.unwrap_err();
        assert_eq!(Error::in_io(&cancelled), Some(Error::Cancelled));
        let patient = spawn(accept());
        warned($warnings).await;
        drop(taken);
        timeout_after(LONG, patient.join()).await??;
        assert_eq!(WARNINGS.0.load(SeqCst), $warnings, "one for an episode");
    }};
}

#[test]
fn a_shortage_can_be_interrupted_and_passes() {
    if !is_child() {
        let status = child("a_shortage_can_be_interrupted_and_passes").wait();
        return assert!(status.unwrap().success());
    }
    count_warnings();
    let path = std::env::temp_dir().join(format!("kernel-short-{}", std::process::id()));
    kernel::run(async move {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
        let address = listener.local_addr()?;
        interrupted_and_patient!(listener, StdTcpStream::connect(address)?, 1);
        let listener = UnixListener::bind(&path)?;
        interrupted_and_patient!(listener, StdUnixStream::connect(&path)?, 2);
        std::fs::remove_file(path)
    })
    .unwrap()
    .unwrap();
}

/// The story: the client waited without end, for whoever is not taken in makes no second event.
#[test]
fn a_shortage_does_not_make_the_monitor_deaf() {
    if !is_child() {
        let status = child("a_shortage_does_not_make_the_monitor_deaf").wait();
        return assert!(status.unwrap().success());
    }
    count_warnings();
    let path = std::env::temp_dir().join(format!("kernel-deaf-{}", std::process::id()));
    let mut kernel = kernel::Kernel::builder().monitor(&path).build().unwrap();
    kernel.run(async move {
        let mut taken = take_all();
        taken.pop(); // one for the client, none for the monitor
        let mut client = StdUnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client.write_all(b"now\n").unwrap();
        warned(1).await;
        drop(taken);
        match client.read(&mut [0; 4]) {
            Ok(n) => assert_eq!(n, 4, "an answer"),
            // It came in when some were free again, but not enough, and was sent away.
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset),
        }
        assert_eq!(WARNINGS.0.load(SeqCst), 1, "one for an episode");
    });
}

#[test]
fn a_monitor_does_not_complain_of_a_shortage_that_keeps_nobody_out() {
    if !is_child() {
        let status =
            child("a_monitor_does_not_complain_of_a_shortage_that_keeps_nobody_out").wait();
        return assert!(status.unwrap().success());
    }
    count_warnings();
    let path = std::env::temp_dir().join(format!("kernel-last-{}", std::process::id()));
    let kernel = kernel::Kernel::builder().monitor(&path).build().unwrap();
    let mut taken = take_all();
    // One for the client, and for who serves it one less than it needs.
    taken.truncate(taken.len() - 3);
    let mut client = StdUnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is sent away");
    drop(kernel); // it has looked for a second client by then
    assert_eq!(WARNINGS.0.load(SeqCst), 0);
}
