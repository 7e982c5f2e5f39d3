//! A scenario that is disturbed at its first await, its second, and so on.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{Future, poll_fn},
    panic::resume_unwind,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use super::Sim;
use crate::{
    JoinError, JoinHandle, Stats, ps, spawn, stats,
    sync::Event,
    time::sleep,
    trap::{Scope, now},
    yield_now,
};

/// How many orders of ready tasks each disturbance is tried in.
const ORDERS: u64 = 2;
/// By then whatever a disturbance has left to be done is done, or it was left behind.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// Tasks that are listed with what was left behind.
const LINES: usize = 100;

/// Runs a scenario again and again, cancelling it at its first await, its second, and so on, until
/// it gets through; and each time looks for what was left behind. Gives the number of awaits, the
/// most there were.
///
/// Each await is tried in all these ways, each in two orders of the tasks that are ready:
///
/// * the scenario is cancelled and sees the error; it is cancelled hard, so that its future is
///   dropped; or a timeout around it passes;
/// * as soon as it waits; when the others have had a turn; or when its wait was answered and it has
///   not run since, so that what was handed to it must not get lost.
///
/// An await is one of the scenario's own task, in which it paused: one that is answered at once is none.
/// Tasks that it spawns run undisturbed, but for what comes of it: who awaits a task that then ends, or a
/// `TaskGroup`, passes the blow on, as that chooses. To strike at the awaits of what a program runs in tasks
/// of its own, give the future itself as the scenario, instead of one that spawns it.
///
/// Afterwards no wait, deadline, scope, descriptor, bell or task may be left, once a virtual
/// minute has passed. `check` looks at what only the scenario knows, such as permits.
///
/// # Panics
/// If something was left behind, naming the await, the way, and what tasks there are; and if the scenario
/// or `check` panics, after a line on standard error which says where it had been disturbed.
pub fn cancel_everywhere<F, S>(scenario: S, check: impl Fn() + 'static) -> usize
where
    F: Future + 'static,
    S: Fn() -> F,
{
    let check = Rc::new(check);
    for at in 1.. {
        // An order of tasks may have fewer awaits than another.
        let mut through = true;
        for way in ways(at) {
            let (disturbed, left) = run_once(scenario(), way, check.clone());
            if let Some(left) = left {
                panic!("a scenario that {way}, has left behind {left}");
            }
            through &= !disturbed;
        }
        if through {
            return at - 1;
        }
    }
    unreachable!("the loop ends when the scenario gets through")
}

/// True if it was disturbed, and what it has left behind.
fn run_once<F: Future + 'static>(
    scenario: F,
    way: Way,
    check: Rc<impl Fn() + 'static>,
) -> (bool, Option<String>) {
    let _said = SaidOnPanic(way);
    Sim::new(way.seed).run(async move {
        let before = stats();
        let disturbed = disturb(scenario, way).await;
        sleep(AFTERWARDS).await.expect("nobody cancels main");
        let left = left_behind(&before, &stats());
        if left.is_none() {
            check();
        }
        (disturbed, left)
    })
}

/// What there is more of, or less, and then the tasks.
fn left_behind(before: &Stats, after: &Stats) -> Option<String> {
    let counts = |of: &Stats| {
        [
            ("tasks", of.tasks),
            ("waits", of.waits),
            ("timers", of.timers),
            ("scopes", of.scopes),
            ("sources", of.sources),
            ("bells", of.bells),
        ]
    };
    let pairs = counts(before).into_iter().zip(counts(after));
    let left: Vec<String> = pairs
        .filter(|(before, after)| before != after)
        .map(|((what, before), (_, after))| format!("{after} {what} ({before} before)"))
        .collect();
    (!left.is_empty()).then(|| left.join(", ") + &listing())
}

fn listing() -> String {
    let lines = ps().into_iter().take(LINES);
    lines.map(|task| format!("\n{task}")).collect()
}

/// A panic of the scenario or of `check` does not know where it was disturbed.
struct SaidOnPanic(Way);

impl Drop for SaidOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("cancel_everywhere: so panicked a scenario that {}", self.0);
        }
    }
}

/// What happens to the scenario.
#[derive(Clone, Copy)]
enum Blow {
    Cancel,
    CancelHard,
    Timeout,
}

/// When it happens.
#[derive(Clone, Copy)]
enum Moment {
    /// As soon as it waits.
    AtOnce,
    /// When the others have had a turn.
    Later,
    /// Its wait was answered, and it has not run since.
    BetweenWakeAndRun,
}

#[derive(Clone, Copy)]
struct Way {
    /// At which await, from 1.
    at: usize,
    blow: Blow,
    moment: Moment,
    seed: u64,
}

/// `was cancelled at await 3, as soon as it waited, in the order of seed 6`
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blow = match self.blow {
            Blow::Cancel => "was cancelled",
            Blow::CancelHard => "was cancelled hard",
            Blow::Timeout => "timed out",
        };
        let moment = match self.moment {
            Moment::AtOnce => "as soon as it waited",
            Moment::Later => "when the others had had a turn",
            Moment::BetweenWakeAndRun => "when it was answered and had not run",
        };
        let (at, seed) = (self.at, self.seed);
        write!(
            f,
            "{blow} at await {at}, {moment}, in the order of seed {seed}"
        )
    }
}

fn ways(at: usize) -> impl Iterator<Item = Way> {
    let blows = [Blow::Cancel, Blow::CancelHard, Blow::Timeout];
    let moments = [Moment::AtOnce, Moment::Later, Moment::BetweenWakeAndRun];
    let pairs = blows
        .into_iter()
        .flat_map(move |blow| moments.map(|moment| (blow, moment)));
    pairs.flat_map(move |(blow, moment)| {
        let orders = 0..ORDERS;
        orders.map(move |order| Way {
            at,
            blow,
            moment,
            seed: at as u64 * ORDERS + order,
        })
    })
}

/// What the scenario and who disturbs it know of each other.
#[derive(Default)]
struct Stage {
    /// The moment has come, or never will.
    reached: Event,
    struck: Cell<bool>,
    /// The timeout around the scenario.
    scope: RefCell<Option<Scope>>,
}

/// Runs a future as a task and disturbs it; false if it had fewer awaits.
async fn disturb<F: Future + 'static>(future: F, way: Way) -> bool {
    let stage = Rc::new(Stage::default());
    let watched = watched(future, way, stage.clone());
    let task = spawn(watched);
    stage.reached.wait().await.expect("nobody cancels main");
    if let Moment::Later = way.moment {
        yield_now().await.expect("nobody cancels main");
    }
    let running = !task.is_finished();
    if running {
        strike(&task, way.blow, &stage);
    }
    stage.struck.set(true);
    if let Err(JoinError::Panicked(panic)) = task.join().await {
        resume_unwind(panic.into_payload());
    }
    running
}

/// The scenario in its timeout, which tells when it has come to the await in question.
async fn watched<F: Future>(future: F, way: Way, stage: Rc<Stage>) {
    let mut future = pin!(future);
    let mut pauses = 0;
    // It has no deadline, not even a far one: the clock would jump there while all wait for I/O.
    let mut scope = Scope::at(now());
    scope.set_deadline(None);
    stage.scope.replace(Some(scope));
    let strikes_late = matches!(way.moment, Moment::BetweenWakeAndRun);
    poll_fn(|cx| {
        if strikes_late && pauses == way.at && !stage.struck.get() {
            // The answer is there; it is kept from being seen until the blow has fallen.
            return come_back(&stage, cx);
        }
        let mut scope = stage.scope.borrow_mut();
        let scope = scope.as_mut().expect("it is there while the scenario runs");
        let polled = scope.poll(future.as_mut(), cx);
        pauses += 1;
        if polled.is_ready() || (pauses == way.at && !strikes_late) {
            stage.reached.set();
        }
        polled.map(drop)
    })
    .await;
    stage.scope.take();
}

fn come_back(stage: &Stage, cx: &mut Context<'_>) -> Poll<()> {
    stage.reached.set();
    cx.waker().wake_by_ref();
    Poll::Pending
}

fn strike(task: &JoinHandle<()>, blow: Blow, stage: &Stage) {
    match blow {
        Blow::Timeout => {
            if let Some(scope) = &mut *stage.scope.borrow_mut() {
                scope.set_deadline(Some(now()));
            }
        }
        Blow::Cancel => drop(task.cancel()),
        Blow::CancelHard => {
            task.cancel();
            task.cancel();
        }
    }
}
