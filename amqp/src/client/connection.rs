//! The user's handle of a connection.

use super::channel::{Channel, answered};
use super::transport::Transport;
use super::{io, wait};
use crate::core::{Core, Negotiated};
use crate::error::Error;
use crate::options::ConnectOptions;
use crate::protocol::reply;
use std::rc::Rc;
use std::time::Duration;

/// An open connection to a broker. Cloning gives another handle of the same one.
///
/// When the last handle is dropped, with all channels and consumers of the connection, it closes by itself.
#[derive(Clone)]
pub struct Connection {
    pub(super) handle: Rc<Handle>,
}

/// What all user handles of a connection share; its drop is the end of the connection.
pub(super) struct Handle {
    pub(super) core: Rc<Core>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core
            .close(reply::SUCCESS, "the last handle was dropped");
    }
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Cancellation
    /// Safe: nothing stays behind.
    ///
    /// # Errors
    /// [`Error::UnknownHost`], [`Error::Connect`], [`Error::Tls`], [`Error::NotAmqp`], [`Error::LoginRefused`],
    /// [`Error::VhostRefused`], [`Error::Options`]; [`Error::NoAnswer`] after `connect_timeout`; what else ends a connection.
    /// [`Error::is_retryable`] tells whether to try again.
    pub async fn open(options: ConnectOptions) -> Result<Connection, Error> {
        let limit = options.connect_timeout;
        match kernel::timeout_after(limit, open(options)).await {
            Err(Error::Kernel(kernel::Error::TaskTimeout)) => Err(Error::NoAnswer {
                what: "the attempt to connect and log in",
                after: limit,
            }),
            result => result,
        }
    }

    /// Opens a channel.
    ///
    /// # Cancellation
    /// Safe: a channel that opens later is closed again.
    ///
    /// # Errors
    /// [`Error::NoFreeChannel`], or the connection's end.
    pub async fn channel(&self) -> Result<Channel, Error> {
        let (core, call) = self.handle.core.open_channel()?;
        // Made before the answer: dropped without one, it closes the channel.
        let channel = Channel::new(core, self.clone());
        answered(&call, self.handle.core.options().answer_timeout).await?;
        Ok(channel)
    }

    /// Waits for the end of the connection and tells its first cause.
    ///
    /// # Cancellation
    /// Safe. A cancellation is returned as [`Error::Kernel`].
    pub async fn closed(&self) -> Error {
        match wait(|waker| self.handle.core.poll_closed(waker)).await {
            Ok(cause) => cause,
            Err(cancelled) => Error::Kernel(cancelled),
        }
    }

    /// The first cause of the end, if the connection is over.
    pub fn is_closed(&self) -> Option<Error> {
        self.handle.core.closed()
    }

    /// What was agreed at login.
    pub fn negotiated(&self) -> &Negotiated {
        self.handle
            .core
            .negotiated()
            .expect("a Connection is handed out once it is open")
    }

    /// Why the server blocks publishers (memory or disk alarm), if it does.
    pub fn blocked(&self) -> Option<String> {
        self.handle.core.blocked()
    }

    /// Waits until the server blocks publishers (`Some(reason)`) or, where it does already, until it no longer does
    /// (`None`).
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// The connection's end.
    pub async fn blocked_changed(&self) -> Result<Option<String>, Error> {
        let seen = self.blocked().is_some();
        wait(|waker| self.handle.core.poll_blocked(seen, waker)).await?
    }

    /// Tells the server a new secret for a login that expires (RabbitMQ's `connection.update-secret`). For users whose
    /// login does not expire RabbitMQ says yes and does nothing.
    ///
    /// # Errors
    /// [`Error::NoAnswer`], or the connection's end.
    pub async fn update_secret(&self, secret: &str, why: &str) -> Result<(), Error> {
        let call = self.handle.core.update_secret(secret, why)?;
        answered(&call, self.handle.core.options().answer_timeout)
            .await
            .map(drop)
    }

    /// Closes the connection in an orderly way. Acks called before it arrive; publishes without a confirm may not.
    ///
    /// Returns once the server agreed, at the latest after 5 s. Everything that waits on the connection ends with
    /// [`Error::ClosedByUs`] at the call.
    ///
    /// # Cancellation
    /// The close goes on by itself.
    pub async fn close(&self) {
        const LIMIT: Duration = Duration::from_secs(5);
        let core = &self.handle.core;
        core.close(reply::SUCCESS, "Goodbye");
        let end = kernel::timeout_after(LIMIT, wait(|waker| core.poll_closed(waker))).await;
        if end == Err(kernel::Error::TaskTimeout) {
            core.fail(Error::ClosedByUs);
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let core = &self.handle.core;
        write!(
            f,
            "Connection({:?}, closed: {:?})",
            core.options(),
            core.closed()
        )
    }
}

async fn open(options: ConnectOptions) -> Result<Connection, Error> {
    let stream = Transport::connect(&options).await?;
    let core = Core::new(options);
    io::start(Rc::clone(&core), stream);
    // Dropped on the way, it ends the tasks.
    let connection = Connection {
        handle: Rc::new(Handle { core }),
    };
    wait(|waker| connection.handle.core.poll_open(waker)).await??;
    Ok(connection)
}
