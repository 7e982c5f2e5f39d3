//! Where publishers wait: for their channel's window, then for the connection's write buffer.

use super::channel::{Channel, State, Status};
use super::confirms::Confirms;
use super::connection::Core;
use super::line::Step;
use super::request::Publish;
use crate::codec::encode;
use crate::error::Error;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// A publisher's way to room for one message. Kept until the message is written, or the attempt given up: its drop
/// lets the next ones in.
pub(crate) struct Room {
    channel: Rc<Channel>,
    /// About what the message takes in the write buffer.
    bytes: usize,
    window: Step,
    buffer: Step,
}

impl Room {
    pub(crate) fn new(channel: &Rc<Channel>, message: &Publish<'_>) -> Self {
        let header = encode::header_frame_len(message.properties.as_wire());
        Room {
            channel: Rc::clone(channel),
            bytes: message.body.len() + header + message.exchange.len() + message.routing_key.len(),
            window: Step::Outside,
            buffer: Step::Outside,
        }
    }

    /// Waits until the message may go out: the server is not blocking, flow is on, window and buffer have room.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Result<(), Error>> {
        let state = &mut *self.channel.state.borrow_mut();
        match &state.status {
            Status::Open => {}
            Status::Closing(_) => return Poll::Ready(Err(Error::ClosedByUs)),
            Status::Closed(error) => return Poll::Ready(Err(error.clone())),
        }
        let core = &self.channel.core;
        let window = window(state, core);
        if state.publishers.advance(&mut self.window, 1, window, waker)
            && core.advance_in_buffer(&mut self.buffer, self.bytes, waker)
        {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let state = &mut *self.channel.state.borrow_mut();
        state.publishers.leave(self.window, 1);
        let_in(state, &self.channel.core);
        self.channel.core.leave_buffer(self.buffer, self.bytes);
    }
}

impl Channel {
    /// Whether a message may go out without waiting; a closed channel has no room.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        let state = self.state.borrow();
        let (used, limit) = window(&state, &self.core);
        matches!(state.status, Status::Open)
            && state.publishers.has_room(used, limit)
            && self.core.has_write_room()
    }
}

/// Publishes that await their confirm, and how many may.
#[inline]
fn window(state: &State, core: &Core) -> (usize, usize) {
    match &state.confirms {
        _ if !state.flowing => (0, 0),
        None => (0, usize::MAX),
        Some(confirms) => (Confirms::pending(confirms), core.options().confirm_window),
    }
}

/// Something may have changed for those who wait for the channel's window.
#[inline]
pub(super) fn let_in(state: &mut State, core: &Core) {
    let (used, limit) = window(state, core);
    state.publishers.let_in(used, limit);
}
