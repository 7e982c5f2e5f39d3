//! Frames and bytes, for both ends of a connection.
//!
//! The hot paths are coded by hand: framing, publish, deliver, get-ok, ack, nack, reject, and the content header.
//! Every other method, and every table, goes through the `amq-protocol` crate, after our own bounds have been
//! checked; tests hold the two byte for byte equal. Measured here, amq-protocol takes about 390 ns to parse a
//! small delivery and as much to write a publish; by hand it is about a tenth and a thirtieth of that.
//!
//! Reading: [`parse_frame`] on the start of a read buffer, then [`Assembler`] for contents, one per channel.
//! Writing: the functions in [`encode`] append to the [`WriteBuffer`] of the connection.
//!
//! Nothing here knows of sockets, clocks, channels' states or what a method means.

mod content;
pub mod encode;
mod frame;
mod properties;
mod scan;
mod wire;
mod write_buffer;

#[cfg(test)]
mod equality_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
pub(crate) use hostile_tests::hostile_round;

pub use content::{Assembler, Content, ContentError};
pub use frame::{
    Ack, Deliver, Frame, FrameError, GetOk, Greeting, Header, Method, Nack, Publish, Reject,
    parse_frame, parse_greeting, parse_method,
};
pub(crate) use frame::{FRAME_END, FRAME_HEAD, begun_body};
pub use properties::{Fields, RawProperties};
pub use scan::{MAX_TABLE_DEPTH, MAX_TABLE_VALUES};
pub(crate) use wire::put_short;
pub use write_buffer::WriteBuffer;

/// Whether `text` fits into a short string (255 bytes): names, routing keys, tags.
#[inline]
pub fn fits_short(text: &str) -> bool {
    text.len() <= 255
}
