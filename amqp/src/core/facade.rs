//! The requests that the kernel's client and the blocking façade have alike, written once.
//!
//! [`requests!`] makes the methods of a `Channel`: with `async .await` those that wait as tasks do, without them
//! those that block. Both have a `run`, which waits for the answer of an [`Op`](super::ops::Op), and a `core`.

macro_rules! requests {
    ($($asynchronous:tt . $wait:tt)?) => {
        /// Declares an exchange: makes it, or checks that it is as declared.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 406 if it exists with other properties, 404 if passive and it does not
        /// exist, 403 without the permission; [`Error::Invalid`].
        pub $($asynchronous)? fn exchange_declare(&self, declare: ExchangeDeclare) -> Result<(), Error> {
            self.run(ops::exchange_declare(&declare)?) $(.$wait)?
        }

        /// Deletes an exchange; with `if_unused` only if nothing is bound to it. Deleting what does not exist
        /// succeeds on RabbitMQ.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 406 if it is in use.
        pub $($asynchronous)? fn exchange_delete(&self, name: &str, if_unused: bool) -> Result<(), Error> {
            self.run(ops::exchange_delete(name, if_unused)?) $(.$wait)?
        }

        /// Binds an exchange to another one (RabbitMQ's extension): what `source` routes goes to `destination`.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 404 if one does not exist.
        pub $($asynchronous)? fn exchange_bind(
            &self,
            destination: &str,
            source: &str,
            routing_key: &str,
            arguments: FieldTable,
        ) -> Result<(), Error> {
            self.run(ops::exchange_bind([destination, source, routing_key], arguments)?) $(.$wait)?
        }

        /// Takes back an [`Channel::exchange_bind`] with the same arguments.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`].
        pub $($asynchronous)? fn exchange_unbind(
            &self,
            destination: &str,
            source: &str,
            routing_key: &str,
            arguments: FieldTable,
        ) -> Result<(), Error> {
            self.run(ops::exchange_unbind([destination, source, routing_key], arguments)?) $(.$wait)?
        }

        /// Declares a queue: makes it, or checks that it is as declared.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 406 if it exists with other properties, 404 if passive and it does not
        /// exist, 405 if another connection has it exclusively, 403 without the permission; [`Error::Invalid`].
        pub $($asynchronous)? fn queue_declare(&self, declare: QueueDeclare) -> Result<QueueOk, Error> {
            self.run(ops::queue_declare(&declare)?) $(.$wait)?
        }

        /// Binds a queue to an exchange.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 404 if one does not exist.
        pub $($asynchronous)? fn queue_bind(
            &self,
            queue: &str,
            exchange: &str,
            routing_key: &str,
        ) -> Result<(), Error> {
            self.queue_bind_with(queue, exchange, routing_key, FieldTable::default()) $(.$wait)?
        }

        /// [`Channel::queue_bind`] with arguments, as headers exchanges need them.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 404 if one does not exist.
        pub $($asynchronous)? fn queue_bind_with(
            &self,
            queue: &str,
            exchange: &str,
            routing_key: &str,
            arguments: FieldTable,
        ) -> Result<(), Error> {
            self.run(ops::queue_bind([queue, exchange, routing_key], arguments)?) $(.$wait)?
        }

        /// Takes back a binding with the same arguments.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`].
        pub $($asynchronous)? fn queue_unbind(
            &self,
            queue: &str,
            exchange: &str,
            routing_key: &str,
            arguments: FieldTable,
        ) -> Result<(), Error> {
            self.run(ops::queue_unbind([queue, exchange, routing_key], arguments)?) $(.$wait)?
        }

        /// Drops all messages that are ready in a queue; returns how many.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 404 if it does not exist.
        pub $($asynchronous)? fn queue_purge(&self, queue: &str) -> Result<u32, Error> {
            self.run(ops::queue_purge(queue)?) $(.$wait)?
        }

        /// Deletes a queue; returns how many messages went with it. With `if_unused` only without consumers, with
        /// `if_empty` only without messages. Deleting what does not exist succeeds on RabbitMQ.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 406 if a condition does not hold.
        pub $($asynchronous)? fn queue_delete(
            &self,
            queue: &str,
            if_unused: bool,
            if_empty: bool,
        ) -> Result<u32, Error> {
            self.run(ops::queue_delete(queue, if_unused, if_empty)?) $(.$wait)?
        }

        /// How many unsettled deliveries each consumer made after this may hold; 0 = no limit. (The per-channel
        /// form, `global`, is not offered: RabbitMQ 4.3 refuses it.)
        ///
        /// # Errors
        /// The channel's end.
        pub $($asynchronous)? fn qos(&self, prefetch: u16) -> Result<(), Error> {
            self.run(ops::qos(prefetch)) $(.$wait)?
        }

        /// Asks for all unsettled deliveries of the channel again. RabbitMQ supports only `requeue`, that is, puts
        /// them back into their queues. What this program still holds of them answers the next ack with
        /// [`Error::AlreadySettled`].
        ///
        /// # Errors
        /// [`Error::ConnectionClosed`] with 540 without `requeue`, on RabbitMQ.
        pub $($asynchronous)? fn recover(&self, requeue: bool) -> Result<(), Error> {
            self.run(ops::recover(requeue)) $(.$wait)? ?;
            self.core().forget_deliveries();
            Ok(())
        }

        /// From now on the server confirms publishes. Calling it again has no effect.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 406 on a channel with transactions.
        pub $($asynchronous)? fn confirm_select(&self) -> Result<(), Error> {
            if self.core().has_confirms() {
                return Ok(());
            }
            self.run(ops::confirm_select()) $(.$wait)?
        }

        /// From now on publishes and acks take effect with [`Channel::tx_commit`] only.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 406 on a channel with confirms.
        pub $($asynchronous)? fn tx_select(&self) -> Result<(), Error> {
            self.run(ops::tx_select()) $(.$wait)?
        }

        /// Makes publishes and acks since the last commit take effect.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 406 without [`Channel::tx_select`].
        pub $($asynchronous)? fn tx_commit(&self) -> Result<(), Error> {
            self.run(ops::tx_commit()) $(.$wait)?
        }

        /// Forgets publishes and acks since the last commit.
        ///
        /// # Errors
        /// [`Error::ChannelClosed`] with 406 without [`Channel::tx_select`].
        pub $($asynchronous)? fn tx_rollback(&self) -> Result<(), Error> {
            self.run(ops::tx_rollback()) $(.$wait)?
        }
    };
}

pub(crate) use requests;
