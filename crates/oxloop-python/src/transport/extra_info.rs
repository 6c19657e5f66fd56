//! `get_extra_info`, and what else a transport does seldom: its socket object, its end.

use super::stream::{Parts, StreamTransport};
use crate::address::Address;
use crate::error::{finally, memory_error, warn_unclosed};
use crate::ffi::bytes::{Piece, bytes_of, check_dimensions};
use crate::ffi::calls;
use crate::ffi::objects::{self, Int, Text, interned};
use crate::imports::imports;
use oxloop::engine::Written;
use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

/// `asyncio.trsock.TransportSocket(sock)`.
pub(super) fn transport_socket<'py>(sock: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    sock.py().import(Text("asyncio.trsock"))?.call_method1(Text("TransportSocket"), (sock,))
}

/// Keeps the descriptor of a socket open until [`close`], whoever else closes the socket: the
/// number could be another file's by then, and what is written would go there.
pub(super) fn hold(sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = sock.py();
    if !is_socket(sock)? {
        return Ok(());
    }
    // As `socket.makefile` does.
    let references: usize = sock.getattr(interned!(py, "_io_refs")?)?.extract()?;
    sock.setattr(interned!(py, "_io_refs")?, Int(references + 1))
}

/// Closes a socket that was [held](hold).
pub(super) fn close(sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = sock.py();
    if is_socket(sock)? {
        calls::method(sock, interned!(py, "_decref_socketios")?, [])?;
    }
    calls::method(sock, interned!(py, "close")?, []).map(drop)
}

fn is_socket(sock: &Bound<'_, PyAny>) -> PyResult<bool> {
    sock.is_instance(imports(sock.py())?.socket.bind(sock.py()))
}

/// `get_extra_info(name, default)`.
pub(super) fn get<'py>(
    slf: &Bound<'py, StreamTransport>,
    name: &Bound<'py, PyAny>,
    default: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let given = slf.getattr_opt(interned!(py, "_extra")?)?;
    if let Some(given) = given {
        let given = given.cast_into::<PyDict>()?;
        if let Some(value) = given.get_item(name)? {
            return Ok(value);
        }
    }
    // Runs no Python code: a name that is no text, or none in UTF-8, is not known.
    let known = name.extract::<&str>().ok();
    match known {
        Some("peername") => peer_name(slf),
        Some("sockname") => sock_name(slf),
        Some("socket") => socket(slf),
        _ => {
            // TypeError, in the running version's words, for what cannot be a dictionary's key.
            objects::dict(py)?.contains(name)?;
            Ok(default.unwrap_or_else(|| py.None().into_bound(py)))
        }
    }
}

fn peer_name<'py>(slf: &Bound<'py, StreamTransport>) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    match &slf.get().peer {
        Some(address) => address.to_python(py),
        None => Ok(py.None().into_bound(py)),
    }
}

fn sock_name<'py>(slf: &Bound<'py, StreamTransport>) -> PyResult<Bound<'py, PyAny>> {
    let (this, py) = (slf.get(), slf.py());
    let kept = this.parts.lock().sockname.clone();
    match kept.or_else(|| own_name(this)) {
        Some(address) => address.to_python(py),
        None => Ok(py.None().into_bound(py)),
    }
}

/// getsockname(2) while the descriptor is open.
fn own_name(this: &StreamTransport) -> Option<Box<Address>> {
    let named =
        this.engine().with_descriptor(this.token, |socket| rustix::net::getsockname(socket));
    let address = named?.ok()?;
    Address::new(&address).map(Box::new)
}

/// The TransportSocket: made when it is first asked for; from then on its socket owns the
/// descriptor.
fn socket<'py>(slf: &Bound<'py, StreamTransport>) -> PyResult<Bound<'py, PyAny>> {
    let (this, py) = (slf.get(), slf.py());
    let known = || this.parts.lock().socket.as_ref().map(|socket| socket.bind(py).clone());
    if let Some(socket) = known() {
        return Ok(socket);
    }
    let number = this.engine().with_descriptor(this.token, |socket| socket.as_raw_fd());
    if let Some(number) = number {
        let borrower = Borrower(socket_over(py, number)?);
        hold(&borrower.0)?;
        let socket = transport_socket(&borrower.0)?;
        // Python code has run: another thread may have asked, or closed the connection.
        let mut parts = this.parts.lock();
        if parts.socket.is_none() {
            if let Some(descriptor) = this.engine().lend_descriptor(this.token) {
                // It is the socket's from here on, and so is closing it.
                let _owned_by_the_socket = descriptor.into_raw_fd();
                parts.socket = Some(socket.clone().unbind());
                drop(parts);
                std::mem::forget(borrower);
                return Ok(socket);
            }
        }
        drop(parts);
        drop(borrower);
    }
    // Closed before anybody asked: a socket that is closed, as asyncio's would be.
    let closed = match known() {
        Some(socket) => return Ok(socket),
        None => py.import(Text("socket"))?.call_method0(Text("socket"))?,
    };
    closed.call_method0(Text("close"))?;
    let closed = transport_socket(&closed)?.unbind();
    let mut parts = this.parts.lock();
    let kept = parts.socket.get_or_insert_with(|| closed.clone_ref(py)).bind(py).clone();
    drop(parts);
    Ok(kept)
}

/// A socket object over a descriptor that is another's still: it gives it back when dropped.
struct Borrower<'py>(Bound<'py, PyAny>);

impl Drop for Borrower<'_> {
    fn drop(&mut self) {
        // As `socket.detach`, but natively: no Python code runs, and nothing can interrupt it.
        if let Err(error) = self.0.call_method0(Text("detach")) {
            error.write_unraisable(self.0.py(), Some(&self.0));
        }
    }
}

/// A socket object, which owns the descriptor from here on.
pub(crate) fn socket_of(py: Python<'_>, descriptor: OwnedFd) -> PyResult<Bound<'_, PyAny>> {
    let sock = socket_over(py, descriptor.as_raw_fd())?;
    let _owned_by_the_socket = descriptor.into_raw_fd();
    Ok(sock)
}

/// `socket.socket(fileno=number)`. On an error the descriptor is as it was.
fn socket_over(py: Python<'_>, number: RawFd) -> PyResult<Bound<'_, PyAny>> {
    let class = py.import(Text("socket"))?.getattr(Text("socket"))?;
    let imports = imports(py)?;
    if !class.is(imports.socket.bind(py)) {
        let keywords = objects::dict(py)?;
        keywords.set_item(Text("fileno"), Int(number))?;
        return class.call((), Some(&keywords));
    }
    // What `socket.socket.__init__` does, without Python code: a signal's exception in the middle
    // of it would close the descriptor.
    let sock = class.call_method1(interned!(py, "__new__")?, (&class,))?;
    sock.setattr(interned!(py, "_io_refs")?, Int(0i32))?;
    sock.setattr(interned!(py, "_closed")?, false)?;
    let unknown = Int(-1i32);
    let arguments = (&sock, unknown, unknown, unknown, Int(number));
    imports.socket_init.bind(py).call1(arguments)?;
    Ok(sock)
}

/// `writelines(list_of_data)`: one write. Before 3.12 asyncio joins the list and calls `write`.
pub(super) fn writelines(
    slf: &Bound<'_, StreamTransport>,
    list_of_data: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (this, py) = (slf.get(), slf.py());
    if !cfg!(Py_3_12) {
        let joined = objects::bytes(py, b"")?.call_method1(Text("join"), (list_of_data,))?;
        return StreamTransport::write(slf, &joined);
    }
    let (engine, event_loop) = (this.engine(), this.event_loop(py));
    let pieces = match pieces(list_of_data) {
        Ok(pieces) => pieces,
        Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
        // That nothing may be written any more comes before what is wrong with it.
        Err(error) => match engine.write_all(event_loop, this.token, &[] as &[Piece<'_>])? {
            Written::Taken | Written::Lost => {
                this.flush(py)?;
                return match this.info().lost {
                    true if cfg!(Py_3_14) => this.note_late_write(py),
                    true => Err(error),
                    false => this.unsendable(slf, error),
                };
            }
            written => return this.written(py, written, "writelines"),
        },
    };
    match engine.write_all(event_loop, this.token, &pieces)? {
        Written::Taken => Ok(()),
        written => this.written(py, written, "writelines"),
    }
}

fn pieces<'py>(list_of_data: &Bound<'py, PyAny>) -> PyResult<Vec<Piece<'py>>> {
    let mut pieces = Vec::new();
    // Whatever is false counts as nothing, None too (asyncio looks at the truth first).
    let items = list_of_data.is_truthy()?.then(|| list_of_data.try_iter()).transpose()?;
    for item in items.into_iter().flatten() {
        let item = item?;
        let piece = match item.cast_into_exact::<PyBytes>() {
            Ok(bytes) => bytes,
            Err(other) => {
                let item = other.into_inner();
                // From 3.14.8 on asyncio skips these: an empty piece would never be sent.
                if cfg!(Py_3_14) && !item.is_truthy()? {
                    continue;
                }
                check_dimensions(&item)?;
                bytes_of(PyMemoryView::from(&item)?.as_any())?
            }
        };
        pieces.try_reserve(1).map_err(memory_error)?;
        pieces.push(Piece(piece));
    }
    Ok(pieces)
}

/// Names of a socket of a family that [`Address`] does not know: as its socket object gives them.
pub(super) fn names_of<'py>(sock: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let extra = objects::dict(sock.py())?;
    for (key, method) in [("peername", "getpeername"), ("sockname", "getsockname")] {
        extra.set_item(Text(key), name_of(sock, method)?)?;
    }
    Ok(extra)
}

/// What `getsockname` or `getpeername` of a socket says; `None` where the system does not know.
pub(super) fn name_of<'py>(
    sock: &Bound<'py, PyAny>,
    method: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    match sock.call_method0(Text(method)) {
        Ok(name) => Ok(Some(name)),
        Err(error) if error.is_instance_of::<PyOSError>(sock.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// After connection_lost: closes the descriptor and lets go of everything.
pub(super) fn finish(slf: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let (this, py) = (slf.get(), slf.py());
    let sockname = own_name(this);
    this.engine().release(this.token);
    let (parts, socket) = {
        let mut parts = this.parts.lock();
        let socket = parts.socket.as_ref().map(|socket| socket.clone_ref(py));
        let kept = Parts { sockname, socket: parts.socket.take(), ..Parts::default() };
        (std::mem::replace(&mut *parts, kept), socket)
    };
    let closed = match socket {
        Some(socket) => close_socket(socket.bind(py)),
        None => Ok(()),
    };
    finally(py, closed, || detach(parts.server.as_ref(), py, Some(slf)))
}

/// The end of a transport that nobody closed: told as asyncio tells it, and closed.
pub(super) fn abandon(
    py: Python<'_>,
    parts: &Parts,
    transport: Option<&Bound<'_, StreamTransport>>,
    text: &str,
) -> PyResult<()> {
    let warned = warn_unclosed(py, text, transport.map(Bound::as_any));
    let closed = match &parts.socket {
        Some(socket) => close_socket(socket.bind(py)),
        None => Ok(()),
    };
    let told = finally(py, warned, || closed);
    finally(py, told, || detach(parts.server.as_ref(), py, transport))
}

/// `server._attach(transport)`; before 3.13 servers only count.
pub(super) fn attach(
    server: &Bound<'_, PyAny>,
    transport: &Bound<'_, StreamTransport>,
) -> PyResult<()> {
    let name = interned!(server.py(), "_attach")?;
    let attached = if cfg!(Py_3_13) {
        calls::method(server, name, [transport.as_any()])
    } else {
        calls::method(server, name, [])
    };
    attached.map(drop)
}

/// `server._detach(transport)`, likewise.
pub(super) fn detach(
    server: Option<&Py<PyAny>>,
    py: Python<'_>,
    transport: Option<&Bound<'_, StreamTransport>>,
) -> PyResult<()> {
    let Some(server) = server else { return Ok(()) };
    let name = interned!(py, "_detach")?;
    let detached = if cfg!(Py_3_13) {
        server.call_method1(py, name, (transport,))
    } else {
        server.call_method0(py, name)
    };
    detached.map(drop)
}

/// Closes the socket behind a TransportSocket.
pub(super) fn close_socket(socket: &Bound<'_, PyAny>) -> PyResult<()> {
    close(&socket.getattr(interned!(socket.py(), "_sock")?)?)
}
