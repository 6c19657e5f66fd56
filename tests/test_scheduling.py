"""Scheduling callbacks, at once and later (event loop page, the sections of those names)."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref

import pytest

from .support import PYTHON, LoopFactory, turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class TestCallSoon:
    def test_first_in_first_out(self, loop):
        calls = []
        for number in range(100):
            loop.call_soon(calls.append, number)
        turns(loop)
        assert calls == list(range(100))

    @pytest.mark.parametrize("count", range(8))
    def test_passes_all_arguments(self, loop, count):
        calls = []
        loop.call_soon(lambda *arguments: calls.append(arguments), *range(count))
        turns(loop)
        assert calls == [tuple(range(count))]

    def test_runs_once(self, loop):
        calls = []
        loop.call_soon(calls.append, 1)
        turns(loop, 3)
        assert calls == [1]

    def test_from_a_callback_runs_in_the_next_turn(self, loop):
        calls = []
        loop.call_soon(lambda: loop.call_soon(calls.append, "second"))
        loop.call_soon(calls.append, "first")
        turns(loop)
        assert calls == ["first"]
        turns(loop)
        assert calls == ["first", "second"]

    def test_takes_any_callable(self, loop):
        class Method:
            def __init__(self):
                self.calls = []

            def method(self, value):
                self.calls.append(value)

            __call__ = method

        target = Method()
        loop.call_soon(target, 1)
        loop.call_soon(target.method, 2)
        loop.call_soon(Method.method, target, 3)
        loop.call_soon(target.calls.append, 4)
        turns(loop)
        assert target.calls == [1, 2, 3, 4]

    def test_refuses_missing_and_unknown_arguments(self, loop):
        with pytest.raises(TypeError):
            loop.call_soon()
        with pytest.raises(TypeError):
            loop.call_soon(print, unknown=1)
        with pytest.raises(TypeError):
            loop.call_soon(print, end="")

    def test_what_is_not_callable_fails_when_its_turn_comes(self, loop, error_contexts):
        loop.call_soon(42)
        calls = []
        loop.call_soon(calls.append, 1)
        turns(loop)
        assert isinstance(error_contexts.pop()["exception"], TypeError)
        assert calls == [1]

    def test_an_exception_spares_the_others(self, loop, error_contexts):
        calls = []
        loop.call_soon(calls.append, 1)
        handle = loop.call_soon(lambda: [][0])
        loop.call_soon(calls.append, 2)
        turns(loop)
        assert calls == [1, 2]
        context = error_contexts.pop()
        assert isinstance(context["exception"], IndexError)
        assert context["handle"] is handle
        assert context["message"].startswith("Exception in callback")
        assert "test_an_exception_spares_the_others" in context["message"]

    def test_a_long_chain(self, loop):
        left = 10_000

        def step():
            nonlocal left
            left -= 1
            if left:
                loop.call_soon(step)
            else:
                loop.stop()

        loop.call_soon(step)
        loop.run_forever()
        assert left == 0


class TestHandle:
    def test_is_a_handle(self, loop):
        handle = loop.call_soon(print, "")
        assert isinstance(handle, asyncio.Handle)
        assert not isinstance(handle, asyncio.TimerHandle)
        handle.cancel()

    def test_cancel(self, loop):
        calls = []
        handle = loop.call_soon(calls.append, 1)
        assert not handle.cancelled()
        handle.cancel()
        assert handle.cancelled()
        handle.cancel()
        turns(loop)
        assert calls == []

    def test_cancelled_by_a_callback_of_the_same_turn(self, loop):
        calls = []
        loop.call_soon(lambda: handle.cancel())
        handle = loop.call_soon(calls.append, 1)
        turns(loop)
        assert calls == []

    def test_cancel_after_the_call(self, loop):
        calls = []
        handle = loop.call_soon(calls.append, 1)
        turns(loop)
        assert not handle.cancelled()
        handle.cancel()
        assert handle.cancelled()
        assert calls == [1]

    def test_cancelled_by_its_own_callback(self, loop):
        loop.call_soon(lambda: handle.cancel())
        handle = loop.call_soon(lambda: None)
        turns(loop)
        own = loop.call_soon(lambda: own.cancel())
        turns(loop)
        assert own.cancelled()

    def test_cancel_lets_go_of_callback_and_arguments(self, loop):
        class Thing:
            def __call__(self, thing):
                pytest.fail("cancelled")

        callback, argument = Thing(), Thing()
        released = [weakref.ref(callback), weakref.ref(argument)]
        handles = [loop.call_soon(callback, argument), loop.call_later(60, callback, argument)]
        del callback, argument
        for handle in handles:
            handle.cancel()
        gc.collect()
        assert [reference() for reference in released] == [None, None]

    def test_repr(self, loop):
        def a_callback(argument):
            pass

        handle = loop.call_soon(a_callback, 1)
        text = repr(handle)
        assert text.startswith("<Handle ") and text.endswith(">")
        assert "a_callback" in text
        assert "test_scheduling.py" in text
        handle.cancel()
        assert repr(handle) == "<Handle cancelled>"

    def test_repr_in_debug_mode_keeps_the_callback(self, loop):
        def a_callback(argument):
            pass

        loop.set_debug(True)
        handle = loop.call_soon(a_callback, "argument")
        assert "created at" in repr(handle)
        handle.cancel()
        assert repr(handle).startswith("<Handle cancelled")
        assert "a_callback" in repr(handle)

    @pytest.mark.skipif(PYTHON < (3, 12), reason="Handle.get_context is new in 3.12")
    def test_get_context(self, loop):
        context = contextvars.copy_context()
        assert loop.call_soon(print, "", context=context).get_context() is context
        assert loop.call_later(60, print, "", context=context).get_context() is context
        assert loop.call_soon_threadsafe(print, "", context=context).get_context() is context
        assert isinstance(loop.call_soon(print, "").get_context(), contextvars.Context)

    def test_takes_a_weak_reference(self, loop):
        handle = loop.call_soon(lambda: None)
        reference = weakref.ref(handle)
        assert reference() is handle
        turns(loop)
        del handle
        gc.collect()
        assert reference() is None


class TestContext:
    """Every callback runs in its context: a copy of the scheduler's, or the one passed."""

    @pytest.fixture(params=["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
    def schedule(self, request, loop):
        return {
            "call_soon": loop.call_soon,
            "call_soon_threadsafe": loop.call_soon_threadsafe,
            "call_later": lambda *a, **k: loop.call_later(0, *a, **k),
            "call_at": lambda *a, **k: loop.call_at(loop.time(), *a, **k),
        }[request.param]

    def run_until(self, loop, calls, count):
        while len(calls) < count:
            turns(loop)

    def test_copies_the_current_context(self, loop, schedule):
        seen = []

        def schedule_all():
            variable.set("before")
            schedule(lambda: seen.append(variable.get()))
            variable.set("after")

        contextvars.copy_context().run(schedule_all)
        self.run_until(loop, seen, 1)
        assert seen == ["before"]
        assert variable.get() == "unset"

    def test_uses_the_given_context(self, loop, schedule):
        seen = []
        context = contextvars.copy_context()
        context.run(variable.set, "given")
        schedule(lambda: (seen.append(variable.get()), variable.set("changed")), context=context)
        self.run_until(loop, seen, 1)
        assert seen == ["given"]
        assert context[variable] == "changed"
        assert variable.get() == "unset"

    def test_callbacks_do_not_share_what_they_set(self, loop, schedule):
        seen = []
        schedule(variable.set, "mine")
        schedule(lambda: seen.append(variable.get()))
        self.run_until(loop, seen, 1)
        assert seen == ["unset"]

    def test_is_left_after_an_exception(self, loop, schedule, error_contexts):
        context = contextvars.copy_context()
        schedule(lambda: 1 / 0, context=context)
        self.run_until(loop, error_contexts, 1)
        error_contexts.clear()
        context.run(variable.get)  # would raise if it were still entered


class TestCallLater:
    def test_is_a_timer_handle(self, loop):
        before = loop.time()
        handle = loop.call_later(60, print)
        after = loop.time()
        assert isinstance(handle, asyncio.TimerHandle)
        assert isinstance(handle, asyncio.Handle)
        assert before + 60 <= handle.when() <= after + 60

    def test_call_at_keeps_the_time(self, loop):
        when = loop.time() + 60
        assert loop.call_at(when, print).when() == when

    def test_in_the_order_of_their_times(self, loop):
        calls = []
        now = loop.time()
        for delay in (0.004, 0.001, 0.003, 0.002):
            loop.call_at(now + delay, calls.append, delay)
        loop.call_at(now + 0.005, loop.stop)
        loop.run_forever()
        assert calls == [0.001, 0.002, 0.003, 0.004]

    def test_never_early(self, loop):
        resolution = time.get_clock_info("monotonic").resolution
        early = []

        def check(when):
            if loop.time() + resolution < when:
                early.append(when - loop.time())

        now = loop.time()
        for step in range(50):
            when = now + step * 0.0007
            loop.call_at(when, check, when)
        loop.call_at(now + 0.04, loop.stop)
        loop.run_forever()
        assert early == []

    @pytest.mark.parametrize("delay", [0, 0.0, -1, -1e9, False])
    def test_nothing_to_wait_for(self, loop, delay):
        calls = []
        loop.call_later(delay, calls.append, 1)
        turns(loop)
        assert calls == [1]

    def test_due_timers_run_after_what_was_ready(self, loop):
        calls = []
        loop.call_later(0, calls.append, "timer")
        loop.call_soon(calls.append, "soon")
        turns(loop)
        assert calls == ["soon", "timer"]

    @pytest.mark.parametrize("delay", [1e7, 1e10, float("inf")])
    def test_far_away(self, loop, delay):
        handle = loop.call_later(delay, pytest.fail)
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
        handle.cancel()
        turns(loop)

    def test_cancel(self, loop):
        calls = []
        handle = loop.call_later(0.001, calls.append, 1)
        handle.cancel()
        loop.call_later(0.002, loop.stop)
        loop.run_forever()
        assert handle.cancelled()
        assert calls == []

    def test_cancelled_by_a_timer_of_the_same_turn(self, loop):
        calls = []
        now = loop.time()
        loop.call_at(now - 2, lambda: handle.cancel())
        handle = loop.call_at(now - 1, calls.append, 1)
        turns(loop)
        assert calls == []

    def test_many_cancelled_among_few(self, loop):
        calls = []
        handles = [loop.call_later(60, pytest.fail) for _ in range(1000)]
        kept = [loop.call_later(0.001 * n, calls.append, n) for n in range(10)]
        for handle in handles:
            handle.cancel()
        turns(loop)
        loop.call_later(0.02, loop.stop)
        loop.run_forever()
        assert calls == list(range(10))
        assert not any(handle.cancelled() for handle in kept)

    def test_rescheduling_itself(self, loop):
        calls = []

        def tick():
            calls.append(1)
            if len(calls) == 5:
                loop.stop()
            else:
                loop.call_later(0.0001, tick)

        loop.call_later(0, tick)
        loop.run_forever()
        assert len(calls) == 5

    def test_refuses_bad_times(self, loop):
        with pytest.raises(TypeError):
            loop.call_later(None, print)
        with pytest.raises(TypeError):
            loop.call_later("1", print)
        with pytest.raises(TypeError):
            loop.call_later(1)
        with pytest.raises(TypeError):
            loop.call_later()
        with pytest.raises(TypeError):
            loop.call_at(loop.time())

    @pytest.mark.skipif(PYTHON < (3, 11), reason="checked since 3.11")
    def test_refuses_no_time(self, loop):
        with pytest.raises(TypeError, match="delay must not be None"):
            loop.call_later(None, print)
        with pytest.raises(TypeError, match="when cannot be None"):
            loop.call_at(None, print)

    def test_repr(self, loop):
        def a_callback():
            pass

        handle = loop.call_at(loop.time() + 60, a_callback)
        assert repr(handle).startswith(f"<TimerHandle when={handle.when()}")
        assert "a_callback" in repr(handle)
        handle.cancel()
        assert repr(handle) == f"<TimerHandle cancelled when={handle.when()}>"

    def test_comparison_is_by_time(self, loop):
        now = loop.time() + 60
        first, twin, second = (loop.call_at(when, print) for when in (now, now, now + 1))
        assert first < second and second > first
        assert first <= second and second >= first
        assert first == twin and first <= twin and hash(first) == hash(twin)
        assert first != second
        twin.cancel()
        assert first != twin

    def test_an_exception_spares_the_others(self, loop, error_contexts):
        calls = []
        handle = loop.call_later(0, lambda: 1 / 0)
        loop.call_later(0, calls.append, 1)
        turns(loop)
        assert calls == [1]
        context = error_contexts.pop()
        assert context["handle"] is handle
        assert isinstance(context["exception"], ZeroDivisionError)


class TestTime:
    def test_goes_forward(self, loop):
        times = [loop.time() for _ in range(100)]
        assert times == sorted(times)
        assert all(isinstance(moment, float) for moment in times)

    def test_goes_on_within_a_callback(self, loop):
        """The clock is read, not remembered from the start of the turn."""
        seen = []

        def look():
            before = loop.time()
            deadline = time.monotonic() + 0.005
            while time.monotonic() < deadline:
                pass
            seen.append(loop.time() - before)

        loop.call_soon(look)
        turns(loop)
        assert seen[0] > 0


class TestThreads:
    def test_wakes_a_waiting_loop(self, loop):
        calls = []

        def work():
            loop.call_soon_threadsafe(calls.append, threading.get_ident())
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=work)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
        assert calls == [thread.ident]

    def test_before_the_loop_runs(self, loop):
        calls = []
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(calls.append, 1))
        thread.start()
        thread.join()
        turns(loop)
        assert calls == [1]

    def test_one_queue_with_call_soon(self, loop):
        calls = []
        loop.call_soon(calls.append, 1)
        loop.call_soon_threadsafe(calls.append, 2)
        loop.call_soon(calls.append, 3)
        loop.call_soon_threadsafe(calls.append, 4)
        turns(loop)
        assert calls == [1, 2, 3, 4]

    def test_returns_a_handle(self, loop):
        calls = []
        handle = loop.call_soon_threadsafe(calls.append, 1)
        assert isinstance(handle, asyncio.Handle)
        assert not handle.cancelled()
        handle.cancel()
        assert handle.cancelled()
        turns(loop)
        assert calls == []

    def test_nothing_is_lost_and_each_thread_keeps_its_order(self, loop):
        threads_count, calls_count = 8, 500
        calls = []

        def work(name):
            for number in range(calls_count):
                loop.call_soon_threadsafe(calls.append, (name, number))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(threads_count)]

        def stop_when_complete():
            if len(calls) == threads_count * calls_count:
                loop.stop()
            else:
                loop.call_later(0.001, stop_when_complete)

        for thread in threads:
            loop.call_soon(thread.start)
        loop.call_soon(stop_when_complete)
        loop.run_forever()
        for thread in threads:
            thread.join()
        assert len(calls) == threads_count * calls_count
        for name in range(threads_count):
            numbers = [number for caller, number in calls if caller == name]
            assert numbers == list(range(calls_count))

    def test_ping_pong_with_a_thread(self, loop):
        """Each call finds the loop waiting anew: no wake-up may be lost."""
        rounds = 300
        done = []
        asked = threading.Semaphore(0)

        def work():
            for _ in range(rounds):
                asked.acquire()
                loop.call_soon_threadsafe(answer)

        def answer():
            done.append(1)
            if len(done) == rounds:
                loop.stop()
            else:
                asked.release()

        thread = threading.Thread(target=work)
        thread.start()
        asked.release()
        loop.run_forever()
        thread.join()
        assert len(done) == rounds

    def test_after_close(self, loop):
        loop.close()
        errors = []

        def work():
            try:
                loop.call_soon_threadsafe(print)
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert errors == ["Event loop is closed"]

    def test_racing_with_close(self, loop_factory: LoopFactory):
        """A thread that calls while the loop is closed gets RuntimeError and nothing worse."""
        for _ in range(20):
            loop = loop_factory()
            refused = threading.Event()
            started = threading.Event()

            def work(loop=loop, refused=refused, started=started):
                try:
                    while True:
                        loop.call_soon_threadsafe(int)
                        started.set()
                except RuntimeError:
                    refused.set()

            thread = threading.Thread(target=work)
            thread.start()
            started.wait()
            turns(loop)
            loop.close()
            thread.join()
            assert refused.is_set()

    def test_run_coroutine_threadsafe(self, loop):
        async def add(a, b):
            await asyncio.sleep(0)
            return a + b

        results = []

        def work():
            results.append(asyncio.run_coroutine_threadsafe(add(1, 2), loop).result())
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=work)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
        assert results == [3]

    def test_two_loops_in_two_threads(self, loop_factory: LoopFactory):
        """Loops in different threads pass a token to and fro."""
        loops = [loop_factory(), loop_factory()]
        seen = []

        def bounce(token):
            seen.append(token)
            if token == 200:
                for each in loops:
                    each.call_soon_threadsafe(each.stop)
            else:
                loops[(token + 1) % 2].call_soon_threadsafe(bounce, token + 1)

        threads = [threading.Thread(target=each.run_forever) for each in loops]
        for thread in threads:
            thread.start()
        loops[0].call_soon_threadsafe(bounce, 0)
        for thread in threads:
            thread.join()
        for each in loops:
            each.close()
        assert seen == list(range(201))
