"""What scripts are written in: cases, the trace they record, and protocols that record themselves.

A line of a trace says what happened, with which arguments, and in brackets the value that `PLACE`
(a ContextVar) had there, which shows whose context a callback ran in. Lines hold nothing that
differs between two runs of the same loop: ports, descriptors, addresses of objects and file names
are replaced, and objects the script knows appear under the names it gave them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import re
import socket
import sys
import traceback
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

PLACE: contextvars.ContextVar[str] = contextvars.ContextVar("PLACE", default="-")
"""Set it where something is registered; every line recorded says what it was."""

LONG = 80
"""Bytes beyond this many are recorded as their number and checksum."""


Version = tuple[int, ...]


class Case:
    """One function of a script, with what the comparer has to know about it."""

    def __init__(
        self, function: Any, lanes: bool, since: Version, broken: tuple[Version, Version] | None
    ) -> None:
        self.function = function
        self.name: str = function.__name__
        self.lanes = lanes
        self.since = since
        self.broken = broken

    @property
    def applies(self) -> bool:
        """Whether the running Python's asyncio can be the model for it."""
        version = sys.version_info[:3]
        broken = self.broken is not None and self.broken[0] <= version < self.broken[1]
        return version >= self.since and not broken


def case(
    function: Any = None,
    *,
    lanes: bool = False,
    since: Version = (3, 10),
    broken: tuple[Version, Version] | None = None,
) -> Any:
    """Make a function `f(trace)`, plain or `async`, a case of its script.

    A plain function drives `trace.loop` itself. With `lanes`, the events of each protocol are
    compared in order but not how those of several protocols mix: asyncio does not define it.
    `since` is the first Python whose asyncio has the behaviour. From the first version of `broken`
    to before the second, stock asyncio has a bug there that is no model.
    """
    if function is None:
        return lambda function: Case(function, lanes, since, broken)
    return Case(function, lanes, since, broken)


class Trace:
    """Records lines; turns values into words which are the same on every loop and in every run."""

    def __init__(self, loop: asyncio.AbstractEventLoop, emit: Callable[[str, str], None]) -> None:
        self.loop: Any = loop  # scripts call it in ways that no type checker would let pass
        self._emit = emit
        self._names: dict[int, tuple[Any, str]] = {id(loop): (loop, "loop")}
        self._ports: dict[int, str] = {}
        self._recorders: list[Recorder] = []
        self._stack = contextlib.ExitStack()

    def __call__(self, what: str, *values: Any, lane: str = "") -> None:
        """Record `what` and `values`. `lane` is the protocol or whatever else it belongs to."""
        line = " ".join([self.plain(what), *map(self.text, values)])
        self._emit(lane, f"{line} [{PLACE.get()}]")

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call, record the call with its result or exception, and return the result or None."""
        label = self._label(function, args, kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as exc:
            self(f"{label} raised", exc)
            return None
        self(f"{label} ->", result)
        return result

    def refused(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Like `call`, of an exception only the type: its wording is Python's, not asyncio's."""
        label = self._label(function, args, kwargs)
        try:
            result = function(*args, **kwargs)
        except Exception as exc:
            self(f"{label} raised {type(exc).__name__}")
        else:
            self(f"{label} ->", result)

    async def wait(self, label: str, awaitable: Awaitable[Any], lane: str = "") -> Any:
        """Await, record the result or exception under `label`, return the result or None."""
        try:
            result = await awaitable
        except BaseException as exc:
            self(f"{label} raised", exc, lane=lane)
            return None
        self(f"{label} ->", result, lane=lane)
        return result

    def callback(self, name: str, then: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """Return a callback that records `name` and its arguments, and then calls `then`."""

        def callback(*args: Any) -> Any:
            self(f"{name}({', '.join(map(self.text, args))})")
            return then(*args) if then is not None else None

        return callback

    def protocol(self, name: str, **hooks: Any) -> Recorder:
        """Return a `Recorder`; `hooks` maps names of callbacks to what they do once recorded."""
        return Recorder(self, name, hooks)

    def buffered(self, name: str, size: int = 64, **hooks: Any) -> BufferedRecorder:
        """Return a `BufferedRecorder` with a buffer of `size` bytes."""
        return BufferedRecorder(self, name, hooks, size)

    async def turns(self, count: int = 1) -> None:
        """Let the loop make `count` turns."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def connect(self, protocol: Any, sock: socket.socket) -> Any:
        """Give a connected socket to the loop and return its transport."""
        transport, _ = await self.loop.create_connection(lambda: protocol, sock=sock)
        return transport

    def name(self, value: Any, name: str) -> Any:
        """Call `value` by `name` from now on, and return it."""
        self._names[id(value)] = (value, name)
        return value

    def opened(self, recorder: Recorder) -> None:
        """Abort the transport of `recorder` after the case, if it is still open."""
        self._recorders.append(recorder)

    def enter(self, manager: contextlib.AbstractContextManager[Any]) -> Any:
        """Enter a context manager that is left after the case (sockets, for one)."""
        return self._stack.enter_context(manager)

    def handler(self, loop: Any, context: dict[str, Any]) -> None:
        """Record a call of the loop's exception handler: every key and value of its context."""
        self("exception handler:", {"loop": loop, **context}, lane="handler")

    def end(self) -> None:
        """Record nothing any more, and close what is open."""
        self._emit = lambda lane, text: None
        for recorder in self._recorders:
            if not (self.loop.is_closed() or recorder.transport.is_closing()):
                recorder.transport.abort()
        self._stack.close()

    def text(self, value: Any) -> str:
        """Return `value` in words."""
        if id(value) in self._names:
            return f"<{self._names[id(value)][1]}>"
        if isinstance(value, BaseException):
            return self._exception(value)
        if isinstance(value, str):
            return repr(self.plain(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return self._bytes(value)
        if isinstance(value, tuple) and len(value) in (2, 4) and _is_address(value):
            return f"({value[0]!r}, {self._port(value[1])})"
        if isinstance(value, list | tuple) and not isinstance(value, traceback.StackSummary):
            items = ", ".join(map(self.text, value))
            return f"[{items}]" if isinstance(value, list) else f"({items})"
        if isinstance(value, dict):
            items = ", ".join(f"{key}: {self.text(value[key])}" for key in sorted(value))
            return f"{{{items}}}"
        if isinstance(value, type):
            return value.__name__
        if isinstance(value, contextvars.Context):
            return f"<context {value.get(PLACE, None)!r}>"
        for kind, word in _KINDS:
            if isinstance(value, kind) or type(value).__name__ == word:
                return f"<{word}>"
        if isinstance(value, asyncio.Future):
            state = "cancelled" if value.cancelled() else "done" if value.done() else "pending"
            return f"<{'task' if isinstance(value, asyncio.Task) else 'future'} {state}>"
        return self.plain(repr(value))

    def plain(self, text: str) -> str:
        """Take out of `text` what differs between runs."""
        text = _ADDRESS.sub(lambda m: f"({m[1]!r}, {self._port(int(m[2]))})", text)
        for pattern, replacement in _PLAIN:
            text = pattern.sub(replacement, text)
        return text

    def _label(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        owner = self._names.get(id(getattr(function, "__self__", None)))
        words = [*map(self.text, args), *(f"{k}={self.text(v)}" for k, v in kwargs.items())]
        name = getattr(function, "__name__", type(function).__name__)
        return f"{owner[1] + '.' if owner else ''}{name}({', '.join(words)})"

    def _exception(self, exc: BaseException) -> str:
        number = f"[{exc.errno}]" if isinstance(exc, OSError) else ""
        inner = "".join(f" {self.text(e)}" for e in getattr(exc, "exceptions", ()))
        return f"{type(exc).__name__}{number}({self.plain(str(exc))!r}){inner}"

    def _bytes(self, value: Any) -> str:
        data = bytes(value)
        kind = "" if isinstance(value, bytes) else type(value).__name__
        if len(data) <= LONG:
            return f"{kind}({data!r})" if kind else repr(data)
        return f"<{len(data)} {kind or 'bytes'} {zlib.crc32(data):08x}>"

    def _port(self, number: int) -> str:
        if number < 1024:
            return str(number)
        return self._ports.setdefault(number, f"port{len(self._ports) + 1}")


class Recorder(asyncio.Protocol):
    """Records each of its callbacks, then does what the script's hook for it says.

    With the hook `merge=True`, data in a row is recorded as one piece: where the loop must divide
    a stream is not defined. `transport` and `data` are what has come so far.
    """

    def __init__(self, trace: Trace, name: str, hooks: dict[str, Any]) -> None:
        self.trace = trace
        self.name = name
        self.transport: Any = None
        self.data = b""
        self.calls: list[str] = []
        self._merge = hooks.pop("merge", False)
        self._merged = b""
        self._hooks = hooks
        self._waiters: list[asyncio.Future[None]] = []
        trace.name(self, name)

    def connection_made(self, transport: Any) -> Any:
        self.transport = transport
        self.trace.name(transport, f"{self.name}.transport")
        self.trace.opened(self)
        return self.record("connection_made", transport)

    def data_received(self, data: bytes) -> Any:
        return self.record("data_received", data)

    def eof_received(self) -> Any:
        return self.record("eof_received")

    def pause_writing(self) -> Any:
        return self.record("pause_writing")

    def resume_writing(self) -> Any:
        return self.record("resume_writing")

    def connection_lost(self, exc: Exception | None) -> Any:
        return self.record("connection_lost", exc)

    def record(self, call: str, *args: Any) -> Any:
        """Record one callback, wake who waits for it, and run its hook."""
        self.calls.append(call)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        if call == "data_received":
            self.data += args[0]
        if call == "data_received" and self._merge:
            self._merged += args[0]
        else:
            self.flush()
            self._line(call, *args)
        hook = self._hooks.get(call)
        return hook(*args) if hook is not None else None

    def flush(self) -> None:
        """Record the data that `merge` held back."""
        if self._merged:
            self._line("data_received", self._merged)
            self._merged = b""

    def _line(self, call: str, *args: Any) -> None:
        words = ", ".join(map(self.trace.text, args))
        # Not inside write(): is_closing() may be what makes a loop send.
        asks = self.transport is not None and call != "pause_writing"
        closing = " closing" if asks and self.transport.is_closing() else ""
        self.trace(f"{self.name}.{call}({words}){closing}", lane=self.name)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition()` is true; it is looked at after each callback."""
        while not condition():
            waiter = self.trace.loop.create_future()
            self._waiters.append(waiter)
            await waiter

    async def called(self, call: str, times: int = 1) -> None:
        """Wait until the callback `call` has been made `times` times."""
        await self.until(lambda: self.calls.count(call) >= times)

    async def received(self, size: int) -> bytes:
        """Wait for `size` bytes in all and return everything that came."""
        await self.until(lambda: len(self.data) >= size)
        return self.data

    async def lost(self) -> None:
        """Wait for connection_lost."""
        await self.called("connection_lost")


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same as a BufferedProtocol, reading into one buffer of its own."""

    def __init__(self, trace: Trace, name: str, hooks: dict[str, Any], size: int) -> None:
        super().__init__(trace, name, hooks)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint: int) -> Any:
        # Not recorded: how often it is called, and with which hint, is the loop's affair.
        hook = self._hooks.get("get_buffer")
        return hook(sizehint) if hook is not None else self.buffer

    def buffer_updated(self, nbytes: int) -> Any:
        self.data += self.buffer[:nbytes]
        return self.record("buffer_updated", nbytes, bytes(self.buffer[:nbytes]))


class LogRecorder(logging.Handler):
    """Records what goes to the `asyncio` logger as a warning or worse."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(logging.WARNING)
        self.trace = trace

    def emit(self, record: logging.LogRecord) -> None:
        exc = record.exc_info[1] if record.exc_info else None
        words = [record.getMessage()] + ([] if exc is None else [exc])
        self.trace(f"log {record.levelname}", *words, lane="log")


def raises(exc: BaseException) -> Callable[..., Any]:
    """Return a hook that raises `exc`."""

    def hook(*args: Any) -> Any:
        raise exc

    return hook


def _is_address(value: tuple[Any, ...]) -> bool:
    return (
        isinstance(value[0], str) and isinstance(value[1], int) and value[0][:3] in ("127", "::1")
    )


_KINDS: list[tuple[Any, str]] = [
    (asyncio.AbstractEventLoop, "another loop"),
    (asyncio.BaseTransport, "transport"),
    (asyncio.AbstractServer, "server"),
    (traceback.StackSummary, "stack"),
    (asyncio.TimerHandle, "TimerHandle"),
    (asyncio.Handle, "Handle"),
    (socket.socket, "socket"),
]
"""What appears as its kind alone."""

_ADDRESS = re.compile(r"\('(127\.\d+\.\d+\.\d+|::1)', (\d+)(?:, \d+, \d+)?\)")

_PLAIN = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"0x[0-9a-f]{6,}", "0x"),
        (r"<[\w.]*SSLProtocol object at 0x>", "<SSLProtocol>"),
        (r"\b(fd|pid)=\d+", r"\1=N"),
        (r"\bname=\d+ mode=", "name=N mode="),
        (r"\bwhen=[\d.]+", "when=T"),
        (r"<[\w.]*Transport\b", "<Transport"),
        (r"<[\w.]*(EventLoop|Loop)\b", "<Loop"),
        # A callback is named by its function; its arguments and its line are details.
        (r"(in callback |callback=|cb=\[)\S*Transport\.\S*?\(.*", r"\1<transport's own>"),
        (r"(Exception in callback [\w.<>]+)\((?:.*? at [^ '\"\n]+:\d+|.*)", r"\1"),
        (r"<((?:Timer)?Handle)( cancelled)?( when=T)? [^ ]*\(.*?\)( at \S+)?>", r"<\1\2\3>"),
        (r"( defined| running| created)? at [^ ]*\.py:\d+", r"\1 at FILE"),
        (r"'?/[^ ']*/([\w.]+\.py)\b", r"\1"),
        (r"/[^ ']*/(socket)\b", r"\1"),
        (r"\bTask-\d+", "Task-N"),
    )
]
"""What is taken out of texts."""
