//! One seed, one run: whatever the machine does meanwhile.

use std::{cell::RefCell, rc::Rc, time::Duration};

use kernel::{sim::Sim, sleep, spawn, yield_now};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_seed_gives_one_order() {
    let order = |seed| {
        Sim::new(seed).run(async {
            let log = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = (0..8)
                .map(|n| {
                    let log = log.clone();
                    spawn(async move {
                        yield_now().await.unwrap();
                        log.borrow_mut().push(n);
                    })
                })
                .collect();
            for task in tasks {
                task.join().await.unwrap();
            }
            log.take()
        })
    };
    assert_eq!(order(3), order(3));
    assert!((0..10).any(|seed| order(seed) != order(3)));
}

/// The bound on the time of a turn is for real clocks. Where a turn ends decides when those who
/// were cancelled hard are dropped: with a virtual clock a slow machine must not move that.
#[test]
fn a_slow_machine_gives_the_same_run() {
    struct Last(Rc<RefCell<Vec<i32>>>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.borrow_mut().push(-1);
        }
    }
    let order = |slow: bool| {
        Sim::new(7).run(async move {
            let log = Rc::new(RefCell::new(Vec::new()));
            for n in 0..300 {
                let last = Last(log.clone());
                let victim = spawn(async move {
                    let _last = last;
                    std::future::pending::<()>().await
                });
                let log = log.clone();
                spawn(async move {
                    yield_now().await.unwrap();
                    if slow {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    log.borrow_mut().push(n);
                    victim.cancel();
                    victim.cancel();
                });
            }
            sleep(SECOND).await.unwrap();
            log.take()
        })
    };
    assert_eq!(order(false), order(true));
}
