//! Files over TLS: read, encrypted and sent in pieces (asyncio's fallback for sendfile).

use super::connection::TlsConnection;
use super::layer::TlsLayer;
use crate::error::{Misuse, Result};
use crate::event_loop::{Promise, promise};
use crate::transport::Payload;
use rustix::io::Errno;
use std::io;
use std::sync::Arc;

/// Whether a file is being sent.
pub(super) enum SendFile {
    None,
    /// It is, and may write on.
    Writing,
    /// It waits until the transport below takes more.
    Waiting(Promise<Result<(), Errno>>),
}

/// A file on its way: dropped, the transport reads and writes again.
pub(crate) struct SendingFile {
    tls: Arc<TlsConnection>,
    was_reading: bool,
}

impl TlsConnection {
    /// Keeps the application from reading and writing.
    pub(crate) async fn begin_sendfile(self: &Arc<TlsConnection>) -> Result<SendingFile> {
        let (begun, waiter) = promise();
        let tls = self.clone();
        self.core().act(move |_| _ = begun.set_result(tls.hold()));
        waiter.await.map_err(|_| Misuse::LoopClosed)?
    }

    fn hold(self: &Arc<TlsConnection>) -> Result<SendingFile> {
        if self.is_closed() || self.below.is_closing() {
            return Err(Misuse::TransportClosing.into());
        }
        {
            let mut held = self.held.lock();
            if !matches!(held.file, SendFile::None) {
                return Err(Misuse::SendfileInProgress.into());
            }
            held.file = SendFile::Writing;
        }
        let was_reading = self.is_reading();
        self.pause_reading();
        Ok(SendingFile { tls: self.clone(), was_reading })
    }

    pub(super) fn is_sending_file(&self) -> bool {
        !matches!(self.held.lock().file, SendFile::None)
    }

    /// Wakes a sendfile that waits.
    pub(super) fn settle_sendfile(&self, result: Result<(), Errno>) {
        let waiting = {
            let mut held = self.held.lock();
            match &held.file {
                SendFile::Waiting(_) => std::mem::replace(&mut held.file, SendFile::Writing),
                SendFile::None | SendFile::Writing => return,
            }
        };
        if let SendFile::Waiting(promise) = waiting {
            promise.set_result(result);
        }
    }

    /// On the loop's thread: gives the promise when more may be written.
    fn when_writable(&self, promise: Promise<Result<(), Errno>>) {
        if self.is_closed() {
            promise.set_result(Err(Errno::CONNABORTED));
        } else if self.state().lock().may_send() {
            promise.set_result(Ok(()));
        } else {
            let old = std::mem::replace(&mut self.held.lock().file, SendFile::Waiting(promise));
            drop(old);
        }
    }
}

impl SendingFile {
    /// Sends a piece when what was sent before has left.
    pub(crate) async fn send(&self, piece: Vec<u8>) -> Result<()> {
        let (promise, waiter) = promise();
        let tls = self.tls.clone();
        self.tls.core().act(move |_| tls.when_writable(promise));
        waiter.await.map_err(|_| Misuse::LoopClosed)?.map_err(io::Error::from)?;
        let tls = self.tls.clone();
        self.tls.core().act(move |_| tls.write_through(&[Payload::from(piece)]));
        Ok(())
    }
}

impl Drop for SendingFile {
    fn drop(&mut self) {
        let (tls, was_reading) = (self.tls.clone(), self.was_reading);
        self.tls.core().act(move |_| {
            let old = std::mem::replace(&mut tls.held.lock().file, SendFile::None);
            drop(old);
            if was_reading {
                tls.resume();
            }
        });
    }
}
