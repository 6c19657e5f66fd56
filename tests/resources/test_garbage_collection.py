"""Every class lets go of what it holds, and the collector finds every cycle through it.

Each test makes objects in all the ways they are used, drops them, and looks whether weak references
to everything around them have died.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import signal
import socket
import sys
import weakref

import pytest

from ..support import (
    BufferedRecorder,
    DatagramRecorder,
    LoopFactory,
    Recorder,
    fill,
    hops,
    shut_down,
    turns,
)


class Thing:
    """Something to refer to: callable, and it takes weak references."""

    def __call__(self, *arguments: object) -> None:
        pass


class Witness:
    """Weak references to objects that ought to go."""

    def __init__(self) -> None:
        self._references: list[weakref.ref[object]] = []

    def watch(self, *things: object) -> None:
        self._references += [weakref.ref(thing) for thing in things]

    @property
    def alive(self) -> list[object]:
        """What is still there after a full collection."""
        gc.collect()
        return [thing for reference in self._references if (thing := reference()) is not None]


@pytest.fixture
def witness():
    return Witness()


class TestHandle:
    @pytest.mark.parametrize("end", ["run", "cancelled", "cancelled_before", "raised"])
    @pytest.mark.parametrize("kind", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
    def test_lets_go(self, loop, witness, error_contexts, kind, end):
        callback, argument, value = Thing(), Thing(), Thing()
        context = contextvars.copy_context()
        context.run(variable.set, value)

        def fail(*arguments):
            raise LookupError

        arguments = [fail if end == "raised" else callback, argument]
        if kind.startswith("call_soon"):
            handle = getattr(loop, kind)(*arguments, context=context)
        else:
            when = loop.time() if kind == "call_at" else 0
            handle = getattr(loop, kind)(when, *arguments, context=context)
        witness.watch(callback, argument, value, handle)
        if end == "cancelled":
            loop.call_soon(handle.cancel)
        elif end == "cancelled_before":
            handle.cancel()
        del callback, argument, value, handle, arguments, context
        turns(loop, 2)
        error_contexts.clear()
        assert witness.alive == []

    @pytest.mark.parametrize("kind", ["call_soon", "call_later"])
    def test_cycle(self, loop_factory: LoopFactory, witness, kind):
        """A handle that refers to itself, on a loop that never runs."""
        loop = loop_factory()
        thing = Thing()
        thing.handle = (
            loop.call_soon(thing, thing)
            if kind == "call_soon"
            else loop.call_later(60, thing, thing)
        )
        thing.loop = loop
        witness.watch(thing, thing.handle)
        del thing
        loop.close()
        del loop
        assert witness.alive == []

    def test_cancelled_timers_do_not_pile_up(self, loop, witness):
        """Handles of timers that were cancelled go long before their time."""
        for _ in range(1000):
            handle = loop.call_later(3600, print)
            witness.watch(handle)
            handle.cancel()
        del handle
        turns(loop, 2)
        assert len(witness.alive) <= 500

    def test_an_exception_keeps_nothing(self, loop, witness, error_contexts):
        """The exception, its traceback, the handle and the loop form no lasting cycle."""

        class Lost(LookupError):  # unlike its base it takes weak references
            pass

        def fail(thing):
            raise Lost

        thing = Thing()
        witness.watch(thing, loop.call_soon(fail, thing))
        del thing
        turns(loop)
        witness.watch(error_contexts.pop()["exception"])
        assert witness.alive == []


class TestLoop:
    def test_closed(self, loop_factory: LoopFactory, witness):
        for _ in range(10):
            loop = loop_factory()
            turns(loop)
            loop.close()
            witness.watch(loop)
        del loop
        assert witness.alive == []

    def test_refers_to_itself_in_every_way(self, loop_factory: LoopFactory, witness):
        loop = loop_factory()
        loop.attribute = loop
        loop.set_exception_handler(functools.partial(print, loop))
        loop.set_task_factory(functools.partial(print, loop))
        loop.call_soon(loop.stop)
        loop.call_later(60, loop.stop)
        loop.call_soon_threadsafe(loop.stop)
        context = contextvars.copy_context()
        context.run(variable.set, loop)
        loop.call_soon(print, context=context)
        future = loop.create_future()
        future.add_done_callback(functools.partial(print, loop))
        loop.future = future
        witness.watch(loop, future, loop.get_exception_handler(), loop.get_task_factory())
        loop.close()
        del loop, future, context
        assert witness.alive == []

    def test_dropped_without_close(self, loop_factory: LoopFactory, witness):
        loop = loop_factory()
        loop.attribute = loop
        loop.call_later(60, loop.stop)
        witness.watch(loop)
        with pytest.warns(ResourceWarning, match="unclosed event loop"):
            del loop
            gc.collect()
        # The record of the warning may hold what it warns of (3.15).
        assert witness.alive == []

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    @pytest.mark.parametrize(
        "end",
        [
            "close",
            "abort",
            "write_eof",
            "call_soon",
            "call_soon_threadsafe",
            "call_soon_threadsafe in the last turn",
            "call_later",
            "add_reader",
        ],
    )
    def test_dropped_with_something_queued_between_runs(self, loop_factory, witness, end):
        """What is queued while the loop does not run is seen by the collector, too."""
        near, far = socket.socketpair()
        loop = loop_factory()
        connect = loop.create_connection(Recorder, sock=near)
        transport, protocol = loop.run_until_complete(connect)
        if end in ("call_soon", "call_soon_threadsafe"):
            getattr(loop, end)(transport.close)
        elif end == "call_soon_threadsafe in the last turn":
            loop.call_soon(loop.call_soon_threadsafe, transport.close)
            turns(loop)
        elif end == "add_reader":
            loop.add_reader(far, transport.close)
        elif end == "call_later":
            loop.call_later(60, transport.close)
        else:
            getattr(transport, end)()
        witness.watch(loop, transport, protocol)
        del loop, connect, transport, protocol, near
        assert witness.alive == []
        far.close()

    def test_signal_handlers(self, loop_factory: LoopFactory, witness):
        loop = loop_factory()
        handler = Thing()
        handler.loop = loop
        loop.add_signal_handler(signal.SIGUSR1, handler, loop)
        witness.watch(loop, handler)
        loop.remove_signal_handler(signal.SIGUSR1)
        loop.close()
        del loop, handler
        assert witness.alive == []

    def test_executor(self, loop_factory: LoopFactory, witness):
        loop = loop_factory()
        thing = Thing()
        witness.watch(loop, thing)
        loop.run_until_complete(loop.run_in_executor(None, thing, loop))
        del thing
        shut_down(loop)
        del loop
        assert witness.alive == []

    def test_an_exception_that_left_it(self, loop_factory: LoopFactory, witness):
        loop = loop_factory()
        thing = Thing()
        witness.watch(loop, thing)
        loop.call_soon(lambda thing: sys.exit(1), thing)
        with pytest.raises(SystemExit):
            loop.run_forever()
        loop.close()
        del loop, thing
        assert witness.alive == []

    def test_async_generators(self, loop_factory: LoopFactory, witness):
        async def generate(thing):
            yield thing
            yield thing

        async def main(thing):
            generator = generate(thing)
            await generator.__anext__()
            witness.watch(generator)

        loop = loop_factory()
        thing = Thing()
        witness.watch(loop, thing)
        loop.run_until_complete(main(thing))
        shut_down(loop)
        del loop, thing
        assert witness.alive == []


class TestTransport:
    @pytest.fixture(params=["connected", "accepted"])
    def opened(self, request, network):
        return network.connect if request.param == "connected" else network.accept

    async def observe(self, witness, opened, protocol, end):
        """Open a connection, tie it to everything by cycles, end it, and watch it go."""
        transport, _, peer = await opened(protocol, receive_buffer=4096)
        transport.attribute = transport
        transport.thing = Thing()
        transport.thing.protocol = protocol
        protocol.peer_of = transport
        variable.set(transport)
        transport.pause_reading()
        transport.resume_reading()
        witness.watch(transport, protocol, transport.thing)
        peer.send(b"data")
        await protocol.received(4)
        if end == "close":
            transport.close()
        elif end == "close_full":
            await fill(transport)
            transport.write(bytearray(1000))
            transport.close()
            await peer.read_all()
        elif end == "abort_full":
            await fill(transport)
            transport.abort()
        elif end == "peer":
            peer.shutdown()
        else:
            peer.reset()
        await protocol.lost()
        await hops(2)

    @pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
    @pytest.mark.parametrize("end", ["close", "close_full", "abort_full", "peer", "reset"])
    def test_goes_when_the_connection_is_over(self, loop, network, witness, opened, kind, end):
        context = contextvars.copy_context()
        task = context.run(loop.create_task, self.observe(witness, opened, kind(), end))
        loop.run_until_complete(task)
        del context, task
        loop.run_until_complete(network.close())
        # A thread of the pool may still hold the context of the call it just finished.
        loop.run_until_complete(loop.shutdown_default_executor())
        assert witness.alive == []

    async def test_a_replaced_protocol_goes(self, network, witness):
        transport, protocol, peer = await network.connect()
        witness.watch(protocol)
        peer.send(b"data")
        await protocol.received(4)
        protocol = Recorder()
        transport.set_protocol(protocol)
        assert witness.alive == []
        transport.close()
        await protocol.lost()

    async def test_written_data_goes(self, network, witness):
        """What was sent is let go, piece by piece, not at the end of the connection."""

        class Data(bytearray):
            pass

        transport, _, peer = await network.connect()
        for size in (1, 1000, 300_000):
            data = Data(size)
            witness.watch(data)
            transport.write(data)
            transport.write(memoryview(data))
            transport.writelines([data, memoryview(data)])
            del data
            await peer.read(4 * size)
        assert transport.get_write_buffer_size() == 0
        assert witness.alive == []

    async def test_received_data_is_not_kept(self, network, witness):
        """The transport keeps nothing of what it delivered."""
        counts = []

        class Counting(Recorder):
            def data_received(self, data):
                counts.append(sys.getrefcount(data))
                super().data_received(data)

        Counting().data_received(bytes(4))
        _, protocol, peer = await network.connect(Counting())
        peer.send(b"data")
        await protocol.received(4)
        # One more than in a call from Python at most: the caller's own reference.
        assert counts[1] <= counts[0] + 1

    async def test_a_failed_connection_leaves_nothing(self, loop, network, witness):
        class Factory(Thing):
            def __call__(self):
                raise LookupError

        factory = Factory()
        witness.watch(factory)
        try:
            await loop.create_connection(factory, "127.0.0.1", 1)
        except ConnectionRefusedError:
            del factory
        await hops(3)
        assert witness.alive == []


class TestDatagramTransport:
    """Endpoints over a Unix socket, some with a full queue in front of them."""

    async def open(self, loop, folder, witness):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(str(folder / "peer"))
            protocol = DatagramRecorder()
            transport, _ = await loop.create_datagram_endpoint(
                lambda: protocol, family=socket.AF_UNIX
            )
            transport.myself = protocol.myself = transport
            sock = transport.get_extra_info("socket")._sock
            address = Text(folder / "peer")
            witness.watch(transport, protocol, sock, address)
            while not transport.get_write_buffer_size():
                transport.sendto(b"data", address)
        return transport

    @pytest.mark.parametrize("end", ["close", "abort"])
    def test_goes_when_it_is_over(self, loop, folder, witness, end):
        async def use():
            transport = await self.open(loop, folder, witness)
            getattr(transport, end)()
            await transport.get_protocol().lost()
            await hops()

        loop.run_until_complete(use())
        assert witness.alive == []

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_goes_with_its_loop(self, loop_factory: LoopFactory, folder, witness):
        loop = loop_factory()
        loop.run_until_complete(self.open(loop, folder, witness))
        loop.close()
        witness.watch(loop)
        del loop
        assert witness.alive == []


class Text(str):
    """Text that takes weak references."""


class TestServer:
    def test_closed(self, loop, network, witness):
        class Factory(Thing):
            def __call__(self):
                return Recorder()

        async def main():
            factory = Factory()
            server = await loop.create_server(factory, "127.0.0.1", 0)
            factory.server = server
            server.attribute = server
            witness.watch(server, factory)
            network.dial(server)
            await hops(5)
            server.close()

        loop.run_until_complete(main())
        loop.run_until_complete(network.close())
        turns(loop, 2)
        assert witness.alive == []

    def test_never_started(self, loop, witness):
        async def main():
            server = await loop.create_server(Recorder, "127.0.0.1", 0, start_serving=False)
            witness.watch(server)
            server.close()

        loop.run_until_complete(main())
        assert witness.alive == []


class TestTasks:
    def test_ordinary(self, loop, witness):
        async def work(thing):
            await hops(2)
            return thing

        async def main():
            thing = Thing()
            tasks = [loop.create_task(work(thing)) for _ in range(3)]
            witness.watch(thing, *tasks)
            await asyncio.gather(*tasks)

        loop.run_until_complete(main())
        assert witness.alive == []

    def test_streams(self, loop, witness):
        async def handle(reader, writer):
            witness.watch(reader, writer, writer.transport)
            writer.write(await reader.readline())
            writer.close()

        async def main():
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            for _ in range(3):
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                witness.watch(reader, writer, writer.transport)
                writer.write(b"line\n")
                await reader.read()
                writer.close()
                await writer.wait_closed()
            server.close()
            await server.wait_closed()
            witness.watch(server)

        loop.run_until_complete(main())
        turns(loop, 2)
        assert witness.alive == []


variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")


def test_collections_at_every_moment(loop_factory):
    """A collection may come at any allocation: no object is seen before it is complete."""

    async def echo() -> bytes:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"data")
        loop.call_soon(int)
        loop.call_later(0, int)
        answer = await reader.read(100)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
        return answer

    async def serve(reader, writer):
        writer.write(await reader.read(100))
        writer.close()

    old = gc.get_threshold()
    # The test session's own objects would be walked each time.
    gc.freeze()
    try:
        for threshold in (1, 2, 3, 5, 7):
            gc.set_threshold(threshold)
            loop = loop_factory()
            asyncio.set_event_loop(loop)
            for _ in range(5):
                assert loop.run_until_complete(echo()) == b"data"
            shut_down(loop)
    finally:
        gc.set_threshold(*old)
        gc.unfreeze()
        asyncio.set_event_loop(None)
