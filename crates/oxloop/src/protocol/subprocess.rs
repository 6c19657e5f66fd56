//! The protocol of a child process (asyncio: *SubprocessProtocol*).

use crate::error::Error;
use crate::transport::SubprocessTransport;
use std::os::fd::RawFd;

/// What a program does with a child process: one object for each, with the state it needs.
///
/// All methods are called on the loop's thread, one at a time, with no lock of the loop held.
/// From inside of each the transport and its pipes may be used freely. A panic goes to the loop's
/// exception handler, and the rest goes on.
///
/// The child's exit and the end of its pipes come in any order, as a child can exit with data in
/// its pipes, or leave them to children of its own: the output is whole when
/// [`pipe_connection_lost`](Self::pipe_connection_lost) or
/// [`connection_lost`](Self::connection_lost) says so.
///
/// Source: *asyncio.SubprocessProtocol*; here only `pipe_data_received` has to be written.
///
/// ```
/// use oxloop::{SubprocessProtocol, SubprocessTransport};
///
/// #[derive(Default)]
/// struct Output(Vec<u8>);
///
/// impl SubprocessProtocol for Output {
///     fn pipe_data_received(&mut self, _: &SubprocessTransport, fd: i32, data: &[u8]) {
///         if fd == 1 {
///             self.0.extend_from_slice(data);
///         }
///     }
///
///     fn process_exited(&mut self, transport: &SubprocessTransport) {
///         println!("exit status {:?}", transport.returncode());
///     }
/// }
/// ```
pub trait SubprocessProtocol: Send {
    /// The child runs and its pipes are connected, and this is its transport; keep a clone to
    /// write or to signal later.
    fn connection_made(&mut self, transport: &SubprocessTransport) {
        let _ = transport;
    }

    /// The child has written to its standard output (`fd` 1) or error (2): bytes as the pipe cut
    /// them, never none.
    fn pipe_data_received(&mut self, transport: &SubprocessTransport, fd: RawFd, data: &[u8]);

    /// A pipe is closed: `fd` is the child's number of it, 0, 1 or 2. `None` says that this side
    /// closed it, or that the other did and that was all; EPIPE that what was written to standard
    /// input was not read.
    fn pipe_connection_lost(
        &mut self,
        transport: &SubprocessTransport,
        fd: RawFd,
        error: Option<Error>,
    ) {
        let _ = (transport, fd, error);
    }

    /// The child has exited: [`returncode`](SubprocessTransport::returncode) says how.
    fn process_exited(&mut self, transport: &SubprocessTransport) {
        let _ = transport;
    }

    /// The write buffer of standard input is over its high-water mark: write no more for now.
    ///
    /// A pause that one of this protocol's own callbacks brings about comes when that callback
    /// has returned, and not at all if the buffer is empty enough again by then.
    fn pause_writing(&mut self, transport: &SubprocessTransport) {
        let _ = transport;
    }

    /// The write buffer of standard input is at or under its low-water mark: writing may go on.
    fn resume_writing(&mut self, transport: &SubprocessTransport) {
        let _ = transport;
    }

    /// The child has exited and all its pipes are closed, the last call. The error is always
    /// `None`.
    fn connection_lost(&mut self, transport: &SubprocessTransport, error: Option<Error>) {
        let _ = (transport, error);
    }
}
