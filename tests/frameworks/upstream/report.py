"""Compares the two runs of a suite, says what came of it and writes it down."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .environments import BUILD
from .sessions import Session
from .suites import Suite, covers

__all__ = ["Verdict", "compare", "print_verdict", "write"]


@dataclass
class Verdict:
    """What the comparison of a suite's runs came to.

    Attributes:
        worse: tests that pass on asyncio and not on oxloop, and are not expected to.
        expected: those that are, with the reason.
        unsteady: those of `worse` that passed when they were run again, alone.
        problems: whatever else makes the runs no proof.
    """

    worse: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    unsteady: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether a test that passes on asyncio passes on oxloop."""
        return not self.worse and not self.problems


def compare(suite: Suite, asyncio: Session, oxloop: Session, whole: bool = True) -> Verdict:
    """Compare test by test.

    Args:
        whole: all tests were run: entries of the suite's lists that match none are problems.
    """
    verdict = Verdict(problems=[f"asyncio: {problem}" for problem in asyncio.problems])
    verdict.problems += [f"oxloop: {problem}" for problem in oxloop.problems]
    for name, session in (("asyncio", asyncio), ("oxloop", oxloop)):
        if not session.made:
            verdict.problems.append(f"{name}: no loop under test was ever made")
        if not session.named("passed"):
            verdict.problems.append(f"{name}: no test passed")
    for name in oxloop.named("passed"):
        entry = _entry(suite, name)
        if entry:
            verdict.problems.append(f"passes, and is expected to fail ({entry}): {name}")
        if oxloop.tests[name].stock:
            verdict.problems.append(f"ran on asyncio's own loop: {name}")
    for name in asyncio.named("passed"):
        found = oxloop.tests.get(name)
        if found is not None and found.outcome == "passed":
            continue
        entry = _entry(suite, name)
        if entry:
            verdict.expected[name] = suite.expected[entry]
        else:
            verdict.worse.append(name)
    if whole:
        for entry in (*suite.left_out, *suite.expected):
            if not any(covers(entry, name) for name in (*asyncio.tests, *oxloop.tests)):
                verdict.problems.append(
                    f"on a list in suites.py, and there is no such test: {entry}"
                )
    return verdict


def _entry(suite: Suite, test: str) -> str:
    """The entry of the expected failures for this test, or ""."""
    return next((entry for entry in suite.expected if covers(entry, test)), "")


def print_verdict(suite: Suite, sessions: dict[str, Session], verdict: Verdict) -> None:
    """Say it: a line for each loop, then what is wrong, in full."""
    print(f"{suite.title}, Python {platform.python_version()}")
    for loop, session in sessions.items():
        counts = (len(session.named(outcome)) for outcome in ("passed", "failed", "skipped"))
        print(
            "    {:8}{:5} passed {:3} failed {:3} skipped".format(loop, *counts),
            f"{len(session.named('left out')):3} left out   {session.made:5} loops made",
        )
    for name, reason in verdict.expected.items():
        print(f"  expected: {name}: {reason}")
    for name in sessions["asyncio"].named("failed"):
        print(f"  fails on asyncio: {name}{_last_line(sessions['asyncio'], name)}")
    for name in verdict.unsteady:
        print(f"  passed only when run again, alone: {name}{_last_line(sessions['oxloop'], name)}")
    for problem in verdict.problems:
        print(f"  PROBLEM {problem}")
    for name in verdict.worse:
        found = sessions["oxloop"].tests.get(name)
        print(f"  WORSE {name}: {found.outcome if found else 'not run'}")
        for line in found.detail.rstrip().splitlines() if found else ():
            print(f"    | {line}")
    sys.stdout.flush()


def _last_line(session: Session, name: str) -> str:
    lines = session.tests[name].detail.rstrip().splitlines()
    return f": {lines[-1]}" if lines else ""


def write(suite: Suite, sessions: dict[str, Session], verdict: Verdict) -> None:
    """The counts of each loop as a file for scripts/compatibility.py.

    An expected failure counts as skipped, with its reason; a test that fails on asyncio too is a
    failure of both.
    """
    folder = BUILD / "results" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    for loop, session in sessions.items():
        passed, failed = session.named("passed"), session.named("failed")
        if loop == "oxloop":
            passed = passed + verdict.unsteady
            failed = [n for n in failed if n not in verdict.expected and n not in verdict.unsteady]
        skipped = Counter(
            session.tests[name].detail for name in session.named("skipped", "left out")
        )
        if loop == "oxloop":
            skipped.update(f"expected to fail: {text}" for text in verdict.expected.values())
        counts = {
            "net": "frameworks",
            "suite": suite.title,
            "version": suite.version,
            "python": platform.python_version(),
            "loop": loop,
            "passed": len(passed),
            "failed": sorted(failed),
            "skipped": dict(sorted(skipped.items())),
            "worse": verdict.worse,
            "expected": verdict.expected,
            "unsteady": verdict.unsteady,
            "loops_made": session.made,
        }
        path = Path(folder, f"upstream-{suite.name}-{loop}.json")
        path.write_text(json.dumps(counts, indent=1) + "\n", "utf-8")
