"""Compares the two runs of a suite, says what came of it and writes it down."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .sessions import Session
from .suites import Suite, covers

__all__ = ["Verdict", "compare", "counts", "print_verdict", "write"]


@dataclass
class Verdict:
    """What the comparison of a suite's runs came to.

    Attributes:
        worse: tests that pass on asyncio and not on oxloop, and are not expected to.
        expected: those that are, with the reason.
        problems: whatever else makes the runs no proof.
    """

    worse: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def doubtful(self, sessions: Mapping[str, Session]) -> dict[str, list[str]]:
        """What to run again on each loop: what failed there, or did worse, and was not expected."""
        found = {loop: dict.fromkeys(session.named("failed")) for loop, session in sessions.items()}
        found["oxloop"].update(dict.fromkeys(self.worse))
        return {
            loop: [name for name in names if loop == "asyncio" or name not in self.expected]
            for loop, names in found.items()
        }

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
        detail = sessions["asyncio"].tests[name].detail
        print(f"  fails on asyncio: {name}{_last_line(detail)}")
    for loop, session in sessions.items():
        for name, detail in session.unsteady.items():
            print(f"  passed on {loop} only when run again, alone: {name}{_last_line(detail)}")
    for problem in verdict.problems:
        print(f"  PROBLEM {problem}")
    for name in verdict.worse:
        found = sessions["oxloop"].tests.get(name)
        print(f"  WORSE {name}: {found.outcome if found else 'not run'}")
        for line in found.detail.rstrip().splitlines() if found else ():
            print(f"    | {line}")
    sys.stdout.flush()


def _last_line(detail: str) -> str:
    lines = detail.rstrip().splitlines()
    return f": {lines[-1]}" if lines else ""


def counts(suite: Suite, sessions: dict[str, Session], verdict: Verdict) -> list[dict[str, object]]:
    """What scripts/compatibility.py reads: an entry for each loop.

    What was left out counts as skipped; what passed when it was run again has passed, and is named;
    a test that fails on asyncio too is a failure of both.
    """
    made: list[dict[str, object]] = []
    for loop, session in sessions.items():
        ours = Verdict() if loop == "asyncio" else verdict
        failed = {*session.named("failed"), *ours.worse}
        judged = {*ours.worse, *ours.expected}
        skipped = Counter(
            session.tests[name].detail
            for name in session.named("skipped", "left out")
            if name not in judged
        )
        made.append(
            {
                "suite": suite.title,
                "python": platform.python_version(),
                "loop": loop,
                "passed": len(session.named("passed")),
                "failed": sorted(failed.difference(ours.expected)),
                "skipped": dict(sorted(skipped.items())),
                "expected": ours.expected,
                "unsteady": sorted(session.unsteady),
            }
        )
    return made


def write(path: Path, made: list[dict[str, object]]) -> None:
    """Put a suite's entries into the file, in the place of those of an earlier run."""
    entries = json.loads(path.read_text("utf-8")) if path.exists() else []
    project = _project(made[0])
    entries = [entry for entry in entries if _project(entry) != project]
    entries = sorted(entries + made, key=lambda entry: (entry["suite"], entry["loop"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1) + "\n", "utf-8")


def _project(entry: Mapping[str, object]) -> str:
    return str(entry["suite"]).partition(" ")[0]
