"""The eighth invariant of ARCHITECTURE.md: what user code may do while the loop calls it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from .support import PYTHON, Recorder, Recording, fill, hops, skip_stock_bug, until


class Intruder(Recording):
    """Uses everything from inside every callback, in its own thread and in another one.

    Were a lock held, or a borrow live, while user code runs, this would hang or fail.
    """

    def __init__(self, loop):
        super().__init__()
        self.loop = loop
        self.failures: list[BaseException] = []

    def record(self, call):
        try:
            self.intrude()
            helper = threading.Thread(target=self.intrude_from_a_thread)
            helper.start()
            helper.join(10)
            assert not helper.is_alive(), f"a thread hangs in {call}"
        except BaseException as error:
            self.failures.append(error)
        super().record(call)

    def intrude(self):
        loop, transport = self.loop, self.transport
        for handle in (
            loop.call_soon(int),
            loop.call_later(60, int),
            loop.call_at(0, int),
            loop.call_soon_threadsafe(int),
        ):
            repr(handle)
            handle.cancel()
        repr(loop)
        loop.time()
        loop.is_running()
        if transport is not None and not transport.is_closing():
            transport.pause_reading()
            transport.resume_reading()
            transport.get_write_buffer_size()
            transport.set_write_buffer_limits(*reversed(transport.get_write_buffer_limits()))
            transport.get_extra_info("socket").getsockname()
            transport.set_protocol(transport.get_protocol())
            repr(transport)
        gc.collect()

    def intrude_from_a_thread(self):
        try:
            self.loop.call_soon_threadsafe(int)
            self.loop.time()
            self.loop.is_running()
            if self.transport is not None:
                self.transport.is_closing()
                self.transport.get_write_buffer_limits()
                self.transport.get_extra_info("peername")
            gc.collect()
        except BaseException as error:
            self.failures.append(error)


class TestInvariant8Reentrance:
    """No lock is held and no borrow is live while user code runs."""

    class Stream(Intruder, asyncio.Protocol):
        def data_received(self, data):
            self.data += data
            self.record("data_received")

    class Buffered(Intruder, asyncio.BufferedProtocol):
        def get_buffer(self, sizehint):
            self.record("get_buffer")
            self.buffer = bytearray(10)
            return self.buffer

        def buffer_updated(self, nbytes):
            self.data += self.buffer[:nbytes]
            self.record("buffer_updated")

    @pytest.mark.parametrize("kind", [Stream, Buffered])
    async def test_protocol_callbacks(self, loop, network, kind):
        transport, protocol, peer = await network.connect(kind(loop), receive_buffer=4096)
        peer.send(b"data")
        await protocol.received(4)
        await fill(transport)
        transport.set_write_buffer_limits(high=0)
        transport.write_eof()
        await peer.read_all()
        peer.close()
        await protocol.lost()
        assert protocol.failures == []
        for call in ("pause_writing", "resume_writing", "eof_received", "connection_lost"):
            assert call in protocol.calls

    @pytest.mark.parametrize("kind", [Stream, Buffered])
    async def test_on_a_server(self, loop, network, kind):
        made = []

        def factory():
            made.append(kind(loop))
            made[-1].intrude()
            return made[-1]

        server = await network.serve(factory)
        for _ in range(3):
            peer = network.dial(server)
            peer.send(b"data")
            peer.shutdown()
            await peer.read_all()
        for protocol in made:
            await protocol.lost()
            assert protocol.failures == []

    async def test_exception_handler_and_finalizers(self, loop, network):
        """Arguments whose __del__ uses the loop, dropped wherever the loop drops them."""
        intruder = self.Stream(loop)
        handled = []

        class Argument:
            def __del__(self):
                intruder.intrude()
                handled.append("finalizer")

        loop.set_exception_handler(lambda *_: (intruder.intrude(), handled.append("handler")))
        loop.call_soon(lambda argument: 1 / 0, Argument())
        loop.call_soon(Argument().__eq__, None)
        loop.call_later(60, print, Argument()).cancel()
        loop.call_soon(print, Argument()).cancel()
        await hops(3)
        gc.collect()
        assert handled.count("handler") == 1
        assert handled.count("finalizer") == 4

    async def test_replacing_oneself_while_being_called(self, network):
        """The protocol that runs stays alive until its callback returns."""
        alive = []

        class Suicidal(Recorder):
            def data_received(self, data):
                reference = weakref.ref(self)
                self.transport.set_protocol(Recorder())
                gc.collect()
                alive.append(reference() is not None)

        _transport, _, peer = await network.connect(Suicidal())
        peer.send(b"data")
        await until(lambda: alive)
        assert alive == [True]

    def test_run_from_inside_a_callback_is_refused(self, loop, network, loop_spec):
        skip_stock_bug(loop_spec, PYTHON == (3, 13), "a refused run unsets the loop")
        errors = []

        class Nesting(Recorder):
            def data_received(self, data):
                try:
                    loop.run_until_complete(loop.create_future())
                except RuntimeError as error:
                    errors.append(str(error))
                super().data_received(data)

        async def main():
            _, protocol, peer = await network.connect(Nesting())
            peer.send(b"data")
            await protocol.received(4)

        loop.run_until_complete(main())
        assert errors == ["This event loop is already running"]
