"""What the runner prints."""

from __future__ import annotations

import json
import platform
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

from . import skips
from .processes import ModuleResult, TestResult

__all__ = ["failures", "print_module", "print_total", "write_json"]


def print_module(result: ModuleResult, verbose: bool) -> None:
    """One line for the module, its skips by reason, its failures in full."""
    counts = [len(result.named(outcome)) for outcome in ("passed", "failed", "skipped")]
    ran = [test for test in result.tests if test.outcome != "skipped"]
    white_box = sum(1 for test in ran if test.white_box)
    on_loop = sum(1 for test in ran if test.made and not test.white_box)
    print(
        f"{result.module.name:24}{counts[0]:4} passed {counts[1]:3} failed {counts[2]:3} skipped"
        f"   {sum(test.made for test in result.tests):4} loops of {_kinds(result)}"
        f" in {on_loop} tests, {white_box} on TestLoop, {len(ran) - on_loop - white_box} on none"
        f"   {result.seconds:.1f} s"
    )
    reasons = Counter(test.detail for test in result.named("skipped"))
    for reason, number in sorted(reasons.items()):
        print(f"    {number:4} skipped: {reason}")
        if verbose:
            for test in result.named("skipped"):
                if test.detail == reason:
                    print(f"           {test.name}")
    for test in result.named("failed"):
        _print_failure(test)


def failures(results: list[ModuleResult], check_entries: bool) -> list[str]:
    """The names of the tests that failed.

    Args:
        results: of all modules.
        check_entries: take in the entries of the skip list that match none of the tests.
    """
    failed = [test.name for result in results for test in result.named("failed")]
    return failed + _stale_entries(results) if check_entries else failed


def print_total(results: list[ModuleResult], failed: list[str]) -> int:
    """The failures once more by name, then the totals; the exit status."""
    if failed:
        print("\nfailed:")
        for name in failed:
            print(f"    {name}")
    passed, skipped = (_count(results, outcome) for outcome in ("passed", "skipped"))
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


def write_json(path: Path, results: list[ModuleResult], failed: list[str], factory: str) -> None:
    """Write the counts as `scripts/compatibility.py` reads them."""
    skipped = [test.detail for result in results for test in result.named("skipped")]
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = {
        "net": "CPython's own tests",
        "python": platform.python_version(),
        "loop": factory,
        "passed": _count(results, "passed"),
        "failed": failed,
        "skipped": Counter(skipped),
    }
    path.write_text(json.dumps(counts, indent=1) + "\n", "utf-8")


def _count(results: list[ModuleResult], outcome: str) -> int:
    return sum(len(result.named(outcome)) for result in results)


def _stale_entries(results: list[ModuleResult]) -> list[str]:
    names = [test.name for result in results for test in result.tests]
    expected = [skip for skip in skips.SKIPS if skip.applies() and skip.everywhere]
    patterns = [pattern for skip in expected for pattern in skip.tests]
    return [
        f"on a list in skips.py, and there is no such test: {pattern}"
        for pattern in (*patterns, *skips.ON_TEST_LOOP)
        if not any(fnmatchcase(name, pattern) for name in names)
    ]


def _kinds(result: ModuleResult) -> str:
    return ", ".join(sorted(result.kinds)) or "the loop under test"


def _print_failure(test: TestResult) -> None:
    print(f"  FAILED {test.name}")
    for line in test.detail.rstrip().splitlines():
        print(f"    | {line}")
