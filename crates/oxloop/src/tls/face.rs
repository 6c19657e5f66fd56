//! The Rust face of [`TlsLayer`]: rustls, transports and protocols of this crate.

use super::connection::TlsConnection;
use super::engine::Decrypted;
use super::layer::{Failed, Progress, Pulled, Timer, TlsLayer};
use super::state::{Session, TlsState};
use super::wire::Fresh;
use crate::error::{Error, Misuse, Result};
use crate::protocol::cell::{AnyProtocol, Flow, NotReceived};
use crate::protocol::slot::Caller;
use crate::transport::Transport;
use parking_lot::{Mutex, RawMutex};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;

/// Plain text is decrypted into rooms of this size at least, bytes: a record's.
const ROOM: usize = 16 * 1024;

impl TlsConnection {
    /// Whom the application's callbacks are for.
    fn application(&self) -> Option<(Arc<dyn AnyProtocol>, Transport)> {
        self.protocol().zip(self.transport())
    }

    /// Decrypts all there is into a buffer of the loop's, and gives it to the protocol at once.
    fn pull_copied(
        &self,
        fresh: Fresh<'_>,
        protocol: &dyn AnyProtocol,
        transport: &Transport,
    ) -> Result<Pulled> {
        // Taken out while the protocol looks at it.
        let mut buffer = std::mem::take(&mut *self.core().plain_text.lock());
        let mut filled = 0;
        let end = loop {
            if buffer.len() < filled + ROOM {
                if let Err(error) = grow(&mut buffer, (2 * filled).max(2 * ROOM)) {
                    break Err(error);
                }
            }
            let (count, end) = self.wire.lock().fill(fresh, &mut buffer[filled..]);
            filled += count;
            match end {
                Ok(None) => {}
                Ok(Some(end)) => break Ok(end),
                Err(error) => break Err(error.into()),
            }
        };
        let received = match filled {
            0 => Ok(()),
            filled => protocol.data_received(transport, &buffer[..filled]),
        };
        *self.core().plain_text.lock() = buffer;
        received?;
        Ok(if end? == Decrypted::CloseNotify { Pulled::CloseNotify } else { Pulled::Again })
    }

    /// Decrypts into the protocol's own buffer. One that is full is filled again in a later turn, or
    /// at once where there will be none.
    fn pull_buffered(
        &self,
        fresh: Fresh<'_>,
        protocol: &dyn AnyProtocol,
        transport: &Transport,
    ) -> Result<Option<Pulled>> {
        let size = self.wire.lock().incoming(fresh);
        let mut end = Ok(None);
        let received = protocol.receive(transport, (size > 0).then_some(size), &mut |room| {
            let filled;
            (filled, end) = self.wire.lock().fill(fresh, room);
            // Nothing yet, or nothing any more: the protocol is not to hear of it as data.
            if filled > 0 { Ok(filled) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match received {
            Ok(_) => {}
            Err(NotReceived::EmptyBuffer) => return Err(Misuse::EmptyBuffer.into()),
            Err(NotReceived::GetBuffer(panic) | NotReceived::BufferUpdated(panic)) => {
                return Err(panic.into());
            }
        }
        match end? {
            // asyncio loses the rest.
            None if self.session() == Session::Flushing => Ok(None),
            None => {
                self.soon(|tls| tls.flow_on(|tls, fresh| tls.do_read(fresh)));
                Ok(Some(Pulled::Again))
            }
            Some(Decrypted::CloseNotify) => Ok(Some(Pulled::CloseNotify)),
            Some(_) => Ok(Some(Pulled::Again)),
        }
    }
}

impl TlsLayer for TlsConnection {
    type Lock = RawMutex;
    type Context<'a> = Fresh<'a>;
    type Error = Error;

    fn state(&self) -> &Mutex<TlsState> {
        &self.state
    }

    fn handshake(&self, fresh: Fresh<'_>) -> Result<Progress, Failed<Error>> {
        self.wire.lock().handshake(fresh).map_err(|error| Failed::Tls(error.into()))
    }

    fn unwrap(&self, fresh: Fresh<'_>) -> Result<Progress, Failed<Error>> {
        self.wire.lock().unwrap(fresh).map_err(|error| Failed::Tls(error.into()))
    }

    fn pull(&self, fresh: Fresh<'_>) -> Result<Pulled> {
        while let Some((protocol, transport)) = self.application() {
            if !protocol.is_buffered() {
                return self.pull_copied(fresh, &*protocol, &transport);
            }
            if let Some(pulled) = self.pull_buffered(fresh, &*protocol, &transport)? {
                return Ok(pulled);
            }
        }
        Ok(Pulled::Again)
    }

    fn push(&self, _: Fresh<'_>) -> Result<()> {
        Ok(self.wire.lock().push()?)
    }

    fn has_backlog(&self) -> bool {
        self.wire.lock().has_backlog()
    }

    fn incoming(&self, fresh: Fresh<'_>) -> Result<usize> {
        Ok(self.wire.lock().incoming(fresh))
    }

    fn outgoing(&self, _: Fresh<'_>) -> Result<usize> {
        Ok(self.write_buffer_size())
    }

    fn send(&self, _: Fresh<'_>) -> Result<()> {
        self.send_pending();
        Ok(())
    }

    fn established(&self, _: Fresh<'_>) -> Result<()> {
        Ok(())
    }

    fn pause_transport(&self, _: Fresh<'_>, pause: bool) -> Result<()> {
        if pause {
            self.below.pause_reading();
        } else {
            self.below.resume_reading();
        }
        Ok(())
    }

    fn close_transport_soon(&self, _: Fresh<'_>) -> Result<()> {
        self.soon(|tls| tls.below.close());
        Ok(())
    }

    fn force_close(&self, _: Fresh<'_>, error: Option<Error>) -> Result<()> {
        self.below.force_close(self.core().cx(), error);
        Ok(())
    }

    fn connection_made(&self, _: Fresh<'_>) -> Result<()> {
        let Some((protocol, transport)) = self.application() else { return Ok(()) };
        Ok(protocol.connection_made(&transport)?)
    }

    fn eof_received(&self, fresh: Fresh<'_>) -> Result<()> {
        let Some((protocol, transport)) = self.application() else { return Ok(()) };
        match protocol.eof_received(&transport) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let what = "returning true from eof_received() has no effect when using ssl";
                log::warn!(target: "oxloop", "{what}");
                Ok(())
            }
            Err(panic) => self.fatal_error(fresh, panic.into(), "Error calling eof_received()"),
        }
    }

    fn pause_writing(&self, _: Fresh<'_>, pause: bool) -> Result<()> {
        if let Some((protocol, transport)) = self.application() {
            protocol.flow(&transport, if pause { Flow::Pause } else { Flow::Resume });
        }
        Ok(())
    }

    fn wake_waiter(&self, _: Fresh<'_>, error: Option<&Error>) -> Result<()> {
        let waiter = self.held.lock().waiter.take();
        if let Some(waiter) = waiter {
            waiter.set_result(error.map_or(Ok(()), |error| Err(error.again())));
        }
        Ok(())
    }

    fn mark_closed(&self) {
        self.mark();
    }

    /// What the peer and the system do is no news for the exception handler.
    fn fatal_error(&self, _: Fresh<'_>, error: Error, message: &'static str) -> Result<()> {
        // The alert that tells the peer.
        self.send_pending();
        let told = error.again();
        self.below.force_close(self.core().cx(), Some(error));
        let Some(transport) = self.transport() else { return Ok(()) };
        match told {
            Error::Tls(_) | Error::Io(_) => {
                log::debug!(target: "oxloop", "{transport:?}: {message}: {told}");
            }
            told => transport.report(message, told),
        }
        Ok(())
    }

    fn handshake_failed(&self, fresh: Fresh<'_>, error: Error) -> Result<()> {
        let told = error.again();
        let message = match &error {
            Error::Tls(::rustls::Error::InvalidCertificate(_)) => {
                "SSL handshake failed on verifying the certificate"
            }
            _ => "SSL handshake failed",
        };
        self.fatal_error(fresh, error, message)?;
        self.wake_waiter(fresh, Some(&told))
    }

    fn reset_error(&self, _: Fresh<'_>) -> Error {
        io::Error::from(Errno::CONNRESET).into()
    }

    fn timeout_error(&self, _: Fresh<'_>, timer: Timer) -> Error {
        let error = match timer {
            Timer::Handshake => io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!(
                    "SSL handshake is taking longer than {} seconds: aborting the connection",
                    self.timeouts.handshake.as_secs_f64()
                ),
            ),
            Timer::Shutdown => io::Error::new(io::ErrorKind::TimedOut, "SSL shutdown timed out"),
        };
        error.into()
    }

    fn start_timer(&self, _: Fresh<'_>, timer: Timer) -> Result<()> {
        let timeout = match timer {
            Timer::Handshake => self.timeouts.handshake,
            Timer::Shutdown => self.timeouts.shutdown,
        };
        let started = self.later(timeout.as_secs_f64(), move |tls| {
            tls.flow_on(|tls, fresh| tls.expired(fresh, timer));
        });
        let old = self.held.lock().timer.replace(started);
        drop(old);
        Ok(())
    }

    fn cancel_timer(&self, _: Fresh<'_>, _: Timer) -> Result<()> {
        let timer = self.held.lock().timer.take();
        if let Some(timer) = timer {
            timer.cancel();
        }
        Ok(())
    }

    fn resume_soon(&self, _: Fresh<'_>) -> Result<()> {
        self.soon(|tls| tls.flow_on(|tls, fresh| tls.resumed(fresh)));
        Ok(())
    }
}

/// Makes a buffer so long.
fn grow(buffer: &mut Vec<u8>, len: usize) -> Result<()> {
    buffer.try_reserve_exact(len - buffer.len()).map_err(io::Error::from)?;
    buffer.resize(len, 0);
    Ok(())
}
