"""Ways in: `run`, `new_event_loop` and `install` (asyncio: "Runners", "Policies")."""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from collections.abc import Coroutine
from typing import Any, TypeVar

from ._loop import Loop

_T = TypeVar("_T")


def new_event_loop() -> Loop:
    """A new loop: the `loop_factory` for `asyncio.run` and `asyncio.Runner`."""
    return Loop()


def run(main: Coroutine[Any, Any, _T], *, debug: bool | None = None) -> _T:
    """Runs the coroutine on a new loop and closes it, as `asyncio.run` does; its result.

    RuntimeError in a thread where a loop runs already; ValueError, from Python 3.14 on TypeError,
    for what is no coroutine (3.14 takes any awaitable).
    """
    if events._get_running_loop() is not None:
        raise RuntimeError("oxloop.run() cannot be called from a running event loop")
    if sys.version_info >= (3, 11):
        with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
            return runner.run(main)
    else:
        return _run_without_runner(main, debug)


if sys.version_info < (3, 11):

    def _run_without_runner(main: Coroutine[Any, Any, _T], debug: bool | None) -> _T:
        from asyncio.runners import _cancel_all_tasks  # type: ignore[attr-defined]

        if not asyncio.iscoroutine(main):
            raise ValueError(f"a coroutine was expected, got {main!r}")
        loop = new_event_loop()
        try:
            asyncio.set_event_loop(loop)
            if debug is not None:
                loop.set_debug(debug)
            return loop.run_until_complete(main)
        finally:
            try:
                _cancel_all_tasks(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                asyncio.set_event_loop(None)
                loop.close()


def install() -> None:
    """Makes oxloop the loop of asyncio's event loop policy, for programs that use one.

    Policies are deprecated from Python 3.14 on and gone in 3.16 (RuntimeError): use `run`.
    """
    if sys.version_info >= (3, 16):
        raise RuntimeError("Python 3.16 has no event loop policies: use oxloop.run()")
    from ._policy import EventLoopPolicy, set_policy, warn_of_removal

    warn_of_removal("oxloop.install", stacklevel=3)
    set_policy(EventLoopPolicy())
