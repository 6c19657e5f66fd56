//! Watching file descriptors (asyncio's section of that name), and waiting for one.

use super::EventLoop;
use super::core::Core;
use super::face::Callback;
use super::handle::Handle;
use super::owned::Owned;
use super::promise::promise;
use crate::engine::Side;
use crate::error::{Error, Misuse, Result};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

impl EventLoop {
    /// Calls back whenever the descriptor is readable: in each turn, until what there is to read
    /// was read. Takes the place of the reader that the descriptor had. From any thread.
    ///
    /// `descriptor` is a socket, a pipe, an `OwnedFd`, standard input or an `Arc` of one. The loop
    /// keeps it, so that it stays open, until the reader is removed, cancelled or replaced.
    ///
    /// Source: *loop.add_reader*.
    ///
    /// # Errors
    /// EPERM for what cannot be waited for (a regular file), [`Misuse::UsedByTransport`] for a
    /// descriptor of a connection or a server of this loop, [`Misuse::LoopClosed`].
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    /// use std::sync::Arc;
    ///
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// let (ours, stopper) = (Arc::new(ours), event_loop.clone());
    /// let reader = ours.clone();
    /// event_loop.add_reader(ours.clone(), move || {
    ///     let mut data = [0; 16];
    ///     assert_eq!((&*reader).read(&mut data).unwrap(), 3);
    ///     stopper.stop();
    /// })?;
    /// theirs.write_all(b"abc")?;
    /// event_loop.run_forever()?;
    /// assert!(event_loop.remove_reader(&ours));
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_reader(
        &self,
        descriptor: impl AsFd + Send + 'static,
        callback: impl FnMut() + Send + 'static,
    ) -> Result<WatchHandle> {
        self.add_watch(descriptor, Side::Read, callback)
    }

    /// Calls back whenever the descriptor is writable; the rest is as with
    /// [`add_reader`](Self::add_reader).
    ///
    /// Source: *loop.add_writer*.
    ///
    /// # Errors
    /// Those of [`add_reader`](Self::add_reader).
    pub fn add_writer(
        &self,
        descriptor: impl AsFd + Send + 'static,
        callback: impl FnMut() + Send + 'static,
    ) -> Result<WatchHandle> {
        self.add_watch(descriptor, Side::Write, callback)
    }

    /// Ends what [`add_reader`](Self::add_reader) began; false where the descriptor had no reader.
    /// From any thread.
    ///
    /// Source: *loop.remove_reader*.
    pub fn remove_reader(&self, descriptor: impl AsFd) -> bool {
        self.core().remove_watch(descriptor.as_fd().as_raw_fd(), Side::Read)
    }

    /// Ends what [`add_writer`](Self::add_writer) began; false where the descriptor had no writer.
    /// From any thread.
    ///
    /// Source: *loop.remove_writer*.
    pub fn remove_writer(&self, descriptor: impl AsFd) -> bool {
        self.core().remove_watch(descriptor.as_fd().as_raw_fd(), Side::Write)
    }

    /// Waits until the descriptor is readable: there is data, its end, a connection to accept or
    /// an error. The waiting takes a turn at least, so try to read first. Dropping the future
    /// ends the watch.
    ///
    /// As a descriptor has one reader, the future is cancelled by the next `readable` or
    /// [`add_reader`](Self::add_reader) for it.
    ///
    /// Source: what *loop.sock_recv* does in between.
    ///
    /// # Errors
    /// Those of [`add_reader`](Self::add_reader); [`Error::Cancelled`] where another reader took
    /// its place, or the loop was closed.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use std::io::{ErrorKind, Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let (mut ours, mut theirs) = UnixStream::pair()?;
    /// ours.set_nonblocking(true)?;
    /// event_loop.run_until_complete(async {
    ///     let mut data = [0; 16];
    ///     let nothing = ours.read(&mut data).unwrap_err();
    ///     assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    ///     theirs.write_all(b"abc")?;
    ///     event_loop.readable(&ours).await?;
    ///     assert_eq!(ours.read(&mut data)?, 3);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn readable(&self, descriptor: impl AsFd) -> Result<()> {
        self.core().ready(&descriptor, Side::Read).await
    }

    /// Waits until the descriptor is writable: there is room, a connect has ended, or an error;
    /// the rest is as with [`readable`](Self::readable).
    ///
    /// Source: what *loop.sock_sendall* and *loop.sock_connect* do in between.
    ///
    /// # Errors
    /// Those of [`readable`](Self::readable).
    pub async fn writable(&self, descriptor: impl AsFd) -> Result<()> {
        self.core().ready(&descriptor, Side::Write).await
    }

    fn add_watch(
        &self,
        descriptor: impl AsFd + Send + 'static,
        side: Side,
        callback: impl FnMut() + Send + 'static,
    ) -> Result<WatchHandle> {
        let number = descriptor.as_fd().as_raw_fd();
        let home = self.core().home;
        // Each by itself: both may panic in their drop.
        let (descriptor, mut callback) = (Owned::new(home, descriptor), Owned::new(home, callback));
        let handle = Handle::repeated(home, move || {
            // The callback keeps the descriptor open.
            let _ = &descriptor;
            if let Some(callback) = callback.get_mut() {
                callback();
            }
        });
        self.core().watch(number, side, handle)
    }
}

impl Core {
    fn watch(self: &Arc<Core>, number: RawFd, side: Side, handle: Handle) -> Result<WatchHandle> {
        self.check()?;
        if self.engine.stream_of(number).is_some() || self.engine.listener_of(number).is_some() {
            return Err(Misuse::UsedByTransport(number).into());
        }
        let old = self.engine.watch(number, side, Callback::Call(handle.clone()))?;
        old.iter().for_each(Callback::cancel);
        self.nudge();
        let watch = WatchHandle { handle, core: self.clone(), number, side };
        if self.is_closed() {
            watch.cancel();
        }
        Ok(watch)
    }

    fn remove_watch(&self, number: RawFd, side: Side) -> bool {
        let old = self.engine.unwatch(number, side);
        old.iter().for_each(Callback::cancel);
        old.is_some()
    }

    /// Waits for one side of a descriptor, which the caller keeps open.
    pub(crate) async fn ready(self: &Arc<Core>, descriptor: impl AsFd, side: Side) -> Result<()> {
        let (promise, waiter) = promise();
        let ready = Handle::once(self.home, move || _ = promise.set_result(()));
        let number = descriptor.as_fd().as_raw_fd();
        let _watch = Ended(self.watch(number, side, ready)?);
        waiter.await.map_err(|_| Error::Cancelled)
    }
}

/// A watched descriptor, as [`add_reader`](EventLoop::add_reader) and
/// [`add_writer`](EventLoop::add_writer) return it; a clone is the same watch. Dropping it changes
/// nothing.
///
/// Source: *asyncio.Handle*.
#[derive(Clone)]
pub struct WatchHandle {
    handle: Handle,
    core: Arc<Core>,
    number: RawFd,
    side: Side,
}

impl WatchHandle {
    /// Ends the watch, unless another one has taken its place; drops the callback. From any
    /// thread.
    pub fn cancel(&self) {
        // Out of the selector first: with the callback goes the descriptor.
        let ours = |callback: &Callback| matches!(callback, Callback::Call(h) if *h == self.handle);
        let callback = self.core.engine.unwatch_where(self.number, self.side, ours);
        drop(callback);
        self.handle.cancel();
    }

    /// Whether it was cancelled, removed or replaced, or the loop was closed.
    pub fn cancelled(&self) -> bool {
        self.handle.cancelled()
    }
}

impl fmt::Debug for WatchHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<WatchHandle fd={} {:?} {:?}>", self.number, self.side, self.handle)
    }
}

/// A watch that ends with its owner.
struct Ended(WatchHandle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, Transport};
    use std::os::unix::net::UnixStream;

    struct Idle;

    impl Protocol for Idle {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    #[test]
    fn a_transports_descriptor_is_refused() {
        let event_loop = EventLoop::new().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let number = ours.as_raw_fd();
        let connect = event_loop.create_connection(|| Idle, ours);
        let (transport, _) = event_loop.run_until_complete(connect).unwrap().unwrap();
        let core = event_loop.core();
        let watch = |side| core.watch(number, side, Handle::repeated(core.home, || {}));
        for side in [Side::Read, Side::Write] {
            let refused = watch(side).unwrap_err();
            assert!(matches!(refused, Error::Misuse(Misuse::UsedByTransport(n)) if n == number));
        }
        transport.abort();
    }

    #[test]
    fn any_number_is_refused_by_the_system() {
        const EBADF: i32 = 9;
        let event_loop = EventLoop::new().unwrap();
        for number in [1_000_000, i32::MAX] {
            let core = event_loop.core();
            let watch = core.watch(number, Side::Read, Handle::repeated(core.home, || {}));
            assert_eq!(watch.unwrap_err().raw_os_error(), Some(EBADF));
            assert!(!core.remove_watch(number, Side::Read));
        }
    }
}
