//! Many short tasks with random cancels, timeouts and panics: everything returns to where it began.
//!
//! 20,000 tasks by default; `KERNEL_SOAK=1000000` for the long form, `KERNEL_SEED` for another seed.

use std::{cell::Cell, rc::Rc, time::Duration};

use kernel::{Error, sim::Sim, sleep, spawn, stats, sync::Semaphore, timeout_after, yield_now};

const TASKS: u64 = if cfg!(miri) { 300 } else { 20_000 };

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

async fn short_task(kind: u64, micros: u64, semaphore: Semaphore) -> Result<(), Error> {
    let pause = Duration::from_micros(micros);
    match kind {
        0 => sleep(pause).await,
        1 => timeout_after(pause / 2, sleep(pause)).await,
        2 => {
            let _permit = semaphore.acquire().await?;
            sleep(pause).await
        }
        3 => {
            yield_now().await?;
            std::panic::resume_unwind(Box::new("on purpose")) // without the hook's message
        }
        4 => {
            let cancelled = sleep(pause).await;
            let _ = sleep(pause).await; // cleaning up
            cancelled
        }
        _ => {
            let (sleep, acquire) = (Box::pin(sleep(pause)), Box::pin(semaphore.acquire()));
            futures::future::select(sleep, acquire).await; // the loser's trap is withdrawn
            Ok(())
        }
    }
}

#[test]
fn a_crowd_of_short_tasks() {
    let (count, seed) = (setting("KERNEL_SOAK", TASKS), setting("KERNEL_SEED", 42));
    println!("seed {seed}, {count} tasks");
    Sim::new(seed).run(async move {
        let before = stats();
        let mut dice = Dice(seed | 1);
        let semaphore = Semaphore::new(3);
        let panics = Rc::new(Cell::new(0));
        for _ in 0..count / 100 {
            let tasks: Vec<_> = (0..100)
                .map(|_| {
                    spawn(short_task(
                        dice.below(6),
                        dice.below(5_000),
                        semaphore.clone(),
                    ))
                })
                .collect();
            for task in &tasks {
                match dice.below(4) {
                    0 => drop(task.cancel()),
                    1 => {
                        task.cancel();
                        task.cancel();
                    }
                    2 => yield_now().await.unwrap(),
                    _ => {}
                }
            }
            for task in tasks {
                if let Err(kernel::JoinError::Panicked(_)) = task.join().await {
                    panics.set(panics.get() + 1);
                }
            }
        }
        assert!(panics.get() > 0);
        assert_eq!(semaphore.available(), 3);
        assert_eq!(stats(), before);
    });
}
