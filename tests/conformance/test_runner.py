"""The runner itself: what it must never let through, shown on small modules of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("test.test_asyncio", reason="this Python comes without CPython's own tests")

_ROOT = Path(__file__).parents[2]
_STDLIB = "asyncio:SelectorEventLoop"


def _run(folder: Path, *arguments: str, factory: str = _STDLIB) -> tuple[int, str]:
    """Run the runner; its exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "--factory", factory, *arguments],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _run_module(folder: Path, source: str, *arguments: str) -> tuple[int, str]:
    """Run a module with one test case, the body of which is `source`."""
    body = textwrap.indent(textwrap.dedent(source), "    ")
    module = folder / "sample_for_runner.py"
    module.write_text(f"import asyncio, os, time, unittest\nclass T(unittest.TestCase):\n{body}")
    return _run(folder, "sample_for_runner", *arguments)


def _last_line(output: str) -> str:
    return output.splitlines()[-1]


_PASSES = """
    def test_z_passes(self):
        asyncio.run(asyncio.sleep(0))
"""


def test_counts_and_status(tmp_path: Path) -> None:
    source = """
        def test_a_fails(self):
            self.fail("on purpose")
        def test_b_skips(self):
            self.skipTest("for a reason")
        def test_c_fails_in_part(self):
            with self.subTest(part=1):
                self.fail("in part")
        def test_z_passes(self):
            asyncio.run(asyncio.sleep(0))
    """
    status, output = _run_module(tmp_path, source)
    assert status == 1
    assert _last_line(output) == "1 passed, 2 failed, 1 skipped"
    assert "FAILED sample_for_runner.T.test_a_fails" in output
    assert "1 skipped: for a reason" in output
    assert "1 loops of asyncio.unix_events._UnixSelectorEventLoop" in output


def test_all_passed(tmp_path: Path) -> None:
    status, output = _run_module(tmp_path, _PASSES)
    assert (status, _last_line(output)) == (0, "1 passed, 0 failed, 0 skipped"), output


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("time.sleep(1000)", "hung"),
        ("os.abort()", "crashed: SIGABRT"),
        ("os._exit(0)", "left the process with status 0"),
    ],
)
def test_a_test_that_takes_the_process_down(tmp_path: Path, statement: str, cause: str) -> None:
    source = f"""
    def test_a_dies(self):
        {statement}
    {_PASSES}"""
    status, output = _run_module(tmp_path, source, "--test-timeout", "2")
    assert status == 1
    assert f"FAILED sample_for_runner.T.test_a_dies\n    | {cause}" in output
    assert _last_line(output) == "1 passed, 1 failed, 0 skipped"


def test_module_timeout(tmp_path: Path) -> None:
    source = "def test_a_dies(self):\n    time.sleep(1000)\n"
    status, output = _run_module(tmp_path, source, "--module-timeout", "3")
    assert status == 1
    assert "FAILED sample_for_runner.T.test_a_dies\n    | hung: the module's time" in output
    assert "FAILED sample_for_runner (the rest)" in output


def test_what_comes_out_of_a_test_ends_only_that_test(tmp_path: Path) -> None:
    source = f"""
    def test_a_interrupts(self):
        raise KeyboardInterrupt
    {_PASSES}"""
    status, output = _run_module(tmp_path, source)
    assert (status, _last_line(output)) == (1, "1 passed, 1 failed, 0 skipped"), output


def test_class_that_cannot_be_set_up(tmp_path: Path) -> None:
    source = f"""
    @classmethod
    def setUpClass(cls):
        raise OSError("no class")
    {_PASSES}"""
    status, output = _run_module(tmp_path, source)
    assert status == 1
    assert "FAILED setUpClass (sample_for_runner.T)" in output


def test_module_that_cannot_be_imported(tmp_path: Path) -> None:
    status, output = _run(tmp_path, "no_such_module_for_runner")
    assert (status, _last_line(output)) == (1, "0 passed, 1 failed, 0 skipped")
    assert "ModuleNotFoundError" in output


def test_module_that_never_makes_a_loop_fails(tmp_path: Path) -> None:
    status, output = _run_module(tmp_path, "def test_a(self):\n    pass\n")
    assert (status, _last_line(output)) == (1, "1 passed, 1 failed, 0 skipped")
    assert "no loop of the loop under test was ever made" in output


def test_test_on_a_loop_that_was_not_retargeted_fails(tmp_path: Path) -> None:
    source = f"""
    def test_a_stock(self):
        asyncio.SelectorEventLoop().close()
    {_PASSES}"""
    status, output = _run_module(tmp_path, source)
    assert (status, _last_line(output)) == (1, "1 passed, 1 failed, 0 skipped")
    assert "ran on 1 stdlib loop(s): not retargeted" in output


def test_listed_test_that_passes_fails_the_run(tmp_path: Path) -> None:
    # It is on the list because of what it does to a loop that is not asyncio's.
    chosen = ("test_events", "-k", "test_timeout_rounding")
    status, output = _run(tmp_path, *chosen)
    assert (status, _last_line(output)) == (1, "0 passed, 1 failed, 0 skipped")
    assert "passes: take it off the skip list" in output
    status, output = _run(tmp_path, *chosen, "--no-strict")
    assert _last_line(output) == "0 passed, 0 failed, 1 skipped"
    status, output = _run(tmp_path, *chosen, "--baseline")
    assert (status, _last_line(output)) == (0, "1 passed, 0 failed, 0 skipped")


def test_no_loop(tmp_path: Path) -> None:
    status, output = _run(tmp_path, factory="no_such_module_for_runner:new_event_loop")
    assert status == 2
    assert "no loop from no_such_module_for_runner:new_event_loop" in output
