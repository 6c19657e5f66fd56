"""Running and stopping the loop (asyncio event loop page, "Running and stopping the loop")."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
import weakref

import pytest

from .support import (
    PYTHON,
    TIME_LIMIT,
    LoopFactory,
    hops,
    run_script,
    skip_stock_bug,
    turns,
    type_of,
)


def test_loop_is_an_asyncio_loop(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert not loop.is_running()
    assert not loop.is_closed()


class TestRunForever:
    def test_runs_until_stop(self, loop):
        calls = []
        loop.call_soon(calls.append, 1)
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
        assert calls == [1]

    def test_is_running_and_is_the_running_loop_in_callbacks(self, loop):
        seen = []

        def look():
            seen.append((loop.is_running(), asyncio.get_running_loop() is loop))
            loop.stop()

        loop.call_soon(look)
        loop.run_forever()
        assert seen == [(True, True)]
        assert not loop.is_running()
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()

    def test_stop_before_run_makes_one_turn(self, loop):
        calls = []
        loop.stop()
        loop.call_soon(calls.append, "this turn")
        loop.call_soon(lambda: loop.call_soon(calls.append, "next turn"))
        loop.run_forever()
        assert calls == ["this turn"]
        turns(loop)
        assert calls == ["this turn", "next turn"]

    def test_stop_lets_the_turn_finish(self, loop):
        calls = []

        def stop():
            loop.stop()
            loop.call_soon(calls.append, "scheduled after stop")

        loop.call_soon(stop)
        loop.call_soon(calls.append, "scheduled before")
        loop.run_forever()
        assert calls == ["scheduled before"]
        turns(loop)
        assert calls == ["scheduled before", "scheduled after stop"]

    def test_stop_twice_is_one_stop(self, loop):
        loop.call_soon(loop.stop)
        loop.call_soon(loop.stop)
        loop.run_forever()
        calls = []
        loop.call_soon(lambda: loop.call_soon(lambda: (calls.append(1), loop.stop())))
        loop.run_forever()
        assert calls == [1]

    def test_restarts_after_stop(self, loop):
        for _ in range(3):
            loop.call_soon(loop.stop)
            loop.run_forever()
            assert not loop.is_running()

    def test_stop_from_another_thread(self, loop):
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_base_exceptions_leave_and_the_rest_runs_later(self, loop, error):
        calls = []

        def leave():
            raise error

        loop.call_soon(calls.append, 1)
        loop.call_soon(leave)
        loop.call_soon(calls.append, 2)
        with pytest.raises(error):
            loop.run_forever()
        assert calls == [1]
        assert not loop.is_running()
        turns(loop)
        assert calls == [1, 2]

    def test_an_ordinary_exception_does_not_leave(self, loop, error_contexts):
        loop.call_soon(lambda: 1 / 0)
        loop.call_soon(loop.stop)
        loop.run_forever()
        context = error_contexts.pop()
        assert isinstance(context["exception"], ZeroDivisionError)
        assert not context["handle"].cancelled()
        assert context["message"].startswith("Exception in callback")

    def test_runs_in_another_thread(self, loop):
        identities = []

        def run():
            loop.call_soon(lambda: identities.append(threading.get_ident()))
            loop.call_soon(loop.stop)
            loop.run_forever()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert identities == [thread.ident]


class TestRunUntilComplete:
    def test_returns_the_result(self, loop):
        async def main():
            await hops(2)
            return 42

        assert loop.run_until_complete(main()) == 42

    def test_raises_the_exception(self, loop):
        async def main():
            raise LookupError("nothing")

        with pytest.raises(LookupError, match="nothing"):
            loop.run_until_complete(main())

    def test_takes_a_future(self, loop):
        future = loop.create_future()
        loop.call_soon(future.set_result, "done")
        assert loop.run_until_complete(future) == "done"

    def test_takes_a_done_future(self, loop):
        future = loop.create_future()
        future.set_result("at once")
        assert loop.run_until_complete(future) == "at once"

    def test_takes_an_awaitable(self, loop):
        class Awaitable:
            def __await__(self):
                yield from asyncio.sleep(0).__await__()
                return "awaited"

        assert loop.run_until_complete(Awaitable()) == "awaited"

    def test_refuses_what_is_not_awaitable(self, loop):
        with pytest.raises(TypeError):
            loop.run_until_complete(42)

    def test_refuses_a_future_of_another_loop(self, loop, loop_factory: LoopFactory):
        other = loop_factory()
        try:
            with pytest.raises(ValueError):
                loop.run_until_complete(other.create_future())
        finally:
            other.close()

    def test_stopped_early(self, loop):
        future = loop.create_future()
        loop.call_soon(loop.stop)
        with pytest.raises(RuntimeError, match="Event loop stopped before Future completed"):
            loop.run_until_complete(future)
        # The callback that stops the loop is gone: finishing the future later stops nothing.
        future.set_result(None)
        calls = []
        loop.call_soon(lambda: loop.call_soon(calls.append, 1))
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
        assert calls == [1]

    def test_a_cancelled_task_raises_cancelled_error(self, loop):
        async def main():
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(main())

    def test_system_exit_in_the_task(self, loop):
        async def main():
            sys.exit(3)

        with pytest.raises(SystemExit) as caught:
            loop.run_until_complete(main())
        assert caught.value.code == 3


class TestNesting:
    """A running loop refuses to be run again, and so does any other loop in its thread."""

    @pytest.fixture(autouse=True)
    def _skip_broken(self, loop_spec):
        skip_stock_bug(loop_spec, PYTHON == (3, 13), "a refused run_forever() unsets the loop")

    async def test_the_same_loop(self, loop):
        with pytest.raises(RuntimeError, match="This event loop is already running"):
            loop.run_forever()
        future = loop.create_future()
        with pytest.raises(RuntimeError, match="This event loop is already running"):
            loop.run_until_complete(future)

    async def test_another_loop(self, loop, loop_factory: LoopFactory):
        other = loop_factory()
        try:
            with pytest.raises(RuntimeError, match="while another loop is running"):
                other.run_forever()
            future = other.create_future()
            with pytest.raises(RuntimeError, match="while another loop is running"):
                other.run_until_complete(future)
            assert asyncio.get_running_loop() is loop
        finally:
            other.close()

    def test_from_another_thread(self, loop):
        errors = []

        def run():
            try:
                loop.run_forever()
            except RuntimeError as error:
                errors.append(str(error))
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=run)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
        assert errors == ["This event loop is already running"]

    def test_a_failed_nested_run_leaves_the_loop_as_it_was(self, loop, loop_factory: LoopFactory):
        other = loop_factory()

        def nest():
            with pytest.raises(RuntimeError):
                other.run_forever()
            loop.stop()

        loop.call_soon(nest)
        loop.run_forever()
        turns(other)
        other.close()


class TestClose:
    def test_is_closed(self, loop):
        loop.close()
        assert loop.is_closed()
        assert not loop.is_running()

    def test_twice_is_once(self, loop):
        loop.close()
        loop.close()

    async def test_while_running(self, loop):
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()

    def test_closed_loop_refuses_everything(self, loop):
        loop.close()
        attempts = [
            lambda: loop.run_forever(),
            lambda: loop.call_soon(print),
            lambda: loop.call_soon_threadsafe(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
            lambda: loop.run_in_executor(None, print),
        ]
        for attempt in attempts:
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                attempt()

    def test_closed_loop_refuses_coroutines(self, loop):
        loop.close()

        async def main():
            pytest.fail("this must not run")

        coroutine = main()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.run_until_complete(coroutine)
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.create_task(coroutine)
        coroutine.close()

    def test_drops_pending_callbacks(self, loop):
        class Callback:
            def __call__(self):
                pytest.fail("this must not run")

        callbacks = [Callback(), Callback()]
        dropped = [weakref.ref(callback) for callback in callbacks]
        loop.call_soon(callbacks[0])
        loop.call_later(0, callbacks[1])
        callbacks.clear()
        loop.close()
        gc.collect()
        assert [reference() for reference in dropped] == [None, None]

    def test_stop_on_a_closed_loop_is_harmless(self, loop):
        loop.close()
        loop.stop()

    def test_unclosed_loop_warns(self, loop_factory: LoopFactory):
        loop = loop_factory()
        with pytest.warns(ResourceWarning, match="unclosed event loop"):
            del loop
            gc.collect()

    def test_time_is_still_told(self, loop):
        loop.close()
        assert loop.time() > 0


class TestRepr:
    def test_names_the_state(self, loop):
        assert type(loop).__name__ in repr(loop)
        assert "running=False closed=False debug=False" in repr(loop)
        shown = []
        loop.call_soon(lambda: shown.append(repr(loop)))
        turns(loop)
        assert "running=True" in shown[0]
        loop.close()
        assert "closed=True" in repr(loop)


class TestAsyncGenerators:
    """`shutdown_asyncgens` and the hooks the loop sets while it runs."""

    def test_hooks_are_set_while_running_and_restored(self, loop):
        def firstiter(generator):
            pytest.fail("a hook from outside must not be called on the loop")

        outside = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=firstiter)
        try:
            inside = []
            loop.call_soon(lambda: inside.append(sys.get_asyncgen_hooks()))
            turns(loop)
            assert inside[0].firstiter is not firstiter
            assert inside[0].finalizer is not None
            assert sys.get_asyncgen_hooks().firstiter is firstiter
        finally:
            sys.set_asyncgen_hooks(*outside)

    def test_hooks_are_restored_when_an_exception_leaves(self, loop):
        outside = sys.get_asyncgen_hooks()
        loop.call_soon(sys.exit)
        with pytest.raises(SystemExit):
            loop.run_forever()
        assert sys.get_asyncgen_hooks() == outside

    def test_shutdown_closes_open_generators(self, loop):
        finished = []

        async def generate():
            try:
                while True:
                    yield 1
            finally:
                await asyncio.sleep(0)
                finished.append(True)

        async def main():
            generator = generate()
            await generator.__anext__()
            return generator

        generator = loop.run_until_complete(main())
        assert finished == []
        loop.run_until_complete(loop.shutdown_asyncgens())
        assert finished == [True]
        del generator

    def test_shutdown_reports_errors(self, loop, error_contexts):
        async def generate():
            try:
                yield 1
            finally:
                raise ZeroDivisionError

        async def main():
            generator = generate()
            await generator.__anext__()
            return generator

        generator = loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
        context = error_contexts.pop()
        assert isinstance(context["exception"], ZeroDivisionError)
        assert context["asyncgen"] is generator
        assert "closing of asynchronous generator" in context["message"]

    def test_a_dropped_generator_is_finalized_on_the_loop(self, loop):
        finished = []

        async def generate():
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                finished.append(asyncio.get_running_loop() is loop)

        async def main():
            generator = generate()
            await generator.__anext__()
            del generator
            gc.collect()
            await hops(5)

        loop.run_until_complete(main())
        assert finished == [True]

    def test_a_new_generator_after_shutdown_warns(self, loop):
        async def generate():
            yield 1

        async def main():
            await loop.shutdown_asyncgens()
            generator = generate()
            with pytest.warns(ResourceWarning, match="was scheduled after"):
                await generator.__anext__()
            await generator.aclose()

        loop.run_until_complete(main())

    def test_shutdown_without_generators(self, loop):
        loop.run_until_complete(loop.shutdown_asyncgens())


class TestShutdownDefaultExecutor:
    def test_waits_for_the_threads(self, loop):
        release = threading.Event()
        finished = []

        def work():
            release.wait()
            finished.append(True)

        async def main():
            loop.run_in_executor(None, work)
            loop.call_soon(release.set)
            await loop.shutdown_default_executor()
            return list(finished)

        assert loop.run_until_complete(main()) == [True]

    def test_without_an_executor(self, loop):
        loop.run_until_complete(loop.shutdown_default_executor())

    def test_no_more_calls_afterwards(self, loop):
        async def main():
            await loop.shutdown_default_executor()
            with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
                loop.run_in_executor(None, print)

        loop.run_until_complete(main())

    @pytest.mark.skipif(PYTHON < (3, 12), reason="the time-out is new in 3.12")
    def test_time_out_warns(self, loop, loop_spec):
        skip_stock_bug(loop_spec, PYTHON == (3, 12), "the time-out still joins the threads")
        release = threading.Event()

        async def main():
            work = loop.run_in_executor(None, release.wait, TIME_LIMIT)
            with pytest.warns(RuntimeWarning, match="did not finishing joining"):
                await loop.shutdown_default_executor(timeout=0.001)
            release.set()
            assert await work, "the loop waited for the thread"

        loop.run_until_complete(main())


class TestDebug:
    def test_set_and_get(self, loop):
        assert loop.get_debug() is False
        loop.set_debug(True)
        assert loop.get_debug() is True

    def test_checks_the_callback(self, loop):
        async def coroutine_function():
            pass

        loop.set_debug(True)
        for schedule in (loop.call_soon, loop.call_soon_threadsafe):
            with pytest.raises(TypeError, match="callable object was expected"):
                schedule(None)
            with pytest.raises(TypeError, match="coroutines cannot be used"):
                schedule(coroutine_function)
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.call_later(0, coroutine_function)
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.call_at(0, coroutine_function)

    def test_checks_the_thread(self, loop):
        loop.set_debug(True)
        errors = []

        def schedule():
            for method in (loop.call_soon, lambda callback: loop.call_later(0, callback)):
                try:
                    method(print)
                except RuntimeError as error:
                    errors.append(str(error))
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=schedule)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
        assert len(errors) == 2
        assert all(error.startswith("Non-thread-safe operation") for error in errors)

    def test_slow_callbacks_are_logged(self, loop, caplog):
        loop.set_debug(True)
        loop.slow_callback_duration = 0.0
        loop.call_soon(lambda: None)
        turns(loop)
        assert any("Executing" in message and "took" in message for message in caplog.messages)

    def test_tracks_where_coroutines_come_from(self, loop):
        async def main():
            return sys.get_coroutine_origin_tracking_depth()

        assert loop.run_until_complete(main()) == 0
        loop.set_debug(True)
        assert loop.run_until_complete(main()) > 0
        assert sys.get_coroutine_origin_tracking_depth() == 0

    def test_handles_know_where_they_were_made(self, loop, error_contexts):
        loop.set_debug(True)
        loop.call_soon(lambda: 1 / 0)
        turns(loop)
        traceback = error_contexts.pop()["source_traceback"]
        assert traceback[-1].name == "test_handles_know_where_they_were_made"

    def test_environment_variable(self, loop_spec):
        outcome = run_script(
            """
            os.environ["PYTHONASYNCIODEBUG"] = "1"
            loop = new_event_loop()
            say(loop.get_debug())
            loop.close()
            """,
            loop_spec,
        )
        assert outcome.check() == "True\n"


class TestRun:
    """`asyncio.run` and `asyncio.Runner` over the loop."""

    @pytest.mark.skipif(PYTHON < (3, 12), reason="loop_factory is new in 3.12")
    def test_asyncio_run(self, loop_factory: LoopFactory):
        kind = type_of(loop_factory)

        async def main():
            return type(asyncio.get_running_loop())

        assert asyncio.run(main(), loop_factory=loop_factory) is kind

    @pytest.mark.skipif(PYTHON < (3, 11), reason="Runner is new in 3.11")
    def test_runner_keeps_loop_and_context(self, loop_factory: LoopFactory):
        async def main():
            await hops()
            return asyncio.get_running_loop()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            first = runner.run(main())
            assert runner.run(main()) is first
            assert runner.get_loop() is first
        assert first.is_closed()

    @pytest.mark.skipif(PYTHON < (3, 11), reason="Runner is new in 3.11")
    def test_runner_cancels_what_is_left(self, loop_factory: LoopFactory):
        ended = []

        async def background():
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(True)

        async def main():
            task = asyncio.create_task(background())
            await hops()
            return task

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            task = runner.run(main())
        assert ended == [True]
        assert task.cancelled()

    @pytest.mark.skipif(PYTHON < (3, 11), reason="Runner is new in 3.11")
    def test_runner_debug(self, loop_factory: LoopFactory):
        async def main():
            return asyncio.get_running_loop().get_debug()

        with asyncio.Runner(debug=True, loop_factory=loop_factory) as runner:
            assert runner.run(main()) is True

    def test_a_program_ends_in_silence(self, loop_spec):
        outcome = run_script(
            """
            async def main():
                server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                say(await reader.read())
                writer.close()
                await writer.wait_closed()
                server.close()
                await server.wait_closed()

            loop = new_event_loop()
            loop.run_until_complete(main())
            loop.close()
            """,
            loop_spec,
        )
        assert outcome.check() == "b''\n"

    def test_a_program_may_leave_its_loop_unclosed(self, loop_spec):
        outcome = run_script(
            """
            loop = new_event_loop()
            loop.run_until_complete(asyncio.sleep(0))
            say("end")
            """,
            loop_spec,
        )
        assert outcome.check() == "end\n"


def test_warnings_are_errors_here():
    """The suite's own net: a warning must not pass unseen."""
    with pytest.raises(UserWarning):
        warnings.warn("seen", UserWarning, stacklevel=1)
