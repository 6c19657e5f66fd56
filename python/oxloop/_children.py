"""Waiting for child processes to exit.

A child is watched through a descriptor of its own (pidfd_open(2), Linux 5.3): no SIGCHLD handler,
no thread, nothing that another loop or the program could replace. Where the kernel, a sandbox or
the descriptor limit gives none, a thread waits for this child, as in asyncio's
ThreadedChildWatcher. asyncio's child watchers are not asked.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
from collections.abc import Callable

from ._base import LoopBase, logger

# How many turns asyncio lets pass between the exit and its report, so that what the child has
# written is read before.
_TURNS_BEFORE_REPORT = 0 if sys.version_info >= (3, 14) else 1 if sys.version_info >= (3, 12) else 2

_Report = Callable[[int], None]


class ChildMixin(LoopBase):
    """`_watch_child`, and the end of what it watches when the loop is closed."""

    # The descriptor of a child -> its pid.
    _children: dict[int, int]

    def __init__(self) -> None:
        super().__init__()
        self._children = {}

    def close(self) -> None:
        """Closes the loop; children that still run are not waited for any more."""
        super().close()
        while self._children:
            pidfd, pid = self._children.popitem()
            os.close(pidfd)
            if sys.version_info < (3, 12):
                # As asyncio's watcher of these versions; later ones say nothing.
                _warn_of_closed_loop(self, pid)

    def _watch_child(self, pid: int, report: _Report) -> None:
        """Reaps the child when it has exited, and calls `report(returncode)`.

        The report follows upon the reaping in the same callback: until then the pid is the child's.
        """
        try:
            self._watch_pidfd(pid, report)
        except ProcessLookupError:
            # Reaped by somebody else already.
            self.call_soon(self._reap, pid, report)
        except OSError:
            threading.Thread(
                target=_wait_for, args=(self, pid, report), name=f"waitpid-{pid}", daemon=True
            ).start()

    def _watch_pidfd(self, pid: int, report: _Report) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            self._add_reader(pidfd, self._child_exited, pidfd, report)
        except BaseException:
            os.close(pidfd)
            raise
        self._children[pidfd] = pid

    def _child_exited(self, pidfd: int, report: _Report) -> None:
        self._remove_reader(pidfd)
        pid = self._children.pop(pidfd)
        os.close(pidfd)
        self._report_after(_TURNS_BEFORE_REPORT, pid, report)

    def _report_after(self, turns: int, pid: int, report: _Report) -> None:
        if turns:
            # Before 3.12 asyncio hears of it from a thread, which has no context variables.
            context = contextvars.Context() if sys.version_info < (3, 12) else None
            self.call_soon(self._report_after, turns - 1, pid, report, context=context)
        else:
            self._reap(pid, report)

    def _reap(self, pid: int, report: _Report) -> None:
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:
            logger.warning(
                "child process pid %d exit status already read:  will report returncode 255", pid
            )
            returncode = 255
        else:
            returncode = os.waitstatus_to_exitcode(status)
        report(returncode)


def _wait_for(loop: ChildMixin, pid: int, report: _Report) -> None:
    # In a thread. The child is left to be reaped in the loop's.
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        pass
    try:
        loop.call_soon_threadsafe(loop._reap, pid, report)
    except RuntimeError:
        # The loop is closed.
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass
        _warn_of_closed_loop(loop, pid)


def _warn_of_closed_loop(loop: ChildMixin, pid: int) -> None:
    logger.warning("Loop %r that handles pid %r is closed", loop, pid)
