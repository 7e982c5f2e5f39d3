//! Connecting to the address that answers first, with a network made up for the test.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use kernel::{
    Error,
    net::{TcpListener, TcpStream, happy_eyeballs, lookup_host},
    sim::{Sim, cancel_everywhere},
    sleep, spawn, timeout_after,
};

/// What becomes of an attempt, and after how many milliseconds.
#[derive(Clone, Copy)]
enum Fate {
    Answers(u64),
    Refuses(u64),
    Silent,
}

use Fate::*;

#[derive(Default)]
struct Network {
    /// When each address was tried, in milliseconds since the start.
    tried: RefCell<Vec<(u16, u128)>>,
    open: Cell<usize>,
}

/// Attempts that are under way, also when they are cancelled.
struct Open(Rc<Network>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// Races for addresses with these fates; their ports are their numbers, their families mixed.
async fn race(network: Rc<Network>, fates: &'static [Fate]) -> io::Result<u16> {
    let start = kernel::now();
    let host = |n| if n % 2 == 0 { "::1" } else { "127.0.0.1" };
    let address = |n| SocketAddr::new(host(n).parse().unwrap(), n as u16);
    let addresses: Vec<_> = (0..fates.len()).map(address).collect();
    happy_eyeballs(&addresses, |address| {
        let network = network.clone();
        async move {
            let port = address.port();
            let at = (kernel::now() - start).as_millis();
            network.tried.borrow_mut().push((port, at));
            network.open.set(network.open.get() + 1);
            let _open = Open(network);
            let (after, fails) = match fates[usize::from(port)] {
                Answers(after) => (after, false),
                Refuses(after) => (after, true),
                Silent => (3_600_000, true),
            };
            sleep(Duration::from_millis(after)).await?;
            match fails {
                true => Err(io::Error::other(format!("refused by {port}"))),
                false => Ok(port),
            }
        }
    })
    .await
}

/// Who won, when each was tried, and when it was over.
fn outcome(fates: &'static [Fate]) -> (io::Result<u16>, Vec<(u16, u128)>, u128) {
    let network = Rc::new(Network::default());
    let used = network.clone();
    let (won, took) = Sim::new(1).run(async move {
        let start = kernel::now();
        let won = race(used.clone(), fates).await;
        assert_eq!(used.open.get(), 0, "the others have ended");
        assert_eq!(kernel::stats().tasks, 1);
        (won, (kernel::now() - start).as_millis())
    });
    (won, network.tried.take(), took)
}

#[test]
fn a_quick_first_answer_is_the_only_attempt() {
    let (won, tried, took) = outcome(&[Answers(249), Answers(1)]);
    assert_eq!((won.unwrap(), took), (0, 249));
    assert_eq!(tried, [(0, 0)]);
}

#[test]
fn a_silent_address_costs_a_quarter_of_a_second() {
    let (won, tried, took) = outcome(&[Silent, Silent, Answers(30), Answers(1)]);
    assert_eq!((won.unwrap(), took), (2, 530));
    assert_eq!(tried, [(0, 0), (1, 250), (2, 500)]);
}

#[test]
fn a_refusal_starts_the_next_at_once() {
    let (won, tried, took) = outcome(&[Refuses(10), Refuses(20), Answers(5)]);
    assert_eq!((won.unwrap(), took), (2, 35));
    assert_eq!(tried, [(0, 0), (1, 10), (2, 30)]);
}

#[test]
fn a_slow_early_attempt_may_still_win() {
    let (won, tried, took) = outcome(&[Answers(400), Answers(900)]);
    assert_eq!((won.unwrap(), took), (0, 400));
    assert_eq!(tried, [(0, 0), (1, 250)]);
}

#[test]
fn if_all_fail_the_last_failure_is_told() {
    let (won, _, took) = outcome(&[Refuses(600), Refuses(10), Refuses(10)]);
    assert_eq!(won.unwrap_err().to_string(), "refused by 0");
    assert_eq!(took, 600);
    let (won, tried, _) = outcome(&[]);
    assert_eq!(won.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert!(tried.is_empty());
}

#[test]
fn a_deadline_ends_all_attempts() {
    Sim::new(1).run(async {
        let network = Rc::new(Network::default());
        let second = Duration::from_secs(1);
        let late = timeout_after(second, race(network.clone(), &[Silent; 3])).await;
        assert_eq!(Error::in_io(&late.unwrap_err()), Some(Error::TaskTimeout));
        assert_eq!(network.tried.borrow().len(), 3);
        assert_eq!(network.open.get(), 0);
        assert_eq!(kernel::stats().tasks, 1);
    });
}

#[test]
fn cancelled_at_every_await_it_leaves_nothing() {
    let network = Rc::new(Network::default());
    let checked = network.clone();
    cancel_everywhere(
        move || race(network.clone(), &[Silent, Refuses(100), Answers(500)]),
        move || assert_eq!(checked.open.get(), 0),
    );
    cancel_everywhere(|| lookup_host("localhost", 80), || ());
}

#[test]
fn a_host_is_connected_to_by_name() {
    kernel::run(async {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
        let port = listener.local_addr()?.port();
        let server = spawn(async move { listener.accept().await?.0.write_all(b"hello").await });
        // "localhost" may be ::1 first, where nobody listens: then that one refuses.
        let stream = TcpStream::connect_host("localhost", port).await?;
        stream.read_exact(&mut [0; 5]).await?;
        server.join().await.unwrap()?;
        let too_long = "x".repeat(300); // found out without asking the network
        let error = lookup_host(&too_long, 1).await.unwrap_err();
        assert_eq!(Error::in_io(&error), None, "{error}");
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}
