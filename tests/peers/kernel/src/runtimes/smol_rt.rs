//! smol's `LocalExecutor`, with async-channel and blocking.

use super::alike::park;
use async_channel::{
    Receiver, Receiver as BoundedReceiver, Sender, Sender as BoundedSender, bounded, unbounded,
};
use smol::{
    LocalExecutor, Task,
    future::yield_now,
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use std::{future::Future, time::Duration};

thread_local! {
    static EXECUTOR: &'static LocalExecutor<'static> = Box::leak(Box::new(LocalExecutor::new()));
}

fn run<T>(main: impl Future<Output = T>) -> T {
    smol::block_on(EXECUTOR.with(|e| *e).run(main))
}

fn spawn<T: 'static>(f: impl Future<Output = T> + 'static) -> Task<T> {
    EXECUTOR.with(|e| e.spawn(f))
}

async fn join<T>(handle: Task<T>) -> T {
    handle.await
}

fn detach<T>(handle: Task<T>) {
    handle.detach();
}

async fn sleep(d: Duration) {
    smol::Timer::after(d).await;
}

async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
    let late = async {
        smol::Timer::after(d).await;
        panic!("in time")
    };
    smol::future::or(f, late).await
}

fn bind() -> TcpListener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    TcpListener::try_from(listener).expect("a listener")
}

async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    blocking::unblock(f).await
}

queues!(send: try_send, recv: recv().await.ok());
connections!(.0);
echo_by_reference!();
plain_rows!();
timed_rows!();
