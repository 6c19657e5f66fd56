"""Tables of what passes on each Python, from the runs: `compatibility.py FOLDER [--update FILE]`.

FOLDER has a folder for each Python (3.14), and in it what the make targets leave: `pytest.xml`
(JUnit), and JSON files of one net or suite each:

    {"net": "CPython's own tests", "python": "3.14.8", "passed": 2088, "failed": ["name"],
     "skipped": {"reason": 47}}

`upstream.json` is a list of such, each with `"suite": "aiohttp 3.14.5"` in the place of the net,
`"loop": "asyncio"`, `"expected": {"name": "reason"}` and `"unsteady": ["name"]`: rows of a table of
their own. `generated.json` (`make fuzz`) has numbers of its own. What has not been run on a Python
is said, never left out.
"""

from __future__ import annotations

import argparse
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
"""Those that have a column in any case."""

BEHAVIOUR = "Behaviour tests"
CONFORMANCE = "CPython's own tests"
PROGRAMS = "Real programs"
TRACES = "Differential traces"
NETS = {
    "tests.conformance": "The runner of CPython's tests",
    "tests.differential": TRACES,
    "tests.frameworks": PROGRAMS,
    "tests.resources": "Memory and descriptors",
}
"""What the tests of a folder are; those of no folder are `BEHAVIOUR`."""

ORDER = (CONFORMANCE, TRACES, BEHAVIOUR, PROGRAMS)
"""The first rows; others follow by name."""


@dataclass
class Tally:
    """What came out of a set of tests.

    Attributes:
        failed: names.
        skipped: how many, by reason.
        expected: names of tests that were known to fail, and did, with their reasons.
        unsteady: names of tests that passed only when they were run again.
        numbers: what else a net counts.
    """

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    expected: dict[str, str] = field(default_factory=dict)
    unsteady: list[str] = field(default_factory=list)
    numbers: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return f"{self.passed} / {self.skipped.total()} / {len(self.failed)}"


@dataclass
class Run:
    """All that has been run with one Python.

    Attributes:
        version: with its patch number, as far as a result names it.
        nets: by name, on oxloop or on no loop.
        suites: of real programs, by name and loop.
        upstream: the suites of other projects, likewise.
        random: what `generated.json` has, of random scripts.
    """

    version: str
    nets: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    suites: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    upstream: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    random: Mapping[str, Any] = field(default_factory=dict)


def load(folder: Path) -> Run:
    """Read the results of one Python."""
    run = Run(folder.name)
    for path in sorted(folder.glob("*.json")):
        if path.stem.startswith("generated"):
            continue  # other loops' are in docs/differences.md
        found = json.loads(path.read_text("utf-8"))
        for counts in found if isinstance(found, list) else [found]:
            add_counts(run, counts)
    for path in sorted(folder.glob("*.xml")):
        for suite in ElementTree.parse(path).getroot().iter("testsuite"):
            add_junit(run, suite)
    generated = folder / "generated.json"
    if generated.exists():
        run.random = json.loads(generated.read_text("utf-8"))
        run.version = run.random["python"]
    return run


def add_counts(run: Run, counts: Mapping[str, Any]) -> None:
    """Add the counts of a JSON file."""
    text = {key: value for key, value in counts.items() if isinstance(value, str)}
    run.version = text.get("python", run.version)
    loop = module_of(text.get("loop", "oxloop"))
    if "suite" in text:
        tally = run.upstream[text["suite"], loop]
        tally.expected.update(counts.get("expected", {}))
        tally.unsteady += counts.get("unsteady", [])
    elif loop == "oxloop":
        tally = run.nets[text["net"]]
    else:
        return  # another loop, beside ours: the net's own documents have it
    passed, failed, skipped = (counts.get(key) for key in ("passed", "failed", "skipped"))
    if not isinstance(passed, int) or not isinstance(failed, list):
        raise ValueError(f"not as described above: {counts}")
    tally.passed += passed
    tally.failed += map(str, failed)
    tally.skipped.update(skipped if isinstance(skipped, dict) else {})


def add_junit(run: Run, suite: ElementTree.Element) -> None:
    """Add the tests of a JUnit file."""
    # What was run again is there twice: its last run counts.
    cases = {(case.get("classname"), case.get("name")): case for case in suite.iter("testcase")}
    for case in cases.values():
        module = case.get("classname", "")
        package = next((name for name in NETS if module.startswith(f"{name}.")), "")
        loop = loop_of(case.get("name", ""))
        if package == "tests.frameworks":
            name = re.sub(r".*\.test_(\w+).*", r"\1", module).replace("_", " ")
            add_case(run.suites[name, loop or "oxloop"], case)
        if loop in ("", "oxloop"):
            add_case(run.nets[NETS.get(package, BEHAVIOUR)], case)


def add_case(tally: Tally, case: ElementTree.Element) -> None:
    """Add one test."""
    problem = case.find("failure")
    if problem is None:
        problem = case.find("error")
    skipped = case.find("skipped")
    if problem is not None:
        tally.failed.append(f"{case.get('classname')}::{case.get('name')}")
    elif skipped is not None:
        tally.skipped[skipped.get("message") or "no reason given"] += 1
    else:
        tally.passed += 1
    for found in case.iterfind("properties/property"):
        tally.numbers[found.get("name", "")] += int(found.get("value", 0))


def loop_of(name: str) -> str:
    """The loop that the parameters of a test name; oxloop where they name both, "" for none."""
    _, _, parameters = name.partition("[")
    words = {word.removeprefix("on_") for word in re.split(r"[-\[\]]", parameters)}
    return next((loop for loop in ("oxloop", "asyncio") if loop in words), "")


def module_of(spec: str) -> str:
    """The module part of `module:factory`."""
    return spec.partition(":")[0]


def table(rows: Iterable[tuple[str, Iterable[str]]], runs: Mapping[str, Run]) -> Iterator[str]:
    """A Markdown table with a column for each Python."""
    names = [run.version for run in runs.values()]
    yield f"| | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for name, cells in rows:
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def text(runs: Mapping[str, Run]) -> str:
    """All tables."""
    parts = nets, random_scripts, suites, upstream, skips, failures
    return "\n".join(line for part in parts for line in part(runs))


def nets(runs: Mapping[str, Run]) -> Iterator[str]:
    """Python by net, and the numbers of the differential traces."""
    found = {net for run in runs.values() for net in run.nets}
    known = [net for net in ORDER if net in found or net == CONFORMANCE]
    yield "## Every Python\n\nPassed / skipped / failed, on oxloop.\n"
    rows = [
        (net, [str(run.nets[net]) if net in run.nets else "not run" for run in runs.values()])
        for net in [*known, *sorted(found.difference(ORDER))]
    ]
    for number in ("cases", "events", "explained"):
        counts = [run.nets.get(TRACES, Tally()).numbers[number] for run in runs.values()]
        if any(counts):
            name = {"cases": "scripts compared", "events": "events in them"}.get(number)
            rows.append(
                (f"Traces: {name or 'differences explained'}", [str(n or "-") for n in counts])
            )
    yield from table(rows, runs)


def random_scripts(runs: Mapping[str, Run]) -> Iterator[str]:
    """What came of the random scripts, and how often a rule explained a difference."""
    yield "## Random scripts\n\nOn asyncio and on oxloop, compared (`make fuzz`).\n"
    rows = [
        (name, [str(run.random.get(name, "not run")) for run in runs.values()])
        for name in ("scripts", "events", "unsteady", "unexplained")
    ]
    rules = sorted({rule for run in runs.values() for rule in run.random.get("explained", {})})
    for rule in rules:
        counts = [run.random.get("explained", {}).get(rule, "-") for run in runs.values()]
        rows.append((f"explained by {rule}", [str(count) for count in counts]))
    yield from table(rows, runs)


def suites(runs: Mapping[str, Run]) -> Iterator[str]:
    """Each suite of real programs, asyncio beside oxloop."""
    found = {label: run.suites for label, run in runs.items()}
    if any(found.values()):
        yield "## Real programs, suite by suite\n\nPassed / skipped / failed.\n"
        yield from table(beside(found, str), runs)


def upstream(runs: Mapping[str, Run]) -> Iterator[str]:
    """The suites of other projects, and why tests of them fail or are no proof."""
    found = {label: run.upstream for label, run in runs.items()}
    if not any(found.values()):
        return
    yield "## The suites of other projects\n\nPassed / skipped / expected failures / failed.\n"
    yield from table(beside(found, with_expected), runs)
    tallies = [
        (run.version, f"{name} on {loop}", tally)
        for run in runs.values()
        for (name, loop), tally in run.upstream.items()
    ]
    for title, names in (
        ("Expected failures, and why", expected_failures(runs)),
        (
            "Failed",
            [f"- {on}, {name}: `{test}`" for on, name, tally in tallies for test in tally.failed],
        ),
        (
            "Passed only when run again, alone",
            [f"- {on}, {name}: `{test}`" for on, name, tally in tallies for test in tally.unsteady],
        ),
    ):
        if names:
            yield "\n".join([f"### {title}\n", *names, ""])


def expected_failures(runs: Mapping[str, Run]) -> list[str]:
    """A line for each test, with the Pythons on which it fails."""
    pythons = defaultdict(list)
    for run in runs.values():
        for (name, _), tally in run.upstream.items():
            for test, reason in tally.expected.items():
                pythons[name, test, reason].append(run.version)
    return [
        f"- {name}: `{test}`: {escape(reason)} ({', '.join(versions)})"
        for (name, test, reason), versions in sorted(pythons.items())
    ]


def with_expected(tally: Tally) -> str:
    """The counts of an upstream suite."""
    counts = tally.passed, tally.skipped.total(), len(tally.expected), len(tally.failed)
    return " / ".join(map(str, counts))


def beside(
    found: Mapping[str, Mapping[tuple[str, str], Tally]], show: Callable[[Tally], str]
) -> list[tuple[str, list[str]]]:
    """Rows: asyncio, then oxloop, of each suite."""
    return [
        (
            f"{name}, on {loop}",
            [show(by[name, loop]) if (name, loop) in by else "-" for by in found.values()],
        )
        for name in sorted({name for by in found.values() for name, _ in by})
        for loop in ("asyncio", "oxloop")
        if any((name, loop) in by for by in found.values())
    ]


def skips(runs: Mapping[str, Run]) -> Iterator[str]:
    """The reasons of what is skipped, net by net."""
    yield "## Skipped, and why\n"
    for net in sorted({net for run in runs.values() for net in run.nets}):
        counts = [run.nets[net].skipped if net in run.nets else None for run in runs.values()]
        reasons = sorted({reason for count in counts if count for reason in count})
        if reasons:
            yield f"### {net}\n"
            rows = (
                (escape(reason), ["-" if count is None else str(count[reason]) for count in counts])
                for reason in reasons
            )
            yield from table(rows, runs)


def failures(runs: Mapping[str, Run]) -> Iterator[str]:
    """The names of what failed."""
    names = [
        f"- {run.version}, {net}: `{name}`"
        for run in runs.values()
        for net, tally in run.nets.items()
        for name in tally.failed
    ]
    if names:
        yield "\n".join(["## Failed\n", *names, ""])


def escape(reason: str) -> str:
    """A reason on one line of a table."""
    return " ".join(reason.replace("|", "\\|").split()).replace("<", "&lt;")


def order(label: str) -> tuple[int, str]:
    """Sorts 3.9 before 3.10 before 3.10t."""
    minor = label.partition(".")[2]
    return int(minor.rstrip("dt")), minor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="with a folder of results for each Python")
    parser.add_argument("--update", type=Path, help="put the tables between the marks of this file")
    options = parser.parse_args()
    present = {path.name for path in options.folder.glob("3.*") if path.is_dir()}
    labels = sorted(present.union(VERSIONS), key=order)
    made = text({label: load(options.folder / label) for label in labels})
    if not options.update:
        print(made)
        return
    document = options.update.read_text("utf-8")
    before, _, rest = document.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{options.update}: no marks {BEGIN} {END}")
    options.update.write_text(f"{before}{BEGIN}\n\n{made}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
