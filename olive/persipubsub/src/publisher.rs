//! [`Publisher`]: sends.

use std::ops::Range;
use std::time::Duration;

use crate::environment::Environment;
use crate::error::Result;
use crate::op::{Done, Op, Publish};

/// Sends messages to all subscribers of a store.
///
/// Subscribers and limits are read with each message, so a control's changes hold for running
/// publishers too. A message sent while nobody is subscribed is numbered and forgotten.
#[derive(Debug, Clone)]
pub struct Publisher {
    env: Environment,
    autosync: bool,
}

/// How one message differs from the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// Not delivered before so much time has passed. Default: at once.
    pub delay: Duration,
    /// Not delivered after so much time, if the high-water mark's timeout is not shorter.
    pub time_to_live: Option<Duration>,
}

impl SendOptions {
    pub(crate) fn publish(self, bodies: Vec<Vec<u8>>) -> Publish {
        let millis = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
        Publish {
            bodies,
            delay_ms: millis(self.delay),
            ttl_ms: self.time_to_live.map(millis),
            ..Publish::default()
        }
    }
}

/// From the first sequence to the last one.
pub(crate) fn joined(all: Range<u64>, more: Range<u64>) -> Range<u64> {
    match all.is_empty() {
        true => more,
        false => all.start..more.end,
    }
}

impl Publisher {
    pub(crate) fn new(env: Environment) -> Self {
        Publisher {
            env,
            autosync: false,
        }
    }

    /// With `true`, [`send_many`](Self::send_many) commits each message in a transaction of its own,
    /// so that a crash midway keeps the first ones. Default `false`: all or none.
    pub fn autosync(self, autosync: bool) -> Self {
        Publisher { autosync, ..self }
    }

    /// Sends one message and returns its sequence when it is committed, as durably as the
    /// environment was opened. Senders that come together share a commit.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) and [`Error::TooLarge`](crate::Error::TooLarge): nothing was stored.
    pub fn send(&self, body: impl Into<Vec<u8>>) -> Result<u64> {
        self.send_with(body, SendOptions::default())
    }

    /// Sends one message that is delivered late, or not for long.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with(&self, body: impl Into<Vec<u8>>, options: SendOptions) -> Result<u64> {
        Ok(self.publish(options.publish(vec![body.into()]))?.start)
    }

    /// Sends many messages in one transaction, in order, and returns their sequences.
    ///
    /// # Errors
    /// As [`send`](Self::send); with [`autosync`](Self::autosync) the messages before the one that
    /// failed are stored.
    pub fn send_many<B: Into<Vec<u8>>>(
        &self,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<Range<u64>> {
        self.transactions(bodies)
            .into_iter()
            .try_fold(0..0, |all, publish| Ok(joined(all, self.publish(publish)?)))
    }

    fn publish(&self, publish: Publish) -> Result<Range<u64>> {
        self.env.perform(Op::Publish(publish)).map(Done::sequences)
    }

    /// Many messages as what is committed together.
    pub(crate) fn transactions<B: Into<Vec<u8>>>(
        &self,
        bodies: impl IntoIterator<Item = B>,
    ) -> Vec<Publish> {
        let options = SendOptions::default();
        let bodies = bodies.into_iter().map(Into::into);
        match self.autosync {
            true => bodies.map(|body| options.publish(vec![body])).collect(),
            false => vec![options.publish(bodies.collect())],
        }
    }

    /// The environment it was made from.
    pub fn environment(&self) -> &Environment {
        &self.env
    }
}
