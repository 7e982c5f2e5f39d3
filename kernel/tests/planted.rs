//! Bugs on purpose, one at a time, for the sanitizers: `tests/long` runs each and fails if it is
//! *not* reported. Without `KERNEL_PLANTED` this does nothing.

use std::{cell::UnsafeCell, sync::Arc};

struct Number(UnsafeCell<u64>);

// SAFETY: none; that is the bug.
unsafe impl Sync for Number {}

/// A task and a function on a thread of the pool count on one number, and nothing orders them.
async fn race() {
    let number = Arc::new(Number(UnsafeCell::new(0)));
    let other = number.clone();
    let ringing = kernel::spawn(kernel::run_in_thread(move || count(&other)));
    kernel::yield_now().await.unwrap(); // the thread may begin
    count(&number);
    ringing.join().await.unwrap().unwrap();
}

fn count(number: &Number) {
    for _ in 0..1000 {
        // SAFETY: none, see above.
        unsafe { *number.0.get() += 1 }
    }
}

/// A task keeps a pointer into what another task owns, and reads it after that task's end.
async fn use_after_free() {
    let (give, take) = kernel::sync::oneshot();
    let other = kernel::spawn(async move {
        let here = Box::new([7u8; 64]);
        give.send(here.as_ptr()).unwrap();
        kernel::yield_now().await.unwrap();
        std::hint::black_box(&here);
    });
    let there: *const u8 = take.recv().await.unwrap().unwrap();
    other.join().await.unwrap();
    // SAFETY: none; that is the bug.
    println!("read {}", unsafe { there.read_volatile() });
}

/// As `use_after_free`, of what lies in the task itself: seen only if tasks come from `malloc`. (To
/// write what was read would be seen by memcheck, which knows what was never written, at any rate.)
async fn dead_task() {
    let (give, take) = kernel::sync::oneshot();
    let other = kernel::spawn(async move {
        let here = [7u8; 64];
        give.send(here.as_ptr()).unwrap();
        kernel::yield_now().await.unwrap();
        std::hint::black_box(&here);
    });
    let there: *const u8 = take.recv().await.unwrap().unwrap();
    other.join().await.unwrap();
    // SAFETY: none; that is the bug.
    std::hint::black_box(unsafe { there.read_volatile() });
}

/// What nobody does who needs no system: is it reported by who lists the system calls?
async fn system_call() {
    std::os::unix::net::UnixStream::pair().unwrap();
}

fn main() {
    match std::env::var("KERNEL_PLANTED").as_deref() {
        Ok("race") => kernel::run(race()).unwrap(),
        Ok("use-after-free") => kernel::run(use_after_free()).unwrap(),
        Ok("dead-task") => kernel::run(dead_task()).unwrap(),
        Ok("system-call") => kernel::run(system_call()).unwrap(),
        Ok(other) => panic!("no bug named {other} is planted here"),
        Err(_) => {}
    }
}
