"""The event loop policy, imported only when it is asked for (asyncio: "Policies").

Policies are deprecated from Python 3.14 on; 3.16 has none.
"""

from __future__ import annotations

import sys
import warnings
from asyncio import events

from ._loop import Loop

# From 3.14 on the public names warn, with a line of ours; the names behind them do not.
if sys.version_info >= (3, 14):
    from asyncio.unix_events import _DefaultEventLoopPolicy as _StockPolicy

    set_policy = events._set_event_loop_policy
else:
    from asyncio import DefaultEventLoopPolicy as _StockPolicy

    set_policy = events.set_event_loop_policy


class EventLoopPolicy(_StockPolicy):
    """asyncio's own policy of the running Python, but for the loops it makes.

    `get_event_loop` follows it: below 3.12 it makes a loop for the main thread where none is set,
    3.12 and 3.13 warn of that, 3.14 raises RuntimeError.
    """

    _loop_factory = Loop


def warn_of_removal(name: str, stacklevel: int) -> None:
    """From 3.14 on, asyncio's deprecation warning for `name`."""
    if sys.version_info >= (3, 14):
        warnings.warn(
            f"{name!r} is deprecated and slated for removal in Python 3.16",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
