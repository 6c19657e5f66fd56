"""Trying several addresses, each a little after the one before (RFC 8305, "happy eyeballs").

asyncio keeps `asyncio.staggered` to itself, and its versions differ in what they leave behind when
they are cancelled; this one leaves nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

Attempt = Callable[[], Coroutine[Any, Any, socket.socket]]
_Task = asyncio.Task[socket.socket]


async def race(
    loop: asyncio.AbstractEventLoop, attempts: Iterable[Attempt], delay: float
) -> socket.socket | None:
    """Returns the socket of the first attempt that succeeds, None when all have failed.

    The next attempt starts when the latest one has failed, or `delay` seconds after it started.
    Once there is a winner, or the race is cancelled, the other attempts are cancelled, and a socket
    that one of them opens all the same is closed. The attempts' errors are for them to keep.
    """
    running: list[_Task] = []
    winner: socket.socket | None = None
    try:
        winner = await _first_success(loop, attempts, delay, running)
        _cancel(running)
        if running:
            await asyncio.wait(running)
    except BaseException as error:
        if winner is not None:
            winner.close()
        _cancel(running)
        if running and isinstance(error, asyncio.CancelledError):
            await asyncio.wait(running)
        raise
    return winner


async def _first_success(
    loop: asyncio.AbstractEventLoop,
    attempts: Iterable[Attempt],
    delay: float,
    running: list[_Task],
) -> socket.socket | None:
    for attempt in attempts:
        latest = loop.create_task(attempt())
        running.append(latest)
        deadline = loop.time() + delay
        while not latest.done() and (remaining := deadline - loop.time()) > 0:
            await asyncio.wait(running, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
            if (winner := _take_winner(running)) is not None:
                return winner
        if (winner := _take_winner(running)) is not None:
            return winner
    while running:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        if (winner := _take_winner(running)) is not None:
            return winner
    return None


def _take_winner(running: list[_Task]) -> socket.socket | None:
    # Drops the attempts that are over, up to the first that succeeded.
    for task in [task for task in running if task.done()]:
        running.remove(task)
        if not task.cancelled() and task.exception() is None:
            return task.result()
    return None


def _cancel(running: list[_Task]) -> None:
    for task in running:
        if task.done():
            # A callback would come a turn later: when nobody may run the loop any more.
            _close_result(task)
        else:
            task.add_done_callback(_close_result)
            task.cancel()


def _close_result(task: _Task) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
