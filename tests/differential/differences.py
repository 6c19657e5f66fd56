"""The differences from asyncio that are meant: each with its reason, each a line of the docs too.

A changed line of a comparison (`- ` as on asyncio, `+ ` as on the other loop) is explained when the
pattern of a rule for that script and case is found in it. A rule that no longer explains anything
fails the test of its script, so the table cannot grow stale.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass


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
        "reading",
        "pause_in_connection_made",
        r"nothing seen|data_received|resume_reading",
        "asyncio of 3.10 reads on after a pause in connection_made, as the reader is added later",
        before=(3, 11),
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
        "tls_faults",
        "damaged_records",
        r"data_received\(b'good'\)|^[-+] ?data b'",
        "what is decrypted is delivered, also where a damaged record comes behind it in one read",
        since=(3, 11),
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
