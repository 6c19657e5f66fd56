"""Runs the cases of one script on one loop and writes what happened, one JSON list per line.

    python -m tests.differential.runner turn oxloop:new_event_loop [case ...]

Lines are `["case", name, lanes]`, `["event", lane, text]`, `["end", name]`. They go out as they
happen, so that nothing is lost when the process dies; a case that hangs is ended by a watchdog.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import gc
import importlib
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from .trace import PLACE, Case, LogRecorder, Trace

CASE_LIMIT = float(os.environ.get("OXLOOP_CASE_LIMIT", "20"))
"""Seconds after which a case counts as hung."""

SCRIPTS = f"{__package__}.scripts"


def cases(script: str) -> list[Case]:
    """Return the cases of `script` for the running Python, as they stand in the file.

    `script` is the name of a module of `scripts`, or a full module name.
    """
    module = importlib.import_module(script if "." in script else f"{SCRIPTS}.{script}")
    return [value for value in vars(module).values() if isinstance(value, Case) and value.applies]


def run(case: Case, factory: Callable[[], Any], write: Callable[[list[Any]], Any]) -> None:
    """Run one case on a loop of its own."""
    write(["case", case.name, case.lanes])
    loop = factory()
    trace = Trace(loop, lambda lane, text: write(["event", lane, text]))
    logger = logging.getLogger("asyncio")
    logger.propagate = False
    logger.handlers[:] = [LogRecorder(trace)]
    loop.set_exception_handler(trace.handler)
    PLACE.set("main")
    try:
        if inspect.iscoroutinefunction(case.function):
            loop.run_until_complete(case.function(trace))
        else:
            case.function(trace)
    except BaseException as exc:
        trace("the case itself raised", exc)
        raise
    trace.end()
    shut_down(loop)
    write(["end", case.name])


def shut_down(loop: asyncio.AbstractEventLoop) -> None:
    """Let what is left on `loop` end, and close it."""
    if not loop.is_closed():
        loop.run_until_complete(cancel(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    gc.collect()


async def cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main(script: str, loop: str, *names: str) -> None:
    """Run the cases of `script` that are named, or all."""
    # Lines have a descriptor of their own; whatever a script prints goes to stderr.
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    module, _, name = loop.partition(":")
    factory = getattr(importlib.import_module(module), name)
    for each in cases(script):
        if not names or each.name in names:
            faulthandler.dump_traceback_later(CASE_LIMIT, exit=True)
            contextvars.copy_context().run(
                run, each, factory, lambda line: out.write(json.dumps(line) + "\n")
            )
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(*sys.argv[1:])
