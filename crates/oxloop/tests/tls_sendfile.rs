//! Files over TLS.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[path = "util/tls.rs"]
mod tls;
mod util;

use oxloop::{Error, EventLoop, Misuse};
use std::fs::{self, File};
use std::io::Write;
use std::sync::mpsc;
use std::thread::JoinHandle;
use tls::*;
use util::*;

const SIZE: usize = 3 << 20;

fn file(folder: &Folder) -> File {
    let path = folder.join("data");
    fs::write(&path, pattern(SIZE)).unwrap();
    File::open(path).unwrap()
}

/// A client of a server that reads to the end, once it is told to, or hung up on.
async fn client(event_loop: &EventLoop) -> (Client, mpsc::Sender<()>, JoinHandle<(Vec<u8>, bool)>) {
    let (go, wait) = mpsc::channel();
    let (address, peer) = serve_once(move |socket| {
        let mut stream = answer(socket, server_config());
        stream.flush().unwrap();
        let _ = wait.recv();
        read_all(&mut stream)
    });
    let to = secured(address, client_config());
    (Client::connect(event_loop, to, |recorder| recorder).await.unwrap(), go, peer)
}

#[test]
fn behind_and_before_other_writes() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let file = file(&folder);
    run(&event_loop, async {
        let (client, go, peer) = client(&event_loop).await;
        go.send(()).unwrap();
        client.transport.write("head");
        let sent = client.transport.sendfile(&file, 0, None).await.unwrap();
        assert_eq!(sent, SIZE as u64);
        assert_eq!(client.transport.sendfile(&file, 10, Some(20)).await.unwrap(), 20);
        assert_eq!(client.transport.sendfile(&file, SIZE as u64, None).await.unwrap(), 0);
        assert!(client.transport.is_reading());
        // In a task, which asks for a future that is Send.
        let (transport, end) = (client.transport.clone(), file.try_clone().unwrap());
        let sending =
            event_loop.create_task(async move { transport.sendfile(&end, 0, Some(1)).await });
        assert_eq!(sending.await.unwrap().unwrap(), 1);
        client.transport.write("tail");
        client.transport.close();
        until(&event_loop, || peer.is_finished()).await;
        let mut expected = b"head".to_vec();
        expected.extend(pattern(SIZE));
        expected.extend(&pattern(SIZE)[10..30]);
        expected.extend(&pattern(SIZE)[..1]);
        expected.extend(b"tail");
        assert!(peer.join().unwrap() == (expected, true));
    });
}

#[test]
fn meanwhile_nothing_else_is_written() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    drop(file(&folder));
    // Larger than all buffers between the two.
    let large = fs::OpenOptions::new().read(true).write(true).open(folder.join("data")).unwrap();
    large.set_len(64 << 20).unwrap();
    let log = errors(&event_loop);
    run(&event_loop, async {
        let (client, go, peer) = client(&event_loop).await;
        let transport = client.transport.clone();
        {
            let mut sending = Box::pin(transport.sendfile(&large, 0, None));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            for _ in 0..50 {
                assert!(sending.as_mut().poll(&mut cx).is_pending());
                event_loop.sleep(std::time::Duration::from_millis(1)).await;
            }
            assert!(!transport.is_reading());
            transport.write("refused");
            let refused = Misuse::SendfileInProgress.to_string();
            assert_eq!(log.take(), [format!("{refused}|{refused}")]);
            let again = transport.sendfile(&large, 0, None).await;
            assert!(matches!(again, Err(Error::Misuse(Misuse::SendfileInProgress))));
        }
        assert!(transport.is_reading());
        transport.write("taken");

        let aborted = transport.clone();
        event_loop.call_later(std::time::Duration::from_millis(50), move || aborted.abort());
        let error = transport.sendfile(&large, 0, None).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(103), "{error:?}");
        until(&event_loop, || client.log.has("lost")).await;
        let closed = transport.sendfile(&large, 0, None).await;
        assert!(matches!(closed, Err(Error::Misuse(Misuse::TransportClosing))));
        drop(go);
        until(&event_loop, || peer.is_finished()).await;
        peer.join().unwrap();
    });
    assert_eq!(log.lines(), Vec::<String>::new());
}
