"""The differences from asyncio that are meant: each with its reason, each a line of the docs too.

A changed line of a comparison (`- ` as on asyncio, `+ ` as on the other loop) is explained when the
pattern of a rule for that script and case is found in it. A rule that no longer explains anything
fails the test of its script, so the table cannot grow stale.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One explained difference."""

    script: str
    case: str
    pattern: str
    reason: str
    since: tuple[int, ...] = (3, 10)
    before: tuple[int, ...] = (4,)
    """Only on Python `since <= version < before`, for what stock asyncio fixed in between."""

    def concerns(self, script: str) -> bool:
        """Whether the rule belongs to `script` on the running Python."""
        return self.script == script and self.since <= sys.version_info < self.before

    def explains(self, case: str, line: str) -> bool:
        """Whether the rule explains the changed `line` of `case`."""
        return self.case == case and re.search(self.pattern, line) is not None


DIFFERENCES: list[Difference] = [
    Difference(
        "unix",
        "a_full_queue",
        r"connect |client\.connection_(made|lost)",
        "asyncio makes a transport of a socket that is not connected",
    ),
    Difference(
        "datagrams",
        "callbacks_that_raise",
        r"exception handler: .*(Endpoint\.|transport's own)",
        "what raises in an event is reported as the protocol's callback, not as the transport's",
    ),
    Difference(
        "writes",
        "looking_in_the_same_callback",
        "peer has",
        "what a turn writes is sent at its end, by one call for each connection",
    ),
    Difference(
        "exceptions",
        "in_eof_received",
        r"client\.eof_received\(\)",
        "the end of the stream is told once: asyncio tells it again after a KeyboardInterrupt",
    ),
    Difference(
        "exceptions",
        "in_the_factory_of_a_client",
        "socket open",
        "a socket whose protocol factory fails is closed, as newer releases of asyncio do",
        before=(3, 14, 8),
    ),
    Difference(
        "exceptions",
        "interrupts_in_the_factory_of_a_server",
        "Task exception was never retrieved",
        "no task is made for each connection: the interrupt leaves run_forever, and that is all",
    ),
    Difference(
        "resources",
        "unclosed_loop",
        "warned 'ResourceWarning: unclosed event'",
        "in no reference cycle, the loop is freed, and warns, when the last reference goes",
    ),
    Difference(
        "resources",
        "unclosed_transport",
        "warned 'ResourceWarning: unclosed transport'",
        "in no reference cycle, the transport is freed, and warns, when the loop is closed",
    ),
]
"""Of oxloop from asyncio."""


@dataclass(frozen=True)
class Explanation:
    """An explained difference of generated scripts, of which `example` in `examples/` is one."""

    example: str
    pattern: str
    reason: str
    since: tuple[int, ...] = (3, 10)
    before: tuple[int, ...] = (4,)
    needs: str = ""
    """Must be found in the script, as JSON."""

    def concerns(self) -> bool:
        """Whether the rule is for the running Python."""
        return self.since <= sys.version_info < self.before

    def applies(self, script: Any, changed: list[str]) -> bool:
        """Whether the rule has something to say about a script."""
        return re.search(self.needs, json.dumps(script)) is not None and any(
            map(self.explains, changed)
        )

    def explains(self, line: str) -> bool:
        """Whether the rule explains the changed `line`."""
        return re.search(self.pattern, line) is not None


GENERATED: list[Explanation] = []
"""Of oxloop from asyncio, in generated scripts."""
