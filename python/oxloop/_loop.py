"""`Loop`: the sections of asyncio's event-loop page, put together."""

from __future__ import annotations

import asyncio
import time
from asyncio import coroutines
from typing import TYPE_CHECKING

from ._datagrams import DatagramMixin
from ._errors import ErrorMixin
from ._oxloop import BaseLoop
from ._sendfile import SendfileMixin
from ._signals import SignalMixin
from ._subprocesses import SubprocessMixin
from ._tasks import TaskMixin
from ._unix import UnixMixin

__all__ = ("EventLoop", "Loop")


if TYPE_CHECKING:

    class _Sections(  # pyright: ignore[reportIncompatibleMethodOverride]
        UnixMixin,
        DatagramMixin,
        SubprocessMixin,
        SendfileMixin,
        SignalMixin,
        TaskMixin,
        ErrorMixin,
    ): ...

else:
    # The native class comes first: see _base.py.
    class _Sections(
        BaseLoop,
        UnixMixin,
        DatagramMixin,
        SubprocessMixin,
        SendfileMixin,
        SignalMixin,
        TaskMixin,
        ErrorMixin,
        asyncio.AbstractEventLoop,
    ):
        __doc__ = None


# Methods that the engine calls itself, unless they are replaced.
_CALLED_NATIVELY = ("time", "call_at", "call_soon", "create_future")


class Loop(_Sections):
    """asyncio's event loop on oxloop's engine.

    It behaves as asyncio's own loop of the running Python does, and can be subclassed. The methods
    that run for each callback are native (`oxloop._oxloop.BaseLoop`).
    """

    # Seconds; for programs that read asyncio's.
    _clock_resolution = time.get_clock_info("monotonic").resolution

    def __init__(self) -> None:
        super().__init__()
        try:
            self._open_signal_channel()
        except BaseException:
            Loop.close(self)
            raise
        self._find_own_methods()
        self.slow_callback_duration = 0.1
        self.set_debug(coroutines._is_debug_mode())  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in _CALLED_NATIVELY:
            self._find_own_methods()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in _CALLED_NATIVELY:
            self._find_own_methods()

    def _find_own_methods(self) -> None:
        """The engine calls methods of a subclass or of the object, as tests replace them."""
        kind, own = type(self), self.__dict__
        self._set_own_methods(
            *[
                getattr(kind, name) is not getattr(BaseLoop, name) or name in own
                for name in _CALLED_NATIVELY
            ]
        )

    def __repr__(self) -> str:
        return (
            f"<{self.__class__.__name__} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )


# asyncio's name for its own loop, from 3.13 on.
EventLoop = Loop
