//! One connected client: bytes in, frames to the right place, Close where something is wrong.

use super::arena::Key;
use super::call::Call;
use super::channel::Channel;
use super::fault::Fault;
use super::handshake::{self, Step};
use super::world::World;
use crate::codec::{Frame, Greeting, Method, WriteBuffer, encode, parse_frame, parse_greeting};
use crate::protocol::{AMQPClass, FRAME_MIN_SIZE, PROTOCOL_HEADER, channel, connection, reply};
use std::time::Duration;

/// Where a connection stands. Each phase knows which methods it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The eight bytes of the protocol header are due.
    Greeting,
    /// One of the handshake's answers is due.
    Handshake(Step),
    /// Open for channels.
    Running,
    /// We have sent Close and wait for Close-Ok; everything else is dropped.
    Closing,
    /// Nothing is read any more; what stands in the buffer is still written.
    Closed,
}

/// What both ends agreed on, and who the peer is.
pub(crate) struct Terms {
    pub(crate) is_loopback: bool,
    pub(crate) user: String,
    pub(crate) frame_max: u32,
    pub(crate) channel_max: u16,
    pub(crate) heartbeat: Duration,
    /// The client understands `basic.cancel` from us.
    pub(crate) knows_cancel: bool,
    /// The client understands `connection.blocked`.
    pub(crate) knows_blocked: bool,
    /// What the client publishes are results: jobs are acked once they are taken, so it is held back last.
    pub(crate) brings_results: bool,
    /// The client wants a Close when its login is refused, not only the end of the connection.
    pub(crate) knows_login_close: bool,
}

/// A channel number's state.
enum Slot {
    Free,
    Open(Box<Channel>),
    /// We have sent Close; until Close-Ok everything else on it is dropped (AMQP 0-9-1 §1.5.2.5).
    Closing,
}

/// One connection as the broker holds it.
pub(crate) struct Peer {
    /// Its own name; set when it is taken in.
    pub(crate) key: Key<Peer>,
    /// What the log calls it: its address.
    name: String,
    pub(crate) out: WriteBuffer,
    pub(crate) phase: Phase,
    pub(crate) terms: Terms,
    /// Indexed by channel number; number 0 is the connection itself and never open.
    slots: Vec<Slot>,
    /// It has published, so it can be held back when memory is short.
    pub(crate) publishes: bool,
    /// It was told `connection.blocked`.
    pub(crate) was_told_blocked: bool,
    /// A consumer of it had to stop because too much waits to be written.
    pub(crate) has_stalled_consumers: bool,
    /// It stands in the list of peers with something to write.
    pub(crate) is_touched: bool,
}

/// Reading stops when so many bytes wait to be written beyond the bound on deliveries: the peer asks and does not
/// take the answers.
const UNREAD_ANSWERS_MAX: usize = 4 * 1024 * 1024;

impl Peer {
    pub(crate) fn new(is_loopback: bool, name: String, world: &World) -> Self {
        Peer {
            key: Key::from_bits(u64::MAX),
            name,
            out: WriteBuffer::new(),
            phase: Phase::Greeting,
            terms: Terms {
                is_loopback,
                user: String::new(),
                frame_max: world.config.frame_max.max(FRAME_MIN_SIZE),
                channel_max: world.config.channel_max.max(1),
                heartbeat: Duration::ZERO,
                knows_cancel: false,
                knows_blocked: false,
                brings_results: false,
                knows_login_close: false,
            },
            slots: Vec::new(),
            publishes: false,
            was_told_blocked: false,
            has_stalled_consumers: false,
            is_touched: false,
        }
    }

    /// Whether more of its bytes may be looked at.
    pub(crate) fn takes_input(&self, world: &World) -> bool {
        self.out.len() < world.config.write_buffer_max + UNREAD_ANSWERS_MAX
    }

    /// Handles the whole frames at the start of `input` and says how many bytes they took.
    pub(crate) fn receive(&mut self, input: &[u8], world: &mut World) -> usize {
        if self.phase == Phase::Closed {
            return input.len();
        }
        let mut at = 0;
        while at < input.len() && self.takes_input(world) {
            match self.step(&input[at..], world) {
                Ok(0) => break,
                Ok(len) => at += len,
                Err(fault) => self.close_with(fault, world),
            }
            if self.phase == Phase::Closed {
                return input.len();
            }
        }
        at
    }

    /// Handles one frame, or the protocol header.
    #[inline]
    fn step(&mut self, input: &[u8], world: &mut World) -> Result<usize, Fault> {
        if self.phase == Phase::Greeting {
            return Ok(self.greet(input));
        }
        let (frame, len) = match parse_frame(input, self.terms.frame_max) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        match self.phase {
            Phase::Running => self.frame(frame, world)?,
            Phase::Closing => self.closing(frame),
            Phase::Handshake(step) => match frame {
                Frame::Method(0, Method::Other(method)) => {
                    handshake::answer(self, step, *method, world)?;
                }
                Frame::Heartbeat => {}
                _ => return Err(Fault::command_invalid("the handshake is not over")),
            },
            Phase::Greeting | Phase::Closed => unreachable!("handled before a frame is parsed"),
        }
        Ok(len)
    }

    fn greet(&mut self, input: &[u8]) -> usize {
        match parse_greeting(input) {
            Greeting::Incomplete => 0,
            Greeting::Amqp091 => {
                handshake::start(self);
                PROTOCOL_HEADER.len()
            }
            Greeting::Other => {
                // §4.2.2: say which protocol we speak, and close.
                self.out.out().extend_from_slice(&PROTOCOL_HEADER);
                self.phase = Phase::Closed;
                input.len()
            }
        }
    }

    /// A frame after our Close: only its end matters.
    fn closing(&mut self, frame: Frame<'_>) {
        if let Frame::Method(0, Method::Other(method)) = frame {
            match *method {
                AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)) => {
                    self.phase = Phase::Closed;
                }
                // Both closed at the same time.
                AMQPClass::Connection(connection::AMQPMethod::Close(_)) => {
                    let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
                    let out = self.out.out_after_seal();
                    encode::method(out, 0, &AMQPClass::Connection(ok));
                }
                _ => {}
            }
        }
    }

    #[inline]
    fn frame(&mut self, frame: Frame<'_>, world: &mut World) -> Result<(), Fault> {
        let number = match &frame {
            Frame::Heartbeat => return Ok(()),
            Frame::Method(0, method) => return self.connection_method(method, world),
            Frame::Header(0, _) | Frame::Body(0, _) => {
                return Err(Fault::unexpected_frame("content on channel 0"));
            }
            Frame::Method(number, _) | Frame::Header(number, _) | Frame::Body(number, _) => *number,
        };
        match self.slots.get_mut(usize::from(number)) {
            Some(Slot::Open(channel)) => {
                let mut call = Call {
                    peer: self.key,
                    number,
                    channel,
                    out: &mut self.out,
                    terms: &self.terms,
                    publishes: &mut self.publishes,
                    world,
                };
                match call.frame(frame) {
                    Ok(false) => Ok(()),
                    Ok(true) => {
                        self.free(number, world);
                        let ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
                        self.say(number, AMQPClass::Channel(ok));
                        Ok(())
                    }
                    Err(fault) if fault.is_channel_scope() => {
                        self.close_channel(number, fault, world);
                        Ok(())
                    }
                    Err(fault) => Err(fault),
                }
            }
            Some(Slot::Closing) => {
                self.closing_channel(number, frame);
                Ok(())
            }
            Some(Slot::Free) | None => self.open_channel(number, frame),
        }
    }

    /// Writes a method.
    pub(crate) fn say(&mut self, number: u16, method: AMQPClass) {
        encode::method(self.out.out(), number, &method);
    }

    fn connection_method(&mut self, method: &Method<'_>, world: &mut World) -> Result<(), Fault> {
        let method = match method {
            Method::Other(class) => match &**class {
                AMQPClass::Connection(method) => method,
                _ => {
                    return Err(Fault::command_invalid(
                        "only connection methods on channel 0",
                    ));
                }
            },
            _ => {
                return Err(Fault::command_invalid(
                    "only connection methods on channel 0",
                ));
            }
        };
        match method {
            connection::AMQPMethod::Close(close) => {
                log::debug!("{} closes its connection: {}", self.name, close.reply_text);
                self.end(world);
                let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
                self.say(0, AMQPClass::Connection(ok));
                self.phase = Phase::Closed;
                Ok(())
            }
            connection::AMQPMethod::UpdateSecret(_) => {
                Err(Fault::not_implemented("connection.update-secret"))
            }
            _ => Err(Fault::command_invalid(
                "this connection method is not valid once the connection is open",
            )),
        }
    }

    fn open_channel(&mut self, number: u16, frame: Frame<'_>) -> Result<(), Fault> {
        let is_open = matches!(&frame, Frame::Method(_, Method::Other(class))
            if matches!(**class, AMQPClass::Channel(channel::AMQPMethod::Open(_))));
        if !is_open {
            let text = format!("channel {number} is not open: expected channel.open");
            return Err(Fault::new(reply::CHANNEL_ERROR, text));
        }
        if number > self.terms.channel_max {
            let max = self.terms.channel_max;
            let text = format!("channel {number} is over the negotiated channel_max of {max}");
            return Err(Fault::not_allowed(text));
        }
        let index = usize::from(number);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || Slot::Free);
        }
        self.slots[index] = Slot::Open(Box::default());
        let ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
        self.say(number, AMQPClass::Channel(ok));
        Ok(())
    }

    /// A frame on a channel that we have closed.
    fn closing_channel(&mut self, number: u16, frame: Frame<'_>) {
        if let Frame::Method(_, Method::Other(method)) = frame {
            match *method {
                AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => {
                    self.slots[usize::from(number)] = Slot::Free;
                }
                AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                    let ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
                    self.say(number, AMQPClass::Channel(ok));
                }
                _ => {}
            }
        }
    }

    fn free(&mut self, number: u16, world: &mut World) {
        let slot = &mut self.slots[usize::from(number)];
        if let Slot::Open(channel) = std::mem::replace(slot, Slot::Free) {
            channel.close(world);
        }
    }

    /// Closes a channel because of a fault.
    pub(crate) fn close_channel(&mut self, number: u16, fault: Fault, world: &mut World) {
        let (name, text) = (&self.name, fault.reply_text());
        log::info!("closing channel {number} of {name}: {text}");
        self.free(number, world);
        self.slots[usize::from(number)] = Slot::Closing;
        let close = channel::Close {
            reply_code: fault.code,
            reply_text: fault.reply_text().into(),
            class_id: fault.method.0,
            method_id: fault.method.1,
        };
        self.say(
            number,
            AMQPClass::Channel(channel::AMQPMethod::Close(close)),
        );
    }

    /// Closes the connection because of a fault: says so, lets go of everything, and waits for Close-Ok.
    pub(crate) fn close_with(&mut self, fault: Fault, world: &mut World) {
        if matches!(self.phase, Phase::Closing | Phase::Closed) {
            // Out of step after our Close: there is nothing left to say.
            self.phase = Phase::Closed;
            return;
        }
        log::warn!(
            "closing the connection of {}: {}",
            self.name,
            fault.reply_text()
        );
        self.end(world);
        if self.phase == Phase::Greeting {
            self.phase = Phase::Closed;
            return;
        }
        let close = connection::Close {
            reply_code: fault.code,
            reply_text: fault.reply_text().into(),
            class_id: fault.method.0,
            method_id: fault.method.1,
        };
        self.say(
            0,
            AMQPClass::Connection(connection::AMQPMethod::Close(close)),
        );
        self.out.seal();
        self.phase = Phase::Closing;
    }

    /// Lets go of everything: unsettled messages go back, consumers end, exclusive queues are deleted.
    pub(crate) fn end(&mut self, world: &mut World) {
        for slot in std::mem::take(&mut self.slots) {
            if let Slot::Open(channel) = slot {
                channel.close(world);
            }
        }
        world.delete_queues_of(self.key);
    }

    #[inline]
    pub(crate) fn channel_mut(&mut self, number: u16) -> Option<&mut Channel> {
        match self.slots.get_mut(usize::from(number)) {
            Some(Slot::Open(channel)) => Some(channel),
            _ => None,
        }
    }

    /// The buffer and a channel, both at once.
    #[inline]
    pub(crate) fn out_and_channel(&mut self, number: u16) -> (&mut Vec<u8>, Option<&mut Channel>) {
        let channel = match self.slots.get_mut(usize::from(number)) {
            Some(Slot::Open(channel)) => Some(&mut **channel),
            _ => None,
        };
        (self.out.out(), channel)
    }

    pub(crate) fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Open(channel) => Some(&**channel),
            _ => None,
        })
    }
}
