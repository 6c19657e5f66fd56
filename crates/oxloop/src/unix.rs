//! Unix stream sockets: connections and servers (asyncio: *create_unix_connection*,
//! *create_unix_server*).

use crate::address::{Address, UnixAddress};
use crate::connect::connect_socket;
use crate::error::{Error, Misuse, Result};
use crate::event_loop::EventLoop;
use crate::protocol::{Protocol, ProtocolHandle};
use crate::server::{Server, Setup};
use crate::tls::over::Over;
#[cfg(feature = "rustls")]
use crate::tls::{TlsClientOptions, TlsServerOptions};
use crate::transport::Transport;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where a Unix connection goes or a server listens, made by `into()`:
///
/// - a path, or an abstract name (a path that starts with a NUL byte, or a [`UnixAddress`]);
/// - a socket: connected for
///   [`create_unix_connection`](EventLoop::create_unix_connection), bound for
///   [`create_unix_server`](EventLoop::create_unix_server).
#[derive(Debug)]
pub struct UnixTarget(Kind);

#[derive(Debug)]
enum Kind {
    Address(UnixAddress),
    Socket(Socket),
}

macro_rules! targets {
    ($kind:path: $($source:ty),*) => {$(
        impl From<$source> for UnixTarget {
            fn from(source: $source) -> UnixTarget {
                UnixTarget($kind(source.into()))
            }
        }
    )*};
}

targets!(Kind::Address: UnixAddress, &str, String, &OsStr, OsString, &Path, PathBuf);
targets!(Kind::Socket: Socket, OwnedFd, UnixStream, UnixListener);

/// Where [`EventLoop::create_unix_connection`] connects to, and how.
///
/// Anything that names a target converts into it; write it out to set the options.
#[derive(Debug)]
pub struct UnixConnectOptions {
    target: UnixTarget,
    #[cfg(feature = "rustls")]
    tls: Option<TlsClientOptions>,
}

impl UnixConnectOptions {
    /// Options for a target: a path, an abstract name, or a connected stream socket.
    pub fn new(target: impl Into<UnixTarget>) -> UnixConnectOptions {
        UnixConnectOptions {
            target: target.into(),
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }

    /// Secures the connection by TLS, with options or a `rustls::ClientConfig` (feature `tls`). A
    /// [server name](TlsClientOptions::server_name) has to be set.
    ///
    /// Source: *loop.create_unix_connection*, `ssl`.
    #[cfg(feature = "rustls")]
    #[must_use]
    pub fn tls(self, tls: impl Into<TlsClientOptions>) -> UnixConnectOptions {
        UnixConnectOptions { tls: Some(tls.into()), ..self }
    }

    #[cfg_attr(not(feature = "rustls"), expect(clippy::unused_self, reason = "it has no options"))]
    fn over(&mut self) -> Result<Over> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = self.tls.take() {
            return Ok(Over::Tls(tls.secure(None)?));
        }
        Ok(Over::default())
    }
}

impl<T: Into<UnixTarget>> From<T> for UnixConnectOptions {
    fn from(target: T) -> UnixConnectOptions {
        UnixConnectOptions::new(target)
    }
}

/// Where [`EventLoop::create_unix_server`] listens, and how.
///
/// Anything that names a place converts into it; write it out to set the options.
///
/// ```
/// use oxloop::UnixServerOptions;
///
/// let options = UnixServerOptions::new("/run/chat.sock").backlog(1000).cleanup_socket(false);
/// ```
#[derive(Debug)]
pub struct UnixServerOptions {
    target: UnixTarget,
    backlog: i32,
    start_serving: bool,
    cleanup_socket: bool,
    #[cfg(feature = "rustls")]
    tls: Option<TlsServerOptions>,
}

impl UnixServerOptions {
    /// Options for a place: a path, an abstract name, or a bound stream socket.
    pub fn new(target: impl Into<UnixTarget>) -> UnixServerOptions {
        UnixServerOptions {
            target: target.into(),
            backlog: 100,
            start_serving: true,
            cleanup_socket: true,
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }

    /// How many connections the system keeps waiting, and one less than how many are taken in
    /// one turn; 100 by default. A client that finds the queue full is refused with EAGAIN.
    #[must_use]
    pub fn backlog(self, backlog: u16) -> UnixServerOptions {
        UnixServerOptions { backlog: backlog.into(), ..self }
    }

    /// Whether to accept at once; true by default. Else
    /// [`start_serving`](Server::start_serving) does it.
    #[must_use]
    pub fn start_serving(self, start: bool) -> UnixServerOptions {
        UnixServerOptions { start_serving: start, ..self }
    }

    /// Whether the server removes the socket's file when it is closed, if it is still the one it
    /// was bound to; true by default.
    #[must_use]
    pub fn cleanup_socket(self, cleanup: bool) -> UnixServerOptions {
        UnixServerOptions { cleanup_socket: cleanup, ..self }
    }

    /// Secures the connections by TLS; see [`ServerOptions::tls`](crate::ServerOptions::tls).
    #[cfg(feature = "rustls")]
    #[must_use]
    pub fn tls(self, tls: impl Into<TlsServerOptions>) -> UnixServerOptions {
        UnixServerOptions { tls: Some(tls.into()), ..self }
    }

    fn over(&mut self) -> Result<Over> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = self.tls.take() {
            return Ok(Over::Tls(tls.secure()?));
        }
        Ok(Over::default())
    }
}

impl<T: Into<UnixTarget>> From<T> for UnixServerOptions {
    fn from(target: T) -> UnixServerOptions {
        UnixServerOptions::new(target)
    }
}

impl EventLoop {
    /// Connects to a Unix socket, makes a protocol by `factory`, and gives both sides of the
    /// connection. An existing socket is used as it is; the connection owns it from then on.
    ///
    /// The protocol's `connection_made` has been called when the future is done. Dropping the
    /// future before that leaves nothing behind.
    ///
    /// Source: *loop.create_unix_connection*.
    ///
    /// # Errors
    /// [`Error::Io`]: ENOENT where there is no such file, ECONNREFUSED where nobody listens on
    /// it, EAGAIN where the server's queue is full, InvalidInput for a path that is too long.
    /// [`Misuse::UnixStreamExpected`] for a socket of another kind; [`Misuse::LoopClosed`].
    ///
    /// ```no_run
    /// # struct Chat;
    /// # impl oxloop::Protocol for Chat {
    /// #     fn data_received(&mut self, _: &oxloop::Transport, _: &[u8]) {}
    /// # }
    /// # async fn connect(event_loop: oxloop::EventLoop) -> oxloop::Result<()> {
    /// let (transport, _protocol) =
    ///     event_loop.create_unix_connection(|| Chat, "/run/chat.sock").await?;
    /// transport.write("hello");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_unix_connection<P, F>(
        &self,
        factory: F,
        to: impl Into<UnixConnectOptions>,
    ) -> Result<(Transport, ProtocolHandle<P>)>
    where
        P: Protocol + 'static,
        F: FnOnce() -> P,
    {
        let mut options = to.into();
        self.core().check()?;
        let over = options.over()?;
        let socket = match options.target.0 {
            Kind::Socket(socket) => check_unix_stream(socket)?,
            Kind::Address(address) => {
                connect_socket(self.core(), new_socket()?, &address.to_system()?).await?
            }
        };
        self.connected(factory, socket, over).await
    }

    /// Listens on a Unix socket, and makes a protocol by `factory` for each connection, on the
    /// loop's thread.
    ///
    /// A socket that somebody else left at the path is replaced, even if it is still listened
    /// on; files of other kinds are not. When the server is closed, it removes its file
    /// ([`cleanup_socket`](UnixServerOptions::cleanup_socket)).
    ///
    /// Source: *loop.create_unix_server*.
    ///
    /// # Errors
    /// [`Error::BindUnix`] with the address and its errno (EADDRINUSE where there is another
    /// file, or the abstract name is taken); InvalidInput for a path that is too long, EINVAL for none;
    /// [`Misuse::UnixStreamExpected`] for a socket of another kind; [`Misuse::LoopClosed`].
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use oxloop::{EventLoop, Promise, Protocol, Transport};
    ///
    /// struct Echo;
    ///
    /// impl Protocol for Echo {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         transport.write(data);
    ///     }
    /// }
    ///
    /// struct Caller(Promise<Vec<u8>>);
    ///
    /// impl Protocol for Caller {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.write("anybody there?");
    ///     }
    ///
    ///     fn data_received(&mut self, _: &Transport, data: &[u8]) {
    ///         self.0.set_result(data.to_vec());
    ///     }
    /// }
    ///
    /// let path = std::env::temp_dir().join(format!("echo-{}.sock", std::process::id()));
    /// let event_loop = EventLoop::new()?;
    /// event_loop.run_until_complete(async {
    ///     let server = event_loop.create_unix_server(|| Echo, path.as_path()).await?;
    ///     let (promise, echo) = event_loop.create_future();
    ///     event_loop.create_unix_connection(|| Caller(promise), path.as_path()).await?;
    ///     assert_eq!(echo.await?, b"anybody there?");
    ///     server.close();
    ///     assert!(!path.exists());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn create_unix_server<P, F>(
        &self,
        factory: F,
        at: impl Into<UnixServerOptions>,
    ) -> Result<Server>
    where
        P: Protocol + 'static,
        F: Fn() -> P + Send + Sync + 'static,
    {
        let mut options = at.into();
        self.core().check()?;
        let over = options.over()?;
        let socket = match options.target.0 {
            Kind::Socket(socket) => check_unix_stream(socket)?,
            Kind::Address(address) => bind(address)?,
        };
        let file = if options.cleanup_socket { SocketFile::of(&socket)? } else { None };
        let setup = Setup {
            sockets: vec![socket],
            backlog: options.backlog,
            start_serving: options.start_serving,
            file,
            over,
        };
        self.serve(factory, setup).await
    }
}

fn new_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
}

/// Takes Unix stream sockets only.
fn check_unix_stream(socket: Socket) -> Result<Socket> {
    if socket.domain()? == Domain::UNIX && socket.r#type()? == Type::STREAM {
        Ok(socket)
    } else {
        Err(Misuse::UnixStreamExpected.into())
    }
}

fn bind(address: UnixAddress) -> Result<Socket> {
    if address.is_unnamed() {
        // The system would choose an abstract name, which nobody could guess.
        return Err(Error::Io(Errno::INVAL.into()));
    }
    let system = address.to_system()?;
    let socket = new_socket()?;
    if let Some(path) = address.as_pathname() {
        remove_stale(path);
    }
    match socket.bind(&system) {
        Ok(()) => Ok(socket),
        Err(source) => Err(Error::BindUnix { address, source }),
    }
}

/// Removes what an earlier server left. Where that fails, bind(2) has the last word: of a
/// directory that cannot be searched, for one, nobody can say what is in it.
pub(crate) fn remove_stale(path: &Path) {
    let removed = fs::metadata(path).and_then(|found| {
        if found.file_type().is_socket() { fs::remove_file(path) } else { Ok(()) }
    });
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let message = "Unable to check or remove stale UNIX socket";
            log::error!(target: "oxloop", "{message} {path:?}: {error}");
        }
        _ => {}
    }
}

/// The file that a server's socket is bound to: removed when this is dropped, unless somebody else
/// has removed or replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: tell whether the path still leads to it.
    identity: (u64, u64),
}

impl SocketFile {
    /// `None` for an abstract name, and where the file is gone already.
    fn of(socket: &Socket) -> io::Result<Option<SocketFile>> {
        let Some(Address::Unix(name)) = Address::own(socket) else { return Ok(None) };
        let Some(path) = name.as_pathname() else { return Ok(None) };
        match identity(path) {
            Ok(identity) => Ok(Some(SocketFile { path: path.to_owned(), identity })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let SocketFile { path, identity: known } = &*self;
        let removed = identity(path)
            .and_then(|present| if present == *known { fs::remove_file(path) } else { Ok(()) });
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let message = "Unable to clean up listening UNIX socket";
                log::error!(target: "oxloop", "{message} {path:?}: {error}");
            }
            _ => {}
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}
