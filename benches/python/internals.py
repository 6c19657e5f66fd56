"""Workloads of the loop alone, without a peer: `internals.py NAME MODULE --seconds S`.

Each function runs one batch and returns how many operations that was. Batches are repeated until
the time is over. Prints `{"ops": operations, "secs": wall clock, "cpu_ns": of this process}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Callable

from loops import new_event_loop

Loop = asyncio.AbstractEventLoop


def nothing() -> None:
    """The callback whose own cost does not count."""


class Countdown:
    """Sets its future when it was called `count` times."""

    def __init__(self, loop: Loop, count: int) -> None:
        self.left = count
        self.done = loop.create_future()

    def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set_result(None)


def call_soon(loop: Loop, count: int = 20_000) -> int:
    """A callback that schedules the next one: a turn of the loop each."""
    countdown = Countdown(loop, count)

    def step() -> None:
        countdown()
        if countdown.left:
            loop.call_soon(step)

    loop.call_soon(step)
    loop.run_until_complete(countdown.done)
    return count


def call_soon_batch(loop: Loop, count: int = 20_000) -> int:
    """One of many callbacks that run in one turn."""
    countdown = Countdown(loop, count)
    for _ in range(count):
        loop.call_soon(countdown)
    loop.run_until_complete(countdown.done)
    return count


def call_later_cancel(loop: Loop, count: int = 50_000) -> int:
    """A timer that is made and cancelled, as a timeout is."""

    async def main() -> None:
        timers = [loop.call_later(60 + index * 0.001, nothing) for index in range(count)]
        for timer in timers:
            timer.cancel()

    loop.run_until_complete(main())
    return count


def sleep0(loop: Loop, count: int = 10_000) -> int:
    """One `await asyncio.sleep(0)` of ten tasks in turn."""

    async def worker() -> None:
        for _ in range(count // 10):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(worker() for _ in range(10)))

    loop.run_until_complete(main())
    return count


def future_wakeup(loop: Loop, count: int = 10_000) -> int:
    """A task that waits for a future, woken by a callback."""

    async def main() -> None:
        for _ in range(count):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    loop.run_until_complete(main())
    return count


def threadsafe(loop: Loop, count: int = 20_000) -> int:
    """A callback from another thread, by call_soon_threadsafe."""
    countdown = Countdown(loop, count)

    def flood() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(countdown)

    thread = threading.Thread(target=flood)
    thread.start()
    loop.run_until_complete(countdown.done)
    thread.join()
    return count


def executor(loop: Loop, count: int = 1_000) -> int:
    """One run_in_executor, there and back."""

    async def main() -> None:
        for _ in range(count):
            await loop.run_in_executor(None, nothing)

    loop.run_until_complete(main())
    return count


WORKLOADS: dict[str, Callable[[Loop], int]] = {
    function.__name__: function
    for function in (
        call_soon,
        call_soon_batch,
        call_later_cancel,
        sleep0,
        future_wakeup,
        threadsafe,
        executor,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=WORKLOADS)
    parser.add_argument("module", help="whose new_event_loop makes the loop")
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    run_batch = WORKLOADS[arguments.name]
    loop = new_event_loop(arguments.module)
    run_batch(loop)  # warm-up
    ops, begin, cpu_before = 0, time.perf_counter(), time.process_time_ns()
    while (secs := time.perf_counter() - begin) < arguments.seconds:
        ops += run_batch(loop)
    cpu_ns = time.process_time_ns() - cpu_before
    print(json.dumps({"ops": ops, "secs": secs, "cpu_ns": cpu_ns}))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


if __name__ == "__main__":
    main()
