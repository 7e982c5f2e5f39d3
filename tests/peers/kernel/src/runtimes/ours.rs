//! The kernel.

use super::alike::park;
use kernel::{
    JoinHandle,
    net::{TcpListener, TcpStream},
    spawn,
    sync::{
        BoundedSender, Receiver, Receiver as BoundedReceiver, Sender, mailbox as unbounded,
        mailbox_bounded as bounded,
    },
    yield_now,
};
use std::{future::Future, time::Duration};

fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    kernel::run(main).expect("a kernel")
}

async fn join<T: 'static>(handle: JoinHandle<T>) -> T {
    handle.join().await.expect("no task fails")
}

fn detach<T: 'static>(handle: JoinHandle<T>) {
    handle.detach();
}

async fn sleep(d: Duration) {
    kernel::sleep(d).await.expect("nobody cancels");
}

async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
    kernel::timeout_after(d, async { Ok::<_, kernel::Error>(f.await) })
        .await
        .expect("in time")
}

fn bind() -> TcpListener {
    TcpListener::bind(([127, 0, 0, 1], 0).into()).expect("a port")
}

async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    kernel::run_in_thread(f).await.expect("nobody cancels")
}

queues!(send: send, recv: recv().await.expect("nobody cancels"));
connections!(.0);
echo_by_reference!();
plain_rows!();
timed_rows!();
