//! A TCP proxy that misbehaves, by a seed: it cuts, stalls, delays and corrupts at random byte positions.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What may happen on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Both directions are closed at once, in the middle of a frame most likely.
    Cut,
    /// Nothing goes through any more, but nobody hangs up: a half-open connection.
    Stall,
    /// A pause of some milliseconds.
    Delay,
    /// One bit is flipped.
    Corrupt,
}

/// A proxy before the broker that these options name.
pub fn before(options: &amqp::ConnectOptions, faults: &[Fault], distance: u64, seed: u64) -> Proxy {
    let upstream = (options.host.as_str(), options.port)
        .to_socket_addrs()
        .expect("the broker's name is known")
        .next();
    let upstream = upstream.expect("the broker has an address");
    Proxy::start(upstream, faults, distance, seed)
}

/// A proxy in threads of its own; it ends with the test process.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    faults: Vec<Fault>,
    /// Mean distance between faults, in bytes of one direction.
    distance: u64,
    healed: AtomicBool,
    random: AtomicU64,
    injected: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn random(&self, limit: u64) -> u64 {
        let mut z = self
            .random
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

impl Proxy {
    /// Starts a proxy before `upstream`.
    pub fn start(upstream: SocketAddr, faults: &[Fault], distance: u64, seed: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream,
            faults: faults.to_vec(),
            distance,
            healed: AtomicBool::new(false),
            random: AtomicU64::new(seed),
            injected: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(accepting.upstream) {
                    join(&accepting, client, server);
                }
            }
        });
        Proxy { address, shared }
    }

    /// No more faults. Connections that stall are cut.
    pub fn heal(&self) {
        self.shared.healed.store(true, Ordering::SeqCst);
        self.cut_all();
    }

    /// Cuts everything that is open now.
    pub fn cut_all(&self) {
        for stream in self.shared.open.lock().expect("no thread panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends the broker bytes that the client never said, on every connection that is open. They land between two frames
    /// if the client is silent.
    pub fn inject(&self, bytes: &[u8]) {
        let open = self.shared.open.lock().expect("no thread panics");
        // Client and broker in turn.
        for mut upstream in open.iter().skip(1).step_by(2) {
            upstream.write_all(bytes).expect("the broker listens");
        }
    }

    /// How many sockets were opened since everything was cut last.
    pub fn open(&self) -> usize {
        self.shared.open.lock().expect("no thread panics").len()
    }

    /// How many faults there were.
    pub fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }
}

fn join(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) {
    let both = |stream: &TcpStream| stream.try_clone().expect("a descriptor is free");
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    shared
        .open
        .lock()
        .expect("no thread panics")
        .extend([both(&client), both(&server)]);
    for (from, to) in [(both(&client), both(&server)), (server, client)] {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || pump(&shared, from, to));
    }
}

fn pump(shared: &Shared, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    let mut until_fault = 1 + shared.random(2 * shared.distance);
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let healed = shared.healed.load(Ordering::SeqCst) || shared.faults.is_empty();
        let fault = !healed && (count as u64) >= until_fault;
        let at = if fault {
            until_fault as usize - 1
        } else {
            count
        };
        if to.write_all(&buffer[..at]).is_err() {
            break;
        }
        if !fault {
            until_fault = until_fault.saturating_sub(count as u64).max(1);
            continue;
        }
        shared.injected.fetch_add(1, Ordering::Relaxed);
        until_fault = 1 + shared.random(2 * shared.distance);
        match shared.faults[shared.random(shared.faults.len() as u64) as usize] {
            Fault::Cut => break,
            Fault::Stall => {
                // Until somebody notices, or the proxy heals and cuts.
                while matches!(from.read(&mut buffer), Ok(1..)) {}
                break;
            }
            Fault::Delay => std::thread::sleep(Duration::from_millis(1 + shared.random(40))),
            Fault::Corrupt => buffer[at] ^= 1 << shared.random(8),
        }
        if to.write_all(&buffer[at..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
