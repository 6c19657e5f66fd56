//! Where a transport has its protocol, how it calls it, and how it reports on it.

use super::cell::Erased;
use crate::error::Error;
use crate::event_loop::ExceptionContext;
use crate::event_loop::core::{Core, Panicked};
use parking_lot::Mutex;
use std::sync::Arc;

/// The protocol of a transport; none before there is one, and once the transport is lost. No
/// protocol is dropped under the lock.
pub(crate) struct ProtocolSlot<P: ?Sized>(Mutex<Option<Arc<P>>>);

impl<P: ?Sized> ProtocolSlot<P> {
    pub(crate) fn new(protocol: Option<Arc<P>>) -> ProtocolSlot<P> {
        ProtocolSlot(Mutex::new(protocol))
    }

    pub(crate) fn get(&self) -> Option<Arc<P>> {
        self.0.lock().clone()
    }

    pub(crate) fn set(&self, protocol: Arc<P>) {
        let old = self.0.lock().replace(protocol);
        drop(old);
    }

    /// Puts another one in its place; the one before lives on until its running callback has
    /// returned. What is lost has no protocol and needs none.
    pub(crate) fn replace(&self, protocol: Arc<P>) {
        let mut slot = self.0.lock();
        let old = if slot.is_some() { slot.replace(protocol) } else { Some(protocol) };
        drop(slot);
        drop(old);
    }

    /// Lets go of it: nobody is told any more.
    pub(crate) fn take(&self) -> Option<Arc<P>> {
        self.0.lock().take()
    }
}

/// A transport, as its protocol's callbacks are called and reported on.
pub(crate) trait Caller {
    type Protocol: Erased + ?Sized;

    fn core(&self) -> &Arc<Core>;

    /// The protocol, until the transport is lost.
    fn current_protocol(&self) -> Option<Arc<Self::Protocol>>;

    /// The context with this transport in it.
    fn describe(&self, context: ExceptionContext) -> ExceptionContext;

    /// Calls the protocol; a panic goes to the exception handler.
    fn call(&self, name: &str, f: impl FnOnce(&Self::Protocol) -> Result<(), Panicked>) {
        let Some(protocol) = self.current_protocol() else { return };
        if let Err(panic) = f(&*protocol) {
            let class = protocol.type_name();
            self.report(format!("Exception in callback {class}::{name}"), panic);
        }
    }

    /// Tells the exception handler of an error of this transport.
    fn report(&self, message: impl Into<String>, error: impl Into<Error>) {
        let protocol = self.current_protocol().map(|protocol| protocol.type_name());
        let context = ExceptionContext::new(message).error(error).protocol(protocol);
        self.core().report(self.describe(context));
    }
}
