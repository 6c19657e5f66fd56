"""Tools that time or trace callbacks wrap `asyncio.Handle._run`: they see what asyncio shows them.

asyncio runs every callback by a handle: those of the program, and its own that read, write and
accept. On oxloop an event of a transport or server is a handle that names the protocol's method.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import socket
import subprocess
import sys
import threading
from asyncio import events

import pytest

from .support import (
    PYTHON,
    TIME_LIMIT,
    BufferedRecorder,
    DatagramRecorder,
    Recorder,
    fill,
    module_of,
    run_script,
    turns,
)

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Tool:
    """Wraps `_run` of asyncio's handles, and knows whether code runs inside of it."""

    def __init__(self, monkeypatch, kind=events.Handle):
        self.monkeypatch = monkeypatch
        self.kind = kind
        self.depth = 0
        self.handles = []
        self.original = kind._run

    def start(self):
        tool, original = self, self.original

        def wrapper(handle):
            tool.handles.append(handle)
            tool.depth += 1
            try:
                return original(handle)
            finally:
                tool.depth -= 1

        self.monkeypatch.setattr(self.kind, "_run", wrapper)

    def stop(self):
        self.monkeypatch.setattr(self.kind, "_run", self.original)


@pytest.fixture
def tool(monkeypatch):
    return Tool(monkeypatch)


@pytest.fixture
def wrapped(tool):
    tool.start()
    return tool


class Depths:
    """Notes for each call whether it is seen by the tool."""

    def __init__(self, tool):
        self.tool = tool
        self.seen = []

    def __call__(self, *_):
        self.seen.append(self.tool.depth)


@pytest.fixture
def depths(tool):
    return Depths(tool)


async def by_call_soon(loop, network, note):
    loop.call_soon(note)


async def by_call_soon_threadsafe(loop, network, note):
    loop.call_soon_threadsafe(note)


async def by_another_thread(loop, network, note):
    await loop.run_in_executor(None, loop.call_soon_threadsafe, note)


async def by_call_later(loop, network, note):
    loop.call_later(0, note)


async def by_call_at(loop, network, note):
    loop.call_at(loop.time(), note)


async def by_a_task(loop, network, note):
    async def step():
        note()

    await loop.create_task(step())


async def by_a_done_callback(loop, network, note):
    future = loop.create_future()
    future.add_done_callback(note)
    future.set_result(None)


async def by_add_reader(loop, network, note):
    near, far = socket.socketpair()
    with near, far:
        done = asyncio.Event()

        def read():
            note()
            loop.remove_reader(near)
            done.set()

        loop.add_reader(near, read)
        far.send(b"x")
        await done.wait()


async def by_add_writer(loop, network, note):
    near, far = socket.socketpair()
    with near, far:
        done = asyncio.Event()

        def write():
            note()
            loop.remove_writer(near)
            done.set()

        loop.add_writer(near, write)
        await done.wait()


async def by_a_signal(loop, network, note):
    done = asyncio.Event()

    def hear():
        note()
        done.set()

    loop.add_signal_handler(signal.SIGUSR1, hear)
    signal.raise_signal(signal.SIGUSR1)
    await done.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


def noting(kind, note, method):
    """A recording protocol which notes the calls of a method."""

    class Noting(kind):
        pass

    def noted(self, *arguments):
        note()
        return getattr(kind, method)(self, *arguments)

    setattr(Noting, method, noted)
    return Noting()


async def by_data_received(loop, network, note):
    _, protocol, peer = await network.connect(noting(Recorder, note, "data_received"))
    peer.send(b"x")
    await protocol.received(1)


async def by_buffer_updated(loop, network, note):
    _, protocol, peer = await network.connect(noting(BufferedRecorder, note, "buffer_updated"))
    peer.send(b"x")
    await protocol.received(1)


async def by_get_buffer(loop, network, note):
    _, protocol, peer = await network.connect(noting(BufferedRecorder, note, "get_buffer"))
    peer.send(b"x")
    await protocol.received(1)


async def by_eof_received(loop, network, note):
    _, protocol, peer = await network.connect(noting(Recorder, note, "eof_received"))
    peer.shutdown()
    await protocol.called("eof_received")


async def by_connection_made(loop, network, note):
    await network.connect(noting(Recorder, note, "connection_made"))


async def by_connection_lost(loop, network, note):
    transport, protocol, _ = await network.connect(noting(Recorder, note, "connection_lost"))
    transport.close()
    await protocol.lost()


async def by_connection_lost_after_data(loop, network, note):
    protocol = noting(Recorder, note, "connection_lost")
    transport, _, peer = await network.connect(protocol, receive_buffer=4096)
    await fill(transport)
    transport.close()
    await peer.read_all()
    await protocol.lost()


async def by_resume_writing(loop, network, note):
    protocol = noting(Recorder, note, "resume_writing")
    transport, _, peer = await network.connect(protocol, receive_buffer=4096)
    await fill(transport)
    transport.set_write_buffer_limits(high=1)
    transport.write(b"x")
    reading = asyncio.ensure_future(peer.read_all())
    await protocol.called("resume_writing")
    transport.close()
    await reading


async def by_a_reset(loop, network, note):
    _, protocol, peer = await network.connect(noting(Recorder, note, "connection_lost"))
    peer.reset()
    assert isinstance(await protocol.lost(), ConnectionResetError)


async def by_a_server(loop, network, note):
    accepted = []

    def factory():
        note()
        accepted.append(Recorder())
        return accepted[-1]

    server = await network.serve(factory)
    network.dial(server)
    while not accepted:
        await asyncio.sleep(0)
    await accepted[0].called("connection_made")
    network.keep(accepted[0].transport)


async def by_datagram_received(loop, network, note):
    protocol = noting(DatagramRecorder, note, "datagram_received")
    transport, _ = await network.datagrams(protocol)
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", transport.get_extra_info("sockname"))
        await protocol.arrived()


async def by_error_received(loop, network, note):
    with socket.socket(type=socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = nobody.getsockname()
    protocol = noting(DatagramRecorder, note, "error_received")
    transport, _ = await network.datagrams(protocol, remote_addr=address)
    transport.sendto(b"x")
    await protocol.called("error_received")


async def by_a_pipe(loop, network, note):
    reader, writer = socket.socketpair()
    protocol = noting(Recorder, note, "data_received")
    transport, _ = await loop.connect_read_pipe(lambda: protocol, reader)
    with writer:
        writer.send(b"x")
        await protocol.received(1)
        transport.close()
        await protocol.lost()


async def by_a_child(loop, network, note):
    class Noting(asyncio.SubprocessProtocol):
        def process_exited(self):
            note()
            exited.set()

    exited = asyncio.Event()
    transport, _ = await loop.subprocess_exec(
        Noting, sys.executable, "-c", "", stdin=None, stdout=subprocess.DEVNULL, stderr=None
    )
    await exited.wait()
    transport.close()


SOURCES = [source for name, source in sorted(globals().items()) if name.startswith("by_")]


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
async def test_sees_each_callback(loop, network, wrapped, depths, source, debug):
    loop.set_debug(debug)
    await source(loop, network, depths)
    while not depths.seen:
        await asyncio.sleep(0)
    # By one handle each, and not by two of which one runs the other.
    assert set(depths.seen) == {1}
    assert all(isinstance(handle, asyncio.Handle) for handle in wrapped.handles)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
async def test_sees_nothing_once_it_is_gone(loop, network, tool, depths, source):
    tool.start()
    await asyncio.sleep(0)
    tool.stop()
    del tool.handles[:]
    await source(loop, network, depths)
    while not depths.seen:
        await asyncio.sleep(0)
    assert set(depths.seen) == {0}
    assert tool.handles == []


async def test_tls(loop, tls, wrapped, depths):
    protocol = noting(Recorder, depths, "data_received")
    _, _, peer = await tls.connect(protocol)
    peer.send(b"x")
    await protocol.received(1)
    assert set(depths.seen) == {1}


class TestAtAnyMoment:
    def test_between_two_callbacks_of_a_turn(self, loop, tool, depths):
        loop.call_soon(depths)
        loop.call_soon(tool.start)
        loop.call_soon(depths)
        loop.call_soon(tool.stop)
        loop.call_soon(depths)
        loop.call_soon(tool.start)
        loop.call_soon(depths)
        turns(loop)
        assert depths.seen == [0, 1, 0, 1]

    def test_by_another_thread(self, loop, tool, depths):
        def start():
            thread = threading.Thread(target=tool.start)
            thread.start()
            thread.join()

        loop.call_soon(start)
        loop.call_soon(depths)
        turns(loop)
        assert depths.seen == [1]

    def test_twice(self, loop, wrapped, depths, monkeypatch):
        """Each wrapper calls the one before."""
        second = Tool(monkeypatch)
        second.start()
        loop.call_soon(depths)
        turns(loop)
        assert depths.seen == [1]
        assert len(second.handles) == len(wrapped.handles) == 2

    async def test_by_the_protocol_that_is_called(self, loop, network, tool, depths):
        class Starts(Recorder):
            def data_received(self, data):
                depths()
                tool.start()
                super().data_received(data)

        _, protocol, peer = await network.connect(Starts())
        peer.send(b"x")
        await protocol.received(1)
        peer.send(b"x")
        await protocol.received(2)
        assert depths.seen == [0, 1]

    @pytest.mark.parametrize("count", [10, 3000])
    def test_after_many_changes(self, loop_spec, count):
        """CPython gives a class only so many version tags."""
        outcome = run_script(
            f"""
            from asyncio import events

            loop = new_event_loop()
            original, seen = events.Handle._run, []

            def wrapper(handle):
                seen.append(handle)
                return original(handle)

            def turn():
                loop.call_soon(loop.stop)
                loop.run_forever()

            for number in range({count}):
                events.Handle._run = wrapper
                turn()
                events.Handle._run = original
                turn()
            say(len(seen))
            loop.close()
            """,
            loop_spec,
        )
        assert outcome.check() == f"{count}\n"

    def test_before_the_loop_is_imported(self):
        outcome = run_script(
            """
            assert "oxloop" not in sys.modules
            from asyncio import events
            original, seen = events.Handle._run, []

            def wrapper(handle):
                seen.append(handle)
                return original(handle)

            wrapper.__name__ = wrapper.__qualname__ = "_run"
            wrapper.__module__ = "asyncio.events"
            events.Handle._run = wrapper
            import oxloop

            for factory in (asyncio.new_event_loop, oxloop.new_event_loop):
                loop = factory()
                loop.call_soon(loop.stop)
                loop.run_forever()
                loop.close()
                say(len(seen))
            events.Handle._run = original
            loop = oxloop.new_event_loop()
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.close()
            say(len(seen))
            """,
            "asyncio:new_event_loop",
        )
        assert outcome.check().split() == ["1", "2", "2"]


class TestOfOneClass:
    def test_of_timers(self, loop, monkeypatch):
        tool = Tool(monkeypatch, events.TimerHandle)
        depths = Depths(tool)
        tool.start()
        loop.call_soon(depths)
        turns(loop)
        loop.call_later(0, depths)
        turns(loop, 2)
        assert depths.seen == [0, 1]

    @pytest.mark.skipif(PYTHON < (3, 14), reason="thread-safe handles are new in 3.14")
    def test_of_thread_safe_handles(self, loop, monkeypatch):
        tool = Tool(monkeypatch, events._ThreadSafeHandle)
        depths = Depths(tool)
        tool.start()
        loop.call_soon(depths)
        loop.call_soon_threadsafe(depths)
        turns(loop)
        assert depths.seen == [0, 1]

    @pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later"])
    def test_of_the_class_that_the_loop_makes(self, loop, monkeypatch, method):
        """oxloop's are subclasses of asyncio's."""
        delay = (0,) if method == "call_later" else ()
        kind = type(getattr(loop, method)(*delay, int))
        tool = Tool(monkeypatch, kind)
        depths = Depths(tool)
        tool.start()
        getattr(loop, method)(*delay, depths)
        turns(loop, 2)
        tool.stop()
        getattr(loop, method)(*delay, depths)
        turns(loop, 2)
        assert depths.seen == [1, 0]


class TestWhatTheWrapperDoes:
    """Whatever it does is what happens, as on asyncio."""

    @pytest.fixture
    def replace(self, monkeypatch):
        original = events.Handle._run

        def replace(run):
            monkeypatch.setattr(events.Handle, "_run", lambda handle: run(original, handle))

        return replace

    def test_calls_nothing(self, loop, replace):
        calls = []
        loop.call_soon(loop.stop)
        loop.call_soon(replace, lambda original, handle: None)
        loop.call_soon(calls.append, 1)
        loop.run_forever()
        assert calls == []

    def test_calls_twice(self, loop, replace):
        calls = []
        loop.call_soon(loop.stop)
        loop.call_soon(replace, lambda original, handle: (original(handle), original(handle)))
        loop.call_soon(calls.append, 1)
        loop.run_forever()
        assert calls == [1, 1]

    @pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
    @pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
    def test_raises_in_front_of_a_callback(self, loop, replace, error, monkeypatch, debug):
        """It leaves the loop, which runs on with what is left."""
        loop.set_debug(debug)
        calls = []

        def raises(original, handle):
            monkeypatch.undo()
            raise error

        loop.call_soon(replace, raises)
        loop.call_soon(calls.append, 1)
        loop.call_soon(calls.append, 2)
        with pytest.raises(error):
            loop.run_forever()
        assert calls == []
        assert getattr(loop, "_current_handle", None) is None
        turns(loop)
        assert calls == [2]

    @pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
    @pytest.mark.parametrize("method", ["data_received", "eof_received", "connection_lost"])
    def test_raises_behind_an_event(self, loop, network, replace, error, method, monkeypatch):
        async def connect():
            return await network.connect(noting(Recorder, arrived.set, method))

        def raises(original, handle):
            original(handle)
            if arrived.is_set():
                monkeypatch.undo()
                raise error

        arrived = threading.Event()
        _, protocol, peer = loop.run_until_complete(connect())
        replace(raises)
        if method == "data_received":
            peer.send(b"x")
        else:
            peer.shutdown()
        with pytest.raises(error):
            loop.run_until_complete(asyncio.sleep(TIME_LIMIT))
        assert protocol.calls.count(method) == 1
        if method == "data_received":
            peer.shutdown()
        loop.run_until_complete(protocol.lost())

    def test_sees_what_leaves_the_loop(self, loop, network, replace):
        seen = []

        def look(original, handle):
            try:
                original(handle)
            except KeyboardInterrupt as error:
                seen.append(error)
                raise

        class Interrupts(Recorder):
            def data_received(self, data):
                super().data_received(data)
                raise KeyboardInterrupt

        replace(look)
        _, protocol, peer = loop.run_until_complete(network.connect(Interrupts()))
        peer.send(b"x")
        with pytest.raises(KeyboardInterrupt) as caught:
            loop.run_until_complete(protocol.received(2))
        assert seen == [caught.value]

    def test_errors_are_reported_with_the_handle(self, loop, wrapped, error_contexts):
        def fails():
            raise LookupError

        handle = loop.call_soon(fails)
        turns(loop)
        context = error_contexts.pop()
        assert context["handle"] is handle
        assert isinstance(context["exception"], LookupError)
        assert "fails()" in context["message"]

    async def test_errors_of_a_protocol_are_reported_as_ever(
        self, loop, network, wrapped, error_contexts
    ):
        class Fails(Recorder):
            def data_received(self, data):
                raise LookupError

        transport, protocol, peer = await network.connect(Fails())
        peer.send(b"x")
        assert isinstance(await protocol.lost(), LookupError)
        context = error_contexts.pop()
        assert isinstance(context["exception"], LookupError)
        assert context["transport"] is transport

    def test_a_cancelled_handle_is_not_shown(self, loop, wrapped):
        for handle in (
            loop.call_soon(pytest.fail),
            loop.call_soon_threadsafe(pytest.fail),
            loop.call_later(0, pytest.fail),
        ):
            handle.cancel()
        turns(loop, 2)
        assert not any(handle.cancelled() for handle in wrapped.handles)


class TestTheHandle:
    def test_is_the_one_that_was_returned(self, loop, wrapped):
        handles = [loop.call_soon(int), loop.call_soon_threadsafe(int), loop.call_later(0, int)]
        turns(loop, 2)
        assert [handle for handle in wrapped.handles if handle in handles] == handles

    async def test_of_an_event_runs_in_the_connections_context(self, loop, network, wrapped):
        contexts = []

        class Looks(Recorder):
            def data_received(self, data):
                contexts.append((wrapped.handles[-1]._context, variable.get()))
                super().data_received(data)

        token = variable.set("connected")
        _, protocol, peer = await network.connect(Looks())
        variable.reset(token)
        peer.send(b"x")
        await protocol.received(1)
        ((context, value),) = contexts
        assert value == context[variable] == "connected"

    async def test_of_an_event_names_the_protocol(self, loop_spec, network, wrapped):
        if module_of(loop_spec) == "asyncio":
            pytest.skip("asyncio names the transport's method")
        reprs = []

        class Looks(Recorder):
            def data_received(self, data):
                reprs.append(repr(wrapped.handles[-1]))
                callback = wrapped.handles[-1]._callback
                assert callback.__self__ is self
                assert callback.__func__ is Looks.data_received
                super().data_received(data)

        _, protocol, peer = await network.connect(Looks())
        peer.send(b"x")
        await protocol.received(1)
        assert "Looks.data_received()" in reprs[0]


async def test_an_event_happens_once(loop_spec, network, wrapped):
    """Whoever has kept its callback calls it in vain, and no other thread may call it."""
    if module_of(loop_spec) == "asyncio":
        pytest.skip("on asyncio it reads again")
    kept, errors = [], []

    class Keeps(Recorder):
        def data_received(self, data):
            callback = wrapped.handles[-1]._callback
            thread = threading.Thread(target=call_elsewhere, args=(callback,))
            thread.start()
            thread.join()
            callback()
            kept.append(callback)
            super().data_received(data)

    def call_elsewhere(callback):
        try:
            callback()
        except RuntimeError as error:
            errors.append(error)

    _, protocol, peer = await network.connect(Keeps())
    peer.send(b"x")
    await protocol.received(1)
    kept[0]()
    assert bytes(protocol.data) == b"x"
    assert len(errors) == 1
    assert "data_received" in repr(kept[0])
