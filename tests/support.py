"""Vocabulary shared by the tests: loops under test, recording protocols, raw peers, child programs.

Nothing here waits for time to pass: a test waits for an event, and `TIME_LIMIT` only ends a test
that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

LOOP_SPECS = os.environ.get(
    "OXLOOP_TEST_LOOPS", "asyncio:new_event_loop,oxloop:new_event_loop"
).split(",")
"""The loops under test, each as `module:factory`."""

TIME_LIMIT = float(os.environ.get("OXLOOP_TEST_TIME_LIMIT", "30"))
"""Seconds after which one test counts as hung."""

PYTHON = sys.version_info[:2]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
ErrorContext = dict[str, Any]


def load(spec: str) -> LoopFactory:
    """Return the loop factory that `spec` (`module:name`) stands for."""
    module, _, name = spec.partition(":")
    factory: LoopFactory = getattr(importlib.import_module(module), name)
    return factory


def type_of(loop_factory: LoopFactory) -> type[asyncio.AbstractEventLoop]:
    """Return the class of the loops that `loop_factory` makes."""
    loop = loop_factory()
    loop.close()
    return type(loop)


def module_of(spec: str) -> str:
    """Return the module part of `spec`: `asyncio`, `oxloop`..."""
    return spec.partition(":")[0]


def name_of(value: object) -> str:
    """The `repr` of a test's parameter; its type where that has an address, new in each process."""
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


def skip_stock_bug(spec: str, broken: bool, bug: str) -> None:
    """Skip the test on a stock asyncio that has `bug`, corrected in other versions of CPython."""
    if broken and module_of(spec) == "asyncio":
        pytest.skip(f"asyncio {sys.version.split()[0]}: {bug}")


def shut_down(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left on `loop`, let it finish, and close it (as `asyncio.run` does)."""
    if loop.is_closed():
        return
    loop.set_task_factory(None)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def turns(loop: asyncio.AbstractEventLoop, count: int = 1) -> None:
    """Let a stopped `loop` run `count` turns."""
    for _ in range(count):
        loop.call_soon(loop.stop)
        loop.run_forever()


async def hops(count: int = 1) -> None:
    """Let the running loop make `count` turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait, turn by turn, until `condition()` is true (for what no callback announces)."""
    while not condition():
        await asyncio.sleep(0.001)


class Recording:
    """Records the callbacks every stream protocol has, in order, and lets a test wait for them."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.keep_open = keep_open
        self.transport: Any = None
        self.calls: list[str] = []
        self.data = bytearray()
        self.error: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def record(self, call: str) -> None:
        """Append `call` and wake whoever waits in `until`."""
        self.calls.append(call)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.record("connection_made")

    def eof_received(self) -> bool | None:
        self.record("eof_received")
        return self.keep_open

    def pause_writing(self) -> None:
        self.record("pause_writing")

    def resume_writing(self) -> None:
        self.record("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.record("connection_lost")

    @property
    def story(self) -> list[str]:
        """The calls, with a run of data_received taken as one: TCP keeps no boundaries."""
        return [
            call
            for index, call in enumerate(self.calls)
            if call != "data_received" or self.calls[index - 1] != call
        ]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition()` is true; it is looked at after every callback."""
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def called(self, call: str, times: int = 1) -> None:
        """Wait until the callback `call` has been made `times` times."""
        await self.until(lambda: self.calls.count(call) >= times)

    async def received(self, size: int) -> bytes:
        """Wait until `size` bytes have arrived in all, and return everything."""
        await self.until(lambda: len(self.data) >= size)
        return bytes(self.data)

    async def lost(self) -> BaseException | None:
        """Wait for connection_lost and return its argument."""
        await self.called("connection_lost")
        return self.error


class Recorder(Recording, asyncio.Protocol):
    """A recording protocol that is handed its data."""

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.record("data_received")


class BufferedRecorder(Recording, asyncio.BufferedProtocol):
    """A recording protocol that supplies its own read buffer of `size` bytes."""

    def __init__(self, size: int = 4096, *, keep_open: bool = False) -> None:
        super().__init__(keep_open=keep_open)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]
        self.record("buffer_updated")


class DatagramRecorder(Recording, asyncio.DatagramProtocol):
    """Records the callbacks of a datagram protocol: `datagrams` with their senders, `errors`."""

    def __init__(self) -> None:
        super().__init__()
        self.datagrams: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams.append((data, addr))
        self.record("datagram_received")

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self.record("error_received")

    async def arrived(self, count: int = 1) -> list[bytes]:
        """Wait until `count` datagrams have arrived in all, and return what they carry."""
        await self.called("datagram_received", count)
        return [data for data, _ in self.datagrams]


class Peer:
    """The far end of a connection: a plain blocking socket, independent of the loop under test."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIME_LIMIT)
        self.sock = sock

    def send(self, data: bytes) -> None:
        """Send a small piece; it fits into the kernel's buffer, so this does not block."""
        self.sock.sendall(data)

    async def send_all(self, data: bytes) -> None:
        """Send any amount, in a thread."""
        await asyncio.to_thread(self.sock.sendall, data)

    async def read(self, size: int) -> bytes:
        """Read exactly `size` bytes (fewer only at the end of the stream), in a thread."""
        return await asyncio.to_thread(self.read_blocking, size)

    async def read_all(self) -> bytes:
        """Read to the end of the stream, in a thread."""
        return await asyncio.to_thread(self.read_blocking, sys.maxsize)

    def read_blocking(self, size: int) -> bytes:
        """Read up to `size` bytes or the end of the stream, in the calling thread."""
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(min(1 << 20, size - len(data)))
            if not piece:
                break
            data += piece
        return bytes(data)

    def shutdown(self) -> None:
        """Send the end of the stream and keep reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def listen(*, receive_buffer: int | None = None) -> socket.socket:
    """Return a socket that listens on a free port of 127.0.0.1."""
    listener = socket.socket()
    listener.settimeout(TIME_LIMIT)
    if receive_buffer is not None:  # inherited by what is accepted
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def unix_listen(path: str | bytes | os.PathLike[str]) -> socket.socket:
    """Return a Unix socket that listens on `path`."""
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(TIME_LIMIT)
    listener.bind(os.fspath(path))
    listener.listen()
    return listener


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected TCP sockets."""
    with listen() as listener:
        left = socket.create_connection(listener.getsockname(), timeout=TIME_LIMIT)
        right, _ = listener.accept()
    return left, right


def udp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected UDP sockets."""
    left, right = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    left.bind(("127.0.0.1", 0))
    right.bind(("127.0.0.1", 0))
    left.connect(right.getsockname())
    right.connect(left.getsockname())
    return left, right


class Network:
    """Opens connections and servers for one test and closes them behind it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._stack = contextlib.ExitStack()
        self._transports: list[Any] = []

    async def connect(
        self,
        protocol: Any = None,
        *,
        receive_buffer: int | None = None,
        **options: Any,
    ) -> tuple[Any, Any, Peer]:
        """Return transport, protocol and peer of a connection the loop opened."""
        protocol = Recorder() if protocol is None else protocol
        with listen(receive_buffer=receive_buffer) as listener:
            address = listener.getsockname()
            transport, _ = await self.loop.create_connection(lambda: protocol, *address, **options)
            self.keep(transport)
            peer = self.peer(listener.accept()[0])
        return transport, protocol, peer

    async def accept(
        self,
        protocol: Any = None,
        *,
        receive_buffer: int | None = None,
        **options: Any,
    ) -> tuple[Any, Any, Peer]:
        """Return transport, protocol and peer of a connection the loop accepted."""
        protocol = Recorder() if protocol is None else protocol
        server = await self.serve(lambda: protocol, **options)
        peer = self.dial(server, receive_buffer=receive_buffer)
        await protocol.called("connection_made")
        self.keep(protocol.transport)
        return protocol.transport, protocol, peer

    async def serve(self, factory: Callable[[], Any] = Recorder, **options: Any) -> Any:
        """Return a server on a free port of 127.0.0.1."""
        if "sock" not in options:
            options = {"host": "127.0.0.1", "port": 0, **options}
        server = await self.loop.create_server(factory, **options)
        self._stack.callback(server.close)
        return server

    async def connect_unix(self, path: Any, protocol: Any = None) -> tuple[Any, Any, Peer]:
        """Return transport, protocol and peer of a connection the loop opened to `path`."""
        protocol = Recorder() if protocol is None else protocol
        with unix_listen(path) as listener:
            transport, _ = await self.loop.create_unix_connection(lambda: protocol, path)
            self.keep(transport)
            peer = self.peer(listener.accept()[0])
        return transport, protocol, peer

    async def serve_unix(
        self, factory: Callable[[], Any] = Recorder, path: Any = None, **options: Any
    ) -> Any:
        """Return a server on `path`, or over the option `sock`."""
        server = await self.loop.create_unix_server(factory, path, **options)
        self._stack.callback(server.close)
        return server

    async def datagrams(self, protocol: Any = None, **options: Any) -> tuple[Any, Any]:
        """Return transport and protocol of an endpoint, on 127.0.0.1 unless `options` say."""
        protocol = DatagramRecorder() if protocol is None else protocol
        options = options or {"local_addr": ("127.0.0.1", 0)}
        transport, _ = await self.loop.create_datagram_endpoint(lambda: protocol, **options)
        self.keep(transport)
        return transport, protocol

    def dial(self, server: Any, *, receive_buffer: int | None = None) -> Peer:
        """Return a peer connected to `server`."""
        listener = server.sockets[0]
        peer = self.peer(socket.socket(listener.family))
        if receive_buffer is not None:
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer.sock.connect(listener.getsockname())
        return peer

    def keep(self, transport: Any) -> None:
        """Abort `transport` after the test."""
        self._transports.append(transport)

    def forget(self, transport: Any) -> None:
        """Hold `transport` no longer."""
        self._transports.remove(transport)

    def peer(self, sock: socket.socket) -> Peer:
        """Return a peer over `sock`, closed after the test."""
        return Peer(self._stack.enter_context(contextlib.closing(sock)))

    async def close(self) -> None:
        """Abort every connection, close every server and socket."""
        while self._transports:
            abort(self._transports.pop())
        self._stack.close()
        await hops(3)  # connection_lost, then the server's bookkeeping


def abort(transport: Any) -> None:
    """Abort `transport`, whatever has become of it."""
    # Before 3.14, asyncio's abort() fails after a close() that had to flush (gh-156512).
    with contextlib.suppress(AttributeError):
        transport.abort()


async def fill(transport: Any) -> int:
    """Write until the kernel takes no more, and return the bytes the transport now holds.

    The peer must not read. Afterwards the amount only grows by what the caller writes.
    """
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # and it stays that small
    transport.set_write_buffer_limits(high=1 << 30)
    while True:
        if transport.get_write_buffer_size() == 0:
            transport.write(bytes(64 * 1024))
        elif not is_writable(sock):
            return int(transport.get_write_buffer_size())
        await asyncio.sleep(0)


def is_writable(sock: Any) -> bool:
    """Tell whether the kernel would take more data for `sock` now."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLOUT)
    return bool(poll.poll(0))


def descriptors() -> dict[int, str]:
    """Return what is open now, by number: the names of files, `socket:[inode]`..."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that this listing used
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


class Child:
    """A Python program in its own process, talking to the test by lines on stdout."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    @property
    def stdout(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def expect(self, line: str) -> None:
        """Read one line of the child's output, which must be `line`."""
        got = self.stdout.readline()
        if got.rstrip("\n") != line:
            self.process.kill()
            _, errors = self.process.communicate()
            pytest.fail(f"child said {got!r} instead of {line!r}\n{errors}")

    def wait_until_asleep(self) -> None:
        """Return when the child waits in the kernel: its loop is blocked in the selector."""
        deadline = time.monotonic() + TIME_LIMIT
        while time.monotonic() < deadline:
            # The state is the field after the name, which is in parentheses.
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "S":
                return
            if state == "Z":
                pytest.fail(f"the child has ended\n{self.finish().errors}")
            time.sleep(0.001)
        pytest.fail("the child never waits")

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def finish(self) -> Outcome:
        """Wait for the child's end and return what came out."""
        try:
            output, errors = self.process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, errors = self.process.communicate()
            pytest.fail(f"child hung\n{output}\n{errors}")
        return Outcome(self.process.returncode, output, errors)

    def kill(self) -> None:
        """End the child if it is still there."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class Outcome:
    """How a child ended: exit code (negative: the signal), its output, its errors."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.output = output
        self.errors = errors

    @property
    def last_error(self) -> str:
        """The last line on stderr: of a traceback, the exception."""
        lines = self.errors.strip().splitlines()
        return lines[-1] if lines else ""

    def check(self) -> str:
        """Return the output of a child that must have ended well, in silence."""
        assert self.code == 0, f"exit code {self.code}\n{self.output}\n{self.errors}"
        assert self.errors == "", self.errors
        return self.output


@contextlib.contextmanager
def child(*arguments: str, **options: Any) -> Iterator[Child]:
    """Start `python arguments...`; it is killed at the end of the block if still running."""
    program = Child(*arguments, **options)
    try:
        yield program
    finally:
        program.kill()


PREAMBLE = """
import asyncio, importlib, os, signal, sys, threading, time
module, _, name = sys.argv[1].partition(":")
new_event_loop = getattr(importlib.import_module(module), name)

def say(*words):
    print(*words, flush=True)

"""
"""What every child script starts with: the loop factory under test, and a way to speak."""


def script(body: str, spec: str) -> tuple[str, ...]:
    """Return the arguments that run `body` in a child, with `new_event_loop` of `spec` at hand."""
    return ("-c", PREAMBLE + textwrap.dedent(body), spec)


def run_script(body: str, spec: str) -> Outcome:
    """Run `body` in a child to its end."""
    with child(*script(body, spec)) as program:
        return program.finish()


def run_limited(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], limit: float = TIME_LIMIT
) -> Any:
    """Run `coroutine` on `loop`; one that takes longer than `limit` seconds fails."""
    return loop.run_until_complete(asyncio.wait_for(coroutine, limit))
