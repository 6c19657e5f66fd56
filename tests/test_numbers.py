"""Numbers from outside: descriptors, sizes, times, limits, addresses.

A number is refused by the system or by Python, or it is used. None decides by itself how much
memory is asked for, makes the loop wait for ever, or ends the process.
"""

from __future__ import annotations

import asyncio
import math
import resource
import socket
import sys
from typing import Any

import pytest

from .support import DatagramRecorder, Recorder, hops, module_of, skip_stock_bug

INT_MAX = 2**31 - 1
UNOPENED = INT_MAX - 15
"""The number of no descriptor; a table as long as that would have 24 GB."""


class Lies(socket.socket):
    """A socket that gives another number than its descriptor's."""

    number = UNOPENED

    def fileno(self) -> int:
        """The number that it was told to give; its own before the loop asks for it."""
        return self.number


class NumberedFile:
    """A file-like object of a number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False

    def fileno(self) -> int:
        """The number, whatever it is."""
        return self.number

    def close(self) -> None:
        """There is nothing to close."""
        self.closed = True


@pytest.fixture
def lie():
    """Makes sockets that lie; each gives a number of its own."""
    made: list[socket.socket] = []

    def make(kind: socket.SocketKind = socket.SOCK_STREAM) -> Lies:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        liar = Lies(socket.AF_UNIX, kind, fileno=ours.detach())
        liar.number = UNOPENED - len(made)
        liar.setblocking(False)
        made.extend((liar, theirs))
        return liar

    yield make
    for sock in made:
        sock.close()


@pytest.fixture(autouse=True)
def address_space():
    """Less memory than a table by number would take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


CONNECTS: dict[str, Any] = {
    "create_connection": lambda loop, lie: loop.create_connection(Recorder, sock=lie()),
    "create_unix_connection": lambda loop, lie: loop.create_unix_connection(Recorder, sock=lie()),
    "connect_accepted_socket": lambda loop, lie: loop.connect_accepted_socket(Recorder, lie()),
    "create_datagram_endpoint": lambda loop, lie: loop.create_datagram_endpoint(
        DatagramRecorder, sock=lie(socket.SOCK_DGRAM)
    ),
}


@pytest.mark.parametrize("name", CONNECTS)
async def test_a_transports_number_is_refused_by_the_selector(loop, lie, error_contexts, name):
    """As in asyncio: reading starts in a callback, and that is told of it."""
    transport, protocol = await CONNECTS[name](loop, lie)
    await hops(3)
    [context] = error_contexts
    error_contexts.clear()
    assert context["message"].startswith("Exception in callback ")
    assert type(context["exception"]) is OSError
    assert context["exception"].errno == 9
    assert "connection_made" in protocol.story
    assert not transport.is_closing()
    transport.abort()
    await protocol.called("connection_lost")


@pytest.mark.parametrize("number", [UNOPENED, INT_MAX, 1_000_000, -1, 2**31, 2**63, -(2**31) - 1])
@pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
async def test_a_pipes_number(loop, loop_spec, method, number):
    skip_stock_bug(loop_spec, True, "the refused transport warns, or its repr fails")
    expected = OSError if -(2**31) <= number <= INT_MAX else OverflowError
    with pytest.raises(expected) as raised:
        await getattr(loop, method)(Recorder, NumberedFile(number))
    if expected is OSError:
        assert raised.value.errno == 9


NUMBERS = {
    **dict.fromkeys((UNOPENED, INT_MAX, 1_000_000), OSError),
    **dict.fromkeys((2**31, 2**32, 2**63, 2**70), OverflowError),
    **dict.fromkeys((-1, -(2**31)), ValueError),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("side", ["reader", "writer"])
async def test_a_watched_number(loop, side, number, wrapped):
    descriptor = NumberedFile(number) if wrapped else number
    with pytest.raises(NUMBERS[number]):
        getattr(loop, f"add_{side}")(descriptor, print)
    if number < 0:
        with pytest.raises(ValueError, match="Invalid file descriptor"):
            getattr(loop, f"remove_{side}")(descriptor)
    else:
        assert getattr(loop, f"remove_{side}")(descriptor) is False


async def test_a_socket_of_sock_methods(loop, lie):
    """The number is only asked for when there is something to wait for."""
    for wait in (
        lambda sock: loop.sock_recv(sock, 5),
        lambda sock: loop.sock_recv_into(sock, bytearray(5)),
        lambda sock: loop.sock_sendall(sock, bytes(10_000_000)),
    ):
        with pytest.raises(OSError, match="Bad file descriptor"):
            await wait(lie())


@pytest.mark.parametrize("count", [-1, 2**31, 2**62, 2**63 - 1, 2**63, 2**64, 10**30])
async def test_sock_recv_of_any_size(loop, count):
    """More than there is memory for is a MemoryError, more than Python counts an OverflowError."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.send(b"abc")
        if count == 2**31:
            assert await loop.sock_recv(ours, count) == b"abc"
            return
        # With the object's head 2**63 - 1 bytes are more than Python counts.
        known = MemoryError if count < 2**63 - 1 else OverflowError
        expected = ValueError if count < 0 else known
        with pytest.raises(expected):
            await loop.sock_recv(ours, count)


TIMES = [math.inf, -math.inf, math.nan, 1e300, -1e300, 1e18, 10**15]


@pytest.mark.parametrize("when", TIMES)
@pytest.mark.parametrize("method", ["call_later", "call_at"])
async def test_any_time(loop, method, when):
    """What is due runs, and the loop goes on whatever else it waits for."""
    due = math.isnan(when) or when < 0
    called = asyncio.Event()
    handle = getattr(loop, method)(when, called.set)
    assert isinstance(handle.when(), (int, float))
    await asyncio.sleep(0.001)
    if due:
        await called.wait()
    assert called.is_set() is due
    handle.cancel()


async def test_a_time_too_large_for_a_float(loop, loop_spec):
    for number in (10**400, -(10**400)):
        with pytest.raises(OverflowError):
            loop.call_later(number, print)
        if module_of(loop_spec) != "asyncio":
            # asyncio's run_forever fails when it comes to it.
            with pytest.raises(OverflowError):
                loop.call_at(number, print)


LIMITS: dict[tuple[Any, Any], Any] = {
    (2**31, None): (2**29, 2**31),
    (2**62, 2**61): (2**61, 2**62),
    (0, 0): (0, 0),
    (-1, None): ValueError,
    (None, -1): ValueError,
    (1, 2): ValueError,
    (math.nan, None): ValueError,
}


@pytest.mark.parametrize("limits", LIMITS)
async def test_any_limits(network, limits):
    transport, _, _ = await network.connect()
    expected = LIMITS[limits]
    if expected is ValueError:
        with pytest.raises(ValueError, match=r"must be >= low"):
            transport.set_write_buffer_limits(*limits)
    else:
        transport.set_write_buffer_limits(*limits)
        assert transport.get_write_buffer_limits() == expected


@pytest.mark.parametrize("limits", [(2**70, None), (None, 2**70), (1e300, None), (math.inf, 1)])
async def test_limits_larger_than_memory(network, limits):
    """Such a buffer is never full, whatever is shown of it."""
    transport, protocol, _ = await network.connect()
    transport.set_write_buffer_limits(*limits)
    assert transport.get_write_buffer_limits()[1] >= 2**64 - 1
    transport.write(bytes(1 << 20))
    assert "pause_writing" not in protocol.story


@pytest.mark.parametrize("backlog", [-(2**31), -1, 0, INT_MAX])
async def test_any_backlog(loop, backlog):
    server = await loop.create_server(Recorder, "127.0.0.1", 0, backlog=backlog)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("backlog", [2**31, 2**70, -(2**31) - 1])
async def test_a_backlog_that_is_none(loop, loop_spec, backlog):
    skip_stock_bug(loop_spec, True, "the socket is left open")
    with pytest.raises(OverflowError):
        await loop.create_server(Recorder, "127.0.0.1", 0, backlog=backlog)


IPV4 = [("127.0.0.1", 2**16), ("127.0.0.1", -1), ("127.0.0.1", 2**70)]
IPV6 = [("::1", 2**16, 0, 0), ("::1", 9, 2**20, 0), ("::1", 9, -1, 0)]


@pytest.mark.parametrize("address", [*IPV4, *IPV6])
async def test_addresses_out_of_range(loop, error_contexts, address):
    """Left to the socket, whose error ends the endpoint, as in asyncio."""
    six = len(address) > 2
    local = ("::1" if six else "127.0.0.1", 0)
    transport, protocol = await loop.create_datagram_endpoint(DatagramRecorder, local_addr=local)
    transport.sendto(b"abc", address)
    await protocol.called("connection_lost")
    [context] = error_contexts
    error_contexts.clear()
    assert context["message"] == "Fatal write error on datagram transport"
    assert type(context["exception"]) is OverflowError


@pytest.mark.parametrize("size", [1, 2**31, sys.maxsize])
async def test_a_buffer_that_says_it_is_larger(network, error_contexts, size):
    """The length is that of the memory, not what `__len__` says."""

    class Boasting(bytearray):
        def __len__(self) -> int:
            return size

    class Protocol(Recorder, asyncio.BufferedProtocol):
        def get_buffer(self, sizehint: int) -> bytearray:
            return buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.data += bytes(memoryview(buffer)[:nbytes])
            self.record("buffer_updated")

    buffer = Boasting(4)
    _, protocol, peer = await network.connect(Protocol())
    peer.send(b"abcdefgh")
    await protocol.until(lambda: len(protocol.data) == 8)
    assert protocol.data == b"abcdefgh"
