"""The event loops that are compared."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """One column of the tables: its name, and the module whose `new_event_loop` makes the loop."""

    name: str
    module: str

    @property
    def installed(self) -> bool:
        """Whether the module can be imported."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """The version of the package, of Python for asyncio."""
        if self.module == "asyncio":
            return platform.python_version()
        return importlib.metadata.version(self.module)


def new_event_loop(module: str) -> asyncio.AbstractEventLoop:
    """Return a new loop of `module`."""
    loop: asyncio.AbstractEventLoop = importlib.import_module(module).new_event_loop()
    return loop
