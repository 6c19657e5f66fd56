//! Servers on Unix sockets: where they listen, and what becomes of the file.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, EventLoop, Server, UnixServerOptions};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use util::*;

async fn serve(event_loop: &EventLoop, options: impl Into<UnixServerOptions>) -> Server {
    event_loop.create_unix_server(|| Echo, options).await.unwrap()
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Whether an echo server answers at a path.
async fn answers(event_loop: &EventLoop, path: &Path) -> bool {
    let Ok(mut client) = UnixStream::connect(path) else { return false };
    client.set_read_timeout(Some(HANG)).unwrap();
    let asked = event_loop.run_in_executor(move || {
        client.write_all(b"?").unwrap();
        let mut answer = [0];
        client.read_exact(&mut answer).is_ok()
    });
    within(event_loop, asked).await.unwrap()
}

#[test]
fn takes_an_existing_listener() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("a");
        let server = serve(&event_loop, UnixListener::bind(&path).unwrap()).await;
        assert!(answers(&event_loop, &path).await);
        server.close();
        assert!(!path.exists());
    });
}

#[test]
fn replaces_what_an_earlier_server_left() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("a");
        drop(UnixListener::bind(&path).unwrap());
        let old = serve(&event_loop, path.as_path()).await;
        assert!(answers(&event_loop, &path).await);
        let log = Log::default();
        let seen = log.clone();
        let factory = move || Recorder::new(&seen);
        let new = event_loop.create_unix_server(factory, path.as_path()).await.unwrap();
        UnixStream::connect(&path).unwrap();
        until(&event_loop, || log.has("lost")).await;
        old.close();
        assert!(is_socket(&path), "it is another's by now");
        new.close();
        assert!(!path.exists());
    });
}

#[test]
fn leaves_other_files_alone() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let (file, directory, link) = (folder.join("a"), folder.join("b"), folder.join("c"));
        fs::write(&file, "precious").unwrap();
        fs::create_dir(&directory).unwrap();
        symlink("nothing", &link).unwrap();
        for path in [&file, &directory, &link] {
            let error = event_loop.create_unix_server(|| Echo, path.as_path()).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(98), "EADDRINUSE");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            let Error::BindUnix { address, .. } = error else { panic!("{error:?}") };
            assert_eq!(address.as_pathname(), Some(path.as_path()));
        }
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert!(directory.is_dir() && link.is_symlink());
    });
}

#[test]
fn a_link_to_a_socket_is_replaced() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let (target, link) = (folder.join("target"), folder.join("link"));
        drop(UnixListener::bind(&target).unwrap());
        symlink(&target, &link).unwrap();
        let _server = serve(&event_loop, link.as_path()).await;
        assert!(answers(&event_loop, &link).await);
        assert!(is_socket(&link) && is_socket(&target));
    });
}

#[test]
fn abstract_names_are_taken_while_they_are_used() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let name = format!("\0oxloop-test-{}-server", std::process::id());
        let server = serve(&event_loop, name.as_str()).await;
        let error = event_loop.create_unix_server(|| Echo, name.as_str()).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(98), "EADDRINUSE");
        server.close();
        serve(&event_loop, name.as_str()).await.close();
    });
}

#[test]
fn places_where_nobody_can_listen() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let listen =
            async |path: &Path| event_loop.create_unix_server(|| Echo, path).await.unwrap_err();
        let missing = listen(&folder.join("missing/a")).await;
        assert_eq!(missing.raw_os_error(), Some(2), "ENOENT");
        assert_eq!(listen(Path::new("")).await.raw_os_error(), Some(22), "EINVAL");
        for name in ["x".repeat(108), "a\0b".to_owned()] {
            let Error::Io(error) = listen(&folder.join(&name)).await else { panic!("{name:?}") };
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        let unbound = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let error = event_loop.create_unix_server(|| Echo, unbound.unwrap()).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(22), "EINVAL");
    });
}

#[test]
fn close_removes_the_file_once() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("a");
        let server = serve(&event_loop, path.as_path()).await;
        assert!(is_socket(&path));
        let listener = server.sockets();
        server.close();
        assert!(!path.exists(), "whoever else holds the socket");
        drop(listener);
        drop(UnixListener::bind(&path).unwrap());
        server.close();
        assert!(is_socket(&path), "this one is another's");
    });
}

#[test]
fn close_removes_its_own_file_only() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("a");
        let kept = UnixServerOptions::new(path.as_path()).cleanup_socket(false);
        serve(&event_loop, kept).await.close();
        assert!(is_socket(&path));
        let gone = serve(&event_loop, path.as_path()).await;
        fs::remove_file(&path).unwrap();
        gone.close();
        let replaced = serve(&event_loop, path.as_path()).await;
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        replaced.close();
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    });
}

#[test]
fn a_loop_that_is_closed_removes_the_files_of_its_servers() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let (serving, idle) = (folder.join("serving"), folder.join("idle"));
    let kept = run(&event_loop, async {
        serve(&event_loop, serving.as_path()).await;
        let options = UnixServerOptions::new(idle.as_path()).start_serving(false);
        serve(&event_loop, options).await
    });
    assert!(is_socket(&serving) && is_socket(&idle));
    event_loop.close().unwrap();
    assert!(!serving.exists());
    assert!(is_socket(&idle), "the loop does not know it yet");
    drop(kept);
    assert!(!idle.exists());
}

#[test]
fn serves_when_it_is_told_to() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("a");
        let options = UnixServerOptions::new(path.as_path()).start_serving(false).backlog(5);
        let server = serve(&event_loop, options).await;
        let refused = UnixStream::connect(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "nobody listens");
        let forever = server.clone();
        let task = event_loop.create_task(async move { forever.serve_forever().await });
        until(&event_loop, || server.is_serving()).await;
        assert!(answers(&event_loop, &path).await);
        task.cancel();
        until(&event_loop, || !server.is_serving()).await;
        assert!(!path.exists());
        server.wait_closed().await;
    });
}

#[test]
fn connections_outlive_their_server() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("a");
        let log = Log::default();
        let seen = log.clone();
        let factory = move || Recorder::new(&seen);
        let server = event_loop.create_unix_server(factory, path.as_path()).await.unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        until(&event_loop, || log.has("made")).await;
        server.close();
        client.write_all(b"still there").unwrap();
        until(&event_loop, || log.has("data")).await;
        let closed = server.clone();
        let waiting = event_loop.create_task(async move { closed.wait_closed().await });
        turns(&event_loop, 5).await;
        assert!(!waiting.done());
        drop(client);
        within(&event_loop, waiting).await.unwrap();
        assert!(log.has("lost"));
    });
}
