//! glommio, with its channels between tasks of one executor.

use super::alike::park;
use futures::{AsyncReadExt, AsyncWriteExt};
use glommio::{
    LocalExecutorBuilder, Placement, PoolPlacement, Task,
    channels::local_channel::{
        LocalReceiver as Receiver, LocalReceiver as BoundedReceiver, LocalSender as Sender,
        LocalSender as BoundedSender, new_bounded as bounded, new_unbounded as unbounded,
    },
    net::{TcpListener, TcpStream},
    spawn_local as spawn,
    timer::Timer,
};
use std::{future::Future, time::Duration};

fn run<T>(main: impl Future<Output = T>) -> T {
    LocalExecutorBuilder::new(Placement::Unbound)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(8))
        .make()
        .expect("an executor")
        .run(main)
}

async fn join<T>(handle: Task<T>) -> T {
    handle.await
}

fn detach<T>(handle: Task<T>) {
    drop(handle.detach());
}

async fn yield_now() {
    glommio::executor().yield_now().await;
}

async fn sleep(d: Duration) {
    Timer::new(d).await;
}

async fn timeout<T>(d: Duration, f: impl Future<Output = T>) -> T {
    glommio::timer::timeout(d, async { Ok(f.await) })
        .await
        .expect("in time")
}

fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(f).await
}

queues!(send: try_send, recv: recv().await);
connections!();
echo_by_reference!();
plain_rows!();
timed_rows!();
