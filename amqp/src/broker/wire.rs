//! The hot frames as the broker writes them: straight from a [`Message`]'s bytes.
//!
//! `codec::encode` writes the same from separate names; here exchange and key already stand together in wire form,
//! so a delivery is a few copies into a buffer that was grown once. A test holds the two byte for byte equal.

use super::fault::Fault;
use super::message::Message;
use crate::codec::encode;
use crate::protocol::{BASIC_CLASS, FRAME_OVERHEAD};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xCE;

/// Type, channel, size: the start of a frame.
#[inline]
fn start(kind: u8, channel: u16, size: usize) -> [u8; 7] {
    let [c1, c2] = channel.to_be_bytes();
    let [s1, s2, s3, s4] = (size as u32).to_be_bytes();
    [kind, c1, c2, s1, s2, s3, s4]
}

/// `basic.deliver` with its content.
#[inline]
pub(crate) fn deliver(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    consumer_tag: &str,
    delivery_tag: u64,
    redelivered: bool,
    message: &Message,
) {
    let (tag, routing) = (consumer_tag.as_bytes(), message.routing());
    let size = 4 + 1 + tag.len() + 8 + 1 + routing.len();
    reserve(out, size, message, frame_max);
    out.extend_from_slice(&start(METHOD, channel, size));
    out.extend_from_slice(&[0, BASIC_CLASS as u8, 0, 60, tag.len() as u8]);
    out.extend_from_slice(tag);
    let mut middle = [0; 9];
    middle[..8].copy_from_slice(&delivery_tag.to_be_bytes());
    middle[8] = u8::from(redelivered);
    out.extend_from_slice(&middle);
    out.extend_from_slice(routing);
    out.push(END);
    content(
        out,
        channel,
        frame_max,
        message.properties(),
        message.body(),
    );
}

/// `basic.get-ok` with its content.
pub(crate) fn get_ok(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    delivery_tag: u64,
    redelivered: bool,
    message_count: u32,
    message: &Message,
) {
    let routing = message.routing();
    let size = 4 + 8 + 1 + routing.len() + 4;
    reserve(out, size, message, frame_max);
    out.extend_from_slice(&start(METHOD, channel, size));
    out.extend_from_slice(&[0, BASIC_CLASS as u8, 0, 71]);
    out.extend_from_slice(&delivery_tag.to_be_bytes());
    out.push(u8::from(redelivered));
    out.extend_from_slice(routing);
    out.extend_from_slice(&message_count.to_be_bytes());
    out.push(END);
    content(
        out,
        channel,
        frame_max,
        message.properties(),
        message.body(),
    );
}

/// Whether a client can be sent content with these properties: they go out in one frame. It was published over a
/// connection with larger frames if not.
#[inline]
pub(crate) fn check_fit(properties: &[u8], frame_max: u32) -> Result<(), Fault> {
    let len = encode::header_frame_len(properties);
    if len <= frame_max as usize {
        return Ok(());
    }
    Err(Fault::precondition(format!(
        "a message's properties make a frame of {len} bytes, over the negotiated frame_max of {frame_max}"
    )))
}

/// Grows the buffer once for the whole message.
#[inline]
fn reserve(out: &mut Vec<u8>, method_size: usize, message: &Message, frame_max: u32) {
    let body = message.body().len();
    let frames = 3 + body / payload_max(frame_max);
    let header = 12 + message.properties().len();
    out.reserve(method_size + header + body + frames * FRAME_OVERHEAD);
}

#[inline]
fn payload_max(frame_max: u32) -> usize {
    // The handshake has made sure that it is at least 4,096.
    frame_max as usize - FRAME_OVERHEAD
}

/// Content header and body frames.
#[inline]
pub(crate) fn content(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    properties: &[u8],
    body: &[u8],
) {
    out.extend_from_slice(&start(HEADER, channel, 12 + properties.len()));
    let mut fixed = [0, BASIC_CLASS as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&(body.len() as u64).to_be_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(properties);
    out.push(END);
    for piece in body.chunks(payload_max(frame_max)) {
        out.extend_from_slice(&start(BODY, channel, piece.len()));
        out.extend_from_slice(piece);
        out.push(END);
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::message;
    use super::*;
    use crate::codec::{Deliver, GetOk, encode};

    #[test]
    fn the_same_bytes_as_the_codec() {
        for size in [0, 1, 4087, 4088, 4089, 10_000] {
            let message = message("some.key", &vec![7; size]);
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            deliver(&mut ours, 3, 4096, "ctag", 0x0102_0304_0506, true, &message);
            let method = Deliver {
                consumer_tag: "ctag",
                delivery_tag: 0x0102_0304_0506,
                redelivered: true,
                exchange: "",
                routing_key: "some.key",
            };
            encode::deliver(&mut theirs, 3, &method);
            encode::content(&mut theirs, 3, &[0, 0], message.body(), 4096);
            assert_eq!(ours, theirs);

            (ours, theirs) = (Vec::new(), Vec::new());
            get_ok(&mut ours, 3, 4096, 9, false, 77, &message);
            let method = GetOk {
                delivery_tag: 9,
                redelivered: false,
                exchange: "",
                routing_key: "some.key",
                message_count: 77,
            };
            encode::get_ok(&mut theirs, 3, &method);
            encode::content(&mut theirs, 3, &[0, 0], message.body(), 4096);
            assert_eq!(ours, theirs);
        }
    }
}
