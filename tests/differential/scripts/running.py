"""Running and stopping: run_forever, run_until_complete, stop, close, and misuse of each."""

from __future__ import annotations

import asyncio
from typing import Any

from ..trace import PLACE, Trace, case, raises
from ..wire import pair, send


@case
def stop_completes_the_turn(trace: Trace) -> None:
    """stop() lets the callbacks of the current turn run; what they add waits for the next run."""
    loop = trace.loop

    def stopper() -> None:
        loop.call_soon(trace.callback("added before stop"))
        trace.call(loop.stop)
        loop.call_soon(trace.callback("added after stop"))

    loop.call_soon(stopper)
    loop.call_soon(trace.callback("in the same turn"))
    loop.call_later(0, trace.callback("timer in the same turn"))
    loop.run_forever()
    trace("stopped")
    loop.call_soon(trace.callback("added while stopped"))
    loop.call_soon(loop.stop)
    loop.run_forever()


@case
def stop_before_running(trace: Trace) -> None:
    """run_forever after stop() makes one turn, with a poll in it."""
    loop = trace.loop
    near, far = pair(trace)
    client = trace.protocol("client", data_received=lambda data: loop.call_soon(late))
    late = trace.callback("added in that turn")
    loop.run_until_complete(trace.connect(client, near))
    send(far, near, b"data")
    loop.call_soon(trace.callback("soon"))
    loop.call_later(0, trace.callback("timer"))
    loop.stop()
    loop.stop()
    trace.call(loop.run_forever)
    loop.stop()
    trace.call(loop.run_forever)


@case
def stop_while_io_is_ready(trace: Trace) -> None:
    """I/O that the stopping turn's poll found is dispatched in that turn."""
    loop = trace.loop
    near, far = pair(trace)
    client = trace.protocol("client")
    loop.run_until_complete(trace.connect(client, near))
    send(far, near, b"data")
    loop.call_soon(trace.callback("stop", loop.stop))
    trace.call(loop.run_forever)


@case
def stop_from_io_and_from_timer(trace: Trace) -> None:
    """stop() in data_received and in a timer: the rest of the turn still runs."""
    loop = trace.loop
    near, far = pair(trace)
    client = trace.protocol("client", data_received=lambda data: loop.stop())
    loop.run_until_complete(trace.connect(client, near))
    send(far, near, b"data")
    loop.call_later(0, trace.callback("timer after the data"))
    trace.call(loop.run_forever)
    loop.call_later(0, trace.callback("stop", loop.stop))
    loop.call_soon(trace.callback("ready before the timer"))
    trace.call(loop.run_forever)


@case
def results_and_exceptions(trace: Trace) -> None:
    """run_until_complete returns the result or raises the exception, as it was raised."""
    loop = trace.loop

    async def answer() -> int:
        trace("runs in", loop.is_running())
        return 42

    async def fail(exc: BaseException) -> None:
        raise exc

    trace.call(loop.run_until_complete, trace.name(answer(), "answer()"))
    error = ValueError("text", 1)
    trace.call(loop.run_until_complete, trace.name(fail(error), "fail()"))
    future = loop.create_future()
    loop.call_soon(future.set_result, "set")
    trace.call(loop.run_until_complete, future)
    trace.call(loop.run_until_complete, future)
    future = loop.create_future()
    loop.call_soon(future.cancel)
    trace.call(loop.run_until_complete, future)
    trace.call(loop.is_running)


@case
def stopped_before_the_result(trace: Trace) -> None:
    """A stop() before the future is done is a RuntimeError, and the future lives on."""
    loop = trace.loop
    future = loop.create_future()
    loop.call_soon(loop.stop)
    trace.call(loop.run_until_complete, future)
    loop.call_soon(future.set_result, 1)
    trace.call(loop.run_until_complete, future)


@case
def not_awaitable(trace: Trace) -> None:
    """What run_until_complete refuses."""
    for wrong in (None, 1, lambda: None):
        trace.call(trace.loop.run_until_complete, trace.name(wrong, "wrong"))


@case
def nested_runs(trace: Trace) -> None:
    """A running loop can be neither run again nor closed; no loop runs inside another."""
    loop = trace.loop
    other = trace.name(type(loop)(), "other")
    future = other.create_future()

    def inside() -> None:
        trace.call(loop.run_until_complete, loop.create_future())
        trace.call(loop.close)
        trace.call(other.run_until_complete, future)
        trace.call(loop.is_running)
        trace.call(other.is_running)
        # Last: up to 3.13.0, a refused run_forever makes asyncio forget that it runs.
        trace.call(loop.run_forever)
        loop.stop()

    loop.call_soon(inside)
    loop.run_forever()
    trace.call(other.close)


@case
def nested_coroutine_is_not_consumed(trace: Trace) -> None:
    """A refused run leaves the coroutine alone: it can be run afterwards."""
    loop = trace.loop

    async def inner() -> str:
        return "inner"

    coroutine = trace.name(inner(), "inner()")

    async def outer() -> None:
        trace.call(loop.run_until_complete, coroutine)

    loop.run_until_complete(outer())
    trace.call(loop.run_until_complete, coroutine)


@case
def future_of_another_loop(trace: Trace) -> None:
    """A future belongs to its loop."""
    other = trace.name(type(trace.loop)(), "other")
    future = trace.name(other.create_future(), "future")
    trace.call(trace.loop.run_until_complete, future)
    other.close()


@case
def closed_loop(trace: Trace) -> None:
    """Everything on a closed loop, in asyncio's words; closing again is nothing."""
    loop = trace.loop
    trace.call(loop.is_closed)
    trace.call(loop.close)
    trace.call(loop.is_closed)
    trace.call(loop.close)
    trace.call(loop.call_soon, raises(KeyError()))
    trace.call(loop.call_soon_threadsafe, raises(KeyError()))
    trace.call(loop.call_later, 1, raises(KeyError()))
    trace.call(loop.call_at, 1, raises(KeyError()))
    trace.call(loop.run_forever)
    trace.call(loop.run_in_executor, None, raises(KeyError()))
    coroutine = asyncio.sleep(0)
    trace.call(loop.run_until_complete, trace.name(coroutine, "coroutine"))
    trace.call(loop.create_task, coroutine)
    coroutine.close()
    trace.call(loop.stop)
    trace.call(loop.is_running)
    trace.call(loop.get_debug)
    trace.call(loop.create_future)
    trace("time", type(loop.time()))
    trace.call(repr, loop)


@case
def closing_drops_what_is_scheduled(trace: Trace) -> None:
    """Callbacks and timers of a closed loop never run; their handles can still be cancelled."""
    loop = trace.loop
    soon = loop.call_soon(trace.callback("never"))
    timer = loop.call_later(0, trace.callback("never"))
    loop.close()
    trace.call(soon.cancel)
    trace.call(timer.cancel)
    trace.call(soon.cancelled)
    trace.call(timer.cancelled)


@case
def closing_with_an_open_transport(trace: Trace) -> None:
    """close() tells the protocol nothing."""
    loop = trace.loop
    near, _ = pair(trace)
    client = trace.protocol("client")
    transport = loop.run_until_complete(trace.connect(client, near))
    loop.close()
    trace.call(transport.is_closing)
    near.close()  # the loop does not


@case
def interrupts_leave_the_loop(trace: Trace) -> None:
    """KeyboardInterrupt and SystemExit leave run_forever; the rest of the turn is kept."""
    loop = trace.loop
    for exc in (KeyboardInterrupt("text"), SystemExit(3)):
        near, far = pair(trace)
        client = trace.protocol("client")
        loop.run_until_complete(trace.connect(client, near))
        send(far, near, b"data")
        loop.call_soon(trace.callback("before"))
        loop.call_soon(trace.callback("raises", raises(exc)))
        loop.call_soon(trace.callback("behind it"))
        loop.call_later(0, trace.callback("timer"))
        trace.call(loop.run_forever)
        trace.call(loop.is_running)
        loop.call_soon(trace.callback("added between the runs"))
        loop.call_soon(loop.stop)
        trace.call(loop.run_forever)


@case
def interrupts_in_tasks(trace: Trace) -> None:
    """A task that raises KeyboardInterrupt or SystemExit ends the run, and keeps the exception."""
    loop = trace.loop
    for exc in (KeyboardInterrupt("text"), SystemExit("text")):

        async def fail(exc: BaseException = exc) -> None:
            raise exc

        task = loop.create_task(fail())
        loop.call_soon(trace.callback("behind the task"))
        trace.call(loop.run_forever)
        trace("task", task, task.exception())
        loop.call_soon(loop.stop)
        loop.run_forever()
        trace.call(loop.run_until_complete, trace.name(fail(), "fail()"))


@case
def other_base_exceptions_stay(trace: Trace) -> None:
    """Every other BaseException goes to the exception handler and the loop goes on."""
    loop = trace.loop

    class Odd(BaseException):
        pass

    for exc in (Odd("text"), GeneratorExit("text"), asyncio.CancelledError("text"), ValueError(1)):
        loop.call_soon(trace.callback("raises", raises(exc)))
    loop.call_soon(trace.callback("behind them", loop.stop))
    trace.call(loop.run_forever)


@case(lanes=True)
def async_generators(trace: Trace) -> None:
    """shutdown_asyncgens closes what was started and reports what goes wrong."""
    loop = trace.loop

    async def numbers(name: str, fail: bool = False) -> Any:
        try:
            yield 1
            yield 2
        finally:
            trace("closes", name, lane=name)  # in which order is chance
            if fail:
                raise ZeroDivisionError("text")

    async def start(generator: Any) -> None:
        trace("first", await generator.__anext__())

    kept = [numbers("kept"), numbers("failing", fail=True), numbers("never started")]
    for generator in kept[:2]:
        loop.run_until_complete(start(generator))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_asyncgens())


@case
def dropped_async_generator(trace: Trace) -> None:
    """A generator that is dropped half-way is closed by the loop."""
    loop = trace.loop

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            trace("closes")

    async def first() -> None:
        async for number in numbers():
            trace("first", number)
            break

    loop.run_until_complete(first())
    trace("next run")
    loop.run_until_complete(asyncio.sleep(0.001))


@case
def running_loop(trace: Trace) -> None:
    """get_running_loop inside and outside, and in a nested thread of control."""
    loop = trace.loop
    trace.call(asyncio.get_running_loop)
    loop.call_soon(lambda: trace.call(asyncio.get_running_loop))
    loop.call_soon(lambda: trace.call(loop.is_running))
    loop.call_soon(loop.stop)
    loop.run_forever()
    trace.call(asyncio.get_running_loop)
    loop.run_until_complete(loop.run_in_executor(None, trace.call, asyncio.get_running_loop))


@case
def contexts_of_runs(trace: Trace) -> None:
    """The coroutine of run_until_complete sees the caller's context, and sets in its own copy."""
    loop = trace.loop

    async def sets() -> None:
        trace("inside before")
        PLACE.set("inside")
        trace("inside after")

    PLACE.set("outside")
    loop.run_until_complete(sets())
    trace("outside after")


@case
def debug_switch(trace: Trace) -> None:
    """set_debug and get_debug, and what debug mode checks."""
    loop = trace.loop
    trace.call(loop.get_debug)
    trace.call(loop.set_debug, True)
    trace.call(loop.get_debug)

    async def coroutine() -> None: ...

    for method in (loop.call_soon, loop.call_soon_threadsafe):
        trace.call(method, coroutine)
        trace.call(method, None)
    trace.call(loop.call_later, 1, coroutine)
    trace.call(loop.call_at, 1, 5)
    trace.call(loop.run_in_executor, None, coroutine)

    async def from_threads() -> None:
        for method in (loop.call_soon, loop.call_soon_threadsafe):
            await loop.run_in_executor(None, trace.call, method, print)
        await loop.run_in_executor(None, trace.call, loop.call_later, 0, print)
        trace("slow by default", loop.slow_callback_duration)

    loop.run_until_complete(from_threads())


@case
def attributes_of_the_loop(trace: Trace) -> None:
    """Attributes can be set on the loop, methods replaced; an unknown one is an AttributeError."""
    loop: Any = trace.loop
    loop.mine = 1
    trace.call(getattr, loop, "mine")
    trace.refused(getattr, loop, "nothing_like_it")
    trace("is an event loop", isinstance(loop, asyncio.AbstractEventLoop))
    for name in ("_debug", "_default_executor", "_thread_id"):
        trace(name, getattr(loop, name, "absent"))
