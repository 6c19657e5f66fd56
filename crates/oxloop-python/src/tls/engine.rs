//! An `ssl.SSLObject` between two `ssl.MemoryBIO`s, or on a BIO of ours in their place: ciphertext
//! in, ciphertext out.
//!
//! A read that finds nothing raises SSLWantReadError, which costs more than a record's
//! decryption: so nothing is read unless the BIO, or the object, holds something.

use super::protocol::Below;
use crate::error::memory_error;
use crate::event_loop::BaseLoop;
use crate::ffi::bytes::{bytes_of, filled_by};
use crate::ffi::calls;
use crate::ffi::objects::{self, Int, Text, interned};
use crate::ffi::openssl::{self, Wire, recycle};
use oxloop::tls::{Failed, Progress, Pulled};
use pyo3::exceptions::PyMemoryError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The most plain text of one TLS record, bytes (RFC 8446, 5.1): a read returns no more.
const RECORD: usize = 16 * 1024;
/// So much ciphertext is taken at once, bytes: below glibc's mmap threshold (128 KiB).
const TAKE: usize = 112 * 1024;

/// What is needed of the `ssl` module.
struct Names {
    want_read: Py<PyAny>,
    syscall: Py<PyAny>,
    error: Py<PyAny>,
    certificate_error: Py<PyAny>,
    ssl_object: Py<PyAny>,
}

fn names(py: Python<'_>) -> PyResult<&Names> {
    static NAMES: PyOnceLock<Names> = PyOnceLock::new();
    NAMES.get_or_try_init(py, || {
        let ssl = py.import(Text("ssl"))?;
        let get = |name: &str| PyResult::Ok(ssl.getattr(Text(name))?.unbind());
        PyResult::Ok(Names {
            want_read: get("SSLWantReadError")?,
            syscall: get("SSLSyscallError")?,
            error: get("SSLError")?,
            certificate_error: get("CertificateError")?,
            ssl_object: get("SSLObject")?,
        })
    })
}

/// Whether an error only says "when more has come in" (asyncio's `SSLAgainErrors`).
fn is_again(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    let names = names(py)?;
    let is = |class: &Py<PyAny>| error.is_instance(py, class.bind(py));
    Ok(is(&names.want_read) || is(&names.syscall))
}

/// Whether an error says that a certificate is not to be trusted.
pub(super) fn is_certificate_error(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    Ok(error.is_instance(py, names(py)?.certificate_error.bind(py)))
}

/// What a read found.
pub(super) enum Read<T> {
    Data(T),
    /// Nothing, or not a whole record.
    Again,
    /// The peer's closing alert.
    CloseNotify,
}

/// What is under the SSLObject.
enum Bios {
    /// A BIO of ours.
    Wire(Arc<Wire>),
    /// Python's two.
    Memory {
        incoming: Py<PyAny>,
        outgoing: Py<PyAny>,
        /// Bytes in `incoming`, as of the last look.
        pending: AtomicUsize,
    },
}

/// The engine of one connection.
pub(super) struct SslEngine {
    /// The SSLObject, as programs see it.
    pub(super) object: Py<PyAny>,
    /// Who is asked to read and write: the object that the SSLObject wraps, or the SSLObject
    /// itself where it is of a class of the program's.
    session: Py<PyAny>,
    bios: Bios,
    /// Whether the object may hold a part of a record, or of a record's text.
    holds_part: AtomicBool,
    /// Whether closing alerts have gone both ways: a read is an error from then on. Only one that
    /// asked for a buffer before, from a protocol that closed in `get_buffer`, comes so late.
    unwrapped: AtomicBool,
}

impl SslEngine {
    /// The engine of an SSLObject that was made of `context` with these two BIOs.
    pub(super) fn new(
        context: &Bound<'_, PyAny>,
        object: Bound<'_, PyAny>,
        incoming: Bound<'_, PyAny>,
        outgoing: Bound<'_, PyAny>,
    ) -> PyResult<SslEngine> {
        let py = object.py();
        let stock = object.get_type().is(names(py)?.ssl_object.bind(py));
        let inner = if stock { object.getattr_opt(Text("_sslobj"))? } else { None };
        let wire = match &inner {
            Some(inner) => openssl::attach(inner, context)?,
            None => None,
        };
        let bios = match wire {
            Some(wire) => Bios::Wire(wire),
            None => Bios::Memory {
                incoming: incoming.unbind(),
                outgoing: outgoing.unbind(),
                pending: AtomicUsize::new(0),
            },
        };
        Ok(SslEngine {
            session: inner.unwrap_or_else(|| object.clone()).unbind(),
            object: object.unbind(),
            bios,
            holds_part: AtomicBool::new(false),
            unwrapped: AtomicBool::new(false),
        })
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        visit.call(&self.session)?;
        match &self.bios {
            Bios::Wire(_) => Ok(()),
            Bios::Memory { incoming, outgoing, .. } => {
                visit.call(incoming)?;
                visit.call(outgoing)
            }
        }
    }

    /// Whether ciphertext goes straight into the engine's own memory.
    pub(super) fn wire(&self) -> Option<&Wire> {
        match &self.bios {
            Bios::Wire(wire) => Some(wire),
            Bios::Memory { .. } => None,
        }
    }

    /// Ciphertext has come in: any bytes-like object.
    #[inline]
    pub(super) fn feed(&self, ciphertext: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = ciphertext.py();
        match &self.bios {
            Bios::Wire(wire) => match ciphertext.cast_exact::<PyBytes>() {
                Ok(bytes) => wire.feed(bytes.as_bytes()),
                Err(_) => wire.feed(bytes_of(ciphertext)?.as_bytes()),
            }
            .map_err(memory_error)?,
            Bios::Memory { incoming, .. } => {
                calls::method(incoming.bind(py), interned!(py, "write")?, [ciphertext])?;
            }
        }
        self.look(py)
    }

    /// Notes how much ciphertext waits.
    #[inline]
    fn look(&self, py: Python<'_>) -> PyResult<()> {
        if let Bios::Memory { incoming, pending, .. } = &self.bios {
            let seen = incoming.bind(py).getattr(interned!(py, "pending")?)?.extract()?;
            pending.store(seen, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Received ciphertext that is not decrypted yet, bytes.
    #[inline]
    pub(super) fn pending(&self) -> usize {
        match &self.bios {
            Bios::Wire(wire) => wire.incoming(),
            Bios::Memory { pending, .. } => pending.load(Ordering::Relaxed),
        }
    }

    /// Ciphertext that nobody has taken yet, bytes.
    pub(super) fn outgoing(&self, py: Python<'_>) -> PyResult<usize> {
        match &self.bios {
            Bios::Wire(wire) => Ok(wire.outgoing()),
            Bios::Memory { outgoing, .. } => {
                outgoing.bind(py).getattr(interned!(py, "pending")?)?.extract()
            }
        }
    }

    /// What a call of OpenSSL's came to: MemoryError where the wire had no memory for a record,
    /// whatever OpenSSL makes of that. What comes after it could not be read.
    #[inline]
    fn known<T>(&self, called: PyResult<T>) -> PyResult<T> {
        match &self.bios {
            Bios::Wire(wire) if wire.has_failed() => Err(PyMemoryError::new_err(())),
            _ => called,
        }
    }

    /// One step of the handshake.
    pub(super) fn handshake(&self, py: Python<'_>) -> Result<Progress, Failed<PyErr>> {
        self.step(py, interned!(py, "do_handshake").map_err(Failed::Other)?)
    }

    /// One step of the exchange of closing alerts.
    pub(super) fn unwrap(&self, py: Python<'_>) -> Result<Progress, Failed<PyErr>> {
        let progress = self.step(py, interned!(py, "unwrap").map_err(Failed::Other)?);
        if matches!(progress, Ok(Progress::Done)) {
            self.unwrapped.store(true, Ordering::Relaxed);
        }
        progress
    }

    fn step(
        &self,
        py: Python<'_>,
        name: &Bound<'_, pyo3::types::PyString>,
    ) -> Result<Progress, Failed<PyErr>> {
        let called = self.known(calls::method(self.object.bind(py), name, []));
        // Runs no Python code: it reads a number of a MemoryBIO.
        self.look(py).map_err(Failed::Other)?;
        let Err(error) = called else { return Ok(Progress::Done) };
        if is_again(py, &error).map_err(Failed::Other)? {
            return Ok(Progress::Again);
        }
        let names = names(py).map_err(Failed::Other)?;
        if error.is_instance(py, names.error.bind(py)) {
            Err(Failed::Tls(error))
        } else {
            Err(Failed::Other(error))
        }
    }

    /// Whether a read could find anything, or fail.
    #[inline]
    pub(super) fn may_read(&self, py: Python<'_>) -> PyResult<bool> {
        if self.pending() > 0 || self.unwrapped.load(Ordering::Relaxed) {
            return Ok(true);
        }
        if !self.holds_part.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let held: usize =
            calls::method(self.session.bind(py), interned!(py, "pending")?, [])?.extract()?;
        Ok(held > 0)
    }

    /// Reads all that is there: the data, and what came behind it. What an error follows is not
    /// lost.
    #[inline]
    pub(super) fn read_all<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Option<Bound<'py, PyBytes>>, PyResult<Pulled>)> {
        let (data, mut ended) = self.read_several(py)?;
        let Some(first) = data else { return Ok((None, ended)) };
        if !(matches!(ended, Ok(Pulled::Again)) && self.may_read(py)?) {
            return Ok((Some(first), ended));
        }
        let mut pieces = Vec::new();
        pieces.try_reserve(1).map_err(memory_error)?;
        pieces.push(first);
        while matches!(ended, Ok(Pulled::Again)) {
            let (data, next) = self.read_several(py)?;
            ended = next;
            match data {
                Some(data) => {
                    pieces.try_reserve(1).map_err(memory_error)?;
                    pieces.push(data);
                }
                None => break,
            }
        }
        let joined = objects::bytes(py, b"")?
            .call_method1(interned!(py, "join")?, (objects::list(py, &pieces)?,))?;
        Ok((Some(joined.cast_into()?), ended))
    }

    /// Reads as much as the present look at the BIO lets expect.
    #[inline]
    fn read_several<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Option<Bound<'py, PyBytes>>, PyResult<Pulled>)> {
        if self.pending() <= RECORD {
            return Ok(match self.read(py) {
                Ok(Read::Data(data)) => (Some(data), Ok(Pulled::Again)),
                Ok(Read::Again) => (None, Ok(Pulled::Again)),
                Ok(Read::CloseNotify) => (None, Ok(Pulled::CloseNotify)),
                Err(error) => (None, Err(error)),
            });
        }
        let part = self.holds_part.load(Ordering::Relaxed);
        // No record's text is longer than its ciphertext.
        let room = self.pending() + if part { RECORD } else { 0 };
        let mut ended = Ok(Pulled::Again);
        let data = filled_by(py, room, |view, size| {
            ended = match self.read_into(view, size) {
                Ok(Read::Data(count)) => return Ok(Some(count)),
                Ok(Read::Again) => Ok(Pulled::Again),
                Ok(Read::CloseNotify) => Ok(Pulled::CloseNotify),
                Err(error) => Err(error),
            };
            Ok(None)
        })?;
        Ok((Some(data).filter(|data| !data.as_bytes().is_empty()), ended))
    }

    /// Reads what one record holds.
    #[inline]
    fn read<'py>(&self, py: Python<'py>) -> PyResult<Read<Bound<'py, PyBytes>>> {
        if !self.may_read(py)? {
            return Ok(Read::Again);
        }
        let part = self.holds_part.load(Ordering::Relaxed);
        let room = if part { RECORD } else { self.pending().min(RECORD) };
        let size = Int(room).into_pyobject(py)?;
        let called = calls::method(self.session.bind(py), interned!(py, "read")?, [size.as_any()]);
        let called = self.known(called);
        self.look(py)?;
        let data = match called {
            Ok(data) => data.cast_into::<PyBytes>()?,
            Err(error) => return self.again(py, error),
        };
        let count = data.as_bytes().len();
        self.holds_part.store(count == room, Ordering::Relaxed);
        Ok(if count == 0 { Read::CloseNotify } else { Read::Data(data) })
    }

    /// Reads into `room`, a writable buffer of `size` bytes.
    pub(super) fn read_into(&self, room: &Bound<'_, PyAny>, size: usize) -> PyResult<Read<usize>> {
        let py = room.py();
        // asyncio takes an empty buffer for the end, as the engine answers 0.
        if size > 0 && !self.may_read(py)? {
            return Ok(Read::Again);
        }
        let wanted = Int(size).into_pyobject(py)?;
        let arguments = [wanted.as_any(), room];
        let called = calls::method(self.session.bind(py), interned!(py, "read")?, arguments);
        let called = self.known(called);
        self.look(py)?;
        let count: usize = match called {
            Ok(count) => count.extract()?,
            Err(error) => return self.again(py, error),
        };
        self.holds_part.store(count == size, Ordering::Relaxed);
        Ok(if count == 0 { Read::CloseNotify } else { Read::Data(count) })
    }

    #[cold]
    fn again<T>(&self, py: Python<'_>, error: PyErr) -> PyResult<Read<T>> {
        if !is_again(py, &error)? {
            return Err(error);
        }
        self.holds_part.store(true, Ordering::Relaxed);
        Ok(Read::Again)
    }

    /// Encrypts `data`; how much of it, or `None` where that has to wait for the peer.
    #[inline]
    pub(super) fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
        let py = data.py();
        let called = calls::method(self.session.bind(py), interned!(py, "write")?, [data]);
        match self.known(called) {
            Ok(count) => Ok(Some(count.extract()?)),
            Err(error) if is_again(py, &error)? => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets what nobody has taken: there is nobody to send it to.
    pub(super) fn discard(&self, py: Python<'_>) -> PyResult<()> {
        match &self.bios {
            Bios::Wire(wire) => {
                recycle(wire.take());
                Ok(())
            }
            Bios::Memory { outgoing, .. } => {
                calls::method(outgoing.bind(py), interned!(py, "read")?, []).map(drop)
            }
        }
    }

    /// Hands the ciphertext that is to be sent to `below`.
    #[inline]
    pub(super) fn send(&self, cx: &Bound<'_, BaseLoop>, below: &Below) -> PyResult<()> {
        let py = cx.py();
        match &self.bios {
            Bios::Wire(wire) => {
                let ciphertext = wire.take();
                if ciphertext.is_empty() {
                    return Ok(());
                }
                let sent = below.write(cx, &ciphertext);
                recycle(ciphertext);
                sent
            }
            Bios::Memory { outgoing, .. } => loop {
                let size = Int(TAKE).into_pyobject(py)?;
                let arguments = [size.as_any()];
                let taken = calls::method(outgoing.bind(py), interned!(py, "read")?, arguments)?;
                let taken = taken.cast_into::<PyBytes>()?;
                if taken.as_bytes().is_empty() {
                    return Ok(());
                }
                below.write_bytes(cx, &taken)?;
                if taken.as_bytes().len() < TAKE {
                    return Ok(());
                }
            },
        }
    }
}
