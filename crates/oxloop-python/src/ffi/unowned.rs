//! References to transports that keep nothing alive.

#[cfg(Py_GIL_DISABLED)]
pub(crate) use weak::Unowned;
#[cfg(not(Py_GIL_DISABLED))]
pub(crate) use with_gil::Unowned;

#[cfg(not(Py_GIL_DISABLED))]
mod with_gil {
    use pyo3::ffi;
    use pyo3::prelude::*;
    use std::marker::PhantomData;
    use std::ptr::NonNull;

    /// The address of a transport, which has it removed before its memory goes (see
    /// `Engine::remove_handler`).
    pub(crate) struct Unowned<T>(NonNull<ffi::PyObject>, PhantomData<Py<T>>);

    // SAFETY: an address, which is followed only by `upgrade`, attached.
    unsafe impl<T> Send for Unowned<T> {}

    impl<T> Unowned<T> {
        /// The address of an object; always there, unlike a weak reference.
        pub(crate) fn new(object: &Py<T>) -> Option<Unowned<T>> {
            NonNull::new(object.as_ptr()).map(|object| Unowned(object, PhantomData))
        }

        /// A counted reference to the object.
        pub(crate) fn upgrade(&self) -> Option<Py<T>> {
            // SAFETY: the engine upgrades in methods that are entered attached. A transport's drop
            // removes its handler from the engine before it does anything else, and PyO3 drops the
            // value before it frees the object or runs other code. This type exists only with a
            // global interpreter lock, so no thread comes in between: the object is alive, and it
            // is a `T`, as it was made from a `Py<T>`.
            unsafe {
                let py = Python::assume_attached();
                let object = Bound::<PyAny>::from_borrowed_ptr(py, self.0.as_ptr());
                Some(object.cast_into_unchecked().unbind())
            }
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod weak {
    use pyo3::PyClass;
    use pyo3::prelude::*;
    use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

    /// A weak reference: another thread may drop the last counted one at any moment.
    pub(crate) struct Unowned<T>(Py<PyWeakrefReference>, std::marker::PhantomData<Py<T>>);

    impl<T: PyClass> Unowned<T> {
        /// `None` without memory: then the object stays owned.
        pub(crate) fn new(object: &Py<T>) -> Option<Unowned<T>> {
            // SAFETY: the engine asks in methods that are entered attached.
            let py = unsafe { Python::assume_attached() };
            let weak = PyWeakrefReference::new(object.bind(py).as_any()).ok()?;
            Some(Unowned(weak.unbind(), std::marker::PhantomData))
        }

        /// A counted reference to the object, if it is alive.
        pub(crate) fn upgrade(&self) -> Option<Py<T>> {
            // SAFETY: as above.
            let py = unsafe { Python::assume_attached() };
            let object = self.0.bind(py).upgrade()?;
            Some(object.cast_into::<T>().ok()?.unbind())
        }
    }
}
