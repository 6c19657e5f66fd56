"""Unix signals (asyncio's section of that name).

Python's own handler writes the signal's number into a pipe (`_signal_channel.py`); the loop reads
it and calls the program's handler as any other callback. The pipe is made with the loop, as a
program that has used up its descriptors needs its handlers too; it is watched while there is a
handler.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._base import logger
from ._debug import _iscoroutinefunction
from ._oxloop import BaseLoop
from ._running import RunningMixin
from ._signal_channel import SignalChannel

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    _Ts = TypeVarTuple("_Ts")


class SignalMixin(RunningMixin):
    """`add_signal_handler` and `remove_signal_handler`."""

    _signal_handlers: dict[int, asyncio.Handle]
    # None once the loop is closed.
    _signal_channel: SignalChannel | None = None
    _watches_signals = False

    def __init__(self) -> None:
        super().__init__()
        self._signal_handlers = {}

    def _open_signal_channel(self) -> None:
        self._signal_channel = SignalChannel()

    def close(self) -> None:
        """Closes the loop; signals that it handled get Python's own handlers again."""
        super().close()
        try:
            if not sys.is_finalizing():
                for sig in list(self._signal_handlers):
                    self.remove_signal_handler(sig)
            elif self._signal_handlers:
                warnings.warn(
                    f"Closing the loop {self!r} on interpreter shutdown stage, "
                    "skipping signal handlers removal",
                    ResourceWarning,
                    source=self,
                )
                self._signal_handlers.clear()
        finally:
            channel, self._signal_channel = self._signal_channel, None
            if channel is not None:
                channel.close()

    def add_signal_handler(
        self, sig: int, callback: Callable[[Unpack[_Ts]], object], *args: Unpack[_Ts]
    ) -> None:
        """Calls ``callback(*args)`` from the loop when the signal arrives.

        For the loop of the main thread only. ValueError for what is no signal, RuntimeError for a
        signal that cannot be caught or a loop of another thread.
        """
        if asyncio.iscoroutine(callback) or _iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        channel = self._signal_channel
        if channel is None or channel.forked:
            raise RuntimeError(
                "the event loop was made by the parent process: after fork, make a new one"
            )
        try:
            # ValueError outside the main thread: before anything is changed.
            channel.activate()
        except (ValueError, OSError) as error:
            raise RuntimeError(str(error)) from error
        try:
            if not self._watches_signals:
                self._add_reader(channel.fileno(), self._read_signals)
                self._watches_signals = True
        except OSError as error:
            self._stop_watching_if_unused()
            raise RuntimeError(str(error)) from error

        self._signal_handlers[sig] = asyncio.Handle(callback, args, self, None)
        try:
            # Python writes to the channel only if it has a handler of its own.
            signal.signal(sig, channel.note)
            signal.siginterrupt(sig, False)
        except OSError as error:
            del self._signal_handlers[sig]
            self._stop_watching_if_unused()
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from error
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Restores Python's own handler for the signal; whether the loop had one."""
        self._check_signal(sig)
        try:
            del self._signal_handlers[sig]
        except KeyError:
            return False
        handler: Any = signal.SIG_DFL
        if sig == signal.SIGINT:
            handler = signal.default_int_handler
        try:
            signal.signal(sig, handler)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from error
            raise
        self._stop_watching_if_unused()
        return True

    def _check_signal(self, sig: int) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")

    def _stop_watching_if_unused(self) -> None:
        channel = self._signal_channel
        if self._signal_handlers or channel is None or channel.forked:
            return
        try:
            other = signal.set_wakeup_fd(-1)
            if other != -1 and not channel.is_at(other):
                # Another loop's, or the program's.
                signal.set_wakeup_fd(other)
        except (ValueError, OSError) as error:
            logger.info("set_wakeup_fd(-1) failed: %s", error)
        # What came before is read first: a handler that is added again hears it, as in asyncio.
        channel.wake()

    def _read_signals(self) -> None:
        channel = self._signal_channel
        if channel is None:
            return
        try:
            numbers = channel.read()
            while numbers:
                self._handle_signal(numbers[0])
                numbers.popleft()
        except BaseException:
            # A handler in Python has raised, as for Ctrl-C. The rest is for the next run.
            channel.wake()
            raise
        if not self._signal_handlers and self._watches_signals:
            self._watches_signals = False
            self._remove_reader(channel.fileno())

    def _handle_signal(self, sig: int) -> None:
        handle: Any = self._signal_handlers.get(sig)
        if handle is None:
            # Removed after the signal had arrived.
            return
        if handle.cancelled():
            self.remove_signal_handler(sig)
        else:
            # Not by a `call_soon` of a subclass, as in asyncio.
            BaseLoop.call_soon(self, handle._callback, *handle._args, context=handle._context)
