//! Addresses on loopback, and servers that are not brokers.

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};

/// A loopback address on which nobody listens now.
///
/// Its port is below the range from which the system picks ports for outgoing connections: a client that keeps
/// trying one of those can end up connected to itself.
///
/// # Panics
/// If all ports tried are taken.
pub fn free_address() -> SocketAddr {
    let free = std::iter::repeat_with(|| {
        let random = RandomState::new().hash_one(());
        SocketAddr::from(([127, 0, 0, 1], 15_000 + (random % 17_000) as u16))
    });
    free.take(1000)
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("one of a thousand random ports is free")
}

/// Starts an HTTP server that answers everything with an error, as a web server answers an AMQP greeting; it lives as
/// long as the test program.
///
/// # Panics
/// If no port is free.
pub fn http_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            // An AMQP greeting is eight bytes without a line end: answer what is there.
            if reader.fill_buf().is_ok_and(|heard| !heard.is_empty()) {
                let _ =
                    (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            }
        }
    });
    address
}
