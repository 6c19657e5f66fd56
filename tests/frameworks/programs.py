"""A server or any other program in its own process, whose output the tests listen to."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any, ClassVar

import pytest

from tests.support import TIME_LIMIT


class Program:
    """A process whose output (stdout and stderr) is collected line by line."""

    recent: ClassVar[list[Program]] = []
    """Those that have run during the current test: when it fails, their output is shown."""

    def __init__(self, *command: str, **options: Any) -> None:
        self.command = command
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **options,
        )
        self.lines: list[str] = []
        self._ended = False
        self._change = threading.Condition()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()
        self.recent.append(self)

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._change:
                self.lines.append(line.rstrip("\n"))
                self._change.notify_all()
        with self._change:
            self._ended = True
            self._change.notify_all()

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """What the program has said so far, on stdout and stderr."""
        return "\n".join(self.lines)

    def found(self, text: str, times: int = 1) -> str | None:
        """Wait until `text` has been in `times` lines of the output; return the last of them.

        None if the program has ended, or the time, before that.
        """
        deadline = time.monotonic() + TIME_LIMIT
        with self._change:
            while len(lines := [line for line in self.lines if text in line]) < times:
                if self._ended or not self._change.wait(deadline - time.monotonic()):
                    return None
        return lines[times - 1]

    def heard(self, text: str, times: int = 1) -> str:
        """Return what `found` does; fail instead of None."""
        line = self.found(text, times)
        if line is None:
            pytest.fail(f"{times} x {text!r} never came\n{self.output}")
        return line

    def forget(self) -> None:
        """Drop what has been said so far."""
        with self._change:
            self.lines.clear()

    def wait(self) -> int:
        """Wait for the end of the process and return its exit code (negative: the signal)."""
        try:
            code = self.process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.command[0]} does not end\n{self.output}")
        self._reader.join(TIME_LIMIT)
        return code

    def stop(self, number: int) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End the process, however it is."""
        self.process.kill()
        self.process.wait()
        self._reader.join(TIME_LIMIT)
        assert self.process.stdout is not None
        self.process.stdout.close()
