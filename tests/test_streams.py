"""asyncio's streams over the loop: start_server, open_connection, StreamReader, StreamWriter."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random

import pytest

from .support import PYTHON, abort, fill, hops, listen, tcp_pair, until

SLOW = 4096
"""Bytes of the peer's receive buffer: small, so that writers soon have to wait."""


@contextlib.asynccontextmanager
async def connected(network, **options):
    """Reader, writer and peer of a stream connection."""
    with listen(receive_buffer=SLOW) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname(), **options)
        peer = network.peer(listener.accept()[0])
    try:
        yield reader, writer, peer
    finally:
        abort(writer.transport)
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(handler, **options):
    """Address of a stream server."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await server.wait_closed()


async def echo_lines(reader, writer):
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


class TestServer:
    async def test_echo(self, loop):
        async with serving(echo_lines) as address:
            reader, writer = await asyncio.open_connection(*address)
            for line in (b"one\n", b"two\n"):
                writer.write(line)
                await writer.drain()
                assert await reader.readline() == line
            writer.write_eof()
            assert await reader.read() == b""
            assert reader.at_eof()
            writer.close()
            await writer.wait_closed()

    async def test_many_clients(self, loop):
        async def visit(number):
            reader, writer = await asyncio.open_connection(*address)
            lines = [b"%d-%d\n" % (number, line) for line in range(20)]
            writer.writelines(lines)
            writer.write_eof()
            assert (await reader.read()).splitlines(keepends=True) == lines
            writer.close()
            await writer.wait_closed()

        async with serving(echo_lines) as address:
            await asyncio.gather(*(visit(number) for number in range(50)))

    async def test_plain_callback(self, loop):
        def connected(reader, writer):
            writer.write(b"hello")
            writer.close()

        async with serving(connected) as address:
            reader, writer = await asyncio.open_connection(*address)
            assert await reader.read() == b"hello"
            writer.close()
            await writer.wait_closed()

    async def test_a_handler_that_raises(self, loop, error_contexts):
        async def fail(reader, writer):
            try:
                raise LookupError("in the handler")
            finally:
                writer.close()

        async with serving(fail) as address:
            reader, writer = await asyncio.open_connection(*address)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        await until(lambda: error_contexts)
        assert isinstance(error_contexts.pop()["exception"], LookupError)

    async def test_a_large_exchange(self, loop):
        data = random.Random(6).randbytes(5_000_000)

        async def digest(reader, writer):
            writer.write(hashlib.sha256(await reader.read()).digest())
            writer.write_eof()
            writer.close()
            await writer.wait_closed()

        async with serving(digest, limit=4096) as address:
            reader, writer = await asyncio.open_connection(*address)
            for start in range(0, len(data), 100_000):
                writer.write(data[start : start + 100_000])
                await writer.drain()
            writer.write_eof()
            assert await reader.read() == hashlib.sha256(data).digest()
            writer.close()
            await writer.wait_closed()


class TestReading:
    async def test_readline_from_a_slow_peer(self, loop, network):
        async with connected(network) as (reader, _, peer):
            reading = loop.create_task(reader.readline())
            for piece in (b"a ", b"line ", b"in ", b"pieces"):
                peer.send(piece)
                await hops(3)
                assert not reading.done()
            peer.send(b"\nnext")
            assert await reading == b"a line in pieces\n"
            peer.close()
            assert await reader.readline() == b"next"
            assert await reader.readline() == b""

    async def test_readuntil_across_pieces(self, loop, network):
        async with connected(network) as (reader, _, peer):
            reading = loop.create_task(reader.readuntil(b"\r\n\r\n"))
            for piece in (b"head\r", b"\n", b"\r", b"\nbody"):
                assert not reading.done()
                peer.send(piece)
                await hops(3)
            assert await reading == b"head\r\n\r\n"
            assert await reader.readexactly(4) == b"body"

    @pytest.mark.skipif(PYTHON < (3, 13), reason="several separators are new in 3.13")
    async def test_readuntil_one_of_several(self, network):
        async with connected(network) as (reader, _, peer):
            peer.send(b"one;two\nrest")
            assert await reader.readuntil((b"\n", b";")) == b"one;"
            assert await reader.readuntil((b"\n", b";")) == b"two\n"

    async def test_readexactly(self, network):
        async with connected(network) as (reader, _, peer):
            peer.send(b"12345678")
            assert await reader.readexactly(3) == b"123"
            assert await reader.readexactly(0) == b""
            peer.shutdown()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await reader.readexactly(10)
            assert caught.value.partial == b"45678"
            assert caught.value.expected == 10

    async def test_readuntil_at_the_end(self, network):
        async with connected(network) as (reader, _, peer):
            peer.send(b"no separator")
            peer.shutdown()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await reader.readuntil(b"\n")
            assert caught.value.partial == b"no separator"

    async def test_read_some(self, network):
        async with connected(network) as (reader, _, peer):
            peer.send(b"some")
            assert await reader.read(100) == b"some"
            peer.send(b"more")
            assert await reader.read(2) == b"mo"
            assert await reader.read(2) == b"re"

    async def test_line_over_the_limit(self, network):
        async with connected(network, limit=10) as (reader, _, peer):
            peer.send(b"x" * 30 + b"\nshort\n")
            with pytest.raises(ValueError, match="limit"):
                await reader.readline()
            assert await reader.readline() == b"short\n"

    async def test_readuntil_over_the_limit(self, network):
        async with connected(network, limit=10) as (reader, _, peer):
            peer.send(b"x" * 12 + b"\n")
            with pytest.raises(asyncio.LimitOverrunError) as caught:
                await reader.readuntil(b"\n")
            assert caught.value.consumed == 12
            assert await reader.readexactly(13) == b"x" * 12 + b"\n"

    async def test_a_full_reader_stops_the_transport(self, network):
        """More than twice the limit pauses reading; taking it out resumes."""
        async with connected(network, limit=1000) as (reader, writer, peer):
            sending = asyncio.ensure_future(peer.send_all(bytes(500_000)))
            await until(lambda: not writer.transport.is_reading())
            assert not sending.done() or sending.result() is None
            total = 0
            while total < 500_000:
                total += len(await reader.read(700))
            await sending
            assert total == 500_000
            assert writer.transport.is_reading()

    async def test_a_cancelled_read_loses_nothing(self, loop, network):
        async with connected(network) as (reader, _, peer):
            for call in (reader.readline, reader.readuntil, lambda: reader.readexactly(100)):
                reading = loop.create_task(call())
                await hops(2)
                peer.send(b"x")
                await hops(2)
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading
            peer.send(b"\n")
            peer.shutdown()
            assert await reader.readline() == b"xxx\n"

    async def test_a_read_that_timed_out_loses_nothing(self, network):
        async with connected(network) as (reader, _, peer):
            peer.send(b"half ")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.readline(), 0.01)
            peer.send(b"line\n")
            assert await reader.readline() == b"half line\n"

    async def test_two_readers_at_once(self, loop, network):
        async with connected(network) as (reader, _, peer):
            first = loop.create_task(reader.readline())
            await hops()
            with pytest.raises(RuntimeError, match="another coroutine is already waiting"):
                await reader.readline()
            peer.send(b"line\n")
            assert await first == b"line\n"

    async def test_reset(self, network):
        async with connected(network) as (reader, _, peer):
            peer.reset()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            with pytest.raises(ConnectionResetError):
                await reader.readline()


class TestWriting:
    async def test_drain_waits_for_the_peer(self, loop, network):
        async with connected(network) as (_, writer, peer):
            held = await fill(writer.transport)
            writer.transport.set_write_buffer_limits(high=held // 2)
            draining = loop.create_task(writer.drain())
            await hops(5)
            assert not draining.done()
            writer.write(b"the end")
            reading = loop.create_task(peer.read(held))
            await draining
            await reading
            assert writer.transport.get_write_buffer_size() <= held // 2

    async def test_drain_does_not_wait_for_little(self, network):
        async with connected(network) as (_, writer, peer):
            writer.write(b"little")
            await writer.drain()
            assert await peer.read(6) == b"little"

    @pytest.mark.skipif(PYTHON < (3, 11), reason="an assertion failed before 3.11 (gh-74116)")
    async def test_several_drains_at_once(self, loop, network):
        async with connected(network) as (_, writer, peer):
            held = await fill(writer.transport)
            writer.transport.set_write_buffer_limits(high=0)
            draining = [loop.create_task(writer.drain()) for _ in range(5)]
            await hops(5)
            assert not any(task.done() for task in draining)
            reading = loop.create_task(peer.read(held))
            await asyncio.gather(*draining)
            await reading

    async def test_drain_on_a_lost_connection(self, loop, network):
        async with connected(network) as (_, writer, peer):
            await fill(writer.transport)
            writer.transport.set_write_buffer_limits(high=0)
            draining = loop.create_task(writer.drain())
            await hops()
            peer.reset()
            with pytest.raises(ConnectionError):
                await draining
            with pytest.raises(ConnectionError):
                await writer.drain()

    async def test_a_producer_faster_than_its_consumer(self, network):
        """With drain() the buffer stays small however much is sent."""
        async with connected(network) as (_, writer, peer):
            reading = asyncio.ensure_future(peer.read(3_000_000))
            largest = 0
            for _ in range(300):
                writer.write(bytes(10_000))
                largest = max(largest, writer.transport.get_write_buffer_size())
                await writer.drain()
            assert await reading == bytes(3_000_000)
            assert largest <= 64 * 1024 + 10_000

    async def test_close_delivers(self, network):
        async with connected(network) as (_, writer, peer):
            held = await fill(writer.transport)
            writer.write(b"the end")
            writer.close()
            assert writer.is_closing()
            data = await peer.read_all()
            assert data.endswith(b"the end")
            assert len(data) > held
            await writer.wait_closed()

    async def test_write_eof(self, network):
        async with connected(network) as (reader, writer, peer):
            assert writer.can_write_eof()
            writer.write(b"last")
            writer.write_eof()
            assert await peer.read_all() == b"last"
            peer.send(b"answer")
            peer.shutdown()
            assert await reader.read() == b"answer"

    async def test_extra_info(self, network):
        async with connected(network) as (_, writer, peer):
            assert writer.get_extra_info("peername") == peer.sock.getsockname()
            assert writer.get_extra_info("unknown", 1) == 1


async def test_existing_socket(network):
    ours, theirs = tcp_pair()
    peer = network.peer(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    peer.send(b"line\n")
    assert await reader.readline() == b"line\n"
    writer.close()
    await writer.wait_closed()


async def test_refused(loop):
    with listen() as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_proxy(loop):
    """Streams chained: client, proxy, server, with both directions copied at once."""
    proxies = []

    async def copy(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def proxy(reader, writer):
        proxies.append(asyncio.current_task())
        far_reader, far_writer = await asyncio.open_connection(*address)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        for each in (writer, far_writer):
            each.close()
            await each.wait_closed()

    data = random.Random(7).randbytes(200_000).replace(b"\n", b" ") + b"\n"
    async with serving(echo_lines, limit=1 << 20) as address:
        async with serving(proxy) as front:
            reader, writer = await asyncio.open_connection(*front)
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
            writer.close()
            await writer.wait_closed()
            await asyncio.wait(proxies)  # 3.12.1 reports one that the loop's shutdown cancels
