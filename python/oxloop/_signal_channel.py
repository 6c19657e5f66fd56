"""The pipe through which Python tells the loop of signals (`signal.set_wakeup_fd`).

Python's handler in C writes the number of each signal into it, so a signal that arrives as the loop
is about to wait ends the wait. A number that does not fit into a full pipe is dropped there, but
Python still calls its handler in Python, which remembers that the number has come.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import weakref
from collections import deque
from typing import Any

__all__ = ("SignalChannel",)

# Linux's default, for a kernel that does not say.
_CAPACITY = 1 << 16


class SignalChannel:
    """One loop's pipe, and the numbers that came through it and are not handled yet."""

    # Without a reference to the loop: the signal module holds this as long as there are handlers.
    __slots__ = (
        "__weakref__",
        "_arrived",
        "_capacity",
        "_is_whole",
        "_late",
        "_reader",
        "_unhandled",
        "_writer",
        "forked",
    )

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._capacity = _capacity(self._reader)
        # What has been read.
        self._unhandled: deque[int] = deque()
        # The signals whose handler in Python has run since the pipe was last emptied.
        self._arrived: set[int] = set()
        # Signals whose handler in Python may still be due for a number that did not fit in.
        self._late: set[int] = set()
        # False if what was read last may be incomplete: a read was interrupted.
        self._is_whole = True
        # This process is a child of the one that made the loop, and shares the pipe with it.
        self.forked = False
        _channels.add(self)

    def fileno(self) -> int:
        """The end that is readable while a number waits."""
        return self._reader

    def is_at(self, fd: int) -> bool:
        """Whether Python writes to this channel if `fd` is its wake-up descriptor."""
        return fd == self._writer

    def activate(self) -> None:
        """Makes Python write to this channel; ValueError outside the main thread."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def note(self, number: int, frame: Any) -> None:
        """Python's own handler, which runs in the main thread after the number was written."""
        self._arrived.add(number)
        if number in self._late:
            self._late.discard(number)
            self._write(number)

    def read(self) -> deque[int]:
        """Empties the pipe; returns the numbers to handle, which the caller takes out."""
        whole, self._is_whole = self._is_whole, False
        try:
            data = os.read(self._reader, self._capacity)
        except BlockingIOError:
            data = b""
        self._unhandled.extend(data)
        if whole and len(data) < self._capacity:
            self._arrived.clear()
        else:
            self._add_what_did_not_fit()
        self._is_whole = True
        return self._unhandled

    def _add_what_did_not_fit(self) -> None:
        if threading.current_thread() is threading.main_thread():
            # Runs the handlers in Python that are due.
            signal.pthread_sigmask(signal.SIG_BLOCK, ())
        else:
            self._late.update(signal.valid_signals())
        while self._arrived:
            self._unhandled.append(self._arrived.pop())

    def wake(self) -> None:
        """Makes the channel readable."""
        self._write(0)

    def _write(self, number: int) -> None:
        if self._writer < 0 or self.forked:
            return
        try:
            os.write(self._writer, bytes((number,)))
        except BlockingIOError:
            # It is readable, and `_arrived` is asked as it was full.
            pass

    def close(self) -> None:
        """Closes both ends."""
        reader, self._reader = self._reader, -1
        writer, self._writer = self._writer, -1
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)


def _capacity(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError:
        return _CAPACITY


_channels: weakref.WeakSet[SignalChannel] = weakref.WeakSet()


def _leave_to_parent() -> None:
    # In a forked child. What Python writes there is for the parent to read.
    channels = list(_channels)
    for channel in channels:
        channel.forked = True
    try:
        fd = signal.set_wakeup_fd(-1)
        if fd != -1 and not any(channel.is_at(fd) for channel in channels):
            # The program's own.
            signal.set_wakeup_fd(fd)
    except ValueError:
        # A subinterpreter has no wake-up descriptor.
        pass


os.register_at_fork(after_in_child=_leave_to_parent)
