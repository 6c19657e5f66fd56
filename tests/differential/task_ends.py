"""The ends of generated scripts that tasks wait for: asyncio's streams, and plain sockets.

An operation starts a task, which may wait for what later steps do; its outcome is an event. The
operation `cancel` cancels one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import tlswire
from .ends import ERRORS, STILL, Stream, Tls, pattern, tls_contexts, widen

if TYPE_CHECKING:
    from .player import Player


class Tasks(Stream):
    """A connection that the tasks of its operations read and write."""

    def __init__(self, player: Player, name: str, options: dict[str, Any]) -> None:
        super().__init__(player, name, options)
        self.tasks: list[asyncio.Task[Any]] = []

    def start(self, label: str, function: Callable[..., Any], *args: Any) -> None:
        """Await `function(*args)` in a task, and record how it ends."""
        label = f"{self.name}: {label}{args} #{len(self.tasks)}"

        async def call() -> Any:
            return await function(*args)

        async def work() -> None:
            await self.trace.wait(label, call(), lane=self.name)

        self.tasks.append(self.loop.create_task(work()))

    def op_cancel(self, number: int) -> None:
        """Cancel the task started `number` ago, while the loop looks at nothing else.

        What was received in that turn asyncio would lose.
        """
        if number < len(self.tasks) and not self.player.nested:
            self.tasks[-1 - number].cancel()

    def op_far_line(self, size: int) -> None:
        """Send a line of `size` bytes and its end."""
        if self._far_writes():
            self._deliver(b"x" * size + b"\n")

    def op_protocol(self, buffered: int) -> None:
        """Not here."""

    async def op_start_tls(self, role: str) -> None:
        """Not here."""

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await self.player.settle()
        await super().close()


class Streams(Tasks):
    """A StreamReader and a StreamWriter, of open_connection or of start_server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter | None = None

    @property
    def lost(self) -> bool:
        """Whether the protocol, which is asyncio's, has been told."""
        return self.protocol is not None and self.protocol._connection_lost

    async def open(self) -> None:
        limits = {"limit": limit} if (limit := self.options.get("limit")) else {}
        how = self.options.get("how", "sock")
        if how.startswith("serve"):
            await self._start_server(limits)
        else:
            self._sockets(socket.AF_UNIX if how == "unix" else socket.AF_INET)
            opener: Any = {
                "sock": asyncio.open_connection, "unix": asyncio.open_unix_connection
            }[how]  # fmt: skip
            self._connected(*await opener(sock=self.near, **limits))

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.transport = writer.transport
        self.protocol = self.transport.get_protocol()
        self.near = self.transport.get_extra_info("socket")
        self.trace.name(self.transport, f"{self.name}.transport")
        self.trace.name(self.protocol, f"{self.name}.protocol")
        closed = self.protocol._get_close_waiter(writer)
        closed.add_done_callback(lambda closed: self.say(f"{self.name}.connection_lost()", closed))

    async def _start_server(self, limits: dict[str, int]) -> None:
        error = self.options.get("error")

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.say(f"{self.name}: connected")
            self._connected(reader, writer)
            if error is not None:
                raise ERRORS[error]()

        async def connected_later(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            connected(reader, writer)

        callback: Any = connected_later if self.options.get("coroutine") else connected
        if self.options["how"] == "serve":
            server = await asyncio.start_server(callback, "127.0.0.1", 0, **limits)
        else:
            server = await asyncio.start_unix_server(callback, self._path(), **limits)
        self._dial(server)
        await self.player.until(lambda: self.writer is not None)

    async def op_start_tls(self, role: str) -> None:
        """Go on with TLS by the writer, which 3.11 has got; it knows its role.

        Not where the reader holds something: before 3.14 asyncio takes it for the application's.
        """
        start_tls = getattr(self.writer, "start_tls", None)
        if start_tls is None or not await self._may_secure() or self.reader._buffer:
            return
        role = "client" if self.server is None else "server"
        ours, theirs = tls_contexts(role)
        secure = SecureStreams(self.player, self.name, self.options)
        vars(secure).update(vars(self))
        secure.engine = tlswire.Far(self.far, self.near, theirs)
        making = start_tls(ours, server_hostname=tlswire.HOST if role == "client" else None)
        task = asyncio.ensure_future(self.trace.wait(f"{self.name}: start_tls", making))
        await secure.shake(task)
        secure.transport = self.trace.name(secure.writer.transport, f"{self.name}.tls")
        self.player.replace(self, secure)

    def op_read(self, method: str, argument: Any) -> None:
        """Await `method` of the reader."""
        if self.writer is not None:
            if isinstance(argument, str):
                argument = argument.encode()
            arguments = () if argument is None else (argument,)
            self.start(method, getattr(self.reader, method), *arguments)

    def op_wait(self, method: str) -> None:
        """Await `drain` or `wait_closed` of the writer."""
        if self.writer is not None:
            self.start(method, getattr(self.writer, method))

    def op_at_eof(self) -> None:
        if self.writer is not None:
            self.act(self.reader.at_eof)


class SecureStreams(Streams, Tls):
    """The same over TLS."""

    async def op_start_tls(self, role: str) -> None:
        """Not again."""


class Socket(Tasks):
    """A socket that the loop's sock_ methods use."""

    async def open(self) -> None:
        self._sockets(socket.AF_UNIX if self.options.get("how") == "unix" else socket.AF_INET)
        self.near.setblocking(False)

    @property
    def busy(self) -> bool:
        """Whether a task uses the socket."""
        return not all(task.done() for task in self.tasks)

    def op_receive(self, method: str, size: int) -> None:
        """Await sock_recv, sock_recv_into, or one of those which 3.11 has got for datagrams."""
        if sys.version_info >= (3, 11) or "from" not in method:
            receive = getattr(self.loop, method)
            into = self._receive_into if method.endswith("into") else self._receive
            self.start(method, lambda size: into(receive, size), size)

    async def _receive(self, receive: Callable[..., Any], size: int) -> Any:
        return await receive(self.near, size)

    async def _receive_into(self, receive: Callable[..., Any], size: int) -> Any:
        room = bytearray(size)
        return await receive(self.near, room), bytes(room)

    def op_sendall(self, size: int) -> None:
        if self._fits(size):
            self.writes += 1
            self.start("sock_sendall", self._send, size, self.writes)

    async def _send(self, size: int, number: int) -> None:
        await self.loop.sock_sendall(self.near, pattern(size, number)[:size])
        self.accepted += size

    def op_shutdown(self) -> None:
        """Close the socket, if no task uses it."""
        if not self.busy:
            self.near.close()

    def op_block(self) -> None:
        unix = self.far.family == socket.AF_UNIX
        if unix and self.far_open and self.near_fileno() >= 0 and not (self.blocked or self.busy):
            self._block(self.near_fileno())

    async def op_drain(self) -> None:
        """Read at the far end until nothing comes any more."""
        idle = 0
        while self.far_open and not self.ended and idle < STILL:
            before = len(self.got), self.player.count
            self.far_read()
            await asyncio.sleep(0)
            idle = 0 if before != (len(self.got), self.player.count) else idle + 1
        self.blocked = False
        self.tell()


class DatagramSocket(Socket):
    """The same of UDP: no connection, and so no end."""

    async def open(self) -> None:
        self.near, self.far = (
            self.trace.enter(contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)))
            for _ in range(2)
        )
        for sock in (self.near, self.far):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        widen(self.near, self.far)
        self.addresses = {"far": self.far.getsockname(), "wrong": ("127.0.0.1", "port")}
        self.address = self.near.getsockname()

    def op_sendto(self, size: int, to: str) -> None:
        """Await sock_sendto, which 3.11 has got."""
        if sys.version_info >= (3, 11):
            self.writes += 1
            self.start("sock_sendto", self._sendto, size, self.writes, to)

    async def _sendto(self, size: int, number: int, to: str) -> Any:
        data = pattern(size, number)[:size]
        return await self.loop.sock_sendto(self.near, data, self.addresses[to])

    def op_far_send(self, size: int) -> None:
        if self.far_open and self.near_fileno() >= 0:
            self.far.sendto(pattern(size, size)[:size], self.address)

    def op_far_close(self) -> None:
        self.far_open = False
        self.far.close()

    async def op_drain(self) -> None:
        """Record what has come at the far end."""
        while self.far_open:
            try:
                self.say(f"{self.name}: the far end has", *self.far.recvfrom(1 << 16))
            except BlockingIOError:
                break
