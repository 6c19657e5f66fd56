"""A `time()` of the program's own: timers follow it (*Scheduling delayed callbacks*)."""

from __future__ import annotations

import asyncio
import time
from unittest import mock

import pytest

from .support import hops, shut_down, turns, type_of


class Clock:
    """Stands still, but for what a test does."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["subclass", "attribute", "patch"])
def clocked(request, loop, loop_factory, clock):
    """A loop whose `time()` is replaced in each of the ways there are."""
    if request.param == "attribute":
        loop.time = clock
        yield loop
        del loop.time
    elif request.param == "patch":
        with mock.patch.object(loop, "time", clock):
            yield loop
    else:
        kind = type("Clocked", (type_of(loop_factory),), {"time": lambda _: clock()})
        clocked = kind()
        yield clocked
        shut_down(clocked)


def test_timers_follow_it(clocked, clock):
    calls = []
    later = clocked.call_later(10, calls.append, "later")
    at = clocked.call_at(1005, calls.append, "at")
    assert (later.when(), at.when()) == (1010.0, 1005)
    turns(clocked, 3)
    assert calls == []
    clock.now = 1005
    turns(clocked, 2)
    assert calls == ["at"]
    clock.now = 1e9
    turns(clocked, 2)
    assert calls == ["at", "later"]


def test_tasks_follow_it(clocked, clock):
    async def main():
        day = asyncio.ensure_future(asyncio.sleep(86_400, "over"))
        limited = asyncio.ensure_future(asyncio.wait_for(asyncio.Event().wait(), 3600))
        await hops(3)
        clock.now += 3600
        with pytest.raises(asyncio.TimeoutError):
            await limited
        assert not day.done()
        clock.now += 86_400
        return await day

    assert clocked.run_until_complete(main()) == "over"


def test_how_often_it_is_asked(clocked, clock):
    turns(clocked)
    assert clock.asked == 1
    timer = clocked.call_later(10, print)
    assert clock.asked == 2
    turns(clocked)
    assert clock.asked == 3
    timer.cancel()


def test_slow_callbacks(clocked, clock, caplog):
    def slow():
        clock.now += 7

    clocked.set_debug(True)
    clocked.call_soon(slow)
    turns(clocked)
    assert [record.getMessage().rpartition(" took ")[2] for record in caplog.records] == [
        "7.000 seconds"
    ]


def test_it_fails(clocked, clock):
    """It leaves the loop, which then goes on."""
    calls = []
    clocked.call_later(10, calls.append, "timer")
    clocked.call_soon(calls.append, "soon")
    with (
        mock.patch.object(Clock, "__call__", side_effect=ZeroDivisionError),
        pytest.raises(ZeroDivisionError),
    ):
        turns(clocked)
    assert calls == []
    clock.now = 1010.0
    turns(clocked, 2)
    assert calls == ["soon", "timer"]


def test_put_back(loop, clock):
    with mock.patch.object(loop, "time", clock):
        assert loop.time() == 1000.0
        early = loop.call_later(1, print)
    before = time.monotonic()
    timer = loop.call_later(0.001, loop.stop)
    assert before + 0.001 <= timer.when()
    early.cancel()
    loop.run_forever()
