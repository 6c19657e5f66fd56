"""The far end of a TLS connection, driven step by step as `wire` drives the plain one.

The engine stands in memory: a script says which bytes of it go out, and when, and at which moment
what has come is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from typing import Any

from ..certificates import HOST, client_context, server_context
from .trace import Trace
from .wire import pair, send

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

ROLES = ("client", "server")
"""What the loop's side can be."""


class Far:
    """The far end over the socket `sock`, whose other end `near` is the loop's."""

    def __init__(self, sock: socket.socket, near: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.near = near
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server_side = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self.engine = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_side else HOST,
        )
        self.shaken = False

    def flight(self) -> bytes:
        """Return what the next step of the handshake sends (perhaps nothing)."""
        try:
            self.engine.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            self.shaken = True
        return self._outgoing.read()

    def records(self, *pieces: bytes) -> bytes:
        """Return the records that carry `pieces`, and what else is to be sent."""
        for piece in pieces:
            self.engine.write(piece)
        return self._outgoing.read()

    def notice(self) -> bytes:
        """Return close_notify. What has come until then must have been read."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.engine.unwrap()
        return self._outgoing.read()

    def send(self, data: bytes) -> None:
        """Send `data` as it is, and return once the loop's end has it."""
        if data:
            send(self.sock, self.near, data)

    def say(self, *pieces: bytes) -> None:
        """Send `pieces` encrypted, all at once."""
        self.send(self.records(*pieces))

    def listen(self) -> bool:
        """Give the engine what has come (data, the end); tell whether that was something."""
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN)
        if not poll.poll(0):
            return False
        data = self.sock.recv(1 << 20)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return True

    async def hear(self) -> None:
        """Wait, while the loop turns, until something has come."""
        while not self.listen():
            await asyncio.sleep(0)

    async def next_flight(self) -> bytes:
        """Return what the handshake sends next, while the loop turns; at its end, nothing."""
        while not (flight := self.flight()) and not self.shaken:
            await self.hear()
        return flight

    async def handshake(self) -> None:
        """Do the whole handshake while the loop turns."""
        while not self.shaken:
            self.send(await self.next_flight())

    async def read(self, size: int) -> bytes:
        """Read `size` bytes of plain text while the loop turns."""
        data = b""
        while len(data) < size:
            try:
                piece = self.engine.read(size - len(data))
            except ssl.SSLWantReadError:
                await self.hear()
                continue
            if not piece:
                raise ConnectionError(f"the end after {data!r}")
            data += piece
        return data

    async def read_end(self) -> tuple[bytes, str]:
        """Read to the end while the loop turns; return what came and how it ended."""
        data = b""
        while True:
            try:
                piece = self.engine.read(1 << 20)
            except ssl.SSLWantReadError:
                try:
                    if not self.listen():
                        await asyncio.sleep(0)
                except ConnectionError as exc:
                    return data, type(exc).__name__
                continue
            except ssl.SSLZeroReturnError:
                return data, "close_notify"
            except ssl.SSLError as exc:
                eof = isinstance(exc, ssl.SSLEOFError)
                return data, "end of stream" if eof else str(exc.reason)
            if not piece:
                return data, "close_notify"
            data += piece


def contexts(role: str, **options: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of the loop's side, which is `role`, and of the far end."""
    both = client_context(**options), server_context(**options)
    return both if role == "client" else both[::-1]


def begin(
    trace: Trace,
    role: str,
    protocol: Any,
    near: socket.socket,
    context: ssl.SSLContext,
    **options: Any,
) -> asyncio.Task[Any]:
    """Return a task that makes a TLS connection of `near`."""
    if role == "client":
        making = trace.loop.create_connection(
            lambda: protocol, sock=near, ssl=context, server_hostname=HOST, **options
        )
    else:
        making = trace.loop.connect_accepted_socket(lambda: protocol, near, ssl=context, **options)
    task: asyncio.Task[Any] = asyncio.ensure_future(making)
    return task


async def connect(
    trace: Trace,
    role: str = "client",
    protocol: Any = None,
    *,
    small: bool = False,
    version: ssl.TLSVersion | None = TLS13,
    options: dict[str, Any] | None = None,
    **hooks: Any,
) -> tuple[Any, Any, Far]:
    """Return transport, protocol and far end of a connection whose handshake is done."""
    ours, theirs = contexts(role, version=version)
    near, sock = pair(trace, small)
    far = Far(sock, near, theirs)
    protocol = protocol or trace.protocol(role, **hooks)
    task = begin(trace, role, protocol, near, ours, **options or {})
    await far.handshake()
    transport, _ = await task
    return transport, protocol, far


def reports(trace: Trace, *keys: str) -> None:
    """Record of the exception handler's contexts only `keys`, or message and exception.

    Which of the two layers a report names, the TLS one or the one below, is nobody's promise.
    """
    wanted = keys or ("message", "exception")

    def handler(loop: Any, context: dict[str, Any]) -> None:
        told = {key: context[key] for key in wanted if key in context}
        trace("exception handler:", told, lane="handler")

    trace.loop.set_exception_handler(handler)
