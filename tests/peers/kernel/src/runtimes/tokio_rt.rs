//! tokio's `current_thread` runtime and a `LocalSet`.

use super::alike::park;
use std::{future::Future, mem::drop as detach, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{
        Receiver as BoundedReceiver, Sender as BoundedSender, UnboundedReceiver as Receiver,
        UnboundedSender as Sender, channel as bounded, unbounded_channel as unbounded,
    },
    task::{JoinHandle, LocalSet, spawn_local as spawn, yield_now},
};

fn run<T>(main: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, main)
}

async fn join<T>(handle: JoinHandle<T>) -> T {
    handle.await.expect("no task fails")
}

async fn sleep(d: Duration) {
    tokio::time::sleep(d).await;
}

async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
    tokio::time::timeout(d, f).await.expect("in time")
}

fn bind() -> TcpListener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    TcpListener::from_std(listener).expect("a listener")
}

async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.expect("no job fails")
}

queues!(send: send, recv: recv().await);
connections!(.0);
echo_by_reference!();
plain_rows!();
timed_rows!();
