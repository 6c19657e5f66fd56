"""Runs one test module in a process of its own, and in another one when a test takes it down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import skips
from .modules import Module

__all__ = ["ModuleResult", "Options", "TestResult", "kill_session", "run_module"]

#: So many tests may hang or crash before the rest of their module is given up.
_MAX_DEATHS = 5


@dataclass(frozen=True)
class Options:
    """What the command line asked for; times in seconds."""

    factory: str
    baseline: bool
    strict: bool
    only: str
    test_timeout: float
    module_timeout: float


@dataclass
class TestResult:
    """One test: ``passed``, ``failed`` or ``skipped``, why, and the loops that it made.

    `listed` is the entry of the skip list that decided, if one did.
    """

    name: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0
    made: int = 0
    white_box: int = 0
    stock: int = 0
    listed: skips.Skip | None = None


@dataclass
class ModuleResult:
    """All tests of one module."""

    module: Module
    tests: list[TestResult] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def named(self, outcome: str) -> list[TestResult]:
        """The tests that ended so."""
        return [test for test in self.tests if test.outcome == outcome]


def run_module(module: Module, options: Options) -> ModuleResult:
    """Run all tests of `module` and judge them by the skip list."""
    started = time.monotonic()
    run = _Run(module, options, deadline=started + options.module_timeout)
    run.to_the_end(listed=False)
    if run.later:
        run.to_the_end(listed=True)
    result = ModuleResult(module, kinds=run.kinds)
    result.tests = [_judge(name, fields, options) for name, fields in run.raw.items()]
    if not any(test.made for test in result.tests) and result.named("passed"):
        result.tests.append(
            TestResult(module.name, "failed", "no loop of the loop under test was ever made")
        )
    result.seconds = time.monotonic() - started
    return result


def _judge(name: str, fields: dict[str, Any], options: Options) -> TestResult:
    """Apply the skip list and the checks on the retargeting to what the worker saw."""
    test = TestResult(name, **fields)
    skip = skips.find(name, stdlib=options.baseline)
    if test.outcome == "not run":
        test.outcome, test.listed = "skipped", skip
    elif skip is not None and test.outcome != "skipped":
        test.listed = skip
        if test.outcome == "failed":
            test.outcome, test.detail = "skipped", skip.reason
        else:
            test.outcome = "failed"
            test.detail = f"passes: take it off the skip list ({skip.reason})"
    elif test.stock and test.outcome == "passed":
        test.outcome = "failed"
        test.detail = f"ran on {test.stock} stdlib loop(s): not retargeted"
    return test


class _Run:
    """The processes of one module, and what they have told so far.

    Attributes:
        raw: the fields of each finished test, by name; of one that took its process down, too.
        kinds: the classes of the loops under test.
        later: whether there are tests on the skip list, to be run in another process.
    """

    def __init__(self, module: Module, options: Options, deadline: float) -> None:
        self._module = module
        self._options = options
        self._deadline = deadline
        self.raw: dict[str, dict[str, Any]] = {}
        self.kinds: set[str] = set()
        self.later = False

    def to_the_end(self, listed: bool) -> None:
        """Run the tests that are on the skip list, or those that aren't."""
        for _ in range(_MAX_DEATHS):
            if self._process(listed):
                return
            if time.monotonic() >= self._deadline:
                break
        self._fail(f"{self._module.name} (the rest)", "not run: too many tests hung or crashed")

    def _process(self, listed: bool) -> bool:
        """Run what is not done yet in a new process; True when it came to its end."""
        with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
            results, log = Path(folder, "results"), Path(folder, "log")
            config = {
                **asdict(self._options),
                "module": asdict(self._module),
                "listed": listed,
                "results": str(results),
                "seen": list(self.raw),
            }
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", f"{__package__}.worker", json.dumps(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=folder,  # the tests leave files where they are
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
                    start_new_session=True,
                )
                try:
                    status: int | None = process.wait(self._deadline - time.monotonic())
                except subprocess.TimeoutExpired:
                    status = None
                finally:
                    kill_session(process)
            running, ended = self._read(results)
            if ended and status == 0:
                return True
            tail = _tail(log)
            self._fail(
                running or f"{self._module.name} (process)",
                f"{_cause_of_death(status, tail)}; its last output:\n{tail}",
            )
            return ended or running is None

    def _read(self, results: Path) -> tuple[str | None, bool]:
        """Take a worker's lines; which test was running at the end, and if it came to the end."""
        running, ended = None, False
        for line in results.read_text("utf-8").splitlines() if results.exists() else ():
            fields = json.loads(line)
            event = fields.pop("event")
            if event == "start":
                running = fields["test"]
            elif event == "done":
                self.raw[fields.pop("test")] = fields
                running = None
            elif event == "later":
                self.later = True
            else:
                self.kinds.update(fields["kinds"])
                ended = True
        return running, ended

    def _fail(self, name: str, detail: str) -> None:
        self.raw[name] = {"outcome": "failed", "detail": detail}


def _cause_of_death(status: int | None, output: str) -> str:
    if status is None:
        return "hung: the module's time was up"
    if status < 0:
        return f"crashed: {signal.Signals(-status).name}"
    if "Timeout (" in output:  # faulthandler's watchdog
        return "hung"
    return f"left the process with status {status}"


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


def _import_path() -> list[str]:
    """Where this package and the loop under test are found, whatever the worker's folder is."""
    return [str(Path(__file__).parents[2]), *(os.path.abspath(entry) for entry in sys.path)]


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever its tests started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
