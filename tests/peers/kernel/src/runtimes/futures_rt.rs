//! futures' `LocalPool`, which has no clock, no sockets and no threads.

use super::alike::{park, yield_now};
use futures::{
    StreamExt,
    channel::mpsc::{
        Receiver as BoundedReceiver, Sender as BoundedSender, UnboundedReceiver as Receiver,
        UnboundedSender as Sender, channel as bounded, unbounded,
    },
    executor::{LocalPool, LocalSpawner},
    future::RemoteHandle,
    sink::SinkExt,
    task::LocalSpawnExt,
};
use std::{cell::RefCell, future::Future};

thread_local! {
    static SPAWNER: RefCell<Option<LocalSpawner>> = const { RefCell::new(None) };
}

fn run<T>(main: impl Future<Output = T>) -> T {
    let mut pool = LocalPool::new();
    SPAWNER.set(Some(pool.spawner()));
    pool.run_until(main)
}

fn spawn<T: 'static>(f: impl Future<Output = T> + 'static) -> RemoteHandle<T> {
    SPAWNER
        .with_borrow(|s| s.as_ref().expect("runs").spawn_local_with_handle(f))
        .expect("spawns")
}

async fn join<T: 'static>(handle: RemoteHandle<T>) -> T {
    handle.await
}

fn detach<T: 'static>(handle: RemoteHandle<T>) {
    handle.forget();
}

queues!(send: unbounded_send, recv: next().await);
plain_rows!();
