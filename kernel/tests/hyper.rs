//! hyper on the kernel: the example, talked to by strangers.
#![cfg(feature = "hyper")]

#[path = "../examples/hyper_server.rs"]
mod hyper_server;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream as StdTcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use kernel::{
    io::BufReader,
    net::{TcpListener, TcpStream},
};

/// Runs the server on a thread of its own for as long as the test takes, and looks for leaks.
fn with_server(test: impl FnOnce(SocketAddr)) {
    with_stoppable(|address, stop| {
        test(address);
        drop(stop);
    });
}

/// As `with_server`; the server ends when the test drops what it is given.
fn with_stoppable(test: impl FnOnce(SocketAddr, kernel::InboxSender<()>)) {
    let (tell, told) = mpsc::channel();
    let server = thread::spawn(move || {
        kernel::run(async move {
            let (stop, stopped) = kernel::inbox::<()>();
            let before = kernel::stats();
            let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            tell.send((listener.local_addr().unwrap(), stop)).unwrap();
            let server = kernel::spawn(hyper_server::serve(listener));
            let _ = stopped.recv().await;
            drop(stopped);
            server.cancel().await.unwrap();
            server.join().await.unwrap().unwrap_err();
            // The strangers have hung up; their connections end as soon as that is noticed.
            let quiet = async {
                while kernel::stats().tasks != before.tasks {
                    kernel::sleep(Duration::from_millis(1)).await?;
                }
                Ok::<_, kernel::Error>(())
            };
            let quiet = kernel::timeout_after(Duration::from_secs(60), quiet).await;
            assert_eq!(quiet, Ok(()), "{:?}", kernel::ps());
            assert_eq!(kernel::stats(), before);
        })
    });
    let (address, stop) = told.recv().unwrap();
    test(address, stop);
    server.join().unwrap().unwrap();
}

/// Sends a request and gives all that comes until the server closes.
fn talk(address: SocketAddr, request: &str) -> String {
    let mut stream = StdTcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    talk(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
    )
}

#[test]
fn requests_are_answered() {
    with_server(|address| {
        let hello = get(address, "/");
        assert!(hello.starts_with("HTTP/1.1 200 OK\r\n"), "{hello}");
        assert!(
            hello.ends_with("\r\n\r\nHello from the kernel\n"),
            "{hello}"
        );
        assert!(get(address, "/sleep").ends_with("Slept for 10 ms\n"));
        assert!(get(address, "/thread").contains("Answered by ThreadId("));
        assert!(get(address, "/elsewhere").starts_with("HTTP/1.1 404"));
        assert!(talk(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    });
}

/// Bodies in chunks, and two requests on one connection.
#[test]
fn a_body_is_streamed_and_the_connection_kept() {
    with_server(|address| {
        let mut request = String::from(
            "POST /length HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        for _ in 0..100 {
            request.push_str("2710\r\n");
            request.push_str(&"x".repeat(10_000));
            request.push_str("\r\n");
        }
        request.push_str("0\r\n\r\n");
        request.push_str("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let answers = talk(address, &request);
        assert!(answers.contains("\r\n\r\n1000000\n"), "{answers}");
        assert!(answers.ends_with("Hello from the kernel\n"), "{answers}");
    });
}

#[test]
fn many_connections_at_once() {
    with_server(|address| {
        let clients: Vec<_> = (0..50)
            .map(|n| {
                let path = ["/", "/sleep", "/thread"][n % 3];
                thread::spawn(move || get(address, path))
            })
            .collect();
        for client in clients {
            assert!(client.join().unwrap().starts_with("HTTP/1.1 200 OK"));
        }
    });
}

/// A load generator, on a kernel of its own: connections that stay, each with a hundred requests.
#[test]
fn a_load_is_answered_to_the_last_request() {
    const BODY: &[u8] = b"Hello from the kernel\n";
    async fn ask(address: SocketAddr) -> std::io::Result<usize> {
        let stream = TcpStream::connect(address).await?;
        let mut answers = BufReader::new(&stream);
        for answered in 0..100 {
            let request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
            stream.write_all(request).await?;
            if answers.read_line().await? != Some("HTTP/1.1 200 OK") {
                return Ok(answered);
            }
            while answers.read_line().await? != Some("") {}
            assert_eq!(answers.read_exact(BODY.len()).await?, BODY);
        }
        Ok(100)
    }
    with_server(|address| {
        let answered = kernel::run(async move {
            let mut clients = kernel::TaskGroup::new();
            for _ in 0..32 {
                clients.spawn(ask(address));
            }
            clients.join().await
        });
        assert_eq!(answered.unwrap().unwrap(), [100; 32]);
    });
}

/// One hangs up in the middle of a request, one in the middle of an answer, one says nothing.
#[test]
fn strangers_who_hang_up_leave_nothing_behind() {
    with_server(|address| {
        let mut half = StdTcpStream::connect(address).unwrap();
        half.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
        let mut gone = StdTcpStream::connect(address).unwrap();
        gone.write_all(b"GET /sleep HTTP/1.1\r\nHost: test\r\n\r\n")
            .unwrap();
        let silent = StdTcpStream::connect(address).unwrap();
        assert!(get(address, "/").starts_with("HTTP/1.1 200 OK"));
        drop((half, gone, silent));
    });
}

/// Who waits between two requests is hung up on; who is in the middle of one is answered first.
#[test]
fn a_server_that_ends_answers_what_has_begun() {
    with_stoppable(|address, stop| {
        let mut idle = StdTcpStream::connect(address).unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            .unwrap();
        let mut busy = StdTcpStream::connect(address).unwrap();
        let head = b"POST /length HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        busy.write_all(head).unwrap();
        let go_on = b"HTTP/1.1 100 Continue\r\n\r\n"; // the request is with `answer`
        let mut heard = [0; 25];
        busy.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, go_on);
        drop(stop);
        let mut answer = String::new();
        idle.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("Hello from the kernel\n"), "{answer}");
        busy.write_all(b"12345").unwrap();
        answer.clear();
        busy.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\n5\n"), "{answer}");
    });
}

/// A connection in memory and on simulated time: one request, and then a peer who says nothing
/// more for half a minute.
#[test]
fn http_in_a_simulation() {
    use hyper::{Response, rt::Executor as _, server::conn::http1, service::service_fn};
    use kernel::adapt::{Executor, Polled, Timer};
    const PATIENCE: Duration = Duration::from_secs(30);
    kernel::sim::Sim::new(7).run(async {
        let start = kernel::now();
        let (ours, theirs) = kernel::sim::pipe(16);
        let (told, ended) = kernel::sync::oneshot();
        Executor.execute(async move {
            let answer = service_fn(async |request: hyper::Request<_>| {
                let _: &hyper::body::Incoming = request.body();
                kernel::sleep(Duration::from_secs(1)).await?;
                Ok::<_, kernel::Error>(Response::new(String::from("at last\n")))
            });
            let served = http1::Builder::new()
                .timer(Timer)
                .header_read_timeout(PATIENCE)
                .serve_connection(Polled::new(theirs), answer);
            let _ = told.send(served.await.unwrap_err().is_timeout());
        });
        ours.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\nGET /half")
            .await
            .unwrap();
        let mut answer = kernel::io::BufReader::new(ours);
        assert_eq!(answer.read_line().await.unwrap(), Some("HTTP/1.1 200 OK"));
        assert_eq!(kernel::now() - start, Duration::from_secs(1));
        let rest = answer.read_to_end().await.unwrap();
        assert!(rest.ends_with(b"\r\n\r\nat last\n"));
        assert_eq!(ended.recv().await, Ok(Some(true)), "it was the timeout");
        let waited = kernel::now() - start;
        assert!(
            (PATIENCE..=PATIENCE + Duration::from_secs(1)).contains(&waited),
            "{waited:?}"
        );
        kernel::sleep(Duration::from_secs(1)).await.unwrap();
        assert_eq!((kernel::stats().tasks, kernel::stats().timers), (1, 0));
    });
}

#[test]
#[ignore = "needs curl"]
fn curl_is_answered() {
    with_server(|address| {
        let curl = |args: &[&str]| {
            let output = std::process::Command::new("curl")
                .args(["-sS", "--noproxy", "*", "--max-time", "60"])
                .args(args)
                .output()
                .expect("tests/setup installs curl");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let url = |path: &str| format!("http://{address}{path}");
        assert_eq!(curl(&[&url("/")]), "Hello from the kernel\n");
        // Two on one connection.
        assert_eq!(
            curl(&[&url("/"), &url("/sleep")]),
            "Hello from the kernel\nSlept for 10 ms\n"
        );
        assert_eq!(curl(&["-d", "12345", &url("/length")]), "5\n");
    });
}

#[test]
fn a_sleep_longer_than_any_clock_can_name() {
    use hyper::rt::Timer as _;
    kernel::run(async {
        drop(kernel::adapt::Timer.sleep(Duration::MAX));
    })
    .unwrap();
}
