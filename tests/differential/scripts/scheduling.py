"""call_soon, call_later, call_at, call_soon_threadsafe: arguments, handles, contexts, errors."""

from __future__ import annotations

import asyncio
import contextvars
import threading

from ..trace import PLACE, Trace, case, raises


@case
async def arguments_of_callbacks(trace: Trace) -> None:
    """Any number of positional arguments reaches the callback."""
    for count in (0, 1, 2, 3, 4, 5, 9):
        arguments = range(count)
        trace.loop.call_soon(trace.callback("soon"), *arguments)
        trace.loop.call_soon_threadsafe(trace.callback("threadsafe"), *arguments)
        trace.loop.call_later(0, trace.callback("later"), *arguments)
        trace.loop.call_at(0.5 + count, trace.callback("at"), *arguments)
        await trace.turns(2)


@case
async def refused_arguments(trace: Trace) -> None:
    """Wrong calls; where asyncio words the error itself, its text counts."""
    loop = trace.loop
    for method in (loop.call_soon, loop.call_soon_threadsafe):
        trace.refused(method)
        trace.refused(method, print, nothing=1)
    trace.refused(loop.call_later)
    trace.refused(loop.call_later, 1)
    trace.refused(loop.call_at, 1)
    trace.refused(loop.call_later, "1", print)
    trace.refused(loop.call_later, 1, print, nothing=1)
    if hasattr(asyncio, "TaskGroup"):  # since 3.11
        trace.call(loop.call_later, None, print)
        trace.call(loop.call_at, None, print)


@case
async def callbacks_that_cannot_be_called(trace: Trace) -> None:
    """Outside debug mode such a callback fails when its turn comes, in the exception handler."""
    trace.loop.call_soon(None)
    trace.loop.call_soon(trace.callback("next"))
    trace.loop.call_later(0, 5)
    await trace.turns(2)


@case
async def wrong_number_of_arguments(trace: Trace) -> None:
    """So does a callback that is called with arguments it does not take."""

    def takes_one(argument: int) -> None: ...

    trace.loop.call_soon(takes_one)
    trace.loop.call_soon(takes_one, 1, 2)
    await trace.turns(2)


@case
async def exceptions_in_callbacks(trace: Trace) -> None:
    """The context that the exception handler gets for a callback."""

    def fails(*arguments: object) -> None:
        raise ValueError("text")

    trace.loop.call_soon(fails)
    trace.loop.call_soon(fails, 1, "two")
    trace.loop.call_later(0, fails)
    trace.loop.call_soon_threadsafe(fails)
    trace.loop.call_soon(trace.callback("next"))
    await trace.turns(2)


@case
async def handles(trace: Trace) -> None:
    """A handle: cancel, cancelled, when, its classes, and its state after it ran."""
    loop = trace.loop
    soon = loop.call_soon(trace.callback("soon"))
    timer = loop.call_later(0, trace.callback("timer"))
    distant = loop.call_at(loop.time() + 1000, trace.callback("never"))
    for handle in (soon, timer, distant):
        trace("a Handle", isinstance(handle, asyncio.Handle))
        trace("a TimerHandle", isinstance(handle, asyncio.TimerHandle))
        trace("cancelled", handle.cancelled())
    trace("when", 999 < distant.when() - loop.time() <= 1000)
    exact = loop.call_at(12345678.25, trace.callback("never"))
    trace("exactly", exact.when())
    exact.cancel()
    await trace.turns(2)
    for handle in (soon, timer, distant):
        trace("cancel", handle.cancel())
        trace("cancelled", handle.cancelled())
        trace("cancel again", handle.cancel())
    trace("when", distant.when() > 0)


@case(since=(3, 12))
async def contexts_of_handles(trace: Trace) -> None:
    """Handle.get_context returns the context given, or a copy of the caller's."""
    context = contextvars.copy_context()
    context.run(PLACE.set, "given")
    given = trace.loop.call_soon(trace.callback("given"), context=context)
    PLACE.set("copied")
    copied = trace.loop.call_soon(trace.callback("copied"))
    trace("the given one", given.get_context() is context, given.get_context())
    trace("a copy", copied.get_context())
    await trace.turns()


@case
async def contexts(trace: Trace) -> None:
    """Callbacks run in a copy of the context they were registered in, or in the one given."""
    loop = trace.loop
    context = contextvars.copy_context()
    context.run(PLACE.set, "given")

    def schedule(word: str) -> None:
        PLACE.set(word)
        loop.call_soon(trace.callback(f"soon {word}"))
        loop.call_soon_threadsafe(trace.callback(f"threadsafe {word}"))
        loop.call_later(0, trace.callback(f"later {word}"))
        loop.call_at(0, trace.callback(f"at {word}"))
        loop.call_soon(trace.callback("soon given"), context=context)
        loop.call_soon_threadsafe(trace.callback("threadsafe given"), context=context)
        loop.call_later(0, trace.callback("later given"), context=context)
        loop.call_at(0, trace.callback("at given"), context=context)
        loop.call_soon(trace.callback("soon None"), context=None)
        PLACE.set("changed afterwards")

    schedule("one")
    loop.call_soon(schedule, "two")
    await trace.turns(3)


@case
async def changes_in_a_given_context(trace: Trace) -> None:
    """A callback's changes stay in the context it was given, and nowhere else."""
    context = contextvars.copy_context()
    trace.loop.call_soon(PLACE.set, "set by a callback", context=context)
    trace.loop.call_soon(trace.callback("same context"), context=context)
    trace.loop.call_soon(PLACE.set, "set in a copy")
    trace.loop.call_soon(trace.callback("own copy"))
    await trace.turns(2)
    trace("afterwards", context)


@case
async def context_already_entered(trace: Trace) -> None:
    """A context that is entered already cannot run a callback: the handler is told."""
    context = contextvars.copy_context()

    def reenter() -> None:
        context.run(lambda: trace.loop.call_soon(trace.callback("later"), context=context))

    reenter()
    await trace.turns(2)


@case
async def wrong_contexts(trace: Trace) -> None:
    """What happens with a context that is none."""
    try:
        trace.loop.call_soon(trace.callback("runs"), context=5)
    except Exception as exc:
        trace("refused", type(exc))
    await trace.turns(2)


@case
async def comparing_timers(trace: Trace) -> None:
    """Timers compare by their deadlines."""
    loop = trace.loop

    def callback() -> None: ...

    early, late = loop.call_at(1e9, callback), loop.call_at(1e9 + 1, callback)
    same = loop.call_at(1e9, callback)
    trace("orders", early < late, early <= late, early > late, early >= late)
    trace("equals", early == same, early != same, early == late, early == 5)
    trace("hashes", hash(early) == hash(same))
    for timer in (early, late, same):
        timer.cancel()


@case
async def many_cancelled_timers(trace: Trace) -> None:
    """A thousand cancelled timers disturb neither order nor firing of the others."""
    loop = trace.loop
    now = loop.time()
    timers = [loop.call_at(now + n / 1e6, trace.callback(f"timer {n}")) for n in range(1000)]
    for number, timer in enumerate(timers):
        if number % 100:
            timer.cancel()
    done = loop.create_future()
    loop.call_at(now + 0.002, done.set_result, None)
    await done


@case
async def threads(trace: Trace) -> None:
    """call_soon_threadsafe wakes a loop that waits, and keeps one thread's order."""
    loop = trace.loop
    done = loop.create_future()

    def work() -> None:
        for number in range(5):
            loop.call_soon_threadsafe(trace.callback("from a thread"), number)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=work)
    thread.start()
    await done
    thread.join()


@case
async def run_coroutine_threadsafe(trace: Trace) -> None:
    """asyncio.run_coroutine_threadsafe: result, exception, cancellation."""
    loop = trace.loop

    async def answer() -> int:
        return 42

    def work() -> None:
        trace("result", asyncio.run_coroutine_threadsafe(answer(), loop).result(10))
        failing = asyncio.run_coroutine_threadsafe(asyncio.wait_for(fails(), 10), loop)
        trace("exception", failing.exception(10))

    async def fails() -> None:
        raise KeyError("text")

    await loop.run_in_executor(None, work)


@case
async def raising_handler(trace: Trace) -> None:
    """An exception handler that fails itself: the default one reports both."""
    loop = trace.loop
    loop.set_exception_handler(lambda loop, context: 1 / 0)
    loop.call_soon(raises(ValueError("text")))
    await trace.turns(2)
