"""The far end of a connection: plain sockets that a script drives step by step.

A script never waits for time to pass. It sends, blocks until the kernel holds the result at the
other end, and only then lets the loop look: so what one turn of the loop must see is defined.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import select
import socket
import struct
import termios
import time
from typing import Any

from .trace import Trace

TIME_LIMIT = 10.0
"""Seconds after which a blocking step fails; it only ends a case that hangs."""


def listener(trace: Trace, backlog: int = 128, host: str = "127.0.0.1") -> socket.socket:
    """Return a listening socket on a free port."""
    sock: socket.socket = trace.enter(contextlib.closing(socket.socket()))
    sock.settimeout(TIME_LIMIT)
    sock.bind((host, 0))
    sock.listen(backlog)
    return sock


def pair(trace: Trace, small: bool = False) -> tuple[socket.socket, socket.socket]:
    """Return the near and the far end of a TCP connection; `small` shrinks the kernel's buffers."""
    with contextlib.closing(socket.socket()) as server:
        if small:  # what is accepted inherits it
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        server.bind(("127.0.0.1", 0))
        server.listen()
        near = trace.enter(contextlib.closing(socket.socket()))
        if small:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        near.connect(server.getsockname())
        far = trace.enter(contextlib.closing(server.accept()[0]))
    far.settimeout(TIME_LIMIT)
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return near, far


def dial(trace: Trace, address: tuple[str, int] | str) -> socket.socket:
    """Return a blocking client connected to `address`, which may be a Unix socket's path."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    if family == socket.AF_INET and ":" in address[0]:
        family = socket.AF_INET6
    sock = trace.enter(contextlib.closing(socket.socket(family)))
    sock.settimeout(TIME_LIMIT)
    sock.connect(address)
    return sock


def dead_address(trace: Trace, host: str = "127.0.0.1") -> tuple[str, int]:
    """Return an address that refuses: its port is taken, and nobody listens on it."""
    sock = trace.enter(contextlib.closing(socket.socket()))
    sock.bind((host, 0))
    return (host, sock.getsockname()[1])


def silent_address(trace: Trace) -> tuple[str, int]:
    """Return an address that answers nothing: a listener whose queue is full."""
    server = listener(trace, backlog=0)
    address: tuple[str, int] = server.getsockname()
    while True:
        client = trace.enter(contextlib.closing(socket.socket()))
        client.setblocking(False)
        client.connect_ex(address)
        if not _poll(client, select.POLLOUT, 0.1):
            return address


def arrived(sock: Any) -> None:
    """Block until the kernel has something to read on `sock`: data, a client, the end, an error."""
    if not _poll(sock, select.POLLIN, TIME_LIMIT):
        raise TimeoutError("nothing arrived")


def broken(sock: Any) -> None:
    """Block until the kernel knows that the connection is gone in both directions."""
    if not _poll(sock, select.POLLHUP, TIME_LIMIT):
        raise TimeoutError("the connection still stands")


def send(far: socket.socket, near: Any, data: bytes) -> None:
    """Send from `far` and return once `near` has all of it (and still what it had)."""
    expected = _readable(near) + len(data)
    far.sendall(data)
    deadline = time.monotonic() + TIME_LIMIT
    while _readable(near) < expected:
        if time.monotonic() > deadline:
            raise TimeoutError("the data did not arrive")
        arrived(near)


def finish(far: socket.socket, near: Any) -> None:
    """Send the end of the stream from `far` (which can still read); return once `near` has it."""
    far.shutdown(socket.SHUT_WR)
    if not _poll(near, select.POLLRDHUP, TIME_LIMIT):
        raise TimeoutError("the end did not arrive")


def reset(far: socket.socket, near: Any = None) -> None:
    """Close `far` with a TCP reset; return once `near`, if given, has it."""
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    if near is not None:
        broken(near)


def fill(transport: Any) -> int:
    """Write until the kernel takes no more; return what the transport holds then.

    Until the caller lets the loop turn, whatever it writes adds to that exactly. The limits are
    left so high that nothing pauses.
    """
    transport.set_write_buffer_limits(high=1 << 30)
    while not transport.get_write_buffer_size():
        transport.write(bytes(4096))
    size: int = transport.get_write_buffer_size()
    return size


def receive(far: socket.socket, size: int) -> bytes:
    """Block, without letting the loop turn, until `size` bytes have come, and return them."""
    data = b""
    while len(data) < size:
        piece = far.recv(size - len(data))
        if not piece:
            raise ConnectionError(f"the end after {data!r}")
        data += piece
    return data


def read_rest(far: socket.socket) -> tuple[bytes, str]:
    """Block, without letting the loop turn, until the end; return what came and how it ended."""
    data = b""
    try:
        while piece := far.recv(1 << 20):
            data += piece
    except ConnectionError as exc:
        return data, type(exc).__name__
    return data, "end of stream"


async def read(far: socket.socket, size: int) -> bytes:
    """Read `size` bytes while the loop turns."""
    data = b""
    while len(data) < size:
        if _poll(far, select.POLLIN, 0):
            data += receive(far, min(size - len(data), max(1, _readable(far))))
        await asyncio.sleep(0)
    return data


async def read_end(far: socket.socket) -> tuple[bytes, str]:
    """Read to the end while the loop turns; return what came and how it ended."""
    data = b""
    while True:
        if _poll(far, select.POLLIN, 0):
            try:
                piece = far.recv(1 << 20)
            except ConnectionError as exc:
                return data, type(exc).__name__
            if not piece:
                return data, "end of stream"
            data += piece
        await asyncio.sleep(0)


def _poll(sock: Any, events: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), events)
    return any(found & events for _, found in poll.poll(seconds * 1000))


def _readable(sock: Any) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0]
    return count
