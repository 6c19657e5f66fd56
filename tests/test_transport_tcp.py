"""TCP transports (transports page): information, writing, reading, ending; late calls.

Each test runs on a connection the loop opened and on one it accepted.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import weakref
from asyncio import trsock

import pytest

from .support import (
    PYTHON,
    Recorder,
    fill,
    hops,
    name_of,
    skip_stock_bug,
    turns,
)


@pytest.fixture(params=["connected", "accepted"])
def opened(request, network):
    """Coroutine function that returns transport, protocol and peer."""
    return network.connect if request.param == "connected" else network.accept


class TestInformation:
    async def test_is_an_asyncio_transport(self, opened):
        transport, _, _ = await opened()
        for kind in (
            asyncio.Transport,
            asyncio.ReadTransport,
            asyncio.WriteTransport,
            asyncio.BaseTransport,
        ):
            assert isinstance(transport, kind)
        assert issubclass(type(transport), asyncio.Transport)

    async def test_names(self, opened):
        transport, _, peer = await opened()
        assert transport.get_extra_info("peername") == peer.sock.getsockname()
        assert transport.get_extra_info("sockname") == peer.sock.getpeername()

    async def test_socket(self, opened):
        transport, _, _ = await opened()
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, trsock.TransportSocket)
        assert sock.family == socket.AF_INET
        assert sock.type == socket.SOCK_STREAM
        assert sock.fileno() >= 0
        assert sock.getsockname() == transport.get_extra_info("sockname")
        assert sock.getpeername() == transport.get_extra_info("peername")
        assert sock.gettimeout() == 0
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    async def test_no_delay(self, opened):
        transport, _, _ = await opened()
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    async def test_defaults(self, opened):
        transport, _, _ = await opened()
        assert transport.get_extra_info("unknown") is None
        assert transport.get_extra_info("unknown", 42) == 42
        assert transport.get_extra_info("unknown", default=42) == 42
        assert transport.get_extra_info("sslcontext") is None

    async def test_outlives_the_connection(self, opened):
        transport, protocol, peer = await opened()
        names = [transport.get_extra_info(name) for name in ("peername", "sockname")]
        peer.close()
        await protocol.lost()
        assert [transport.get_extra_info(name) for name in ("peername", "sockname")] == names

    async def test_peername_after_a_reset(self, opened):
        transport, _protocol, peer = await opened()
        name = peer.sock.getsockname()
        transport.pause_reading()
        peer.reset()
        assert transport.get_extra_info("peername") == name

    async def test_repr(self, opened):
        transport, protocol, _ = await opened()
        number = transport.get_extra_info("socket").fileno()
        assert f"fd={number}" in repr(transport)
        await hops(2)
        assert "read=polling" in repr(transport)
        assert "write=<idle, bufsize=0>" in repr(transport)
        transport.pause_reading()
        assert "read=idle" in repr(transport)
        held = await fill(transport)
        assert f"write=<polling, bufsize={held}>" in repr(transport)
        transport.close()
        assert "closing" in repr(transport)
        transport.abort()
        await protocol.lost()
        await hops()
        assert "closed" in repr(transport)

    async def test_takes_attributes_and_weak_references(self, opened):
        transport, _, _ = await opened()
        transport.attribute = "value"
        assert transport.attribute == "value"
        assert weakref.ref(transport)() is transport


class TestWriting:
    @pytest.mark.parametrize(
        "data",
        [
            b"data",
            bytearray(b"data"),
            memoryview(b"data"),
            memoryview(b"..data..")[2:6],
            type("Bytes", (bytes,), {})(b"data"),
        ],
        ids=["bytes", "bytearray", "memoryview", "slice", "subclass"],
    )
    async def test_kinds_of_data(self, opened, data):
        transport, _, peer = await opened()
        transport.write(data)
        assert await peer.read(4) == b"data"

    @pytest.mark.parametrize("data", ["text", None, 1, [b"data"], object()], ids=name_of)
    async def test_refuses_other_kinds(self, opened, data):
        transport, _, peer = await opened()
        with pytest.raises(TypeError, match="data argument must be a bytes"):
            transport.write(data)
        transport.write(b"goes on")
        assert await peer.read(7) == b"goes on"

    async def test_nothing(self, opened):
        transport, _, peer = await opened()
        transport.write(b"")
        transport.write(bytearray())
        transport.write(memoryview(b"")[::-1])
        transport.writelines([])
        transport.write(b"end")
        assert await peer.read(3) == b"end"

    async def test_in_order(self, opened):
        transport, _, peer = await opened()
        expected = b"".join(b"%d," % number for number in range(2000))
        for number in range(2000):
            transport.write(b"%d," % number)
        assert await peer.read(len(expected)) == expected

    async def test_the_caller_keeps_its_buffer(self, opened, loop_spec):
        """What write() was given may be changed at once, even while part of it waits."""
        skip_stock_bug(loop_spec, PYTHON >= (3, 12), "keeps a view of the caller's bytearray")
        transport, _, peer = await opened(receive_buffer=4096)
        held = await fill(transport)
        data = bytearray(b"x" * 100)
        transport.write(data)
        transport.write(memoryview(data))
        transport.writelines([data, memoryview(data)[:50]])
        data[:] = b"y" * 100
        assert transport.get_write_buffer_size() == held + 350
        transport.close()
        received = await peer.read_all()
        assert received.endswith(b"x" * 350)

    async def test_large(self, opened):
        transport, _, peer = await opened()
        data = random.Random(1).randbytes(8 << 20)
        transport.write(data)
        received = await peer.read(len(data))
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        assert transport.get_write_buffer_size() == 0

    async def test_to_and_fro_at_once(self, opened):
        transport, protocol, peer = await opened()
        generator = random.Random(2)
        ours, theirs = generator.randbytes(4 << 20), generator.randbytes(4 << 20)
        transport.write(ours)
        received, _ = await asyncio.gather(peer.read(len(ours)), peer.send_all(theirs))
        assert received == ours
        assert await protocol.received(len(theirs)) == theirs

    async def test_buffer_size(self, opened):
        transport, _, _peer = await opened(receive_buffer=4096)
        assert transport.get_write_buffer_size() == 0
        transport.write(b"small")
        assert transport.get_write_buffer_size() == 0
        held = await fill(transport)
        transport.write(bytes(1000))
        assert transport.get_write_buffer_size() == held + 1000


class TestWritelines:
    @pytest.mark.parametrize("convert", [list, tuple, iter, lambda data: (piece for piece in data)])
    async def test_iterables(self, opened, convert):
        transport, _, peer = await opened()
        transport.writelines(convert([b"one,", bytearray(b"two,"), memoryview(b"three")]))
        assert await peer.read(13) == b"one,two,three"

    async def test_more_pieces_than_one_system_call_takes(self, opened):
        transport, _, peer = await opened()
        pieces = [b"%d," % number for number in range(5000)]
        transport.writelines(pieces)
        expected = b"".join(pieces)
        assert await peer.read(len(expected)) == expected

    async def test_empty_pieces(self, opened, loop_spec):
        skip_stock_bug(
            loop_spec, (3, 12) <= PYTHON <= (3, 13), "an empty piece is never drained (gh-155888)"
        )
        transport, _, peer = await opened()
        transport.writelines([b"", b"a", b"", b"b", b""])
        transport.writelines([b"", b""])
        assert await peer.read(2) == b"ab"
        assert transport.get_write_buffer_size() == 0

    @pytest.mark.skipif(PYTHON < (3, 12), reason="before, the pieces are joined first")
    async def test_memory_in_pieces(self, opened, error_contexts):
        """As by `write`: a system call cannot send it."""
        transport, protocol, _ = await opened()
        transport.writelines([b"one", memoryview(b"strided")[::2]])
        await protocol.lost()
        assert isinstance(protocol.error, BufferError)
        (context,) = error_contexts
        error_contexts.clear()
        assert context["message"] == "Fatal write error on socket transport"

    async def test_large(self, opened):
        transport, _, peer = await opened()
        pieces = [random.Random(3).randbytes(300_000) for _ in range(10)]
        transport.writelines(pieces)
        assert await peer.read(3_000_000) == b"".join(pieces)

    async def test_after_what_waits(self, opened):
        transport, _, peer = await opened(receive_buffer=4096)
        await fill(transport)
        transport.writelines([b"almost ", b"the "])
        transport.write(b"end")
        transport.close()
        assert (await peer.read_all()).endswith(b"\0almost the end")

    @pytest.mark.skipif(PYTHON < (3, 12), reason="before, the pieces are joined first")
    async def test_refuses_anything_after_the_end(self, opened):
        transport, _, _ = await opened()
        transport.write_eof()
        with pytest.raises(RuntimeError, match="after write_eof"):
            transport.writelines(3)

    @pytest.mark.skipif(PYTHON < (3, 12), reason="before, only what can be joined is taken")
    @pytest.mark.parametrize("nothing", [None, 0, "", {}], ids=repr)
    async def test_what_is_false_is_nothing(self, opened, nothing):
        transport, _, peer = await opened()
        transport.writelines(nothing)
        transport.write(b"end")
        transport.close()
        assert await peer.read_all() == b"end"

    @pytest.mark.parametrize("pieces", ["text", [b"a", "b"], [1]], ids=repr)
    async def test_refuses_other_kinds(self, opened, pieces):
        transport, _, _ = await opened()
        with pytest.raises(TypeError):
            transport.writelines(pieces)


class TestWriteRule:
    """Writes may be gathered within one callback; nothing but the system calls may show it."""

    async def test_write_and_abort_delivers(self, opened):
        transport, protocol, peer = await opened()
        transport.write(b"last words")
        transport.abort()
        assert await peer.read(10) == b"last words"
        await protocol.lost()

    async def test_many_small_writes_do_not_pause(self, opened):
        transport, protocol, peer = await opened()
        for _ in range(100):
            transport.write(bytes(1024))
        assert "pause_writing" not in protocol.calls
        assert await peer.read(100 * 1024) == bytes(100 * 1024)
        assert "pause_writing" not in protocol.calls

    def test_write_and_stop_delivers(self, loop, opened):
        transport, _protocol, peer = loop.run_until_complete(opened())

        def callback():
            transport.write(b"written")
            loop.stop()

        loop.call_soon(callback)
        loop.run_forever()
        assert peer.read_blocking(7) == b"written"

    def test_write_close_and_stop_delivers(self, loop, opened):
        transport, protocol, peer = loop.run_until_complete(opened())

        def callback():
            transport.write(b"written")
            transport.close()
            loop.stop()

        loop.call_soon(callback)
        loop.run_forever()
        assert peer.read_blocking(7) == b"written"
        turns(loop, 2)
        assert protocol.calls[-1] == "connection_lost"
        assert peer.read_blocking(1) == b""

    def test_write_and_an_exception_that_leaves(self, loop, opened):
        transport, _, peer = loop.run_until_complete(opened())

        def callback():
            transport.write(b"written")
            raise KeyboardInterrupt

        loop.call_soon(callback)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        assert peer.read_blocking(7) == b"written"

    def test_write_while_the_loop_does_not_run(self, loop, opened):
        transport, _, peer = loop.run_until_complete(opened())
        transport.write(b"written")
        assert peer.read_blocking(7) == b"written"

    async def test_a_dead_peer_shows_at_once(self, opened):
        """On a connection that was reset, is_closing() after a write tells the truth."""
        transport, protocol, peer = await opened()
        transport.pause_reading()
        peer.send(b"unread")
        peer.reset()
        transport.write(b"anyone?")
        assert transport.is_closing()
        error = await protocol.lost()
        assert isinstance(error, ConnectionError)

    async def test_before_a_protocol_change(self, opened):
        transport, _first, peer = await opened()
        transport.write(b"first,")
        second = Recorder()
        transport.set_protocol(second)
        transport.write(b"second")
        assert await peer.read(12) == b"first,second"
        transport.close()
        await second.lost()

    async def test_many_connections_in_one_callback(self, network):
        """What one callback writes to several transports reaches each."""
        opened = [await network.connect() for _ in range(5)]
        for number in range(3):
            for transport, _, _ in opened:
                transport.write(b"%d" % number)
        for _, _, peer in opened:
            assert await peer.read(3) == b"012"


class TestReading:
    async def test_reads_until_paused(self, opened):
        transport, protocol, peer = await opened()
        assert transport.is_reading()
        peer.send(b"one")
        assert await protocol.received(3) == b"one"
        transport.pause_reading()
        assert not transport.is_reading()
        peer.send(b"two")
        await hops(5)
        assert bytes(protocol.data) == b"one"
        transport.resume_reading()
        assert transport.is_reading()
        assert await protocol.received(6) == b"onetwo"

    async def test_twice_is_once(self, opened):
        transport, protocol, peer = await opened()
        transport.resume_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        peer.send(b"data")
        assert await protocol.received(4) == b"data"

    async def test_paused_in_connection_made(self, opened, loop_spec):
        skip_stock_bug(loop_spec, PYTHON == (3, 10), "reads all the same")

        class Pausing(Recorder):
            def connection_made(self, transport):
                transport.pause_reading()
                super().connection_made(transport)

        transport, protocol, peer = await opened(Pausing())
        peer.send(b"data")
        await hops(5)
        assert not transport.is_reading()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.received(4) == b"data"

    async def test_paused_in_data_received(self, opened):
        class Pausing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.pause_reading()

        transport, protocol, peer = await opened(Pausing())
        peer.send(b"one")
        await protocol.received(3)
        peer.send(b"two")
        await hops(5)
        assert bytes(protocol.data) == b"one"
        transport.resume_reading()
        assert await protocol.received(6) == b"onetwo"

    async def test_paused_and_resumed_in_one_callback(self, opened):
        transport, protocol, peer = await opened()
        for _ in range(3):
            transport.pause_reading()
            transport.resume_reading()
        peer.send(b"data")
        assert await protocol.received(4) == b"data"

    async def test_paused_before_the_end_of_the_stream(self, opened):
        transport, protocol, peer = await opened()
        transport.pause_reading()
        peer.send(b"data")
        peer.close()
        await hops(5)
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        await protocol.lost()
        assert protocol.story[1:] == ["data_received", "eof_received", "connection_lost"]

    async def test_a_closing_transport_does_not_resume(self, opened):
        transport, protocol, peer = await opened()
        transport.pause_reading()
        peer.send(b"data")
        transport.close()
        transport.resume_reading()
        assert not transport.is_reading()
        await protocol.lost()
        assert protocol.calls == ["connection_made", "connection_lost"]

    async def test_writing_goes_on_while_paused(self, opened):
        transport, _, peer = await opened()
        transport.pause_reading()
        transport.write(b"data")
        assert await peer.read(4) == b"data"

    async def test_data_is_bytes(self, opened):
        kinds = []

        class Typed(Recorder):
            def data_received(self, data):
                super().data_received(data)
                kinds.append(type(data))

        _transport, protocol, peer = await opened(Typed())
        for size in (1, 100, 100_000, 1_000_000):
            protocol.data.clear()
            await peer.send_all(bytes(size))
            await protocol.received(size)
        assert set(kinds) == {bytes}

    async def test_pieces_are_never_empty_or_changed_later(self, opened):
        """Data that is kept must not change when more arrives."""
        kept = []

        class Keeping(Recorder):
            def data_received(self, data):
                super().data_received(data)
                kept.append((data, hash(data)))

        _transport, protocol, peer = await opened(Keeping())
        data = random.Random(4).randbytes(3_000_000)
        await peer.send_all(data)
        await protocol.received(len(data))
        assert b"".join(piece for piece, _ in kept) == data
        assert all(piece for piece, _ in kept)
        assert all(hash(bytes(bytearray(piece))) == was for piece, was in kept)


class TestEndOfStream:
    async def test_ours(self, opened):
        transport, protocol, peer = await opened()
        assert transport.can_write_eof()
        transport.write(b"last")
        transport.write_eof()
        assert await peer.read_all() == b"last"
        assert not transport.is_closing()
        peer.send(b"answer")
        assert await protocol.received(6) == b"answer"

    async def test_ours_after_what_waits(self, opened):
        transport, protocol, peer = await opened(receive_buffer=4096)
        await fill(transport)
        transport.write(b"the end")
        transport.write_eof()
        assert (await peer.read_all()).endswith(b"the end")
        peer.send(b"answer")
        assert await protocol.received(6) == b"answer"

    async def test_ours_twice(self, opened):
        transport, _, peer = await opened()
        transport.write_eof()
        transport.write_eof()
        assert await peer.read_all() == b""

    async def test_no_writing_after_ours(self, opened):
        transport, _protocol, _peer = await opened()
        transport.write_eof()
        with pytest.raises(RuntimeError, match=r"after write_eof\(\)"):
            transport.write(b"more")
        with pytest.raises(RuntimeError, match=r"after write_eof\(\)"):
            transport.writelines([b"more"])
        with pytest.raises(TypeError):
            transport.write("more")

    @pytest.mark.parametrize("answer", [None, False, 0, ""])
    async def test_theirs_closes(self, opened, answer):
        _transport, protocol, peer = await opened(Recorder(keep_open=answer))
        peer.send(b"last")
        peer.shutdown()
        assert await protocol.lost() is None
        assert protocol.story[1:] == ["data_received", "eof_received", "connection_lost"]
        assert await peer.read_all() == b""

    @pytest.mark.parametrize("answer", [True, 1, "yes"])
    async def test_theirs_keeps_the_write_side_open(self, opened, answer):
        transport, protocol, peer = await opened(Recorder(keep_open=answer))
        peer.shutdown()
        await protocol.called("eof_received")
        await hops(5)
        assert protocol.calls == ["connection_made", "eof_received"]
        assert not transport.is_closing()
        transport.write(b"still here")
        assert await peer.read(10) == b"still here"
        transport.close()
        assert await protocol.lost() is None
        assert await peer.read_all() == b""

    async def test_both(self, opened):
        transport, protocol, peer = await opened(Recorder(keep_open=True))
        transport.write_eof()
        peer.shutdown()
        await protocol.called("eof_received")
        await hops(5)
        assert not transport.is_closing()
        transport.close()
        assert await protocol.lost() is None

    async def test_theirs_with_writes_waiting(self, opened):
        """What waits is still sent when eof_received() lets the transport close."""
        transport, protocol, peer = await opened(receive_buffer=4096)
        await fill(transport)
        transport.write(b"the end")
        peer.shutdown()
        await protocol.called("eof_received")
        assert transport.is_closing()
        assert (await peer.read_all()).endswith(b"the end")
        assert await protocol.lost() is None


class TestClose:
    async def test_close(self, opened):
        transport, protocol, peer = await opened()
        assert not transport.is_closing()
        transport.close()
        assert transport.is_closing()
        assert protocol.calls == ["connection_made"]
        assert await protocol.lost() is None
        assert await peer.read_all() == b""

    async def test_sends_what_waits(self, opened):
        transport, protocol, peer = await opened(receive_buffer=4096)
        await fill(transport)
        transport.write(b"the end")
        transport.close()
        assert transport.is_closing()
        assert "connection_lost" not in protocol.calls
        assert (await peer.read_all()).endswith(b"the end")
        assert await protocol.lost() is None

    async def test_stops_reading(self, opened):
        transport, protocol, peer = await opened(receive_buffer=4096)
        await fill(transport)
        transport.close()
        peer.send(b"too late")
        await hops(5)
        transport.abort()
        await protocol.lost()
        assert protocol.calls == ["connection_made", "connection_lost"]

    async def test_twice_is_once(self, opened):
        transport, protocol, _ = await opened()
        transport.close()
        transport.close()
        await protocol.lost()
        transport.close()
        await hops(3)
        assert protocol.calls.count("connection_lost") == 1

    async def test_abort(self, opened):
        transport, protocol, peer = await opened(receive_buffer=4096)
        await fill(transport)
        transport.write(b"the end")
        transport.abort()
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert "connection_lost" not in protocol.calls
        assert await protocol.lost() is None
        assert not (await peer.read_all()).endswith(b"the end")

    async def test_abort_after_close(self, opened):
        transport, protocol, _ = await opened(receive_buffer=4096)
        await fill(transport)
        transport.close()
        transport.abort()
        assert await protocol.lost() is None
        transport.abort()
        await hops(3)
        assert protocol.calls.count("connection_lost") == 1

    async def test_abort_after_a_close_that_flushed(self, opened, loop_spec):
        skip_stock_bug(loop_spec, PYTHON < (3, 14), "raises AttributeError (gh-156512)")
        transport, protocol, peer = await opened(receive_buffer=4096)
        await fill(transport)
        transport.close()
        await peer.read_all()
        await protocol.lost()
        transport.abort()
        await hops(3)
        assert protocol.calls.count("connection_lost") == 1

    async def test_closed_by_the_peer(self, opened):
        transport, protocol, peer = await opened()
        peer.close()
        assert await protocol.lost() is None
        assert transport.is_closing()

    async def test_reset_by_the_peer(self, opened):
        transport, protocol, peer = await opened()
        peer.reset()
        error = await protocol.lost()
        assert isinstance(error, ConnectionResetError)
        assert protocol.story == ["connection_made", "connection_lost"]
        assert transport.is_closing()

    async def test_reset_with_writes_waiting(self, opened):
        transport, protocol, peer = await opened(receive_buffer=4096)
        transport.pause_reading()
        await fill(transport)
        peer.reset()
        error = await protocol.lost()
        assert isinstance(error, ConnectionError)
        assert transport.get_write_buffer_size() == 0

    async def test_in_connection_made(self, opened):
        class Closing(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(b"no")
                transport.close()

        _transport, protocol, peer = await opened(Closing())
        assert await protocol.lost() is None
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert await peer.read_all() == b"no"

    async def test_in_data_received(self, opened):
        class Closing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.write(data)
                self.transport.close()

        _transport, protocol, peer = await opened(Closing())
        peer.send(b"x")
        assert await protocol.lost() is None
        assert await peer.read_all() == b"x"
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


class TestLateCalls:
    """On a closed transport: no-ops exactly where asyncio's are, before and after the end."""

    @pytest.fixture(params=["closing", "closed"])
    def closed(self, request, opened):
        async def close():
            transport, protocol, peer = await opened()
            transport.close()
            if request.param == "closed":
                await protocol.lost()
                await hops()
            return transport, protocol, peer

        return close

    @pytest.mark.parametrize(
        "call",
        [
            lambda transport: transport.write(b"late"),
            lambda transport: transport.write(b""),
            lambda transport: transport.writelines([]),
            lambda transport: transport.write_eof(),
            lambda transport: transport.close(),
            lambda transport: transport.abort(),
            lambda transport: transport.pause_reading(),
            lambda transport: transport.resume_reading(),
            lambda transport: transport.set_write_buffer_limits(high=10),
            lambda transport: repr(transport),
            lambda transport: transport.get_extra_info("socket").fileno(),
        ],
        ids=[
            "write",
            "write_nothing",
            "writelines_nothing",
            "write_eof",
            "close",
            "abort",
            "pause_reading",
            "resume_reading",
            "set_write_buffer_limits",
            "repr",
            "socket",
        ],
    )
    async def test_harmless(self, closed, call):
        transport, protocol, peer = await closed()
        call(transport)
        assert await protocol.lost() is None
        call(transport)
        await hops(3)
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert await peer.read_all() == b""

    async def test_writelines(self, closed, loop_spec):
        skip_stock_bug(loop_spec, (3, 12) <= PYTHON <= (3, 13), "raises TypeError")
        transport, protocol, peer = await closed()
        transport.writelines([b"late", b"later"])
        assert await protocol.lost() is None
        assert await peer.read_all() == b""

    async def test_answers(self, closed):
        transport, _protocol, _ = await closed()
        assert transport.is_closing()
        assert not transport.is_reading()
        assert transport.can_write_eof()
        assert transport.get_write_buffer_size() == 0
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)

    async def test_arguments_are_still_checked(self, closed):
        transport, _, _ = await closed()
        with pytest.raises(TypeError):
            transport.write("text")
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=-1)

    async def test_the_protocol_is_let_go(self, opened):
        transport, protocol, _ = await opened()
        transport.close()
        await protocol.lost()
        await hops()
        assert transport.get_protocol() is None

    async def test_many_writes_to_a_dead_connection_are_logged(self, opened, caplog):
        transport, protocol, peer = await opened()
        peer.reset()
        await protocol.lost()
        for _ in range(10):
            transport.write(b"anyone?")
        assert set(caplog.messages) == {"socket.send() raised exception."}

    async def test_writing_to_one_that_half_closed(self, opened):
        """After write_eof() a late write is an error, closed or not."""
        transport, protocol, _ = await opened()
        transport.write_eof()
        transport.close()
        await protocol.lost()
        with pytest.raises(RuntimeError, match=r"after write_eof\(\)"):
            transport.write(b"late")
