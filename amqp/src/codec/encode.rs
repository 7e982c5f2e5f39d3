//! Frames → bytes, appended to a `Vec<u8>` (usually that of a [`WriteBuffer`](super::WriteBuffer)).
//!
//! The hot methods are written by hand; [`method`] writes any other through amq-protocol. Functions that take
//! names panic if one is longer than 255 bytes: a short string cannot hold it. Names that come from parsed frames
//! are never longer; names from a user are checked with [`fits_short`](super::fits_short) first.

use super::frame::{
    Ack, BODY, Deliver, FRAME_END, GetOk, HEADER, HEARTBEAT, METHOD, Nack, Publish, Reject,
};
use super::wire::put_short;
use crate::protocol::{AMQPClass, BASIC_CLASS, FRAME_OVERHEAD};
use amq_protocol::frame::WriteContext;
use amq_protocol::protocol::gen_class;

/// Writes a whole frame around the payload that `fill` appends.
#[inline]
fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let [high, low] = channel.to_be_bytes();
    out.extend_from_slice(&[kind, high, low, 0, 0, 0, 0]);
    let start = out.len();
    fill(out);
    let size = u32::try_from(out.len() - start).expect("a payload is far smaller than 4 GiB");
    out[start - 4..start].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

/// Writes a method frame of class `basic`.
#[inline]
fn basic(out: &mut Vec<u8>, channel: u16, method: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    frame(out, METHOD, channel, |out| {
        out.extend_from_slice(&[0, BASIC_CLASS as u8, 0, method]);
        fill(out);
    });
}

/// Any method, through amq-protocol.
///
/// # Panics
/// Never for methods built from `ShortString`s, which bound themselves.
pub fn method(out: &mut Vec<u8>, channel: u16, class: &AMQPClass) {
    frame(out, METHOD, channel, |out| {
        // Positions in the generator are relative, so a buffer that holds earlier frames can be lent to it.
        let context = WriteContext::from(std::mem::take(out));
        *out = gen_class(class)(context)
            .expect("writing to a Vec does not fail")
            .into_inner()
            .0;
    });
}

/// `basic.publish` with its content: method, header, and as many body frames as `frame_max` requires.
///
/// `properties` is the wire form ([`RawProperties::as_wire`](super::RawProperties::as_wire)).
#[inline]
pub fn publish(
    out: &mut Vec<u8>,
    channel: u16,
    publish: &Publish<'_>,
    properties: &[u8],
    body: &[u8],
    frame_max: u32,
) {
    basic(out, channel, 40, |out| {
        out.extend_from_slice(&[0, 0]);
        put_short(out, publish.exchange);
        put_short(out, publish.routing_key);
        out.push(u8::from(publish.mandatory) | u8::from(publish.immediate) << 1);
    });
    content(out, channel, properties, body, frame_max);
}

/// `basic.deliver`; [`content`] must follow.
#[inline]
pub fn deliver(out: &mut Vec<u8>, channel: u16, deliver: &Deliver<'_>) {
    basic(out, channel, 60, |out| {
        put_short(out, deliver.consumer_tag);
        out.extend_from_slice(&deliver.delivery_tag.to_be_bytes());
        out.push(u8::from(deliver.redelivered));
        put_short(out, deliver.exchange);
        put_short(out, deliver.routing_key);
    });
}

/// `basic.get-ok`; [`content`] must follow.
#[inline]
pub fn get_ok(out: &mut Vec<u8>, channel: u16, get_ok: &GetOk<'_>) {
    basic(out, channel, 71, |out| {
        out.extend_from_slice(&get_ok.delivery_tag.to_be_bytes());
        out.push(u8::from(get_ok.redelivered));
        put_short(out, get_ok.exchange);
        put_short(out, get_ok.routing_key);
        out.extend_from_slice(&get_ok.message_count.to_be_bytes());
    });
}

/// `basic.ack`
#[inline]
pub fn ack(out: &mut Vec<u8>, channel: u16, ack: Ack) {
    settle(out, channel, 80, ack.delivery_tag, u8::from(ack.multiple));
}

/// `basic.nack`
#[inline]
pub fn nack(out: &mut Vec<u8>, channel: u16, nack: Nack) {
    let bits = u8::from(nack.multiple) | u8::from(nack.requeue) << 1;
    settle(out, channel, 120, nack.delivery_tag, bits);
}

/// `basic.reject`
#[inline]
pub fn reject(out: &mut Vec<u8>, channel: u16, reject: Reject) {
    settle(
        out,
        channel,
        90,
        reject.delivery_tag,
        u8::from(reject.requeue),
    );
}

/// The three ways to settle have one shape of 21 bytes, written in one go.
#[inline]
fn settle(out: &mut Vec<u8>, channel: u16, method: u8, tag: u64, bits: u8) {
    let mut bytes = [
        METHOD,
        0,
        0,
        0,
        0,
        0,
        13,
        0,
        BASIC_CLASS as u8,
        0,
        method,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        bits,
        FRAME_END,
    ];
    bytes[1..3].copy_from_slice(&channel.to_be_bytes());
    bytes[11..19].copy_from_slice(&tag.to_be_bytes());
    out.extend_from_slice(&bytes);
}

/// A content: header, and the body cut into frames of at most `frame_max` bytes (0 = no limit). An empty body
/// has no body frame.
#[inline]
pub fn content(out: &mut Vec<u8>, channel: u16, properties: &[u8], body: &[u8], frame_max: u32) {
    header(out, channel, body.len() as u64, properties);
    let payload_max = match frame_max as usize {
        0 => usize::MAX,
        limit => limit.saturating_sub(FRAME_OVERHEAD).max(1),
    };
    for piece in body.chunks(payload_max) {
        frame(out, BODY, channel, |out| out.extend_from_slice(piece));
    }
}

/// How long the frame of a content header with these properties is. It cannot be cut, so whoever takes properties
/// from somebody compares it with `frame_max` first.
#[inline]
pub fn header_frame_len(properties: &[u8]) -> usize {
    FRAME_OVERHEAD + 12 + properties.len()
}

/// A content header of class `basic`.
#[inline]
pub fn header(out: &mut Vec<u8>, channel: u16, body_size: u64, properties: &[u8]) {
    frame(out, HEADER, channel, |out| {
        out.extend_from_slice(&[0, BASIC_CLASS as u8, 0, 0]);
        out.extend_from_slice(&body_size.to_be_bytes());
        out.extend_from_slice(properties);
    });
}

/// A heartbeat.
pub fn heartbeat(out: &mut Vec<u8>) {
    frame(out, HEARTBEAT, 0, |_| ());
}
