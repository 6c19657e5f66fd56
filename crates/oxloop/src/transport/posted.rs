//! What other threads have written, and the loop's thread has not taken over yet: it counts as
//! buffered, so that a writer in another thread is paused in time.
//!
//! The bytes of each transport are counted where they are written. A write that passes the
//! high-water mark is known to the loop before the next callback, whatever else is queued: there it
//! pauses the protocol. The writer offers its time slice, too, as it is ahead of the loop.

use crate::event_loop::core::Core;
use crate::event_loop::face::Cx;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The bytes of one transport that are on their way to the loop's thread.
pub(crate) struct Posted {
    bytes: AtomicUsize,
    /// The transport's high-water mark.
    high: AtomicUsize,
}

impl Posted {
    pub(crate) fn new(high: usize) -> Posted {
        Posted { bytes: AtomicUsize::new(0), high: AtomicUsize::new(high) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    pub(crate) fn set_high(&self, high: usize) {
        self.high.store(high, Ordering::Release);
    }
}

/// A transport, as what other threads write reaches it.
pub(crate) trait Writer: Clone + Send + 'static {
    fn loop_core(&self) -> &Arc<Core>;
    fn posted(&self) -> &Posted;
    /// Pauses the protocol where what is buffered and posted is over the high-water mark.
    fn press(&self, cx: Cx<'_>);
    /// Resumes it where that is at or under the low-water mark.
    fn relieve(&self, cx: Cx<'_>);
}

/// So many bytes on their way; they have arrived when this is dropped.
struct OnTheWay<W: Writer>(W, usize);

impl<W: Writer> Drop for OnTheWay<W> {
    fn drop(&mut self) {
        self.0.posted().bytes.fetch_sub(self.1, Ordering::AcqRel);
    }
}

/// Leaves a write of so many bytes to the loop's thread.
pub(crate) fn post<W: Writer>(writer: &W, len: usize, write: impl FnOnce(&W) + Send + 'static) {
    let Posted { bytes, high } = writer.posted();
    let (before, high) = (bytes.fetch_add(len, Ordering::AcqRel), high.load(Ordering::Acquire));
    let (core, coming) = (writer.loop_core(), OnTheWay(writer.clone(), len));
    core.act(move |cx| {
        let writer = coming.0.clone();
        drop(coming);
        writer.press(cx);
        write(&writer);
        writer.relieve(cx);
    });
    if before + len > high {
        if before <= high {
            let writer = writer.clone();
            core.before_next(move |cx| writer.press(cx));
        }
        thread::yield_now();
    }
}
