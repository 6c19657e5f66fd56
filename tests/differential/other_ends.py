"""The ends of generated scripts that are no connections: datagrams, pipes, children."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from io import FileIO
from typing import Any

from .ends import STREAM_CALLS, WRONG, End, Stream, Tls, Writer, pattern
from .scripts.datagrams import Endpoint
from .scripts.subprocesses import Process
from .task_ends import DatagramSocket, Socket, Streams
from .trace import PLACE


class Datagram(End):
    """A UDP endpoint, connected to the far one if `connected`."""

    async def open(self) -> None:
        self.far = self.trace.enter(contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)))
        self.far.bind(("127.0.0.1", 0))
        self.far.setblocking(False)
        self.far_address = self.far.getsockname()
        name = self.next_name()
        calls = (*STREAM_CALLS, "datagram_received", "error_received")
        hooks = {call: functools.partial(self.on, call) for call in calls}
        protocol = Endpoint(self.trace, name, **hooks)
        self.trace.name(protocol, name)
        remote = self.far_address if self.options.get("connected") else None
        await self.trace.wait(
            f"{self.name}: endpoint",
            self.loop.create_datagram_endpoint(
                lambda: protocol, local_addr=("127.0.0.1", 0), remote_addr=remote
            ),
        )
        self.transport = protocol.transport
        if self.transport is not None:
            self.near = self.transport.get_extra_info("socket")
            self.address = self.near.getsockname()

    def op_sendto(self, size: int, to: str) -> None:
        if self.transport is not None:
            address = {"far": self.far_address, "none": None, "wrong": ("127.0.0.1", 1)}[to]
            data = pattern(size, self.writes)[:size]
            self.writes += 1
            self.act(self.transport.sendto, data, *([] if address is None else [address]))

    def op_wrong(self, method: str, value: str) -> None:
        if self.transport is not None:
            self.act(self.transport.sendto, WRONG[value], self.far_address)

    def op_far_send(self, size: int) -> None:
        if self.transport is not None and self.far.fileno() >= 0 and not self.lost:
            with contextlib.suppress(OSError):
                self.far.sendto(pattern(size, size)[:size], self.address)

    def op_far_close(self) -> None:
        self.far.close()

    async def op_drain(self) -> None:
        """Record what has come at the far end."""
        while self.far.fileno() >= 0:
            try:
                self.say(f"{self.name}: the far end has", *self.far.recvfrom(1 << 16))
            except BlockingIOError:
                break
            except OSError as exc:
                self.say(f"{self.name}: the far end has", exc)

    async def close(self) -> None:
        await self.op_drain()
        await super().close()


class ReadPipe(End):
    """The reading end of a pipe."""

    async def open(self) -> None:
        reader, writer = os.pipe()
        self.pipe = self.trace.enter(contextlib.closing(FileIO(reader, "rb")))
        self.far = self.trace.enter(contextlib.closing(FileIO(writer, "wb")))
        name = self.next_name()
        hooks = {call: functools.partial(self.on, call) for call in STREAM_CALLS}
        protocol = self.trace.protocol(name, **hooks)
        making = self.loop.connect_read_pipe(lambda: protocol, self.pipe)
        await self.trace.wait(f"{self.name}: read pipe", making)
        self.transport = protocol.transport

    def op_far_send(self, size: int) -> None:
        if not self.far.closed:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.far.fileno(), pattern(size, size)[:size])

    def op_far_close(self) -> None:
        self.far.close()

    def op_reading(self, method: str) -> None:
        if self.transport is not None:
            self.act(getattr(self.transport, method))

    def op_abort(self) -> None:
        """A read pipe has none."""

    def op_limits(self, high: int | None, low: int | None) -> None:
        """Of writing only."""

    async def close(self) -> None:
        if self.transport is not None and not self.lost:
            self.act(self.transport.close)
            await self.player.settle()


class WritePipe(Writer):
    """The writing end of a pipe."""

    async def open(self) -> None:
        reader, writer = os.pipe()
        self.far = self.trace.enter(contextlib.closing(FileIO(reader, "rb")))
        self.pipe = self.trace.enter(contextlib.closing(FileIO(writer, "wb")))
        os.set_blocking(reader, False)
        name = self.next_name()
        hooks = {call: functools.partial(self.on, call) for call in STREAM_CALLS}
        protocol = self.trace.protocol(name, **hooks)
        making = self.loop.connect_write_pipe(lambda: protocol, self.pipe)
        await self.trace.wait(f"{self.name}: write pipe", making)
        self.transport = protocol.transport

    def _fits(self, size: int) -> bool:
        return self.blocked or self.accepted + size - len(self.got) <= 30_000

    def near_fileno(self) -> int:
        return -1 if self.pipe.closed else self.pipe.fileno()

    def far_read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.far.fileno(), 1 << 20)
            self.got += data
            self.ended = "" if data else "end of stream"

    def op_far_close(self) -> None:
        self.far_open = False
        self.far.close()

    async def close(self) -> None:
        await self.op_drain()
        await super().close()
        if self.far_open:
            await self.op_drain()


COMMANDS = {
    "cat": "exec cat",
    "exit": "exit 3",
    "both": "echo out; echo err >&2",
    "sleep": "exec sleep 100",
    "deaf": "exec sleep 100 <&-",
}


class ChildProtocol(Process):
    """As in the written scripts; before 3.12 the context of the exit is a matter of chance."""

    def process_exited(self) -> None:
        if sys.version_info < (3, 12):
            PLACE.set("either")
        super().process_exited()


class Child(End):
    """A child process; how its pipes and its exit mix is not defined."""

    exited = False
    call = ""
    """Of the protocol, in which something is being done."""

    def say(self, what: str, *values: Any) -> None:
        """Record in a lane of the callback."""
        self.trace(what, *values, lane=f"{self.name} {self.call}")

    def on(self, call: str, *args: Any) -> Any:
        self.call = call
        try:
            return super().on(call, *args)
        finally:
            self.call = ""

    async def open(self) -> None:
        name = self.next_name()
        calls = (
            "connection_made",
            "pipe_data_received",
            "pipe_connection_lost",
            "process_exited",
            "connection_lost",
        )
        hooks = {call: functools.partial(self.on, call) for call in calls}
        self.protocol = ChildProtocol(self.trace, name, **hooks)
        self.trace.name(self.protocol, name)
        command = self.options["command"]
        making = self.loop.subprocess_exec(lambda: self.protocol, "sh", "-c", COMMANDS[command])
        await self.trace.wait(f"{self.name}: {command}", making)
        self.transport = self.protocol.transport
        if command in ("exit", "both"):
            await self._over()
        if command == "deaf":
            await self.player.until(lambda: "pipe_connection_lost" in self.protocol.calls)

    async def _over(self) -> None:
        if self.transport is not None:
            await self.player.until(lambda: "process_exited" in self.protocol.calls)
            self.exited = True
            for fd in (1, 2):
                await self.player.until(lambda fd=fd: self._pipe_lost(fd))
            await self.player.settle()  # connection_lost

    def _pipe_lost(self, fd: int) -> bool:
        pipe = self.transport.get_pipe_transport(fd)
        return pipe is None or pipe.is_closing()

    async def op_say(self, size: int) -> None:
        """Write to a `cat`, and wait for its answer."""
        if self._running() and self.options["command"] == "cat":
            pipe = self.transport.get_pipe_transport(0)
            if not pipe.is_closing():
                length = len(self.protocol.output) + size
                self.act(pipe.write, pattern(size, size)[:size])
                await self.player.until(lambda: len(self.protocol.output) >= length)

    async def op_end(self) -> None:
        """Close its stdin, and wait for the end of a `cat`."""
        if self._running():
            pipe = self.transport.get_pipe_transport(0)
            self.act(pipe.close)
            if self.options["command"] == "cat":
                await self._over()

    async def op_signal(self, method: str) -> None:
        """terminate or kill, and wait for its end."""
        if self._running():
            self.act(getattr(self.transport, method))
            await self._over()
        elif self.transport is not None:
            self.act(getattr(self.transport, method))

    async def op_close(self) -> None:
        if self.transport is not None:
            self.act(self.transport.close)
            await self.player.until(lambda: "connection_lost" in self.protocol.calls)
            self.exited = True

    def op_abort(self) -> None:
        """None here."""

    def op_limits(self, high: int | None, low: int | None) -> None:
        """None here."""

    async def close(self) -> None:
        if self.transport is not None:
            await self.op_signal("kill")
            self.act(self.transport.get_returncode)
            self.transport.close()

    def op_ask(self, what: str) -> None:
        """Not for the code before the exit is waited for: it comes when it comes."""
        over = self.call in ("process_exited", "connection_lost")
        if what != "get_returncode" or (over if self.call else self.exited):
            super().op_ask(what)

    def _running(self) -> bool:
        return self.transport is not None and not self.exited


KINDS: dict[str, type[End]] = {
    "stream": Stream,
    "tls": Tls,
    "datagram": Datagram,
    "read_pipe": ReadPipe,
    "write_pipe": WritePipe,
    "child": Child,
    "streams": Streams,
    "socket": Socket,
    "socket_datagram": DatagramSocket,
}
