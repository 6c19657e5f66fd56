//! What happens when on a TLS connection: the flows of CPython's `asyncio/sslproto.py`.

use super::state::{Change, Direction, Session, TlsState};
use lock_api::Mutex;

/// How far a step came that may need more from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done.
    Done,
    /// It goes on when more has come in.
    Again,
}

/// How the reading of decrypted data ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// There is no more for now.
    Again,
    /// The peer has sent its closing alert (close_notify).
    CloseNotify,
}

/// Why a step of the TLS engine failed.
#[derive(Debug)]
pub enum Failed<E> {
    /// By the rules of TLS: the peer's fault, or a certificate's.
    Tls(E),
    /// Something else went wrong, in a callback of the engine's for example.
    Other(E),
}

/// What a time-out is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The handshake (`ssl_handshake_timeout`).
    Handshake,
    /// Flushing and shutdown (`ssl_shutdown_timeout`).
    Shutdown,
}

/// A TLS connection: an engine that encrypts, a transport below, an application above.
///
/// The face supplies the first group of methods and calls those of the second, which have the
/// rules. No lock is held while any of the first group runs but [`state`](Self::state)'s own.
pub trait TlsLayer {
    /// The lock around the state.
    type Lock: lock_api::RawMutex;
    /// What every call is handed.
    type Context<'a>: Copy;
    /// What can go wrong. Where one must leave the loop at once, it is passed on by all flows.
    type Error;

    /// The state of this connection.
    fn state(&self) -> &Mutex<Self::Lock, TlsState>;

    // The engine

    /// Takes the handshake as far as it goes.
    fn handshake(&self, cx: Self::Context<'_>) -> Result<Progress, Failed<Self::Error>>;

    /// Sends the closing alert and looks for the peer's.
    fn unwrap(&self, cx: Self::Context<'_>) -> Result<Progress, Failed<Self::Error>>;

    /// Decrypts what came in and hands it to the application.
    fn pull(&self, cx: Self::Context<'_>) -> Result<Pulled, Self::Error>;

    /// Encrypts what the application has written, as far as the engine takes it.
    fn push(&self, cx: Self::Context<'_>) -> Result<(), Self::Error>;

    /// Whether something that was written is not encrypted yet.
    fn has_backlog(&self) -> bool;

    /// Received ciphertext that is not decrypted yet, bytes.
    fn incoming(&self, cx: Self::Context<'_>) -> Result<usize, Self::Error>;

    /// What was written and has not gone to the transport, bytes; ciphertext where it is
    /// encrypted.
    fn outgoing(&self, cx: Self::Context<'_>) -> Result<usize, Self::Error>;

    /// Moves the engine's ciphertext to the transport.
    fn send(&self, cx: Self::Context<'_>) -> Result<(), Self::Error>;

    /// The handshake is done: what the session says of itself becomes known.
    fn established(&self, cx: Self::Context<'_>) -> Result<(), Self::Error>;

    // Below

    /// `pause_reading()` of the transport, or `resume_reading()`.
    fn pause_transport(&self, cx: Self::Context<'_>, pause: bool) -> Result<(), Self::Error>;

    /// `close()` of the transport, in a later turn.
    fn close_transport_soon(&self, cx: Self::Context<'_>) -> Result<(), Self::Error>;

    /// Closes the transport for an error, which is told by `connection_lost`.
    fn force_close(
        &self,
        cx: Self::Context<'_>,
        error: Option<Self::Error>,
    ) -> Result<(), Self::Error>;

    // Above

    /// `connection_made`.
    fn connection_made(&self, cx: Self::Context<'_>) -> Result<(), Self::Error>;

    /// `eof_received`, whose failure is a [`fatal_error`](Self::fatal_error).
    fn eof_received(&self, cx: Self::Context<'_>) -> Result<(), Self::Error>;

    /// `pause_writing` or `resume_writing`; what it raises is reported, and nothing ends.
    fn pause_writing(&self, cx: Self::Context<'_>, pause: bool) -> Result<(), Self::Error>;

    /// Wakes whoever waits for the connection.
    fn wake_waiter(
        &self,
        cx: Self::Context<'_>,
        error: Option<&Self::Error>,
    ) -> Result<(), Self::Error>;

    /// The application is told nothing more, and its transport is closed.
    fn mark_closed(&self);

    /// Closes the connection for an error, and reports it where that is due. Errors that have to
    /// leave the loop are given back.
    fn fatal_error(
        &self,
        cx: Self::Context<'_>,
        error: Self::Error,
        message: &'static str,
    ) -> Result<(), Self::Error>;

    /// The handshake failed: [`fatal_error`](Self::fatal_error), then the waiter hears of it.
    fn handshake_failed(
        &self,
        cx: Self::Context<'_>,
        error: Self::Error,
    ) -> Result<(), Self::Error>;

    /// What a peer's end in the middle of the handshake is (ConnectionResetError).
    fn reset_error(&self, cx: Self::Context<'_>) -> Self::Error;

    /// What an expired timer is.
    fn timeout_error(&self, cx: Self::Context<'_>, timer: Timer) -> Self::Error;

    // Around

    /// Starts a timer; [`expired`](Self::expired) is called when it is due.
    fn start_timer(&self, cx: Self::Context<'_>, timer: Timer) -> Result<(), Self::Error>;

    /// Stops it, if it runs.
    fn cancel_timer(&self, cx: Self::Context<'_>, timer: Timer) -> Result<(), Self::Error>;

    /// [`resumed`](Self::resumed) is to be called in a later turn.
    fn resume_soon(&self, cx: Self::Context<'_>) -> Result<(), Self::Error>;

    // The flows

    /// The transport is there: the handshake begins.
    fn start_handshake(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        if !self.state().lock().start_handshake() {
            return Ok(());
        }
        self.start_timer(cx, Timer::Handshake)?;
        self.do_handshake(cx)
    }

    /// Ciphertext has come in, and the engine has it.
    fn fed(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        match self.session() {
            Session::DoHandshake => self.do_handshake(cx),
            Session::Wrapped => self.do_read(cx),
            Session::Flushing => self.do_flush(cx),
            Session::Shutdown => self.do_shutdown(cx),
            Session::Unwrapped => Ok(()),
        }
    }

    /// Where the session is.
    fn session(&self) -> Session {
        self.state().lock().session()
    }

    /// One step of the handshake.
    fn do_handshake(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        match self.handshake(cx) {
            Ok(Progress::Again) => self.process_outgoing(cx),
            Ok(Progress::Done) => self.handshake_complete(cx),
            Err(Failed::Tls(error)) => self.handshake_over(cx, error),
            Err(Failed::Other(error)) => Err(error),
        }
    }

    /// The handshake has failed.
    fn handshake_over(&self, cx: Self::Context<'_>, error: Self::Error) -> Result<(), Self::Error> {
        self.cancel_timer(cx, Timer::Handshake)?;
        self.state().lock().unwrap();
        self.handshake_failed(cx, error)
    }

    /// The handshake has succeeded.
    fn handshake_complete(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        self.cancel_timer(cx, Timer::Handshake)?;
        if !self.state().lock().finish_handshake() {
            return Ok(());
        }
        if let Err(error) = self.established(cx) {
            self.state().lock().unwrap();
            return self.handshake_failed(cx, error);
        }
        let made = self.state().lock().make();
        if made {
            self.connection_made(cx)?;
        }
        self.wake_waiter(cx, None)?;
        self.do_read(cx)
    }

    /// Gives the application what has come in, then sends what that made it write.
    fn do_read(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        if !self.state().lock().may_read() {
            return Ok(());
        }
        match self.read_and_answer(cx) {
            Ok(()) => Ok(()),
            Err(error) => self.fatal_error(cx, error, FATAL),
        }
    }

    /// The body of [`do_read`](Self::do_read).
    fn read_and_answer(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        let reading = self.state().lock().is_reading();
        if reading && self.pull(cx)? == Pulled::CloseNotify {
            self.call_eof_received(cx)?;
            self.start_shutdown(cx)?;
        }
        if self.has_backlog() {
            self.do_write(cx)?;
        } else if reading {
            self.process_outgoing(cx)?;
        } else if self.state().lock().may_send() {
            // The end of the handshake may be among it (asyncio keeps it back).
            self.send(cx)?;
        }
        self.control_reading(cx)
    }

    /// Something was written: encrypts and sends it, if the session is there.
    fn written(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        if self.session() != Session::Wrapped {
            return Ok(());
        }
        match self.do_write(cx) {
            Ok(()) => Ok(()),
            Err(error) => self.fatal_error(cx, error, FATAL),
        }
    }

    /// Encrypts what was written, and sends it.
    fn do_write(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        self.push(cx)?;
        self.process_outgoing(cx)
    }

    /// Sends ciphertext, as long as the transport takes it.
    fn process_outgoing(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        if self.state().lock().may_send() {
            self.send(cx)?;
        }
        self.control_writing(cx)
    }

    /// Pauses or resumes the application's writing.
    fn control_writing(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        let size = self.outgoing(cx)?;
        let change = self.state().lock().control(Direction::Outgoing, size);
        match change {
            Change::None => Ok(()),
            change => self.pause_writing(cx, change == Change::Pause),
        }
    }

    /// Pauses or resumes the transport's reading.
    fn control_reading(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        let size = self.incoming(cx)?;
        let change = self.state().lock().control(Direction::Incoming, size);
        match change {
            Change::None => Ok(()),
            change => self.pause_transport(cx, change == Change::Pause),
        }
    }

    /// `close()` of the application, or the peer's closing alert.
    fn start_shutdown(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        match self.session() {
            Session::Flushing | Session::Shutdown | Session::Unwrapped => return Ok(()),
            Session::DoHandshake => {
                self.mark_closed();
                return self.abort(cx, None);
            }
            Session::Wrapped => {}
        }
        self.mark_closed();
        let _ = self.state().lock().start_flushing();
        self.start_timer(cx, Timer::Shutdown)?;
        self.do_flush(cx)
    }

    /// The last data goes both ways, then the session ends.
    fn do_flush(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        self.do_read(cx)?;
        // The application may have aborted the connection in the meantime.
        if !self.state().lock().start_shutdown() {
            return Ok(());
        }
        self.do_shutdown(cx)
    }

    /// One step of the exchange of closing alerts.
    fn do_shutdown(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        let ended = self.state().lock().has_peer_ended();
        let unwrapped = if ended { Ok(Progress::Done) } else { self.unwrap(cx) };
        match unwrapped {
            Ok(Progress::Again) => self.process_outgoing(cx),
            Ok(Progress::Done) => {
                self.process_outgoing(cx)?;
                self.call_eof_received(cx)?;
                self.cancel_timer(cx, Timer::Shutdown)?;
                // What a slow transport has not asked for yet: nothing comes after it.
                self.send(cx)?;
                self.close_transport_soon(cx)
            }
            Err(Failed::Tls(error)) => {
                self.cancel_timer(cx, Timer::Shutdown)?;
                self.fatal_error(cx, error, "Fatal error on transport")
            }
            Err(Failed::Other(error)) => Err(error),
        }
    }

    /// `eof_received`, once.
    fn call_eof_received(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        let first = self.state().lock().end();
        if first { self.eof_received(cx) } else { Ok(()) }
    }

    /// `abort()`, or an error.
    fn abort(&self, cx: Self::Context<'_>, error: Option<Self::Error>) -> Result<(), Self::Error> {
        self.state().lock().unwrap();
        self.force_close(cx, error)
    }

    /// The stream below has ended: true keeps the transport open for what is not read yet.
    fn transport_ended(&self, cx: Self::Context<'_>) -> Result<bool, Self::Error> {
        let (session, reading) = {
            let mut state = self.state().lock();
            state.end_of_peer();
            (state.session(), state.is_reading())
        };
        match session {
            Session::DoHandshake => {
                let error = self.reset_error(cx);
                self.handshake_over(cx, error)?;
            }
            Session::Wrapped => {
                let _ = self.state().lock().start_flushing();
                if !reading {
                    return Ok(true);
                }
                self.do_flush(cx)?;
            }
            Session::Flushing => {
                self.do_write(cx)?;
                if self.state().lock().start_shutdown() {
                    self.do_shutdown(cx)?;
                }
            }
            Session::Shutdown => self.do_shutdown(cx)?,
            Session::Unwrapped => {}
        }
        Ok(false)
    }

    /// The transport is lost. True where the application is to hear `connection_lost`; the waiter
    /// and the timers are the caller's next.
    fn transport_lost(&self) -> bool {
        self.mark_closed();
        self.state().lock().lose()
    }

    /// `pause_reading()` of the application.
    fn pause_reading(&self) {
        self.state().lock().pause_reading();
    }

    /// `resume_reading()` of the application.
    fn resume_reading(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        let change = self.state().lock().resume_reading();
        if change { self.resume_soon(cx) } else { Ok(()) }
    }

    /// The turn after [`resume_reading`](Self::resume_reading).
    fn resumed(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        match self.session() {
            Session::Wrapped => self.do_read(cx),
            Session::Flushing => self.do_flush(cx),
            Session::Shutdown => self.do_shutdown(cx),
            Session::Unwrapped | Session::DoHandshake => Ok(()),
        }
    }

    /// The transport has called `pause_writing`.
    fn transport_paused(&self) {
        self.state().lock().pause_sending();
    }

    /// The transport has called `resume_writing`.
    fn transport_resumed(&self, cx: Self::Context<'_>) -> Result<(), Self::Error> {
        self.state().lock().resume_sending();
        self.process_outgoing(cx)
    }

    /// A timer has expired.
    fn expired(&self, cx: Self::Context<'_>, timer: Timer) -> Result<(), Self::Error> {
        match (timer, self.session()) {
            (Timer::Handshake, Session::DoHandshake) => {
                let error = self.timeout_error(cx, timer);
                self.fatal_error(cx, error, "Fatal error on transport")
            }
            (Timer::Shutdown, Session::Flushing | Session::Shutdown) => {
                let error = self.timeout_error(cx, timer);
                self.force_close(cx, Some(error))
            }
            _ => Ok(()),
        }
    }
}

/// asyncio's words for an error while data is read or written.
pub(crate) const FATAL: &str = "Fatal error on SSL protocol";
