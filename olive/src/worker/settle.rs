//! The end of a job, in the one order that loses nothing: the result is confirmed, then the dead
//! letter if there is one, and only then the delivery is acked.
//!
//! | outcome | reply | dead letter | delivery |
//! |---|---|---|---|
//! | done | `done` | – | ack |
//! | done, but nobody can take the result | – | `result-undeliverable` | ack |
//! | failed, timed out, exited | `failed`, `timeout` | `failed`, `timeout`, `worker-exited` | ack |
//! | malformed, unknown task | `rejected` | `malformed`, `unknown-task` | ack |
//! | process killed, first two times | – | – | reject, back into the queue |
//! | process killed a third time | `failed` | `worker-died` | ack |

use std::time::Duration;

use amqp::client::Acker;

use super::dispatch::{Counts, Dispatcher};
use super::fetch;
use super::letter::{self, Origin};
use super::outbox::{Letter, Refused};
use super::verdict::{Reason, Verdict};
use crate::job::Job;
use crate::outcome::{Outcome, Status, TaskError};

/// Pause before a dead letter is offered again that had no queue.
const BURY_PAUSE: Duration = Duration::from_secs(5);

/// What ended: a job, or a body that is none.
pub(super) enum Ended {
    Job(Job),
    Body(Vec<u8>),
}

/// A job that has ended and is not settled.
pub(super) struct End {
    pub acker: Acker,
    pub origin: Origin,
    pub what: Ended,
    pub took: Duration,
    /// `None`: it never ran.
    pub outcome: Option<Outcome>,
    pub verdict: Verdict,
}

impl End {
    /// Settles what needs no word to anybody; else returns it.
    pub fn settle_at_once(self, counts: &mut Counts) -> Option<End> {
        match (&self.verdict, &self.what) {
            (Verdict::Done, Ended::Job(job))
                if letter::addresses(Some(job), &self.origin).next().is_none() =>
            {
                counts.done += 1;
                ack(self.acker);
                None
            }
            (Verdict::Again, _) => {
                log::warn!(
                    "the process under {} was killed: the job is given back",
                    self.name()
                );
                counts.given_back += 1;
                // An error means that the broker has it back already.
                let _ = self.acker.reject(true);
                None
            }
            _ => Some(self),
        }
    }

    /// The job in words, for the log.
    fn name(&self) -> String {
        match &self.what {
            Ended::Job(job) => match job.given_tid() {
                Some(tid) => format!("{} ({tid})", job.func()),
                None => job.func().to_owned(),
            },
            Ended::Body(body) => format!("a message of {} bytes", body.len()),
        }
    }

    /// Tells everybody, then acks. Cancelled, it leaves the delivery unsettled.
    pub async fn settle(mut self, worker: &Dispatcher) {
        let tid = match &mut self.what {
            Ended::Job(job) => job.tid().to_owned(),
            // A body that is no job is known by what its producer will look for.
            Ended::Body(body) => match self.origin.correlation_id() {
                Some(id) => id.to_owned(),
                None => tid_in(body).unwrap_or_default(),
            },
        };
        let settled = self.tell(worker, &tid).await;
        match settled {
            Ok(dead) => {
                let mut counts = worker.counts.borrow_mut();
                *(if dead {
                    &mut counts.dead
                } else {
                    &mut counts.done
                }) += 1;
                ack(self.acker);
            }
            Err(_cancelled) => std::mem::drop(self.acker.nack(true)),
        }
    }

    /// Publishes result and dead letter; whether there was a dead letter.
    async fn tell(&self, worker: &Dispatcher, tid: &str) -> Result<bool, kernel::Error> {
        let undeliverable = self.reply(worker, tid).await?;
        let (reason, error) = match (&self.verdict, undeliverable) {
            (Verdict::Dead { reason, error, .. }, _) => (*reason, error.clone()),
            (_, Some(why)) => (
                Reason::ResultUndeliverable,
                TaskError::new("ResultUndeliverable", why),
            ),
            (_, None) => return Ok(false),
        };
        log::warn!("{} is dead-lettered as {reason}: {error}", self.name());
        self.bury(worker, reason, &error).await?;
        Ok(true)
    }

    /// Publishes the result to all who want it; why one of them could not have it.
    async fn reply(&self, worker: &Dispatcher, tid: &str) -> Result<Option<String>, kernel::Error> {
        let job = match &self.what {
            Ended::Job(job) => Some(job),
            Ended::Body(_) => None,
        };
        let mut letter: Option<(Vec<u8>, _)> = None;
        let mut undeliverable = None;
        for (exchange, routing_key) in letter::addresses(job, &self.origin) {
            let (body, properties) = letter.get_or_insert_with(|| {
                let body = letter::reply_body(tid, self.origin.attempt, self.took, self.said());
                (body, letter::reply_properties(tid, &self.origin))
            });
            let letter = Letter {
                exchange,
                routing_key,
                properties,
                body,
            };
            let why = match worker.outbox.result(letter).await {
                Ok(()) => continue,
                Err(Refused::Cancelled(error)) => return Err(error),
                Err(Refused::Undeliverable(why)) => why,
                Err(Refused::TooLarge(why)) => {
                    self.reply_too_large(worker, tid, letter, &why).await?;
                    why
                }
            };
            let to = format!("exchange {exchange:?}, routing key {routing_key:?}");
            log::warn!("no result of {} to {to}: {why}", self.name());
            undeliverable = Some(format!("{to}: {why}"));
        }
        Ok(undeliverable)
    }

    /// Tells an asker whose result is too large that it is, lest it wait for ever.
    async fn reply_too_large(
        &self,
        worker: &Dispatcher,
        tid: &str,
        letter: Letter<'_>,
        why: &str,
    ) -> Result<(), kernel::Error> {
        let error = TaskError::new("ResultTooLarge", why);
        let said = Err((Status::Failed, &error));
        let body = letter::reply_body(tid, self.origin.attempt, self.took, said);
        let instead = Letter {
            body: &body,
            ..letter
        };
        match worker.outbox.result(instead).await {
            Err(Refused::Cancelled(error)) => Err(error),
            _ => Ok(()), // the dead letter tells it too
        }
    }

    fn said(&self) -> Result<&Outcome, (Status, &TaskError)> {
        match (&self.verdict, &self.outcome) {
            (Verdict::Dead { status, error, .. }, _) => Err((*status, error)),
            (_, Some(outcome)) => Ok(outcome),
            (_, None) => unreachable!("a job that never ran is judged dead"),
        }
    }

    async fn bury(
        &self,
        worker: &Dispatcher,
        reason: Reason,
        error: &TaskError,
    ) -> Result<(), kernel::Error> {
        let body = match &self.what {
            Ended::Job(job) => job.text().as_bytes(),
            Ended::Body(body) => body,
        };
        let dead_queue = worker.config.dead_queue();
        let mut properties = letter::dead_properties(&self.origin, reason, error);
        loop {
            let letter = Letter {
                exchange: "",
                routing_key: &dead_queue,
                properties: &properties,
                body,
            };
            match worker.outbox.dead_letter(letter).await {
                Ok(()) => return Ok(()),
                Err(Refused::Cancelled(error)) => return Err(error),
                // The headers it came with leave no room for ours in one frame.
                Err(Refused::TooLarge(why)) => {
                    log::warn!("a dead letter goes without the headers of its message: {why}");
                    properties = letter::dead_properties_alone(&self.origin, reason, error);
                }
                // The queue was deleted under us: the job stays unacked until it is there again.
                Err(Refused::Undeliverable(why)) => {
                    log::error!(
                        "no dead letter can be stored, declaring {dead_queue} again: {why}"
                    );
                    let queue = fetch::dead_queue(&worker.config);
                    if let Err(error) = worker.outbox.declare(queue).await {
                        log::error!("{dead_queue} cannot be declared: {error}");
                        kernel::sleep(BURY_PAUSE).await?;
                    }
                }
            }
        }
    }
}

/// The `tid` of a body that is JSON, though no job.
fn tid_in(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Known {
        tid: String,
    }
    let known: Known = serde_json::from_slice(body).ok()?;
    (known.tid.len() <= 255).then_some(known.tid)
}

fn ack(acker: Acker) {
    if let Err(error) = acker.ack() {
        // The connection went while the job ran: it is done, and will run a second time.
        log::debug!("a job that is done could not be acked: {error}");
    }
}
