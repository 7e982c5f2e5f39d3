//! A kept process, Rust or Python, as the main process sees it: its frames and its output.

use super::frame::Decoder;
use super::message::Reply;
use super::output::Output;
use super::roster::Kind;
use kernel::{AsyncFd, JoinHandle};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// The two streams of a child that go to the log.
pub(super) struct Outputs {
    streams: Vec<Rc<Output>>,
    /// By the time they are dropped the writers are dead, and the pumps at their end; unless the
    /// supervisor was killed and something that had left the group still writes.
    _pumps: Vec<Attached>,
}

/// A kernel task that ends with whoever holds this.
pub(super) struct Attached(pub JoinHandle<()>);

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.0.cancel());
    }
}

impl Outputs {
    pub fn new(pipes: Vec<(PipeReader, &'static str)>, source: &str) -> io::Result<Outputs> {
        let mut streams = Vec::new();
        for (pipe, name) in pipes {
            streams.push(Output::new(pipe, name, source)?);
        }
        let pump = |stream: &Rc<Output>| {
            Attached(kernel::spawn(stream.clone().pump()).name("pool output"))
        };
        let pumps = streams.iter().map(pump).collect();
        Ok(Outputs {
            streams,
            _pumps: pumps,
        })
    }

    /// Names whose lines are to come.
    pub fn set_source(&self, source: &str) {
        self.streams
            .iter()
            .for_each(|stream| stream.set_source(source));
    }

    /// Logs what is there.
    pub fn drain(&self) {
        self.streams.iter().for_each(|stream| stream.drain());
    }

    /// The last lines of standard error.
    pub fn tail(&self) -> String {
        self.streams.last().map_or(String::new(), |s| s.tail())
    }
}

/// A process that answers frames.
pub(super) struct Child {
    pub kind: Kind,
    pub outputs: Outputs,
    /// Python modules that are imported.
    pub loaded: Vec<String>,
    frames: Rc<AsyncFd<UnixStream>>,
    decoder: Decoder,
    buffer: Vec<u8>,
}

/// The ends of a child that is about to be started: ours, and its standard three.
pub(super) struct Ends {
    pub frames: Rc<AsyncFd<UnixStream>>,
    pub outputs: Outputs,
    pub stdio: [OwnedFd; 3],
}

impl Ends {
    /// Standard input is the channel for frames, which the worker moves away at once; so all
    /// other descriptors stay closed to it, and standard output stays free.
    pub fn new(source: &str) -> io::Result<Ends> {
        let (ours, theirs) = UnixStream::pair()?;
        let (stdout, stdout_end) = io::pipe()?;
        let (stderr, stderr_end) = io::pipe()?;
        Ok(Ends {
            frames: Rc::new(AsyncFd::new(ours)?),
            outputs: Outputs::new(vec![(stdout, "stdout"), (stderr, "stderr")], source)?,
            stdio: [theirs.into(), owned(stdout_end), owned(stderr_end)],
        })
    }
}

pub(super) fn owned(pipe: PipeWriter) -> OwnedFd {
    pipe.into()
}

impl Child {
    pub fn new(
        kind: Kind,
        frames: Rc<AsyncFd<UnixStream>>,
        outputs: Outputs,
        frame_max: usize,
    ) -> Child {
        Child {
            kind,
            outputs,
            loaded: Vec::new(),
            frames,
            decoder: Decoder::new(frame_max),
            buffer: vec![0; 16 * 1024],
        }
    }

    /// Sends a frame, if there is one to send, and waits for the answer; `None` when the channel
    /// has ended.
    ///
    /// # Errors
    /// `InvalidData` for an answer that is none; else the kernel's cancellation or timeout.
    pub async fn exchange(&mut self, frame: Option<&[u8]>) -> io::Result<Option<Reply>> {
        if let Some(frame) = frame {
            match self.frames.write_all(frame).await {
                Err(error) if kernel::Error::in_io(&error).is_some() => return Err(error),
                // Nobody reads any more; but an answer may have been sent before.
                Ok(()) | Err(_) => {}
            }
        }
        loop {
            if let Some(payload) = self.decoder.next()? {
                let reply = serde_json::from_slice(&payload);
                return reply
                    .map(Some)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            }
            match self.frames.read(&mut self.buffer).await {
                Ok(0) => return Ok(None),
                Ok(read) => self.decoder.push(&self.buffer[..read]),
                Err(error) if kernel::Error::in_io(&error).is_some() => return Err(error),
                Err(_) => return Ok(None),
            }
        }
    }

    /// Closes our end for writing: the worker then ends by itself.
    pub fn dismiss(&self) {
        let _ = rustix::net::shutdown(self.frames.get_ref(), rustix::net::Shutdown::Write);
    }
}
