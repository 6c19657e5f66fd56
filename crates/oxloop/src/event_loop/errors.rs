//! The exception handler (asyncio: *Error Handling API*).

use super::EventLoop;
use super::handle::Handle;
use super::owned::Owned;
use crate::address::Address;
use crate::error::Error;
use crate::transport::{DatagramTransport, SubprocessTransport, Transport};
use std::fmt;
use std::sync::Arc;

/// Who is told of errors that have no caller.
pub(super) type ExceptionHandler = dyn Fn(&EventLoop, &ExceptionContext) + Send + Sync;

/// What went wrong where no caller could be told: the `context` of asyncio's exception handlers.
///
/// Panics of callbacks and of protocols come here, the misuse of a transport (a write after
/// `write_eof`), and what the system says to a server. `Display` is the text that the default
/// handler logs.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExceptionContext {
    /// What happened, in words.
    pub message: String,
    /// The error, where there is one.
    pub error: Option<Error>,
    /// The callback in which it happened.
    pub handle: Option<Handle>,
    /// The type of the protocol in which it happened.
    pub protocol: Option<&'static str>,
    /// The connection it concerns.
    pub transport: Option<Transport>,
    /// The datagram endpoint it concerns.
    pub endpoint: Option<DatagramTransport>,
    /// The child process it concerns.
    pub subprocess: Option<SubprocessTransport>,
    /// The name of the listening socket it concerns.
    pub socket: Option<Address>,
}

impl ExceptionContext {
    /// A context that says only so much.
    pub fn new(message: impl Into<String>) -> ExceptionContext {
        ExceptionContext {
            message: message.into(),
            error: None,
            handle: None,
            protocol: None,
            transport: None,
            endpoint: None,
            subprocess: None,
            socket: None,
        }
    }

    /// Adds the error.
    #[must_use]
    pub fn error(self, error: impl Into<Error>) -> ExceptionContext {
        ExceptionContext { error: Some(error.into()), ..self }
    }

    pub(super) fn handle(self, handle: Handle) -> ExceptionContext {
        ExceptionContext { handle: Some(handle), ..self }
    }

    pub(crate) fn protocol(self, protocol: Option<&'static str>) -> ExceptionContext {
        ExceptionContext { protocol, ..self }
    }

    pub(crate) fn transport(self, transport: &Transport) -> ExceptionContext {
        ExceptionContext { transport: Some(transport.clone()), ..self }
    }

    pub(crate) fn endpoint(self, endpoint: &DatagramTransport) -> ExceptionContext {
        ExceptionContext { endpoint: Some(endpoint.clone()), ..self }
    }

    pub(crate) fn subprocess(self, subprocess: &SubprocessTransport) -> ExceptionContext {
        ExceptionContext { subprocess: Some(subprocess.clone()), ..self }
    }

    pub(crate) fn socket(self, socket: Option<Address>) -> ExceptionContext {
        ExceptionContext { socket, ..self }
    }

    /// What the default handler does.
    pub(super) fn log(&self) {
        log::error!(target: "oxloop", "{self}");
    }
}

impl fmt::Display for ExceptionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(error) = &self.error {
            write!(f, ": {error}")?;
        }
        if let Some(handle) = &self.handle {
            write!(f, "\nhandle: {handle:?}")?;
        }
        if let Some(protocol) = &self.protocol {
            write!(f, "\nprotocol: {protocol}")?;
        }
        if let Some(transport) = &self.transport {
            write!(f, "\ntransport: {transport:?}")?;
        }
        if let Some(endpoint) = &self.endpoint {
            write!(f, "\ntransport: {endpoint:?}")?;
        }
        if let Some(subprocess) = &self.subprocess {
            write!(f, "\ntransport: {subprocess:?}")?;
        }
        if let Some(socket) = &self.socket {
            write!(f, "\nsocket: {socket}")?;
        }
        Ok(())
    }
}

impl EventLoop {
    /// Sets who is told of errors that have no caller, in place of the log. The handler runs
    /// where the error happened, mostly on the loop's thread.
    ///
    /// Source: *loop.set_exception_handler*; to get the default back, set a handler that calls
    /// [`default_exception_handler`](Self::default_exception_handler).
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let (told, errors) = std::sync::mpsc::channel();
    /// event_loop.set_exception_handler(move |_, context| {
    ///     let _ = told.send(format!("{:?}", context.error));
    /// });
    /// event_loop.call_soon(|| panic!("no luck"));
    /// event_loop.run_until_complete(async {})?;
    /// assert_eq!(errors.recv().as_deref(), Ok(r#"Some(Panic("no luck"))"#));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_exception_handler(
        &self,
        handler: impl Fn(&EventLoop, &ExceptionContext) + Send + Sync + 'static,
    ) {
        let handler = Owned::new(self.core().home, handler);
        let handler: Arc<ExceptionHandler> = Arc::new(move |event_loop, context| {
            if let Some(handler) = handler.get() {
                handler(event_loop, context);
            }
        });
        let old = self.core().exception_handler.lock().replace(handler);
        drop(old);
    }

    /// Tells the exception handler; what it does wrong itself is logged.
    ///
    /// Source: *loop.call_exception_handler*.
    pub fn call_exception_handler(&self, context: ExceptionContext) {
        self.core().report(context);
    }

    /// Logs the context as an error, target `oxloop`: what happens without a handler of your
    /// own. For handlers that want it as well.
    ///
    /// Source: *loop.default_exception_handler*.
    pub fn default_exception_handler(&self, context: &ExceptionContext) {
        context.log();
    }
}
