"""Callback handles (event loop page, "Callback Handles"), beside what test_scheduling.py has."""

from __future__ import annotations

import asyncio
import gc
import operator
import threading
import weakref
from asyncio import events

import pytest

from .support import PYTHON, TIME_LIMIT, run_script, turns

KINDS = ["call_soon", "call_soon_threadsafe", "call_later", "call_at"]


@pytest.fixture(params=KINDS)
def schedule(request, loop):
    """One of the loop's four methods, with its time where it takes one."""
    method = getattr(loop, request.param)
    if request.param == "call_later":
        return lambda *arguments: method(0, *arguments)
    if request.param == "call_at":
        return lambda *arguments: method(loop.time(), *arguments)
    return method


class TestEveryKind:
    def test_class(self, loop, schedule):
        handle = schedule(print)
        assert isinstance(handle, asyncio.Handle)
        handle.cancel()

    def test_takes_no_attributes(self, schedule):
        handle = schedule(print)
        with pytest.raises(AttributeError):
            handle.attribute = 1
        assert not hasattr(handle, "__dict__")
        handle.cancel()

    def test_cancelled(self, loop, schedule):
        calls = []
        handle = schedule(calls.append, 1)
        assert handle.cancelled() is False
        assert handle.cancel() is None
        assert handle.cancelled() is True
        assert handle.cancel() is None
        turns(loop, 2)
        assert calls == []

    def test_after_it_ran(self, loop, schedule):
        handle = schedule(int)
        turns(loop, 2)
        assert handle.cancelled() is False
        handle.cancel()
        assert handle.cancelled() is True

    def test_cancels_itself(self, loop, schedule, error_contexts):
        """Cancelled while it runs, it forgets its callback; an error is told all the same."""

        def cancels_itself():
            handle.cancel()
            raise LookupError

        handle = schedule(cancels_itself)
        turns(loop, 2)
        context = error_contexts.pop()
        assert context["handle"] is handle
        assert isinstance(context["exception"], LookupError)

    def test_repr(self, loop, schedule):
        def own_callback():
            """Known by its name."""

        handle = schedule(own_callback)
        assert "own_callback" in repr(handle)
        before = repr(handle)
        turns(loop, 2)
        assert repr(handle) == before
        handle.cancel()
        assert "cancelled" in repr(handle)
        assert "own_callback" not in repr(handle)

    def test_weak_reference(self, loop, schedule):
        handle = schedule(print)
        died = []
        reference = weakref.ref(handle, died.append)
        assert reference() is handle
        handle.cancel()
        del handle
        turns(loop, 2)
        gc.collect()
        assert reference() is None
        assert died == [reference]

    def test_a_cycle_through_a_cancelled_one(self, loop, schedule):
        class Thing:
            def __call__(self): ...

        thing = Thing()
        thing.handle = schedule(thing)
        reference = weakref.ref(thing)
        thing.handle.cancel()
        del thing
        turns(loop, 2)
        gc.collect()
        assert reference() is None

    def test_private_parts(self, loop, schedule):
        """What debuggers read; and what they put there is called."""
        calls = []
        handle = schedule(print, "never")
        assert handle._callback is print
        assert handle._args == ("never",)
        assert handle._loop is loop
        assert handle._cancelled is False
        assert handle._repr is None
        handle._callback = lambda *arguments: calls.append(arguments)
        handle._args = [1, 2]
        turns(loop, 2)
        assert calls == [(1, 2)]
        handle._run()
        assert calls == [(1, 2)] * 2

    def test_set_as_cancelled(self, loop, schedule):
        handle = schedule(pytest.fail)
        handle._cancelled = True
        turns(loop, 2)
        assert handle.cancelled()

    def test_many_at_once(self, loop, schedule):
        """Handles are reused inside: none shows what another one had."""
        for _ in range(3):
            calls = []
            handles = [schedule(calls.append, number) for number in range(200)]
            for handle in handles[::2]:
                handle.cancel()
            turns(loop, 2)
            assert calls == list(range(1, 200, 2))
            assert [handle.cancelled() for handle in handles] == [True, False] * 100
            del handle, handles

    def test_a_long_chain(self, loop_spec):
        """Each is the last reference to the one before: freed one after the other, they need no
        more of the stack than one."""
        outcome = run_script(
            """
            loop = new_event_loop()
            handle = loop.call_soon(print)
            for _ in range(200_000):
                handle = loop.call_soon(handle._run)
            loop.close()
            del handle
            say("alive")
            """,
            loop_spec,
        )
        assert outcome.check() == "alive\n"

    def test_identity(self, loop):
        first, second = loop.call_soon(int), loop.call_soon(int)
        assert first == first
        assert first != second
        assert len({first, second}) == 2
        with pytest.raises(TypeError):
            _ = first < second


class TestTimers:
    def test_compared_with_asyncio_s_own(self, loop):
        ours = loop.call_at(1e9, print)
        theirs = asyncio.TimerHandle(1e9 + 1, print, (), loop)
        assert ours < theirs and ours <= theirs and theirs > ours and theirs >= ours
        assert ours != theirs
        same = asyncio.TimerHandle(1e9, print, (), loop)
        assert ours == same and ours <= same and hash(ours) == hash(same)
        assert sorted([theirs, ours]) == [ours, theirs]
        ours.cancel()
        assert ours != same

    @pytest.mark.parametrize("name", ["lt", "le", "gt", "ge"])
    def test_compared_with_anything_else(self, loop, name):
        timer = loop.call_later(60, print)
        for other in (5, loop.call_soon(int), None):
            with pytest.raises(TypeError):
                getattr(operator, name)(timer, other)
        assert timer != 5
        timer.cancel()

    def test_when(self, loop):
        before = loop.time()
        timer = loop.call_later(60, print)
        assert before + 60 <= timer.when() <= loop.time() + 60
        timer.cancel()
        assert timer.when() >= before + 60
        exact = loop.call_at(1234567890, print)
        assert exact.when() == 1234567890
        exact.cancel()

    def test_scheduled(self, loop):
        timer = loop.call_later(0, int)
        assert timer._scheduled is True
        turns(loop, 2)
        assert timer._scheduled is False

    def test_one_that_the_program_made(self, loop):
        """asyncio's own class, with our loop: cancelling tells the loop nothing wrong."""
        timer = asyncio.TimerHandle(loop.time() + 60, print, (), loop)
        timer.cancel()
        assert timer.cancelled()
        for scheduled in [loop.call_later(60, print) for _ in range(200)]:
            scheduled.cancel()
        calls = []
        loop.call_later(0, calls.append, 1)
        turns(loop, 2)
        assert calls == [1]


@pytest.mark.skipif(PYTHON < (3, 14), reason="thread-safe handles are new in 3.14")
class TestThreadSafe:
    """The handle of call_soon_threadsafe: in another thread one waits while it runs."""

    def test_class(self, loop):
        handle = loop.call_soon_threadsafe(int)
        assert isinstance(handle, events._ThreadSafeHandle)
        assert repr(handle).startswith("<_ThreadSafeHandle ")
        handle.cancel()
        assert repr(handle) == "<_ThreadSafeHandle cancelled>"

    @pytest.mark.parametrize("method", ["cancel", "cancelled"])
    def test_waits_for_the_callback(self, loop, method):
        started, go_on, order = threading.Event(), threading.Event(), []

        def callback():
            started.set()
            assert go_on.wait(TIME_LIMIT)
            order.append("callback")

        def other_thread():
            assert started.wait(TIME_LIMIT)
            threading.Timer(0.01, go_on.set).start()
            order.append(getattr(handle, method)())
            order.append(handle.cancelled())
            loop.call_soon_threadsafe(loop.stop)

        handle = loop.call_soon_threadsafe(callback)
        thread = threading.Thread(target=other_thread)
        thread.start()
        loop.run_forever()
        thread.join()
        assert order == ["callback", *((None, True) if method == "cancel" else (False, False))]

    def test_several_wait(self, loop):
        started, go_on, finished = threading.Event(), threading.Event(), threading.Event()

        def callback():
            started.set()
            assert go_on.wait(TIME_LIMIT)
            finished.set()

        results = []

        def other_thread():
            assert started.wait(TIME_LIMIT)
            go_on.set()
            handle.cancelled()
            results.append(finished.is_set())

        handle = loop.call_soon_threadsafe(callback)
        threads = [threading.Thread(target=other_thread) for _ in range(5)]
        for thread in threads:
            thread.start()
        turns(loop)
        for thread in threads:
            thread.join()
        assert results == [True] * 5

    def test_does_not_wait_for_others(self, loop):
        """While one handle runs, another one can be cancelled."""
        started, cancelled, results = threading.Event(), threading.Event(), []

        def callback():
            started.set()
            results.append(cancelled.wait(TIME_LIMIT))

        def other_thread():
            assert started.wait(TIME_LIMIT)
            other.cancel()
            results.append(other.cancelled())
            cancelled.set()

        loop.call_soon_threadsafe(callback)
        other = loop.call_soon_threadsafe(results.append, "never")
        thread = threading.Thread(target=other_thread)
        thread.start()
        turns(loop)
        thread.join()
        assert results == [True, True]

    def test_in_its_own_callback(self, loop):
        seen = []

        def callback():
            seen.append(handle.cancelled())
            handle.cancel()
            seen.append(handle.cancelled())

        handle = loop.call_soon_threadsafe(callback)
        turns(loop)
        assert seen == [False, True]

    def test_before_it_runs(self, loop):
        handle = loop.call_soon_threadsafe(pytest.fail)
        thread = threading.Thread(target=handle.cancel)
        thread.start()
        thread.join()
        assert handle.cancelled()
        turns(loop)

    def test_an_exception_frees_who_waits(self, loop, error_contexts):
        started, results = threading.Event(), []

        def callback():
            started.set()
            raise LookupError

        def other_thread():
            assert started.wait(TIME_LIMIT)
            results.append(handle.cancelled())

        handle = loop.call_soon_threadsafe(callback)
        thread = threading.Thread(target=other_thread)
        thread.start()
        turns(loop)
        thread.join()
        assert results == [False]
        assert isinstance(error_contexts.pop()["exception"], LookupError)

    def test_an_exit_frees_who_waits(self, loop):
        started, results = threading.Event(), []

        def callback():
            started.set()
            raise SystemExit

        def other_thread():
            assert started.wait(TIME_LIMIT)
            results.append(handle.cancelled())

        handle = loop.call_soon_threadsafe(callback)
        thread = threading.Thread(target=other_thread)
        thread.start()
        with pytest.raises(SystemExit):
            loop.run_forever()
        thread.join()
        assert results == [False]

    def test_many_races(self, loop):
        """A callback ran or was cancelled, never both nor neither, seen from the canceller."""
        ran, results = set(), []

        def other_thread():
            for number in range(300):
                handle = loop.call_soon_threadsafe(ran.add, number)
                handle.cancel()
                # From here on it cannot run any more.
                results.append(number in ran)
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=other_thread)
        thread.start()
        loop.run_forever()
        thread.join()
        assert [number in ran for number in range(300)] == results


@pytest.mark.skipif(PYTHON >= (3, 14), reason="thread-safe handles are new in 3.14")
def test_a_plain_handle_before(loop):
    assert repr(loop.call_soon_threadsafe(int)).startswith("<Handle ")


class TestUnknownLayout:
    """Of classes that a newer CPython lays out in another way native code knows nothing."""

    CHANGES = (
        pytest.param("'_callback',", "'_callback', '_another',", id="one more"),
        pytest.param("'_callback',", "'_callback', '__dict__',", id="a dictionary"),
        pytest.param("'__weakref__',", "", id="no weak references"),
        pytest.param("__slots__ =", "slots =", id="no slots"),
        pytest.param("class Handle:", "class Handle(Base):", id="another base"),
        pytest.param("class Handle:", "class Handle(metaclass=Meta):", id="a metaclass"),
    )
    SETUP = """
        import gc, inspect, weakref
        from asyncio import events

        class Meta(type):
            pass

        class Base:
            __slots__ = ("_another",)

        def change(old, new):
            events.__dict__.update(Meta=Meta, Base=Base)
            source = inspect.getsource(events.Handle)
            assert source.count(old) == 1
            exec(source.replace(old, new), events.__dict__)
            for name in ("TimerHandle", "_ThreadSafeHandle"):
                if hasattr(events, name):
                    exec(inspect.getsource(getattr(events, name)), events.__dict__)
            asyncio.Handle, asyncio.TimerHandle = events.Handle, events.TimerHandle

        class Thing:
            pass

        def methods(loop):
            yield loop.call_soon
            yield loop.call_soon_threadsafe
            yield lambda *arguments: loop.call_later(0, *arguments)
    """

    @pytest.mark.parametrize(("old", "new"), CHANGES)
    def test_of_handles(self, old, new):
        """asyncio's own handles are made then, and everything happens with them."""
        outcome = run_script(
            f"""{self.SETUP}
        change({old!r}, {new!r})
        import oxloop

        def turns(loop):
            for _ in range(2):
                loop.call_soon(loop.stop)
                loop.run_forever()

        for factory in (asyncio.new_event_loop, oxloop.new_event_loop):
            loop = factory()
            calls = []
            handles = [method(calls.append, number) for number, method in enumerate(methods(loop))]
            assert {{type(handle) for handle in handles}} <= {{
                events.Handle, events.TimerHandle, getattr(events, "_ThreadSafeHandle", None)
            }}
            turns(loop)
            say(*calls)
            for method in methods(loop):
                method(calls.append, "never").cancel()
            many = [loop.call_later(3600, print) for _ in range(500)]
            for handle in many:
                handle.cancel()
            turns(loop)
            say(*calls)
            say(len(many), loop.is_running())
            loop.close()
        """,
            "asyncio:new_event_loop",
        )
        assert outcome.check() == "0 1 2\n0 1 2\n500 False\n" * 2

    @pytest.mark.parametrize(("old", "new"), CHANGES[:2])
    def test_what_is_in_an_unknown_slot(self, old, new):
        """It dies with its handle, or with the cycle that it is in, and no other handle has it."""
        outcome = run_script(
            f"""{self.SETUP}
        change({old!r}, {new!r})
        import oxloop

        loop = oxloop.new_event_loop()

        def once(method):
            handle, thing = method(int), Thing()
            thing.handle = handle
            handle._another = thing
            return weakref.ref(thing)

        references = [once(method) for method in methods(loop) for _ in range(3)]
        for _ in range(2):
            loop.call_soon(loop.stop)
            loop.run_forever()
        gc.collect()
        say(sum(reference() is not None for reference in references))
        say(sum(hasattr(method(int), "_another") for method in methods(loop) for _ in range(9)))
        loop.close()
        """,
            "asyncio:new_event_loop",
        )
        assert outcome.check() == "0\n0\n"

    def test_of_transports(self):
        """There is no other way to make these: oxloop says so when it is imported."""
        outcome = run_script(
            """
            import inspect
            from asyncio import transports

            source = inspect.getsource(transports)
            assert source.count("__slots__ = ('_extra',)") == 1
            source = source.replace("__slots__ = ('_extra',)", "__slots__ = ('_extra', '_another')")
            exec(source, transports.__dict__)
            for name in transports.__all__:
                setattr(asyncio, name, getattr(transports, name))
            try:
                import oxloop
            except ImportError as error:
                say(error)
            """,
            "asyncio:new_event_loop",
        )
        assert outcome.check().startswith("oxloop does not know how this Python lays out <class")
