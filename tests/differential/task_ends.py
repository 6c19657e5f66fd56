"""The ends of generated scripts that tasks wait for: asyncio's streams, and plain sockets.

An operation starts a task, which may wait for what later steps do; its outcome is an event. The
operation `cancel` cancels one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import wire
from .ends import ERRORS, STILL, Stream, pattern

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
        if how == "serve":
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
        self.server = await asyncio.start_server(callback, "127.0.0.1", 0, **limits)
        self.far = wire.dial(self.trace, self.server.sockets[0].getsockname())
        await self.player.until(lambda: self.writer is not None)

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
        """Await sock_recv, or sock_recv_into."""
        if method == "sock_recv":
            self.start(method, lambda size: self.loop.sock_recv(self.near, size), size)
        else:
            self.start(method, self._receive_into, size)

    async def _receive_into(self, size: int) -> bytes:
        room = bytearray(size)
        return bytes(room[: await self.loop.sock_recv_into(self.near, room)])

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
