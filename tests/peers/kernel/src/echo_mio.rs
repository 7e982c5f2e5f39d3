//! The floor of `echo-1`: both ends on one mio poll, no tasks, reading until a short read.

use std::io::{Read, Write};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const SERVER: Token = Token(1);
const CLIENT: Token = Token(2);

/// Microseconds of CPU for one round trip.
pub fn echo(rounds: usize) -> f64 {
    let mut poll = Poll::new().expect("epoll");
    let listener = TcpListener::bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let mut server = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
    };
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry()
        .register(&mut client, CLIENT, both)
        .expect("registers");
    poll.registry()
        .register(&mut server, SERVER, both)
        .expect("registers");
    client.set_nodelay(true).expect("a socket");
    server.set_nodelay(true).expect("a socket");
    let mut events = Events::with_capacity(1024);
    let (message, mut buf, mut done) = ([7u8; 64], [0u8; 64], 0);
    let before = common::process_cpu();
    client.write_all(&message).expect("room");
    while done < rounds {
        poll.poll(&mut events, None).expect("polls");
        for event in events.iter().filter(|event| event.is_readable()) {
            match event.token() {
                SERVER => {
                    if let Ok(n) = server.read(&mut buf) {
                        server.write_all(&buf[..n]).expect("room");
                    }
                }
                _ => {
                    if client.read(&mut buf).is_ok() {
                        assert_eq!(buf, message);
                        done += 1;
                        client.write_all(&message).expect("room");
                    }
                }
            }
        }
    }
    (common::process_cpu() - before) * 1e6 / rounds as f64
}
