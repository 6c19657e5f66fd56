"""One run of a suite on one loop: in a process, and in another one when a test takes it down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.processes import kill_session

from .environments import Environment
from .suites import Suite

__all__ = ["LOOPS", "Outcome", "Session", "run", "run_again"]

LOOPS = {"asyncio": "asyncio:SelectorEventLoop", "oxloop": "oxloop:EventLoop"}
"""The class of each loop."""

_INSIDE = Path(__file__).parent / "inside"
_MAX_DEATHS = 8
"""So many tests may hang or crash before the rest of the suite is given up."""
_SESSION_TIMEOUT = 1800
"""Seconds for one process."""
_AGAIN = 2
"""How often a test that failed is run again, alone."""


@dataclass
class Outcome:
    """What came of one test: ``passed``, ``failed``, ``skipped`` or ``left out``, and why.

    `made` counts the loops under test that it made, `stock` those of asyncio beside them.
    """

    outcome: str
    detail: str = ""
    made: int = 0
    stock: int = 0


@dataclass
class Session:
    """What came of all tests of a suite, by name.

    `unsteady` are those that passed only when they were run again, and what they failed with first;
    `problems` is what went wrong outside of a test.
    """

    tests: dict[str, Outcome] = field(default_factory=dict)
    unsteady: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def named(self, *outcomes: str) -> list[str]:
        """The tests that ended so."""
        return [name for name, test in self.tests.items() if test.outcome in outcomes]

    @property
    def made(self) -> int:
        """The loops under test that were made."""
        return sum(test.made for test in self.tests.values())


def run(
    suite: Suite,
    environment: Environment,
    loop: str,
    log: Path,
    only: Collection[str] = (),
    matching: str = "",
) -> Session:
    """Run the suite on a loop of `LOOPS`; pytest's output is appended to `log`.

    Args:
        only: run these tests alone.
        matching: run the tests alone whose name contains this.
    """
    session = Session()
    choice = {
        "loop": LOOPS[loop],
        "timeout": suite.timeout,
        "left_out": dict(suite.left_out),
        "only": list(only),
        "matching": matching,
    }
    for _ in range(_MAX_DEATHS):
        if _process(suite, environment, choice, log, session):
            return session
    session.problems.append("given up: too many tests hung or crashed")
    return session


def run_again(
    suite: Suite,
    environment: Environment,
    loop: str,
    log: Path,
    session: Session,
    names: Collection[str],
) -> None:
    """Run these tests of a session again, alone, `_AGAIN` times at most; it takes what passes."""
    for _ in range(_AGAIN):
        names = [name for name in names if name not in session.unsteady]
        if not names:
            return
        again = run(suite, environment, loop, log, only=names)
        for name in again.named("passed"):
            before = session.tests.get(name)
            session.unsteady[name] = before.detail if before else "not run"
            session.tests[name] = again.tests[name]


def _process(
    suite: Suite,
    environment: Environment,
    choice: Mapping[str, object],
    log: Path,
    session: Session,
) -> bool:
    """Run what is not done yet in a new process; True when there is nothing more to run."""
    with tempfile.TemporaryDirectory(prefix="upstream-") as folder:
        results = Path(folder, "results")
        config = {**choice, "results": str(results), "seen": list(session.tests)}
        command = [str(environment.python), "-m", "pytest", "-p", "oxloop_upstream"]
        # There is one such timer in a process, and it is the plugin's.
        command += ["-o", "faulthandler_timeout=0"]
        command += ["-o", "addopts=", "-p", "no:cacheprovider", "--tb=short", *suite.options]
        command += suite.paths
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=environment.source,
                env=_variables(suite, environment, json.dumps(config), folder),
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(_SESSION_TIMEOUT)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                kill_session(process)
        running, end = _read(results, session)
    if running is not None:
        session.tests[running] = Outcome("failed", _cause_of_death(status))
        return False
    if end is None:
        session.problems.append(f"pytest did not run: {_cause_of_death(status)}; see {log}")
    elif status not in (0, 1, 5):  # passed, some failed, none found
        session.problems.append(f"pytest: {_cause_of_death(status)}; see {log}")
    return True


def _variables(suite: Suite, environment: Environment, config: str, folder: str) -> dict[str, str]:
    """The environment variables of the tests."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    return {
        **kept,
        "OXLOOP_UPSTREAM": config,
        "PATH": f"{environment.python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(_INSIDE),
        "TMPDIR": folder,
        "VIRTUAL_ENV": str(environment.python.parents[1]),
        **suite.environment,
    }


def _read(results: Path, session: Session) -> tuple[str | None, int | None]:
    """Take a process's lines; the test that was running at the end, and pytest's status."""
    running, status = None, None
    for line in results.read_text("utf-8").splitlines() if results.exists() else ():
        fields = json.loads(line)
        event = fields.pop("event")
        if event == "start":
            running = fields["test"]
        elif event == "done":
            name = fields.pop("test")
            session.tests[name] = Outcome(**fields)
            running = None
        else:
            status = fields["status"]
    return running, status


def _cause_of_death(status: int | None) -> str:
    if status is None:
        return "hung: the time of the process was up"
    if status < 0:
        return f"crashed: {signal.Signals(-status).name}"
    return f"hung, or left the process: status {status}"
