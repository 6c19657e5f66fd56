//! What hears of a listening socket: makes a transport for each connection taken.

use crate::address::Address;
use crate::error::{call_exception_handler, finally, leaves_loop, os_error};
use crate::event_loop::BaseLoop;
use crate::face::PyFace;
use crate::ffi::objects::Text;
use crate::ffi::references::clone_attached;
use crate::ffi::{calls, context};
use crate::imports::logger;
use crate::shown::{self, Face};
use crate::transport::extra_info::socket_of;
use crate::transport::stream::{self, Origin};
use oxloop::engine::{Accepted, Descriptor, ListenerHandler};
use pyo3::IntoPyObjectExt;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A listening socket of a server. The engine's source owns the only reference.
#[pyclass(frozen, module = "oxloop._oxloop")]
pub(crate) struct Listener {
    protocol_factory: Py<PyAny>,
    sock: Py<PyAny>,
    server: Option<Py<PyAny>>,
    /// Makes the SSLProtocol between the connection and its protocol, on a TLS server.
    secure: Option<Py<PyAny>>,
    /// The context in which serving was started: the callbacks' contexts are its copies.
    context: Py<PyAny>,
    /// Whether connections waited before TCP_NODELAY was set, which each of them then needs.
    late: bool,
}

#[pymethods]
impl Listener {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.protocol_factory)?;
        visit.call(&self.sock)?;
        visit.call(&self.server)?;
        visit.call(&self.secure)?;
        visit.call(&self.context)
    }
}

impl Listener {
    pub(crate) fn make(
        protocol_factory: Bound<'_, PyAny>,
        sock: Bound<'_, PyAny>,
        server: Option<Bound<'_, PyAny>>,
        secure: Option<Bound<'_, PyAny>>,
        descriptor: &Descriptor,
    ) -> PyResult<ListenerRef> {
        let py = sock.py();
        // Linux hands TCP_NODELAY down to the connections made from here on: one call instead of
        // one each. A socket that has listened before may have others.
        if let Some(socket) = descriptor.borrow() {
            set_nodelay(socket);
        }
        let late = is_readable(descriptor);
        let context = context::copy_current(py)?;
        let listener = Listener {
            protocol_factory: protocol_factory.unbind(),
            sock: sock.unbind(),
            server: server.map(Bound::unbind),
            secure: secure.map(Bound::unbind),
            context,
            late,
        };
        Ok(ListenerRef(Py::new(py, listener)?))
    }

    /// Makes the transport of a connection, and tells where that fails.
    fn accept(&self, cx: &Bound<'_, BaseLoop>, accepted: Accepted) -> PyResult<()> {
        let py = cx.py();
        let Err(refused) = self.open(cx, accepted) else { return Ok(()) };
        if leaves_loop(py, &refused.error) {
            return Err(refused.error);
        }
        // asyncio says nothing of a failing factory but in debug mode.
        if cx.get().is_debug() {
            let message = "Error on transport creation for incoming connection";
            let protocol = refused.protocol.as_ref().map(|protocol| protocol.bind(py));
            let details = protocol.map(|protocol| ("protocol", Some(protocol)));
            call_exception_handler(cx, message, &refused.error, details)?;
        }
        Ok(())
    }

    fn open(&self, cx: &Bound<'_, BaseLoop>, accepted: Accepted) -> Result<(), Refused> {
        let py = cx.py();
        if self.late {
            set_nodelay(accepted.descriptor.as_fd());
        }
        let context = context::copy(self.context.bind(py))?;
        let inside = context.clone_ref(py);
        let peer = accepted.peer.as_ref().and_then(Address::new);
        let (descriptor, socket) = if cx.get().is_debug() {
            let sock = socket_of(py, accepted.descriptor)?;
            self.log_connection(&sock, peer.as_ref())?;
            (Descriptor::Lent(sock.call_method0(Text("fileno"))?.extract()?), Some(sock))
        } else {
            (Descriptor::Owned(accepted.descriptor), None)
        };
        let lender = socket.clone();
        let opened = context::run(inside.bind(py), || {
            Ok((|| {
                let protocol = calls::function(self.protocol_factory.bind(py), [])?;
                let origin = Origin {
                    peer,
                    descriptor,
                    socket,
                    server: self.server.as_ref().map(|server| server.bind(py).clone()),
                    context,
                };
                self.protocol_below(&protocol)
                    .and_then(|below| stream::open(cx, below, origin, None))
                    .map(drop)
                    .map_err(|error| Refused { error, protocol: Some(protocol.unbind()) })
            })())
        })?;
        match (opened, lender) {
            (Err(Refused { error, protocol }), Some(sock)) => {
                let closed = finally(py, Err(error), || sock.call_method0(Text("close")).map(drop));
                closed.map_err(|error| Refused { error, protocol })
            }
            (opened, _) => opened,
        }
    }

    /// Whom the connection talks to: the program's protocol, or TLS in front of it.
    fn protocol_below<'py>(&self, protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match &self.secure {
            Some(secure) => calls::function(secure.bind(protocol.py()), [protocol]),
            None => Ok(protocol.clone()),
        }
    }

    /// Debug mode names each connection as it comes in.
    #[cold]
    fn log_connection(&self, sock: &Bound<'_, PyAny>, peer: Option<&Address>) -> PyResult<()> {
        let py = sock.py();
        let peer = match peer {
            Some(peer) => peer.to_python(py)?,
            None => Text("").into_bound_py_any(py)?,
        };
        let args = (Text("%r got a new connection from %r: %r"), &self.server, peer, sock);
        logger(py)?.call_method1(Text("debug"), args).map(drop)
    }

    fn report(&self, cx: &Bound<'_, BaseLoop>, message: &str, error: io::Error) -> PyResult<()> {
        let py = cx.py();
        let socket = py
            .import(Text("asyncio.trsock"))?
            .call_method1(Text("TransportSocket"), (&self.sock,))?;
        call_exception_handler(cx, message, &os_error(py, &error), [("socket", Some(&socket))])
    }
}

/// Small writes leave at once.
fn set_nodelay(socket: BorrowedFd<'_>) {
    #[expect(clippy::let_underscore_must_use, reason = "sockets without it have no need of it")]
    let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
}

/// Whether a listening socket has connections to accept.
fn is_readable(descriptor: &Descriptor) -> bool {
    let Some(socket) = descriptor.borrow() else { return false };
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    // Where nobody knows, there may be some.
    poll(&mut polled, Some(&Timespec::default())).is_err()
        || polled[0].revents().contains(PollFlags::IN)
}

/// No transport was made for a connection; it is closed.
struct Refused {
    error: PyErr,
    protocol: Option<Py<PyAny>>,
}

impl From<PyErr> for Refused {
    fn from(error: PyErr) -> Refused {
        Refused { error, protocol: None }
    }
}

/// The engine's reference to a listener.
pub(crate) struct ListenerRef(pub(crate) Py<Listener>);

impl Clone for ListenerRef {
    fn clone(&self) -> ListenerRef {
        ListenerRef(clone_attached(&self.0))
    }
}

impl ListenerHandler<PyFace> for ListenerRef {
    fn connected(&self, cx: &Bound<'_, BaseLoop>, accepted: Accepted) -> PyResult<()> {
        let listener = self.0.get();
        if !shown::sees_events(cx) {
            return listener.accept(cx, accepted);
        }
        let callback = listener.protocol_factory.bind(cx.py()).clone();
        let face = Face { callback, source: None };
        let accepted = shown::event(cx, None, Ok(Some(face)), || listener.accept(cx, accepted))?;
        accepted.unwrap_or(Ok(()))
    }

    fn out_of_resources(&self, cx: &Bound<'_, BaseLoop>, error: io::Error) -> PyResult<()> {
        self.0.get().report(cx, "socket.accept() out of system resource", error)
    }

    fn accept_failed(&self, cx: &Bound<'_, BaseLoop>, error: io::Error) -> PyResult<()> {
        self.0.get().report(cx, "Exception in callback socket.accept()", error)
    }
}
