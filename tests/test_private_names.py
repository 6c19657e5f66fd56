"""Private names of asyncio's that programs read: their values in each state."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import pytest

from .support import PYTHON, Recorder, fill, hops, skip_stock_bug, turns, udp_pair


def values(transport: Any, names: Any) -> dict[str, Any]:
    return {name: getattr(transport, name) for name in names}


class TestLoop:
    def test_closed(self, loop):
        assert loop._closed is False
        turns(loop)
        assert loop._closed is False
        loop.close()
        assert loop._closed is True

    def test_closed_by_a_run_that_failed(self, loop_factory):
        loop = loop_factory()
        loop.call_soon(exit)
        with pytest.raises(SystemExit):
            loop.run_forever()
        assert loop._closed is False
        loop.close()
        assert loop._closed is True

    def test_stopping(self, loop):
        seen = []
        assert loop._stopping is False
        loop.call_soon(lambda: seen.append(loop._stopping))
        loop.call_soon(loop.stop)
        loop.call_soon(lambda: seen.append(loop._stopping))
        loop.run_forever()
        assert seen == [False, True]
        assert loop._stopping is False
        loop.stop()
        assert loop._stopping is True
        loop.run_forever()
        assert loop._stopping is False

    @pytest.mark.parametrize("value", [True, 1, "yes"], ids=repr)
    def test_stopping_is_set(self, loop, value):
        """It is a stop: at once when nothing runs, else after the present turn."""
        seen = []
        loop._stopping = value
        assert loop._stopping
        loop.call_soon(seen.append, "before a run")
        loop.run_forever()
        assert loop._stopping is False

        def stop():
            loop.call_soon(seen.append, "never")
            loop._stopping = value

        loop.call_soon(stop)
        loop.call_soon(seen.append, "in the last turn")
        loop.run_forever()
        assert seen == ["before a run", "in the last turn"]

    @pytest.mark.parametrize("value", [False, 0, None], ids=repr)
    def test_stop_is_taken_back(self, loop, value):
        """Sanic does it, to run its last coroutines on a loop that something stopped."""

        async def several_turns():
            await hops(3)
            return "all of it"

        loop.stop()
        loop._stopping = value
        assert not loop._stopping
        assert loop.run_until_complete(several_turns()) == "all of it"
        loop.call_soon(loop.stop)
        loop.call_soon(setattr, loop, "_stopping", value)
        assert loop.run_until_complete(several_turns()) == "all of it"

    def test_clock_resolution(self, loop):
        assert loop._clock_resolution == time.get_clock_info("monotonic").resolution


# What is done with a transport, and what its names say then.
OPEN = {"_closing": False, "_paused": False, "_eof": False, "_protocol_paused": False}


async def nothing(transport, protocol):
    pass


async def pause(transport, protocol):
    transport.pause_reading()


async def pause_and_resume(transport, protocol):
    transport.pause_reading()
    transport.resume_reading()


async def pause_and_close(transport, protocol):
    transport.pause_reading()
    await fill(transport)
    transport.close()


async def end(transport, protocol):
    transport.write_eof()


async def end_and_lose(transport, protocol):
    transport.write_eof()
    transport.close()
    await protocol.lost()


async def write_much(transport, protocol):
    await fill(transport)
    transport.set_write_buffer_limits(high=10, low=5)
    transport.write(b"more")


async def close(transport, protocol):
    transport.close()


async def close_with_data(transport, protocol):
    await fill(transport)
    transport.close()


async def abort(transport, protocol):
    transport.abort()


async def close_and_lose(transport, protocol):
    transport.close()
    await protocol.lost()


async def abort_and_lose(transport, protocol):
    transport.abort()
    await protocol.lost()


STREAM_STATES = [
    (nothing, OPEN),
    (pause, {**OPEN, "_paused": True}),
    (pause_and_resume, OPEN),
    (pause_and_close, {**OPEN, "_closing": True, "_paused": True}),
    (end, {**OPEN, "_eof": True}),
    (end_and_lose, {**OPEN, "_eof": True, "_closing": True}),
    (write_much, {**OPEN, "_protocol_paused": True}),
    (close, {**OPEN, "_closing": True}),
    (close_with_data, {**OPEN, "_closing": True}),
    (abort, {**OPEN, "_closing": True}),
    (close_and_lose, {**OPEN, "_closing": True}),
    (abort_and_lose, {**OPEN, "_closing": True}),
]
BY_NAME = pytest.mark.parametrize(
    ("step", "expected"),
    [pytest.param(*state, id=state[0].__name__) for state in STREAM_STATES],
)
LOSES = (end_and_lose, close_and_lose, abort_and_lose)


class TestStreams:
    @BY_NAME
    @pytest.mark.parametrize("kind", ["connect", "accept", "unix"])
    async def test_state(self, network, folder, kind, step, expected):
        if kind == "unix":
            transport, protocol, _ = await network.connect_unix(folder / "socket")
        else:
            transport, protocol, _ = await getattr(network, kind)()
        await step(transport, protocol)
        assert values(transport, expected) == expected

    @BY_NAME
    async def test_objects(self, loop, network, step, expected):
        server = await network.serve()
        peer = network.dial(server)
        ours = socket.socket()
        ours.setblocking(False)
        await loop.sock_connect(ours, server.sockets[0].getsockname())
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        network.keep(transport)
        number = ours.fileno()
        assert transport._sock_fd == number
        assert transport._sock is ours
        await step(transport, protocol)
        lost = step in LOSES
        assert transport._sock is (None if lost else ours)
        assert transport._sock_fd == number
        assert transport._loop is (None if lost else loop)
        assert transport._protocol is (None if lost else protocol)
        assert transport._server is None
        peer.close()

    async def test_socket(self, network):
        """One that nobody has asked for is made."""
        transport, protocol, _ = await network.accept()
        sock = transport._sock
        assert type(sock) is socket.socket
        assert transport._sock is sock
        assert sock.fileno() == transport._sock_fd
        assert transport.get_extra_info("socket")._sock is sock
        transport.abort()
        await protocol.lost()
        assert transport._sock is None
        assert sock.fileno() == -1

    async def test_server(self, network):
        protocol = Recorder()
        server = await network.serve(lambda: protocol)
        network.dial(server)
        await protocol.called("connection_made")
        transport = protocol.transport
        assert transport._server is server
        transport.close()
        assert transport._server is server
        await protocol.lost()
        assert transport._server is None

    async def test_limits(self, network):
        transport, _, _ = await network.connect()
        assert (transport._low_water, transport._high_water) == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=100, low=10)
        assert (transport._low_water, transport._high_water) == (10, 100)
        assert transport.max_size == 256 * 1024


DATAGRAM_STATES = [
    (nothing, {"_closing": False, "_paused": False}),
    (pause, {"_closing": False, "_paused": True}),
    (pause_and_resume, {"_closing": False, "_paused": False}),
    (close, {"_closing": True, "_paused": False}),
    (abort, {"_closing": True, "_paused": False}),
    (close_and_lose, {"_closing": True, "_paused": False}),
    (abort_and_lose, {"_closing": True, "_paused": False}),
]


class TestDatagrams:
    @pytest.mark.parametrize(
        ("step", "expected"),
        [pytest.param(*state, id=state[0].__name__) for state in DATAGRAM_STATES],
    )
    async def test_state(self, loop, loop_spec, network, step, expected):
        skip_stock_bug(loop_spec, PYTHON < (3, 11), "endpoints cannot be paused")
        ours, theirs = udp_pair()
        with theirs:
            ours.setblocking(False)
            number = ours.fileno()
            transport, protocol = await network.datagrams(sock=ours)
            await step(transport, protocol)
            lost = step in LOSES
            assert values(transport, expected) == expected
            assert transport._protocol_paused is False
            assert transport._sock_fd == number
            assert transport._sock is (None if lost else ours)
            assert transport._loop is (None if lost else loop)
            assert transport._protocol is (None if lost else protocol)
            assert transport._address is None

    async def test_limits(self, network):
        transport, _ = await network.datagrams()
        assert (transport._low_water, transport._high_water) == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=100, low=10)
        assert (transport._low_water, transport._high_water) == (10, 100)


class TestPipes:
    @pytest.mark.parametrize(
        ("step", "expected"),
        [
            pytest.param(*state, id=state[0].__name__)
            for state in DATAGRAM_STATES
            if state[0] not in (abort, abort_and_lose)
        ],
    )
    async def test_reading(self, loop, loop_spec, step, expected):
        broken = PYTHON < (3, 11) and step in (pause, pause_and_resume, pause_and_close)
        skip_stock_bug(loop_spec, broken, "pipes do not say whether they are paused")
        reader, writer = os.pipe()
        pipe = os.fdopen(reader, "rb", 0)
        transport, protocol = await loop.connect_read_pipe(Recorder, pipe)
        await step(transport, protocol)
        lost = step in LOSES
        assert values(transport, expected) == expected
        assert transport._fileno == reader
        assert transport._pipe is (None if lost else pipe)
        assert transport._loop is (None if lost else loop)
        assert transport._protocol is (None if lost else protocol)
        transport.close()
        await protocol.lost()
        os.close(writer)

    @pytest.mark.parametrize(
        ("step", "closing"),
        [(nothing, False), (close, True), (abort, True), (close_and_lose, True)],
    )
    async def test_writing(self, loop, step, closing):
        reader, writer = os.pipe()
        pipe = os.fdopen(writer, "wb", 0)
        transport, protocol = await loop.connect_write_pipe(Recorder, pipe)
        await step(transport, protocol)
        lost = step in LOSES
        assert transport._closing is closing
        assert transport._fileno == writer
        assert transport._pipe is (None if lost else pipe)
        assert transport._loop is (None if lost else loop)
        if not lost:
            transport.abort() if not closing else None
            await protocol.lost()
        os.close(reader)


class TestTls:
    @pytest.mark.parametrize(
        ("step", "closed"),
        [
            (nothing, False),
            (pause, False),
            (close, True),
            (abort, True),
            (abort_and_lose, True),
        ],
    )
    async def test_state(self, tls, step, closed):
        transport, protocol, _ = await tls.connect()
        assert transport._ssl_protocol._app_transport is transport
        await step(transport, protocol)
        assert transport._closed is closed

    async def test_lost_by_the_peer(self, tls):
        transport, protocol, peer = await tls.connect()
        peer.sock.close()
        await protocol.lost()
        assert transport._closed is True


def test_closed_cannot_be_set(loop, loop_spec):
    skip_stock_bug(loop_spec, True, "it is a plain attribute")
    with pytest.raises(AttributeError):
        loop._closed = True
