"""Transports that their program has dropped: what lives on, what is closed and warned of.

A loop keeps a transport alive while something can happen to it: it reads, or has something to send
or to tell. Any other one goes with its last reference: its descriptor is closed, and a
ResourceWarning says so. This is a table of sorts of transports and of the states they are dropped
in, with the same outcome on every loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from .certificates import HOST, client_context, server_context
from .support import (
    PYTHON,
    LoopFactory,
    descriptors,
    hops,
    shut_down,
    skip_stock_bug,
    tcp_pair,
    turns,
    udp_pair,
    until,
)

KEPT = "kept"
RELEASED = "released, with a warning"
RELEASED_BOTH = "released, with a warning for each of two transports"
CLOSED = "closed before"


class Unclosed:
    """The warnings of unclosed transports; their texts only, as a record keeps the transport."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __len__(self) -> int:
        return len(self.texts)


@pytest.fixture
def unclosed() -> Iterator[Unclosed]:
    """The warnings since the test began."""
    found = Unclosed()

    def show(message: Any, *_: Any) -> None:
        if "unclosed transport" in str(message):
            found.texts.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield found


class Protocol(asyncio.Protocol):
    """Keeps no transport."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def connection_made(self, transport: Any) -> None:
        self.notes.made(transport)

    def data_received(self, data: bytes) -> None:
        self.notes.received += len(data)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.notes.received += 1

    def eof_received(self) -> bool:
        self.notes.ended = True
        return self.notes.keep_open

    def connection_lost(self, exc: BaseException | None) -> None:
        self.notes.lost = True


class Notes:
    """What a connection's protocol has heard, and whether its transport is alive."""

    def __init__(self) -> None:
        self.received = 0
        self.keep_open = False
        self.ended = False
        self.lost = False
        self.references: list[weakref.ref[Any]] = []

    def made(self, transport: Any) -> None:
        self.references.append(weakref.ref(transport))

    @property
    def transport(self) -> Any:
        return self.references[0]()


class Opened:
    """A connection of the loop under test, without a reference to it."""

    def __init__(self, loop: Any, sort: str) -> None:
        self.loop = loop
        self.sort = sort
        self.notes = Notes()
        self.stack = contextlib.ExitStack()
        self.far: Any = None
        self.server: Any = None

    def protocol(self) -> Protocol:
        return Protocol(self.notes)

    async def open(self) -> None:
        await getattr(self, self.sort)()
        # The start of reading is queued behind connection_made.
        await hops(2)

    def keep_far(self, sock: Any) -> None:
        self.far = self.stack.enter_context(contextlib.closing(sock))
        self.far.setblocking(False)

    async def client(self) -> None:
        near, far = tcp_pair()
        self.keep_far(far)
        await self.loop.create_connection(self.protocol, sock=near)

    async def unix(self) -> None:
        near, far = socket.socketpair()
        self.keep_far(far)
        await self.loop.create_unix_connection(self.protocol, sock=near)

    async def accepted(self) -> None:
        self.server = await self.loop.create_server(self.protocol, "127.0.0.1", 0)
        self.keep_far(socket.create_connection(self.server.sockets[0].getsockname()))
        await until(lambda: self.notes.references)
        self.server.close()

    async def handed_over(self) -> None:
        near, far = tcp_pair()
        self.keep_far(far)
        await self.loop.connect_accepted_socket(self.protocol, near)

    async def read_pipe(self) -> None:
        reader, writer = os.pipe()
        self.keep_far(Pipe(writer))
        await self.loop.connect_read_pipe(self.protocol, os.fdopen(reader, "rb", 0))

    async def write_pipe(self) -> None:
        reader, writer = os.pipe()
        self.keep_far(Pipe(reader))
        await self.loop.connect_write_pipe(self.protocol, os.fdopen(writer, "wb", 0))

    async def endpoint(self) -> None:
        near, far = udp_pair()
        self.keep_far(far)
        near.setblocking(False)
        await self.loop.create_datagram_endpoint(self.protocol, sock=near)

    async def tls(self, server_side: bool = False) -> None:
        near, far = tcp_pair()
        self.keep_far(far)
        far.setblocking(True)
        context = client_context() if server_side else server_context()

        def handshake() -> Any:
            name = HOST if server_side else None
            secure = context.wrap_socket(far, server_side=not server_side, server_hostname=name)
            return secure

        shaking = asyncio.ensure_future(asyncio.to_thread(handshake))
        if server_side:
            await self.loop.connect_accepted_socket(self.protocol, near, ssl=server_context())
        else:
            await self.loop.create_connection(
                self.protocol, sock=near, ssl=client_context(), server_hostname=HOST
            )
        self.keep_far(await shaking)

    async def tls_server(self) -> None:
        await self.tls(server_side=True)

    async def tls_in_tls(self) -> None:
        await self.tls()
        outer = self.notes.transport
        far = self.far
        far.setblocking(True)

        def handshake() -> None:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            inner = server_context().wrap_bio(incoming, outgoing, server_side=True)
            while True:
                try:
                    return inner.do_handshake()
                except ssl.SSLWantReadError:
                    far.sendall(outgoing.read())
                    incoming.write(far.recv(64 * 1024))
                finally:
                    if outgoing.pending:
                        far.sendall(outgoing.read())

        shaking = asyncio.ensure_future(asyncio.to_thread(handshake))
        protocol = self.protocol()
        inner = await self.loop.start_tls(outer, protocol, client_context(), server_hostname=HOST)
        self.notes.references = [weakref.ref(inner)]
        await shaking

    def close(self) -> None:
        self.stack.close()


class Pipe:
    """A pipe's end with the methods of a socket that are needed here."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number

    def setblocking(self, blocking: bool) -> None:
        os.set_blocking(self.number, blocking)

    def send(self, data: bytes) -> int:
        return os.write(self.number, data)

    def recv(self, size: int) -> bytes:
        return os.read(self.number, size)

    def close(self) -> None:
        if self.number >= 0:
            os.close(self.number)
            self.number = -1


# The states: each brings a connection into one, and leaves no reference to it.


async def reading(opened: Opened) -> None:
    pass


async def paused(opened: Opened) -> None:
    opened.notes.transport.pause_reading()


async def resumed(opened: Opened) -> None:
    transport = opened.notes.transport
    transport.pause_reading()
    transport.resume_reading()
    del transport
    await hops(2)  # TLS resumes in a later turn


async def half_closed(opened: Opened) -> None:
    """The peer has sent the end of the stream, and the protocol keeps the connection open."""
    opened.notes.keep_open = True
    opened.far.shutdown(socket.SHUT_WR)
    await until(lambda: opened.notes.ended)
    await hops()


async def ended(opened: Opened) -> None:
    """Likewise on the writing side."""
    opened.notes.transport.write_eof()


async def fill_up(opened: Opened) -> None:
    """The peer does not read, and something waits to be sent."""
    transport = opened.notes.transport
    transport.set_write_buffer_limits(high=1 << 30)
    while not transport.get_write_buffer_size():
        transport.write(bytes(1 << 20))
        await hops()


async def full(opened: Opened) -> None:
    await fill_up(opened)
    await paused(opened)


async def full_write_pipe(opened: Opened) -> None:
    await fill_up(opened)


async def closing(opened: Opened) -> None:
    """Data is queued, the program has closed the transport."""
    await fill_up(opened)
    opened.notes.transport.close()


async def closed(opened: Opened) -> None:
    opened.notes.transport.close()
    await until(lambda: opened.notes.lost)


async def aborted(opened: Opened) -> None:
    transport = opened.notes.transport
    getattr(transport, "abort", transport.close)()  # asyncio's read pipes have no abort()
    del transport
    await until(lambda: opened.notes.lost)


async def paused_below(opened: Opened) -> None:
    """So much has come in that the transport below is paused, too."""
    transport = opened.notes.transport
    transport.pause_reading()
    below = transport._ssl_protocol._transport
    transport.set_read_buffer_limits(high=0)
    opened.far.setblocking(True)
    while below.is_reading():
        opened.far.send(b"data")
        await hops(2)
    del transport, below


async def closing_tls(opened: Opened) -> None:
    """The peer does not answer the closing alert."""
    opened.notes.transport.close()


async def written_while_paused(opened: Opened) -> None:
    """All is sent: a loop that gathers writes is to forget nothing."""
    transport = opened.notes.transport
    transport.pause_reading()
    transport.write(b"the last word")
    del transport
    await hops()


STREAMS = ["client", "unix", "accepted", "handed_over"]
TLS = ["tls", "tls_server", "tls_in_tls"]
TABLE = {
    reading: (KEPT, [*STREAMS, "read_pipe", "write_pipe", "endpoint", *TLS]),
    paused: (RELEASED, [*STREAMS, "read_pipe", "endpoint"]),
    resumed: (KEPT, [*STREAMS, "read_pipe", "endpoint", *TLS]),
    half_closed: (RELEASED, STREAMS),
    ended: (KEPT, STREAMS),
    full: (KEPT, STREAMS),
    full_write_pipe: (KEPT, ["write_pipe"]),
    closing: (KEPT, [*STREAMS, "write_pipe"]),
    closed: (CLOSED, [*STREAMS, "read_pipe", "write_pipe", "endpoint"]),
    aborted: (CLOSED, [*STREAMS, "read_pipe", "write_pipe", "endpoint", *TLS]),
    written_while_paused: (RELEASED, STREAMS),
    paused_below: (RELEASED_BOTH, ["tls", "tls_server"]),
    closing_tls: (KEPT, TLS),
}
CASES = [
    pytest.param(state, sort, outcome, id=f"{state.__name__}-{sort}")
    for state, (outcome, sorts) in TABLE.items()
    for sort in sorts
]


def skip_stock(spec: str, sort: str, state: Any = None) -> None:
    skip_stock_bug(
        spec,
        sort == "endpoint" and PYTHON < (3, 11) and state in (paused, resumed),
        "an endpoint cannot be paused",
    )
    skip_stock_bug(
        spec, sort.startswith("tls") and PYTHON < (3, 11), "3.11 has another implementation of TLS"
    )


@pytest.mark.parametrize(("state", "sort", "outcome"), CASES)
async def test_dropped(loop, loop_spec, unclosed, state, sort, outcome):
    skip_stock(loop_spec, sort, state)
    gc.collect()
    before = set(descriptors())
    opened = Opened(loop, sort)
    await opened.open()
    await state(opened)
    # Where it is not kept it goes at once, or with the next collection where it is in a cycle.
    gc.collect()
    await hops(2)
    gc.collect()
    alive = opened.notes.transport is not None
    ours = set(descriptors()) - before - {opened.far.fileno()}
    assert {
        KEPT: (True, 1, 0),
        RELEASED: (False, 0, 1),
        RELEASED_BOTH: (False, 0, 2),
        CLOSED: (False, 0, 0),
    }[outcome] == (alive, len(ours), len(unclosed)), unclosed.texts
    # Its end is told only where something could happen still.
    assert opened.notes.lost == (outcome == CLOSED)
    opened.close()
    if outcome == KEPT:
        await aborted(opened)
        await hops(2)
        gc.collect()
        assert set(descriptors()) - before == set()
        assert len(unclosed) == 0


@pytest.mark.parametrize("sort", STREAMS)
async def test_what_was_written_arrives(loop, unclosed, sort):
    """A paused connection is written to and dropped in one callback."""
    opened = Opened(loop, sort)
    await opened.open()

    def write_and_drop() -> None:
        transport = opened.notes.transport
        transport.pause_reading()
        for _ in range(3):
            transport.write(b"12345")

    loop.call_soon(write_and_drop)
    await hops(2)
    gc.collect()
    received = b""
    while len(received) < 15:
        with contextlib.suppress(BlockingIOError):
            received += opened.far.recv(100)
    assert received == b"12345" * 3
    assert opened.far.recv(100) == b""
    assert len(unclosed) == 1
    opened.close()


@pytest.mark.parametrize("sort", ["client", "unix", "read_pipe", "endpoint"])
async def test_never_started(loop, loop_spec, unclosed, sort):
    """Given up before connection_made: closed, and nobody is warned."""
    before = set(descriptors())
    opened = Opened(loop, sort)
    task = asyncio.ensure_future(opened.open())
    await hops()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await hops(3)
    del task
    gc.collect()
    opened.close()
    assert set(descriptors()) - before == set()
    assert len(unclosed) == 0


@pytest.mark.parametrize("holder", ["nobody", "loop", "server", "task", "transport"])
@pytest.mark.parametrize(
    ("state", "sort"),
    [
        (state, sort)
        for state in (reading, paused, half_closed, closing)
        for sort in (*STREAMS, "endpoint", "read_pipe")
        if sort in TABLE[state][1]
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_loop_is_closed(loop_factory: LoopFactory, loop_spec, unclosed, state, sort, holder):
    """What is open then is closed, whoever holds what; only who holds the transport keeps it."""
    skip_stock(loop_spec, sort, state)
    gc.collect()
    before = set(descriptors())
    loop: Any = loop_factory()

    async def main() -> tuple[Opened, Any]:
        opened = Opened(loop, sort)
        await opened.open()
        held = opened.notes.transport if holder == "transport" else None
        await state(opened)
        return opened, held

    task = loop.create_task(main())
    opened, held = loop.run_until_complete(task)
    turns(loop, 3)
    gc.collect()
    loop.close()
    if holder != "loop":
        opened.loop = loop = None
    if holder != "server":
        opened.server = None
    if holder != "task" and holder != "transport":
        task = None
    gc.collect()
    ours = set(descriptors()) - before - {opened.far.fileno()}
    if holder == "transport":
        assert (len(ours), len(unclosed)) == (1, 0)
        held = task = None
        gc.collect()
        ours = set(descriptors()) - before - {opened.far.fileno()}
    assert held is None
    assert (len(ours), len(unclosed)) == (0, 1)
    assert not opened.notes.lost
    opened.close()


async def test_a_child(loop, unclosed):
    """The transport of a child lives until the child has exited and its pipes are closed."""
    before = set(descriptors())
    transport, _ = await loop.subprocess_exec(
        asyncio.SubprocessProtocol, sys.executable, "-c", "input()", stdout=subprocess.DEVNULL
    )
    reference = weakref.ref(transport)
    stdin = weakref.ref(transport.get_pipe_transport(0))
    del transport
    gc.collect()
    await hops(2)
    gc.collect()
    assert reference() is not None
    stdin().write(b"\n")
    del stdin

    def is_gone() -> bool:
        gc.collect()
        return reference() is None

    await until(is_gone)
    await until(lambda: not set(descriptors()) - before)
    assert len(unclosed) == 1  # nobody has closed it


async def test_a_handler_that_returns_without_closing(loop, unclosed):
    """A stream server whose handler reads to the end: nothing of its clients is left."""
    ended = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        await reader.read()
        ended += 1

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    before = set(descriptors())
    for _ in range(5):
        socket.create_connection(address).close()
    await until(lambda: ended == 5)
    await hops(3)
    gc.collect()
    await hops(3)
    gc.collect()
    assert set(descriptors()) - before == set()
    server.close()


@pytest.mark.parametrize("sort", STREAMS)
def test_one_socket_for_all_threads(loop_factory: LoopFactory, sort):
    """`get_extra_info("socket")` makes it once, whoever asks at the same moment."""
    loop: Any = loop_factory()
    count = 4
    for _ in range(20):
        opened = Opened(loop, sort)
        loop.run_until_complete(opened.open())
        transport = opened.notes.transport
        barrier = threading.Barrier(count)
        found = []

        def ask(transport: Any = transport, barrier: Any = barrier, found: Any = found) -> None:
            barrier.wait()
            found.append(transport.get_extra_info("socket"))

        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == count
        assert all(sock is found[0] for sock in found)
        found.clear()
        gc.collect()
        assert transport.get_extra_info("socket").fileno() > 0
        transport.write(b"still open")
        turns(loop)
        assert opened.far.recv(100) == b"still open"
        transport.abort()
        turns(loop, 3)
        del transport
        opened.close()
    shut_down(loop)
