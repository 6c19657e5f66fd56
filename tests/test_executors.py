"""Thread and process pools (event loop page, "Executing code in thread or process pools")."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading

import pytest

from .support import PYTHON, hops, name_of, run_script, turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield pool


class TestRunInExecutor:
    async def test_returns_a_future_of_the_loop(self, loop):
        future = loop.run_in_executor(None, int, "42")
        assert asyncio.isfuture(future)
        assert future.get_loop() is loop
        assert await future == 42

    async def test_runs_in_another_thread(self, loop):
        assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()

    async def test_threads_are_named(self, loop):
        name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
        assert name.startswith("asyncio")

    async def test_passes_arguments(self, loop):
        assert await loop.run_in_executor(None, lambda *a: a, 1, 2, 3) == (1, 2, 3)
        with pytest.raises(TypeError):
            loop.run_in_executor(None, print, end="")

    async def test_exceptions_come_back(self, loop):
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 / 0)

    @pytest.mark.skipif(PYTHON < (3, 13), reason="hangs on any loop before 3.13 (gh-112182)")
    async def test_stop_iteration_does_not_hang(self, loop):
        """A Future cannot carry StopIteration; asyncio raises RuntimeError instead."""
        with pytest.raises(RuntimeError):
            await loop.run_in_executor(None, next, iter(()))

    async def test_the_given_executor(self, loop, pool):
        def name():
            return threading.current_thread().name

        assert await loop.run_in_executor(pool, name) in {
            thread.name for thread in threading.enumerate() if thread in pool._threads
        }

    async def test_many(self, loop):
        calls = [loop.run_in_executor(None, pow, number, 2) for number in range(200)]
        assert await asyncio.gather(*calls) == [number**2 for number in range(200)]

    async def test_in_parallel(self, loop, pool):
        """Two calls that wait for each other finish: they run at the same time."""
        barrier = threading.Barrier(2)
        await asyncio.gather(
            loop.run_in_executor(pool, barrier.wait), loop.run_in_executor(pool, barrier.wait)
        )

    async def test_cancelled_before_it_starts(self, loop, pool):
        gate = threading.Event()
        blockers = [loop.run_in_executor(pool, gate.wait) for _ in range(2)]
        calls = []
        future = loop.run_in_executor(pool, calls.append, 1)
        future.cancel()
        await hops(2)  # the pool hears of it by a callback
        gate.set()
        await asyncio.gather(*blockers)
        with pytest.raises(asyncio.CancelledError):
            await future
        await loop.run_in_executor(pool, int)
        assert calls == []

    def test_finished_after_the_loop_closed(self, loop_factory):
        """A late result finds no loop; it is dropped in silence."""
        gate, finished = threading.Event(), threading.Event()

        def work():
            gate.wait()
            finished.set()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            loop = loop_factory()
            loop.run_in_executor(pool, work)
            turns(loop)
            loop.close()
            gate.set()
            assert finished.wait(10)

    async def test_context_is_not_copied(self, loop):
        """run_in_executor() leaves the context behind, to_thread() takes it along: as asyncio."""
        variable.set("here")
        assert await loop.run_in_executor(None, variable.get) == "unset"
        assert await asyncio.to_thread(variable.get) == "here"

    def test_debug_mode_checks_the_function(self, loop, pool):
        async def coroutine_function():
            pass

        loop.set_debug(True)
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.run_in_executor(pool, coroutine_function)
        with pytest.raises(TypeError, match="callable object was expected"):
            loop.run_in_executor(pool, 42)

    def test_process_pool(self, loop_spec):
        outcome = run_script(
            """
            import concurrent.futures, multiprocessing

            async def main():
                loop = asyncio.get_running_loop()
                context = multiprocessing.get_context("spawn")
                with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                    say(await loop.run_in_executor(pool, os.getpid) != os.getpid())
                    try:
                        await loop.run_in_executor(pool, divmod, 1, 0)
                    except ZeroDivisionError:
                        say("ZeroDivisionError")

            if __name__ == "__main__":
                loop = new_event_loop()
                loop.run_until_complete(main())
                loop.close()
            """,
            loop_spec,
        )
        assert outcome.check() == "True\nZeroDivisionError\n"


class TestDefaultExecutor:
    async def test_set(self, loop):
        with concurrent.futures.ThreadPoolExecutor(1, "mine") as pool:
            loop.set_default_executor(pool)
            name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
            assert name.startswith("mine")
            name = await asyncio.to_thread(lambda: threading.current_thread().name)
            assert name.startswith("mine")

    @pytest.mark.skipif(PYTHON < (3, 11), reason="only deprecated before 3.11")
    @pytest.mark.parametrize("executor", [None, 42, concurrent.futures.Executor()], ids=name_of)
    def test_refuses_others(self, loop, executor):
        with pytest.raises(TypeError, match="executor must be ThreadPoolExecutor instance"):
            loop.set_default_executor(executor)

    def test_close_shuts_it_down(self, loop):
        pool = concurrent.futures.ThreadPoolExecutor(1)
        loop.set_default_executor(pool)
        loop.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(os.getpid)

    def test_close_does_not_wait(self, loop):
        gate = threading.Event()
        pool = concurrent.futures.ThreadPoolExecutor(1)
        loop.set_default_executor(pool)
        running = pool.submit(gate.wait)
        loop.close()
        assert running.running()
        gate.set()
        pool.shutdown()
