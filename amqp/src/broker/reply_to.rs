//! Direct reply-to, RabbitMQ's extension: RPC answers without a queue.
//!
//! A client consumes, without acknowledgements, from the pseudo-queue [`NAME`] and publishes requests with
//! `reply_to` set to it, on the same channel. The broker puts an address in its place that stands for this
//! channel. An answer to that address, on the default exchange, goes straight to the consumer; if that has gone,
//! the answer is unroutable. An answer is delivered at most once.

use crate::codec::Fields;

/// The pseudo-queue.
pub(crate) const NAME: &str = "amq.rabbitmq.reply-to";

/// The address for a channel, made from a number nobody can guess.
pub(crate) fn address(number: u64) -> String {
    format!("{NAME}.{number:016x}")
}

/// A copy of `properties`, whose `reply_to` is `fields.reply_to`, with `address` in its place.
pub(crate) fn rewrite(properties: &[u8], fields: &Fields<'_>, address: &str) -> Vec<u8> {
    let Some(old) = fields.reply_to else {
        return properties.to_vec();
    };
    // `old` borrows from `properties`, so the distance of their starts is where it stands.
    let start = old.as_ptr() as usize - properties.as_ptr() as usize;
    let mut rewritten = Vec::with_capacity(properties.len() + address.len());
    rewritten.extend_from_slice(&properties[..start - 1]);
    crate::codec::put_short(&mut rewritten, address);
    rewritten.extend_from_slice(&properties[start + old.len()..]);
    rewritten
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::RawProperties;
    use crate::protocol::BasicProperties;

    #[test]
    fn only_the_reply_to_changes() {
        let properties = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_correlation_id("id".into())
            .with_message_id("m".into());
        let raw = RawProperties::from(&properties.clone().with_reply_to(NAME.into()));
        let new = rewrite(raw.as_wire(), &raw.fields(), &address(7));
        let expected = properties.with_reply_to(format!("{NAME}.0000000000000007").into());
        assert_eq!(RawProperties::from_wire(&new), Some((&expected).into()));
    }
}
