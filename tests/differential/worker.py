"""Plays many scripts on one loop: each line of input a script, each line of output what happened.

    python -m tests.differential.worker oxloop:new_event_loop

What happened is a list of `[step, lane, text]`. A script that hangs ends the process: there is a
watchdog.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import gc
import importlib
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

from .player import Player, Script
from .runner import CASE_LIMIT, shut_down
from .trace import PLACE, LogRecorder, Trace

Event = tuple[int, str, str]

GENERATION = re.compile(r"\.\d+")
"""In the name of a protocol; those of one end share its lane."""


def play(script: Script, factory: Callable[[], Any]) -> list[Event]:
    """Play `script` on a new loop; return what happened, and which descriptors it left open."""
    before = descriptors()
    events = _play(script, factory)
    gc.collect()
    if left := len(descriptors() - before):
        events.append((len(script["ends"]) + len(script["steps"]), "left open", str(left)))
    return events


def _play(script: Script, factory: Callable[[], Any]) -> list[Event]:
    events: list[Event] = []

    def emit(lane: str, text: str) -> None:
        player.happened()
        events.append((player.step, GENERATION.sub("", lane), text))

    loop = factory()
    trace = Trace(loop, emit)
    player = Player(trace)
    logger = logging.getLogger("asyncio")
    logger.propagate = False
    logger.handlers[:] = [LogRecorder(trace)]
    loop.set_exception_handler(trace.handler)
    loop.set_debug(script.get("debug", False))
    loop.slow_callback_duration = 1000  # seconds: how long one takes is chance
    PLACE.set("main")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, *_: trace(
            "warning", f"{category.__name__}: {message}", lane="log"
        )
        task = loop.create_task(player.play(script))
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (KeyboardInterrupt, SystemExit) as exc:
                trace("left the run", exc, lane="loop")
            except BaseException as exc:
                trace("the script itself raised", exc, lane="loop")
        trace.end()
        shut_down(loop)
    logger.handlers.clear()
    return events


def descriptors() -> set[str]:
    """Return the sockets and pipes that are open, by names which none of them shares."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith(("socket:", "pipe:"))}


def main(loop: str) -> None:
    """Play what comes on stdin until it ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    module, _, name = loop.partition(":")
    factory = getattr(importlib.import_module(module), name)
    asyncio.run(asyncio.sleep(0))  # what is imported late is imported now
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        faulthandler.dump_traceback_later(CASE_LIMIT, exit=True)
        events = contextvars.copy_context().run(play, json.loads(line), factory)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(events), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
