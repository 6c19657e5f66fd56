"""The comparer: runs scripts on stdlib asyncio and on another loop and shows what differs.

    python -m tests.differential.compare [--loop oxloop:new_event_loop] [--repeat N] [script ...]

Each run has its own process. Without scripts, all are compared; `script:case` is one case. The
exit code is 1 if something differs that `differences.py` does not explain.
"""

from __future__ import annotations

import argparse
import difflib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import scripts
from .differences import DIFFERENCES, Difference
from .runner import cases

REFERENCE = "asyncio:new_event_loop"
DEFAULT = "oxloop:new_event_loop"
ROOT = Path(__file__).parents[2]


class BrokenScript(Exception):
    """A script does not run through on the reference: there is nothing to compare with."""


@dataclass
class Story:
    """What happened in one case: its lines, in order."""

    lanes: bool
    events: list[tuple[str, str]] = field(default_factory=list)
    death: str = ""
    """How the process ended, if the case did not."""

    def lines(self) -> list[str]:
        """Return the lines to compare; those of one lane stay in order."""
        events = sorted(self.events, key=lambda event: event[0]) if self.lanes else self.events
        return [text for _, text in events] + self.death.splitlines()


@dataclass
class Comparison:
    """The differences of one script between the reference and another loop."""

    script: str
    cases: int = 0
    events: int = 0
    hunks: list[str] = field(default_factory=list)
    """The unexplained ones, each headed by its case."""
    explained: list[Difference] = field(default_factory=list)
    stale: list[Difference] = field(default_factory=list)


def all_scripts() -> list[str]:
    """Return the names of all scripts."""
    return sorted(module.name for module in pkgutil.iter_modules(scripts.__path__))


def observe(script: str, loop: str) -> dict[str, Story]:
    """Run `script` on `loop` in a process of its own and return what happened, case by case.

    If a case kills the process (or hangs, and the watchdog does), another process runs the rest.
    """
    script, _, only = script.partition(":")
    remaining = [case.name for case in cases(script) if only in ("", case.name)]
    stories: dict[str, Story] = {}
    while remaining:
        child = subprocess.run(
            [sys.executable, "-m", f"{__package__}.runner", script, loop, *remaining],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        name = ""
        for kind, *values in map(json.loads, child.stdout.splitlines()):
            if kind == "case":
                name, lanes = values
                stories[name] = Story(lanes)
            elif kind == "event":
                stories[name].events.append((values[0], values[1]))
        if not name:
            raise BrokenScript(f"{script} on {loop} does not start:\n{child.stderr}")
        if child.returncode != 0:
            errors = child.stderr.splitlines()
            if len(errors) > 20:
                errors[10:-10] = ["..."]
            stories[name].death = "\n".join(
                [f"the process ended with {child.returncode}:", *errors]
            )
        remaining = remaining[remaining.index(name) + 1 :]
    return stories


def compare(
    script: str, loop: str, rules: Sequence[Difference] = (), reference: str = REFERENCE
) -> Comparison:
    """Run `script` on `reference` and on `loop` and compare what happened."""
    expected, got = observe(script, reference), observe(script, loop)
    result = Comparison(script)
    script, _, only = script.partition(":")
    rules = [rule for rule in rules if rule.concerns(script) and only in ("", rule.case)]
    if not expected:
        raise BrokenScript(f"{result.script}: no such case on this Python")
    for name, story in expected.items():
        if story.death or not story.events:
            raise BrokenScript(f"{script}: {name} on {reference}: {story.death or 'no event'}")
        result.cases += 1
        result.events += len(story.events)
        diff = difflib.unified_diff(story.lines(), got[name].lines(), reference, loop, lineterm="")
        diff_lines = list(diff)[2:]
        changed = [line for line in diff_lines if line[0] in "+-"]
        used = [rule for rule in rules if any(rule.explains(name, line) for line in changed)]
        result.explained += used
        if not all(any(rule.explains(name, line) for rule in used) for line in changed):
            result.hunks.append("\n".join([f"{script}: {name}", *diff_lines]))
    result.stale = [rule for rule in rules if rule not in result.explained]
    return result


def rules_for(loop: str) -> Sequence[Difference]:
    """Return the explained differences of `loop`."""
    return DIFFERENCES if loop.partition(":")[0] == DEFAULT.partition(":")[0] else ()


def main() -> int:
    """Compare from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("scripts", nargs="*", metavar="script", help=", ".join(all_scripts()))
    parser.add_argument("--loop", default=DEFAULT, help="module:factory (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="compare this many times")
    parser.add_argument("--show", action="store_true", help="print the traces of --loop instead")
    options = parser.parse_args()
    failed = False
    for script in options.scripts or all_scripts():
        if options.show:
            for name, story in observe(script, options.loop).items():
                print(f"{script}: {name}", *story.lines(), "", sep="\n    ")
            continue
        for _ in range(options.repeat):
            try:
                result = compare(script, options.loop, rules_for(options.loop))
            except BrokenScript as exc:
                failed = True
                print(exc, end="\n\n")
                break
            failed = failed or bool(result.hunks or result.stale)
            print(
                f"{script}: {result.cases} cases, {result.events} events, "
                f"{len(result.hunks)} cases differ, {len(result.explained)} explained"
            )
            print(*result.hunks, sep="\n\n", end="\n\n" if result.hunks else "")
            for rule in result.stale:
                print(f"explains nothing any more: {rule}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
