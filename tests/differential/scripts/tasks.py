"""create_task, create_future, task factories, eager tasks, and the order in which tasks run."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from ..trace import PLACE, Trace, case


async def _answer(trace: Trace, name: str, turns: int = 0) -> str:
    trace("starts", name)
    await trace.turns(turns)
    trace("ends", name)
    return name


@case
async def order(trace: Trace) -> None:
    """Tasks run in the order of their creation, turn by turn."""
    tasks = [trace.loop.create_task(_answer(trace, f"task {n}", turns=n)) for n in (2, 0, 1)]
    trace("created")
    trace("results", await asyncio.gather(*tasks))


@case
async def keywords(trace: Trace) -> None:
    """The keywords that every Python has: name; and the default name."""
    loop = trace.loop
    for name in ("mine", None, 5):
        task = loop.create_task(_answer(trace, "named"), name=name)
        trace("name", task.get_name())
        trace("a Task", type(task), isinstance(task, asyncio.Task))
        trace("of the loop", task.get_loop() is loop)
        await task


@case(since=(3, 11))
async def with_a_context(trace: Trace) -> None:
    """context= (3.11)."""
    context = contextvars.copy_context()
    context.run(PLACE.set, "given")
    task = trace.loop.create_task(_answer(trace, "in a context", turns=1), context=context)
    await task
    await trace.loop.create_task(_answer(trace, "without"), context=None)


@case
async def futures(trace: Trace) -> None:
    """create_future makes one of the loop's futures."""
    future = trace.loop.create_future()
    trace("type", type(future))
    trace("of the loop", future.get_loop() is trace.loop)
    future.add_done_callback(trace.callback("callback 1"))
    future.add_done_callback(trace.callback("callback 2"))
    trace.loop.call_soon(trace.callback("soon"))
    future.set_result(1)
    trace("set")
    trace("awaited", await future)
    await trace.turns()


@case
async def factory(trace: Trace) -> None:
    """A task factory is asked for every task, with the loop and the coroutine."""
    loop = trace.loop
    trace.call(loop.get_task_factory)

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        trace("factory", loop, sorted(key for key in options if options[key] is not None))
        return asyncio.Task(coroutine, loop=loop, **options)

    trace.name(factory, "factory")
    trace.call(loop.set_task_factory, factory)
    trace.call(loop.get_task_factory)
    await loop.create_task(_answer(trace, "made by a factory"))
    await asyncio.ensure_future(_answer(trace, "ensured"))
    await asyncio.gather(_answer(trace, "gathered"))
    trace.call(loop.set_task_factory, None)
    trace.call(loop.get_task_factory)
    await loop.create_task(_answer(trace, "without a factory"))


@case
async def factory_and_keywords(trace: Trace) -> None:
    """How a name gets to a task of a factory."""
    loop = trace.loop

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        trace("factory", sorted(options))
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    task = loop.create_task(_answer(trace, "named"), name="mine")
    trace("name", task.get_name())
    await task


@case(since=(3, 11))
async def factory_and_context(trace: Trace) -> None:
    """How a context gets to a task of a factory (3.11)."""
    loop = trace.loop
    context = contextvars.copy_context()
    context.run(PLACE.set, "given")

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        trace("factory", sorted(options), options.get("context") is context)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    await loop.create_task(_answer(trace, "in a context"), context=context)


@case(since=(3, 14))
async def any_keyword(trace: Trace) -> None:
    """create_task hands every keyword to the factory (3.14)."""
    loop = trace.loop

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        trace("factory", sorted(options.items()))
        options.pop("mine", None)
        return asyncio.Task(coroutine, loop=loop, **options)

    trace.refused(loop.create_task, trace.name(_answer(trace, "refused"), "answer()"), mine=1)
    loop.set_task_factory(factory)
    await loop.create_task(_answer(trace, "made"), mine=1)
    eager: Any = {"eager_start": True}
    loop.set_task_factory(None)
    task = loop.create_task(_answer(trace, "eager"), **eager)
    trace("after create_task", task)
    await task


@case
async def wrong_factories(trace: Trace) -> None:
    """A task factory is callable or None."""
    for wrong in (5, "factory", object):
        trace.call(trace.loop.set_task_factory, wrong)
        trace.call(trace.loop.get_task_factory)
        trace.loop.set_task_factory(None)


@case
async def wrong_coroutines(trace: Trace) -> None:
    """What create_task refuses."""
    for wrong in (None, 5, trace.loop.create_future(), _answer):
        trace.call(trace.loop.create_task, trace.name(wrong, "wrong"))
    trace.refused(trace.loop.create_task)


@case(since=(3, 12))
async def eager_tasks(trace: Trace) -> None:
    """asyncio.eager_task_factory (3.12): tasks start inside create_task."""
    loop: Any = trace.loop
    loop.set_task_factory(asyncio.eager_task_factory)
    for turns in (0, 2):
        trace("before create_task")
        task = loop.create_task(_answer(trace, "eager", turns))
        trace("after create_task", task)
        trace("result", await task)
    results = await asyncio.gather(*(_answer(trace, f"task {n}", turns=n) for n in (2, 0, 1)))
    trace("results", results)


@case(since=(3, 12))
async def eager_tasks_and_contexts(trace: Trace) -> None:
    """An eager task runs in its own copy of the context, from its first step on."""
    loop: Any = trace.loop
    loop.set_task_factory(asyncio.eager_task_factory)

    async def work() -> None:
        PLACE.set("set by the task")
        trace("first step", asyncio.current_task() is not None)
        await asyncio.sleep(0)
        trace("second step")

    PLACE.set("creator")
    task = loop.create_task(work())
    trace("creator")
    await task


@case(since=(3, 12))
async def eager_failure(trace: Trace) -> None:
    """An eager task that fails or is cancelled before its first wait."""
    loop: Any = trace.loop
    loop.set_task_factory(asyncio.eager_task_factory)

    async def fails() -> None:
        raise ValueError("text")

    task = loop.create_task(fails())
    trace("done", task.done())
    await trace.wait("task", task)


@case
async def cancelling(trace: Trace) -> None:
    """Cancelling a task before it starts, while it waits, and after it ended."""
    loop = trace.loop
    unstarted = loop.create_task(_answer(trace, "never"))
    trace.call(unstarted.cancel)
    await trace.wait("unstarted", unstarted)
    waiting = loop.create_task(_answer(trace, "waits", turns=100))
    await trace.turns(3)
    trace.call(waiting.cancel)
    await trace.wait("waiting", waiting)
    ended = loop.create_task(_answer(trace, "ends"))
    await ended
    trace.call(ended.cancel)
    trace.call(waiting.cancel)


@case
async def timeouts(trace: Trace) -> None:
    """wait_for, asyncio.wait and sleep on the loop's timers."""
    future = trace.loop.create_future()
    try:
        await asyncio.wait_for(future, 0.001)
    except Exception as exc:
        trace("wait_for", type(exc).__name__)
    trace("cancelled by it", future.cancelled())
    trace("in time", await asyncio.wait_for(_answer(trace, "quick"), 10))
    trace("slept", await asyncio.sleep(0.001, "result"))
    slow = asyncio.ensure_future(trace.loop.create_future())
    done, pending = await asyncio.wait([slow], timeout=0.001)
    trace("wait", len(done), len(pending))


@case
async def order_of_sleeps(trace: Trace) -> None:
    """sleep(0) is one turn; longer ones end in the order of their deadlines."""

    async def hops(name: str, count: int) -> None:
        for number in range(count):
            trace(name, number)
            await asyncio.sleep(0)

    await asyncio.gather(hops("one", 3), hops("two", 3))

    async def sleeps(seconds: float) -> None:
        await asyncio.sleep(seconds)
        trace("slept", seconds)

    await asyncio.gather(*(sleeps(n / 100) for n in (1, 2, 3)))


@case
async def all_tasks(trace: Trace) -> None:
    """asyncio.all_tasks and current_task know the loop's tasks."""
    before = len(asyncio.all_tasks())
    task = trace.loop.create_task(_answer(trace, "counted", turns=1))
    trace("more", len(asyncio.all_tasks()) - before)
    await task
    trace("current", type(asyncio.current_task()))


@case(since=(3, 11))
async def task_groups(trace: Trace) -> None:
    """A failing member of a TaskGroup cancels the others (3.11)."""

    async def fails() -> None:
        await trace.turns()
        raise ValueError("text")

    async def group() -> None:
        async with asyncio.TaskGroup() as members:
            members.create_task(_answer(trace, "waits", turns=10))
            members.create_task(fails())

    await trace.wait("group", group())
