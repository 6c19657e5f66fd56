"""run_in_executor, the default executor, its shutdown."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

from ..trace import Trace, case, raises


@case
async def results(trace: Trace) -> None:
    """Results, exceptions, arguments; the work runs in another thread."""
    loop = trace.loop
    run = loop.run_in_executor
    await trace.wait("sum", run(None, sum, [1, 2, 3]))
    await trace.wait("fails", run(None, raises(ValueError("text"))))
    await trace.wait("max", run(None, max, 1, 5, 3))
    await trace.wait("wrong call", run(None, lambda: 1, 2))
    other = await run(None, threading.get_ident)
    trace("another thread", other != threading.get_ident())
    name = await run(None, lambda: threading.current_thread().name)
    trace("name", name.rpartition("_")[0])
    trace("a future of the loop", run(None, int).get_loop() is loop)


@case
async def own_executor(trace: Trace) -> None:
    """An executor of the caller's."""
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        run = trace.loop.run_in_executor
        name = await run(executor, lambda: threading.current_thread().name)
        trace("name", name)
        futures = [run(executor, trace, "job", number) for number in range(3)]
        await asyncio.gather(*futures)
    await trace.wait("shut down", _try(trace, executor))


async def _try(trace: Trace, executor: Any) -> Any:
    return await trace.loop.run_in_executor(executor, int)


@case
async def default_executor(trace: Trace) -> None:
    """set_default_executor takes a ThreadPoolExecutor and nothing else."""
    loop = trace.loop
    for wrong in (None, 5, "executor"):
        trace.call(loop.set_default_executor, wrong)
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine")
    trace.name(executor, "executor")
    trace.call(loop.set_default_executor, executor)
    trace("name", await loop.run_in_executor(None, lambda: threading.current_thread().name))


@case
async def cancelled(trace: Trace) -> None:
    """A future that is cancelled before its job started; the job never runs."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        started, release = threading.Event(), threading.Event()

        def block() -> str:
            started.set()
            release.wait(10)
            return "ran to its end"

        run = trace.loop.run_in_executor
        first = run(executor, block)
        second = run(executor, trace, "never")
        started.wait(10)
        trace.call(second.cancel)
        trace.call(first.cancel)
        await trace.turns(2)  # the executor is told by a callback
        release.set()
        await trace.wait("second", second)
        await trace.wait("first", first)


@case
def shutdown(trace: Trace) -> None:
    """After shutdown_default_executor there is no default executor any more."""
    loop = trace.loop
    trace.call(loop.run_until_complete, trace.name(loop.shutdown_default_executor(), "unused"))
    coroutine = _submit(trace)
    trace.call(loop.run_until_complete, trace.name(coroutine, "submit()"))


async def _submit(trace: Trace) -> Any:
    return await trace.loop.run_in_executor(None, int)


@case
def shutdown_waits(trace: Trace) -> None:
    """shutdown_default_executor waits for the jobs that run."""
    loop = trace.loop
    release = threading.Event()

    async def main() -> None:
        def job() -> None:
            release.wait(10)
            trace("job ends")

        future = loop.run_in_executor(None, job)
        loop.call_soon(release.set)
        await loop.shutdown_default_executor()
        trace("shut down")
        await future

    loop.run_until_complete(main())


@case
def closed_under_a_job(trace: Trace) -> None:
    """Closing the loop while a job runs is no error for the job."""
    loop = trace.loop
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        started.set()
        release.wait(10)
        ended.set()

    loop.run_in_executor(None, job)
    started.wait(10)
    trace.call(loop.close)
    release.set()
    trace("ended", ended.wait(10))


@case
async def wrong_arguments(trace: Trace) -> None:
    """What run_in_executor refuses."""
    run = trace.loop.run_in_executor
    trace.refused(run)
    trace.refused(run, None)
    trace.refused(run, 5, int)
    await trace.wait("not callable", run(None, 5))
