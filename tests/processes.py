"""What the tests of subprocesses share: a recording protocol, and who is a child of ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from .support import Recording

PYTHON = (sys.executable, "-I", "-S", "-c")
"""A Python child's command, but for its program; it starts fast."""


class ProcessRecorder(Recording, asyncio.SubprocessProtocol):
    """Records the callbacks of a subprocess, those of a pipe with its number."""

    def __init__(self) -> None:
        super().__init__()
        self.output = {1: bytearray(), 2: bytearray()}
        self.errors: dict[int, BaseException | None] = {}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output[fd] += data
        self.record(f"pipe_data_received {fd}")

    def pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self.errors[fd] = exc
        self.record(f"pipe_connection_lost {fd}")

    def process_exited(self) -> None:
        self.record("process_exited")

    async def printed(self, data: bytes, fd: int = 1) -> None:
        """Wait until the child has written `data`, and nothing else, to `fd`."""
        await self.until(lambda: len(self.output[fd]) >= len(data))
        assert bytes(self.output[fd]) == data


def children() -> set[int]:
    """The pids of this process's children, zombies too."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                # The fields after the name, which is in parentheses: state, parent.
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == os.getpid():
                    found.add(int(entry.name))
    return found
