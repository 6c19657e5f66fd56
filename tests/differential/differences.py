"""The differences from asyncio that are meant: each with its reason, each a line of the docs too.

A changed line of a comparison (`- ` as on asyncio, `+ ` as on the other loop) is explained when the
pattern of a rule for that script and case is found in it. A rule that no longer explains anything
fails the test of its script, so the table cannot grow stale.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
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


Event = list[Any]
"""Of a generated script: step, lane, text."""


REPORTS = ("", "handler", "log", "left open")
"""Lanes of what is said about the ends."""


@dataclass(frozen=True)
class Explanation:
    """An explained difference of generated scripts.

    `line` is found in lines that may be there on one loop and not on the other. From where `ends`
    is found on asyncio is no model any more: the rest of that lane is not compared. `rest` is found
    in lines of which the other loop may have more, behind those that asyncio has. `strip` is found
    in lines of which only its groups are compared; if they are `loose`, nor is their place in
    the step. All of them look only at the lanes of ends of `kind`, `line` and `strip`
    also at the reports; these two only from where `after` has been found in the lane (for a report,
    in any of them).
    """

    example: str
    """The script in `examples/` in which it is the only difference."""
    reason: str
    line: str = ""
    after: str = ""
    ends: str = ""
    rest: str = ""
    strip: str = ""
    loose: bool = False
    kind: str = ""
    """Only for ends of this kind (a regular expression), if there is one in the script."""
    needs: str = ""
    """Only if the script has this operation (a regular expression)."""
    step: str = ""
    """Only from the first step on in which this is found."""
    given: str = ""
    """Only if this is found in a line of asyncio's."""
    since: tuple[int, ...] = (3, 10)
    before: tuple[int, ...] = (4,)

    def concerns(self, script: dict[str, Any]) -> bool:
        """Whether the rule is for `script`, on the running Python."""
        applies = self.since <= sys.version_info < self.before
        text = json.dumps(script)
        needed = not self.needs or re.search(f'"({self.needs})"', text)
        return applies and bool(re.search(self.kind, text)) and bool(needed)

    def apply(
        self, script: dict[str, Any], expected: list[Event], got: list[Event]
    ) -> tuple[list[Event], list[Event]]:
        """Return both traces of `script` without what the rule explains."""
        if self.given and not any(re.search(self.given, event[2]) for event in expected):
            return expected, got
        lanes = self._lanes(script)
        if self.rest:
            return expected, self._without_rest(lanes, expected, got)
        if not self.ends:
            return self._strip(script, expected), self._strip(script, got)
        for lane in lanes:
            expected, got = self._cut(lane, expected, got)
        return expected, got

    def _lanes(self, script: dict[str, Any]) -> list[str]:
        """Return the lanes of the ends that the rule is for."""
        text = json.dumps(script)
        return [
            f"e{number}"
            for number, end in enumerate(script["ends"])
            if re.search(self.kind, end["kind"]) or f'[{number}, "start_{self.kind}' in text
        ]

    def _strip(self, script: dict[str, Any], events: list[Event]) -> list[Event]:
        stripped = []
        lanes, first = self._lanes(script), self._first_step(script)
        for number, (step, lane, text) in enumerate(events):
            left = None if self.line and re.search(self.line, text) else self._groups(text)
            concerned = left != text and step >= first and lane in (*lanes, *REPORTS)
            # Looked for last: it reads the lane up to here.
            if not (concerned and self._is_after(lanes, events, number)):
                left = text
            if left is not None:
                stripped.append([step, lane, left])
        if not self.loose:
            return stripped
        return sorted(stripped, key=lambda event: (event[0], not re.search(self.strip, event[2])))

    def _groups(self, text: str) -> str:
        if not self.strip:
            return text
        return re.sub(self.strip, lambda match: "".join(match.groups("")), text)

    def _first_step(self, script: dict[str, Any]) -> int:
        """Return the number of the first step that the rule is for; the ends are made before."""
        if not self.step:
            return 0
        steps = map(json.dumps, script["steps"])
        found = (number for number, step in enumerate(steps) if re.search(self.step, step))
        return len(script["ends"]) + next(found, len(script["steps"]))

    def _without_rest(
        self, lanes: list[str], expected: list[Event], got: list[Event]
    ) -> list[Event]:
        left = Counter(lane for _, lane, text in expected if re.search(self.rest, text))
        kept = []
        for event in got:
            found = event[1] in lanes and re.search(self.rest, event[2])
            if found:
                left[event[1]] -= 1
            if not found or left[event[1]] >= 0:
                kept.append(event)
        return kept

    def _is_after(self, lanes: list[str], events: list[Event], number: int) -> bool:
        """Return whether `after` is found in what happened until then."""
        if not self.after:
            return True
        lane = events[number][1]
        looked_at = lanes if lane in REPORTS else [lane]
        texts = [text for _, where, text in events[: number + 1] if where in looked_at]
        return re.search(self.after, "\n".join(texts)) is not None

    def _cut(
        self, lane: str, expected: list[Event], got: list[Event]
    ) -> tuple[list[Event], list[Event]]:
        lines: list[str] = []
        for step, where, text in expected:
            if where == lane:
                lines.append(text)
                if re.search(self.ends, "\n".join(lines)):
                    same = [text for _, where, text in got if where == lane][: len(lines)] == lines
                    return (
                        self._until(expected, step, lane, len(lines) + same),
                        self._until(got, step, lane, len(lines) + same),
                    )
        return expected, got

    @staticmethod
    def _until(events: list[Event], last: int, lane: str, count: int) -> list[Event]:
        """Return `events` with less than `count` of `lane`, and without later reports."""
        kept = []
        for event in events:
            count -= event[1] == lane
            gone = event[1] == lane and count <= 0
            if not gone and not (event[1] in (*REPORTS, "loop") and event[0] >= last):
                kept.append(event)
        return kept


WRITERS_CONTEXT = "" if sys.version_info < (3, 15) else "pipe"
"""Ends whose callbacks run in the context of who wrote: from 3.15 on a connection has one."""

GENERATED: list[Explanation] = [
    # Before the one after them, which takes away what they look at.
    Explanation(
        "datagram_late_sendto_far",
        "a late call does nothing, and is told as one with an address",
        line=r"log WARNING 'socket\.send\(\) raised exception\.'",
        kind="datagram",
        given=r"sendto raised AttributeError\(\"'NoneType' object has no attribute 'call_exception",
    ),
    Explanation(
        "datagram_closed_sendto",
        "a late call does nothing",
        line=r"sendto raised AttributeError\(\"'NoneType' object has no attribute 'call_exception"
        r"|address must be tuple, not NoneType'\), .*'Fatal write error on datagram",
        kind="datagram",
    ),
    Explanation(
        "datagram_received_raises",
        "the report says which callback raised",
        strip=r"message: .Exception in callback (?:<transport's own>|None|Endpoint\.\w+).",
        kind="datagram",
    ),
    # Before those with `ends`, which count lines.
    Explanation(
        "tls_lost_rest",
        "what has come is delivered, though a buffer does not hold it all",
        rest=r"\.buffer_updated\(",
        kind="tls",
        given=r"\.(eof_received|connection_lost)\(",
    ),
    # Before the next one, which takes away what it looks at.
    Explanation(
        "closed_writelines_size",
        "nothing is queued on a closed connection, as in newer releases",
        ends=r"(?s)\.(close|abort|connection_lost)\(.*\.writelines\(",
        kind="stream",
        since=(3, 12),
        before=(3, 14),
    ),
    Explanation(
        "closed_writelines",
        "arguments are checked on closed transports, too, as by write",
        line=r"writelines raised TypeError",
        after=r"\.(close|abort)\(\)|\.(connection_lost|eof_received)\(",
        kind="stream",
        since=(3, 12),
        before=(3, 14),
    ),
    Explanation(
        "writelines_in_part",
        "nothing of a list is queued where an item is refused, as in older releases",
        ends=r"writelines\(\[b'x', 3\]\)",
        kind="stream",
        since=(3, 15),
    ),
    Explanation(
        "reset_writelines",
        "arguments are checked on closed transports, too, as by write",
        line=r"writelines raised TypeError",
        kind="stream",
        needs="far_reset|far_finish",
        since=(3, 12),
        before=(3, 14),
    ),
    Explanation(
        "writelines_pauses",
        "writelines pauses the protocol, as in newer releases",
        line=r"\.(pause|resume)_writing\(|: drain\(\) #",
        after=r"\.writelines\(",
        kind="stream",
        since=(3, 12),
        before=(3, 13, 2),
    ),
    Explanation(
        "late_write",
        "a late call does nothing, as in newer releases",
        line=r"\.(write|writelines|set_write_buffer_limits|abort) raised AttributeError\("
        r"\"'NoneType' object has no attribute '(call_exception|_add_writer|call_soon)",
        kind="stream",
        before=(3, 14),
    ),
    Explanation(
        "datagram_is_reading",
        "costs nothing",
        strip=r"(\.is_reading) (?:raised NotImplementedError.*|-> (?:True|False) .*)$",
        kind="datagram|read_pipe",
        before=(3, 11),
    ),
    Explanation(
        "closed_by_resume_writing",
        "connection_lost is told once",
        line=r"exception handler: .*AttributeError\(\"'NoneType' object has no attribute 'close'",
        after=r"\.resume_writing\(\)",
        kind="stream",
        needs="resume_writing",
        before=(3, 14),
    ),
    Explanation(
        "write_pipe_aborted_twice",
        "connection_lost is told once",
        line=r"(exception handler: .*|abort raised )AttributeError\(\"'NoneType' object has no "
        r"attribute '(close|_remove_reader)'",
        kind="write_pipe",
    ),
    Explanation(
        "eof_received_leaves",
        "the end of the stream is told once",
        ends=r"(?s)\.eof_received\(\).*\.(eof_received|pause_reading)\(\)",
        kind="stream",
        given="left the run",
    ),
    Explanation(
        "eof_received_again",
        "the end of the stream is told once",
        ends=r"(?s)\.eof_received\(\).*(\.resume_reading\(\)|sendfile ).*"
        r"(\.eof_received\(\)|: get_buffer raises |\('get_buffer\(\) returned)",
        kind="stream",
    ),
    Explanation(
        "streams_eof_again",
        "the end of the stream is told once, though sendfile pauses and resumes reading",
        ends=r"sendfile .*(\n.*){0,2}\.connection_lost\(\)",
        kind="streams",
        needs="far_finish",
    ),
    Explanation(
        "sendfile_cancelled",
        "the position of a file tells what was sent, as the documentation says",
        strip=r"(: the file is at) \d+( .*)$",
        after=r"(?s): sendfile [^\n]* raised CancelledError(?!.*: sendfile )",
        kind="stream",
        needs="sendfile_cancelled",
        since=(3, 14),
    ),
    Explanation(
        "streams_wait_closed",
        "what was gathered is sent when the turn ends, behind a task that it starts",
        strip=r"(\.connection_lost\(\) <future.*)$",
        loose=True,
        kind="streams",
        given=r"wait_closed\(\) #\d+ raised (BrokenPipe|ConnectionReset)Error",
        step='"wait_closed"',
    ),
    Explanation(
        "sock_recv_second",
        "they receive when they return",
        line=r"sock_recv(_into)?\(",
        kind="socket",
        needs='receive".*"receive',
        step='"far_.*"receive"',
    ),
    Explanation(
        "sock_accept_cancelled",
        "nothing is accepted for who has gone, as newer releases do",
        line=r"InvalidStateError\('invalid state'\).*_sock_accept'",
        needs="sock_accept",
        before=(3, 14, 8),
    ),
    Explanation(
        "read_pipe_raises",
        "no handle is made for each event",
        strip=r"(exception handler: \{exception: .*), (?:handle: <Handle>, loop: <loop>, "
        r"(?:message: .Exception in callback (?:<transport's own>|None).)?(?:, source_traceback: "
        r"<stack>)?|"
        r"loop: <loop>, message: 'Exception in callback protocol.\w+', "
        r"(?:protocol: <.*?>, )?transport: <.*?>)\}.*$",
    ),
    Explanation(
        "tls_reset_and_interrupt",
        "descriptors are asked again when the loop runs again",
        strip=r"(buffer_updated\(.*) closing( \[.*)$",
        kind="tls",
        needs="far_reset",
        given="left the run",
        since=(3, 14),
    ),
    Explanation(
        "tls_drain_after_reset",
        "what was gathered is sent when the turn ends, behind a task that it starts",
        strip=r"(: drain\(\) #\d+ )"
        r"(?:raised ConnectionResetError\[None\]\('Connection lost'\)|-> None)",
        kind="streams",
        needs="start_tls",
        step=r'"far_(reset|close)"',
    ),
    Explanation(
        "tls_lost_rest_fails",
        "what has come is delivered, and no error behind the end of the session",
        ends=r"connection_lost\(SSLError\[1\]\('\[SSL: APPLICATION_DATA_AFTER_CLOSE_NOTIFY",
        kind="tls",
    ),
    Explanation(
        "tls_late_calls",
        "a late call does nothing, or what it does when the connection is open",
        ends=r" raised AttributeError\(\"'NoneType' object has no attribute '_\w+'",
        kind="tls",
    ),
    Explanation(
        "tls_late_limits",
        "nobody is told to pause who has been told that the connection is lost",
        line=r"'NoneType' object has no attribute '(pause|resume)_writing'",
        kind="tls",
    ),
    Explanation(
        "tls_read_and_reset",
        "is_closing sees that the transport below is closing, as newer releases of asyncio do",
        strip=r"((?:data_received|buffer_updated)\(.*) closing( \[.*)$|"
        r"(is_closing ->) \w+( .*)$",
        kind="tls",
        before=(3, 14),
    ),
    Explanation(
        "tls_resume_raises",
        "the methods of a TLS protocol are native, and so are their names",
        strip=r"('Exception in callback SSLProtocol)\.(?:_resume_reading\.<locals>\.resume|"
        r"_do_read__buffered\.<locals>\.<lambda>|_resume|_do_read)'",
        kind="tls",
    ),
    Explanation(
        "tls_closed_twice",
        "asyncio forgets its protocol at the second close, and abort does nothing then",
        ends=r"(?s)(\.close\(\)|waits for ever).*\.close\(\) ",
        kind="tls",
    ),
    Explanation(
        "tls_closed_writelines",
        "writes of nothing do not count as writes to a closed connection",
        line=r"log WARNING 'SSL connection is closed'",
        kind="tls",
    ),
    Explanation(
        "tls_wrong_lines",
        "asyncio queues what is no data, and fails later",
        ends=r"writelines\((\[b'x', 3\]|None|3|'text')",
        kind="tls",
    ),
    Explanation(
        "gathered_behind_the_end",
        "what was gathered is sent when the turn ends",
        line=r"\.(eof|data)_received\(.* closing|\.(get_buffer|buffer_updated)\(.* closing|"
        r"returning true from eof_received",
        given=r"connection_lost\((BrokenPipe|ConnectionReset)",
        needs="far_reset",
    ),
    # Behind the one that looks at it.
    Explanation(
        "tls_end_is_closing",
        "is_closing sees that the transport below is closing, as newer releases of asyncio do",
        strip=r"(\.eof_received\(\)) closing( \[.*)$",
        kind="tls",
        before=(3, 14),
    ),
    # Last, as others look at the contexts.
    Explanation(
        "gathered_then_blocked",
        "the writer has returned when what was gathered is sent",
        strip=r"(.*) \[[^]]*\]$",
        after=r"\.(resume_writing|connection_lost)\(",
        kind=WRITERS_CONTEXT,
        needs="block|sendfile_cancelled",
        step='"(block|sendfile_cancelled)"',
    ),
    Explanation(
        "gathered_for_a_closed_pipe",
        "the writer has returned when what was gathered is sent",
        strip=r"(.*) \[[^]]*\]$",
        after=r"\.connection_lost\((BrokenPipe|ConnectionReset)",
        kind=WRITERS_CONTEXT,
    ),
    Explanation(
        "tls_write_after_reset_and_task",
        "the writer has returned when what was gathered is sent",
        strip=r"(connection_lost\((?:BrokenPipe|ConnectionReset)Error.*?|"
        r"Recorder\.connection_lost.*?)(?: \[[^]]*\])?$",
        loose=True,
        kind="tls",
        needs="far_reset|far_close",
    ),
]
"""Of oxloop from asyncio, in generated scripts."""
