"""Unix signals (asyncio's section of that name).

Python's own handler writes the signal's number into a socket (`signal.set_wakeup_fd`); the loop
reads it and calls the program's handler as any other callback. The sockets exist while there is a
handler.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._base import logger
from ._debug import _iscoroutinefunction
from ._running import RunningMixin

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    _Ts = TypeVarTuple("_Ts")


class SignalMixin(RunningMixin):
    """`add_signal_handler` and `remove_signal_handler`."""

    _signal_handlers: dict[int, asyncio.Handle]
    # The end that is read and the end that signals are written to.
    _wakeup_sockets: tuple[socket.socket, socket.socket] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._signal_handlers = {}

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
            self._close_wakeup_sockets()

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
        try:
            # ValueError outside the main thread: before anything is changed.
            signal.set_wakeup_fd(self._open_wakeup_sockets().fileno())
        except (ValueError, OSError) as error:
            if not self._signal_handlers:
                self._close_wakeup_sockets()
            raise RuntimeError(str(error)) from error

        self._signal_handlers[sig] = asyncio.Handle(callback, args, self, None)
        try:
            # Whatever the handler does: only with one does Python write to the socket.
            signal.signal(sig, _do_nothing)
            signal.siginterrupt(sig, False)
        except OSError as error:
            del self._signal_handlers[sig]
            self._unset_wakeup_fd_if_unused()
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
        self._unset_wakeup_fd_if_unused()
        return True

    def _check_signal(self, sig: int) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")

    def _open_wakeup_sockets(self) -> socket.socket:
        if self._wakeup_sockets is None:
            reader, writer = socket.socketpair()
            reader.setblocking(False)
            writer.setblocking(False)
            self._wakeup_sockets = reader, writer
            self._add_reader(reader.fileno(), self._read_signals)
        return self._wakeup_sockets[1]

    def _unset_wakeup_fd_if_unused(self) -> None:
        if self._signal_handlers:
            return
        try:
            other = signal.set_wakeup_fd(-1)
            if other != -1 and not self._is_wakeup_fd(other):
                # Another loop's, or the program's.
                signal.set_wakeup_fd(other)
        except (ValueError, OSError) as error:
            logger.info("set_wakeup_fd(-1) failed: %s", error)
        self._close_wakeup_sockets()

    def _is_wakeup_fd(self, fd: int) -> bool:
        return self._wakeup_sockets is not None and self._wakeup_sockets[1].fileno() == fd

    def _close_wakeup_sockets(self) -> None:
        if self._wakeup_sockets is None:
            return
        reader, writer = self._wakeup_sockets
        self._wakeup_sockets = None
        self._remove_reader(reader.fileno())
        reader.close()
        writer.close()

    def _read_signals(self) -> None:
        if self._wakeup_sockets is None:
            return
        arrived = b""
        try:
            while data := self._wakeup_sockets[0].recv(4096):
                arrived += data
        except (BlockingIOError, InterruptedError):
            pass
        for sig in arrived:
            self._handle_signal(sig)

    def _handle_signal(self, sig: int) -> None:
        handle: Any = self._signal_handlers.get(sig)
        if handle is None:
            # Removed after the signal had arrived.
            return
        if handle.cancelled():
            self.remove_signal_handler(sig)
        else:
            self.call_soon(handle._callback, *handle._args, context=handle._context)


def _do_nothing(signum: int, frame: Any) -> None:
    pass
