"""Contexts of handles: a copy of the current one for each, whoever looks and whatever is set."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest

from .support import turns

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(params=["empty", "filled"])
def scheduling_context(request):
    """The context that the calls are scheduled from: with and without variables."""
    context = contextvars.Context()
    if request.param == "filled":
        context.run(variable.set, "outer")
    return context


@pytest.fixture(params=["call_soon", "call_soon_threadsafe", "call_later"])
def schedule(request, loop, scheduling_context):
    """Schedules a call from the context."""

    def schedule(callback, *args):
        method = getattr(loop, request.param)
        delay = (0,) if request.param == "call_later" else ()
        return scheduling_context.run(method, *delay, callback, *args)

    return schedule


class TestContextOfAHandle:
    def test_what_one_call_sets_no_other_sees(self, loop, schedule, scheduling_context):
        before = scheduling_context.get(variable, "unset")
        seen = []

        def look_and_set(value):
            seen.append(variable.get())
            variable.set(value)

        for value in range(5):
            schedule(look_and_set, value)
        turns(loop, 3)
        for value in range(5):
            schedule(look_and_set, value)
        turns(loop, 3)
        assert seen == [before] * 10
        assert scheduling_context.get(variable, "unset") == before

    def test_a_later_change_of_the_source_is_not_seen(self, loop, schedule, scheduling_context):
        seen = []
        schedule(lambda: seen.append(variable.get()))
        scheduling_context.run(variable.set, "changed")
        schedule(lambda: seen.append(variable.get()))
        turns(loop, 3)
        assert seen[0] != "changed"
        assert seen[1] == "changed"

    def test_is_its_own_and_the_one_it_runs_in(self, loop, schedule):
        handles = [schedule(variable.set, number) for number in range(3)]
        contexts = [handle._context for handle in handles]
        assert len({id(context) for context in contexts}) == 3
        turns(loop, 3)
        assert [handle._context for handle in handles] == contexts
        assert [context[variable] for context in contexts] == [0, 1, 2]

    def test_shows_what_was_set_when_looked_at_afterwards(self, loop, schedule):
        handles = [schedule(variable.set, number) for number in range(3)]
        turns(loop, 3)
        assert [handle._context[variable] for handle in handles] == [0, 1, 2]

    def test_is_entered_while_it_runs(self, loop, schedule):
        refused = []

        def enter_again():
            try:
                handles[0]._context.run(print)
            except RuntimeError as error:
                refused.append(str(error))

        handles = [schedule(enter_again)]
        turns(loop, 3)
        assert len(refused) == 1
        assert "is already entered" in refused[0]

    def test_a_replaced_one_is_run_in(self, loop, schedule):
        other = contextvars.Context()
        handle = schedule(variable.set, "elsewhere")
        handle._context = other
        turns(loop, 3)
        assert other[variable] == "elsewhere"
        del handle._context
        with pytest.raises(AttributeError):
            _ = handle._context

    def test_the_exception_handler_sees_the_variables(self, loop, schedule):
        seen = []

        def fail():
            variable.set("failing")
            raise ZeroDivisionError

        def on_error(loop, context):
            seen.append((context["handle"]._context[variable], variable.get()))

        loop.set_exception_handler(on_error)
        schedule(fail)
        turns(loop, 3)
        inside = "failing" if sys.version_info >= (3, 12) else "unset"
        assert seen == [("failing", inside)]

    def test_schedules_from_inside(self, loop, schedule):
        seen = []

        def outer(depth):
            seen.append(variable.get())
            variable.set(depth)
            if depth < 5:
                loop.call_soon(outer, depth + 1)

        schedule(outer, 1)
        turns(loop, 8)
        assert seen[1:] == [1, 2, 3, 4]

    def test_nested_contexts_inside_a_callback(self, loop, schedule):
        seen = []

        def callback():
            inner = contextvars.Context()
            inner.run(variable.set, "inner")
            inner.run(loop.call_soon, look)
            loop.call_soon(look)

        def look():
            seen.append(variable.get())

        schedule(callback)
        turns(loop, 5)
        assert seen[0] == "inner"
        assert seen[1] != "inner"

    def test_a_token_resets_where_it_was_made(self, loop, schedule):
        results = []

        def set_and_reset():
            token = variable.set("for a while")
            variable.reset(token)
            results.append(variable.get())

        def set_and_keep():
            tokens.append(variable.set("kept"))

        def reset_elsewhere():
            try:
                variable.reset(tokens[0])
            except ValueError:
                results.append("refused")

        tokens = []
        for callback in (set_and_reset, set_and_keep, reset_elsewhere, set_and_reset):
            schedule(callback)
        turns(loop, 3)
        assert len(results) == 3
        assert results[1] == "refused"
        assert results[0] == results[2] != "for a while"


class Value:
    pass


class TestLifetimeOfValues:
    @pytest.mark.parametrize("end", ["run", "cancel", "raise"])
    @pytest.mark.parametrize("count", [1, 3])
    def test_ends_with_the_last_handle(self, loop, error_contexts, end, count):
        def schedule_all():
            variable.set(values.pop())
            return [loop.call_soon(fail if end == "raise" else print, "") for _ in range(count)]

        def fail(_):
            raise ZeroDivisionError

        values = [Value()]
        witness = weakref.ref(values[0])
        handles = contextvars.Context().run(schedule_all)
        assert witness() is not None
        if end == "cancel":
            for handle in handles:
                handle.cancel()
        handle = None
        handles.clear()
        turns(loop, 3)
        error_contexts.clear()
        gc.collect()
        assert witness() is None

    def test_set_in_a_callback_ends_with_it(self, loop):
        def callback():
            value = Value()
            witnesses.append(weakref.ref(value))
            variable.set(value)

        witnesses = []
        for _ in range(3):
            loop.call_soon(callback)
        turns(loop, 3)
        assert [witness() for witness in witnesses] == [None] * 3

    def test_finalizer_that_schedules(self, loop):
        """Letting a value go runs its finalizer, which may schedule in turn."""

        class Last:
            def __del__(self):
                loop.call_soon(seen.append, "finalized")

        def schedule_all():
            variable.set(Last())
            loop.call_soon(seen.append, "first")
            loop.call_soon(seen.append, "second")

        seen: list[str] = []
        contextvars.Context().run(schedule_all)
        turns(loop, 5)
        assert seen == ["first", "second", "finalized"]


class TestWeakReferencesToHandles:
    def test_do_not_see_the_next_handle(self, loop):
        references = [weakref.ref(loop.call_soon(print, "")) for _ in range(10)]
        turns(loop, 2)
        assert [reference() for reference in references] == [None] * 10
        handles = [loop.call_soon(print, "") for _ in range(10)]
        assert [reference() for reference in references] == [None] * 10
        turns(loop, 2)
        del handles

    def test_call_back_when_the_handle_goes(self, loop):
        gone = []
        reference = weakref.ref(loop.call_soon(print, ""), gone.append)
        turns(loop, 2)
        assert gone == [reference]

    def test_show_the_whole_handle_while_it_runs(self, loop):
        seen = []

        def callback(*args):
            handle = reference()
            seen.append((handle._callback, handle._args, repr(handle)))

        reference = weakref.ref(loop.call_soon(callback, 1))
        turns(loop, 2)
        [(found, args, text)] = seen
        assert found is callback
        assert args == (1,)
        assert "callback" in text


async def test_tasks_have_a_context_of_their_own(loop):
    """What a task sets stays in it, among tasks and callbacks that were made in a row."""

    async def worker(number):
        before = variable.get()
        variable.set(number)
        await asyncio.sleep(0)
        loop.call_soon(seen.append, variable.get())
        return before, variable.get()

    seen: list[object] = []
    results = await asyncio.gather(*(worker(number) for number in range(5)))
    assert results == [("unset", number) for number in range(5)]
    await asyncio.sleep(0)
    assert seen == list(range(5))
