"""sendfile and sock_sendfile: natively and by reading and writing, positions, refusals, ends."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import tempfile
from io import FileIO

import pytest

from .support import PYTHON, Recorder, descriptors, hops, skip_stock_bug, tcp_pair

SIZE = 1_500_000
DATA = os.urandom(SIZE)
# From 3.14 on the position is set in any case.
ALWAYS_SEEKS = PYTHON >= (3, 14)


class Unmapped(io.RawIOBase):
    """A file object without a descriptor: only the fallback can send it."""

    def __init__(self, data=DATA):
        self.inner = io.BytesIO(data)

    def readinto(self, buffer):
        return self.inner.readinto(buffer)

    def seek(self, *position):
        return self.inner.seek(*position)

    def tell(self):
        return self.inner.tell()


@pytest.fixture
def file():
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(DATA)
        file.seek(0)
        yield file


@pytest.fixture(params=["native", "fallback"])
def source(request, file):
    """The data in a file that os.sendfile takes, and in one it does not."""
    return file if request.param == "native" else Unmapped()


@pytest.fixture
def socks(loop):
    """Two connected sockets, the first one non-blocking with a small buffer."""
    near, far = tcp_pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    near.setblocking(False)
    far.settimeout(20)
    yield near, far
    near.close()
    far.close()


def receive(sock, size):
    """Receives `size` bytes, or up to the end; blocks."""
    data = bytearray()
    while len(data) < size and (piece := sock.recv(65536)):
        data += piece
    return bytes(data)


def skip_aliased(loop_spec, source, versions):
    """The fallback of stock asyncio hands out a buffer and reads into it again, sent or not."""
    aliased = versions and isinstance(source, Unmapped)
    skip_stock_bug(loop_spec, aliased, "the fallback writes a buffer that it reads into again")


async def receiving(sock, size):
    return await asyncio.get_running_loop().run_in_executor(None, receive, sock, size)


@pytest.fixture
def opened(loop, socks):
    """Coroutine function that returns transport, protocol and the peer's socket."""

    async def opened():
        transport, protocol = await loop.create_connection(Recorder, sock=socks[0])
        return transport, protocol, socks[1]

    return opened


@pytest.mark.parametrize(
    ("offset", "count", "wanted"),
    [
        (0, None, DATA),
        (1000, None, DATA[1000:]),
        (0, 500_000, DATA[:500_000]),
        (1000, 500_000, DATA[1000:501_000]),
        (1000, 2 * SIZE, DATA[1000:]),
        (SIZE, None, b""),
    ],
)
class TestSending:
    async def test_by_a_socket(self, loop, socks, source, offset, count, wanted):
        near, far = socks
        task = loop.create_task(receiving(far, len(wanted)))
        sent = await loop.sock_sendfile(near, source, offset, count)
        assert sent == len(wanted)
        assert await task == wanted
        if wanted or ALWAYS_SEEKS:
            assert source.tell() == offset + sent

    async def test_by_a_transport(self, loop, opened, source, offset, count, wanted, loop_spec):
        skip_aliased(loop_spec, source, PYTHON >= (3, 12) and wanted)
        transport, protocol, far = await opened()
        task = loop.create_task(receiving(far, len(wanted) + 11))
        transport.write(b"before")
        sent = await loop.sendfile(transport, source, offset, count)
        transport.write(b"after")
        assert sent == len(wanted)
        assert await task == b"before" + wanted + b"after"
        if wanted or ALWAYS_SEEKS:
            assert source.tell() == offset + sent
        assert transport.get_protocol() is protocol
        assert transport.is_reading()
        far.sendall(b"answer")
        assert await protocol.received(6) == b"answer"
        transport.close()
        await protocol.lost()


class TestTransport:
    async def test_what_waits_is_sent_first(self, loop, opened, source, loop_spec):
        skip_aliased(loop_spec, source, (3, 12) <= PYTHON < (3, 14))
        transport, protocol, far = await opened()
        transport.write(b"x" * 3_000_000)
        assert transport.get_write_buffer_size()
        task = loop.create_task(receiving(far, 3_000_000 + SIZE))
        assert await loop.sendfile(transport, source) == SIZE
        assert await task == b"x" * 3_000_000 + DATA
        transport.close()
        await protocol.lost()
        # Before 3.14 the fallback ends with resume_writing, though its last piece may wait still.
        if ALWAYS_SEEKS or not isinstance(source, Unmapped):
            assert protocol.calls.count("pause_writing") == protocol.calls.count("resume_writing")

    async def test_writing_meanwhile(self, loop, opened, file):
        transport, protocol, far = await opened()
        task = loop.create_task(loop.sendfile(transport, file))
        await hops(2)
        for refused in (b"data", b""):
            with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
                transport.write(refused)
        with pytest.raises(RuntimeError, match="sendfile is in progress"):
            transport.writelines([b"data"])
        assert await receiving(far, SIZE) == DATA
        assert await task == SIZE
        transport.write(b"again")
        assert await receiving(far, 5) == b"again"
        transport.close()
        await protocol.lost()

    async def test_twice_at_once(self, loop, opened, file, loop_spec):
        if loop_spec.startswith("asyncio"):
            pytest.skip("asyncio forgets the descriptor: KeyError")
        transport, protocol, far = await opened()
        task = loop.create_task(loop.sendfile(transport, file))
        await hops(2)
        with pytest.raises(RuntimeError, match="Empty waiter is already set"):
            await loop.sendfile(transport, file)
        assert await receiving(far, SIZE) == DATA
        assert await task == SIZE
        assert transport.is_reading()
        transport.close()
        await protocol.lost()

    async def test_paused_reading_stays_paused(self, loop, opened, source):
        transport, protocol, far = await opened()
        transport.pause_reading()
        task = loop.create_task(receiving(far, SIZE))
        await loop.sendfile(transport, source)
        assert await task == DATA
        assert not transport.is_reading()
        transport.close()
        await protocol.lost()

    async def test_nothing_is_read_meanwhile(self, loop, opened, source):
        transport, protocol, far = await opened()
        task = loop.create_task(loop.sendfile(transport, source))
        await hops(2)
        far.sendall(b"early")
        await hops(5)
        assert not protocol.data
        assert await receiving(far, SIZE) == DATA
        await task
        assert await protocol.received(5) == b"early"
        transport.close()
        await protocol.lost()

    async def test_no_fallback(self, loop, opened):
        transport, protocol, _ = await opened()
        with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
            await loop.sendfile(transport, Unmapped(), fallback=False)
        assert transport.is_reading()
        transport.write(b"goes on")
        transport.close()
        await protocol.lost()

    async def test_closing(self, loop, opened, file):
        transport, protocol, _ = await opened()
        transport.close()
        with pytest.raises(RuntimeError, match="Transport is closing"):
            await loop.sendfile(transport, file)
        await protocol.lost()

    async def test_pipes_are_refused(self, loop, file):
        reader, writer = os.pipe()
        with open(reader, "rb"):
            transport, protocol = await loop.connect_write_pipe(Recorder, FileIO(writer, "wb"))
            with pytest.raises(RuntimeError, match="sendfile is not supported for transport"):
                await loop.sendfile(transport, file)
            transport.close()
            await protocol.lost()

    async def test_transports_of_other_loops(self, loop, opened, file, loop_factory, loop_spec):
        if loop_spec.startswith("asyncio"):
            pytest.skip("asyncio raises KeyError here")
        transport, protocol, _ = await opened()
        other = loop_factory()
        try:
            with pytest.raises(RuntimeError, match="sendfile is not supported"):
                other_run(other, other.sendfile(transport, file))
        finally:
            other.close()
        assert transport.is_reading()
        transport.close()
        await protocol.lost()

    async def test_the_peer_goes_in_the_middle(self, loop, opened, source):
        transport, protocol, far = await opened()
        task = loop.create_task(loop.sendfile(transport, source))
        await receiving(far, 100_000)
        far.close()
        with pytest.raises(ConnectionError):
            await task
        assert source.tell() < SIZE
        transport.abort()
        await protocol.lost()
        assert protocol.calls.count("connection_lost") == 1

    async def test_aborted_in_the_middle(self, loop, opened, source, loop_spec):
        if loop_spec.startswith("asyncio"):
            pytest.skip("asyncio waits for ever")
        transport, protocol, _ = await opened()
        before = set(descriptors())
        task = loop.create_task(loop.sendfile(transport, source))
        await hops(5)
        transport.abort()
        with pytest.raises(ConnectionError, match="losed by peer"):
            await task
        await protocol.lost()
        assert set(descriptors()) <= before

    async def test_cancelled(self, loop, opened, source):
        transport, protocol, far = await opened()
        before = set(descriptors())
        task = loop.create_task(loop.sendfile(transport, source))
        await receiving(far, 100_000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hops(2)
        assert set(descriptors()) <= before
        assert transport.get_protocol() is protocol
        assert transport.is_reading()
        transport.abort()
        await protocol.lost()

    async def test_cancelled_while_earlier_writes_wait(self, loop, opened, file, loop_spec):
        if loop_spec.startswith("asyncio"):
            pytest.skip("asyncio's transport stays unable to write")
        transport, protocol, far = await opened()
        transport.write(b"x" * 3_000_000)
        task = loop.create_task(loop.sendfile(transport, file))
        await hops(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        transport.write(b"end")
        assert (await receiving(far, 3_000_003))[-4:] == b"xend"
        assert transport.is_reading()
        transport.close()
        await protocol.lost()

    async def test_fallback_while_paused(self, loop, opened, loop_spec):
        aliased = (3, 12) <= PYTHON < (3, 14)
        skip_stock_bug(loop_spec, aliased, "the fallback writes a buffer that it reads into again")
        transport, protocol, far = await opened()
        transport.set_write_buffer_limits(high=1000)
        transport.write(b"x" * 3_000_000)
        assert protocol.calls[-1] == "pause_writing"
        task = loop.create_task(loop.sendfile(transport, Unmapped()))
        assert await receiving(far, 3_000_000 + SIZE) == b"x" * 3_000_000 + DATA
        assert await task == SIZE
        await protocol.called("resume_writing")
        transport.close()
        await protocol.lost()
        assert protocol.calls.count("resume_writing") == 1


def other_run(loop, coroutine):
    """Runs a coroutine up to its first wait on a loop that is not running."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


class TestSocket:
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"count": "10"}, TypeError("count must be a positive integer (got '10')")),
            ({"count": 0}, ValueError("count must be a positive integer (got 0)")),
            ({"count": -1}, ValueError("count must be a positive integer (got -1)")),
            ({"count": 1.0}, TypeError("count must be a positive integer (got 1.0)")),
            ({"offset": "1"}, TypeError("offset must be a non-negative integer (got '1')")),
            ({"offset": -1}, ValueError("offset must be a non-negative integer (got -1)")),
            (
                {"offset": -1, "count": -2},
                ValueError("count must be a positive integer (got -2)"),
            ),
        ],
    )
    async def test_wrong_numbers(self, loop, socks, file, opened, arguments, error):
        with pytest.raises(type(error)) as caught:
            await loop.sock_sendfile(socks[0], file, **arguments)
        assert str(caught.value) == str(error)
        transport, protocol, _ = await opened()
        with pytest.raises(type(error)) as caught:
            await loop.sendfile(transport, file, **arguments)
        assert str(caught.value) == str(error)
        transport.close()
        await protocol.lost()

    async def test_wrong_files_and_sockets(self, loop, socks):
        with tempfile.TemporaryFile("w+") as text:
            with pytest.raises(ValueError, match="file should be opened in binary mode"):
                await loop.sock_sendfile(socks[0], text)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
            tempfile.TemporaryFile() as binary,
        ):
            sock.setblocking(False)
            with pytest.raises(ValueError, match="only SOCK_STREAM type sockets"):
                await loop.sock_sendfile(sock, binary)

    async def test_no_fallback(self, loop, socks):
        with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
            await loop.sock_sendfile(socks[0], Unmapped(), fallback=False)

    async def test_an_empty_file(self, loop, socks):
        with tempfile.TemporaryFile() as empty:
            assert await loop.sock_sendfile(socks[0], empty) == 0
        assert await loop.sock_sendfile(socks[0], Unmapped(b"")) == 0

    async def test_a_pipe_is_no_regular_file(self, loop, socks):
        near, _ = socks
        reader, writer = os.pipe()
        with FileIO(writer, "wb") as sink, FileIO(reader, "rb") as pipe:
            sink.write(b"in a pipe")
            sink.close()
            # A pipe's size is 0: asyncio takes it for an empty file.
            assert await loop.sock_sendfile(near, pipe) == 0

    async def test_blocking_in_debug_mode(self, loop, socks, file):
        loop.set_debug(True)
        socks[0].setblocking(True)
        with pytest.raises(ValueError, match="the socket must be non-blocking"):
            await loop.sock_sendfile(socks[0], file)

    async def test_cancelled(self, loop, socks, file):
        near, far = socks
        task = loop.create_task(loop.sock_sendfile(near, file))
        await receiving(far, 100_000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hops(2)
        assert not loop.remove_writer(near)

    async def test_the_peer_goes_in_the_middle(self, loop, socks, file):
        near, far = socks
        task = loop.create_task(loop.sock_sendfile(near, file))
        await receiving(far, 100_000)
        far.close()
        with pytest.raises(ConnectionError):
            await task
        assert 0 < file.tell() < SIZE
