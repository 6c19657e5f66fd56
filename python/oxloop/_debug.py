"""Debug mode (asyncio: "Enabling debug mode").

The flag itself is native, as is what it switches on for each callback (thread checks, slow
callbacks); this is what happens once, when it changes or when a run starts.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio import constants, coroutines
from collections.abc import Callable
from typing import Any

from ._base import LoopBase

# asyncio.iscoroutinefunction warns of its removal from 3.14 on; the function behind it does not.
_iscoroutinefunction: Callable[[object], bool] = (
    getattr(coroutines, "_iscoroutinefunction", None) or coroutines.iscoroutinefunction
)


class DebugMixin(LoopBase):
    """`set_debug`, `slow_callback_duration`, and where coroutines were created."""

    # In debug mode, a callback or a step of a task that takes longer (in seconds) is logged.
    slow_callback_duration: float = 0.1
    # In debug mode the engine keeps the handle here that is running.
    _current_handle: asyncio.Handle | None = None
    _coroutine_origin_tracking_enabled = False
    _coroutine_origin_tracking_saved_depth = 0

    def set_debug(self, enabled: bool) -> None:
        """Switches debug mode on or off, also while the loop runs."""
        self._debug = enabled
        if self._thread_id is not None:
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)

    def _set_coroutine_origin_tracking(self, enabled: bool) -> None:
        if bool(enabled) == self._coroutine_origin_tracking_enabled:
            return
        if enabled:
            saved = sys.get_coroutine_origin_tracking_depth()
            self._coroutine_origin_tracking_saved_depth = saved
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        else:
            sys.set_coroutine_origin_tracking_depth(self._coroutine_origin_tracking_saved_depth)
        self._coroutine_origin_tracking_enabled = bool(enabled)

    def _check_thread(self) -> None:
        if self._thread_id is not None and self._thread_id != threading.get_ident():
            raise RuntimeError(
                "Non-thread-safe operation invoked on an event loop other than the current one"
            )

    def _check_callback(self, callback: Any, method: str) -> None:
        if asyncio.iscoroutine(callback) or _iscoroutinefunction(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")
