"""Flow control of TLS connections, in both directions."""

from __future__ import annotations

import asyncio

import pytest

from .certificates import client_context, server_context
from .support import BufferedRecorder, Recorder, hops, skip_stock_bug, until
from .test_tls_handshake import TLS12, VERSIONS

KIB = 1024


class TestLimits:
    async def test_defaults(self, tls_opened):
        transport, _, _ = await tls_opened()
        assert transport.get_write_buffer_limits() == (128 * KIB, 512 * KIB)
        assert transport.get_read_buffer_limits() == (64 * KIB, 256 * KIB)
        assert transport.get_write_buffer_size() == 0
        assert transport.get_read_buffer_size() == 0

    @pytest.mark.parametrize("kind", ["write", "read"])
    @pytest.mark.parametrize(
        ("options", "limits"),
        [
            ({"high": 100_000}, (25_000, 100_000)),
            ({"low": 100_000}, (100_000, 400_000)),
            ({"high": 100_000, "low": 50_000}, (50_000, 100_000)),
            ({"high": 100_000, "low": 0}, (0, 100_000)),
            ({"high": 100_000, "low": 100_000}, (100_000, 100_000)),
        ],
    )
    async def test_set(self, tls, kind, options, limits):
        transport, protocol, _ = await tls.connect()
        getattr(transport, f"set_{kind}_buffer_limits")(**options)
        assert getattr(transport, f"get_{kind}_buffer_limits")() == limits
        getattr(transport, f"set_{kind}_buffer_limits")()
        default = {"write": (128 * KIB, 512 * KIB), "read": (64 * KIB, 256 * KIB)}[kind]
        assert getattr(transport, f"get_{kind}_buffer_limits")() == default
        assert protocol.calls == ["connection_made"]

    @pytest.mark.parametrize("kind", ["write", "read"])
    @pytest.mark.parametrize(
        ("options", "high", "low"),
        [
            ({"high": 5, "low": 10}, 5, 10),
            ({"high": -1}, -1, -1),
            ({"low": -1}, -4, -1),
            ({"high": 5, "low": -5}, 5, -5),
        ],
    )
    async def test_refused(self, tls, kind, options, high, low):
        transport, _, _ = await tls.connect()
        before = getattr(transport, f"get_{kind}_buffer_limits")()
        with pytest.raises(ValueError) as caught:
            getattr(transport, f"set_{kind}_buffer_limits")(**options)
        assert str(caught.value) == f"high ({high!r}) must be >= low ({low!r}) must be >= 0"
        assert getattr(transport, f"get_{kind}_buffer_limits")() == before


class TestWriting:
    async def test_paused_and_resumed(self, tls_opened):
        """A peer that does not read, and then does."""
        transport, protocol, peer = await tls_opened()
        written = 0
        while "pause_writing" not in protocol.calls:
            transport.write(bytes(100_000))
            written += 100_000
            assert written < 100_000_000
        assert transport.get_write_buffer_size() >= 512 * KIB
        assert "resume_writing" not in protocol.calls
        data = await peer.read(written)
        assert data == bytes(written)
        await protocol.called("resume_writing")
        await until(lambda: transport.get_write_buffer_size() == 0)
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]

    async def test_each_pause_has_its_resume(self, tls):
        transport, protocol, peer = await tls.connect()
        total = 0
        for _ in range(3):
            before = protocol.calls.count("pause_writing")
            while protocol.calls.count("pause_writing") == before:
                transport.write(bytes(100_000))
                total += 100_000
            sizes = asyncio.ensure_future(peer.read(total))
            await protocol.called("resume_writing", before + 1)
            await sizes
            total = 0
            await until(lambda: transport.get_write_buffer_size() == 0)
        assert protocol.calls[1:] == ["pause_writing", "resume_writing"] * 3

    async def test_lower_limits_pause_at_once(self, tls):
        transport, protocol, peer = await tls.connect(receive_buffer=4096)
        written = 0
        while transport.get_write_buffer_size() < 100_000:
            transport.write(bytes(100_000))
            written += 100_000
        assert "pause_writing" not in protocol.calls
        transport.set_write_buffer_limits(high=50_000)
        assert protocol.calls[-1] == "pause_writing"
        # Well above what there is: it resumes, too.
        transport.set_write_buffer_limits(high=8_000_000)
        assert protocol.calls[-1] == "resume_writing"
        assert await peer.read(written) == bytes(written)

    async def test_streams_that_drain(self, tls):
        transport, protocol, peer = await tls.connect(receive_buffer=4096)
        reader = asyncio.StreamReader()
        stream_protocol = asyncio.StreamReaderProtocol(reader)
        stream_protocol.connection_made(transport)
        transport.set_protocol(stream_protocol)
        writer = asyncio.StreamWriter(
            transport, stream_protocol, reader, asyncio.get_running_loop()
        )
        reading = asyncio.ensure_future(peer.read(5_000_000))
        for _ in range(50):
            writer.write(bytes(100_000))
            await writer.drain()
        assert await reading == bytes(5_000_000)
        assert protocol.calls == ["connection_made"]
        transport.abort()
        await hops(3)

    async def test_writes_while_paused_are_kept(self, tls):
        """Pausing is advice."""
        transport, protocol, peer = await tls.connect(receive_buffer=4096)
        pieces = [bytes([number]) * 100_000 for number in range(40)]
        for piece in pieces:
            transport.write(piece)
        assert protocol.calls.count("pause_writing") == 1
        assert await peer.read(4_000_000) == b"".join(pieces)


class TestReading:
    async def test_paused(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        transport.pause_reading()
        assert transport.is_reading() is False
        peer.send(b"data")
        await hops(10)
        assert protocol.data == b""
        transport.resume_reading()
        assert transport.is_reading() is True
        assert await protocol.received(4) == b"data"

    async def test_twice(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        transport.pause_reading()
        transport.pause_reading()
        transport.resume_reading()
        transport.resume_reading()
        peer.send(b"data")
        assert await protocol.received(4) == b"data"

    async def test_not_inside_the_call(self, tls_opened):
        """resume_reading delivers later, not before it returns."""
        transport, protocol, peer = await tls_opened()
        transport.pause_reading()
        peer.send(b"data")
        await hops(10)
        transport.resume_reading()
        assert protocol.data == b""
        await protocol.received(4)

    async def test_paused_again_at_once(self, tls_opened):
        transport, protocol, peer = await tls_opened()
        transport.pause_reading()
        peer.send(b"data")
        await hops(10)
        transport.resume_reading()
        transport.pause_reading()
        await hops(10)
        assert protocol.data == b""
        transport.resume_reading()
        await protocol.received(4)

    async def test_the_peer_is_held_up(self, loop, tls_opened):
        """A paused transport takes in a bounded amount: the peer's writes block."""
        transport, protocol, peer = await tls_opened()
        transport.pause_reading()
        size = 20_000_000
        sending = loop.run_in_executor(None, peer.send, bytes(size))
        await until(lambda: transport.get_read_buffer_size() >= 256 * KIB)
        await asyncio.sleep(0.05)
        # One read beyond the limit at most.
        assert transport.get_read_buffer_size() < 1_000_000
        assert not sending.done()
        assert protocol.data == b""
        transport.resume_reading()
        await protocol.until(lambda: len(protocol.data) >= size)
        await sending
        assert protocol.data == bytes(size)

    async def test_pausing_in_data_received(self, tls_opened):
        class Pausing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self.transport.resume_reading)

        _, protocol, peer = await tls_opened(Pausing())
        data = bytes(range(256)) * 8000
        await peer.send_all(data)
        assert await protocol.received(len(data)) == data

    @VERSIONS
    @pytest.mark.parametrize("role", ["connect", "accept"])
    async def test_pausing_in_connection_made(self, loop_spec, tls, role, version):
        """The last flight of the handshake is sent all the same."""
        broken = role == "connect" or version is TLS12
        skip_stock_bug(loop_spec, broken, "the end of the handshake is not sent while paused")

        class Pausing(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.pause_reading()

        contexts = [client_context(version=version), server_context(version=version)]
        opened = tls.connect if role == "connect" else tls.accept
        ours, theirs = contexts if role == "connect" else contexts[::-1]
        transport, protocol, peer = await opened(Pausing(), ours, theirs)
        peer.send(b"data")
        await hops(10)
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.received(4) == b"data"

    async def test_writing_goes_on(self, tls_opened):
        transport, _, peer = await tls_opened()
        transport.pause_reading()
        data = bytes(1_000_000)
        transport.write(data)
        assert await peer.read(len(data)) == data

    async def test_limits_of_the_read_buffer(self, loop, tls):
        transport, protocol, peer = await tls.connect()
        transport.set_read_buffer_limits(high=10_000, low=1000)
        transport.pause_reading()
        sending = loop.run_in_executor(None, peer.send, bytes(5_000_000))
        await until(lambda: transport.get_read_buffer_size() >= 10_000)
        transport.resume_reading()
        await protocol.until(lambda: len(protocol.data) == 5_000_000)
        await sending

    @pytest.mark.parametrize("buffered", [False, True])
    async def test_both_ways_at_once(self, tls_opened, buffered):
        """An echo of more than all buffers hold."""
        protocol = BufferedRecorder(10_000) if buffered else Recorder()

        def echo(data):
            protocol.transport.write(data)

        if buffered:
            plain = protocol.buffer_updated

            def buffer_updated(nbytes):
                echo(bytes(protocol.buffer[:nbytes]))
                plain(nbytes)

            protocol.buffer_updated = buffer_updated
            # One record at a time: see test_tls_buffered.
            protocol.get_buffer = lambda hint: memoryview(protocol.buffer)
        else:
            plain = protocol.data_received

            def data_received(data):
                echo(data)
                plain(data)

            protocol.data_received = data_received
            protocol.pause_writing = lambda: protocol.transport.pause_reading()
            protocol.resume_writing = lambda: protocol.transport.resume_reading()
        _, _, peer = await tls_opened(protocol)
        data = bytes(range(256)) * 12_000
        _, answer = await asyncio.gather(peer.send_all(data), peer.read(len(data)))
        assert answer == data
