"""oxloop: a drop-in asyncio event loop on a native engine.

    asyncio.run(main(), loop_factory=oxloop.new_event_loop)  # Python 3.12 and later
    oxloop.run(main())                                       # every supported Python

Importing this package changes nothing in asyncio. ``EventLoopPolicy`` (below Python 3.16) is made
when it is first asked for.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ._loop import EventLoop, Loop
from ._oxloop import __version__
from ._runner import install, new_event_loop, run

if TYPE_CHECKING:
    from ._policy import EventLoopPolicy as EventLoopPolicy

__all__ = (
    "EventLoop",
    "Loop",
    "__version__",
    "install",
    "new_event_loop",
    "run",
)


if not TYPE_CHECKING and sys.version_info < (3, 16):

    def __getattr__(name: str) -> Any:
        if name != "EventLoopPolicy":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from ._policy import EventLoopPolicy, warn_of_removal

        warn_of_removal("oxloop.EventLoopPolicy", stacklevel=3)
        return EventLoopPolicy
