"""What every section of the loop builds on: the native engine under asyncio's abstract class.

The sections of asyncio's event-loop page are one mixin each (`_running.py`, `_tasks.py`, ...), put
together in `_loop.py`. Each derives from `LoopBase`, so that the native methods come before the
``NotImplementedError`` stubs of `asyncio.AbstractEventLoop` in the order of look-up.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from ._oxloop import BaseLoop

__all__ = ("LoopBase", "logger")

# asyncio's own logger: programs configure that one.
logger = logging.getLogger("asyncio")


class LoopBase(BaseLoop, asyncio.AbstractEventLoop):
    """The native loop as an `asyncio.AbstractEventLoop`."""

    if TYPE_CHECKING:
        # Not built yet: NotImplementedError from AbstractEventLoop. To a type checker its methods
        # are abstract, and a class that lacks one could not be instantiated.
        async def create_unix_connection(self, *args: Any, **kwargs: Any) -> Any: ...
        async def create_unix_server(self, *args: Any, **kwargs: Any) -> Any: ...
        async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> Any: ...
        async def connect_read_pipe(self, *args: Any, **kwargs: Any) -> Any: ...
        async def connect_write_pipe(self, *args: Any, **kwargs: Any) -> Any: ...
        async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any: ...
        async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any: ...
        async def start_tls(self, *args: Any, **kwargs: Any) -> Any: ...
        async def sendfile(self, *args: Any, **kwargs: Any) -> Any: ...
        async def sock_sendfile(self, *args: Any, **kwargs: Any) -> Any: ...
