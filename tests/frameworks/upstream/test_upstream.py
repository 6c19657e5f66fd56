"""The runner itself: what it must never let through, shown on small suites of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from . import sessions
from .environments import Environment
from .report import Verdict, compare, counts, write
from .sessions import Outcome, Session
from .suites import SUITES, Suite, covers

_SUITE = Suite(name="sample", version="1", paths=("test_it.py",), timeout=10)


def _session(loop: str, folder: Path, source: str, suite: Suite = _SUITE) -> Session:
    """Run a suite of one file in this environment."""
    (folder / "test_it.py").write_text(f"import asyncio, os, time, pytest\n{source}", "utf-8")
    (folder / "pytest.ini").touch()
    environment = Environment(folder, Path(sys.executable))
    return sessions.run(suite, environment, loop, folder / "log")


def _outcomes(session: Session) -> dict[str, str]:
    assert not session.problems
    return {name.partition("::")[2]: test.outcome for name, test in session.tests.items()}


@pytest.mark.parametrize("loop", sessions.LOOPS)
def test_every_way_to_a_loop_leads_to_the_one_under_test(loop: str, tmp_path: Path) -> None:
    session = _session(
        loop,
        tmp_path,
        f"""
MODULE = {sessions.LOOPS[loop].partition(":")[0]!r}

def is_right(loop):
    loop.close()
    return type(loop).__module__.startswith(MODULE)

async def running():
    return type(asyncio.get_running_loop()).__module__

def test_new_event_loop():
    assert is_right(asyncio.new_event_loop())

def test_class():
    assert is_right(asyncio.SelectorEventLoop())

def test_run():
    assert asyncio.run(running()).startswith(MODULE)

def test_none():
    pass
""",
    )
    assert _outcomes(session) == {
        "test_new_event_loop": "passed",
        "test_class": "passed",
        "test_run": "passed",
        "test_none": "passed",
    }
    assert [test.made for test in session.tests.values()] == [1, 1, 1, 0]
    assert not any(test.stock for test in session.tests.values())


def test_a_stock_loop_beside_is_counted(tmp_path: Path) -> None:
    source = """
from asyncio.unix_events import _UnixSelectorEventLoop

def test_it():
    _UnixSelectorEventLoop().close()
"""
    session = _session("oxloop", tmp_path, source)
    (test,) = session.tests.values()
    assert (test.outcome, test.made, test.stock) == ("passed", 0, 1)


def test_a_hang_or_a_crash_is_a_failure_and_the_rest_is_run(tmp_path: Path) -> None:
    session = _session(
        "oxloop",
        tmp_path,
        """
def test_hangs():
    time.sleep(100)

def test_crashes():
    os.abort()

def test_passes():
    pass

@pytest.fixture
def fails_at_the_end():
    yield
    assert False

def test_fails_at_the_end(fails_at_the_end):
    pass

def test_skipped():
    pytest.skip("why")

def test_left_out():
    assert False
""",
        replace(_SUITE, timeout=2, left_out={"test_it.py::test_left_out": "no network"}),
    )
    assert _outcomes(session) == {
        "test_hangs": "failed",
        "test_crashes": "failed",
        "test_passes": "passed",
        "test_fails_at_the_end": "failed",
        "test_skipped": "skipped",
        "test_left_out": "left out",
    }
    assert "SIGABRT" in session.tests["test_it.py::test_crashes"].detail
    assert session.tests["test_it.py::test_skipped"].detail == "why"


def test_what_failed_is_run_again(tmp_path: Path) -> None:
    source = """
from pathlib import Path

def test_unsteady():
    assert Path("here").exists() or Path("here").touch()

def test_bad():
    assert False

def test_good():
    pass
"""
    session = _session("oxloop", tmp_path, source)
    verdict = compare(_SUITE, Session(), session)
    names = verdict.doubtful({"asyncio": Session(), "oxloop": session})["oxloop"]
    assert names == ["test_it.py::test_unsteady", "test_it.py::test_bad"]
    environment = Environment(tmp_path, Path(sys.executable))
    sessions.run_again(_SUITE, environment, "oxloop", tmp_path / "log", session, names)
    assert list(session.unsteady) == ["test_it.py::test_unsteady"]
    assert _outcomes(session) == {
        "test_unsteady": "passed",
        "test_bad": "failed",
        "test_good": "passed",
    }


def test_a_suite_that_cannot_be_run_is_a_problem(tmp_path: Path) -> None:
    assert _session("oxloop", tmp_path, "import no_such_module").problems
    assert _session("oxloop", tmp_path, "", replace(_SUITE, paths=("missing.py",))).problems


def _sessions(**outcomes: str) -> dict[str, Session]:
    """Sessions from `name="outcome on asyncio, outcome on oxloop"`."""
    made: dict[str, Session] = {"asyncio": Session(), "oxloop": Session()}
    for session in made.values():
        session.tests["f.py::ok"] = Outcome("passed", made=1)
    for name, pair in outcomes.items():
        for session, outcome in zip(made.values(), pair.split(", "), strict=True):
            if outcome != "missing":
                session.tests[f"f.py::{name}"] = Outcome(outcome)
    return made


def _verdict(suite: Suite = _SUITE, **outcomes: str) -> Verdict:
    return compare(suite, **_sessions(**outcomes))


@pytest.mark.parametrize("outcome", ["failed", "skipped", "missing"])
def test_a_test_that_does_worse_is_named(outcome: str) -> None:
    verdict = _verdict(bad=f"passed, {outcome}", both="failed, failed", better="failed, passed")
    assert verdict.worse == ["f.py::bad"]
    assert not verdict.good


def test_expected_failures_are_strict() -> None:
    suite = replace(_SUITE, expected={"f.py::known": "why"})
    assert _verdict(suite, known="passed, failed").good
    assert _verdict(suite, known="passed, failed").expected == {"f.py::known": "why"}
    assert not _verdict(suite, known="passed, passed").good
    assert not _verdict(suite).good  # there is no such test
    assert not _verdict(replace(_SUITE, left_out={"f.py::other": "why"})).good


def test_the_counts_are_added_to_those_of_other_suites(tmp_path: Path) -> None:
    made = _sessions(both="failed, failed", known="passed, failed", out="skipped, skipped")
    verdict = compare(replace(_SUITE, expected={"f.py::known": "why"}), **made)
    path = tmp_path / "3.14" / "upstream.json"
    for suite in (replace(_SUITE, name="other"), _SUITE, replace(_SUITE, version="2")):
        write(path, counts(suite, made, verdict))
    entries = json.loads(path.read_text("utf-8"))
    assert [(entry["suite"], entry["loop"]) for entry in entries] == [
        ("other 1", "asyncio"),
        ("other 1", "oxloop"),
        ("sample 2", "asyncio"),
        ("sample 2", "oxloop"),
    ]
    asyncio, oxloop = entries[2:]
    assert (asyncio["passed"], oxloop["passed"]) == (2, 1)
    assert asyncio["failed"] == oxloop["failed"] == ["f.py::both"]
    assert (asyncio["expected"], oxloop["expected"]) == ({}, {"f.py::known": "why"})


def test_the_loop_must_have_been_used() -> None:
    made = _sessions()
    assert compare(_SUITE, **made).good
    made["oxloop"].tests["f.py::ok"].stock = 1
    assert not compare(_SUITE, **made).good
    made = _sessions()
    made["oxloop"].tests["f.py::ok"].made = 0
    assert not compare(_SUITE, **made).good


def test_entries_cover_whole_names() -> None:
    for name in ("a.py", "a.py::T", "a.py::T::test", "a.py::T::test[1]"):
        assert covers(name, "a.py::T::test[1]")
    for name in ("a", "a.py::T::tes", "a.py::T::test[", "a.py::T::test[1]x"):
        assert not covers(name, "a.py::T::test[1]")


def test_the_table_is_sound() -> None:
    assert len({suite.name for suite in SUITES}) == len(SUITES)
    for suite in SUITES:
        assert all([*suite.left_out.values(), *suite.expected.values()]), suite.name
        assert not set(suite.left_out).intersection(suite.expected), suite.name
