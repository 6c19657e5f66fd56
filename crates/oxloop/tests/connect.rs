//! Opening connections: whom to, and what becomes of failures.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{ConnectOptions, Error, EventLoop, Misuse};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use util::*;

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    listener().1
}

async fn connect(
    event_loop: &EventLoop,
    to: impl Into<ConnectOptions>,
) -> oxloop::Result<oxloop::Transport> {
    Ok(event_loop.create_connection(Recorder::default, to).await?.0)
}

#[test]
fn connects_to_names_and_numbers() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (_listener, address) = listener();
        let port = address.port();
        let peers = [
            connect(&event_loop, ("127.0.0.1", port)).await,
            connect(&event_loop, ("localhost", port)).await,
            connect(&event_loop, (String::from("localhost"), port)).await,
            connect(&event_loop, (Ipv4Addr::LOCALHOST, port)).await,
            connect(&event_loop, address).await,
            connect(&event_loop, vec![address]).await,
            connect(&event_loop, [address].as_slice()).await,
        ];
        for transport in peers {
            assert_eq!(transport.unwrap().peer_addr(), Some(address));
        }
    });
}

#[test]
fn an_unknown_name_is_an_error() {
    let event_loop = new_loop();
    let result = run(&event_loop, connect(&event_loop, ("oxloop.invalid", 80)));
    assert!(matches!(result, Err(Error::Io(_))), "{result:?}");
}

#[test]
fn one_error_stays_itself() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let place = nobody();
        for to in [vec![place], vec![place, place]] {
            let error = connect(&event_loop, to).await.unwrap_err();
            assert!(matches!(error, Error::Io(_)));
            assert_eq!(error.raw_os_error(), Some(111), "ECONNREFUSED");
        }
    });
}

#[test]
fn several_errors_are_kept() {
    let event_loop = new_loop();
    run(&event_loop, async {
        // Broadcast is refused at once, and by another errno.
        let places = vec![nobody(), "255.255.255.255:9".parse().unwrap()];
        let error = connect(&event_loop, places).await.unwrap_err();
        assert!(error.to_string().starts_with("Multiple exceptions: "), "{error}");
        let Error::Connect(errors) = error else { panic!("{error:?}") };
        assert_eq!(errors.len(), 2);
        assert_eq!(errors[0].raw_os_error(), Some(111));
        assert!(errors[1].raw_os_error().is_some());
    });
}

#[test]
fn addresses_are_tried_in_turn() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (_listener, address) = listener();
        let places = vec![nobody(), nobody(), address];
        let transport = connect(&event_loop, places).await.unwrap();
        assert_eq!(transport.peer_addr(), Some(address));
        assert!(connect(&event_loop, Vec::new()).await.is_err(), "nowhere to go");
    });
}

#[test]
fn silent_addresses_are_overtaken() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (silent, _sockets) = silent();
        let (_listener, address) = listener();
        for (places, delay) in [
            (vec![silent, address], Duration::from_millis(1)),
            (vec![silent, nobody(), silent, address, silent], Duration::ZERO),
            (vec![nobody(), nobody(), address], HANG),
            (vec![address, silent], HANG),
        ] {
            let options = ConnectOptions::new(places).happy_eyeballs_delay(delay);
            let transport = connect(&event_loop, options).await.unwrap();
            assert_eq!(transport.peer_addr(), Some(address));
        }
        let options = ConnectOptions::new(vec![nobody(), nobody()]).happy_eyeballs_delay(HANG);
        let error = connect(&event_loop, options).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(111), "ECONNREFUSED");
        let options = ConnectOptions::new(Vec::new()).happy_eyeballs_delay(HANG);
        assert!(connect(&event_loop, options).await.is_err(), "nowhere to go");
    });
}

#[test]
fn families_take_turns() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let six: SocketAddr = "[fd00::1]:9".parse().unwrap();
        let four = nobody();
        // From an IPv4 address the one family is refused, the other impossible.
        let from = "127.0.0.1:0".parse().unwrap();
        let order = async |change: fn(ConnectOptions) -> ConnectOptions| {
            let options = ConnectOptions::new(vec![six, six, six, four, four]).local_addr(from);
            let Err(Error::Connect(errors)) = connect(&event_loop, change(options)).await else {
                panic!("it connects");
            };
            errors.iter().map(|error| error.raw_os_error().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(order(|options| options).await, [97, 97, 97, 111, 111]);
        assert_eq!(order(|options| options.interleave(1)).await, [97, 111, 97, 111, 97]);
        assert_eq!(order(|options| options.interleave(2)).await, [97, 97, 111, 97, 111]);
        let racing = order(|options| options.happy_eyeballs_delay(HANG)).await;
        assert_eq!(racing, [97, 111, 97, 111, 97], "1 is the default of a race");
        let racing = order(|options| options.happy_eyeballs_delay(HANG).interleave(0)).await;
        assert_eq!(racing, [97, 97, 97, 111, 111]);
    });
}

#[test]
fn the_local_address_can_be_chosen() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (_listener, address) = listener();
        let from = |place: &str| {
            let options = ConnectOptions::new(address).local_addr(place.parse().unwrap());
            connect(&event_loop, options)
        };
        let transport = from("127.0.0.9:0").await.unwrap();
        assert_eq!(transport.local_addr().unwrap().ip(), Ipv4Addr::new(127, 0, 0, 9));
        assert_eq!(from("192.0.2.1:0").await.unwrap_err().raw_os_error(), Some(99));
        assert_eq!(from("[::1]:0").await.unwrap_err().raw_os_error(), Some(97), "EAFNOSUPPORT");
    });
}

#[test]
fn existing_sockets_are_used() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (listener, address) = listener();
        let socket = TcpStream::connect(address).unwrap();
        let local = socket.local_addr().unwrap();
        let transport = connect(&event_loop, socket).await.unwrap();
        assert_eq!((transport.local_addr(), transport.peer_addr()), (Some(local), Some(address)));
        let (accepted, _) = listener.accept().unwrap();
        let transport = connect(&event_loop, OwnedFd::from(accepted)).await.unwrap();
        assert_eq!(transport.peer_addr(), Some(local));
        let (pair, _other) = UnixStream::pair().unwrap();
        let transport = connect(&event_loop, pair).await.unwrap();
        assert_eq!((transport.local_addr(), transport.peer_addr()), (None, None));
        let datagrams = OwnedFd::from(UdpSocket::bind(("127.0.0.1", 0)).unwrap());
        let refused = connect(&event_loop, datagrams).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::StreamExpected))));
    });
}

#[test]
fn the_protocol_has_its_transport_when_the_future_is_done() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (_listener, address) = listener();
        let (transport, protocol) =
            event_loop.create_connection(Recorder::default, address).await.unwrap();
        let kept = protocol.with(|recorder| recorder.transport.clone()).unwrap();
        assert_eq!(kept, Some(transport.clone()));
        let same = transport.protocol::<Recorder>().unwrap();
        same.with(|recorder| recorder.data.push(7)).unwrap();
        protocol.with(|recorder| assert_eq!(recorder.data, [7])).unwrap();
        assert!(transport.protocol::<Echo>().is_none(), "it is something else");
    });
}

#[test]
fn many_connect_at_once() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let server = event_loop.create_server(|| Echo, ("127.0.0.1", 0)).await.unwrap();
        let address = server.local_addrs()[0];
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let inner = event_loop.clone();
                event_loop.create_task(async move {
                    let (echo, echoed) = inner.create_future();
                    let factory = move || {
                        Recorder::default()
                            .on_made(|transport| transport.write("abc"))
                            .on_data(move |_, data| _ = echo.set_result(data))
                    };
                    inner.create_connection(factory, address).await?;
                    echoed.await
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(within(&event_loop, task).await.unwrap().unwrap(), b"abc");
        }
    });
}
