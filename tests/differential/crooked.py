"""Loops that go wrong in one way each: the comparer is tested by whether it sees them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from typing import Any


class IoFirstLoop(asyncio.SelectorEventLoop):
    """Runs I/O ahead of what was ready before the poll, as libuv does."""

    def _process_events(self, event_list: Any) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        waiting = list(ready)
        ready.clear()
        super()._process_events(event_list)  # type: ignore[misc]
        ready.extend(waiting)


class NoContextsLoop(asyncio.SelectorEventLoop):
    """Runs every callback in an empty context."""

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return super().call_soon(callback, *args, context=contextvars.Context())


class OtherWordsLoop(asyncio.SelectorEventLoop):
    """Says that it is closed in words of its own."""

    def _check_closed(self) -> None:
        if self.is_closed():
            raise RuntimeError("this loop has been closed")


class DyingLoop(asyncio.SelectorEventLoop):
    """Takes the process down in getnameinfo and in create_server."""

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        os._exit(3)

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        os._exit(3)


class HangingLoop(asyncio.SelectorEventLoop):
    """Never comes back from getnameinfo."""

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        while True:
            time.sleep(1)
