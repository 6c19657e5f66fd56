"""Debug mode: what is checked, logged, warned of and kept (asyncio: "Debug Mode")."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import signal
import socket
import sys
import threading
import types
import warnings
from typing import ClassVar

import pytest

from .support import (
    PYTHON,
    Recorder,
    child,
    hops,
    run_script,
    script,
    turns,
)


@pytest.fixture
def debugged(loop):
    """The loop in debug mode, with asyncio's own exception handler."""
    loop.set_debug(True)
    loop.set_exception_handler(None)
    return loop


async def coroutine_function():
    """Refused as a callback."""


@types.coroutine
def generator_coroutine():
    """Refused as well."""
    yield


class TestSwitch:
    @pytest.mark.parametrize("value", [1, 0, "yes", "", None, []])
    def test_takes_any_truth_value(self, loop, value):
        loop.set_debug(value)
        assert bool(loop.get_debug()) is bool(value)
        assert bool(loop._debug) is bool(value)
        loop._debug = not value
        assert bool(loop.get_debug()) is not bool(value)

    def test_repr(self, loop):
        assert "debug=False" in repr(loop)
        loop.set_debug(True)
        assert "debug=True" in repr(loop)

    @pytest.mark.parametrize("value", ["", "0", "1"])
    def test_environment_variable(self, loop_spec, value):
        body = f"""
        os.environ["PYTHONASYNCIODEBUG"] = {value!r}
        loop = new_event_loop()
        say(loop.get_debug())
        loop.close()
        """
        assert run_script(body, loop_spec).check() == f"{bool(value)}\n"

    def test_development_mode(self, loop_spec):
        body = """
        loop = new_event_loop()
        say(loop.get_debug())
        loop.close()
        """
        with child("-X", "dev", *script(body, loop_spec)) as program:
            assert program.finish().check() == "True\n"

    def test_asyncio_run(self, loop_factory):
        async def main():
            return asyncio.get_running_loop().get_debug()

        if PYTHON < (3, 11):
            pytest.skip("Runner is new in 3.11")
        with asyncio.Runner(debug=True, loop_factory=loop_factory) as runner:
            assert runner.run(main()) is True

    def test_slow_callback_duration(self, loop):
        assert loop.slow_callback_duration == 0.1
        loop.slow_callback_duration = 5
        assert loop.slow_callback_duration == 5


class TestOriginTracking:
    async def test_while_running_only(self, loop):
        """set_debug takes effect in the next turn of a loop that runs, from any thread."""
        assert sys.get_coroutine_origin_tracking_depth() == 0
        loop.set_debug(True)
        assert sys.get_coroutine_origin_tracking_depth() == 0
        await hops(2)
        assert sys.get_coroutine_origin_tracking_depth() > 0
        coroutine = coroutine_function()
        assert coroutine.cr_origin[0][2] == "test_while_running_only"
        coroutine.close()
        await asyncio.to_thread(loop.set_debug, False)
        await hops(2)
        assert sys.get_coroutine_origin_tracking_depth() == 0

    def test_the_program_s_depth_is_restored(self, loop):
        async def depth():
            return sys.get_coroutine_origin_tracking_depth()

        sys.set_coroutine_origin_tracking_depth(3)
        try:
            loop.set_debug(True)
            assert loop.run_until_complete(depth()) > 3
            assert sys.get_coroutine_origin_tracking_depth() == 3
            loop.set_debug(False)
            assert loop.run_until_complete(depth()) == 3
        finally:
            sys.set_coroutine_origin_tracking_depth(0)

    def test_a_coroutine_that_was_never_awaited(self, loop_spec):
        """The warning tells where it was made."""
        outcome = run_script(
            """
            async def forgotten():
                pass

            async def makes_it():
                forgotten()

            loop = new_event_loop()
            loop.set_debug(True)
            loop.run_until_complete(makes_it())
            loop.close()
            """,
            loop_spec,
        )
        assert outcome.code == 0
        assert "coroutine 'forgotten' was never awaited" in outcome.errors
        assert "Coroutine created at (most recent call last)" in outcome.errors
        assert "in makes_it" in outcome.errors


class TestChecks:
    METHODS: ClassVar = {
        "call_soon": (),
        "call_soon_threadsafe": (),
        "call_later": (60,),
        "call_at": (60,),
        "run_in_executor": (None,),
    }

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        "callback",
        [coroutine_function, generator_coroutine, functools.partial(coroutine_function)],
        ids=["coroutine_function", "generator_coroutine", "partial"],
    )
    def test_coroutine_functions(self, loop, method, callback):
        expected = refused_kinds(callback)
        loop.set_debug(True)
        name = "call_at" if method == "call_later" else method
        schedule = functools.partial(getattr(loop, method), *self.METHODS[method], callback)
        if expected:
            with pytest.raises(TypeError, match=rf"coroutines cannot be used with {name}\(\)"):
                schedule()
        else:
            schedule().cancel()
        loop.set_debug(False)
        if method != "run_in_executor":
            schedule().cancel()

    @pytest.mark.parametrize("method", METHODS)
    def test_coroutines(self, loop, method):
        loop.set_debug(True)
        coroutine = coroutine_function()
        with pytest.raises(TypeError, match="coroutines cannot be used with"):
            getattr(loop, method)(*self.METHODS[method], coroutine)
        coroutine.close()

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("callback", [None, 5, "text"])
    def test_what_cannot_be_called(self, loop, method, callback):
        loop.set_debug(True)
        name = "call_at" if method == "call_later" else method
        text = rf"a callable object was expected by {name}\(\), got {callback!r}"
        with pytest.raises(TypeError, match=text):
            getattr(loop, method)(*self.METHODS[method], callback)

    def test_an_overridden_check(self, loop, monkeypatch):
        """The checks are methods, as in asyncio: a program may have its own."""

        def check(callback, method):
            raise LookupError(method)

        monkeypatch.setattr(loop, "_check_callback", check)
        loop.set_debug(True)
        with pytest.raises(LookupError, match="call_soon"):
            loop.call_soon(print)
        loop.set_debug(False)

    @pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
    async def test_another_thread(self, loop, method):
        schedule = functools.partial(getattr(loop, method), *self.METHODS[method], print, "")
        (await asyncio.to_thread(schedule)).cancel()
        loop.set_debug(True)
        with pytest.raises(RuntimeError, match=r"^Non-thread-safe operation invoked on an event"):
            await asyncio.to_thread(schedule)
        threadsafe = functools.partial(loop.call_soon_threadsafe, print, "")
        (await asyncio.to_thread(threadsafe)).cancel()

    def test_no_thread_is_wrong_while_the_loop_does_not_run(self, loop):
        loop.set_debug(True)
        handles = []
        thread = threading.Thread(target=lambda: handles.append(loop.call_soon(print, "")))
        thread.start()
        thread.join()
        handles.pop().cancel()

    async def test_futures_are_not_checked(self, loop):
        """create_future and create_task of another thread pass, until something is scheduled."""
        loop.set_debug(True)
        future = await asyncio.to_thread(loop.create_future)
        assert not future.done()


def refused_kinds(callback):
    """What the running Python's asyncio takes for a coroutine function."""
    coroutines = asyncio.coroutines
    known = getattr(coroutines, "_iscoroutinefunction", None) or coroutines.iscoroutinefunction
    return known(callback)


class TestSlowCallbacks:
    @pytest.fixture
    def slow(self, debugged):
        """A loop to which every callback is slow."""
        debugged.slow_callback_duration = 0
        return debugged

    def said(self, caplog, *words):
        return [
            message
            for message in caplog.messages
            if message.startswith("Executing ") and all(word in message for word in words)
        ]

    def test_a_callback(self, slow, caplog):
        def own_callback():
            pass

        slow.call_soon(own_callback)
        slow.call_soon_threadsafe(own_callback)
        slow.call_later(0, own_callback)
        turns(slow, 2)
        messages = self.said(caplog, "own_callback")
        assert len(messages) == 3
        where = f"created at {__file__}:"
        for message, kind in zip(messages, ("Handle", "Handle", "TimerHandle"), strict=True):
            assert f"{kind} " in message
            assert where in message
            assert message.endswith(" seconds")
            assert len(message.split(" took ")[1].split()[0].partition(".")[2]) == 3
        assert caplog.records[0].levelno == logging.WARNING
        assert caplog.records[0].name == "asyncio"

    def test_a_task(self, slow, caplog):
        async def own_coroutine():
            pass

        task = slow.create_task(own_coroutine(), name="own task")
        slow.run_until_complete(task)
        assert self.said(caplog, "<Task ", "own task", "own_coroutine")

    def test_a_cancelled_handle_keeps_its_name(self, slow, caplog):
        def cancels_itself():
            handle.cancel()

        handle = slow.call_soon(cancels_itself)
        turns(slow)
        assert self.said(caplog, "cancels_itself")

    def test_an_exception_is_told_first(self, slow, caplog):
        def fails():
            raise LookupError

        slow.call_soon(fails)
        turns(slow)
        assert caplog.messages[0].startswith("Exception in callback ")
        assert self.said(caplog, "fails")

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_what_leaves_the_loop_is_not_logged(self, slow, caplog, error):
        def leaves():
            raise error

        slow.call_soon(leaves)
        with pytest.raises(error):
            slow.run_forever()
        assert not self.said(caplog, "leaves")
        assert slow._current_handle is None

    def test_quick_ones_are_not_logged(self, debugged, caplog):
        debugged.slow_callback_duration = 1000
        debugged.call_soon(print, "")
        turns(debugged)
        assert not caplog.messages

    def test_not_without_debug_mode(self, slow, caplog):
        slow.set_debug(False)
        slow.call_soon(print, "")
        turns(slow)
        assert not caplog.messages

    def test_a_watcher(self, slow, caplog):
        def own_reader():
            slow.remove_reader(near)

        near, far = socket.socketpair()
        with near, far:
            slow.add_reader(near, own_reader)
            far.send(b"data")
            turns(slow)
        assert self.said(caplog, "own_reader")

    async def test_a_protocol(self, slow, network, caplog):
        """What a protocol does with its data is timed as well."""
        _, protocol, peer = await network.connect(Recorder(keep_open=True))
        caplog.clear()
        peer.send(b"data")
        await protocol.received(4)
        assert self.said(caplog, "Handle ", loop_word(slow, "_read_ready", "data_received"))
        caplog.clear()
        peer.shutdown()
        await protocol.called("eof_received")
        await hops()
        assert self.said(caplog, "Handle ", loop_word(slow, "_read_ready", "eof_received"))

    async def test_a_protocol_factory(self, slow, network, caplog):
        def own_factory():
            return Recorder()

        server = await network.serve(own_factory)
        caplog.clear()
        network.dial(server)
        word = loop_word(slow, "_accept_connection2", "own_factory")
        while not self.said(caplog, word):  # no callback announces it
            await asyncio.sleep(0.001)

    @pytest.mark.parametrize("duration", [None, "text"])
    def test_a_duration_that_is_no_number(self, debugged, duration):
        debugged.slow_callback_duration = duration
        debugged.call_soon(debugged.stop)
        with pytest.raises(TypeError, match="'>=' not supported"):
            debugged.run_forever()
        debugged.slow_callback_duration = 0.1


def loop_word(loop, stock, native):
    """The name of a callback that is asyncio's own, or as oxloop names it."""
    return stock if type(loop).__module__.startswith("asyncio") else native


class TestCurrentHandle:
    def test_is_the_one_that_runs(self, debugged):
        seen = []
        handle = debugged.call_soon(lambda: seen.append(debugged._current_handle))
        turns(debugged)
        assert seen == [handle]
        assert debugged._current_handle is None

    def test_only_in_debug_mode(self, loop):
        seen = []
        loop.call_soon(lambda: seen.append(loop._current_handle))
        turns(loop)
        assert seen == [None]

    def test_its_traceback_is_logged(self, debugged, caplog):
        """An error that has no source of its own is told with that of the running handle."""
        report = {"message": "told"}
        debugged.call_soon(debugged.call_exception_handler, report)
        turns(debugged)
        message = caplog.messages[0]
        assert message.startswith("told\nhandle_traceback: Handle created at (most recent call")
        assert "test_its_traceback_is_logged" in message.splitlines()[-2]
        assert report["handle_traceback"][-1].name == "test_its_traceback_is_logged"

    def test_not_beside_the_source(self, debugged, caplog):
        def fails():
            raise LookupError

        debugged.call_soon(fails)
        turns(debugged)
        message = caplog.messages[0]
        assert "source_traceback: Object created at (most recent call last):" in message
        assert "handle_traceback" not in message

    async def test_of_a_protocol(self, debugged, network, caplog):
        class Fails(Recorder):
            def data_received(self, data):
                raise LookupError

        _, protocol, peer = await network.connect(Fails())
        peer.send(b"data")
        await protocol.lost()
        [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
        message = record.getMessage()
        assert message.startswith("Fatal error: protocol.data_received() call failed.\n")
        assert "handle_traceback: Handle created at (most recent call last):" in message
        assert record.exc_info[2].tb_frame is not None


class TestSourceTracebacks:
    """The last frame is the user's call, or asyncio's own beneath it."""

    @pytest.mark.parametrize(
        ("method", "arguments"),
        [
            ("call_soon", ()),
            ("call_soon_threadsafe", ()),
            ("call_later", (60,)),
            ("call_at", (60,)),
        ],
    )
    def test_handles(self, debugged, method, arguments):
        def schedules():
            return getattr(debugged, method)(*arguments, print)

        handle = schedules()
        names = [frame.name for frame in handle._source_traceback[-2:]]
        assert names == ["test_handles", "schedules"]
        line = handle._source_traceback[-1].lineno
        assert repr(handle).endswith(f"created at {__file__}:{line}>")
        handle.cancel()
        assert repr(handle).endswith(f"created at {__file__}:{line}>")
        debugged.set_debug(False)
        handle = schedules()
        assert handle._source_traceback is None
        handle.cancel()

    async def test_tasks(self, debugged):
        async def creates():
            return debugged.create_task(coroutine_function())

        task = await creates()
        assert task._source_traceback[-1].name == "creates"
        await task

    async def test_futures(self, debugged):
        def creates():
            return debugged.create_future()

        names = [frame.name for frame in creates()._source_traceback]
        assert names[-1] in ("creates", "create_future")
        assert "creates" in names

    def test_a_task_nobody_asked(self, debugged, caplog):
        async def fails():
            raise LookupError

        def creates():
            return debugged.create_task(fails())

        task = creates()
        turns(debugged, 2)
        del task
        gc.collect()
        message = caplog.messages[0]
        assert message.startswith("Task exception was never retrieved")
        assert "source_traceback: Object created at (most recent call last):" in message
        assert "in creates" in message

    async def test_stream_readers(self, debugged):
        reader = asyncio.StreamReader()
        assert reader._source_traceback[-1].name == "test_stream_readers"


class TestExceptions:
    @pytest.mark.parametrize("debug", [False, True])
    def test_the_traceback_comes_along(self, loop, error_contexts, debug):
        """The exception handler can show where a callback failed."""

        def fails():
            raise LookupError

        loop.set_debug(debug)
        loop.call_soon(fails)
        turns(loop)
        context = error_contexts.pop()
        traceback = context["exception"].__traceback__
        while traceback.tb_next is not None:
            traceback = traceback.tb_next
        assert traceback.tb_frame.f_code.co_name == "fails"
        assert ("source_traceback" in context) is debug

    async def test_of_a_protocol(self, loop, network, error_contexts):
        class Fails(Recorder):
            def data_received(self, data):
                raise LookupError

        _, protocol, peer = await network.connect(Fails())
        peer.send(b"data")
        error = await protocol.lost()
        assert error_contexts.pop()["exception"] is error
        traceback = error.__traceback__
        while traceback.tb_next is not None:
            traceback = traceback.tb_next
        assert traceback.tb_frame.f_code.co_name == "data_received"

    @pytest.mark.parametrize("debug", [False, True])
    async def test_of_connection_made(self, loop, network, error_contexts, debug):
        class Fails(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise LookupError

        loop.set_debug(debug)
        transport, _, _ = await network.connect(Fails())
        assert ("source_traceback" in error_contexts.pop()) is debug
        transport.abort()

    @pytest.mark.skipif(PYTHON < (3, 13), reason="arguments are shown everywhere before 3.13")
    def test_arguments_are_shown_in_debug_mode_only(self, loop, error_contexts):
        def fails(secret):
            raise LookupError

        loop.call_soon(fails, "password")
        turns(loop)
        assert "password" not in error_contexts.pop()["message"]
        loop.set_debug(True)
        loop.call_soon(fails, "password")
        turns(loop)
        assert "password" in error_contexts.pop()["message"]


class TestLogs:
    async def test_connections(self, debugged, network, caplog):
        caplog.set_level(logging.DEBUG, "asyncio")
        server = await network.serve()
        transport, _ = await debugged.create_connection(Recorder, *server.sockets[0].getsockname())
        await hops(3)
        transport.pause_reading()
        transport.resume_reading()
        transport.abort()
        await hops(3)
        said = [message for message in caplog.messages if "Executing" not in message]
        assert said[0] == f"{server!r} is serving"
        accepted = [message for message in said if " got a new connection from " in message]
        assert len(accepted) == 1
        assert accepted[0].startswith(f"{server!r} got a new connection from ('127.0.0.1', ")
        assert "<socket.socket fd=" in accepted[0]
        assert any(" connected to 127.0.0.1:" in message for message in said)
        assert any(message.endswith(" pauses reading") for message in said)
        assert any(message.endswith(" resumes reading") for message in said)
        assert said[-1].endswith(" received EOF")

    def test_close(self, loop_factory, caplog):
        caplog.set_level(logging.DEBUG, "asyncio")
        loop = loop_factory()
        loop.set_debug(True)
        loop.close()
        assert caplog.messages[-1].startswith("Close <")


class TestUnclosed:
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_a_loop(self, loop_factory):
        loop = loop_factory()
        text = f"unclosed event loop {loop!r}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del loop
            gc.collect()
        [warning] = [w for w in caught if "event loop" in str(w.message)]
        assert warning.category is ResourceWarning
        assert str(warning.message) == text
        assert warning.source is not None

    def test_a_transport(self, loop_factory):
        loop = loop_factory()
        near, far = socket.socketpair()
        with far:
            loop.run_until_complete(loop.create_connection(Recorder, sock=near))
            number = near.fileno()
            loop.close()
            del near
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                gc.collect()
        [warning] = [w for w in caught if "unclosed transport" in str(w.message)]
        assert warning.category is ResourceWarning
        assert str(warning.message).endswith(f"Transport fd={number}>")
        assert warning.source is not None


def test_signal_handlers_are_checked_always(loop):
    for debug in (False, True):
        loop.set_debug(debug)
        with pytest.raises(TypeError, match="coroutines cannot be used with add_signal_handler"):
            loop.add_signal_handler(signal.SIGUSR1, coroutine_function)


def test_a_busy_loop(loop):
    """Everything works with the checks on: an echo by streams."""

    async def main():
        async def serve(reader, writer):
            writer.write(await reader.readexactly(4))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"echo")
        assert await reader.read() == b"echo"
        writer.close()
        server.close()
        await server.wait_closed()

    loop.set_debug(True)
    loop.run_until_complete(main())
