"""Runs the suites of other projects: ``python -m tests.frameworks.upstream --help``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from . import report, sessions
from .environments import BUILD, prepare
from .sessions import LOOPS, Session
from .suites import SUITES, Suite


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.frameworks.upstream",
        description="Run the test suites of other projects on asyncio and on oxloop, and compare.",
    )
    names = [suite.name for suite in SUITES]
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(names)} (all if none is given)")
    parser.add_argument("-k", dest="only", default="", help="tests whose name contains this")
    parser.add_argument("--json", type=Path, help="put the counts of whole suites into this file")
    arguments = parser.parse_args()
    unknown = set(arguments.suites).difference(names)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}")
    return arguments


def main() -> int:
    """Run them; 0 when whatever passes on asyncio passes on oxloop, else 1."""
    arguments = _arguments()
    status = 0
    for suite in SUITES:
        if arguments.suites and suite.name not in arguments.suites:
            continue
        if sys.version_info < suite.since:
            print(f"{suite.title}: not for this Python")
            continue
        started = time.monotonic()
        try:
            good = _run(suite, arguments.only, arguments.json)
        except (LookupError, OSError) as error:
            print(f"{suite.title}: NOT RUN: {error}")
            good = False
        except subprocess.CalledProcessError as error:
            print(f"{suite.title}: NOT RUN: {' '.join(error.cmd)}\n{error.output}")
            good = False
        print(f"    {time.monotonic() - started:.0f} s", flush=True)
        status = status if good else 1
    return status


def _run(suite: Suite, only: str, results: Path | None) -> bool:
    """Run one suite on both loops; whether oxloop does as well."""
    environment = prepare(suite)
    logs = BUILD / "upstream" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    done: dict[str, Session] = {}
    for loop in LOOPS:
        log = logs / f"{suite.name}-{sys.version_info[0]}.{sys.version_info[1]}-{loop}.log"
        log.unlink(missing_ok=True)
        done[loop] = sessions.run(suite, environment, loop, log, matching=only)
    verdict = report.compare(suite, done["asyncio"], done["oxloop"], whole=not only)
    for loop, names in verdict.doubtful(done).items():
        log = logs / f"{suite.name}-{sys.version_info[0]}.{sys.version_info[1]}-{loop}-again.log"
        log.unlink(missing_ok=True)
        sessions.run_again(suite, environment, loop, log, done[loop], names)
    verdict = report.compare(suite, done["asyncio"], done["oxloop"], whole=not only)
    report.print_verdict(suite, done, verdict)
    if results and not only:
        report.write(results, report.counts(suite, done, verdict))
    return verdict.good


if __name__ == "__main__":
    sys.exit(main())
