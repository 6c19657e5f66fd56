"""add_signal_handler, remove_signal_handler, Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

from ..trace import PLACE, Trace, case, raises


def _handler_of(number: int) -> str:
    handler = signal.getsignal(number)
    if handler is signal.default_int_handler:
        return "default_int_handler"
    return handler.name if isinstance(handler, signal.Handlers) else "a handler"


@case
async def handlers(trace: Trace) -> None:
    """A handler is called on the loop, with its arguments, each time, until it is removed."""
    loop = trace.loop
    seen: list[Any] = []
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        seen.append(loop.create_future())
        loop.add_signal_handler(number, trace.callback(number.name, seen[-1].set_result), number)
        trace("installed", number.name, _handler_of(number))
        os.kill(os.getpid(), number)
        await seen[-1]
        trace.call(loop.remove_signal_handler, number)
        trace("removed", number.name, _handler_of(number))
        trace.call(loop.remove_signal_handler, number)


@case
async def not_from_inside(trace: Trace) -> None:
    """The handler runs as a callback of its own, not inside what is running."""
    loop = trace.loop
    done = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, trace.callback("handler", lambda: done.set_result(1)))
    os.kill(os.getpid(), signal.SIGUSR1)
    trace("after kill")
    await done


@case
async def replaced(trace: Trace) -> None:
    """A second add_signal_handler replaces the first."""
    loop = trace.loop
    done = loop.create_future()
    trace.call(loop.add_signal_handler, signal.SIGUSR1, trace.name(print, "first"))
    second = trace.name(trace.callback("second handler", lambda: done.set_result(1)), "second")
    trace.call(loop.add_signal_handler, signal.SIGUSR1, second)
    os.kill(os.getpid(), signal.SIGUSR1)
    await done


@case
async def several(trace: Trace) -> None:
    """Each signal has its own handler."""
    loop = trace.loop
    done = [loop.create_future() for _ in range(2)]
    for number, future in zip((signal.SIGUSR1, signal.SIGUSR2), done, strict=True):
        loop.add_signal_handler(number, trace.callback(number.name, future.set_result), number)
    os.kill(os.getpid(), signal.SIGUSR2)
    await done[1]
    os.kill(os.getpid(), signal.SIGUSR1)
    await done[0]
    trace.call(loop.remove_signal_handler, signal.SIGUSR1)
    trace("the other stays", _handler_of(signal.SIGUSR2))


@case
async def contexts(trace: Trace) -> None:
    """A handler runs in the context it was added in."""
    loop = trace.loop
    done = loop.create_future()
    PLACE.set("who adds it")
    loop.add_signal_handler(signal.SIGUSR1, trace.callback("handler", done.set_result), None)
    PLACE.set("afterwards")
    os.kill(os.getpid(), signal.SIGUSR1)
    await done


@case
async def failing(trace: Trace) -> None:
    """An exception in a handler goes to the exception handler."""
    loop = trace.loop
    told = loop.create_future()

    def handler(loop: Any, context: dict[str, Any]) -> None:
        trace.handler(loop, context)
        told.set_result(None)

    def fails() -> None:
        raise ValueError("text")

    loop.set_exception_handler(handler)
    loop.add_signal_handler(signal.SIGUSR1, fails)
    os.kill(os.getpid(), signal.SIGUSR1)
    await told


@case
def interrupting_handler(trace: Trace) -> None:
    """A KeyboardInterrupt raised in a handler leaves the loop."""
    loop = trace.loop
    loop.add_signal_handler(signal.SIGUSR1, raises(KeyboardInterrupt("text")))
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    trace.call(loop.run_forever)


@case
def stopping_handler(trace: Trace) -> None:
    """loop.stop as a handler, the usual way to end a server."""
    loop = trace.loop
    loop.add_signal_handler(signal.SIGTERM, loop.stop)
    loop.call_soon(os.kill, os.getpid(), signal.SIGTERM)
    trace.call(loop.run_forever)


@case
async def wrong_arguments(trace: Trace) -> None:
    """What is refused, and with which words."""
    loop = trace.loop

    async def coroutine() -> None: ...

    add, remove = loop.add_signal_handler, loop.remove_signal_handler
    for wrong in ("SIGUSR1", 1.5, None):
        trace.call(add, wrong, print)
        trace.call(remove, wrong)
    for wrong in (0, -1, 1000, signal.NSIG + 1):
        trace.call(add, wrong, print)
        trace.call(remove, wrong)
    for number in (signal.SIGKILL, signal.SIGSTOP):
        trace.call(add, number, print)
        trace.call(remove, number)
    trace.call(add, signal.SIGUSR1, trace.name(coroutine, "coroutine function"))
    made = coroutine()
    trace.call(add, signal.SIGUSR1, trace.name(made, "coroutine"))
    made.close()
    trace.refused(add, signal.SIGUSR1)


@case
async def in_another_thread(trace: Trace) -> None:
    """Only the main thread may add a handler."""
    await trace.loop.run_in_executor(
        None, trace.call, trace.loop.add_signal_handler, signal.SIGUSR1, print
    )


@case
def closed_loop(trace: Trace) -> None:
    """Closing the loop gives the signals back; then no handler can be added."""
    loop = trace.loop
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    trace("open", _handler_of(signal.SIGUSR1), _handler_of(signal.SIGINT))
    trace.call(loop.close)
    trace("closed", _handler_of(signal.SIGUSR1), _handler_of(signal.SIGINT))
    trace.call(loop.add_signal_handler, signal.SIGUSR1, print)
    trace.call(loop.remove_signal_handler, signal.SIGUSR1)


@case
def interrupt_in_a_callback(trace: Trace) -> None:
    """Ctrl-C while a callback runs: KeyboardInterrupt there, and out of run_forever."""
    loop = trace.loop

    def busy() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
        finally:
            trace("left the callback")

    loop.call_soon(busy)
    loop.call_soon(trace.callback("behind it"))
    trace.call(loop.run_forever)
    loop.call_soon(loop.stop)
    trace.call(loop.run_forever)


@case
def interrupt_while_waiting(trace: Trace) -> None:
    """Ctrl-C while the loop waits in the selector with nothing to do."""
    loop = trace.loop
    _kill_waiting(trace, signal.SIGINT)
    trace.call(loop.run_forever)
    trace.call(loop.is_running)
    loop.call_soon(trace.callback("can be run again", loop.stop))
    trace.call(loop.run_forever)


def _kill_waiting(trace: Trace, number: int) -> None:
    """Send this process a signal once the loop, run after this call, waits in its selector."""
    main = threading.get_native_id()
    running = threading.Event()

    def kill() -> None:
        running.wait(10)
        asleep = 0
        while asleep < 3:  # this thread holds no lock in between, so only the selector is left
            time.sleep(0.001)
            with open(f"/proc/self/task/{main}/stat") as stat:
                state = stat.read().rpartition(")")[2].split()[0]
            asleep = asleep + 1 if state == "S" else 0
        os.kill(os.getpid(), number)

    threading.Thread(target=kill).start()
    trace.loop.call_soon(running.set)


@case
def own_python_handler(trace: Trace) -> None:
    """A handler set with the signal module runs while the loop waits, and its exception leaves."""
    loop = trace.loop

    class Hurry(Exception):
        pass

    def handler(number: int, frame: Any) -> None:
        trace("python handler", signal.Signals(number).name)
        raise Hurry("text")

    old = signal.signal(signal.SIGALRM, handler)
    _kill_waiting(trace, signal.SIGALRM)
    trace.call(loop.run_forever)
    signal.signal(signal.SIGALRM, old)


@case
def run_interrupted(trace: Trace) -> None:
    """Ctrl-C cancels the main task of asyncio.Runner (3.11), then raises KeyboardInterrupt."""
    if not hasattr(asyncio, "Runner"):
        trace("no Runner")
        return

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await trace.loop.create_future()
        except asyncio.CancelledError:
            trace("main was cancelled")
            raise

    with asyncio.Runner(loop_factory=lambda: trace.loop) as runner:
        trace.call(runner.run, trace.name(main(), "main()"))
