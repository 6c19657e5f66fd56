"""Wrong arguments of create_connection, create_server and their like, in asyncio's words."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

from ..trace import Trace, case
from ..wire import dead_address, listener, pair


async def _refused(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> None:
    """Record only the type of what a call, or awaiting its result, raises."""
    try:
        result = await function(*args, **kwargs)
    except Exception as exc:
        trace(f"{function.__name__} raised {type(exc).__name__}")
    else:
        trace(f"{function.__name__} ->", result)


@case
async def of_create_connection(trace: Trace) -> None:
    """Combinations that make no sense."""
    near, _ = pair(trace)
    create = trace.loop.create_connection
    factory = trace.callback("factory")
    combinations: tuple[dict[str, Any], ...] = (
        {},
        {"host": "127.0.0.1", "port": 80, "sock": near},
        {"host": "127.0.0.1", "sock": near},
        {"port": 80, "sock": near},
        {"host": "127.0.0.1", "port": 80, "server_hostname": "name"},
        {"host": "127.0.0.1", "port": 80, "ssl_handshake_timeout": 1},
        {"sock": near, "ssl_handshake_timeout": 1},
        {"sock": near, "server_hostname": ""},
    )
    for number, options in enumerate(combinations):
        await trace.wait(f"{number}: {sorted(options)}", create(factory, **options))
    await _refused(trace, create)
    await _refused(trace, create, factory, "127.0.0.1", 80, nothing=1)
    await _refused(trace, create, factory, "127.0.0.1", 80, "positional")


@case(since=(3, 11))
async def shutdown_timeouts(trace: Trace) -> None:
    """ssl_shutdown_timeout without ssl."""
    near, _ = pair(trace)
    factory = trace.callback("factory")
    loop = trace.loop
    option = {"ssl_shutdown_timeout": 1}
    await trace.wait("connection", loop.create_connection(factory, sock=near, **option))
    await trace.wait("server", loop.create_server(factory, "127.0.0.1", 0, **option))
    await trace.wait("accepted", loop.connect_accepted_socket(factory, near, **option))


@case
async def of_create_server(trace: Trace) -> None:
    """The same for servers."""
    sock = listener(trace)
    create = trace.loop.create_server
    factory = trace.callback("factory")
    combinations: tuple[dict[str, Any], ...] = (
        {},
        {"host": "127.0.0.1", "port": 0, "sock": sock},
        {"port": 0, "sock": sock},
        {"host": "127.0.0.1", "port": 0, "ssl": True},
        {"host": "127.0.0.1", "port": 0, "ssl": False},
        {"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1},
    )
    for number, options in enumerate(combinations):
        await trace.wait(f"{number}: {sorted(options)}", create(factory, **options))
    await _refused(trace, create)
    await _refused(trace, create, factory, "127.0.0.1", 0, nothing=1)


@case
async def wrong_sockets(trace: Trace) -> None:
    """Sockets that are no streams, closed sockets, no sockets."""
    loop = trace.loop
    factory = trace.callback("factory")
    udp = trace.enter(contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)))
    await trace.wait("create_connection", loop.create_connection(factory, sock=udp))
    await trace.wait("create_server", loop.create_server(factory, sock=udp))
    for wrong in (5, "socket"):
        await _refused(trace, loop.create_connection, factory, sock=wrong)
        await _refused(trace, loop.create_server, factory, sock=wrong)
    closed = socket.socket()
    closed.close()
    await _refused(trace, loop.create_connection, factory, sock=closed)


@case
async def tls_sockets(trace: Trace) -> None:
    """An SSLSocket is refused by whatever takes a socket; so are time-outs without TLS."""
    near, _ = pair(trace)
    near.setblocking(False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    wrapped = context.wrap_socket(near, do_handshake_on_connect=False)
    trace.enter(contextlib.closing(wrapped))
    loop, factory = trace.loop, trace.callback("factory")
    await trace.wait("create_connection", loop.create_connection(factory, sock=wrapped))
    await trace.wait("create_server", loop.create_server(factory, sock=wrapped))
    await trace.wait("accepted", loop.connect_accepted_socket(factory, wrapped))
    other, _ = pair(trace)
    option = {"ssl_handshake_timeout": 1}
    await trace.wait("accepted", loop.connect_accepted_socket(factory, other, **option))
    await _refused(trace, loop.connect_accepted_socket, factory)
    await _refused(trace, loop.connect_accepted_socket, factory, None)
    await _refused(trace, loop.connect_accepted_socket, factory, other.fileno())


@case
async def wrong_addresses(trace: Trace) -> None:
    """Ports and hosts that are none."""
    loop = trace.loop
    factory = trace.callback("factory")
    for port in (70_000, -1, "no such service"):
        await _refused(trace, loop.create_connection, factory, "127.0.0.1", port)
        await _refused(trace, loop.create_server, factory, "127.0.0.1", port)
    for host in (5, 1.5):
        await _refused(trace, loop.create_connection, factory, host, 80)
        await _refused(trace, loop.create_server, factory, host, 0)
    await _refused(trace, loop.create_connection, factory, "127.0.0.1", 80, family=socket.AF_INET6)
    await _refused(trace, loop.create_server, factory, "127.0.0.1", 0, family=socket.AF_INET6)
    address = dead_address(trace)
    for local in (5, ("127.0.0.1",)):
        await _refused(trace, loop.create_connection, factory, *address, local_addr=local)


@case
async def wrong_factories(trace: Trace) -> None:
    """Factories that cannot be called: told once connected."""
    for wrong in (None, 5, object()):
        near, _ = pair(trace)
        await trace.wait("connect", trace.loop.create_connection(wrong, sock=near))
    server = listener(trace)
    await trace.wait("connect", trace.loop.create_connection(None, *server.getsockname()))


@case
async def nothing_happens_before_await(trace: Trace) -> None:
    """They are coroutines: a call that is never awaited does nothing, not even check."""
    for function in (trace.loop.create_connection, trace.loop.create_server):
        coroutine = function(trace.callback("factory"))
        trace("made", type(coroutine).__name__)
        coroutine.close()


@case
async def wrong_calls_of_transports(trace: Trace) -> None:
    """Methods of a transport refuse what they do not take with a TypeError."""
    near, _ = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    for name in ("close", "abort", "is_closing", "pause_reading", "write_eof", "get_protocol"):
        trace.refused(getattr(transport, name), 1)
    for name in ("get_extra_info", "set_protocol"):
        trace.refused(getattr(transport, name))
    trace.refused(transport.set_protocol, client, client)
