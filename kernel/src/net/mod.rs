//! Sockets: TCP and Unix. (Name resolution is `std`'s and blocks: use `run_in_thread`.)

mod tcp;
mod unix;

pub use tcp::{TcpListener, TcpStream};
pub use unix::{UnixListener, UnixStream};
