//! *Working with socket objects directly*: the native part of the `sock_*` coroutines.

use super::{BaseLoop, scheduling, watchers};
use crate::error::os_error;
use crate::ffi::objects::{self, Int, Text, interned};
use crate::ffi::template::Captured;
use crate::ffi::{bytes, calls, context};
use crate::imports::imports;
use oxloop::engine::{Descriptor, Side};
use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCFunction, PyInt, PyTuple};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::io;

/// `socket.recv(count)`; `None` where it would block.
///
/// A plain socket is read without the exception that says so, whose text costs more than the
/// read; what else has a `recv` method is asked by it.
pub(super) fn recv_now<'py>(
    sock: &Bound<'py, PyAny>,
    count: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = sock.py();
    // Nothing at all, and what is no plain number, Python decides without the system.
    let count_of = |count: &Bound<'py, PyInt>| count.extract::<isize>().ok();
    let room = count.cast_exact::<PyInt>().ok().and_then(count_of);
    let room = room.and_then(|room| usize::try_from(room).ok()).filter(|&room| room > 0);
    let (Some(socket), Some(room)) = (plain(sock)?, room) else {
        return unless_blocked(py, sock.call_method1(interned!(py, "recv")?, (count,)));
    };
    let result = bytes::filled(py, room, |memory| {
        let socket = socket.borrow().ok_or(Errno::BADF)?;
        rustix::net::recv(socket, memory, RecvFlags::DONTWAIT).map(|((data, _), _)| data)
    })?;
    match result {
        Ok(data) => Ok(Some(data.into_any())),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(os_error(py, &io::Error::from(error))),
    }
}

/// `socket.send(data)`: how many bytes were sent, 0 where it would block.
pub(super) fn send_now(sock: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = sock.py();
    let (Some(socket), Ok(bytes)) = (plain(sock)?, data.cast_exact::<PyBytes>()) else {
        let sent = sock.call_method1(interned!(py, "send")?, (data,));
        return unless_blocked(py, sent)?.map_or(Ok(0), |sent| sent.extract());
    };
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = socket
        .borrow()
        .ok_or(Errno::BADF)
        .and_then(|socket| rustix::net::send(socket, bytes.as_bytes(), flags));
    match sent {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(os_error(py, &io::Error::from(error))),
    }
}

/// The descriptor of a `socket.socket`; `None` for any other object, also of a subclass, which
/// may have methods of its own.
pub(crate) fn plain(sock: &Bound<'_, PyAny>) -> PyResult<Option<Descriptor>> {
    let py = sock.py();
    if !sock.get_type().is(imports(py)?.socket.bind(py)) {
        return Ok(None);
    }
    let number: i32 = calls::method(sock, interned!(py, "fileno")?, [])?.extract()?;
    Ok(Some(Descriptor::Lent(number)))
}

fn unless_blocked<'py>(
    py: Python<'py>,
    result: PyResult<Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if error.is_instance_of::<PyBlockingIOError>(py)
                || error.is_instance_of::<PyInterruptedError>(py) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A future that is done when `fd` is ready; nothing is read or written, so that whoever is
/// cancelled meanwhile loses nothing.
pub(super) fn wait_ready<'py>(
    slf: &Bound<'py, BaseLoop>,
    fd: i32,
    side: Side,
) -> PyResult<Bound<'py, PyAny>> {
    static CALLBACKS: PyOnceLock<[Py<PyCFunction>; 2]> = PyOnceLock::new();
    let py = slf.py();
    if watchers::transport_of(slf, fd).is_some() {
        slf.call_method1(Text("_ensure_fd_no_transport"), (Int(fd),))?;
    }
    let [read, write] = CALLBACKS.get_or_try_init(py, || {
        let read = pyo3::wrap_pyfunction!(_readable, py)?.unbind();
        PyResult::Ok([read, pyo3::wrap_pyfunction!(_writable, py)?.unbind()])
    })?;
    let callback = if side == Side::Read { read } else { write };
    let future = scheduling::new_future(slf)?;
    let args = objects::tuple(py, [slf.as_any(), &future, Int(fd).into_pyobject(py)?.as_any()])?;
    let context = Captured::Own(context::copy_current(py)?);
    let handle = scheduling::new_handle(slf, callback.bind(py), args, context)?;
    watchers::watch(slf, fd, side, handle, true)?;
    Ok(future)
}

#[pyfunction]
fn _readable(event_loop: &Bound<'_, BaseLoop>, future: &Bound<'_, PyAny>, fd: i32) -> PyResult<()> {
    wake(event_loop, future, fd, Side::Read)
}

#[pyfunction]
fn _writable(event_loop: &Bound<'_, BaseLoop>, future: &Bound<'_, PyAny>, fd: i32) -> PyResult<()> {
    wake(event_loop, future, fd, Side::Write)
}

fn wake(
    event_loop: &Bound<'_, BaseLoop>,
    future: &Bound<'_, PyAny>,
    fd: i32,
    side: Side,
) -> PyResult<()> {
    let py = event_loop.py();
    // Before the coroutine runs, so that what is still unread wakes nobody else.
    drop(event_loop.get().engine.rest(fd, side));
    if !calls::method(future, interned!(py, "done")?, [])?.is_truthy()? {
        let none = py.None();
        calls::method(future, interned!(py, "set_result")?, [none.bind(py)])?;
    }
    Ok(())
}

/// Whoever awaited a future of [`wait_ready`] gave up.
pub(super) fn wait_ended(
    slf: &Bound<'_, BaseLoop>,
    fd: i32,
    side: Side,
    future: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let engine = &slf.get().engine;
    let Some(watcher) = engine.watcher_of(fd, side) else { return Ok(()) };
    let args = watcher.0.object(slf.py()).getattr(Text("_args"))?;
    // Another operation may have taken its place.
    let Ok(args) = args.cast::<PyTuple>() else { return Ok(()) };
    // Made by `wait_ready`, or shorter: IndexError is all that can be.
    if args.get_item(1).is_ok_and(|waiting| waiting.is(future)) {
        if let Some(old) = engine.unwatch(fd, side) {
            crate::handle::cancel(&old.0.object(slf.py()))?;
        }
    }
    Ok(())
}
