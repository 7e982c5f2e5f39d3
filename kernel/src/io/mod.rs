//! Byte streams: what all of them have in common, and what is built on that.
//!
//! A stream is anything that can *try* to move bytes, and can name the [`Trap`](crate::Trap) to
//! wait in when it could not: [`Read`] and [`Write`]. Sockets, pipes, descriptors and the
//! in-memory [`sim::Pipe`](crate::sim::Pipe) are streams, and so are references and `Rc`s of
//! them: every method takes `&self`, and one task may read while another writes.
//!
//! * [`BufReader`] reads lines and frames, and loses nothing when it is cancelled in between.
//! * [`BufWriter`] gathers small writes.
//! * [`copy`] moves all there is from one stream to another; [`split`] gives each half an owner.
//!
//! Not here: files. They are always "ready" and still block: use
//! [`run_in_thread`](crate::run_in_thread).

mod copy;
mod doing;
mod reader;
mod registered;
mod spare;
mod split;
mod stream;
mod writer;

pub use copy::copy;
pub(crate) use doing::Doing;
pub use reader::BufReader;
pub(crate) use registered::{Io, byte_stream_methods, byte_stream_traits, mode, readiness_methods};
pub use split::{ReadHalf, WriteHalf, split};
pub use stream::{Read, Write};
pub use writer::BufWriter;
