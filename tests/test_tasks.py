"""Creating futures and tasks (event loop page, "Creating futures and tasks")."""

from __future__ import annotations

import asyncio
import contextvars
import gc

import pytest

from .support import PYTHON, hops, skip_stock_bug, turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class TestCreateFuture:
    def test_belongs_to_the_loop(self, loop):
        future = loop.create_future()
        assert isinstance(future, asyncio.Future)
        assert future.get_loop() is loop

    def test_callbacks_run_on_the_loop(self, loop):
        calls = []
        future = loop.create_future()
        future.add_done_callback(calls.append)
        future.set_result(1)
        assert calls == []
        turns(loop)
        assert calls == [future]

    def test_callback_context(self, loop):
        seen = []
        context = contextvars.copy_context()
        context.run(variable.set, "given")
        future = loop.create_future()
        future.add_done_callback(lambda _: seen.append(variable.get()), context=context)
        future.set_result(None)
        turns(loop)
        assert seen == ["given"]

    async def test_wakes_all_who_wait(self, loop):
        future = loop.create_future()

        async def wait():
            return await future

        tasks = [loop.create_task(wait()) for _ in range(10)]
        await hops()
        future.set_result("value")
        assert await asyncio.gather(*tasks) == ["value"] * 10

    def test_an_exception_nobody_asked_for_is_reported(self, loop, error_contexts):
        future = loop.create_future()
        future.set_exception(LookupError("lost"))
        del future
        gc.collect()
        context = error_contexts.pop()
        assert context["message"] == "Future exception was never retrieved"
        assert isinstance(context["exception"], LookupError)


class TestCreateTask:
    async def test_returns_a_task_that_runs_in_the_next_turn(self, loop):
        started = []

        async def work():
            started.append(asyncio.current_task())
            return "result"

        task = loop.create_task(work())
        assert isinstance(task, asyncio.Task)
        assert task.get_loop() is loop
        assert started == []
        assert await task == "result"
        assert started == [task]

    async def test_names(self, loop):
        async def work():
            return asyncio.current_task().get_name()

        assert await loop.create_task(work(), name="named") == "named"
        assert (await loop.create_task(work())).startswith("Task-")
        assert (await loop.create_task(work(), name=None)).startswith("Task-")

    @pytest.mark.skipif(PYTHON < (3, 11), reason="context is new in 3.11")
    async def test_context(self, loop):
        async def work():
            before = variable.get()
            variable.set("changed")
            await asyncio.sleep(0)
            return before, variable.get()

        context = contextvars.copy_context()
        context.run(variable.set, "given")
        assert await loop.create_task(work(), context=context) == ("given", "changed")
        assert context[variable] == "changed"
        assert await loop.create_task(work()) == ("unset", "changed")
        assert variable.get() == "unset"

    def test_refuses_what_is_not_a_coroutine(self, loop):
        with pytest.raises(TypeError, match="a coroutine was expected"):
            loop.create_task(42)
        with pytest.raises(TypeError):
            loop.create_task()

    def test_refuses_unknown_keywords(self, loop):
        async def work():
            pass

        coroutine = work()
        with pytest.raises(TypeError):
            loop.create_task(coroutine, unknown=1)
        coroutine.close()

    async def test_all_tasks_and_current_task(self, loop):
        gate = loop.create_future()

        async def wait():
            await gate

        tasks = {loop.create_task(wait()) for _ in range(3)}
        assert tasks | {asyncio.current_task()} <= asyncio.all_tasks()
        gate.set_result(None)
        await asyncio.gather(*tasks)
        assert tasks.isdisjoint(asyncio.all_tasks())

    async def test_cancel(self, loop):
        steps = []

        async def work():
            try:
                await loop.create_future()
            except asyncio.CancelledError:
                steps.append("cancelled")
                raise

        task = loop.create_task(work())
        await hops()
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == ["cancelled"]

    async def test_sleep_and_wait_for(self, loop):
        assert await asyncio.sleep(0.001, "slept") == "slept"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_future(), 0.001)

    def test_an_exception_nobody_asked_for_is_reported(self, loop, error_contexts):
        async def work():
            raise LookupError("lost")

        loop.create_task(work())
        turns(loop, 3)
        gc.collect()
        context = error_contexts.pop()
        assert context["message"] == "Task exception was never retrieved"
        assert isinstance(context["exception"], LookupError)

    def test_a_pending_task_that_is_destroyed_is_reported(self, loop, error_contexts):
        async def work():
            await loop.create_future()

        loop.create_task(work())
        turns(loop)
        gc.collect()
        assert error_contexts.pop()["message"] == "Task was destroyed but it is pending!"

    async def test_tasks_take_turns(self, loop):
        steps = []

        async def work(name):
            for number in range(3):
                steps.append((name, number))
                await asyncio.sleep(0)

        await asyncio.gather(*(work(name) for name in "abc"))
        assert steps == [(name, number) for number in range(3) for name in "abc"]

    async def test_synchronization(self, loop):
        """Lock, Event, Condition and Queue find their loop and wake their waiters."""
        lock, event, queue = asyncio.Lock(), asyncio.Event(), asyncio.Queue()
        condition = asyncio.Condition()
        order = []

        async def worker(number):
            await event.wait()
            async with lock:
                await asyncio.sleep(0)
                order.append(number)
            async with condition:
                await condition.wait()
            await queue.put(number)

        tasks = [loop.create_task(worker(number)) for number in range(5)]
        event.set()
        while len(order) < 5:
            await asyncio.sleep(0)
        await hops(3)
        async with condition:
            condition.notify_all()
        assert sorted([await queue.get() for _ in range(5)]) == list(range(5))
        await asyncio.gather(*tasks)
        assert order == list(range(5))


class TestTaskFactory:
    def test_none_at_first(self, loop):
        assert loop.get_task_factory() is None

    def test_set_and_reset(self, loop):
        def factory(loop, coro, **options):
            return asyncio.Task(coro, loop=loop, **options)

        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        loop.set_task_factory(None)
        assert loop.get_task_factory() is None

    @pytest.mark.parametrize("factory", [1, "factory", ()])
    def test_refuses_what_is_not_callable(self, loop, factory):
        with pytest.raises(TypeError, match="task factory must be a callable or None"):
            loop.set_task_factory(factory)

    def test_makes_the_tasks(self, loop):
        class Custom(asyncio.Task):
            pass

        loop.set_task_factory(lambda loop, coro, **options: Custom(coro, loop=loop, **options))

        async def work():
            return type(asyncio.current_task())

        async def main():
            assert type(asyncio.current_task()) is Custom
            return await asyncio.create_task(work())

        assert loop.run_until_complete(main()) is Custom

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"name": "named"},
            {"name": None},
            pytest.param(
                {"context": contextvars.Context()},
                marks=pytest.mark.skipif(PYTHON < (3, 11), reason="new in 3.11"),
            ),
            pytest.param(
                {"name": "named", "context": contextvars.Context()},
                marks=pytest.mark.skipif(PYTHON < (3, 11), reason="new in 3.11"),
            ),
            pytest.param(
                {"eager_start": True, "other": 1},
                marks=pytest.mark.skipif(PYTHON < (3, 14), reason="new in 3.13.3"),
            ),
        ],
        ids=lambda options: "+".join(options) or "nothing",
    )
    def test_is_called_as_the_stock_loop_of_this_python_calls_it(self, loop, options):
        stock = asyncio.new_event_loop()
        try:
            assert self.observe(loop, options) == self.observe(stock, options)
        finally:
            stock.close()

    @staticmethod
    def observe(loop, options):
        calls = []

        class Result:
            """Not quite a task: shows what the loop does to what a factory returns."""

            def set_name(self, name):
                calls.append(("set_name", name))

        def factory(*arguments, **keywords):
            assert arguments[0] is loop
            arguments[1].close()
            calls.append((len(arguments), keywords))
            return Result()

        async def work():
            pass

        loop.set_task_factory(factory)
        result = loop.create_task(work(), **options)
        loop.set_task_factory(None)
        assert isinstance(result, Result)
        return calls

    def test_its_exception_reaches_the_caller(self, loop):
        def factory(loop, coro, **options):
            coro.close()
            raise LookupError("no task")

        async def work():
            pass

        loop.set_task_factory(factory)
        with pytest.raises(LookupError, match="no task"):
            loop.create_task(work())


@pytest.mark.skipif(PYTHON < (3, 12), reason="eager tasks are new in 3.12")
class TestEagerTasks:
    @pytest.fixture(autouse=True)
    def _factory(self, loop):
        loop.set_task_factory(asyncio.eager_task_factory)

    async def test_finishes_without_a_turn(self, loop):
        async def work():
            return asyncio.current_task()

        caller = asyncio.current_task()
        task = loop.create_task(work())
        assert task.done()
        assert task.result() is task
        assert asyncio.current_task() is caller

    async def test_starts_at_once_and_goes_on_later(self, loop):
        steps = []

        async def work():
            steps.append("started")
            await asyncio.sleep(0)
            steps.append("finished")
            return "result"

        task = loop.create_task(work(), name="eager")
        assert steps == ["started"]
        assert not task.done()
        assert task.get_name() == "eager"
        assert await task == "result"
        assert steps == ["started", "finished"]

    async def test_keeps_its_exception(self, loop):
        async def work():
            raise LookupError("early")

        task = loop.create_task(work())
        assert task.done()
        with pytest.raises(LookupError, match="early"):
            await task

    async def test_context(self, loop):
        async def work():
            variable.set("changed")
            await asyncio.sleep(0)
            return variable.get()

        context = contextvars.copy_context()
        assert await loop.create_task(work(), context=context) == "changed"
        assert context[variable] == "changed"
        assert variable.get() == "unset"

    def test_not_running_yet(self, loop, loop_spec):
        """Without a running loop there is nothing to be eager on."""
        skip_stock_bug(loop_spec, PYTHON == (3, 12), "starts the task anyway")
        started = []

        async def work():
            started.append(True)

        task = loop.create_task(work())
        assert started == []
        loop.run_until_complete(task)
        assert started == [True]


@pytest.mark.skipif(PYTHON < (3, 14), reason="create_task(eager_start=) is new in 3.14")
class TestEagerStart:
    async def test_true(self, loop):
        async def work():
            return "result"

        task = loop.create_task(work(), eager_start=True)
        assert task.done()
        assert await task == "result"

    async def test_false_overrides_the_factory(self, loop):
        async def work():
            return "result"

        loop.set_task_factory(asyncio.eager_task_factory)
        task = loop.create_task(work(), eager_start=False)
        assert not task.done()
        assert await task == "result"


@pytest.mark.skipif(PYTHON < (3, 11), reason="TaskGroup and timeout are new in 3.11")
class TestStructured:
    async def test_task_group(self, loop):
        async def work(number):
            await hops(number)
            return number

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(number)) for number in range(5)]
        assert [task.result() for task in tasks] == list(range(5))

    async def test_task_group_cancels_the_others(self, loop):
        ended = []

        async def wait():
            try:
                await loop.create_future()
            finally:
                ended.append(True)

        async def fail():
            raise LookupError

        with pytest.raises(BaseException) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(wait())
                await hops()
                group.create_task(fail())
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        assert ended == [True]

    async def test_timeout(self, loop):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await loop.create_future()

    async def test_timeout_rescheduled(self, loop):
        async with asyncio.timeout(60) as limit:
            limit.reschedule(None)
            await hops()
        assert not limit.expired()
