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
    trap::{Ask, Ended, Scope, Trap, Verdict, after, ask},
    with::With,
};

/// Sleeps for this long. Not shorter, and usually less than a millisecond longer.
///
/// # Cancellation
/// Safe to drop at any time.
///
/// # Errors
/// Cancellation and timeouts.
pub fn sleep(duration: Duration) -> impl Future<Output = Result<(), Error>> {
    Sleep::For(duration)
}

/// See [`sleep`]. (An `async fn` would keep the duration beside the trap; sleeps come in great numbers.)
enum Sleep {
    For(Duration),
    Asked(Ask),
}

impl Future for Sleep {
    type Output = Result<(), Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sleep = &mut *self;
        if let Sleep::For(duration) = sleep {
            *sleep = Sleep::Asked(ask(Trap::Sleep(after(*duration))));
        }
        match sleep {
            Sleep::Asked(ask) => Pin::new(ask).poll(cx),
            Sleep::For(_) => unreachable!("it has been asked"),
        }
    }
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

/// Runs `future`, but not beyond this time.
///
/// Never before the time is over, and if it is 100 milliseconds or longer up to 1.05 milliseconds
/// later ([`Scope::after`]), whatever the future waits for comes back with an error; the future may
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
    scoped(future, Limit::After(duration), Ended::judge)
}

/// As [`timeout_after`], with a moment on the kernel's clock; one that has passed is told to the
/// future as soon as it waits, or yields.
pub fn timeout_at<T, E>(
    deadline: Instant,
    future: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>>
where
    E: From<Error> + 'static,
{
    scoped(future, Limit::At(deadline), Ended::judge)
}

/// As [`timeout_after`], but its own expiry is no error: it gives `Ok(None)`.
pub fn ignore_after<T, E>(
    duration: Duration,
    future: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<Option<T>, E>>
where
    E: From<Error> + 'static,
{
    scoped(future, Limit::After(duration), |ended| {
        let mine = matches!(
            ended,
            Ended::Value(_, Some(Verdict::Mine)) | Ended::GivenUp(Verdict::Mine)
        );
        match ended.judge() {
            Err(e) if mine && is_timeout(&e) => Ok(None),
            other => other.map(Some),
        }
    })
}

/// Runs `future` where no cancellation and no timeout from outside reaches it; both are delivered
/// at the first trap after it. Timeouts opened inside work.
///
/// For the few steps that must not be torn apart. A shield always wins, also against a second
/// cancel and the end of the cleanup budget, so keep it short. Only a task that nothing can wake any
/// more is dropped all the same: its shield holds something that is stuck, or that was moved out
/// of it and put aside.
///
/// # Cancellation
/// Put off until its end. Dropping it (as the loser of a `select!`, say) drops what is inside.
pub fn shield<F: Future>(future: F) -> impl Future<Output = F::Output> {
    scoped(future, Limit::Shield, |ended| match ended {
        Ended::Value(value, _) => value,
        Ended::GivenUp(_) => unreachable!("nothing below a shield is given up"),
    })
}

/// Runs a future that knows nothing of this kernel, so that it can be given up.
///
/// Any future runs on the kernel by simply being awaited. What this adds: a cancellation or
/// timeout drops the future and comes back as an error, where a bare `.await` would not notice
/// it, and the whole task would be dropped at the end of its cleanup budget. Around the requests of a
/// client, say, of which a task awaits many at a time.
///
/// # Cancellation
/// Drops the future where it waits; what that loses is for the future's own documentation to say. A
/// [`shield`] inside is dropped with it: put the shield outside.
///
/// # Errors
/// Cancellation and timeouts.
pub fn foreign<F: Future>(future: F) -> impl Future<Output = Result<F::Output, Error>> {
    With::new(future, Interruption(None))
}

/// A trap that nothing but an interruption answers, once it is asked.
struct Interruption(Option<Ask>);

impl Interruption {
    fn poll<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        let never = || ask(Trap::Wait(WaitQueue::named("foreign future")));
        let answer = Pin::new(self.0.get_or_insert_with(never)).poll(cx);
        answer.map(|answer| Err(answer.expect_err("nobody wakes a line that nobody knows")))
    }
}

/// A foreign future, and what interrupts it beside it. That comes first, once it was asked: whoever was
/// told must hear it, also if the future is ready by now.
impl<F: Future> Future for With<F, Interruption> {
    type Output = Result<F::Output, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (future, interruption) = self.split();
        if interruption.0.is_some()
            && let Poll::Ready(told) = interruption.poll(cx)
        {
            return Poll::Ready(told);
        }
        match future.poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending if interruption.0.is_some() => Poll::Pending,
            Poll::Pending => interruption.poll(cx),
        }
    }
}

fn is_timeout<E: 'static>(error: &E) -> bool {
    match look_into(error) {
        Told::Ours(e) => e.is_timeout(),
        Told::Foreign => false,
        Told::Opaque => true,
    }
}

impl<T, E: From<Error> + 'static> Ended<Result<T, E>> {
    /// What a timeout comes back with: an error that was a timeout's becomes that of the three which
    /// it is here; see [`timeout_after`].
    ///
    /// # Errors
    /// The future's, renamed if it was a timeout's; or the timeout, if the future was given up.
    pub fn judge(self) -> Result<T, E> {
        let (error, verdict) = match self {
            Ended::GivenUp(whose) => return Err(whose.error().into()),
            Ended::Value(Err(error), verdict) => (error, verdict),
            Ended::Value(Ok(value), verdict) => {
                if verdict.is_some() {
                    log::debug!(
                        "kernel: a timeout passed, but what stood under it ended well all the same"
                    );
                }
                return Ok(value);
            }
        };
        Err(match (look_into(&error), verdict) {
            (Told::Ours(e), Some(whose)) if e.is_timeout() => whose.error().into(),
            (Told::Opaque, Some(whose)) => whose.error().into(),
            (Told::Ours(Error::TaskTimeout), None) => Error::UncaughtTimeout.into(),
            _ => error,
        })
    }
}

/// What a scope is opened for, at the first poll.
#[derive(Clone, Copy, Debug)]
enum Limit {
    After(Duration),
    At(Instant),
    Shield,
}

/// Beside the future of a [`Scoped`]: its scope, once opened, and `judge`, which makes the result of
/// how the future ended.
struct Around<J> {
    limit: Limit,
    scope: Option<Scope>,
    judge: J,
}

/// A future that is polled inside a scope of its own. (`With` drops the future, with all its
/// waits, before the scope.)
type Scoped<F, J> = With<F, Around<J>>;

fn scoped<F, J, T>(future: F, limit: Limit, judge: J) -> Scoped<F, J>
where
    F: Future,
    J: Fn(Ended<F::Output>) -> T,
{
    let around = Around {
        limit,
        scope: None,
        judge,
    };
    With::new(future, around)
}

impl<F, J, T> Future for Scoped<F, J>
where
    F: Future,
    J: Fn(Ended<F::Output>) -> T,
{
    type Output = T;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let (future, around) = self.split();
        let limit = around.limit;
        let scope = around.scope.get_or_insert_with(|| match limit {
            Limit::After(duration) => Scope::after(duration),
            Limit::At(deadline) => Scope::at(deadline),
            Limit::Shield => Scope::shield(),
        });
        let ended = std::task::ready!(scope.poll(future, cx));
        around.scope = None; // closed: its deadline is over before anyone goes on
        Poll::Ready((around.judge)(ended))
    }
}
