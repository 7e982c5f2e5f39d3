//! A build without the feature `tls`: there are no sessions, and the attempt to make one says so.

use super::TlsOptions;
use crate::error::Error;
use std::io;

/// Never made.
pub(crate) enum TlsSession {}

impl TlsSession {
    pub(crate) fn new(_: &TlsOptions, _: &str) -> Result<Self, Error> {
        let text =
            "amqps:// is not built into this program: it needs the crate amqp's feature `tls`";
        Err(Error::Options(text.into()))
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub(crate) fn receive(&self, _: &[u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(crate) fn received_end(&self) {
        match *self {}
    }

    pub(crate) fn read(&self, _: &mut [u8]) -> io::Result<Option<usize>> {
        match *self {}
    }

    pub(crate) fn write(&self, _: &[u8], _: &mut Vec<u8>) -> io::Result<usize> {
        match *self {}
    }

    pub(crate) fn take_output(&self, _: &mut Vec<u8>) {
        match *self {}
    }

    pub(crate) fn close(&self, _: &mut Vec<u8>) {
        match *self {}
    }
}
