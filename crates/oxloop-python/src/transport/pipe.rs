//! `ReadPipeTransport` and `WritePipeTransport`: asyncio.ReadTransport and asyncio.WriteTransport
//! over a pipe, a FIFO, a terminal or a socket.

use super::common::{
    LateWrites, SOURCE_TRACEBACK, debug, limits, reading_resumed, start_reading_soon, wake_soon,
};
use super::handler::TransportRef;
use super::stream::{Parts, traverse};
use crate::error::{memory_error, os_error, unraisable, warn_unclosed};
use crate::event_loop::BaseLoop;
use crate::event_loop::scheduling::{present_stack, queue};
use crate::face::PyFace;
use crate::ffi::base_types::{self, ReadTransportBase, TransportBase};
use crate::ffi::bytes::{BytesData, bytes_of, check_dimensions, is_bytes_like};
use crate::ffi::context;
use crate::ffi::lock::StateLock;
use crate::ffi::objects::{self, Int, Pair, Text, interned};
use crate::ffi::references::{at_dealloc, clone_attached};
use crate::ffi::unowned::Unowned;
use lock_api::Mutex;
use oxloop::engine::{
    DEFAULT_HIGH, Descriptor, Engine, Handler, PipeEnd, PipeKind, StreamInfo, Token, Written,
};
use pyo3::exceptions::{PyAssertionError, PyException, PyMemoryError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::io;

/// What is logged of late writes.
const WRITE_RAISED: &str = "pipe closed by peer or os.write(pipe, data) raised exception.";

/// What both transports are inside.
pub(super) struct Pipe {
    event_loop: Py<BaseLoop>,
    pub(super) token: Token,
    end: PipeEnd,
    /// The descriptor's number as the pipe object has it, also after the close.
    number: i32,
    /// A write that failed, and closed the pipe for it, counts as well.
    pub(super) late_writes: LateWrites,
    pub(super) parts: Mutex<StateLock, Parts>,
}

/// The end of a pipe that is read from. Made by the loop; see asyncio's *Transports*.
#[pyclass(frozen, dict, weakref, extends = ReadTransportBase, module = "oxloop._oxloop")]
pub(crate) struct ReadPipeTransport {
    pub(super) pipe: Pipe,
}

/// The end of a pipe that is written to. Made by the loop; see asyncio's *Transports*: there, too,
/// it is an asyncio.Transport whose reading half is not implemented.
#[pyclass(frozen, dict, weakref, extends = TransportBase, module = "oxloop._oxloop")]
pub(crate) struct WritePipeTransport {
    pub(super) pipe: Pipe,
}

/// The engine's reference to either.
pub(crate) enum PipeRef {
    Read(Py<ReadPipeTransport>),
    Write(Py<WritePipeTransport>),
}

impl Clone for PipeRef {
    fn clone(&self) -> PipeRef {
        match self {
            PipeRef::Read(transport) => PipeRef::Read(clone_attached(transport)),
            PipeRef::Write(transport) => PipeRef::Write(clone_attached(transport)),
        }
    }
}

/// A pipe's transport that the engine does not keep alive.
pub(crate) enum UnownedPipe {
    Read(Unowned<ReadPipeTransport>),
    Write(Unowned<WritePipeTransport>),
}

impl Handler for PipeRef {
    type Unowned = UnownedPipe;

    fn unowned(&self) -> Option<UnownedPipe> {
        Some(match self {
            PipeRef::Read(transport) => UnownedPipe::Read(Unowned::new(transport)?),
            PipeRef::Write(transport) => UnownedPipe::Write(Unowned::new(transport)?),
        })
    }

    fn upgrade(unowned: &UnownedPipe) -> Option<PipeRef> {
        Some(match unowned {
            UnownedPipe::Read(transport) => PipeRef::Read(transport.upgrade()?),
            UnownedPipe::Write(transport) => PipeRef::Write(transport.upgrade()?),
        })
    }
}

impl<'py> IntoPyObject<'py> for PipeRef {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(match self {
            PipeRef::Read(transport) => transport.into_bound(py).into_any(),
            PipeRef::Write(transport) => transport.into_bound(py).into_any(),
        })
    }
}

/// Makes the transport of one end of a pipe, and schedules `connection_made`, then the start of
/// reading, then the waiter's wake-up: asyncio's order. On an error `pipe` stays the caller's.
pub(crate) fn open(
    event_loop: &Bound<'_, BaseLoop>,
    end: PipeEnd,
    pipe: Bound<'_, PyAny>,
    protocol: Bound<'_, PyAny>,
    waiter: Option<&Bound<'_, PyAny>>,
    extra: Option<&Bound<'_, PyAny>>,
) -> PyResult<PipeRef> {
    let py = event_loop.py();
    let base = event_loop.get();
    base.check_closed()?;
    let infos = match extra.filter(|extra| !extra.is_none()) {
        Some(extra) => objects::copy_of_dict(extra.cast()?)?,
        None => objects::dict(py)?,
    };
    infos.set_item(Text("pipe"), &pipe)?;
    let number: i32 = pipe.call_method0(interned!(py, "fileno")?)?.extract()?;
    let descriptor = Descriptor::Lent(number);
    let failed = |error: io::Error| os_error(py, &error);
    let kind = match descriptor.borrow() {
        Some(fd) => PipeKind::of(fd),
        None => Err(io::Error::from(rustix::io::Errno::BADF)),
    };
    let Some(kind) = kind.map_err(failed)? else {
        return Err(PyValueError::new_err(match end {
            PipeEnd::Read => "Pipe transport is for pipes/sockets only.",
            PipeEnd::Write => "Pipe transport is only for pipes, sockets and character devices",
        }));
    };
    let connection_made = protocol.getattr(interned!(py, "connection_made")?)?;
    let first_context = context::copy_current(py)?;
    let parts = Parts {
        protocol: Some(protocol.unbind()),
        read_context: Some(context::copy_current(py)?),
        socket: Some(pipe.unbind()),
        ..Parts::default()
    };
    let pipe = Pipe {
        event_loop: event_loop.clone().unbind(),
        token: base.engine.add_pipe(descriptor, kind, end).map_err(failed)?,
        end,
        number,
        late_writes: LateWrites::new(0),
        parts: Mutex::new(parts),
    };
    let token = pipe.token;
    let transport = match end {
        PipeEnd::Read => PipeRef::Read(base_types::new(py, ReadPipeTransport { pipe })?.unbind()),
        PipeEnd::Write => {
            PipeRef::Write(base_types::new(py, WritePipeTransport { pipe })?.unbind())
        }
    };
    base.engine.set_handler(token, TransportRef::Pipe(transport.clone()));
    let object = transport.clone().into_pyobject(py)?;
    let begin = || {
        object.setattr(Text("_extra"), infos)?;
        if base.is_debug() {
            object.setattr(SOURCE_TRACEBACK, present_stack(py)?)?;
        }
        base.engine.reserve_soon(3).map_err(memory_error)?;
        queue(event_loop, &connection_made, objects::tuple(py, [&object])?, first_context)?;
        start_reading_soon(event_loop, token)?;
        wake_soon(event_loop, waiter)
    };
    match begin() {
        Ok(()) => Ok(transport),
        Err(error) => {
            // Nobody has heard of it; the pipe stays the caller's.
            base.engine.lose(token);
            base.engine.release(token);
            let parts = std::mem::take(&mut *transport.pipe().parts.lock());
            drop(parts);
            Err(error)
        }
    }
}

impl Pipe {
    pub(super) fn engine(&self) -> &Engine<PyFace> {
        &self.event_loop.get().engine
    }

    pub(super) fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, BaseLoop> {
        self.event_loop.bind(py)
    }

    pub(super) fn info(&self) -> StreamInfo {
        self.engine().stream_info(self.token).unwrap_or(StreamInfo::LOST)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.engine().flush_stream(self.event_loop(py), self.token)
    }

    /// `close()`, and `write_eof()`: to a pipe they are the same.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let event_loop = self.event_loop(py);
        let was_open = !self.info().closing;
        self.engine().close_stream(event_loop, self.token)?;
        // On a closed loop nobody will call connection_lost.
        if was_open { event_loop.get().check_closed() } else { Ok(()) }
    }

    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        self.engine().flush_if_broken(self.event_loop(py), self.token)?;
        Ok(self.info().closing)
    }

    fn set_protocol(&self, protocol: Bound<'_, PyAny>) -> PyResult<()> {
        self.flush(protocol.py())?;
        let old = self.parts.lock().protocol.replace(protocol.unbind());
        drop(old);
        Ok(())
    }

    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.parts.lock().protocol.as_ref().map(|protocol| protocol.clone_ref(py))
    }

    /// The pipe object; `None` once it is closed.
    fn object(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.parts.lock().socket.as_ref().map(|pipe| pipe.clone_ref(py))
    }

    /// asyncio's tests, and programs that close a pipe behind its transport's back, assign to
    /// `_pipe`: without one the transport is closed.
    fn replace_object(&self, pipe: Option<Bound<'_, PyAny>>) {
        if pipe.is_none() {
            self.engine().lose(self.token);
            self.engine().release(self.token);
        }
        let new = pipe.map(Bound::unbind);
        let old = std::mem::replace(&mut self.parts.lock().socket, new);
        drop(old);
    }

    fn loop_of(&self, py: Python<'_>) -> Option<Py<BaseLoop>> {
        (!self.info().closed).then(|| self.event_loop.clone_ref(py))
    }

    /// asyncio's repr, with the state of the selector.
    fn describe(&self, class: &str) -> String {
        let info = self.info();
        let mut text = format!("<{class}");
        if info.closed {
            text.push_str(" closed");
        } else if info.closing {
            text.push_str(" closing");
        }
        text.push_str(&format!(" fd={}", self.number));
        let poll = |polls| if polls { " polling" } else { " idle" };
        if info.closed {
            text.push_str(" closed");
        } else if self.engine().is_closed() {
            text.push_str(" open");
        } else if self.end == PipeEnd::Read {
            text.push_str(poll(info.polls_read));
        } else {
            text.push_str(poll(info.polls_write));
            let size = self.engine().write_buffer_size(self.token);
            text.push_str(&format!(" bufsize={size}"));
        }
        text.push('>');
        text
    }

    fn repr(&self, slf: &Bound<'_, PyAny>) -> PyResult<Text<String>> {
        self.flush(slf.py())?;
        Ok(Text(self.describe(slf.get_type().name()?.to_str()?)))
    }

    /// The transport goes away: an open one is told (ResourceWarning) and its pipe closed. `slf`
    /// is there where the collector found it, and not where the last reference went.
    pub(super) fn abandon(&self, slf: Option<&Bound<'_, PyAny>>) {
        self.engine().remove_handler(self.token);
        if self.info().closed {
            return;
        }
        let text = self.describe(match self.end {
            PipeEnd::Read => "ReadPipeTransport",
            PipeEnd::Write => "WritePipeTransport",
        });
        self.engine().lose(self.token);
        let parts = std::mem::take(&mut *self.parts.lock());
        at_dealloc(|py| {
            let warned = warn_unclosed(py, &text, slf);
            self.engine().release(self.token);
            let closed = parts.socket.as_ref().map_or(Ok(()), |pipe| close_object(pipe.bind(py)));
            unraisable(py, [warned, closed]);
            drop(parts);
        });
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.abandon(None);
        self.engine().remove_stream(self.token);
    }
}

/// `pipe.close()`
pub(super) fn close_object(pipe: &Bound<'_, PyAny>) -> PyResult<()> {
    pipe.call_method0(interned!(pipe.py(), "close")?).map(drop)
}

/// The methods of a pipe's transport: what both ends have, and its own. PyO3 takes them in one block.
macro_rules! pipe_methods {
    (impl $class:ident as $end:ident; $($own:tt)*) => {
        #[pymethods]
        impl $class {
            fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
                visit.call(&self.pipe.event_loop)?;
                traverse(&self.pipe.parts, visit)
            }

            fn __clear__(&self) {
                let parts = std::mem::take(&mut *self.pipe.parts.lock());
                drop(parts);
            }

            fn __repr__(slf: &Bound<'_, Self>) -> PyResult<Text<String>> {
                slf.get().pipe.repr(slf)
            }

            /// Changes the protocol; `connection_made` is not called.
            fn set_protocol(&self, protocol: Bound<'_, PyAny>) -> PyResult<()> {
                self.pipe.set_protocol(protocol)
            }

            fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
                self.pipe.get_protocol(py)
            }

            fn close(&self, py: Python<'_>) -> PyResult<()> {
                self.pipe.close(py)
            }

            fn _call_connection_lost(slf: &Bound<'_, Self>, exc: Bound<'_, PyAny>) -> PyResult<()> {
                PipeRef::$end(slf.clone().unbind()).lose(slf.py(), &exc)
            }

            #[getter]
            fn _pipe(&self, py: Python<'_>) -> Option<Py<PyAny>> {
                self.pipe.object(py)
            }

            #[setter(_pipe)]
            fn set_pipe(&self, pipe: Option<Bound<'_, PyAny>>) {
                self.pipe.replace_object(pipe);
            }

            #[getter]
            fn _closing(&self) -> bool {
                self.pipe.info().closing
            }

            #[getter]
            fn _fileno(&self) -> Int<i32> {
                Int(self.pipe.number)
            }

            #[getter]
            fn _loop(&self, py: Python<'_>) -> Option<Py<BaseLoop>> {
                self.pipe.loop_of(py)
            }

            #[getter]
            fn _protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
                self.pipe.get_protocol(py)
            }

            $($own)*
        }
    };
}

pipe_methods! {
    impl ReadPipeTransport as Read;

    fn is_reading(&self) -> bool {
        self.pipe.info().reading
    }

    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let pipe = &slf.get().pipe;
        if pipe.engine().pause_reading(pipe.token) {
            debug(pipe.event_loop(slf.py()), slf, "%r pauses reading")?;
        }
        Ok(())
    }

    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (pipe, py) = (&slf.get().pipe, slf.py());
        if pipe.engine().resume_reading(pipe.token) {
            reading_resumed(pipe.event_loop(py), slf, |context| {
                pipe.parts.lock().read_context.replace(context)
            })?;
        }
        Ok(())
    }

    fn is_closing(&self) -> bool {
        self.pipe.info().closing
    }

    #[getter]
    fn _paused(&self) -> bool {
        self.pipe.info().reading_paused
    }
}

pipe_methods! {
    impl WritePipeTransport as Write;

    /// Writes bytes, bytearray or memoryview; never blocks.
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let (pipe, py) = (&slf.get().pipe, slf.py());
        let (engine, cx) = (pipe.engine(), pipe.event_loop(py));
        let written = if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            engine.write(cx, pipe.token, &BytesData(bytes))?
        } else {
            if !is_bytes_like(data) {
                return Err(PyAssertionError::new_err(data.repr()?.unbind()));
            }
            check_dimensions(data)?;
            match bytes_of(data) {
                Ok(bytes) => engine.write(cx, pipe.token, &BytesData(&bytes))?,
                Err(error)
                    if error.is_instance_of::<PyMemoryError>(py)
                        || !error.is_instance_of::<PyException>(py) =>
                {
                    return Err(error);
                }
                Err(_) if pipe.info().closing => Written::Lost,
                // Memory that cannot be written: what os.write raises ends the connection.
                Err(error) => {
                    pipe.late_writes.count();
                    return PipeRef::Write(slf.clone().unbind()).write_failed(cx, error);
                }
            }
        };
        match written {
            Written::Taken => Ok(()),
            Written::Closed => cx.get().check_closed(),
            Written::NoMemory => Err(PyMemoryError::new_err(())),
            _ => pipe.late_writes.note(py, WRITE_RAISED),
        }
    }

    /// Writes what the items of an iterable are, joined.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let joined = objects::bytes(slf.py(), b"")?.call_method1(Text("join"), (list_of_data,))?;
        Self::write(slf, &joined)
    }

    /// Closes the pipe: that is how its reader sees the end of the stream.
    fn write_eof(&self, py: Python<'_>) -> PyResult<()> {
        self.pipe.close(py)
    }

    fn can_write_eof(&self) -> bool {
        true
    }

    fn get_write_buffer_size(&self, py: Python<'_>) -> PyResult<Int<usize>> {
        self.pipe.flush(py)?;
        Ok(Int(self.pipe.engine().write_buffer_size(self.pipe.token)))
    }

    /// `(low, high)`, bytes.
    fn get_write_buffer_limits(&self) -> Pair<Int<usize>, Int<usize>> {
        let limits = self.pipe.engine().write_buffer_limits(self.pipe.token);
        Pair(Int(limits.low()), Int(limits.high()))
    }

    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (limits, cx) = (limits(py, high, low, DEFAULT_HIGH)?, self.pipe.event_loop(py));
        self.pipe.engine().set_write_buffer_limits(cx, self.pipe.token, limits)
    }

    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        self.pipe.is_closing(py)
    }

    /// Drops what is queued; `connection_lost(None)` follows in a later turn.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        let pipe = &slf.get().pipe;
        pipe.flush(slf.py())?;
        PipeRef::Write(slf.clone().unbind()).force_close(pipe.event_loop(slf.py()), None)
    }
}
