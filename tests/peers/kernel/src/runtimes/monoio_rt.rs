//! monoio on epoll (its `LegacyDriver`), with local-sync.

use super::alike::{park, yield_now};
use local_sync::mpsc::{
    bounded::{Rx as BoundedReceiver, Tx as BoundedSender, channel as bounded},
    unbounded::{Rx as Receiver, Tx as Sender, channel as unbounded},
};
use monoio::{
    io::{AsyncReadRent, AsyncReadRentExt, AsyncWriteRentExt},
    net::{TcpListener, TcpStream},
    spawn,
    task::JoinHandle,
};
use std::{future::Future, mem::drop as detach, time::Duration};

fn run<T>(main: impl Future<Output = T>) -> T {
    monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
        .enable_timer()
        .attach_thread_pool(Box::new(monoio::blocking::DefaultThreadPool::new(8)))
        .build()
        .expect("a runtime")
        .block_on(main)
}

async fn join<T>(handle: JoinHandle<T>) -> T {
    handle.await
}

async fn sleep(d: Duration) {
    monoio::time::sleep(d).await;
}

async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
    monoio::time::timeout(d, f).await.expect("in time")
}

fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

async fn serve(mut stream: TcpStream) {
    let mut buf = vec![0u8; 64];
    loop {
        let (read, back) = stream.read(buf).await;
        let Ok(n @ 1..) = read else { return };
        let slice = monoio::buf::IoBuf::slice(back, ..n);
        let (written, back) = stream.write_all(slice).await;
        written.expect("the client reads");
        buf = back.into_inner();
    }
}

async fn drive(mut stream: TcpStream, rounds: usize) -> usize {
    let (mut message, mut buf) = (vec![7u8; 64], vec![0u8; 64]);
    for _ in 0..rounds {
        let (written, back) = stream.write_all(message).await;
        written.expect("the server reads");
        message = back;
        let (read, back) = stream.read_exact(buf).await;
        read.expect("the server writes");
        buf = back;
    }
    assert_eq!(message, buf);
    rounds
}

async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    monoio::spawn_blocking(f).await.expect("no job fails")
}

queues!(send: send, recv: recv().await);
connections!(.0);
plain_rows!();
timed_rows!();
