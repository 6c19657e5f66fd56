"""What transports, handles, servers and loops tell about themselves: extra info, repr, classes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from ..trace import Trace, case
from ..wire import dial, listener, pair, read_end

KEYS = ("peername", "sockname", "socket", "sslcontext", "cipher", "compression", "peercert", "pipe")


@case
async def extra_info_of_a_client(trace: Trace) -> None:
    """Every key, known or not, with and without a default."""
    server = listener(trace)
    client = trace.protocol("client")
    transport, _ = await trace.loop.create_connection(lambda: client, *server.getsockname())
    for key in (*KEYS, "nothing like it", ""):
        trace(key, transport.get_extra_info(key), transport.get_extra_info(key, "default"))
    trace("by keyword", transport.get_extra_info(name="none", default=5))
    trace("peer", transport.get_extra_info("peername") == server.getsockname())


@case
async def extra_info_of_a_served_one(trace: Trace) -> None:
    """The same on the side of a server."""
    served = trace.protocol("served")
    server = await trace.loop.create_server(lambda: served, "127.0.0.1", 0)
    client = dial(trace, server.sockets[0].getsockname())
    await served.called("connection_made")
    for key in KEYS:
        trace(key, served.transport.get_extra_info(key))
    trace("peer", served.transport.get_extra_info("peername") == client.getsockname())
    server.close()


@case
async def extra_info_after_the_end(trace: Trace) -> None:
    """The names stay known after connection_lost; the socket is closed."""
    near, _ = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    sock = transport.get_extra_info("socket")
    transport.close()
    await client.lost()
    await trace.turns()
    for key in KEYS[:2]:
        trace(key, transport.get_extra_info(key))
    trace("same socket", transport.get_extra_info("socket") is sock, sock.fileno())


@case
async def the_socket(trace: Trace) -> None:
    """The `socket` is a TransportSocket: what can be asked, what is not offered."""
    near, far = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    sock = transport.get_extra_info("socket")
    trace("type", type(sock))
    trace("family", sock.family, sock.type, sock.proto)
    trace("same descriptor", sock.fileno() == near.fileno())
    trace(
        "names", sock.getsockname() == near.getsockname(), sock.getpeername() == far.getsockname()
    )
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    trace("option", sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    for name in ("recv", "send", "close", "detach", "accept", "connect"):
        trace(name, hasattr(sock, name))
    trace.call(sock.setblocking, True)
    trace.call(sock.settimeout, 1)
    duplicate = sock.dup()
    trace("dup", type(duplicate))
    duplicate.close()


@case
async def classes(trace: Trace) -> None:
    """A transport is an instance of asyncio's classes."""
    near, _ = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    for kind in (
        asyncio.BaseTransport,
        asyncio.ReadTransport,
        asyncio.WriteTransport,
        asyncio.Transport,
        asyncio.DatagramTransport,
        asyncio.SubprocessTransport,
    ):
        trace(kind.__name__, isinstance(transport, kind))
    trace("hashable", hash(transport) == hash(transport), transport == transport)
    for name in ("_start_tls_compatible", "_sendfile_compatible"):
        trace(name, hasattr(transport, name))


@case
async def attributes(trace: Trace) -> None:
    """Libraries set attributes on transports."""
    near, _ = pair(trace)
    client = trace.protocol("client")
    transport: Any = await trace.connect(client, near)
    trace.call(setattr, transport, "mine", 1)
    trace.call(getattr, transport, "mine")
    trace.refused(getattr, transport, "nothing_like_it")


@case
async def repr_of_a_transport(trace: Trace) -> None:
    """The state, the descriptor, what it polls for, the size of its buffer."""
    near, far = pair(trace, small=True)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    await trace.turns()
    trace("open", repr(transport))
    transport.pause_reading()
    trace("paused", repr(transport))
    transport.resume_reading()
    transport.write(bytes(300_000))
    size = transport.get_write_buffer_size()
    trace("writing", repr(transport).replace(str(size), "SIZE"))
    transport.close()
    size = transport.get_write_buffer_size()
    trace("closing", repr(transport).replace(str(size), "SIZE"))
    await read_end(far)
    await client.lost()
    await trace.turns()
    trace("lost", repr(transport))


@case
async def repr_of_others(trace: Trace) -> None:
    """The loop, a server, handles."""
    loop = trace.loop
    trace("loop", repr(loop))
    server = await loop.create_server(lambda: trace.protocol("served"), "127.0.0.1", 0)
    trace("server", repr(server))
    server.close()
    trace("closed server", repr(server))

    def callback() -> None: ...

    soon, later = loop.call_soon(callback), loop.call_later(1000, callback)
    trace("handle", repr(soon))
    trace("timer", repr(later))
    soon.cancel()
    later.cancel()
    trace("cancelled handle", repr(soon))
    trace("cancelled timer", repr(later))
