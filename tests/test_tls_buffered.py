"""BufferedProtocol under TLS: plain text is decrypted into its buffer."""

from __future__ import annotations

import asyncio
import gc
import random
import ssl
import weakref

import pytest

from .support import BufferedRecorder, Recorder, hops, skip_stock_bug

LOST_RECORDS = "all but the first record of a read are lost, unless the buffer is a memoryview"


class Viewing(BufferedRecorder):
    """Hands out a view, and records what it is asked."""

    def __init__(self, size=4096, **options):
        super().__init__(size, **options)
        self.hints = []

    def get_buffer(self, sizehint):
        self.hints.append(sizehint)
        return memoryview(self.buffer)


class ClosingBuffer(BufferedRecorder):
    """Once armed, answers and closes in get_buffer."""

    armed = False

    def get_buffer(self, sizehint):
        if self.armed:
            self.armed = False
            self.transport.write(b"answer")
            self.transport.close()
        return super().get_buffer(sizehint)


class TestBuffer:
    @pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
    async def test_any_size(self, tls_opened, size):
        _, protocol, peer = await tls_opened(Viewing(size))
        data = random.Random(5).randbytes(min(size * 100, 1_000_000))
        await peer.send_all(data)
        assert await protocol.received(len(data)) == data
        peer.close_notify()
        assert await protocol.lost() is None
        assert protocol.calls[0] == "connection_made"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]

    async def test_hints(self, tls_opened):
        _, protocol, peer = await tls_opened(Viewing())
        peer.send(b"data")
        await protocol.received(4)
        assert protocol.hints
        assert all(isinstance(hint, int) and hint >= -1 for hint in protocol.hints)

    async def test_many_records_at_once(self, tls_opened):
        _, protocol, peer = await tls_opened(Viewing())
        pieces = [b"record %d" % number for number in range(50)]
        peer.wire.send(peer.encrypt(*pieces))
        expected = b"".join(pieces)
        assert await protocol.received(len(expected)) == expected

    async def test_many_records_into_a_bytearray(self, loop_spec, tls_opened):
        skip_stock_bug(loop_spec, True, LOST_RECORDS)
        _, protocol, peer = await tls_opened(BufferedRecorder(4096))
        pieces = [b"record %d" % number for number in range(50)]
        peer.wire.send(peer.encrypt(*pieces))
        expected = b"".join(pieces)
        assert await protocol.received(len(expected)) == expected

    async def test_a_record_in_many_buffers(self, tls_opened):
        _, protocol, peer = await tls_opened(BufferedRecorder(10))
        data = random.Random(7).randbytes(16_000)
        peer.send(data)
        assert await protocol.received(len(data)) == data

    async def test_a_part_of_a_larger_one(self, tls_opened):
        class Part(BufferedRecorder):
            def get_buffer(self, sizehint):
                return memoryview(self.buffer)[10:20]

            def buffer_updated(self, nbytes):
                self.data += self.buffer[10 : 10 + nbytes]
                self.record("buffer_updated")

        _, protocol, peer = await tls_opened(Part(30))
        peer.send(bytes(range(1, 26)))
        assert await protocol.received(25) == bytes(range(1, 26))
        assert protocol.buffer[:10] == bytes(10)
        assert protocol.buffer[20:] == bytes(10)

    async def test_may_be_resized_in_buffer_updated(self, tls_opened):
        """Nothing holds it then."""

        class Growing(BufferedRecorder):
            def buffer_updated(self, nbytes):
                super().buffer_updated(nbytes)
                self.buffer.extend(bytes(len(self.buffer)))

        _, protocol, peer = await tls_opened(Growing(1))
        peer.send(b"x" * 100)
        assert await protocol.received(100) == b"x" * 100

    async def test_is_let_go_of(self, tls_opened):
        class Buffer(bytearray):
            pass

        class Fresh(BufferedRecorder):
            def get_buffer(self, sizehint):
                self.buffer = Buffer(3)
                return self.buffer

        _, protocol, peer = await tls_opened(Fresh())
        peer.send(b"123")
        await protocol.received(3)
        await hops(3)
        reference = weakref.ref(protocol.buffer)
        protocol.buffer = None
        gc.collect()
        assert reference() is None

    async def test_an_empty_one(self, tls_opened, error_contexts):
        """Read as the end of the stream."""

        class Empty(BufferedRecorder):
            def get_buffer(self, sizehint):
                return memoryview(self.buffer)[: 0 if self.data else None]

        _, protocol, peer = await tls_opened(Empty(4))
        peer.send(b"data")
        await protocol.received(4)
        peer.send(b"more")
        await protocol.called("eof_received")
        assert error_contexts == []
        assert bytes(protocol.data) == b"data"

    @pytest.mark.parametrize(
        ("make", "error", "text"),
        [
            (lambda: None, TypeError, "object of type 'NoneType' has no len()"),
            (
                lambda: b"read only",
                TypeError,
                "read() argument 2 must be read-write bytes-like object, not bytes",
            ),
            (
                lambda: memoryview(bytearray(8))[::2],
                TypeError,
                "read() argument 2 must be read-write bytes-like object, not memoryview",
            ),
            (lambda: 1 // 0, ZeroDivisionError, None),
        ],
        ids=["none", "read_only", "in_pieces", "raises"],
    )
    async def test_bad_ones(self, tls_opened, error_contexts, make, error, text):
        class Failing(BufferedRecorder):
            def get_buffer(self, sizehint):
                return make() if self.data else self.buffer

        _, protocol, peer = await tls_opened(Failing())
        peer.send(b"data")
        await protocol.received(4)
        peer.send(b"more")
        lost = await protocol.lost()
        assert type(lost) is error
        assert text is None or str(lost) == text
        context = error_contexts.pop()
        assert context["message"] == "Fatal error on SSL protocol"
        assert context["exception"] is lost


class TestCallbacks:
    async def test_pausing(self, tls_opened):
        class Pausing(BufferedRecorder):
            def buffer_updated(self, nbytes):
                super().buffer_updated(nbytes)
                self.transport.pause_reading()

        transport, protocol, peer = await tls_opened(Pausing(4))
        peer.send(b"12345678")
        await protocol.received(4)
        await hops(5)
        assert bytes(protocol.data) == b"1234"
        transport.resume_reading()
        assert await protocol.received(8) == b"12345678"

    async def test_buffer_updated_raises(self, tls_opened, error_contexts):
        class Failing(BufferedRecorder):
            def buffer_updated(self, nbytes):
                raise LookupError("not updated")

        _, protocol, peer = await tls_opened(Failing())
        peer.send(b"data")
        error = await protocol.lost()
        context = error_contexts.pop()
        assert context["message"] == "Fatal error on SSL protocol"
        assert context["exception"] is error
        assert isinstance(error, LookupError)

    async def test_buffer_updated_is_cancelled(self, tls_opened, error_contexts):
        """No Exception, so the connection goes on with the rest of what came."""

        class Cancelled(Viewing):
            def buffer_updated(self, nbytes):
                super().buffer_updated(nbytes)
                raise asyncio.CancelledError

        _, protocol, peer = await tls_opened(Cancelled(4))
        peer.send(b"12345678")
        assert await protocol.received(8) == b"12345678"
        assert all(isinstance(c["exception"], asyncio.CancelledError) for c in error_contexts)
        error_contexts.clear()

    async def test_the_rest_comes_before_what_is_queued(self, tls_opened):
        seen = []

        class Queueing(Viewing):
            def buffer_updated(self, nbytes):
                seen.append("updated")
                asyncio.get_running_loop().call_soon(seen.append, "queued")
                super().buffer_updated(nbytes)

        _, protocol, peer = await tls_opened(Queueing(4))
        peer.send(b"12345678")
        await protocol.received(8)
        await hops(1)
        assert seen == ["updated", "updated", "queued", "queued"]

    async def test_closing_in_buffer_updated(self, tls_opened):
        class Closing(BufferedRecorder):
            def buffer_updated(self, nbytes):
                super().buffer_updated(nbytes)
                self.transport.write(b"answer")
                self.transport.close()

        _, protocol, peer = await tls_opened(Closing())
        peer.send(b"request")
        assert await peer.read_all() == b"answer"
        await peer.unwrap()
        assert await protocol.lost() is None

    async def test_closing_in_get_buffer(self, tls_opened):
        _, protocol, peer = await tls_opened(ClosingBuffer())
        protocol.armed = True
        peer.send(b"request")
        assert await peer.read_all() == b"answer"
        await peer.unwrap()
        assert await protocol.lost() is None
        assert bytes(protocol.data) == b"request"

    async def test_closing_in_get_buffer_as_the_peer_does(self, tls_opened, error_contexts):
        """The read that asked for the buffer finds the connection unwrapped."""
        _, protocol, peer = await tls_opened(ClosingBuffer())
        protocol.armed = True
        peer.close_notify()
        assert isinstance(await protocol.lost(), ssl.SSLZeroReturnError)
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]
        assert error_contexts == []

    async def test_end(self, tls_opened):
        _, protocol, peer = await tls_opened(BufferedRecorder(100))
        peer.send(b"last words")
        peer.wire.shutdown()
        assert await protocol.lost() is None
        assert protocol.calls == [
            "connection_made",
            "buffer_updated",
            "eof_received",
            "connection_lost",
        ]


class TestChanging:
    async def test_to_a_plain_one_and_back(self, tls_opened):
        """Every byte once, in order, whichever kind reads it."""
        data = random.Random(9).randbytes(200_000)
        chance = random.Random(10)
        pieces = bytearray()
        last = Recorder()

        def take(piece):
            pieces.extend(piece)
            if len(pieces) == len(data):
                last.record("all")
            elif chance.random() < 0.5:
                transport.set_protocol(chance.choice(protocols))

        class Plain(Recorder):
            def data_received(self, piece):
                take(piece)

        class Reading(Viewing):
            def buffer_updated(self, nbytes):
                take(bytes(self.buffer[:nbytes]))

        protocols = [Plain(), Reading(1), Reading(1000), Reading(100_000)]
        transport, _, peer = await tls_opened(Reading(50))
        for start in range(0, len(data), 5000):
            peer.send(data[start : start + 5000])
            await hops(2)
        await last.called("all")
        assert pieces == data
        transport.abort()
        await hops(3)

    async def test_inside_data_received(self, tls_opened):
        second = BufferedRecorder(4)

        class First(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.set_protocol(second)

        _, first, peer = await tls_opened(First())
        peer.send(b"plain")
        await first.received(5)
        peer.send(b"buffered")
        assert await second.received(8) == b"buffered"
        peer.close_notify()
        await second.lost()
        assert first.calls == ["connection_made", "data_received"]
