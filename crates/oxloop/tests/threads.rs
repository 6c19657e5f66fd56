//! Handles and transports in other threads than the loop's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{EventLoop, Handle, ProtocolHandle, Server, Task, TimerHandle, Transport};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;
use util::*;

#[test]
fn handles_go_anywhere() {
    fn check<T: Send + Sync + 'static>() {}
    check::<EventLoop>();
    check::<Transport>();
    check::<ProtocolHandle<Recorder>>();
    check::<Server>();
    check::<Handle>();
    check::<TimerHandle>();
    fn send<T: Send>(_: T) {}
    let event_loop = new_loop();
    send(event_loop.create_connection(Recorder::default, ("", 0)));
    send(event_loop.create_server(Recorder::default, ("", 0)));
    send(event_loop.sleep(Duration::ZERO));
    send(event_loop.run_in_executor(|| 1));
    fn task<T: Send>(task: Task<T>) {
        send(task);
    }
    task(event_loop.create_task(async {}));
}

/// A loop in a thread of its own, until this is dropped.
struct Running(EventLoop, Option<thread::JoinHandle<()>>);

impl Running {
    fn new() -> Running {
        let event_loop = new_loop();
        let own = event_loop.clone();
        let (ready, started) = mpsc::channel();
        event_loop.call_soon(move || ready.send(()).unwrap());
        let thread = thread::spawn(move || own.run_forever().unwrap());
        started.recv_timeout(HANG).unwrap();
        Running(event_loop, Some(thread))
    }

    /// Runs a future on the loop's thread, from this one.
    fn block_on<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        drop(self.0.create_task(async move { done.send(future.await).unwrap() }));
        result.recv_timeout(HANG).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
        self.1.take().unwrap().join().unwrap();
    }
}

#[test]
fn callbacks_of_a_thread_come_in_order() {
    let running = Running::new();
    let (told, seen) = mpsc::channel();
    for number in 0..1000 {
        let told = told.clone();
        running.0.call_soon(move || told.send((thread::current().id(), number)).unwrap());
    }
    let all: Vec<_> = (0..1000).map(|_| seen.recv_timeout(HANG).unwrap()).collect();
    assert!(all.iter().map(|(_, number)| *number).eq(0..1000));
    assert!(all.iter().all(|(thread, _)| *thread != thread::current().id()));
}

#[test]
fn timers_of_a_thread_wake_the_loop() {
    let running = Running::new();
    let (told, seen) = mpsc::channel();
    // It waits for ever, or for this.
    running.0.call_later(Duration::from_secs(999), || panic!("never"));
    for _ in 0..20 {
        let told = told.clone();
        running.0.call_later(Duration::from_millis(1), move || told.send(()).unwrap());
        seen.recv_timeout(HANG).unwrap();
    }
}

#[test]
fn writes_of_threads_keep_their_order() {
    let running = Running::new();
    let event_loop = running.0.clone();
    let mut pair = running.block_on(async move { Pair::open(&event_loop).await });
    let writers: Vec<_> = (0..4u8)
        .map(|writer| {
            let transport = pair.transport.clone();
            thread::spawn(move || {
                for number in 0..500u16 {
                    let [high, low] = number.to_be_bytes();
                    transport.write(&[writer, high, low]);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    pair.transport.writelines([&b"bye"[..], &b"bye"[..]]);
    pair.transport.close();
    let mut all = Vec::new();
    pair.peer.read_to_end(&mut all).unwrap();
    assert_eq!(all.split_off(4 * 500 * 3), b"byebye");
    let mut next = [0u16; 4];
    for piece in all.chunks(3) {
        let number = &mut next[usize::from(piece[0])];
        assert_eq!(u16::from_be_bytes([piece[1], piece[2]]), *number);
        *number += 1;
    }
    assert_eq!(next, [500; 4]);
}

/// All of a transport's methods from another thread, and the callbacks where they belong.
#[test]
fn a_transport_is_used_from_anywhere() {
    let running = Running::new();
    let event_loop = running.0.clone();
    let (told, seen) = mpsc::channel();
    let mut pair = running.block_on(async move {
        let received = move |_: &Transport, data| {
            told.send((thread::current().id(), data)).unwrap();
        };
        Pair::with(&event_loop, |recorder| recorder.on_data(received)).await
    });
    let transport = &pair.transport;
    transport.pause_reading();
    std::io::Write::write_all(&mut pair.peer, b"abc").unwrap();
    transport.resume_reading();
    let (thread, data) = seen.recv_timeout(HANG).unwrap();
    assert_eq!(data, b"abc");
    assert_ne!(thread, thread::current().id());
    transport.set_write_buffer_limits(Some(10), None).unwrap();
    transport.write(vec![0; 8 << 20]);
    let mut left = 8 << 20;
    while left > 0 {
        left -= pair.peer.read(&mut vec![0; 1 << 20]).unwrap();
    }
    transport.write_eof();
    assert_eq!(pair.peer.read(&mut [0; 1]).unwrap(), 0);
    let echo = transport.set_protocol(Echo);
    transport.abort();
    while !transport.is_closing() || transport.protocol::<Echo>().is_some() {
        thread::yield_now();
    }
    drop(echo);
    assert_eq!(pair.log.lines(), ["made", "data", "pause", "resume"]);
    assert!(!transport.is_reading());
    assert_eq!(transport.get_write_buffer_size(), 0);
}

/// A look at the protocol waits for the callback that runs.
#[test]
fn a_look_at_the_protocol_waits_for_its_callback() {
    let running = Running::new();
    let event_loop = running.0.clone();
    let (begun, started) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let mut pair = running.block_on(async move {
        let received = move |_: &Transport, _| {
            begun.send(()).unwrap();
            wait.recv_timeout(HANG).unwrap();
        };
        Pair::with(&event_loop, |recorder| recorder.on_data(received)).await
    });
    std::io::Write::write_all(&mut pair.peer, b"abc").unwrap();
    started.recv_timeout(HANG).unwrap();
    let looking = pair.protocol.clone();
    let looker = thread::spawn(move || looking.with(|recorder| recorder.data.clone()).unwrap());
    go.send(()).unwrap();
    assert_eq!(looker.join().unwrap(), b"abc");
}

#[test]
fn stop_from_anywhere() {
    for _ in 0..200 {
        let event_loop = new_loop();
        let stopper = event_loop.clone();
        let thread = thread::spawn(move || {
            while !stopper.is_running() {
                std::hint::spin_loop();
            }
            stopper.stop();
        });
        event_loop.run_forever().unwrap();
        thread.join().unwrap();
    }
}

/// Things are asked for while the loop is being started: none is overlooked.
#[test]
fn nothing_is_lost_at_the_start() {
    for round in 0..200 {
        let event_loop = new_loop();
        let other = event_loop.clone();
        let thread = thread::spawn(move || {
            let stopper = other.clone();
            let stop = move || stopper.stop();
            match round % 3 {
                0 => drop(other.call_soon(stop)),
                1 => drop(other.call_later(Duration::ZERO, stop)),
                _ => other.stop(),
            }
        });
        event_loop.run_forever().unwrap();
        thread.join().unwrap();
    }
}

/// While nobody runs the loop, whoever calls acts as its thread.
#[test]
fn a_loop_that_does_not_run_is_anybodys() {
    let event_loop = new_loop();
    let mut pair = run(&event_loop, Pair::open(&event_loop));
    thread::scope(|scope| {
        scope.spawn(|| {
            pair.transport.write("from another thread");
            pair.transport.close();
            assert!(pair.transport.is_closing());
        });
    });
    let mut text = [0; 19];
    pair.peer.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"from another thread", "sent at once");
    assert!(!pair.log.has("lost"));
    run(&event_loop, turns(&event_loop, 2));
    assert!(pair.log.has("lost"));
}

/// What was asked of a running loop still comes first when the loop has stopped.
#[test]
fn a_loop_that_has_stopped_keeps_the_order() {
    let event_loop = new_loop();
    let mut pair = run(&event_loop, Pair::open(&event_loop));
    let (go, wait) = mpsc::channel();
    let (done, finished) = mpsc::channel();
    let transport = pair.transport.clone();
    let thread = thread::spawn(move || {
        wait.recv_timeout(HANG).unwrap();
        transport.write("first ");
        done.send(()).unwrap();
    });
    let stopper = event_loop.clone();
    event_loop.call_soon(move || {
        go.send(()).unwrap();
        finished.recv_timeout(HANG).unwrap();
        stopper.stop();
    });
    event_loop.run_forever().unwrap();
    thread.join().unwrap();
    pair.transport.write("second");
    pair.transport.close();
    run(&event_loop, turns(&event_loop, 3));
    let mut text = String::new();
    pair.peer.read_to_string(&mut text).unwrap();
    assert_eq!(text, "first second");
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}

/// The loop's futures can be awaited under another executor, in another thread.
#[test]
fn futures_are_polled_by_anybody() {
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut future = std::pin::pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => return output,
                Poll::Pending => thread::park_timeout(HANG),
            }
        }
    }

    let running = Running::new();
    let event_loop = &running.0;
    block_on(async {
        event_loop.sleep(Duration::from_millis(1)).await;
        let server = event_loop.create_server(|| Echo, ("127.0.0.1", 0)).await.unwrap();
        let (echo, echoed) = event_loop.create_future();
        let factory = move || {
            Recorder::default().on_made(|transport| transport.write("abc")).on_data(
                move |transport, data| {
                    echo.set_result((thread::current().id(), data));
                    transport.close();
                },
            )
        };
        event_loop
            .create_connection(factory, ("localhost", server.local_addrs()[0].port()))
            .await
            .unwrap();
        let (thread, data) = echoed.await.unwrap();
        assert_eq!(data, b"abc");
        assert_ne!(thread, thread::current().id());
        server.close();
        server.wait_closed().await;
        assert_eq!(event_loop.create_task(async { 5 }).await.unwrap(), 5);
    });
}

/// Threads that post without an end, until this is dropped.
struct Flood(Arc<AtomicBool>, Vec<thread::JoinHandle<()>>);

impl Flood {
    /// Each thread calls `post` again and again.
    fn new(threads: usize, post: impl Fn() + Clone + Send + 'static) -> Flood {
        let over = Arc::new(AtomicBool::new(false));
        let flooding = (0..threads).map(|_| {
            let (over, post) = (over.clone(), post.clone());
            thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    post();
                }
            })
        });
        let threads = flooding.collect();
        Flood(over, threads)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// What a turn runs of a flood is bounded, so timers, I/O and the loop's own callbacks go on.
#[test]
fn a_flood_of_callbacks_starves_nothing() {
    let event_loop = new_loop();
    let (ran, poster) = (Arc::new(AtomicUsize::new(0)), event_loop.clone());
    let mut pair = run(&event_loop, Pair::open(&event_loop));
    let count = ran.clone();
    let flood = Flood::new(2, move || {
        let count = count.clone();
        poster.call_soon(move || _ = count.fetch_add(1, Ordering::SeqCst));
    });
    let most = run(&event_loop, async {
        until(&event_loop, || ran.load(Ordering::SeqCst) > 1000).await;
        let mut most = 0;
        for _ in 0..50 {
            let before = ran.load(Ordering::SeqCst);
            event_loop.sleep(Duration::ZERO).await;
            most = most.max(ran.load(Ordering::SeqCst) - before);
            event_loop.sleep(Duration::from_millis(1)).await;
        }
        std::io::Write::write_all(&mut pair.peer, b"data").unwrap();
        pair.saw(&event_loop, "data").await;
        most
    });
    assert!(most <= 2 * 256, "{most} callbacks of other threads in a turn or two");
    drop(flood);
}

/// A flood's callbacks all run, each thread's in the order of its calls, and so does what is asked
/// for behind them.
#[test]
fn a_flood_keeps_the_order_of_each_thread() {
    const EACH: usize = 20_000;
    let running = Running::new();
    let seen: Arc<Mutex<Vec<Vec<usize>>>> = Arc::new(Mutex::new(vec![Vec::new(); 3]));
    let posters = (0..3).map(|thread| {
        let (event_loop, seen) = (running.0.clone(), seen.clone());
        thread::spawn(move || {
            for number in 0..EACH {
                let seen = seen.clone();
                event_loop.call_soon(move || seen.lock().unwrap()[thread].push(number));
            }
            let (told, last) = mpsc::channel();
            event_loop.call_soon(move || told.send(seen.lock().unwrap()[thread].len()).unwrap());
            assert_eq!(last.recv_timeout(HANG), Ok(EACH));
        })
    });
    let posters: Vec<_> = posters.collect();
    posters.into_iter().for_each(|poster| poster.join().unwrap());
    assert!(seen.lock().unwrap().iter().all(|numbers| numbers.iter().copied().eq(0..EACH)));
}

/// Before a run everybody acts as the loop's thread: however much that is, its order is that of
/// the calls, and what the first callbacks queue comes behind it.
#[test]
fn what_is_queued_before_a_run_comes_first() {
    let (event_loop, log) = (new_loop(), Log::default());
    let (inner, first) = (event_loop.clone(), log.clone());
    event_loop.call_soon(move || {
        let later = first.clone();
        inner.call_soon(move || later.add("from inside"));
        first.add("first");
    });
    for _ in 0..5000 {
        event_loop.call_soon(|| {});
    }
    let (elsewhere, last) = (event_loop.clone(), log.clone());
    thread::spawn(move || _ = elsewhere.call_soon(move || last.add("last"))).join().unwrap();
    run(&event_loop, turns(&event_loop, 2));
    assert_eq!(log.lines(), ["first", "last", "from inside"]);
}

/// A loop that is inside of a callback until this is dropped, and the log that callbacks write to.
fn busy(running: &Running) -> mpsc::Sender<()> {
    let (begun, started) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    running.0.call_soon(move || {
        begun.send(()).unwrap();
        assert!(wait.recv_timeout(HANG).is_err());
    });
    started.recv_timeout(HANG).unwrap();
    go
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !condition() {
        assert!(begin.elapsed() < HANG);
        thread::yield_now();
    }
}

/// What another thread writes counts from the call on, and its pause is told before anything else
/// that is queued.
#[test]
fn what_a_thread_writes_counts_at_once() {
    const PIECE: usize = 1000;
    let running = Running::new();
    let event_loop = running.0.clone();
    let mut pair = running.block_on(async move { Pair::open(&event_loop).await });
    let (transport, log) = (pair.transport.clone(), pair.log.clone());
    let high = transport.get_write_buffer_limits().high();
    log.take();
    let go = busy(&running);
    for _ in 0..1000 {
        let log = log.clone();
        running.0.call_soon(move || log.add("queued before"));
    }
    let mut written = 0;
    while written <= high {
        assert_eq!(transport.get_write_buffer_size(), written);
        transport.write(vec![0; PIECE]);
        transport.writelines([vec![0; PIECE], vec![0; PIECE]]);
        written += 3 * PIECE;
    }
    assert_eq!(log.lines(), [""; 0], "the loop is busy");
    drop(go);
    pair.peer.read_exact(&mut vec![0; written]).unwrap();
    eventually(|| log.has("resume"));
    let lines = log.take();
    assert_eq!((lines.len(), lines[0].as_str()), (1002, "pause"));
    assert_eq!(lines[1001], "resume");
    assert_eq!(transport.get_write_buffer_size(), 0);
    // What is on its way keeps the protocol paused, though the buffer is empty.
    transport.set_write_buffer_limits(Some(10), None).unwrap();
    let go = busy(&running);
    transport.write(&[0; 11]);
    transport.write(&[0; 3]);
    drop(go);
    pair.peer.read_exact(&mut [0; 14]).unwrap();
    eventually(|| log.has("resume"));
    assert_eq!(log.take(), ["pause", "resume"]);
    // Nothing is counted of what came too late.
    transport.abort();
    let go = busy(&running);
    transport.write(&[0; 3]);
    drop(go);
    eventually(|| transport.get_write_buffer_size() == 0);
}

/// The same for datagrams, whose headers count.
#[test]
fn what_a_thread_sends_counts_at_once() {
    struct Paused(Log);
    impl oxloop::DatagramProtocol for Paused {
        fn datagram_received(
            &mut self,
            _: &oxloop::DatagramTransport,
            _: &[u8],
            _: &oxloop::Address,
        ) {
        }
        fn pause_writing(&mut self, _: &oxloop::DatagramTransport) {
            self.0.add("pause");
        }
        fn resume_writing(&mut self, _: &oxloop::DatagramTransport) {
            self.0.add("resume");
        }
    }
    let (running, log) = (Running::new(), Log::default());
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let (event_loop, told) = (running.0.clone(), log.clone());
    let (transport, _) = running.block_on(async move {
        event_loop.create_datagram_endpoint(|| Paused(told), ours).await.unwrap()
    });
    transport.set_write_buffer_limits(Some(100), None).unwrap();
    running.block_on(async {});
    let go = busy(&running);
    for count in 0..10 {
        assert_eq!(transport.get_write_buffer_size(), count * 18);
        transport.send(&[0; 10]);
    }
    drop(go);
    theirs.set_read_timeout(Some(HANG)).unwrap();
    for _ in 0..10 {
        assert_eq!(theirs.recv(&mut [0; 20]).unwrap(), 10);
    }
    eventually(|| log.has("resume"));
    assert_eq!(
        (log.take(), transport.get_write_buffer_size()),
        (vec!["pause".into(), "resume".into()], 0)
    );
}

/// While nobody runs the loop, two threads that are inside of a protocol each may write on the
/// other's transport: the pause is left to the thread that is inside.
#[test]
fn two_threads_write_from_inside_of_protocols() {
    let event_loop = new_loop();
    for _ in 0..50 {
        let pairs: [Pair; 2] = [(), ()].map(|()| run(&event_loop, Pair::open(&event_loop)));
        let both_inside = Arc::new(Barrier::new(2));
        let (done, finished) = mpsc::channel();
        for (own, other) in [(0, 1), (1, 0)] {
            let (protocol, transport) =
                (pairs[own].protocol.clone(), pairs[other].transport.clone());
            let (both_inside, done) = (both_inside.clone(), done.clone());
            thread::spawn(move || {
                let inside = protocol.with(|_| {
                    both_inside.wait();
                    transport.write(vec![0; 1 << 20]);
                });
                done.send(inside).unwrap();
            });
        }
        for _ in 0..2 {
            assert_eq!(finished.recv_timeout(HANG), Ok(Ok(())));
        }
        for pair in &pairs {
            eventually(|| pair.log.has("pause"));
            assert_eq!(pair.log.lines(), ["made", "pause"]);
            pair.transport.abort();
        }
    }
}
