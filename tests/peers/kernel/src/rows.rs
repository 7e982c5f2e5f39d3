//! The workloads, written once; each runtime's module brings functions of the same names.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Two tasks wake each other through stored `Waker`s.
pub struct Turns {
    turn: std::cell::Cell<usize>,
    wakers: std::cell::RefCell<[Option<std::task::Waker>; 2]>,
}

impl Turns {
    pub fn new() -> std::rc::Rc<Turns> {
        std::rc::Rc::new(Turns {
            turn: 0.into(),
            wakers: Default::default(),
        })
    }

    /// Waits for the turn of `me`, then hands it to the other.
    pub fn take(&self, me: usize) -> Turn<'_> {
        Turn { turns: self, me }
    }
}

pub struct Turn<'a> {
    turns: &'a Turns,
    me: usize,
}

impl Future for Turn<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut wakers = self.turns.wakers.borrow_mut();
        if self.turns.turn.get() != self.me {
            match &mut wakers[self.me] {
                Some(waker) => waker.clone_from(cx.waker()),
                empty => *empty = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        self.turns.turn.set(1 - self.me);
        if let Some(other) = &wakers[1 - self.me] {
            other.wake_by_ref();
        }
        Poll::Ready(())
    }
}

/// A repeatable sequence of numbers (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Resident bytes of this process.
pub fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux has smaps_rollup");
    let line = text
        .lines()
        .find(|line| line.starts_with("Rss:"))
        .expect("it has a line Rss");
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("in KiB");
    kib * 1024.0
}

/// Rows that need no clock and no I/O.
macro_rules! plain_rows {
    () => {
        pub fn yields(tasks: usize, rounds: usize) -> f64 {
            let seconds = common::cpu_seconds(|| {
                let switches = run(async move {
                    let done = std::rc::Rc::new(std::cell::Cell::new(0usize));
                    let handles: Vec<_> = (0..tasks)
                        .map(|_| {
                            let done = done.clone();
                            spawn(async move {
                                for _ in 0..rounds {
                                    let _ = yield_now().await;
                                    done.set(done.get() + 1);
                                }
                            })
                        })
                        .collect();
                    for handle in handles {
                        join(handle).await;
                    }
                    done.get()
                });
                assert_eq!(switches, tasks * rounds);
            });
            seconds * 1e9 / (tasks * rounds) as f64
        }

        pub fn spawn_join(count: usize) -> f64 {
            let seconds = common::cpu_seconds(|| {
                let sum = run(async move {
                    let mut sum = 0usize;
                    for n in 0..count {
                        sum += join(spawn(async move { n })).await;
                    }
                    sum
                });
                assert_eq!(sum, count * (count - 1) / 2);
            });
            seconds * 1e9 / count as f64
        }

        pub fn spawn_many(count: usize) -> f64 {
            let seconds = common::cpu_seconds(|| {
                let sum = run(async move {
                    let handles: Vec<_> = (0..count).map(|n| spawn(async move { n })).collect();
                    let mut sum = 0usize;
                    for handle in handles {
                        sum += join(handle).await;
                    }
                    sum
                });
                assert_eq!(sum, count * (count - 1) / 2);
            });
            seconds * 1e9 / count as f64
        }

        /// Detached tasks that wait for ever in `park`: what the runtime itself keeps for a task, and a wait.
        pub fn parked(count: usize) -> f64 {
            run(async move {
                let started = std::rc::Rc::new(std::cell::Cell::new(0usize));
                let before = crate::rows::resident();
                for _ in 0..count {
                    let started = started.clone();
                    detach(spawn(async move {
                        started.set(started.get() + 1);
                        park().await
                    }));
                }
                while started.get() < count {
                    join(spawn(async {})).await; // behind all of them in the queue
                }
                println!("{}", (crate::rows::resident() - before) / count as f64);
                // Dropping a million tasks that never end is not what this row is about (and takes one
                // of the peers minutes).
                std::process::exit(0)
            })
        }

        pub fn waker(rounds: usize) -> f64 {
            let seconds = common::cpu_seconds(|| {
                run(async move {
                    let turns = crate::rows::Turns::new();
                    let handles: Vec<_> = (0..2)
                        .map(|me| {
                            let turns = turns.clone();
                            spawn(async move {
                                for _ in 0..rounds {
                                    turns.take(me).await;
                                }
                            })
                        })
                        .collect();
                    for handle in handles {
                        join(handle).await;
                    }
                });
            });
            seconds * 1e9 / (2 * rounds) as f64
        }

        pub fn channel(count: u64) -> f64 {
            let seconds = common::cpu_seconds(|| {
                let sum = run(async move {
                    let (to, mut from) = unbounded::<u64>();
                    detach(spawn(async move {
                        for n in 0..count {
                            send(&to, n);
                            if n % 100 == 99 {
                                let _ = yield_now().await;
                            }
                        }
                    }));
                    let mut sum = 0;
                    while let Some(n) = recv(&mut from).await {
                        sum += n;
                    }
                    sum
                });
                assert_eq!(sum, count * (count - 1) / 2);
            });
            seconds * 1e9 / count as f64
        }

        pub fn channel_bounded(count: u64) -> f64 {
            let seconds = common::cpu_seconds(|| {
                let sum = run(async move {
                    let (mut to, mut from) = bounded::<u64>(100);
                    detach(spawn(async move {
                        for n in 0..count {
                            send_bounded(&mut to, n).await;
                        }
                    }));
                    let mut sum = 0;
                    while let Some(n) = recv_bounded(&mut from).await {
                        sum += n;
                    }
                    sum
                });
                assert_eq!(sum, count * (count - 1) / 2);
            });
            seconds * 1e9 / count as f64
        }
    };
}

/// Rows that need a clock, sockets and threads.
macro_rules! timed_rows {
    () => {
        pub fn sleeps(count: usize) -> f64 {
            common::cpu_seconds(|| {
                let done = run(async move {
                    let mut dice = crate::rows::Dice(0x9E37_79B9_7F4A_7C15);
                    let handles: Vec<_> = (0..count)
                        .map(|_| {
                            spawn(sleep(std::time::Duration::from_micros(
                                500_000 + dice.below(1_500_000),
                            )))
                        })
                        .collect();
                    let mut done = 0;
                    for handle in handles {
                        join(handle).await;
                        done += 1;
                    }
                    done
                });
                assert_eq!(done, count);
            })
        }

        /// A timeout of 30 seconds around something that waits, polled once, so that it is armed in every
        /// runtime, and dropped.
        pub fn timeouts(count: usize) -> f64 {
            let seconds = common::cpu_seconds(|| {
                let armed = run(async move {
                    let mut armed = 0;
                    for _ in 0..count {
                        let limit = std::time::Duration::from_secs(30);
                        let mut guarded =
                            std::pin::pin!(timeout(limit, std::future::pending::<()>()));
                        armed += std::future::poll_fn(|cx| {
                            let polled = std::future::Future::poll(guarded.as_mut(), cx);
                            std::task::Poll::Ready(usize::from(polled.is_pending()))
                        })
                        .await;
                    }
                    armed
                });
                assert_eq!(armed, count);
            });
            seconds * 1e9 / count as f64
        }

        pub fn echo(connections: usize, rounds: usize) -> f64 {
            let mut seconds = 0.0;
            let result = &mut seconds;
            *result = run(async move {
                let (listener, address) = listen();
                detach(spawn(async move {
                    for _ in 0..connections {
                        let stream = accept(&listener).await;
                        detach(spawn(serve(stream)));
                    }
                }));
                let mut clients = Vec::new();
                for _ in 0..connections {
                    clients.push(connect(address).await);
                }
                let before = common::process_cpu();
                let handles: Vec<_> = clients
                    .into_iter()
                    .map(|client| spawn(drive(client, rounds)))
                    .collect();
                for handle in handles {
                    assert_eq!(join(handle).await, rounds);
                }
                common::process_cpu() - before
            });
            seconds * 1e6 / (connections * rounds) as f64
        }

        pub fn offload_sequential(count: usize) -> f64 {
            let seconds = common::wall_seconds(|| {
                let sum = run(async move {
                    let mut sum = 0;
                    for n in 0..count {
                        sum += offload(move || n).await;
                    }
                    sum
                });
                assert_eq!(sum, count * (count - 1) / 2);
            });
            seconds * 1e6 / count as f64
        }

        pub fn offload_many(count: usize, at_once: usize) -> f64 {
            let seconds = common::wall_seconds(|| {
                let sum = run(async move {
                    let each = count / at_once;
                    let handles: Vec<_> = (0..at_once)
                        .map(|_| {
                            spawn(async move {
                                let mut sum = 0;
                                for n in 0..each {
                                    sum += offload(move || n).await;
                                }
                                sum
                            })
                        })
                        .collect();
                    let mut sum = 0;
                    for handle in handles {
                        sum += join(handle).await;
                    }
                    assert_eq!(sum, at_once * each * (each - 1) / 2);
                    sum
                });
                assert!(sum > 0);
            });
            seconds * 1e6 / count as f64
        }
    };
}
