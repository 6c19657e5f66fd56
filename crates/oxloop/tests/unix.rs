//! Connections over Unix sockets: whom to, by what name, and what becomes of failures.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{
    Address, Error, EventLoop, Misuse, Server, Transport, UnixAddress, UnixServerOptions,
    UnixTarget,
};
use rustix::net::SocketAddrUnix;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use util::*;

async fn connect(event_loop: &EventLoop, to: impl Into<UnixTarget>) -> oxloop::Result<Transport> {
    Ok(event_loop.create_unix_connection(Recorder::default, to).await?.0)
}

/// A server of recorders, and what they record.
async fn serve(event_loop: &EventLoop, options: impl Into<UnixServerOptions>) -> (Server, Log) {
    let log = Log::default();
    let seen = log.clone();
    let factory = move || Recorder::new(&seen);
    let server = event_loop.create_unix_server(factory, options).await.unwrap();
    (server, log)
}

fn unix(name: impl Into<UnixAddress>) -> Option<Address> {
    Some(Address::Unix(name.into()))
}

fn names(transport: &Transport) -> (Option<Address>, Option<Address>) {
    (transport.sockname().cloned(), transport.peername().cloned())
}

/// An abstract name that no other test has.
fn hidden(name: &str) -> String {
    format!("\0oxloop-test-{}-{name}", std::process::id())
}

/// Bound to exactly these bytes: Python and Rust's std take one byte less.
fn bound_to_full_length(path: &Path) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    assert_eq!(path.as_os_str().len(), 108);
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

fn full_length(folder: &Folder) -> PathBuf {
    let stem = folder.join("").as_os_str().len();
    folder.join(&"n".repeat(108 - stem))
}

#[test]
fn connects_to_paths_and_names() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("a");
        let _listener = UnixListener::bind(&path).unwrap();
        let text = path.to_str().unwrap();
        for target in [
            UnixTarget::from(text),
            text.to_owned().into(),
            path.as_path().into(),
            path.clone().into(),
            path.as_os_str().into(),
            path.as_os_str().to_owned().into(),
            UnixAddress::from(text).into(),
        ] {
            let transport = connect(&event_loop, target).await.unwrap();
            assert_eq!(names(&transport), (unix(""), unix(text)));
            assert_eq!((transport.local_addr(), transport.peer_addr()), (None, None));
            assert!(format!("{transport:?}").ends_with(&format!(" peer={text}>")));
        }
        let name = hidden("connects");
        let (_server, log) = serve(&event_loop, name.as_str()).await;
        let address = UnixAddress::from_abstract_name(&name.as_bytes()[1..]);
        for target in [UnixTarget::from(name.as_str()), address.clone().into()] {
            let transport = connect(&event_loop, target).await.unwrap();
            assert_eq!(transport.peername(), Some(&Address::Unix(address.clone())));
        }
        until(&event_loop, || log.count("made") == 2).await;
    });
}

#[test]
fn names_of_both_ends_on_both_sides() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let (path, own) = (folder.join("server"), folder.join("client"));
        let (server, log) = serve(&event_loop, path.as_path()).await;
        assert_eq!(server.socknames(), [Address::Unix(path.as_path().into())]);
        assert_eq!(server.local_addrs(), []);
        assert!(format!("{server:?}").contains(path.to_str().unwrap()));
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&own).unwrap()).unwrap();
        socket.connect(&SockAddr::unix(&path).unwrap()).unwrap();
        let transport = connect(&event_loop, socket).await.unwrap();
        assert_eq!(names(&transport), (unix(own.as_path()), unix(path.as_path())));
        until(&event_loop, || log.has("made")).await;
        transport.close();
        turns(&event_loop, 3).await;
        assert_eq!(names(&transport), (unix(own.as_path()), unix(path.as_path())), "still");
    });
}

#[test]
fn the_server_sees_the_clients_name() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("server");
        let (seen, heard) = (Log::default(), folder.join("client"));
        let log = seen.clone();
        let factory = move || {
            let log = log.clone();
            Recorder::default().on_made(move |transport| {
                log.add(transport.peername().map_or("none".into(), ToString::to_string));
            })
        };
        let _server = event_loop.create_unix_server(factory, path.as_path()).await.unwrap();
        let named = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        named.bind(&SockAddr::unix(&heard).unwrap()).unwrap();
        let abstracted = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        abstracted.bind(&SockAddr::unix(hidden("seen")).unwrap()).unwrap();
        let unnamed = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let full = full_length(&folder);
        for socket in [&named, &abstracted, &unnamed, &bound_to_full_length(&full)] {
            socket.connect(&SockAddr::unix(&path).unwrap()).unwrap();
            let count = seen.lines().len();
            until(&event_loop, || seen.lines().len() > count).await;
        }
        let shown = hidden("seen").replace('\0', r"\x00");
        let paths = [&heard, &full].map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(seen.lines(), [&paths[0], &shown, "", &paths[1]]);
    });
}

#[test]
fn existing_sockets_are_used() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let transport = connect(&event_loop, ours).await.unwrap();
        assert_eq!(names(&transport), (unix(""), unix("")));
        assert!(!format!("{transport:?}").contains("peer"));
        connect(&event_loop, OwnedFd::from(theirs)).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let datagrams = UnixDatagram::unbound().unwrap();
        for other in [OwnedFd::from(tcp), datagrams.into()] {
            let clone = other.try_clone().unwrap();
            let refused = connect(&event_loop, other).await;
            assert!(matches!(refused, Err(Error::Misuse(Misuse::UnixStreamExpected))));
            let refused = event_loop.create_unix_server(|| Echo, clone).await;
            assert!(matches!(refused, Err(Error::Misuse(Misuse::UnixStreamExpected))));
        }
    });
}

#[test]
fn connections_that_cannot_be_made() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let file = folder.join("file");
        fs::write(&file, "").unwrap();
        let dead = folder.join("dead");
        drop(UnixListener::bind(&dead).unwrap());
        let nobody = hidden("nobody");
        for (target, errno) in [
            (folder.join("missing"), Some(2)),     // ENOENT
            (folder.join("missing/too"), Some(2)), // ENOENT
            (file, Some(111)),                     // ECONNREFUSED
            (dead, Some(111)),
            (nobody.into(), Some(111)),
            (PathBuf::new(), Some(22)), // EINVAL
            (folder.join(&"x".repeat(108)), None),
            (folder.join("a\0b"), None),
        ] {
            let error = connect(&event_loop, target.as_path()).await.unwrap_err();
            assert_eq!(error.raw_os_error(), errno, "{target:?}: {error}");
            if errno.is_none() {
                let Error::Io(error) = error else { panic!("{error:?}") };
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
            }
        }
    });
    event_loop.close().unwrap();
    let closed = at_once(connect(&event_loop, "anywhere"));
    assert!(matches!(closed, Err(Error::Misuse(Misuse::LoopClosed))));
    let closed = at_once(event_loop.create_unix_server(|| Echo, "anywhere"));
    assert!(matches!(closed, Err(Error::Misuse(Misuse::LoopClosed))));
}

/// The output of a future that does not wait.
fn at_once<F: Future>(future: F) -> F::Output {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn a_full_queue_refuses() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("full");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        let error = connect(&event_loop, path.as_path()).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(11), "EAGAIN");
    });
}

#[test]
fn carries_data_both_ways() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("echo");
        let _server = event_loop.create_unix_server(|| Echo, path.as_path()).await.unwrap();
        let (transport, protocol) =
            event_loop.create_unix_connection(Recorder::default, path.as_path()).await.unwrap();
        let data = pattern(1 << 20);
        transport.write(data.clone());
        until(&event_loop, || protocol.with(|seen| seen.data.len() == data.len()).unwrap()).await;
        protocol.with(|seen| assert_eq!(seen.data, data)).unwrap();
        protocol.with(|seen| assert!(seen.log.has("pause") && seen.log.has("resume"))).unwrap();
    });
}

#[test]
fn either_side_may_end_first() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("half");
        let listener = UnixListener::bind(&path).unwrap();
        let factory = || Recorder::default().keeping_open();
        let (transport, protocol) =
            event_loop.create_unix_connection(factory, path.as_path()).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(HANG)).unwrap();
        peer.write_all(b"question").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        until(&event_loop, || protocol.with(|seen| seen.log.has("eof")).unwrap()).await;
        transport.write("answer");
        transport.write_eof();
        turns(&event_loop, 2).await;
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
        protocol.with(|seen| assert_eq!(seen.data, b"question")).unwrap();
        transport.close();
        until(&event_loop, || protocol.with(|seen| seen.log.has("lost")).unwrap()).await;
        protocol.with(|seen| assert!(seen.error.is_none())).unwrap();
    });
}
