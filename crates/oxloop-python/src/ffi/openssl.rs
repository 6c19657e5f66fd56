//! Bytes between OpenSSL and us without `ssl.MemoryBIO`: a BIO of our own under the caller's
//! SSLObject.
//!
//! A MemoryBIO clears and copies what goes in, and copies it once more into a `bytes` object on its
//! way out: four passes over each message. Here OpenSSL reads from the memory that recv(2) has
//! filled, and writes to the memory that send(2) is handed. All else stays with Python's `ssl`
//! module: who reads, writes and shakes hands is the SSLObject, with its locks, callbacks and
//! exceptions.
//!
//! It needs the `SSL *` of the SSLObject, which Python does not give out, and the functions of the
//! very libssl that `_ssl` uses. [`attach`] looks for both and says where it finds them not as it
//! knows them: then the MemoryBIOs stay.

use crate::ffi::objects::Text;
use oxloop::engine::{append, copied};
use parking_lot::Mutex;
use pyo3::ffi;
use pyo3::prelude::*;
use std::cell::RefCell;
use std::collections::TryReserveError;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The name of the environment variable which keeps the MemoryBIOs ("memory").
const SWITCH: &str = "OXLOOP_TLS_BIO";
/// What one read from a socket takes, bytes: the `bytes` object made of it stays below glibc's
/// mmap threshold (128 KiB).
const READ: usize = 112 * 1024;
/// Memory that is kept for the next connection has at most so much room, bytes.
const SPARE: usize = 256 * 1024;

// OpenSSL's constants (bio.h).
const BIO_TYPE_SOURCE_SINK: c_int = 0x0400;
const BIO_FLAGS_RWS: c_int = 0x07;
const BIO_FLAGS_READ: c_int = 0x01;
const BIO_FLAGS_SHOULD_RETRY: c_int = 0x08;
const BIO_CTRL_PENDING: c_int = 10;
const BIO_CTRL_FLUSH: c_int = 11;
const BIO_CTRL_DUP: c_int = 12;

/// Received ciphertext: what OpenSSL has not read yet is `data[start..end]`.
#[derive(Default)]
struct Incoming {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn unread(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or(&[])
    }
}

/// What is under an SSLObject, shared by its BIO and its connection. Its locks are held for a copy
/// of bytes or one recv(2) only.
#[derive(Default)]
pub(crate) struct Wire {
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Vec<u8>>,
    /// There was no memory for a record of OpenSSL's: the peer could read nothing any more.
    failed: AtomicBool,
}

thread_local! {
    /// Memory for the connection that receives next, and for the one that sends: most are idle.
    static RECEIVING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SENDING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wire {
    /// Ciphertext that OpenSSL has not read yet, bytes.
    #[inline]
    pub(crate) fn incoming(&self) -> usize {
        self.incoming.lock().unread().len()
    }

    /// Ciphertext that OpenSSL has written and nobody has taken yet, bytes.
    #[inline]
    pub(crate) fn outgoing(&self) -> usize {
        self.outgoing.lock().len()
    }

    /// Whether a record of OpenSSL's is lost for want of memory.
    #[inline]
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Adds ciphertext; nothing of it if there is no memory.
    pub(crate) fn feed(&self, ciphertext: &[u8]) -> Result<(), TryReserveError> {
        let mut incoming = self.incoming.lock();
        let mut data = Vec::new();
        data.try_reserve_exact(incoming.unread().len() + ciphertext.len())?;
        data.extend_from_slice(incoming.unread());
        data.extend_from_slice(ciphertext);
        *incoming = Incoming { start: 0, end: data.len(), data };
        Ok(())
    }

    /// Reads ciphertext by one call of `recv`; [`settle`](Self::settle) is due when OpenSSL has
    /// had its look at it.
    #[inline]
    pub(crate) fn receive(
        &self,
        recv: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut memory = RECEIVING.take();
        let mut incoming = self.incoming.lock();
        let unread = incoming.unread().len();
        if memory.len() < unread + READ {
            memory.try_reserve(unread + READ - memory.len())?;
            memory.resize(unread + READ, 0);
        }
        memory[..unread].copy_from_slice(incoming.unread());
        match recv(&mut memory[unread..unread + READ]) {
            Ok(count) => {
                *incoming = Incoming { data: memory, start: 0, end: unread + count };
                Ok(count)
            }
            Err(error) => {
                keep(&RECEIVING, memory);
                Err(error)
            }
        }
    }

    /// Gives the memory of the last [`receive`](Self::receive) back, for others to use.
    #[inline]
    pub(crate) fn settle(&self) {
        let mut incoming = self.incoming.lock();
        // Without memory for what is left it stays where it is.
        let Ok(rest) = copied(incoming.unread()) else { return };
        let end = rest.len();
        let memory = std::mem::replace(&mut *incoming, Incoming { data: rest, start: 0, end }).data;
        drop(incoming);
        keep(&RECEIVING, memory);
    }

    /// Takes what OpenSSL has written; [`recycle`] it.
    #[inline]
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.outgoing.lock())
    }
}

/// Gives memory that was [taken](Wire::take) back.
#[inline]
pub(crate) fn recycle(mut memory: Vec<u8>) {
    memory.clear();
    keep(&SENDING, memory);
}

fn keep(place: &'static std::thread::LocalKey<RefCell<Vec<u8>>>, memory: Vec<u8>) {
    if memory.capacity() <= SPARE {
        #[expect(clippy::let_underscore_must_use, reason = "freed where the thread ends")]
        let _ = place.try_with(|place| {
            let mut kept = place.borrow_mut();
            if kept.capacity() < memory.capacity() {
                *kept = memory;
            }
        });
    }
}

type Read = unsafe extern "C" fn(*mut c_void, *mut c_char, c_int) -> c_int;
type Write = unsafe extern "C" fn(*mut c_void, *const c_char, c_int) -> c_int;
type Ctrl = unsafe extern "C" fn(*mut c_void, c_int, c_long, *mut c_void) -> c_long;
type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;

/// The functions of the libssl and libcrypto that Python's `_ssl` is linked to.
struct OpenSsl {
    bio_new: unsafe extern "C" fn(*const c_void) -> *mut c_void,
    bio_set_data: unsafe extern "C" fn(*mut c_void, *mut c_void),
    bio_get_data: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    bio_set_init: unsafe extern "C" fn(*mut c_void, c_int),
    bio_set_flags: unsafe extern "C" fn(*mut c_void, c_int),
    bio_clear_flags: unsafe extern "C" fn(*mut c_void, c_int),
    ssl_set_bio: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void),
    ssl_get_ex_data: unsafe extern "C" fn(*const c_void, c_int) -> *mut c_void,
    /// The BIO_METHOD of a [`Wire`].
    method: *mut c_void,
    /// `_ssl._SSLSocket`.
    class: *mut ffi::PyTypeObject,
}

// SAFETY: addresses of functions, and of objects that live for ever and are not changed.
unsafe impl Send for OpenSsl {}
// SAFETY: as above.
unsafe impl Sync for OpenSsl {}

/// Not a PyOnceLock: OpenSSL's callbacks may come without the interpreter's lock.
static OPENSSL: OnceLock<Option<OpenSsl>> = OnceLock::new();

/// Puts a [`Wire`] in the place of the MemoryBIOs of an SSLObject's inner object, which was made
/// with `context` and has not been used yet. `None` where that cannot be done.
pub(crate) fn attach(
    session: &Bound<'_, PyAny>,
    context: &Bound<'_, PyAny>,
) -> PyResult<Option<Arc<Wire>>> {
    let openssl = match OPENSSL.get() {
        Some(openssl) => openssl,
        None => {
            // Nothing that waits for Python may run inside of the lock's initialisation.
            let loaded = load(session.py())?;
            OPENSSL.get_or_init(|| loaded)
        }
    };
    let Some(openssl) = openssl else { return Ok(None) };
    let Some(ssl) = openssl.session_of(session, context) else { return Ok(None) };
    let wire = Arc::new(Wire::default());
    // SAFETY: the functions are OpenSSL's with their documented types. `ssl` is the session of a
    // live object that nobody uses yet; it takes over the one reference to the BIO (SSL_set_bio
    // with the same BIO twice), and the BIO one to the wire, which `destroy` drops.
    unsafe {
        let bio = (openssl.bio_new)(openssl.method);
        if bio.is_null() {
            return Ok(None);
        }
        (openssl.bio_set_data)(bio, Arc::into_raw(wire.clone()).cast_mut().cast());
        (openssl.bio_set_init)(bio, 1);
        (openssl.ssl_set_bio)(ssl, bio, bio);
    }
    Ok(Some(wire))
}

impl OpenSsl {
    /// The `SSL *` of an `_ssl._SSLSocket`: the word before its context, and OpenSSL says of it
    /// that it belongs to that object.
    fn session_of(
        &self,
        session: &Bound<'_, PyAny>,
        context: &Bound<'_, PyAny>,
    ) -> Option<*mut c_void> {
        // SAFETY: attached; an object of exactly that type, whose size is checked. CPython 3.10 to
        // 3.14 lay it out as the object's head, `Socket`, `ssl`, `ctx` (Modules/_ssl.c): that
        // `ctx` is where it should be is checked before `ssl` is believed to be an `SSL *`, whose
        // application data CPython has set to the object.
        unsafe {
            let object = session.as_ptr();
            if ffi::Py_TYPE(object) != self.class {
                return None;
            }
            let words = object.cast::<u8>().add(size_of::<ffi::PyObject>()).cast::<*mut c_void>();
            let size = (*self.class).tp_basicsize as usize;
            if size < size_of::<ffi::PyObject>() + 3 * size_of::<*mut c_void>() {
                return None;
            }
            let (ssl, ctx) = (*words.add(1), *words.add(2));
            let known = ctx == context.as_ptr().cast() && !ssl.is_null();
            (known && (self.ssl_get_ex_data)(ssl, 0) == object.cast()).then_some(ssl)
        }
    }
}

/// Looks for OpenSSL's functions, and makes the BIO_METHOD.
fn load(py: Python<'_>) -> PyResult<Option<OpenSsl>> {
    // Where Python has no global lock, or is newer than the layouts that were looked at.
    if cfg!(Py_GIL_DISABLED)
        || py.version_info() >= (3, 16)
        || std::env::var_os(SWITCH).is_some_and(|s| s == "memory")
    {
        return Ok(None);
    }
    let module = py.import(Text("_ssl"))?;
    // Built into the interpreter: whose symbols nobody can know.
    let Some(file) = module.getattr_opt(Text("__file__"))? else { return Ok(None) };
    let Ok(file) = CString::new(file.extract::<String>()?) else { return Ok(None) };
    let class = module.getattr(Text("_SSLSocket"))?.as_ptr().cast();
    // SAFETY: a NUL-terminated path; NOLOAD asks for a library that is loaded already and stays
    // loaded, as extension modules are never unloaded.
    let library = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NOW) };
    if library.is_null() {
        return Ok(None);
    }
    Ok(functions(library, class))
}

#[allow(clippy::missing_transmute_annotations, reason = "who takes the function says its type")]
fn functions(library: *mut c_void, class: *mut ffi::PyTypeObject) -> Option<OpenSsl> {
    // In the library itself and what it is linked to, no other.
    let find = |name: &CStr| {
        // SAFETY: a live handle and a NUL-terminated name.
        let function = unsafe { libc::dlsym(library, name.as_ptr()) };
        (!function.is_null()).then_some(function)
    };
    /// The address of a function under its documented type.
    macro_rules! function {
        ($name:literal) => {{
            let function = find($name)?;
            // SAFETY: OpenSSL 1.1.1 to 3 document the function with the type that is asked for.
            unsafe { std::mem::transmute(function) }
        }};
    }
    let new_index: unsafe extern "C" fn() -> c_int = function!(c"BIO_get_new_index");
    let meth_new: unsafe extern "C" fn(c_int, *const c_char) -> *mut c_void =
        function!(c"BIO_meth_new");
    let set_read: unsafe extern "C" fn(*mut c_void, Read) -> c_int =
        function!(c"BIO_meth_set_read");
    let set_write: unsafe extern "C" fn(*mut c_void, Write) -> c_int =
        function!(c"BIO_meth_set_write");
    let set_ctrl: unsafe extern "C" fn(*mut c_void, Ctrl) -> c_int =
        function!(c"BIO_meth_set_ctrl");
    let set_destroy: unsafe extern "C" fn(*mut c_void, Destroy) -> c_int =
        function!(c"BIO_meth_set_destroy");
    let mut openssl = OpenSsl {
        bio_new: function!(c"BIO_new"),
        bio_set_data: function!(c"BIO_set_data"),
        bio_get_data: function!(c"BIO_get_data"),
        bio_set_init: function!(c"BIO_set_init"),
        bio_set_flags: function!(c"BIO_set_flags"),
        bio_clear_flags: function!(c"BIO_clear_flags"),
        ssl_set_bio: function!(c"SSL_set_bio"),
        ssl_get_ex_data: function!(c"SSL_get_ex_data"),
        method: std::ptr::null_mut(),
        class,
    };
    // SAFETY: documented functions; the callbacks have the types that they are set as.
    unsafe {
        let method = meth_new(new_index() | BIO_TYPE_SOURCE_SINK, c"oxloop".as_ptr());
        if method.is_null() {
            return None;
        }
        set_read(method, read);
        set_write(method, write);
        set_ctrl(method, ctrl);
        set_destroy(method, destroy);
        openssl.method = method;
    }
    Some(openssl)
}

/// The wire of a BIO of ours; `None` for one that was never given any.
///
/// # Safety
/// OpenSSL calls with a live BIO of our method.
unsafe fn wire_of<'a>(bio: *mut c_void) -> Option<(&'static OpenSsl, &'a Wire)> {
    let openssl = OPENSSL.get()?.as_ref()?;
    // SAFETY: the data is what `attach` has set, a reference that `destroy` drops with the BIO.
    let wire = unsafe { (openssl.bio_get_data)(bio).cast::<Wire>().as_ref() }?;
    Some((openssl, wire))
}

unsafe extern "C" fn read(bio: *mut c_void, room: *mut c_char, size: c_int) -> c_int {
    // SAFETY: OpenSSL hands in a live BIO and `size` bytes to write to.
    unsafe {
        let Some((openssl, wire)) = wire_of(bio) else { return -1 };
        (openssl.bio_clear_flags)(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
        let Ok(size) = usize::try_from(size) else { return -1 };
        let mut incoming = wire.incoming.lock();
        let count = incoming.unread().len().min(size);
        if count == 0 {
            // More will come: SSLWantReadError.
            (openssl.bio_set_flags)(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
            return -1;
        }
        std::ptr::copy_nonoverlapping(incoming.unread().as_ptr(), room.cast(), count);
        incoming.start += count;
        count as c_int
    }
}

unsafe extern "C" fn write(bio: *mut c_void, data: *const c_char, size: c_int) -> c_int {
    // SAFETY: OpenSSL hands in a live BIO and `size` bytes to read.
    unsafe {
        let Some((openssl, wire)) = wire_of(bio) else { return -1 };
        (openssl.bio_clear_flags)(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
        let Ok(count) = usize::try_from(size) else { return -1 };
        let mut outgoing = wire.outgoing.lock();
        if outgoing.capacity() == 0 {
            *outgoing = SENDING.try_with(|spare| spare.take()).unwrap_or_default();
        }
        if append(&mut outgoing, std::slice::from_raw_parts(data.cast(), count)).is_err() {
            wire.failed.store(true, Ordering::Relaxed);
            return -1;
        }
        size
    }
}

unsafe extern "C" fn ctrl(bio: *mut c_void, command: c_int, _: c_long, _: *mut c_void) -> c_long {
    match command {
        BIO_CTRL_FLUSH | BIO_CTRL_DUP => 1,
        BIO_CTRL_PENDING => {
            // SAFETY: OpenSSL hands in a live BIO.
            let wire = unsafe { wire_of(bio) };
            wire.map_or(0, |(_, wire)| wire.incoming() as c_long)
        }
        _ => 0,
    }
}

unsafe extern "C" fn destroy(bio: *mut c_void) -> c_int {
    let Some(Some(openssl)) = OPENSSL.get() else { return 0 };
    // SAFETY: called once, when the last reference to the BIO goes; nobody uses its data any more.
    unsafe {
        let wire = (openssl.bio_get_data)(bio).cast::<Wire>();
        (openssl.bio_set_data)(bio, std::ptr::null_mut());
        if !wire.is_null() {
            drop(Arc::from_raw(wire.cast_const()));
        }
    }
    1
}
