//! The examples, run.

#[path = "../examples/chat.rs"]
#[cfg(feature = "signal")]
mod chat;
#[path = "../examples/crawler/main.rs"]
mod crawler;
#[path = "../examples/echo.rs"]
mod echo;
#[path = "../examples/happy_eyeballs.rs"]
mod happy_eyeballs;
#[path = "../examples/process_pool.rs"]
#[cfg(feature = "process")]
mod process_pool;
#[path = "../examples/producer_consumer.rs"]
mod producer_consumer;

use std::{io, net::Shutdown, time::Duration};

use kernel::{
    net::{TcpListener, TcpStream},
    sim::Sim,
    sleep, spawn,
};

const HOUR: Duration = Duration::from_secs(3600);

fn listener() -> TcpListener {
    TcpListener::bind(([127, 0, 0, 1], 0).into()).unwrap()
}

#[test]
fn echo_gives_everything_back() {
    kernel::run(async {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        spawn(echo::serve(listener));
        let stream = TcpStream::connect(address).await.unwrap();
        let mut back = [0; 11];
        for part in [b"hello kernel", b"hello people"] {
            stream.write_all(&part[..11]).await.unwrap();
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(back, part[..11]);
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut back).await.unwrap(), 0);
    })
    .unwrap();
}

/// The people are outside the kernel, so that they are still there when it shuts down.
#[cfg(feature = "signal")]
#[test]
fn chat_passes_lines_on_and_says_goodbye() {
    use std::io::{BufRead, BufReader, Write};
    let (tell, told) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        kernel::run(async move {
            let listener = listener();
            let (stop, stopped) = kernel::inbox::<()>();
            tell.send((listener.local_addr().unwrap(), stop)).unwrap();
            spawn(chat::serve(listener));
            stopped.recv().await
        })
    });
    let (address, stop) = told.recv().unwrap();
    let come = || BufReader::new(std::net::TcpStream::connect(address).unwrap());
    let hear = |person: &mut BufReader<std::net::TcpStream>| {
        let mut line = String::new();
        person.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    };
    let mut ada = come();
    let me = ada.get_ref().local_addr().unwrap();
    // Ada is in the room once she hears of Grace; only then does Grace hear her.
    let mut grace = come();
    assert!(hear(&mut ada).ends_with("(has come)"));
    ada.get_mut().write_all(b"good mor").unwrap();
    ada.get_mut().write_all(b"ning\n").unwrap();
    assert_eq!(hear(&mut grace), format!("{me}: good morning"));
    drop(stop); // the server's main task ends
    assert_eq!(hear(&mut ada), "(the chat is over)");
    assert_eq!(hear(&mut grace), "(the chat is over)");
    server.join().unwrap().unwrap().unwrap();
}

#[test]
fn producers_wait_for_room_and_everything_is_consumed() {
    let (cakes, most) = Sim::new(1)
        .run(producer_consumer::day(Duration::from_secs(1)))
        .unwrap();
    assert_eq!(cakes, (1..=6).sum::<u32>() + (1..=4).sum::<u32>());
    assert_eq!(most, 3);
}

#[test]
fn the_crawler_finds_every_page_of_a_real_server() {
    let report = kernel::run(async {
        let listener = listener();
        let address = listener.local_addr()?;
        spawn(crawler::http::site(listener));
        let patience = Duration::from_secs(60);
        crawler::crawl(patience, move |path| async move {
            match path.as_str() {
                "/slow" => Err(io::ErrorKind::TimedOut.into()), // the next test is about this one
                _ => crawler::http::get(address, path).await,
            }
        })
        .await
    })
    .unwrap()
    .unwrap();
    let pages: Vec<_> = report.keys().map(String::as_str).collect();
    assert_eq!(pages, ["/", "/a", "/a/1", "/b", "/gone", "/slow"]);
    assert_eq!(report["/a"], Ok(3));
    assert!(report["/gone"].as_ref().unwrap_err().contains("404"));
}

#[test]
fn the_crawler_gives_a_slow_page_up_and_goes_on() {
    let (report, took) = Sim::new(1).run(async {
        let start = kernel::now();
        let report = crawler::crawl(Duration::from_secs(5), |path| async move {
            match path.as_str() {
                "/" => Ok(r#"<a href="/slow"> <a href="/b">"#.into()),
                "/slow" => sleep(HOUR)
                    .await
                    .map(|()| String::new())
                    .map_err(Into::into),
                _ => Ok(String::new()),
            }
        })
        .await;
        (report.unwrap(), kernel::now() - start)
    });
    assert_eq!(took, Duration::from_secs(5));
    assert_eq!((&report["/"], &report["/b"]), (&Ok(2), &Ok(0)));
    let given_up = kernel::Error::TaskTimeout.to_string();
    assert_eq!(report["/slow"], Err(given_up));
}

#[test]
fn happy_eyeballs_finds_the_address_where_somebody_listens() {
    use std::{cell::RefCell, rc::Rc};
    kernel::run(async {
        let listener = listener();
        let address = listener.local_addr()?;
        let told = Rc::new(RefCell::new(Vec::new()));
        let tell = {
            let told = told.clone();
            move |line: String| told.borrow_mut().push(line)
        };
        let (winner, stream) = happy_eyeballs::connect("localhost", address.port(), tell).await?;
        assert_eq!(winner, address);
        assert_eq!(listener.accept().await?.1, stream.local_addr()?);
        let last = format!("connected to {address}");
        assert!(told.borrow().iter().any(|line| line.ends_with(&last)));
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

/// The example's worker is the example's own program. Here a shell that squares stands in.
#[cfg(feature = "process")]
#[test]
fn the_process_pool_answers_and_gives_up_what_takes_too_long() {
    use kernel::process::{Command, Pool};
    let mut said = Vec::new();
    process_pool::work(&b"10\nten\n20\n"[..], &mut said).unwrap();
    let expected = "55\nnot a number: invalid digit found in string\n6765\n";
    assert_eq!(String::from_utf8(said).unwrap(), expected);
    kernel::run(async {
        let pool = Pool::new(2, || {
            let script = "while read n; do [ $n = 1000 ] && sleep 1000; echo $((n * n)); done";
            let mut program = Command::new("sh");
            program.args(["-c", script]);
            program
        });
        let patience = Duration::from_secs(60);
        for (n, answer) in process_pool::ask_all(&pool, (0..20).collect(), patience).await? {
            assert_eq!(answer, (n * n).to_string());
        }
        let short = Duration::from_millis(20);
        let given_up = process_pool::ask_all(&pool, vec![1000], short).await?;
        assert_eq!(given_up[0].1, kernel::Error::TaskTimeout.to_string());
        let again = process_pool::ask_all(&pool, vec![12], patience).await?;
        assert_eq!(again[0].1, "144");
        pool.close(patience).await
    })
    .unwrap()
    .unwrap();
}
