"""Several threads that want to run one loop: one does."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from .support import PYTHON, TIME_LIMIT, skip_stock_bug


@pytest.fixture
def quick_switches():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def forever(loop):
    loop.run_forever()


def until_complete(loop):
    loop.run_until_complete(asyncio.Event().wait())


def enter(loop, run, outcomes):
    """Run the loop in this thread, and note how that ended and what it left."""
    hooks = sys.get_asyncgen_hooks()
    try:
        run(loop)
    except RuntimeError as error:
        outcomes.append(str(error))
    else:
        outcomes.append("ran")
    assert sys.get_asyncgen_hooks() == hooks
    assert asyncio._get_running_loop() is None


ALREADY = "This event loop is already running"
STOPPED = "Event loop stopped before Future completed."


@pytest.mark.parametrize("run", [forever, until_complete])
class TestTwoThreads:
    def test_one_after_the_other(self, loop, loop_spec, run):
        broken = PYTHON == (3, 13) and run is forever
        skip_stock_bug(loop_spec, broken, "the run that is refused ends the other one's state")
        entered = threading.Event()
        outcomes = []
        loop.call_soon(entered.set)
        thread = threading.Thread(target=enter, args=(loop, forever, outcomes))
        thread.start()
        assert entered.wait(TIME_LIMIT)
        with pytest.raises(RuntimeError, match=ALREADY):
            run(loop) if run is forever else loop.run_until_complete(loop.create_future())
        assert loop.is_running()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        assert outcomes == ["ran"]

    @pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
    def test_both_have_found_it_idle(self, loop, loop_spec, run, monkeypatch):
        """As fast as each other: the loop is taken in one step."""
        skip_stock_bug(loop_spec, True, "both threads run the loop")
        barrier = threading.Barrier(2, timeout=TIME_LIMIT)
        check = loop._check_running
        # run_until_complete looks twice.
        looks = {forever: 1, until_complete: 2}[run]
        local = threading.local()

        def check_running():
            check()
            local.looks = getattr(local, "looks", 0) + 1
            if local.looks == looks:
                barrier.wait()

        outcomes = []
        monkeypatch.setattr(loop, "_check_running", check_running)
        threads = [threading.Thread(target=enter, args=(loop, run, outcomes)) for _ in range(2)]
        for thread in threads:
            thread.start()
        while not outcomes:
            threads[0].join(0.001)
            threads[1].join(0.001)
        assert outcomes == [ALREADY]
        while not loop.is_running():
            pass
        loop.call_soon_threadsafe(loop.stop)
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == sorted([ALREADY, "ran" if run is forever else STOPPED])
        assert not loop.is_running()

    @pytest.mark.usefixtures("quick_switches")
    @pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
    def test_many(self, loop_factory, loop_spec, run):
        skip_stock_bug(loop_spec, True, "several threads run the loop")
        for _ in range(50):
            loop = loop_factory()
            outcomes = []
            threads = [threading.Thread(target=enter, args=(loop, run, outcomes)) for _ in range(4)]
            for thread in threads:
                thread.start()
            while len(outcomes) < 3:
                threads[0].join(0.0001)
            assert outcomes == [ALREADY] * 3
            loop.call_soon_threadsafe(loop.stop)
            for thread in threads:
                thread.join()
            assert outcomes[-1] == ("ran" if run is forever else STOPPED)
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.close()
