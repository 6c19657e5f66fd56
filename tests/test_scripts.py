"""The scripts behind the make targets that test every Python: what they count and what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment or None)


class TestEveryPython:
    VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}"

    def test_found_by_the_variable(self) -> None:
        done = run("every_python.py", "--list", self.VERSION, PYTHONS=sys.executable)
        assert done.stdout == f"{self.VERSION} {sys.executable}\n"

    def test_the_version_is_asked_for_and_not_believed(self, tmp_path: Path) -> None:
        (tmp_path / "python9.9").symlink_to(sys.executable)
        done = run("every_python.py", "--list", "9.9", PATH=str(tmp_path), HOME=str(tmp_path))
        assert done.stdout == "9.9 missing\n"

    def test_newest_of_pyenv(self, tmp_path: Path) -> None:
        for patch in ("2", "10", "9"):
            folder = tmp_path / f"versions/{self.VERSION}.{patch}/bin"
            folder.mkdir(parents=True)
            (folder / "python").symlink_to(sys.executable)
        there = {"PYENV_ROOT": str(tmp_path), "PATH": str(tmp_path)}
        if (SCRIPTS.parent / f".pythons/usr/bin/python{self.VERSION}").exists():
            pytest.skip("one in .pythons comes before pyenv's")
        done = run("every_python.py", "--list", self.VERSION, **there)
        assert done.stdout == f"{self.VERSION} {tmp_path}/versions/{self.VERSION}.10/bin/python\n"

    @pytest.mark.parametrize(
        ("make", "status", "word"), [("true", 0, "passed"), ("false", 1, "FAILED")]
    )
    def test_missing_ones_are_named_and_counted(
        self, tmp_path: Path, make: str, status: int, word: str
    ) -> None:
        (tmp_path / "make").write_text(f"#!/bin/sh\n{make}\n")
        (tmp_path / "make").chmod(0o755)
        where = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONS": sys.executable, "HOME": "/none"}
        done = run("every_python.py", "test-py", "9.9", self.VERSION, "9.8", **where)
        failed = f"{status} failed" + (f" ({self.VERSION})" if status else "")
        assert done.returncode == status
        assert done.stdout.splitlines()[-4:] == [
            "Python 9.9: MISSING",
            f"Python {self.VERSION}: {word} ({sys.executable})",
            "Python 9.8: MISSING",
            f"1 of 3 Pythons run, {failed}, 2 missing (9.9, 9.8)",
        ]

    def test_none_at_all_is_a_failure(self, tmp_path: Path) -> None:
        done = run("every_python.py", "test-py", "9.9", PATH=str(tmp_path), HOME=str(tmp_path))
        assert done.returncode == 1


class TestCompatibility:
    JUNIT = """<testsuites><testsuite>
        <properties><property name="python" value="3.14.8"/></properties>
        <testcase classname="tests.test_a" name="test_one[oxloop]"/>
        <testcase classname="tests.test_a" name="test_one[asyncio]">
            <skipped message="bug"/></testcase>
        <testcase classname="tests.test_a.TestB" name="test_two">
            <skipped message="old|new"/></testcase>
        <testcase classname="tests.test_a" name="test_three"><failure message="no"/></testcase>
        <testcase classname="tests.frameworks.test_x" name="test_x[asyncio-on_oxloop]"/>
        <testcase classname="tests.frameworks.test_x" name="test_x[on_asyncio]"/>
        <testcase classname="tests.differential.test_differential" name="test_script[turn]">
            <properties>
                <property name="cases" value="5"/><property name="events" value="70"/>
            </properties></testcase></testsuite></testsuites>"""

    def test_tables(self, tmp_path: Path) -> None:
        folder = tmp_path / "results/3.14"
        folder.mkdir(parents=True)
        (folder / "pytest.xml").write_text(self.JUNIT)
        counts = {"net": "CPython's own tests", "python": "3.14.8", "passed": 9, "failed": ["t.x"]}
        (folder / "conformance.json").write_text(json.dumps({**counts, "skipped": {"why": 2}}))
        suite = {"suite": "aiohttp 3", "python": "3.14.8", "passed": 9, "skipped": {"why": 2}}
        stock = {**suite, "loop": "asyncio", "failed": ["t.x"], "expected": {}, "unsteady": []}
        ours = {**stock, "loop": "oxloop", "expected": {"t.y": "a|b"}, "unsteady": ["t.z"]}
        (folder / "upstream.json").write_text(json.dumps([stock, ours]))
        random: dict[str, object] = {"python": "3.14.8", "scripts": 300, "explained": {"eof": 7}}
        random.update(events=4000, unsteady=1, unexplained=0)
        (folder / "generated.json").write_text(json.dumps(random))
        (folder / "generated-uvloop.json").write_text(json.dumps({**random, "scripts": 5}))
        document = tmp_path / "document.md"
        document.write_text("before\n<!-- tables: begin -->\nold\n<!-- tables: end -->\nafter\n")
        done = run("compatibility.py", str(tmp_path / "results"), "--update", str(document))
        assert done.returncode == 0, done.stderr
        lines = document.read_text().splitlines()
        assert "old" not in lines
        assert (lines[0], lines[-1]) == ("before", "after")
        none = "not run | not run | not run | not run | "
        dashes = "- | - | - | - | "
        for line in (
            "| | 3.10 | 3.11 | 3.12 | 3.13 | 3.14.8 | 3.15 |",
            f"| CPython's own tests | {none}9 / 2 / 1 | not run |",
            f"| Behaviour tests | {none}1 / 1 / 1 | not run |",
            f"| Real programs | {none}1 / 0 / 0 | not run |",
            f"| Differential traces | {none}1 / 0 / 0 | not run |",
            f"| Traces: scripts compared | {dashes}5 | - |",
            f"| Traces: events in them | {dashes}70 | - |",
            f"| aiohttp 3, on asyncio | {dashes}9 / 2 / 0 / 1 | - |",
            f"| aiohttp 3, on oxloop | {dashes}9 / 2 / 1 / 1 | - |",
            "- aiohttp 3: `t.y`: a\\|b (3.14.8)",
            "- 3.14.8, aiohttp 3 on asyncio: `t.x`",
            "- 3.14.8, aiohttp 3 on oxloop: `t.z`",
            f"| x, on asyncio | {dashes}1 / 0 / 0 | - |",
            f"| x, on oxloop | {dashes}1 / 0 / 0 | - |",
            f"| scripts | {none}300 | not run |",
            f"| unexplained | {none}0 | not run |",
            f"| explained by eof | {dashes}7 | - |",
            f"| old\\|new | {dashes}1 | - |",
            "- 3.14.8, Behaviour tests: `tests.test_a::test_three`",
            "- 3.14.8, CPython's own tests: `t.x`",
        ):
            assert line in lines, "\n".join(lines)
        assert not any("bug" in line for line in lines)
