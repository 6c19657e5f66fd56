"""sock_*: results, errors, cancellation, races."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from ..trace import Trace, case
from ..wire import dead_address, listener

RECEIVING: dict[str, tuple[Any, ...]] = {
    "sock_recv": (100,),
    "sock_recv_into": (bytearray(100),),
    "sock_recvfrom": (100,),
    "sock_recvfrom_into": (bytearray(100),),
}
OTHERS: dict[str, tuple[Any, ...]] = {
    "sock_sendall": (b"data",),
    "sock_sendto": (b"data", ("127.0.0.1", 9)),
    "sock_connect": (("127.0.0.1", 9),),
    "sock_accept": (),
}


def _methods(trace: Trace, *groups: dict[str, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The methods that this Python's asyncio has, each with its arguments."""
    known = asyncio.SelectorEventLoop
    return [
        (name, getattr(trace.loop, name), arguments)
        for group in groups
        for name, arguments in group.items()
        if hasattr(known, name)
    ]


def _pair(trace: Trace) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)
        trace.enter(sock)
    return near, far


def _unwatched(trace: Trace, sock: socket.socket) -> None:
    trace("watched", trace.loop.remove_reader(sock), trace.loop.remove_writer(sock))


@case
async def refused_sockets(trace: Trace) -> None:
    """TLS sockets always, blocking ones in debug mode, and closed ones."""
    context = ssl.create_default_context()
    context.check_hostname = False
    for debug in (False, True):
        trace.loop.set_debug(debug)
        for name, method, arguments in _methods(trace, RECEIVING, OTHERS):
            with context.wrap_socket(socket.socket(), do_handshake_on_connect=False) as sock:
                await trace.wait(f"{name} tls", method(sock, *arguments))
            if debug:
                with socket.socket() as sock:
                    await trace.wait(f"{name} blocking", method(sock, *arguments))
                    sock.settimeout(5)
                    await trace.wait(f"{name} with a time-out", method(sock, *arguments))
            sock = socket.socket()
            sock.setblocking(False)
            sock.close()
            await trace.wait(f"{name} closed", method(sock, *arguments))


@case
async def receiving(trace: Trace) -> None:
    """At once and after a wait; the end of the stream."""
    for name, method, arguments in _methods(trace, RECEIVING):
        near, far = _pair(trace)
        far.send(b"data")
        await trace.wait(name, method(near, *arguments))
        task = asyncio.ensure_future(method(near, *arguments))
        await trace.turns(2)
        trace("done", task.done())
        far.send(b"more")
        await trace.wait(name, task)
        far.close()
        await trace.wait(name, method(near, *arguments))
        _unwatched(trace, near)


@case
async def empty_and_wrong_buffers(trace: Trace) -> None:
    """Nothing to receive or send, and what is no buffer."""
    loop = trace.loop
    near, _ = _pair(trace)
    await trace.wait("recv", loop.sock_recv(near, 0))
    await trace.wait("recv", loop.sock_recv(near, -1))
    await trace.wait("recv_into", loop.sock_recv_into(near, bytearray()))
    await trace.wait("recv_into", loop.sock_recv_into(near, b"read-only"))
    await trace.wait("sendall", loop.sock_sendall(near, b""))
    for wrong in ("text", None, 5):
        await trace.wait("recv", loop.sock_recv(near, wrong if wrong != 5 else 5.5))
        await trace.wait("recv_into", loop.sock_recv_into(near, wrong))
        await trace.wait("sendall", loop.sock_sendall(near, wrong))
    await trace.wait("sendall", loop.sock_sendall(near, memoryview(b"strided")[::2]))
    _unwatched(trace, near)


@case
async def sending(trace: Trace) -> None:
    """Small and large, and to a peer that is gone."""
    loop = trace.loop
    near, far = _pair(trace)
    for data in (b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview")):
        await trace.wait("sendall", loop.sock_sendall(near, data))
        await trace.wait("recv", loop.sock_recv(far, 100))
    size = 3_000_000
    task = asyncio.ensure_future(loop.sock_sendall(near, bytes(range(256)) * (size // 256)))
    received = b""
    while len(received) < size // 256 * 256:
        received += await loop.sock_recv(far, 1 << 20)
    await trace.wait("sendall", task)
    trace("received", received)
    task = asyncio.ensure_future(loop.sock_sendall(near, bytes(size)))
    await trace.turns(2)
    far.close()
    await trace.wait("sendall", task)
    await trace.wait("sendall", loop.sock_sendall(near, b"late"))
    _unwatched(trace, near)


@case
async def connecting(trace: Trace) -> None:
    """To a listener, to nobody, and to what is no address."""
    loop = trace.loop
    server = listener(trace)

    async def connect(label: str, address: Any) -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            await trace.wait(label, loop.sock_connect(sock, address))
            _unwatched(trace, sock)

    await connect("listener", server.getsockname())
    await connect("name", ("localhost", server.getsockname()[1]))
    await connect("nobody", dead_address(trace))
    for wrong in (None, 5, ("127.0.0.1",), ("127.0.0.1", -1), ("127.0.0.1", 1 << 20)):
        await connect("wrong", wrong)
    for unknown in (("127.0.0.1", "no such service"), ("::1", 80)):
        await connect("unknown", unknown)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        await trace.wait("unix", loop.sock_connect(sock, "/no/such/path"))


@case
async def accepting(trace: Trace) -> None:
    """At once and after a wait; a socket that does not listen."""
    loop = trace.loop
    server = listener(trace)
    server.setblocking(False)
    task = asyncio.ensure_future(loop.sock_accept(server))
    await trace.turns(2)
    for _ in range(2):
        with socket.create_connection(server.getsockname()):
            connection, address = await (task or loop.sock_accept(server))
            trace("accepted", address, connection.gettimeout())
            connection.close()
            task = None
    _unwatched(trace, server)
    await trace.wait("not listening", loop.sock_accept(_pair(trace)[0]))


@case
async def cancelling(trace: Trace) -> None:
    """No watcher is left, and nothing is lost of what comes later."""
    loop = trace.loop
    server = listener(trace)
    server.setblocking(False)
    for name, method, arguments in _methods(trace, RECEIVING, {"sock_accept": ()}):
        near, far = (server, None) if name == "sock_accept" else _pair(trace)
        task = asyncio.ensure_future(method(near, *arguments))
        await trace.turns(2)
        task.cancel()
        await trace.wait(name, task)
        await trace.turns()
        _unwatched(trace, near)
        if far is not None:
            far.send(b"later")
            await trace.wait("sock_recv", loop.sock_recv(near, 100))
    near, far = _pair(trace)
    task = asyncio.ensure_future(loop.sock_sendall(near, bytes(3_000_000)))
    await trace.turns(2)
    task.cancel()
    await trace.wait("sock_sendall", task)
    await trace.turns()
    _unwatched(trace, near)


@case
async def racing(trace: Trace) -> None:
    """The later receiver takes the place of the earlier one, who waits until it is cancelled."""
    loop = trace.loop
    near, far = _pair(trace)
    first = asyncio.ensure_future(loop.sock_recv(near, 100))
    await trace.turns()
    second = asyncio.ensure_future(loop.sock_recv(near, 100))
    await trace.turns()
    far.send(b"data")
    await trace.wait("second", second)
    await trace.turns(2)
    trace("first", first)
    first.cancel()
    await trace.wait("first", first)
    third = asyncio.ensure_future(loop.sock_recv(near, 100))
    fourth = asyncio.ensure_future(loop.sock_recv(near, 100))
    await trace.turns(2)
    third.cancel()
    await trace.wait("third", third)
    await trace.turns()
    far.send(b"data")
    await trace.wait("fourth", fourth)
    _unwatched(trace, near)


@case
async def of_transports(trace: Trace) -> None:
    """Refused where the call would have to wait."""
    loop = trace.loop
    near, far = _pair(trace)
    transport = await trace.connect(trace.protocol("client"), near)
    for name, method, arguments in _methods(trace, RECEIVING):
        try:
            await method(near, *arguments)
        except RuntimeError as exc:
            text = str(exc).replace(repr(transport), "it").replace(str(near.fileno()), "N")
            trace(name, "refused", text)
    await trace.wait("sendall", loop.sock_sendall(near, b"data"))
    trace("sent", far.recv(100))
