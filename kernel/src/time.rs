//! Sleeping, timeouts and shields.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    WaitQueue,
    error::{Error, Told, look_into},
    kernel::Core,
    scope::{Limit, Verdict, after, scoped},
    trap::{Ask, Trap, Yield, ask},
    with::With,
};

/// The time on the kernel's clock.
///
/// # Panics
/// Outside a running kernel.
pub fn now() -> Instant {
    Core::current_ref(|core| core.clock.now())
}

/// Sleeps for this long. Not shorter, and usually less than a millisecond longer.
///
/// # Cancellation
/// Safe to drop at any time.
///
/// # Errors
/// Cancellation and timeouts.
pub async fn sleep(duration: Duration) -> Result<(), Error> {
    ask(Trap::Sleep(after(now(), duration))).await
}

/// Sleeps until this moment on the kernel's clock; one that has passed lets others run first.
///
/// # Cancellation
/// Safe to drop at any time.
///
/// # Errors
/// Cancellation and timeouts.
pub fn sleep_until(deadline: Instant) -> Ask {
    ask(Trap::Sleep(deadline))
}

/// Lets every task that is ready now run first.
///
/// # Cancellation
/// Safe to drop at any time.
///
/// # Errors
/// Cancellation and timeouts.
pub fn yield_now() -> Yield {
    Yield::new()
}

/// Runs `future`, but not beyond this time.
///
/// When the time is over, whatever the future waits for comes back with an error; the future may
/// clean up, with further awaits, and should then return. Timeouts nest. Each says whose the
/// deadline was:
///
/// * [`Error::TaskTimeout`]: this one's own.
/// * [`Error::TimeoutCancellation`]: one further out; this block is given up because of it.
/// * [`Error::UncaughtTimeout`]: one further in, which nobody handled and which has now reached
///   this block.
///
/// If several have passed at once, the outermost owns it. A future that comes back with `Ok`
/// although its time was over keeps its value, and this is logged.
///
/// A future that goes on all the same (a loop that takes the timeout for one more failed attempt)
/// is dropped when the cleanup budget is over ([`Builder::cleanup_budget`](crate::Builder), 5
/// seconds); one that waits in no trap at all, but in foreign code, is dropped at once, as there is
/// nothing that could tell it. A [`shield`] inside holds both off until it ends.
///
/// An error type of your own need only have `From<kernel::Error>`. We cannot look into it, so
/// after an expiry *any* error it comes back with counts as the timeout's; of [`Error`],
/// `io::Error`, `JoinError` and boxed errors only those that carry a timeout do.
///
/// # Cancellation
/// Dropping it drops the future and forgets the deadline. Once a cancellation was delivered below
/// it, the deadline is switched off: the cleanup budget bounds the task now.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use kernel::{Error, ManualClock};
/// let mut kernel = kernel::Kernel::builder().manual_clock(ManualClock::new()).build().unwrap();
/// let result = kernel.run(kernel::timeout_after(Duration::from_secs(1), async {
///     kernel::sleep(Duration::from_secs(60)).await
/// }));
/// assert_eq!(result, Err(Error::TaskTimeout));
/// ```
pub fn timeout_after<T, E>(
    duration: Duration,
    future: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>>
where
    E: From<Error> + 'static,
{
    scoped(future, Limit::After(duration), judge)
}

/// As [`timeout_after`], with a moment on the kernel's clock; one that has passed gives the future
/// up at its first wait.
pub fn timeout_at<T, E>(
    deadline: Instant,
    future: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>>
where
    E: From<Error> + 'static,
{
    scoped(future, Limit::At(deadline), judge)
}

/// As [`timeout_after`], but its own expiry is no error: it gives `Ok(None)`.
pub fn ignore_after<T, E>(
    duration: Duration,
    future: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<Option<T>, E>>
where
    E: From<Error> + 'static,
{
    scoped(
        future,
        Limit::After(duration),
        |verdict, result| match judge(verdict, result) {
            Err(e) if verdict == Some(Verdict::Mine) && is_timeout(&e) => Ok(None),
            other => other.map(Some),
        },
    )
}

/// Runs `future` where no cancellation and no timeout from outside reaches it; both are delivered
/// at the first trap after it. Timeouts opened inside work.
///
/// For the few steps that must not be torn apart. A shield always wins, also against a second
/// cancel and the end of the cleanup budget, so keep it short.
///
/// # Cancellation
/// Put off until its end. Dropping it (as the loser of a `select!`, say) drops what is inside.
pub fn shield<F: Future>(future: F) -> impl Future<Output = F::Output> {
    scoped(future, Limit::Shield, |_, output| {
        output.expect("a shield has no deadline, so nothing is given up for it")
    })
}

/// Runs a future that knows nothing of this kernel, so that it can be given up.
///
/// Any future runs on the kernel by simply being awaited. What this adds: a cancellation or
/// timeout drops the future and comes back as an error, where a bare `.await` would not notice
/// it, and the whole task would be dropped at the end of its cleanup budget.
///
/// # Cancellation
/// Drops the future where it waits; what that loses is for the future's own documentation to say.
///
/// # Errors
/// Cancellation and timeouts.
pub fn foreign<F: Future>(future: F) -> impl Future<Output = Result<F::Output, Error>> {
    With::new(future, ask(Trap::Wait(WaitQueue::named("foreign future"))))
}

/// A foreign future, and beside it a trap that nothing but an interruption answers.
impl<F: Future> Future for With<F, Ask> {
    type Output = Result<F::Output, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (future, interruption) = self.split();
        if let Poll::Ready(value) = future.poll(cx) {
            return Poll::Ready(Ok(value));
        }
        let answer = Pin::new(interruption).poll(cx);
        answer.map(|answer| Err(answer.expect_err("nobody wakes a line that nobody knows")))
    }
}

fn is_timeout<E: 'static>(error: &E) -> bool {
    match look_into(error) {
        Told::Ours(e) => e.is_timeout(),
        Told::Foreign => false,
        Told::Opaque => true,
    }
}

/// What an error means to the timeout it has reached: whose was it? Without a result, the future
/// was given up.
fn judge<T, E>(verdict: Option<Verdict>, result: Option<Result<T, E>>) -> Result<T, E>
where
    E: From<Error> + 'static,
{
    let error = match (result, verdict) {
        (None, Some(Verdict::Outer)) => return Err(Error::TimeoutCancellation.into()),
        (None, _) => return Err(Error::TaskTimeout.into()),
        (Some(Err(error)), _) => error,
        (Some(Ok(value)), None) => return Ok(value),
        (Some(Ok(value)), Some(_)) => {
            log::debug!(
                "kernel: a timeout passed, but what stood under it ended well all the same"
            );
            return Ok(value);
        }
    };
    Err(match (look_into(&error), verdict) {
        (Told::Ours(e), Some(Verdict::Mine)) if e.is_timeout() => E::from(Error::TaskTimeout),
        (Told::Ours(e), Some(Verdict::Outer)) if e.is_timeout() => {
            E::from(Error::TimeoutCancellation)
        }
        (Told::Ours(Error::TaskTimeout), None) => E::from(Error::UncaughtTimeout),
        (Told::Opaque, Some(Verdict::Mine)) => E::from(Error::TaskTimeout),
        (Told::Opaque, Some(Verdict::Outer)) => E::from(Error::TimeoutCancellation),
        _ => error,
    })
}
