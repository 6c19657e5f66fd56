"""What generated scripts do things to: one end the loop's, one in the script's hand.

Each kind of end has methods `op_...`, the operations of scripts. An operation that does not apply
(no such thing any more, nothing defined to compare) does nothing, in the same way on every loop:
so any list of operations is a script, and stays one when some are taken out.

An operation never lets the loop turn, except for the coroutines; what those wait for always comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
import select
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import tlswire, wire

if TYPE_CHECKING:
    from .player import Player

Op = list[Any]

STILL = 30
"""Turns after which a handshake in which nothing happens will not end."""

BUFFERS = 200_000
"""Bytes of the sockets' buffers, asked for."""
ROOM = 100_000
"""Bytes that surely fit into them; more must not lie unread where that is to be known."""

STREAM_CALLS = (
    "connection_made",
    "data_received",
    "buffer_updated",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
)

ERRORS: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("from a callback"),
    "broken": lambda: BrokenPipeError(32, "from a callback"),
    "os": lambda: OSError(5, "from a callback"),
    "cancelled": lambda: asyncio.CancelledError("from a callback"),
    "interrupt": lambda: KeyboardInterrupt("from a callback"),
    "exit": lambda: SystemExit(3),
}
"""What callbacks raise."""

WRONG: dict[str, Any] = {"none": None, "str": "text", "int": 3, "list": [b"x"], "mixed": [b"x", 3]}
"""What no method takes."""


def pattern(size: int, number: int) -> bytes:
    """Return `size` bytes that tell one piece from another."""
    return bytes((number * 31 + i) & 255 for i in range(min(size, 251))) * (size // 251 + 1)


class End:
    """One thing under test. `options` are of its kind; `name` is the lane of its events."""

    def __init__(self, player: Player, name: str, options: dict[str, Any]) -> None:
        self.player = player
        self.trace = player.trace
        self.loop = player.trace.loop
        self.name = name
        self.options = options
        self.transport: Any = None
        self._lost = False
        self.hooks: dict[str, list[Op]] = {}
        self.generation = 0
        self.writes = 0

    @property
    def lost(self) -> bool:
        """Whether `connection_lost` has been called."""
        return self._lost

    async def open(self) -> None:
        """Make it, and wait until it is there."""
        raise NotImplementedError

    async def close(self) -> None:
        """Record what is left to see, and end it."""
        if self.transport is not None and not self.lost:
            self.act(self.transport.abort)
            await self.player.settle()

    def say(self, what: str, *values: Any) -> None:
        """Record in this end's lane."""
        self.trace(what, *values, lane=self.name)

    def act(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call, and record arguments, result and exception; of a TypeError not the wording."""
        self.say(f"{self.name}.{function.__name__}({', '.join(map(self.trace.text, args))})")
        try:
            result = function(*args)
        except TypeError:
            self.say(f"{self.name}.{function.__name__} raised TypeError")
        except BaseException as exc:
            self.say(f"{self.name}.{function.__name__} raised", exc)
        else:
            if result is not None:
                self.say(f"{self.name}.{function.__name__} ->", result)
            return result

    def next_name(self) -> str:
        """Return the name of another protocol."""
        self.generation += 1
        return f"{self.name}.{self.generation}"

    def on(self, call: str, *args: Any) -> Any:
        """Do in a callback what was asked for with `hook`: once each."""
        if call == "connection_lost":
            self._lost = True
        armed = self.hooks.get(call)
        if armed:
            do, error, answer = armed.pop(0)
            self.player.do_now(do)
            if error is not None:
                self.say(f"{self.name}: {call} raises {error}")
                raise ERRORS[error]()
            return answer
        return self.options.get("keep") if call == "eof_received" else None

    def op_hook(self, call: str, do: list[Op], error: str | None, answer: Any) -> None:
        """When `call` is made the next time, do operations, then raise or return."""
        self.hooks.setdefault(call, []).append([do, error, answer])

    def op_ask(self, what: str) -> None:
        """Call a method that only tells something."""
        if self.transport is not None and hasattr(self.transport, what):
            self.act(getattr(self.transport, what))

    def op_extra(self, key: str) -> None:
        if self.transport is not None:
            self.act(self.transport.get_extra_info, key)

    def op_abort(self) -> None:
        if self.transport is not None:
            self.act(self.transport.abort)

    def op_close(self) -> None:
        if self.transport is not None:
            self.act(self.transport.close)

    def op_limits(self, high: int | None, low: int | None) -> None:
        if self.transport is not None:
            self.act(self.transport.set_write_buffer_limits, high, low)


class Writer(End):
    """A transport that writes a stream, which the far end reads by `drain`."""

    def __init__(self, player: Player, name: str, options: dict[str, Any]) -> None:
        super().__init__(player, name, options)
        self.accepted = 0
        """Bytes written to the transport, and to its descriptor by `block`."""
        self.got = bytearray()
        self.told = 0
        self.fillers: list[tuple[int, int]] = []
        self.blocked = False
        self.far_open = True
        self.ended = ""
        self.eof_written = False

    @property
    def ending(self) -> bool:
        """Whether the far end will come to the end of the stream."""
        return self.lost or self.eof_written or self.transport.is_closing()

    def _fits(self, size: int) -> bool:
        return self.blocked or self.accepted + size - len(self.got) <= ROOM

    def op_write(self, size: int, kind: str = "bytes") -> None:
        """Write `size` bytes as `kind`."""
        if self.transport is not None and self._fits(size):
            data = pattern(size, self.writes)[:size]
            self.writes += 1
            self.accepted += size
            kinds: dict[str, Any] = {"bytearray": bytearray, "memoryview": memoryview}
            self.act(self.transport.write, kinds.get(kind, bytes)(data))
            self._send_now()

    def op_writelines(self, sizes: list[int]) -> None:
        if self.transport is not None and self._fits(sum(sizes)):
            lines = [pattern(size, self.writes + i)[:size] for i, size in enumerate(sizes)]
            self.writes += len(sizes)
            self.accepted += sum(sizes)
            self.act(self.transport.writelines, lines)
            self._send_now()

    def _send_now(self) -> None:
        """Where the peer is gone each send counts: it makes the next one fail."""
        if not self.far_open and not self.lost:
            # asyncio's TLS transport may be dead already.
            with contextlib.suppress(AttributeError):
                self.transport.get_write_buffer_size()

    def op_wrong(self, method: str, value: str) -> None:
        """Call a method with what it does not take."""
        if self.transport is not None:
            self.act(getattr(self.transport, method), WRONG[value])

    def op_eof(self) -> None:
        if self.transport is not None:
            # TLS has none; nor does it come where the connection is closing already.
            self.eof_written = self.transport.can_write_eof()
            self.act(self.transport.write_eof)

    def op_block(self) -> None:
        """Fill the kernel's buffers behind the transport's back: it can send nothing now."""
        near = self.near_fileno()
        if (
            self.transport is None
            or near < 0
            or self.blocked
            or not self.far_open
            or self.lost
            or self.eof_written
            or self.transport.is_closing()
            or self.transport.get_write_buffer_size()
        ):
            return
        self._block(near)

    def _block(self, near: int) -> None:
        size = _fill(near)
        self.fillers.append((self.accepted, size))
        self.accepted += size
        self.blocked = True

    async def op_drain(self) -> None:
        """Read at the far end whatever was written, and to the end where there is one to come."""
        if self.far_open and not self.ended and self.transport is not None:
            idle = 0
            while not self.ended and (len(self.got) < self.accepted or self.ending):
                before = len(self.got), self.player.count
                self.far_read()
                await asyncio.sleep(0 if idle < STILL else 0.001)
                idle = 0 if before != (len(self.got), self.player.count) else idle + 1
                if idle > 2 * STILL:  # writes to what is ending are dropped
                    break
            self.blocked = False
        self.tell()

    def tell(self) -> None:
        """Record what the far end has read since the last time."""
        data = bytes(self.got)
        for offset, size in reversed(self.fillers):
            data = data[:offset] + data[offset + size :]
        if len(data) > self.told or self.ended:
            self.say(f"{self.name}: the far end has", data[self.told :], self.ended)
        self.told = len(data)

    def near_fileno(self) -> int:
        """Return the descriptor of the near end, or -1 once it is closed."""
        raise NotImplementedError

    def far_read(self) -> None:
        """Take what has come; set `ended` at the end."""
        raise NotImplementedError


class Stream(Writer):
    """A connection: `how` says which call makes it."""

    def __init__(self, player: Player, name: str, options: dict[str, Any]) -> None:
        super().__init__(player, name, options)
        self.near: Any = None
        self.far: Any = None
        self.server: Any = None
        self.protocol: Any = None
        self.finished = False

    async def open(self) -> None:
        how = self.options.get("how", "sock")
        protocol = self.protocol = self.new_protocol(self.options.get("buffered", 0))
        if how.startswith("serve"):
            await self._serve(protocol)
        else:
            making = getattr(self, f"_open_{how}")(protocol)
            await self.trace.wait(f"{self.name}: {how}", making)
        self.transport = protocol.transport
        if self.near is None and self.transport is not None:
            self.near = self.transport.get_extra_info("socket")

    def new_protocol(self, buffered: int) -> Any:
        """Return a new recording protocol with this end's hooks."""
        name = self.next_name()
        hooks: dict[str, Any] = {call: functools.partial(self.on, call) for call in STREAM_CALLS}
        if not buffered:
            return self.trace.protocol(name, **hooks)
        recorder = self.trace.buffered(name, buffered, **hooks)
        recorder._hooks["get_buffer"] = lambda hint: self._buffer(recorder)
        return recorder

    def _buffer(self, recorder: Any) -> Any:
        answer = self.on("get_buffer") if self.hooks.get("get_buffer") else "buffer"
        # Into anything else than a memoryview asyncio's TLS loses all records but the first.
        return {"buffer": memoryview(recorder.buffer), "empty": bytearray()}.get(answer, answer)

    def _sockets(self, family: int) -> None:
        if family == socket.AF_UNIX:
            self.near, self.far = (
                self.trace.enter(contextlib.closing(each)) for each in socket.socketpair()
            )
            self.far.settimeout(wire.TIME_LIMIT)
        else:
            self.near, self.far = wire.pair(self.trace)
            # asyncio does so only where the socket names its protocol; the peer's ACK may be slow.
            self.near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        widen(self.near, self.far)

    def _open_sock(self, protocol: Any) -> Any:
        self._sockets(socket.AF_INET)
        return self.loop.create_connection(lambda: protocol, sock=self.near)

    def _open_accepted(self, protocol: Any) -> Any:
        self._sockets(socket.AF_INET)
        return self.loop.connect_accepted_socket(lambda: protocol, self.near)

    def _open_unix(self, protocol: Any) -> Any:
        self._sockets(socket.AF_UNIX)
        return self.loop.create_unix_connection(lambda: protocol, sock=self.near)

    async def _open_dial(self, protocol: Any) -> Any:
        listener = wire.listener(self.trace)
        widen(listener)
        made = await self.loop.create_connection(lambda: protocol, *listener.getsockname())
        self.far = self.trace.enter(contextlib.closing(listener.accept()[0]))
        self.far.settimeout(wire.TIME_LIMIT)
        return made

    async def _open_dial_unix(self, protocol: Any) -> Any:
        path = self._path()
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(path)
            listener.listen()
            made = await self.loop.create_unix_connection(lambda: protocol, path)
            self.far = self.trace.enter(contextlib.closing(listener.accept()[0]))
        self.far.settimeout(wire.TIME_LIMIT)
        return made

    async def _serve(self, protocol: Any) -> None:
        if self.options["how"] == "serve":
            server = await self.loop.create_server(lambda: protocol, "127.0.0.1", 0)
        else:
            server = await self.loop.create_unix_server(lambda: protocol, self._path())
        self._dial(server)
        await self.player.until(lambda: protocol.transport is not None)

    def _path(self) -> str:
        """Return a path for a Unix socket."""
        return self.trace.enter(tempfile.TemporaryDirectory()) + "/socket"

    def _dial(self, server: Any) -> None:
        """Connect the far end to `server`."""
        self.server = server
        self.far = wire.dial(self.trace, server.sockets[0].getsockname())
        widen(self.far)

    async def close(self) -> None:
        await self.op_drain()
        await super().close()
        if self.far_open and self.transport is not None:
            await self.op_drain()
        if self.server is not None:
            self.server.close()

    def near_fileno(self) -> int:
        return self.near.fileno() if self.near is not None else -1

    def far_read(self) -> None:
        if wire._poll(self.far, select.POLLIN, 0):
            try:
                data = self.far.recv(1 << 20)
            except ConnectionError as exc:
                self.ended = type(exc).__name__
                return
            self.got += data
            self.ended = "" if data else "end of stream"

    def op_block(self) -> None:
        """Only of a Unix socket: TCP makes room by itself, after a while."""
        if self.far is not None and self.far.family == socket.AF_UNIX:
            super().op_block()

    def op_reading(self, method: str) -> None:
        if self.transport is not None:
            self.act(getattr(self.transport, method))

    def op_protocol(self, buffered: int) -> None:
        """set_protocol, of a Protocol or of a BufferedProtocol."""
        if self.transport is not None:
            self.protocol = self.new_protocol(buffered)
            self.protocol.transport = self.transport
            self.act(self.transport.set_protocol, self.protocol)

    def op_server(self, method: str) -> None:
        """Call a method of the server, if there is one, and this Python has it."""
        if self.server is not None and hasattr(self.server, method):
            self.act(getattr(self.server, method))

    def op_far_send(self, size: int) -> None:
        if self._far_writes():
            self._deliver(pattern(size, size)[:size])

    def op_far_finish(self) -> None:
        """End the stream towards the loop."""
        if self._far_writes():
            self.finished = True
            with contextlib.suppress(OSError):
                if self.near_fileno() < 0:
                    self.far.shutdown(socket.SHUT_WR)
                else:
                    wire.finish(self.far, self.near)

    def op_far_reset(self) -> None:
        """Reset the connection (a Unix socket just closes)."""
        if self.far_open and self.far is not None:
            self.far_open = False
            if self.far.family == socket.AF_UNIX:
                self.far.close()
            else:
                wire.reset(self.far, None if self.near_fileno() < 0 else self.near)

    def op_far_close(self) -> None:
        """Close the far end, which has read all, so that it is no reset."""
        if self.far_open and self.far is not None and not self.blocked:
            while wire._poll(self.far, select.POLLIN, 0) and not self.ended:
                self.far_read()
            self.far_open = False
            if not self.finished and self.near_fileno() >= 0 and not self.ended:
                with contextlib.suppress(OSError):
                    wire.finish(self.far, self.near)
            self.far.close()

    async def op_start_tls(self, role: str) -> None:
        """Go on with TLS, which the far end does too."""
        if not await self._may_secure():
            return
        ours, theirs = tls_contexts(role)
        secure = Tls(self.player, self.name, {**self.options, "role": role})
        secure.generation, secure.hooks = self.generation, self.hooks
        secure.near, secure.far = self.near, self.far
        secure.engine = tlswire.Far(self.far, self.near, theirs)
        making = self.loop.start_tls(
            self.transport,
            self.protocol,
            ours,
            server_side=role == "server",
            server_hostname=None if role == "server" else tlswire.HOST,
        )
        task = asyncio.ensure_future(self.trace.wait(f"{self.name}: start_tls", making))
        await secure.shake(task)
        secure.transport = await task
        secure.protocol = self.protocol
        if secure.transport is not None:
            self.trace.name(secure.transport, f"{self.protocol.name}.tls")
            self.protocol.transport = secure.transport
        self.player.replace(self, secure)

    async def _may_secure(self) -> bool:
        """Read what was written until now; return whether TLS can begin."""
        if (
            self.transport is None
            or self.lost
            or self.transport.is_closing()
            or not self.far_open
            or self.finished
            or self.eof_written
            or self.ended
        ):
            return False
        await self.op_drain()
        return not (self.transport.is_closing() or self.ended or self.finished)

    async def op_sendfile(self, size: int, offset: int, count: int | None, file: str) -> None:
        """sendfile of a `file` on disk, or of one in `memory`, while the far end reads.

        One in memory only where nothing waits: asyncio of 3.12 and 3.13 sends pieces twice. By the
        fallback before 3.14 only where somebody reads: there the thread that reads the file may be
        done before a failed write is told, or after it.
        """
        if self.transport is None or not self._fits(size) or (self.blocked and file == "memory"):
            return
        if file != "no fallback" and not self.far_open and sys.version_info < (3, 14):
            return
        source, task = self._sendfile(size, offset, count, file)
        idle = 0
        while not task.done() and idle < 2 * STILL:
            before = len(self.got)
            if self.far_open and not self.ended:
                self.far_read()
            await asyncio.sleep(0 if idle < STILL else 0.001)
            idle = 0 if before != len(self.got) else idle + 1
        if not task.done():
            self.say(f"{self.name}: this waits for ever")
            task.cancel()
        self.accepted += await task or 0
        await self.player.settle()  # a thread may have read the file, and ended at any time
        self.say(f"{self.name}: the file is at", source.tell())
        await self.op_drain()

    async def op_sendfile_cancelled(
        self, size: int, offset: int, count: int | None, file: str
    ) -> None:
        """The same of a file on disk, which is cancelled as it waits for the far end to read.

        Not where earlier writes wait: asyncio would never send them.
        """
        self.op_block()
        if (
            self.transport is None
            or not self.blocked
            or file == "memory"
            or self.transport.get_write_buffer_size()
        ):
            return
        source, task = self._sendfile(size, offset, count, file)
        await self.player.settle()
        task.cancel()
        await self.player.settle()
        self.say(f"{self.name}: the file is at", source.tell())

    def _sendfile(
        self, size: int, offset: int, count: int | None, file: str
    ) -> tuple[Any, asyncio.Task[Any]]:
        """Return a file, and a task that sends it."""
        make: Any = io.BytesIO if file == "memory" else tempfile.TemporaryFile
        source = self.trace.enter(contextlib.closing(make()))
        source.write(pattern(size, self.writes)[:size])
        source.flush()
        self.writes += 1
        fallback = file != "no fallback"

        async def send() -> Any:
            return await self.loop.sendfile(
                self.transport, source, offset, count, fallback=fallback
            )

        label = f"{self.name}: sendfile {size} {offset} {count} {file}"
        return source, asyncio.ensure_future(self.trace.wait(label, send(), lane=self.name))

    def _far_writes(self) -> bool:
        return self.far is not None and self.far_open and not self.finished

    def _deliver(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self.near_fileno() < 0 or self.lost:
                self.far.sendall(data)
            else:
                wire.send(self.far, self.near, data)


class Tls(Stream):
    """A connection over TLS, of the `role` client or server."""

    engine: Any = None

    async def open(self) -> None:
        role = self.options["role"]
        ours, theirs = tls_contexts(role)
        self._sockets(socket.AF_INET)
        self.engine = tlswire.Far(self.far, self.near, theirs)
        protocol = self.protocol = self.new_protocol(self.options.get("buffered", 0))
        making = tlswire.begin(self.trace, role, protocol, self.near, ours)
        task = asyncio.ensure_future(self.trace.wait(f"{self.name}: tls {role}", making))
        await self.shake(task)
        self.transport = protocol.transport

    async def shake(self, task: asyncio.Task[Any]) -> None:
        """Do the far end's part of the handshake until `task` is done or nothing happens any more.

        asyncio waits for ever where the protocol's connection_made raises or aborts.
        """
        idle = 0
        while idle < STILL and not (task.done() and self.engine.shaken):
            before = self.player.count
            try:
                heard = self.engine.listen()
                flight = b"" if self.engine.shaken else self.engine.flight()
            except (ssl.SSLError, ConnectionError) as exc:
                self.say(f"{self.name}: the far end's handshake raised {type(exc).__name__}")
                break
            if flight:
                self._send_raw(flight)
            await asyncio.sleep(0)
            idle = 0 if heard or flight or before != self.player.count else idle + 1
        await self.player.settle()
        if not task.done():
            self.say(f"{self.name}: this waits for ever")
            task.cancel()
        await asyncio.wait([task])

    def near_fileno(self) -> int:
        return -1 if self.lost else super().near_fileno()

    def op_block(self) -> None:
        """Not here: it would break the stream of records."""

    def far_read(self) -> None:
        try:
            data = self.engine.engine.read(1 << 20)
        except ssl.SSLWantReadError:
            with contextlib.suppress(ConnectionError):
                self.engine.listen()
                return
            self.ended = "reset"
        except ssl.SSLZeroReturnError:
            self.ended = "close_notify"
        except ssl.SSLError as exc:
            self.ended = "end" if isinstance(exc, ssl.SSLEOFError) else str(exc.reason)
        else:
            self.got += data
            self.ended = "" if data else "close_notify"

    async def op_far_notice(self) -> None:
        """Say that no more will come, in TLS, having read all."""
        await self.op_drain()
        if self._far_writes() and self.engine.shaken and not self.ended:
            self._send_raw(self.engine.notice())

    def op_far_garbage(self) -> None:
        """Send what is no record."""
        if self._far_writes():
            self._send_raw(b"this is no record of TLS")

    def op_far_close(self) -> None:
        """Only with a reset: what lies unread at the far end is hard to know."""
        self.op_far_reset()

    async def op_start_tls(self, role: str) -> None:
        """Not again."""

    def _deliver(self, data: bytes) -> None:
        if self.engine.shaken:
            with contextlib.suppress(OSError):
                self._send_raw(self.engine.records(data))

    def _send_raw(self, data: bytes) -> None:
        super()._deliver(data)


@functools.cache
def tls_contexts(role: str) -> Any:
    return tlswire.contexts(role, version=tlswire.TLS13)


def widen(*sockets: socket.socket) -> None:
    for sock in sockets:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFERS)


def _fill(fd: int) -> int:
    """Write to `fd` until it takes nothing for a while; return how many bytes it took."""
    total = rounds = 0
    while rounds < 3:
        taken = 0
        for size in (1 << 16, 4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken += os.write(fd, bytes(size))
        total += taken
        rounds = 0 if taken else rounds + 1
        time.sleep(0.0005)
    return total
