//! Values of the program whose drop panics: the exception handler hears of it once, and all else
//! goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::*;
use std::future::pending;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::thread;
use std::time::Duration;
use util::{Echo, HANG, Pair, alone, until};

const SIGUSR2: i32 = 12;

/// Panics when it is dropped, and counts that.
struct Bomb(Arc<AtomicUsize>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("boom");
    }
}

impl Bomb {
    fn touch(&self) {}
}

/// A protocol of any kind, with a bomb in it.
struct Armed {
    #[allow(dead_code, reason = "dropped")]
    bomb: Bomb,
    buffer: [u8; 16],
    /// On data another protocol takes its place.
    replaced: bool,
}

impl Armed {
    fn new(bomb: Bomb) -> Armed {
        Armed { bomb, buffer: [0; 16], replaced: false }
    }
}

impl Protocol for Armed {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if self.replaced {
            transport.set_protocol(Echo);
            transport.write(data);
        }
    }
}

impl BufferedProtocol for Armed {
    fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
        &mut self.buffer
    }

    fn buffer_updated(&mut self, _: &Transport, _: usize) {}
}

impl DatagramProtocol for Armed {
    fn datagram_received(&mut self, _: &DatagramTransport, _: &[u8], _: &Address) {}
}

impl SubprocessProtocol for Armed {
    fn pipe_data_received(&mut self, _: &SubprocessTransport, _: i32, _: &[u8]) {}
}

/// Memory of the program's own.
struct Memory(Vec<u8>, #[allow(dead_code, reason = "dropped")] Bomb);

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn memory(len: usize, bomb: Bomb) -> Bytes {
    Bytes::from_owner(Memory(vec![7; len], bomb))
}

/// A descriptor of the program's own.
struct File(UnixStream, #[allow(dead_code, reason = "dropped")] Bomb);

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a case keeps until the loop has been run.
type Kept = Box<dyn std::any::Any>;

fn nothing() -> Kept {
    Box::new(())
}

/// A connection of the loop's, and its other end.
fn connect<P: Protocol + 'static>(
    event_loop: &EventLoop,
    protocol: P,
) -> (Transport, ProtocolHandle<P>, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(HANG)).unwrap();
    let connecting = event_loop.create_connection(|| protocol, ours);
    let (transport, handle) = util::run(event_loop, connecting).unwrap();
    (transport, handle, peer)
}

/// The loop's, in one of its callbacks.
fn here() -> EventLoop {
    get_running_loop().unwrap()
}

fn soon(event_loop: &EventLoop, callback: impl FnOnce() + Send + 'static) -> Kept {
    drop(event_loop.call_soon(callback));
    nothing()
}

type Case = (&'static str, fn(&EventLoop, Bomb) -> Kept);

/// Each kind of value, and each way in which the loop drops it. What is still there after the run
/// is dropped when the loop is closed, or with its last handle.
const CASES: &[Case] = &[
    ("callback: run", |event_loop, bomb| soon(event_loop, move || bomb.touch())),
    ("callback: cancelled", |event_loop, bomb| {
        event_loop.call_soon(move || bomb.touch()).cancel();
        nothing()
    }),
    ("callback: cancelled by another thread", |event_loop, bomb| {
        let handle = event_loop.call_soon(move || bomb.touch());
        thread::spawn(move || handle.cancel()).join().unwrap();
        nothing()
    }),
    ("callback: queued for ever", |event_loop, bomb| {
        fn again(bomb: Bomb) {
            bomb.touch();
            here().call_soon(move || again(bomb));
        }
        soon(event_loop, move || again(bomb))
    }),
    ("timer: run", |event_loop, bomb| {
        event_loop.call_later(Duration::ZERO, move || bomb.touch());
        nothing()
    }),
    ("timer: cancelled in a callback", |event_loop, bomb| {
        let timer = event_loop.call_later(HANG, move || bomb.touch());
        soon(event_loop, move || timer.cancel())
    }),
    ("timer: waiting", |event_loop, bomb| {
        event_loop.call_later(HANG * 9, move || bomb.touch());
        nothing()
    }),
    ("task: done", |event_loop, bomb| {
        drop(event_loop.create_task(async move { bomb.touch() }));
        nothing()
    }),
    ("task: cancelled before it began", |event_loop, bomb| {
        event_loop.create_task(async move { bomb.touch() }).cancel();
        nothing()
    }),
    ("task: cancelled", |event_loop, bomb| {
        let task = event_loop.create_task(async move {
            pending::<()>().await;
            bomb.touch();
        });
        drop(event_loop.call_later(Duration::from_millis(1), move || task.cancel()));
        nothing()
    }),
    ("task: pending", |event_loop, bomb| {
        drop(event_loop.create_task(async move {
            let sleep = here().sleep(HANG * 9);
            sleep.await;
            bomb.touch();
        }));
        nothing()
    }),
    ("task: output that nobody takes", |event_loop, bomb| {
        drop(event_loop.create_task(async move { bomb }));
        nothing()
    }),
    ("task: output of a task that is dropped late", |event_loop, bomb| {
        let task = event_loop.create_task(async move { bomb });
        drop(event_loop.call_later(Duration::from_millis(1), move || drop(task)));
        nothing()
    }),
    ("the run's future: done", |event_loop, bomb| {
        util::run(event_loop, async {});
        // Dropped where it is done, behind its output.
        struct Ready(#[allow(dead_code, reason = "dropped")] Bomb);
        impl Future for Ready {
            type Output = ();
            fn poll(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<()> {
                std::task::Poll::Ready(())
            }
        }
        event_loop.run_until_complete(Ready(bomb)).unwrap();
        nothing()
    }),
    ("the run's future: stopped", |event_loop, bomb| {
        let stopper = event_loop.clone();
        event_loop.call_soon(move || stopper.stop());
        let endless = async move {
            pending::<()>().await;
            bomb.touch();
        };
        assert!(event_loop.run_until_complete(endless).is_err());
        nothing()
    }),
    ("executor: a call that is given up before it begins", |event_loop, bomb| {
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        let busy: Vec<_> = (0..40)
            .map(|_| {
                let gate = gate.clone();
                event_loop.run_in_executor(move || drop(gate.lock()))
            })
            .collect();
        drop(event_loop.run_in_executor(move || bomb.touch()));
        drop(closed);
        util::run(event_loop, async {
            for call in busy {
                call.await.unwrap();
            }
        });
        nothing()
    }),
    ("executor: a result that comes too late", |event_loop, bomb| {
        let (go, wait) = mpsc::channel::<()>();
        let call = event_loop.run_in_executor(move || {
            wait.recv().unwrap();
            bomb
        });
        soon(event_loop, move || {
            drop(call);
            go.send(()).unwrap();
        })
    }),
    ("executor: a result that nobody takes", |event_loop, bomb| {
        let (told, done) = mpsc::channel();
        let call = event_loop.run_in_executor(move || {
            told.send(()).unwrap();
            bomb
        });
        done.recv_timeout(HANG).unwrap();
        soon(event_loop, move || drop(call))
    }),
    ("protocol: connection lost", |event_loop, bomb| {
        let (transport, _, _) = connect(event_loop, Armed::new(bomb));
        transport.abort();
        nothing()
    }),
    ("protocol: the peer is gone", |event_loop, bomb| {
        drop(connect(event_loop, Armed::new(bomb)));
        nothing()
    }),
    ("protocol: connected", |event_loop, bomb| {
        let (_, _, peer) = connect(event_loop, Armed::new(bomb));
        Box::new(peer)
    }),
    ("protocol: replaced in a callback", |event_loop, bomb| {
        let armed = Armed { replaced: true, ..Armed::new(bomb) };
        let (_, _, mut peer) = connect(event_loop, armed);
        peer.write_all(b"x").unwrap();
        let own = peer.try_clone().unwrap();
        let reading = event_loop.run_in_executor(move || {
            for _ in 0..2 {
                peer.read_exact(&mut [0]).unwrap();
                peer.write_all(b"y").unwrap();
            }
        });
        util::run(event_loop, reading).unwrap();
        Box::new(own)
    }),
    ("protocol: replaced from outside", |event_loop, bomb| {
        let (transport, _, peer) = connect(event_loop, Armed::new(bomb));
        transport.set_protocol(Echo);
        Box::new(peer)
    }),
    ("protocol: the handle goes last", |event_loop, bomb| {
        let (transport, handle, _) = connect(event_loop, Armed::new(bomb));
        transport.abort();
        util::run(event_loop, util::turns(event_loop, 3));
        soon(event_loop, move || drop(handle))
    }),
    ("protocol: buffered", |event_loop, bomb| {
        drop(connect(event_loop, Buffered(Armed::new(bomb))));
        nothing()
    }),
    ("protocol: of a pipe", |event_loop, bomb| {
        let (ours, _) = UnixStream::pair().unwrap();
        let connecting = event_loop.connect_read_pipe(|| Armed::new(bomb), ours);
        drop(util::run(event_loop, connecting).unwrap());
        nothing()
    }),
    ("protocol: of datagrams", |event_loop, bomb| {
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        let making = event_loop.create_datagram_endpoint(|| Armed::new(bomb), ours);
        let (transport, handle) = util::run(event_loop, making).unwrap();
        drop(handle);
        transport.abort();
        nothing()
    }),
    ("protocol: of a child", |event_loop, bomb| {
        let starting = event_loop.subprocess_exec(|| Armed::new(bomb), Command::new("true"));
        drop(util::run(event_loop, starting).unwrap());
        nothing()
    }),
    ("factory of a server", |event_loop, bomb| {
        let factory = move || {
            bomb.touch();
            Echo
        };
        let server = util::run(event_loop, event_loop.create_server(factory, ("127.0.0.1", 0)));
        let server = server.unwrap();
        soon(event_loop, move || server.close())
    }),
    ("reader: waiting", |event_loop, bomb| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        event_loop.add_reader(ours, move || bomb.touch()).unwrap();
        Box::new(theirs)
    }),
    ("reader: removed within", |event_loop, bomb| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (ours, removed) = (Arc::new(ours), Arc::new(AtomicBool::new(false)));
        let (reader, seen) = (ours.clone(), removed.clone());
        event_loop
            .add_reader(ours, move || {
                bomb.touch();
                seen.store(here().remove_reader(&reader), Ordering::SeqCst);
            })
            .unwrap();
        theirs.write_all(b"x").unwrap();
        util::run(event_loop, until(event_loop, || removed.load(Ordering::SeqCst)));
        nothing()
    }),
    ("reader: replaced", |event_loop, bomb| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ours = Arc::new(ours);
        event_loop.add_reader(ours.clone(), move || bomb.touch()).unwrap();
        event_loop.add_reader(ours, || {}).unwrap();
        Box::new(theirs)
    }),
    ("writer: cancelled within", |event_loop, bomb| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let own: Arc<Mutex<Option<WatchHandle>>> = Arc::default();
        let me = own.clone();
        let watch = event_loop.add_writer(ours, move || {
            bomb.touch();
            let watch = me.lock().unwrap().take();
            watch.iter().for_each(WatchHandle::cancel);
        });
        *own.lock().unwrap() = Some(watch.unwrap());
        util::run(event_loop, until(event_loop, || own.lock().unwrap().is_none()));
        Box::new(theirs)
    }),
    ("a watched descriptor", |event_loop, bomb| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let watch = event_loop.add_reader(File(ours, bomb), || {}).unwrap();
        watch.cancel();
        Box::new(theirs)
    }),
    ("signal handler: removed within", |event_loop, bomb| {
        let handler = move || {
            bomb.touch();
            assert!(here().remove_signal_handler(SIGUSR2));
        };
        event_loop.add_signal_handler(SIGUSR2, handler).unwrap();
        soon(event_loop, || signal_hook::low_level::raise(SIGUSR2).unwrap())
    }),
    ("signal handler: replaced", |event_loop, bomb| {
        event_loop.add_signal_handler(SIGUSR2, move || bomb.touch()).unwrap();
        event_loop.add_signal_handler(SIGUSR2, || {}).unwrap();
        nothing()
    }),
    ("signal handler: waiting", |event_loop, bomb| {
        event_loop.add_signal_handler(SIGUSR2, move || bomb.touch()).unwrap();
        nothing()
    }),
    ("bytes: sent at once", |event_loop, bomb| {
        let (transport, _, peer) = connect(event_loop, Echo);
        transport.write(memory(10, bomb));
        Box::new(peer)
    }),
    ("bytes: gathered", |event_loop, bomb| {
        let (transport, _, peer) = connect(event_loop, Echo);
        soon(event_loop, move || transport.write(memory(10_000, bomb)));
        Box::new(peer)
    }),
    ("bytes: buffered and sent", |event_loop, bomb| {
        let (transport, _, mut peer) = connect(event_loop, Echo);
        transport.write(memory(1 << 20, bomb));
        let reading = event_loop.run_in_executor(move || {
            peer.read_exact(&mut vec![0; 1 << 20]).unwrap();
        });
        util::run(event_loop, reading).unwrap();
        nothing()
    }),
    ("bytes: buffered and aborted", |event_loop, bomb| {
        let (transport, _, peer) = connect(event_loop, Echo);
        transport.writelines([Bytes::from(vec![0; 1 << 20]), memory(1 << 20, bomb)]);
        soon(event_loop, move || transport.abort());
        Box::new(peer)
    }),
    ("bytes: buffered", |event_loop, bomb| {
        let (transport, _, peer) = connect(event_loop, Echo);
        transport.write(memory(1 << 20, bomb));
        Box::new(peer)
    }),
    ("bytes: written by another thread", |event_loop, bomb| {
        let (transport, _, peer) = connect(event_loop, Echo);
        soon(event_loop, move || {
            let writing = transport.clone();
            thread::spawn(move || writing.write(memory(10, bomb))).join().unwrap();
        });
        Box::new(peer)
    }),
    ("bytes: written too late", |event_loop, bomb| {
        let (transport, _, _) = connect(event_loop, Echo);
        transport.abort();
        transport.write(memory(10, bomb));
        nothing()
    }),
    ("bytes: a datagram", |event_loop, bomb| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        struct Deaf;
        impl DatagramProtocol for Deaf {
            fn datagram_received(&mut self, _: &DatagramTransport, _: &[u8], _: &Address) {}
        }
        let making = event_loop.create_datagram_endpoint(|| Deaf, ours);
        let (transport, _) = util::run(event_loop, making).unwrap();
        while transport.get_write_buffer_size() == 0 {
            transport.send(vec![0; 1000]);
        }
        transport.send(memory(10, bomb));
        soon(event_loop, move || transport.abort());
        Box::new(theirs)
    }),
    ("exception handler: replaced", |event_loop, bomb| {
        // The one that records takes its place below.
        event_loop.set_exception_handler(move |_, _| bomb.touch());
        nothing()
    }),
    ("panic's payload: of a callback", |event_loop, bomb| {
        soon(event_loop, move || std::panic::panic_any(bomb))
    }),
    ("panic's payload: of a task", |event_loop, bomb| {
        drop(event_loop.create_task(async move { std::panic::panic_any(bomb) }));
        nothing()
    }),
    ("panic's payload: of a protocol", |event_loop, bomb| {
        let made = move |_: &Transport| std::panic::panic_any(bomb);
        struct Made<F>(Option<F>);
        impl<F: FnOnce(&Transport) + Send> Protocol for Made<F> {
            fn connection_made(&mut self, transport: &Transport) {
                self.0.take().unwrap()(transport);
            }
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        }
        drop(connect(event_loop, Made(Some(made))));
        nothing()
    }),
];

/// What an exception handler was told.
type Told = Arc<Mutex<Vec<String>>>;

fn record(event_loop: &EventLoop, told: &Told) {
    let told = told.clone();
    event_loop.set_exception_handler(move |_, context| {
        told.lock().unwrap().push(context.to_string());
    });
}

/// Panics that are wanted are not printed.
fn silence() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            if text != Some("boom") && !payload.is::<Bomb>() {
                hook(info);
            }
        }));
    });
}

/// How the loop ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    LastHandle,
}

fn play((name, case): &Case, end: End) {
    let (dropped, told) = (Arc::new(AtomicUsize::new(0)), Told::default());
    let event_loop = EventLoop::new().unwrap();
    record(&event_loop, &told);
    let neighbour = util::run(&event_loop, Pair::open(&event_loop));
    let kept = case(&event_loop, Bomb(dropped.clone()));
    record(&event_loop, &told);
    let ticked = Arc::new(AtomicBool::new(false));
    let tick = ticked.clone();
    event_loop.call_later(Duration::ZERO, move || tick.store(true, Ordering::SeqCst));
    for _ in 0..2 {
        util::run(&event_loop, until(&event_loop, || ticked.load(Ordering::SeqCst)));
        util::run(&event_loop, event_loop.sleep(Duration::from_millis(3)));
        (&neighbour.peer).write_all(b"data").unwrap();
        util::run(&event_loop, neighbour.saw(&event_loop, "data"));
        neighbour.log.take();
    }
    assert!(!event_loop.is_running(), "{name}");
    match end {
        End::Close => event_loop.close().unwrap(),
        End::LastHandle => drop(event_loop),
    }
    drop(kept);
    let told: Vec<_> =
        told.lock().unwrap().iter().filter(|it| it.contains("boom")).cloned().collect();
    assert_eq!((told.len(), dropped.load(Ordering::SeqCst)), (1, 1), "{name}, {end:?}: {told:?}");
}

#[test]
fn every_drop_may_panic() {
    let _alone = alone();
    silence();
    for case in CASES {
        play(case, End::Close);
        play(case, End::LastHandle);
    }
}

/// The exception handler's own drop is the last one, and nobody is left to hear of it but the log.
#[test]
fn the_handlers_own_drop_may_panic() {
    let _alone = alone();
    silence();
    let dropped = Arc::new(AtomicUsize::new(0));
    for last in [false, true] {
        let (event_loop, bomb) = (EventLoop::new().unwrap(), Bomb(dropped.clone()));
        event_loop.set_exception_handler(move |_, _| bomb.touch());
        if last {
            drop(event_loop);
        } else {
            event_loop.close().unwrap();
        }
        assert_eq!(dropped.load(Ordering::SeqCst), 1 + usize::from(last));
    }
}

/// A payload whose drop panics with a payload whose drop panics, and so on.
#[test]
fn a_panic_in_a_payloads_drop_ends() {
    struct Endless;
    impl Drop for Endless {
        fn drop(&mut self) {
            std::panic::panic_any(Endless);
        }
    }
    let event_loop = EventLoop::new().unwrap();
    let told = util::errors(&event_loop);
    event_loop.call_soon(|| std::panic::panic_any(Endless));
    util::run(&event_loop, async {});
    assert_eq!(told.lines().len(), 1);
}
