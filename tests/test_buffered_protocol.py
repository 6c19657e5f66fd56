"""BufferedProtocol (protocols page): its buffer, its callbacks, and the change to and from it."""

from __future__ import annotations

import array
import asyncio
import gc
import mmap
import random
import weakref

import pytest

from .support import BufferedRecorder, Recorder, hops, turns


@pytest.fixture(params=["connected", "accepted"])
def opened(request, network):
    """Coroutine function that returns transport, protocol and peer."""
    return network.connect if request.param == "connected" else network.accept


class Asked(BufferedRecorder):
    """Records get_buffer, too, and does what `on_get` says in it."""

    def __init__(self, size=4096, *, on_get=None, on_updated=None, **options):
        super().__init__(size, **options)
        self.on_get = on_get
        self.on_updated = on_updated
        self.hints = []

    def get_buffer(self, *hints):
        self.hints.append(hints)
        self.calls.append("get_buffer")
        if self.on_get is not None:
            self.on_get(self)
        return super().get_buffer(*hints)

    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        if self.on_updated is not None:
            self.on_updated(self)


class TestBufferedProtocol:
    @pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
    async def test_receives(self, opened, size):
        _transport, protocol, peer = await opened(BufferedRecorder(size))
        data = random.Random(5).randbytes(min(size * 100, 2_000_000))
        await peer.send_all(data)
        assert await protocol.received(len(data)) == data
        peer.close()
        await protocol.lost()
        assert protocol.calls[0] == "connection_made"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]

    async def test_a_view_as_the_buffer(self, opened):
        class Viewing(BufferedRecorder):
            def get_buffer(self, sizehint):
                return memoryview(self.buffer)[10:20]

            def buffer_updated(self, nbytes):
                self.data += self.buffer[10 : 10 + nbytes]
                self.record("buffer_updated")

        _transport, protocol, peer = await opened(Viewing(30))
        peer.send(bytes(range(1, 26)))
        assert await protocol.received(25) == bytes(range(1, 26))
        assert protocol.buffer[:10] == bytes(10)
        assert protocol.buffer[20:] == bytes(10)

    async def test_size_hint(self, opened):
        hints = []

        class Hinted(BufferedRecorder):
            def get_buffer(self, sizehint):
                hints.append(sizehint)
                return super().get_buffer(sizehint)

        _transport, protocol, peer = await opened(Hinted())
        peer.send(b"data")
        await protocol.received(4)
        assert all(isinstance(hint, int) for hint in hints)
        assert hints and all(hint == -1 or hint > 0 for hint in hints)

    async def test_a_buffer_may_be_resized_in_buffer_updated(self, opened):
        """The transport lets go of the buffer before it reports."""

        class Growing(BufferedRecorder):
            def buffer_updated(self, nbytes):
                super().buffer_updated(nbytes)
                self.buffer.extend(bytes(len(self.buffer)))

        _transport, protocol, peer = await opened(Growing(1))
        peer.send(b"x" * 100)
        assert await protocol.received(100) == b"x" * 100

    async def test_pausing(self, opened):
        class Pausing(BufferedRecorder):
            def buffer_updated(self, nbytes):
                super().buffer_updated(nbytes)
                self.transport.pause_reading()

        transport, protocol, peer = await opened(Pausing(4))
        peer.send(b"12345678")
        await protocol.received(4)
        await hops(5)
        assert bytes(protocol.data) == b"1234"
        transport.resume_reading()
        assert await protocol.received(8) == b"12345678"

    @pytest.mark.parametrize(
        ("buffer", "message"),
        [
            (lambda: bytearray(), "Fatal error: protocol.get_buffer() call failed."),
            (lambda: None, "Fatal error: protocol.get_buffer() call failed."),
            (lambda: 1 // 0, "Fatal error: protocol.get_buffer() call failed."),
            (lambda: b"read only", "Fatal read error on socket transport"),
        ],
        ids=["empty", "none", "raises", "read_only"],
    )
    async def test_bad_buffers(self, opened, error_contexts, buffer, message):
        class Failing(BufferedRecorder):
            def get_buffer(self, sizehint):
                return buffer()

        transport, protocol, peer = await opened(Failing())
        peer.send(b"data")
        error = await protocol.lost()
        context = error_contexts.pop()
        assert context["message"] == message
        assert context["exception"] is error
        assert context["transport"] is transport
        assert context["protocol"] is protocol

    async def test_buffer_updated_raises(self, opened, error_contexts):
        class Failing(BufferedRecorder):
            def buffer_updated(self, nbytes):
                raise LookupError("not updated")

        _transport, protocol, peer = await opened(Failing())
        peer.send(b"data")
        error = await protocol.lost()
        context = error_contexts.pop()
        assert context["message"] == "Fatal error: protocol.buffer_updated() call failed."
        assert context["exception"] is error
        assert isinstance(error, LookupError)


class TestBuffer:
    async def test_is_asked_for_before_each_read(self, opened):
        _, protocol, peer = await opened(Asked(4))
        peer.send(b"123456")
        peer.shutdown()
        await protocol.lost()
        read = ["get_buffer", "buffer_updated"]
        assert protocol.calls == [
            "connection_made",
            *read,
            *read,
            "get_buffer",
            "eof_received",
            "connection_lost",
        ]
        assert set(protocol.hints) == {(-1,)}

    @pytest.mark.parametrize(
        "make",
        [
            lambda: bytearray(64),
            lambda: memoryview(bytearray(64))[8:40],
            lambda: memoryview(bytearray(64)).cast("I"),
            lambda: array.array("d", bytes(64)),
            lambda: mmap.mmap(-1, 64),
        ],
        ids=["bytearray", "view", "view_of_integers", "array", "mmap"],
    )
    async def test_may_be_any_writable_memory(self, opened, make):
        buffer = make()

        class Any(BufferedRecorder):
            def get_buffer(self, sizehint):
                return buffer

            def buffer_updated(self, nbytes):
                self.data += memoryview(buffer).cast("B")[:nbytes]
                self.record("buffer_updated")

        _, protocol, peer = await opened(Any())
        data = random.Random(8).randbytes(1000)
        peer.send(data)
        assert await protocol.received(len(data)) == data

    async def test_may_be_another_each_time(self, opened):
        class Fresh(BufferedRecorder):
            def get_buffer(self, sizehint):
                self.buffer = bytearray(3)
                return self.buffer

        _, protocol, peer = await opened(Fresh())
        peer.send(b"0123456789")
        assert await protocol.received(10) == b"0123456789"

    async def test_is_let_go_of(self, opened):
        """Nothing keeps a buffer, or an export of it, after buffer_updated."""

        class Buffer(bytearray):
            pass

        class Fresh(BufferedRecorder):
            def get_buffer(self, sizehint):
                self.buffer = Buffer(3)
                return self.buffer

            def buffer_updated(self, nbytes):
                super().buffer_updated(nbytes)
                self.buffer.extend(b"resized")

        _, protocol, peer = await opened(Fresh())
        peer.send(b"123")
        await protocol.received(3)
        await hops()
        reference = weakref.ref(protocol.buffer)
        protocol.buffer = None
        gc.collect()
        assert reference() is None

    @pytest.mark.parametrize(
        ("buffer", "name"),
        [
            (b"read-only", "bytes"),
            (memoryview(b"read-only"), "memoryview"),
            (memoryview(bytearray(8))[::2], "memoryview"),
            ("text", "str"),
            ([0, 0], "list"),
        ],
        ids=["bytes", "view", "in_pieces", "str", "list"],
    )
    async def test_must_be_writable(self, opened, error_contexts, buffer, name):
        class Failing(BufferedRecorder):
            def get_buffer(self, sizehint):
                return buffer

        _, protocol, peer = await opened(Failing())
        peer.send(b"data")
        error = await protocol.lost()
        expected = f"recv_into() argument 1 must be read-write bytes-like object, not {name}"
        assert (type(error), str(error)) == (TypeError, expected)
        context = error_contexts.pop()
        assert context["message"] == "Fatal read error on socket transport"
        assert context["exception"] is error


class TestInsideGetBuffer:
    """What get_buffer does to its transport comes after the read that it was called for."""

    @pytest.mark.parametrize("call", ["close", "abort", "pause_reading"])
    async def test_the_read_goes_on(self, opened, call):
        def act(protocol):
            getattr(protocol.transport, call)()

        transport, protocol, peer = await opened(Asked(4, on_get=act))
        peer.send(b"12345678")
        await protocol.received(4)
        await hops(3)
        assert bytes(protocol.data) == b"1234"
        transport.abort()
        assert await protocol.lost() is None

    async def test_the_end_is_told(self, opened):
        transport, protocol, peer = await opened(Asked(on_get=lambda each: each.transport.close()))
        peer.shutdown()
        await protocol.lost()
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
        assert transport.is_closing()

    async def test_another_protocol_hears_of_the_data(self, opened):
        second = Asked(4)

        def switch(protocol):
            protocol.transport.set_protocol(second)

        _, first, peer = await opened(Asked(4, on_get=switch))
        peer.send(b"12345678")
        peer.shutdown()
        await second.lost()
        assert bytes(first.buffer) == b"1234"
        assert "buffer_updated" not in first.calls
        assert second.calls[:3] == ["buffer_updated", "get_buffer", "buffer_updated"]
        assert bytes(second.buffer) == b"5678"


class TestChanging:
    async def test_inside_data_received(self, opened):
        second = BufferedRecorder(4)

        class First(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.set_protocol(second)

        _, first, peer = await opened(First())
        peer.send(b"plain")
        await first.received(5)
        peer.send(b"buffered")
        assert await second.received(8) == b"buffered"
        peer.close()
        await second.lost()
        assert first.calls == ["connection_made", "data_received"]

    async def test_inside_buffer_updated(self, opened):
        second = Recorder()

        def switch(protocol):
            protocol.transport.set_protocol(second)

        _, first, peer = await opened(Asked(4, on_updated=switch))
        peer.send(b"1234plain")
        assert await second.received(5) == b"plain"
        assert bytes(first.data) == b"1234"
        peer.close()
        await second.lost()

    async def test_back_and_forth(self, opened):
        """Every byte once, in order, whichever kind reads it."""
        data = random.Random(9).randbytes(300_000)
        pieces = bytearray()
        chance = random.Random(10)
        done = asyncio.get_running_loop().create_future()

        def take(piece):
            pieces.extend(piece)
            if len(pieces) == len(data) and not done.done():
                done.set_result(None)
            if chance.random() < 0.5:
                transport.set_protocol(chance.choice(protocols))

        class Plain(Recorder):
            def data_received(self, piece):
                take(piece)

        class Reading(BufferedRecorder):
            def buffer_updated(self, nbytes):
                take(self.buffer[:nbytes])

        protocols = [Plain(), Reading(1), Reading(1000), Reading(100_000)]
        transport, _, peer = await opened(Reading(50))
        sending = asyncio.ensure_future(peer.send_all(data))
        await done
        await sending
        assert pieces == data
        transport.abort()
        await hops(2)

    async def test_a_stream_reader_and_back(self, network):
        """What start_tls-like code does with the protocol of asyncio's streams."""
        server = await network.serve()
        peer_done = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            assert await reader.readline() == b"line\n"
            old = writer.transport.get_protocol()
            between = BufferedRecorder(5)
            writer.transport.set_protocol(between)
            writer.write(b"ready")
            assert await between.received(8) == b"buffered"
            writer.transport.set_protocol(old)
            writer.write(b"again")
            assert await reader.read() == b"the rest"
            writer.close()
            await writer.wait_closed()
            peer_done.set_result(None)

        server.close()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        peer = network.dial(server)
        peer.send(b"line\n")
        assert await peer.read(5) == b"ready"
        peer.send(b"buffered")
        assert await peer.read(5) == b"again"
        peer.send(b"the rest")
        peer.shutdown()
        await peer_done
        server.close()
        await server.wait_closed()


class TestSubclasses:
    async def test_of_both_kinds_is_buffered(self, opened):
        class Both(Recorder, asyncio.BufferedProtocol):
            buffer = bytearray(10)

            def get_buffer(self, sizehint):
                return self.buffer

            def buffer_updated(self, nbytes):
                self.data += self.buffer[:nbytes]
                self.record("buffer_updated")

        _, protocol, peer = await opened(Both())
        peer.send(b"data")
        await protocol.received(4)
        assert "data_received" not in protocol.calls

    async def test_callbacks_assigned_later_are_seen(self, opened):
        _, protocol, peer = await opened(BufferedRecorder())
        peer.send(b"one")
        await protocol.received(3)
        other = bytearray(8)
        counts = []

        def buffer_updated(nbytes):
            counts.append(nbytes)
            protocol.record("assigned")

        protocol.get_buffer = lambda hint: other
        protocol.buffer_updated = buffer_updated
        peer.send(b"two")
        await protocol.called("assigned")
        assert counts == [3]
        assert other[:3] == b"two"

    async def test_an_incremental_parser(self, network):
        """The shape of HTTP servers: one buffer that fills up and is emptied at its front."""

        class Parser(asyncio.BufferedProtocol):
            def __init__(self):
                self.buffer = bytearray(2000)
                self.filled = 0

            def connection_made(self, transport):
                self.transport = transport

            def get_buffer(self, sizehint):
                return memoryview(self.buffer)[self.filled :]

            def buffer_updated(self, nbytes):
                self.filled += nbytes
                while (end := self.buffer.find(b"\n", 0, self.filled)) >= 0:
                    self.transport.write(b"[%s]" % bytes(self.buffer[:end]))
                    rest = self.buffer[end + 1 : self.filled]
                    self.buffer[: len(rest)] = rest
                    self.filled = len(rest)

        server = await network.serve(Parser)
        peer = network.dial(server)
        lines = [b"short", b"x" * 1000, b"", b"end"]
        peer.send(b"\n".join(lines) + b"\n")
        expected = b"".join(b"[%s]" % line for line in lines)
        assert await peer.read(len(expected)) == expected
        peer.close()
        await hops(3)


class TestLeaving:
    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("callback", ["get_buffer", "buffer_updated"])
    def test_the_loop(self, loop, opened, callback, error):
        """The connection stands, and the next run reads on."""

        def leave(*_):
            raise error(callback)

        transport, protocol, peer = loop.run_until_complete(opened(BufferedRecorder(4)))
        setattr(protocol, callback, leave)
        peer.send(b"12345678")
        with pytest.raises(error, match=callback):
            loop.run_forever()
        delattr(protocol, callback)
        assert not transport.is_closing()
        left = b"12345678" if callback == "get_buffer" else b"5678"
        assert loop.run_until_complete(protocol.received(len(left))) == left
        transport.abort()
        turns(loop, 3)
