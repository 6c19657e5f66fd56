"""Runs CPython's asyncio tests on a loop: ``python -m tests.conformance --help``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import report
from .modules import SUITE, choose
from .processes import Options, run_module
from .retarget import LoopFactory

_STDLIB_FACTORY = "asyncio:SelectorEventLoop"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="Run CPython's own asyncio tests, those of the running interpreter, on a loop.",
    )
    parser.add_argument("modules", nargs="*", help="test_tasks ... (all of them if none is given)")
    parser.add_argument("--factory", default="oxloop:new_event_loop", help="the loop under test")
    parser.add_argument(
        "--baseline",
        action="store_true",
        help="run on asyncio's own loop; the skips are those of asyncio alone",
    )
    parser.add_argument("--required", action="store_true", help="leave the extra modules out")
    parser.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the skipped tests too, and fail if one of them passes (default)",
    )
    parser.add_argument("-k", dest="only", default="", help="tests whose id contains this")
    parser.add_argument("-j", dest="jobs", type=int, default=2, help="modules at a time (2)")
    parser.add_argument("--test-timeout", type=float, default=30, help="seconds for one test (30)")
    parser.add_argument(
        "--module-timeout", type=float, default=300, help="seconds for one module (300)"
    )
    parser.add_argument("--json", type=Path, help="write the counts into this file")
    parser.add_argument("-v", "--verbose", action="store_true", help="name every skipped test")
    arguments = parser.parse_args()
    if arguments.baseline:
        arguments.factory = _STDLIB_FACTORY
    return arguments


def main() -> int:
    """Run it; 0 when nothing failed, 1 when something did, 2 when the loop cannot be had."""
    arguments = _arguments()
    try:
        LoopFactory(arguments.factory)().close()
    except Exception as error:
        print(f"no loop from {arguments.factory}: {error!r}", file=sys.stderr)
        return 2
    if importlib.util.find_spec("test") is None or importlib.util.find_spec(SUITE) is None:
        print("this Python comes without CPython's own tests", file=sys.stderr)
        return 2
    options = Options(
        factory=arguments.factory,
        baseline=arguments.baseline,
        strict=arguments.strict,
        only=arguments.only,
        test_timeout=arguments.test_timeout,
        module_timeout=arguments.module_timeout,
    )
    chosen = choose(arguments.modules, arguments.required)
    print(
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"loop {arguments.factory}, {len(chosen)} modules"
    )
    started = time.monotonic()
    results = []
    with ThreadPoolExecutor(max(1, min(arguments.jobs, os.cpu_count() or 1))) as pool:
        for result in pool.map(lambda module: run_module(module, options), chosen):
            report.print_module(result, verbose=arguments.verbose)
            results.append(result)
    whole = not arguments.modules and not arguments.required and not arguments.only
    print(f"{time.monotonic() - started:.0f} s")
    failed = report.failures(results, check_entries=whole and arguments.strict)
    if arguments.json:
        report.write_json(arguments.json, results, failed, arguments.factory)
    return report.print_total(results, failed)


if __name__ == "__main__":
    sys.exit(main())
