"""Adds up the summary lines of the test runners in a log: `test_summary.py LOG EXIT_STATUS`.

Prints a line for each runner and, last, `N passed, N failed`. A step that failed without a failed
test (a lint, a build) counts as one.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

RUNNERS = {
    "cargo": re.compile(r"^test result: \w+\. .*"),
    "pytest": re.compile(r"^=+ .*\b(?:passed|failed|errors?|skipped|deselected)\b.* in [\d.]+s.*"),
    "conformance": re.compile(r"^\d+ passed, \d+ failed, \d+ skipped$"),
}
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|ignored|xfailed|rerun)\b")


def count(log: str, summary: re.Pattern[str]) -> Counter[str]:
    """The outcomes in all lines that match `summary`."""
    total: Counter[str] = Counter(passed=0, failed=0)
    for line in log.splitlines():
        if summary.match(line):
            for number, outcome in COUNT.findall(line):
                total["failed" if outcome.startswith("error") else outcome] += int(number)
    return total


def main() -> None:
    log, status = Path(sys.argv[1]).read_text(errors="replace"), int(sys.argv[2])
    totals = {name: count(log, summary) for name, summary in RUNNERS.items()}
    for name, total in totals.items():
        print(f"{name}: " + ", ".join(f"{number} {what}" for what, number in total.items()))
    passed = sum(total["passed"] for total in totals.values())
    failed = sum(total["failed"] for total in totals.values())
    if status and not failed:
        print("a step failed that is not a test: see above")
        failed = 1
    print(f"{passed} passed, {failed} failed")


if __name__ == "__main__":
    main()
