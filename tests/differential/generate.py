"""Generates scripts, plays each on stdlib asyncio and on another loop, and shows what differs.

    python -m tests.differential.generate --scripts 2000 --seed 1 [--loop uvloop:new_event_loop]
    python -m tests.differential.generate tests/differential/examples/*.json

A script whose trace differs is played again. Where it does not differ each time, or asyncio differs
from itself, it is counted as unsteady, and shown: no difference, but not settled either. The first
differing ones are made as short as they get while they still differ. The exit code is 1 if
something differs that `differences.py` does not explain.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import difflib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from .compare import DEFAULT, REFERENCE, ROOT
from .differences import GENERATED, Event, Explanation
from .player import Script
from .strategies import scripts

EXAMPLES = Path(__file__).with_name("examples")
"""Scripts kept: each of them differed once."""
FIXED = Path(__file__).with_name("fixed.jsonl")
"""Scripts generated once, one a line: with other sources the same seed makes other scripts."""


class Worker:
    """A process that plays scripts on one loop; another takes its place when it dies."""

    def __init__(self, loop: str) -> None:
        self.loop = loop
        self._process: subprocess.Popen[str] | None = None

    def send(self, script: Script) -> None:
        """Give it a script to play."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker", self.loop],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).write(json.dumps(script) + "\n")
            _pipe(self._process.stdin).flush()

    def receive(self) -> list[list[Any]]:
        """Return what happened; if the process has died, how."""
        assert self._process is not None
        if line := _pipe(self._process.stdout).readline():
            events: list[list[Any]] = json.loads(line)
            return events
        _, errors = self._process.communicate()
        code = self._process.returncode
        self._process = None
        return [[0, "death", f"ended with {code}: {errors.partition(chr(10))[0]}"]]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


@dataclass
class Counts:
    """What came of a run."""

    scripts: int = 0
    events: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    """In how many scripts a rule, by the name of its example, was needed."""
    unsteady: list[Script] = field(default_factory=list)


class Pair:
    """Plays scripts on the reference and on another loop."""

    def __init__(
        self, loop: str, rules: Sequence[Explanation] = (), reference: str = REFERENCE
    ) -> None:
        self.loop = loop
        self.rules = rules
        self.contexts = True
        """Whether it is compared in which context a callback runs."""
        self.counts = Counts()
        self._workers = Worker(reference), Worker(loop)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.close()

    def traces(self, script: Script) -> tuple[list[Event], list[Event]]:
        """Play `script` once on each loop and return what happened."""
        for worker in self._workers:
            worker.send(script)
        expected, got = (ordered(script, worker.receive()) for worker in self._workers)
        if not self.contexts:
            expected, got = _without_contexts(expected), _without_contexts(got)
        return expected, got

    def difference(self, script: Script, rules: Sequence[Explanation] | None = None) -> list[str]:
        """Play `script`; return the unexplained difference, as lines of a diff.

        The rules are those of the pair, or `rules`.
        """
        self.counts.scripts += 1
        expected, got = self.traces(script)
        self.counts.events += len(expected)
        if expected == got:
            return []
        for _ in range(3):
            again, got = self.traces(script)
            if again != expected or got == expected:
                self.counts.unsteady.append(script)
                return []
        concerned = [r for r in (self.rules if rules is None else rules) if r.concerns(script)]
        if not explains(concerned, script, expected, got):
            return _diff(expected, got, self.loop)
        for rule in list(concerned):
            others = [other for other in concerned if other is not rule]
            if explains(others, script, expected, got):
                concerned = others
        self.counts.explained.update(rule.example for rule in concerned)
        return []

    def shorter(self, script: Script) -> Script:
        """Return `script` without what is not needed for it to differ."""
        changed = True
        while changed:
            changed = False
            for shorter in _shorter(script):
                if self.difference(shorter):
                    script, changed = shorter, True
                    break
        return script


def explains(
    rules: Sequence[Explanation], script: Script, expected: list[Event], got: list[Event]
) -> bool:
    """Return whether `rules` together leave no difference between both traces of `script`."""
    for rule in rules:
        expected, got = rule.apply(script, expected, got)
    return ordered(script, expected) == ordered(script, got)


def ordered(script: Script, events: list[Event]) -> list[Event]:
    """Return what happened in the order to compare.

    How the events of several ends mix within a step is not defined, nor those of a child's pipes.
    """
    if len(script["ends"]) > 1 or script["ends"][0]["kind"] == "child":
        loose = ("handler", "log")
        events = sorted(events, key=lambda e: (e[0], e[1], e[2] if e[1] in loose else ""))
    return events


def _without_contexts(events: list[Event]) -> list[Event]:
    return [[step, lane, re.sub(r" \[[^]]*\]$", "", text)] for step, lane, text in events]


def _diff(expected: list[Event], got: list[Event], loop: str) -> list[str]:
    texts = [[f"{step}: {text}" for step, _, text in events] for events in (expected, got)]
    return list(difflib.unified_diff(*texts, "asyncio", loop, lineterm="", n=100))


def generated(number: int, start: int, check: Callable[[Script], None]) -> None:
    """Call `check` with that many scripts, which depend on the seed `start` alone.

    When it raises, hypothesis looks for the shortest script that makes it raise.
    """

    @seed(start)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(scripts())
    def run(script: Script) -> None:
        check(script)

    run()


def main() -> int:
    """Generate from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", nargs="*", type=Path, help="play these scripts and no others")
    parser.add_argument("--scripts", type=int, default=1000, help="for each seed")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--loop", default=DEFAULT, help="module:factory (default: %(default)s)")
    parser.add_argument("--shorten", type=int, default=5, help="make so many as short as possible")
    parser.add_argument("--no-contexts", action="store_true", help="do not compare contexts")
    parser.add_argument("--keep", type=Path, help="write differing scripts into this folder")
    parser.add_argument("--results", type=Path, help="write the counts into this JSON file")
    parser.add_argument("--write", type=Path, help="write the scripts, one a line, and play none")
    options = parser.parse_args()
    if options.write:
        lines: dict[str, None] = {}
        for number in options.seed:
            generated(options.scripts, number, lambda s: lines.setdefault(json.dumps(s) + "\n"))
        options.write.write_text("".join(lines))
        return 0
    started = time.monotonic()
    rules = GENERATED if options.loop == DEFAULT else ()
    with Pair(options.loop, rules) as pair:
        pair.contexts = not options.no_contexts
        differing: list[tuple[str, Script]] = []

        def check(script: Script) -> None:
            if diff := pair.difference(script):
                differing.append((kind(diff), copy.deepcopy(script)))

        if options.files:
            for file in options.files:
                for script in read(file):
                    check(script)
        else:
            for number in options.seed:
                generated(options.scripts, number, check)
        counts = copy.deepcopy(pair.counts)
        for script in counts.unsteady[: options.shorten]:
            print("unsteady:", json.dumps(script), end="\n\n")
        found: dict[str, list[str]] = {}
        # One of each kind; short ones of several kinds often turn out to be of the same.
        for number, script in enumerate(dict(differing).values()):
            if len(found) < options.shorten:
                script = pair.shorter(script)
                diff = pair.difference(script)
                found.setdefault(kind(diff), [json.dumps(script), *diff])
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                file = options.keep / f"{number}.json"
                file.write_text(json.dumps(script) + "\n")
        for one in found.values():
            print(*one, sep="\n", end="\n\n")
    result = {
        "net": "Random scripts",
        "python": platform.python_version(),
        "loop": options.loop,
        "contexts": not options.no_contexts,
        "seed": options.seed,
        "scripts": counts.scripts,
        "events": counts.events,
        "explained": dict(sorted(counts.explained.items())),
        "unsteady": len(counts.unsteady),
        "unexplained": len(differing),
    }
    if options.results:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(result, indent=2) + "\n")
    print(*(f"{key}: {value}" for key, value in result.items()), sep=", ", end="")
    print(f" ({time.monotonic() - started:.0f} s)")
    return bool(differing)


def read(file: Path) -> list[Script]:
    """Return the scripts of a file, one a line."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def kind(diff: list[str]) -> str:
    """Return what differs, without numbers and data."""
    changed = [line for line in diff[2:] if line[0] in "+-"]
    return re.sub(r"b'.*?'|b\".*?\"|\d+|<\w+ bytes \w+>", "", "\n".join(changed))


def _shorter(script: Script) -> Iterator[Script]:
    """Yield `script` with something taken out: steps, operations, hooks, ends."""
    for number in range(len(script["steps"])):
        yield {**script, "steps": script["steps"][:number] + script["steps"][number + 1 :]}
    if len(script["ends"]) > 1:
        yield {**script, "ends": script["ends"][:-1]}
        for gone in range(len(script["ends"])):
            yield _without_end(script, gone)
    if "debug" in script:
        yield {key: value for key, value in script.items() if key != "debug"}
    for ends in _without_options(script["ends"]):
        yield {**script, "ends": ends}
    for steps in _without_one(script["steps"]):
        yield {**script, "steps": steps}


def _without_end(script: Script, gone: int) -> Script:
    def move(ops: Any) -> Any:
        """Renumber the ends in operations, and in those within."""
        moved = []
        for op in ops:
            target, name, *args = op
            if target == gone:
                continue
            if isinstance(target, int) and target > gone:
                target -= 1
            args = [
                move(arg) if isinstance(arg, list) and arg and isinstance(arg[0], list) else arg
                for arg in args
            ]
            moved.append([target, name, *args])
        return moved

    ends = script["ends"][:gone] + script["ends"][gone + 1 :]
    return {**script, "ends": ends, "steps": [move(step) for step in script["steps"]]}


def _without_options(ends: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for number, end in enumerate(ends):
        for key in ("buffered", "keep", "hooks", "limit", "coroutine", "error"):
            if key in end:
                less = {k: v for k, v in end.items() if k != key}
                yield [*ends[:number], less, *ends[number + 1 :]]
        if end.get("how", "sock") != "sock" and end["kind"] != "socket":
            yield [*ends[:number], {**end, "how": "sock"}, *ends[number + 1 :]]


def _without_one(steps: Any) -> Iterator[Any]:
    """Yield `steps` without one operation, in a step or in what a callback does."""
    for number, step in enumerate(steps):
        for place, op in enumerate(step):
            rest = [*step[:place], *step[place + 1 :]]
            if len(step) > 1:
                yield [*steps[:number], rest, *steps[number + 1 :]]
            for at, arg in enumerate(op):
                if isinstance(arg, list) and arg and isinstance(arg[0], list):
                    for less in range(len(arg)):
                        inner = [*op[:at], [*arg[:less], *arg[less + 1 :]], *op[at + 1 :]]
                        changed = [*step[:place], inner, *step[place + 1 :]]
                        yield [*steps[:number], changed, *steps[number + 1 :]]


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


if __name__ == "__main__":
    os.environ.setdefault("OXLOOP_CASE_LIMIT", "30")
    sys.exit(main())
