//! What the tests share: a protocol that records what it is told, and waits that end.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use oxloop::{Error, EventLoop, Promise, Protocol, ProtocolHandle, Transport};
use socket2::{Domain, Socket, Type};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

/// No test waits longer than this for anything.
pub const HANG: Duration = Duration::from_secs(30);

/// A new loop whose exception handler fails the test by what it records; see [`errors`].
pub fn new_loop() -> EventLoop {
    EventLoop::new().unwrap()
}

/// Runs a future on the loop, and panics where it hangs.
pub fn run<F: Future>(event_loop: &EventLoop, future: F) -> F::Output {
    event_loop.run_until_complete(within(event_loop, future)).unwrap()
}

/// The future, with a limit.
pub async fn within<F: Future>(event_loop: &EventLoop, future: F) -> F::Output {
    let (mut future, mut limit) = (pin!(future), pin!(event_loop.sleep(HANG)));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        assert!(limit.as_mut().poll(cx).is_pending(), "timed out");
        Poll::Pending
    })
    .await
}

/// Waits until `condition` holds.
pub async fn until(event_loop: &EventLoop, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            event_loop.sleep(Duration::from_millis(1)).await;
        }
    };
    within(event_loop, wait).await;
}

/// Lets so many turns go by.
pub async fn turns(event_loop: &EventLoop, count: usize) {
    for _ in 0..count {
        event_loop.sleep(Duration::ZERO).await;
    }
}

/// What the exception handler was told: message, and error.
pub fn errors(event_loop: &EventLoop) -> Log {
    let log = Log::default();
    let told = log.clone();
    event_loop.set_exception_handler(move |_, context| {
        let error = context.error.as_ref().map_or(String::new(), ToString::to_string);
        told.add(format!("{}|{error}", context.message));
    });
    log
}

/// Lines, shared.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    pub fn count(&self, line: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|known| *known == line).count()
    }

    pub fn has(&self, line: &str) -> bool {
        self.count(line) > 0
    }
}

type Hook<A> = Option<Box<dyn FnMut(&Transport, A) + Send>>;

/// Records the names of its callbacks, and does what it is told in some of them.
#[derive(Default)]
pub struct Recorder {
    pub log: Log,
    pub data: Vec<u8>,
    pub transport: Option<Transport>,
    pub keep_open: bool,
    pub error: Option<Error>,
    pub made: Hook<()>,
    pub received: Hook<Vec<u8>>,
    pub paused: Option<Box<dyn FnMut() + Send>>,
    pub lost: Option<Promise<()>>,
}

impl Recorder {
    pub fn new(log: &Log) -> Recorder {
        Recorder { log: log.clone(), ..Recorder::default() }
    }

    pub fn on_made(mut self, mut made: impl FnMut(&Transport) + Send + 'static) -> Recorder {
        self.made = Some(Box::new(move |transport, ()| made(transport)));
        self
    }

    pub fn on_data(mut self, received: impl FnMut(&Transport, Vec<u8>) + Send + 'static) -> Self {
        self.received = Some(Box::new(received));
        self
    }

    pub fn keeping_open(mut self) -> Recorder {
        self.keep_open = true;
        self
    }
}

impl Protocol for Recorder {
    fn connection_made(&mut self, transport: &Transport) {
        self.log.add("made");
        self.transport = Some(transport.clone());
        if let Some(made) = &mut self.made {
            made(transport, ());
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        assert!(!data.is_empty());
        self.log.add("data");
        self.data.extend_from_slice(data);
        if let Some(received) = &mut self.received {
            received(transport, data.to_vec());
        }
    }

    fn eof_received(&mut self, _: &Transport) -> bool {
        self.log.add("eof");
        self.keep_open
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.log.add("pause");
        if let Some(paused) = &mut self.paused {
            paused();
        }
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.log.add("resume");
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        self.log.add("lost");
        self.error = error;
        if let Some(lost) = self.lost.take() {
            lost.set_result(());
        }
    }
}

/// A recording protocol on one end of a socket pair, and the other end, which blocks.
pub struct Pair {
    pub log: Log,
    pub transport: Transport,
    pub protocol: ProtocolHandle<Recorder>,
    pub peer: UnixStream,
}

impl Pair {
    pub async fn open(event_loop: &EventLoop) -> Pair {
        Pair::with(event_loop, |recorder| recorder).await
    }

    pub async fn with(event_loop: &EventLoop, f: impl FnOnce(Recorder) -> Recorder) -> Pair {
        let log = Log::default();
        let (ours, peer) = UnixStream::pair().unwrap();
        peer.set_read_timeout(Some(HANG)).unwrap();
        peer.set_write_timeout(Some(HANG)).unwrap();
        let factory = || f(Recorder::new(&log));
        let (transport, protocol) = event_loop.create_connection(factory, ours).await.unwrap();
        Pair { log, transport, protocol, peer }
    }

    /// Waits for a callback by name.
    pub async fn saw(&self, event_loop: &EventLoop, line: &str) {
        until(event_loop, || self.log.has(line)).await;
    }
}

/// An address whose system answers no more connections, and who keeps it so.
pub fn silent() -> (SocketAddr, Vec<Socket>) {
    let kind = Type::STREAM.nonblocking();
    let listener = Socket::new(Domain::IPV4, kind, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
        let _ = socket.connect(&address);
        sockets.push(socket);
    }
    (address.as_socket().unwrap(), sockets)
}

/// A protocol that echoes.
pub struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Bytes that are easily told from their neighbours.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// How many descriptors this process has open.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Keeps the other tests of a file waiting that call this as well: they count descriptors.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// A new directory, removed with all that is in it when this is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("oxloop-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
