"""What every section of the loop builds on: the native engine under asyncio's abstract class.

The sections of asyncio's event-loop page are one mixin each (`_running.py`, `_tasks.py`, ...), put
together in `_loop.py`. To a type checker each derives from `LoopBase`; when the program runs that
is an empty class, so that `Loop` can have the native class first among its bases: each call of a
native method checks its `self` by walking the bases up to it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from ._oxloop import BaseLoop

__all__ = ("LoopBase", "logger")

# asyncio's own logger: programs configure that one.
logger = logging.getLogger("asyncio")


if TYPE_CHECKING:

    class LoopBase(BaseLoop, asyncio.AbstractEventLoop):
        """The native loop as an `asyncio.AbstractEventLoop`."""

else:

    class LoopBase:
        """Nothing of its own: `Loop` has the native class and asyncio's."""
