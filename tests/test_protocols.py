"""Protocols (protocols page): changing them, their exceptions and contexts."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from .support import PYTHON, BufferedRecorder, Recorder, hops, turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(params=["connected", "accepted"])
def opened(request, network):
    """Coroutine function that returns transport, protocol and peer."""
    return network.connect if request.param == "connected" else network.accept


class TestSetProtocol:
    async def test_in_mid_stream(self, opened):
        transport, first, peer = await opened()
        peer.send(b"one")
        await first.received(3)
        second = Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        peer.send(b"two")
        assert await second.received(3) == b"two"
        assert bytes(first.data) == b"one"
        peer.close()
        await second.lost()
        assert first.calls == ["connection_made", "data_received"]
        assert second.calls == ["data_received", "eof_received", "connection_lost"]

    async def test_from_inside_data_received(self, opened):
        second = Recorder()

        class Changing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.set_protocol(second)

        transport, first, peer = await opened(Changing())
        peer.send(b"one")
        await first.received(3)
        peer.send(b"two")
        assert await second.received(3) == b"two"
        transport.close()
        await second.lost()

    async def test_from_inside_connection_made(self, opened):
        second = Recorder()

        class Changing(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.set_protocol(second)

        transport, first, peer = await opened(Changing())
        peer.send(b"data")
        assert await second.received(4) == b"data"
        transport.close()
        await second.lost()
        assert first.calls == ["connection_made"]

    async def test_after_close_gets_connection_lost(self, opened):
        transport, first, _peer = await opened()
        second = Recorder()
        transport.close()
        transport.set_protocol(second)
        assert await second.lost() is None
        assert first.calls == ["connection_made"]

    async def test_to_buffered_and_back(self, opened):
        transport, _first, peer = await opened()
        buffered = BufferedRecorder(size=2)
        transport.set_protocol(buffered)
        peer.send(b"buffered")
        assert await buffered.received(8) == b"buffered"
        last = Recorder()
        transport.set_protocol(last)
        peer.send(b"plain")
        assert await last.received(5) == b"plain"
        transport.close()
        await last.lost()

    async def test_a_callback_assigned_later_is_seen(self, opened):
        _transport, protocol, peer = await opened()
        peer.send(b"one")
        await protocol.received(3)
        seen = bytearray()

        def data_received(data):
            seen.extend(data)
            protocol.record("assigned")

        protocol.data_received = data_received
        peer.send(b"two")
        await protocol.called("assigned")
        assert bytes(seen) == b"two"
        del protocol.data_received
        peer.send(b"three")
        assert await protocol.received(8) == b"onethree"

    async def test_any_object_will_do(self, network):
        """A protocol need not inherit from asyncio's classes."""
        done = asyncio.get_running_loop().create_future()

        class Duck:
            def connection_made(self, transport):
                transport.write(b"quack")

            def data_received(self, data):
                done.set_result(data)

            def eof_received(self):
                pass

            def connection_lost(self, error):
                pass

        _transport, _, peer = await network.connect(Duck())
        assert await peer.read(5) == b"quack"
        peer.send(b"data")
        assert await done == b"data"


class TestExceptions:
    """An exception in a callback goes to the exception handler and ends the connection."""

    async def test_data_received(self, opened, error_contexts):
        class Failing(Recorder):
            def data_received(self, data):
                raise LookupError("no use for it")

        transport, protocol, peer = await opened(Failing())
        peer.send(b"data")
        error = await protocol.lost()
        context = error_contexts.pop()
        assert context.keys() == {"message", "exception", "transport", "protocol"}
        assert context["message"] == "Fatal error: protocol.data_received() call failed."
        assert context["exception"] is error
        assert context["transport"] is transport
        assert context["protocol"] is protocol
        assert await peer.read_all() == b""

    async def test_an_os_error_is_not_reported(self, opened, error_contexts):
        """asyncio takes every OSError for the network's: it only reaches connection_lost."""

        class Failing(Recorder):
            def data_received(self, data):
                raise FileNotFoundError("mistaken for the network")

        _transport, protocol, peer = await opened(Failing())
        peer.send(b"data")
        assert isinstance(await protocol.lost(), FileNotFoundError)
        assert error_contexts == []

    async def test_eof_received(self, opened, error_contexts):
        class Failing(Recorder):
            def eof_received(self):
                raise LookupError("no end")

        _transport, protocol, peer = await opened(Failing())
        peer.shutdown()
        error = await protocol.lost()
        context = error_contexts.pop()
        assert context["message"] == "Fatal error: protocol.eof_received() call failed."
        assert context["exception"] is error

    async def test_connection_lost(self, opened, error_contexts):
        class Failing(Recorder):
            def connection_lost(self, exc):
                super().connection_lost(exc)
                raise LookupError("not lost")

        transport, protocol, peer = await opened(Failing())
        transport.close()
        await protocol.lost()
        await hops()
        context = error_contexts.pop()
        assert context["message"].startswith("Exception in callback")
        assert isinstance(context["exception"], LookupError)
        assert await peer.read_all() == b""
        assert transport.get_extra_info("socket").fileno() == -1

    async def test_after_the_protocol_closed(self, opened, error_contexts):
        class Failing(Recorder):
            def data_received(self, data):
                self.transport.close()
                raise LookupError("and then failed")

        _transport, protocol, peer = await opened(Failing())
        peer.send(b"data")
        await protocol.lost()
        assert isinstance(error_contexts.pop()["exception"], LookupError)
        await hops(3)
        assert protocol.calls.count("connection_lost") == 1

    async def test_a_missing_callback(self, opened, error_contexts):
        transport, _protocol, peer = await opened()
        transport.set_protocol(object())
        peer.send(b"data")
        while not error_contexts:
            await hops()
        assert isinstance(error_contexts[0]["exception"], AttributeError)
        await hops(3)
        # data_received, and then connection_lost too
        assert [type(context["exception"]) for context in error_contexts] == [AttributeError] * 2
        error_contexts.clear()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("callback", ["data_received", "eof_received", "connection_lost"])
    def test_some_leave_the_loop(self, loop, opened, callback, error):
        def leave(*_):
            raise error(callback)

        transport, protocol, peer = loop.run_until_complete(opened())
        setattr(protocol, callback, leave)
        if callback == "data_received":
            peer.send(b"data")
        elif callback == "eof_received":
            peer.shutdown()
        else:
            transport.close()
        with pytest.raises(error, match=callback):
            loop.run_forever()
        delattr(protocol, callback)
        turns(loop)
        transport.abort()
        turns(loop, 3)


class TestContexts:
    """Callbacks run in the context of whoever asked for them; from 3.15 on in the connection's."""

    def asked_by(self, value):
        return value if PYTHON < (3, 15) else "unset"

    class Seeing(Recorder):
        def __init__(self):
            super().__init__()
            self.seen = {}

        def record(self, call):
            self.seen.setdefault(call, variable.get())
            super().record(call)

    def run_in(self, value, function, *arguments):
        context = contextvars.copy_context()
        context.run(variable.set, value)
        return context.run(function, *arguments)

    async def test_of_the_connector(self, loop, network):
        protocol = self.Seeing()
        _, _, peer = await self.run_in("connector", loop.create_task, network.connect(protocol))
        peer.send(b"data")
        peer.shutdown()
        await protocol.lost()
        assert protocol.seen == dict.fromkeys(
            ["connection_made", "data_received", "eof_received", "connection_lost"], "connector"
        )

    async def test_of_whoever_started_the_server(self, loop, network):
        protocol = self.Seeing()
        _, _, peer = await self.run_in("server", loop.create_task, network.accept(protocol))
        peer.send(b"data")
        peer.shutdown()
        await protocol.lost()
        assert protocol.seen == dict.fromkeys(
            ["connection_made", "data_received", "eof_received", "connection_lost"], "server"
        )

    async def test_of_whoever_resumes_reading(self, network):
        transport, protocol, peer = await network.connect(self.Seeing())
        transport.pause_reading()
        self.run_in("resumer", transport.resume_reading)
        peer.send(b"data")
        await protocol.received(4)
        assert protocol.seen["data_received"] == self.asked_by("resumer")

    async def test_of_whoever_closes(self, network):
        transport, protocol, _ = await network.connect(self.Seeing())
        self.run_in("closer", transport.close)
        await protocol.lost()
        assert protocol.seen["connection_lost"] == self.asked_by("closer")

    async def test_of_whoever_writes_too_much(self, network):
        transport, protocol, peer = await network.connect(self.Seeing(), receive_buffer=4096)
        transport.set_write_buffer_limits(high=0)

        def write():
            while "pause_writing" not in protocol.calls:
                transport.write(bytes(64 * 1024))

        self.run_in("writer", write)
        transport.write_eof()
        await peer.read_all()
        assert protocol.seen["pause_writing"] == "writer"
        assert protocol.seen["resume_writing"] == self.asked_by("writer")

    async def test_what_a_callback_sets_stays_in_that_context(self, network):
        values = []

        class Setting(Recorder):
            def data_received(self, data):
                values.append(variable.get())
                variable.set(data.decode())
                super().data_received(data)

        _transport, protocol, peer = await network.connect(Setting())
        for number in range(3):
            peer.send(b"%d" % number)
            await protocol.received(number + 1)
        assert values == ["unset", "0", "1"]
        assert variable.get() == "unset"
