//! Notices that the process was forked, without a system call per look.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);
static REGISTER: Once = Once::new();

/// Which process this is, counted along its line of forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u32);

/// The present process's generation: a child has another one than its parent.
pub(crate) fn generation() -> Generation {
    REGISTER.call_once(|| {
        extern "C" fn child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the handler only adds to an atomic, which is allowed in a forked child; no
        // lock is taken before fork. Without memory for the registration forks go unnoticed.
        unsafe { libc::pthread_atfork(None, None, Some(child)) };
    });
    Generation(GENERATION.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use crate::{Buffered, BufferedProtocol, Error, EventLoop, Misuse, Protocol, Transport};
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::pin::pin;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI32, Ordering};
    use std::task::{Context, Poll, Waker};

    struct Idle;

    impl Protocol for Idle {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    impl crate::DatagramProtocol for Idle {
        fn datagram_received(
            &mut self,
            _: &crate::DatagramTransport,
            _: &[u8],
            _: &crate::Address,
        ) {
        }
    }

    impl crate::SubprocessProtocol for Idle {
        fn pipe_data_received(&mut self, _: &crate::SubprocessTransport, _: i32, _: &[u8]) {}
    }

    impl BufferedProtocol for Idle {
        fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
            &mut []
        }
        fn buffer_updated(&mut self, _: &Transport, _: usize) {}
    }

    fn forked<T>(result: Result<T, Error>) -> bool {
        matches!(result, Err(Error::Misuse(Misuse::Forked)))
    }

    /// Whether a future says so at once.
    fn future_forked<T>(future: impl Future<Output = Result<T, Error>>) -> bool {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => forked(result),
            Poll::Pending => false,
        }
    }

    /// A call by its name, and whether it says so.
    type Call<'a> = (&'a str, Box<dyn Fn() -> bool + 'a>);

    /// Forks; the child answers by its exit status, and ends within a while.
    fn in_a_child(ask: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child calls what `ask` does, in its only thread, and ends without returning;
        // glibc's allocator may be used there. A lock of another test's thread ends it by the alarm.
        unsafe {
            match libc::fork() {
                0 => {
                    libc::alarm(30);
                    let fine = ask();
                    libc::_exit(if fine { 0 } else { 1 })
                }
                child => {
                    assert!(child > 0);
                    let mut status = 0;
                    assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                    status == 0
                }
            }
        }
    }

    #[test]
    fn a_forked_child_is_told_so() {
        let event_loop = EventLoop::new().unwrap();
        let serving = event_loop.create_server(|| Idle, ("127.0.0.1", 0));
        let server = event_loop.run_until_complete(serving).unwrap().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let connecting = event_loop.create_connection(|| Idle, ours);
        let (transport, _) = event_loop.run_until_complete(connecting).unwrap().unwrap();
        let calls: Vec<Call<'_>> = vec![
            ("run_forever", Box::new(|| forked(event_loop.run_forever()))),
            ("run_until_complete", Box::new(|| forked(event_loop.run_until_complete(async {})))),
            ("add_reader", Box::new(|| forked(event_loop.add_reader(std::io::stdin(), || {})))),
            ("readable", Box::new(|| future_forked(event_loop.readable(std::io::stdin())))),
            ("add_signal_handler", Box::new(|| forked(event_loop.add_signal_handler(10, || {})))),
            ("run_in_executor", Box::new(|| future_forked(event_loop.run_in_executor(|| {})))),
            (
                "create_connection",
                Box::new(|| {
                    future_forked(event_loop.create_connection(|| Buffered(Idle), ("127.0.0.1", 1)))
                }),
            ),
            (
                "create_server",
                Box::new(|| future_forked(event_loop.create_server(|| Idle, ("127.0.0.1", 0)))),
            ),
            (
                "create_unix_connection",
                Box::new(|| future_forked(event_loop.create_unix_connection(|| Idle, "/none"))),
            ),
            (
                "create_unix_server",
                Box::new(|| future_forked(event_loop.create_unix_server(|| Idle, "/none/none"))),
            ),
            (
                "create_datagram_endpoint",
                Box::new(|| {
                    let (ours, _theirs) = UnixDatagram::pair().unwrap();
                    future_forked(event_loop.create_datagram_endpoint(|| Idle, ours))
                }),
            ),
            (
                "connect_read_pipe",
                Box::new(|| {
                    let (ours, _theirs) = UnixStream::pair().unwrap();
                    future_forked(event_loop.connect_read_pipe(|| Idle, ours))
                }),
            ),
            (
                "subprocess_exec",
                Box::new(|| {
                    future_forked(event_loop.subprocess_exec(|| Idle, Command::new("true")))
                }),
            ),
            ("start_serving", Box::new(|| future_forked(server.start_serving()))),
            ("serve_forever", Box::new(|| future_forked(server.serve_forever()))),
            ("sendfile", Box::new(|| future_forked(transport.sendfile(std::io::stdin(), 0, None)))),
        ];
        for (name, call) in &calls {
            assert!(in_a_child(call), "{name}");
        }
        // The parent's loop is as it was.
        assert_eq!(event_loop.run_until_complete(async { 7 }).unwrap(), 7);
    }

    #[test]
    fn a_run_in_which_a_callback_forks_ends_in_the_child() {
        let event_loop = EventLoop::new().unwrap();
        let (stopper, forked_as) = (event_loop.clone(), Arc::new(AtomicI32::new(-1)));
        let pid = forked_as.clone();
        event_loop.call_soon(move || {
            // SAFETY: the child goes on in its only thread, and ends below.
            let child = unsafe { libc::fork() };
            pid.store(child, Ordering::SeqCst);
            if child > 0 {
                stopper.stop();
            }
        });
        let result = event_loop.run_forever();
        let child = forked_as.load(Ordering::SeqCst);
        if child == 0 {
            // SAFETY: ends this process.
            unsafe { libc::_exit(if forked(result) { 0 } else { 1 }) }
        }
        assert!(result.is_ok());
        let mut status = -1;
        // SAFETY: waits for the child, into a number of ours.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(event_loop.run_until_complete(async { 7 }).unwrap(), 7);
    }
}
