"""A pytest plugin, loaded into the projects' suites: selects the loop, times and notes each test.

It is configured by a JSON object in the environment variable OXLOOP_UPSTREAM, and appends JSON
lines to the file named there: ``start`` and ``done`` for each test, ``end`` when pytest is through.
Whoever reads the file after this process died knows which test it died in. It imports nothing of
this repository: it runs in the environment of the project.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import json
import os
import sys
from asyncio import base_events, unix_events
from typing import Any

import pytest

CONFIG = json.loads(os.environ["OXLOOP_UPSTREAM"])


def covers(entry: str, test: str) -> bool:
    """As in suites.py."""
    if entry.startswith("*"):
        return entry[1:] in test
    return test.startswith(entry) and test[len(entry) : len(entry) + 1] in ("", "[", ":", "/")


class Loops:
    """How many loops were made: of the class under test, and of asyncio's own beside it."""

    def __init__(self, under_test: type[asyncio.AbstractEventLoop]) -> None:
        self.made = 0
        self.stock = 0
        stock = base_events.BaseEventLoop
        self._count(under_test, "made")
        if not issubclass(under_test, stock):
            self._count(stock, "stock")

    def _count(self, loop_class: Any, name: str) -> None:
        init = loop_class.__init__

        def counting_init(loop: Any, *args: Any, **kwargs: Any) -> None:
            setattr(self, name, getattr(self, name) + 1)
            init(loop, *args, **kwargs)

        loop_class.__init__ = counting_init


def select(spec: str) -> Loops:
    """Make the loop class `module:name` the one that asyncio makes, by whatever way."""
    module, _, name = spec.partition(":")
    under_test = getattr(importlib.import_module(module), name)
    stock = asyncio.SelectorEventLoop
    # On the class of the policy, as suites set new policies.
    policy: Any = (
        unix_events._UnixDefaultEventLoopPolicy
        if sys.version_info < (3, 14)
        else (unix_events._DefaultEventLoopPolicy)
    )
    policy._loop_factory = under_test
    if under_test is not stock:
        # Programs name these classes, call them and derive from them.
        for alias in ("SelectorEventLoop", "EventLoop"):
            if hasattr(asyncio, alias):
                setattr(asyncio, alias, under_test)
    return Loops(under_test)


class Notes:
    """The hooks that note what becomes of each test."""

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._out = open(CONFIG["results"], "a", encoding="utf-8")  # noqa: SIM115 - till the end
        self._reports: list[Any] = []
        self._before = 0, 0

    def _emit(self, event: str, **fields: Any) -> None:
        self._out.write(json.dumps({"event": event, **fields}) + "\n")
        self._out.flush()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out what is done, not asked for, or listed."""
        kept = []
        for item in items:
            name = item.nodeid
            reason = next(
                (CONFIG["left_out"][e] for e in CONFIG["left_out"] if covers(e, name)), ""
            )
            chosen = name in CONFIG["only"] if CONFIG["only"] else CONFIG["matching"] in name
            if name in CONFIG["seen"] or not chosen:
                continue
            if reason:
                self._emit("done", test=name, outcome="left out", detail=reason)
            else:
                kept.append(item)
        items[:] = kept

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported is a failure."""
        if report.outcome != "passed":
            text = str(report.longrepr)
            self._emit("done", test=report.nodeid, outcome=report.outcome, detail=text)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports = []
        self._before = self._loops.made, self._loops.stock
        self._emit("start", test=nodeid)
        faulthandler.dump_traceback_later(CONFIG["timeout"], exit=True, file=sys.__stderr__)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        faulthandler.cancel_dump_traceback_later()
        outcome, detail = judge(self._reports)
        self._emit(
            "done",
            test=nodeid,
            outcome=outcome,
            detail=detail,
            made=self._loops.made - self._before[0],
            stock=self._loops.stock - self._before[1],
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._emit("end", status=int(exitstatus))
        faulthandler.dump_traceback_later(CONFIG["timeout"], exit=True, file=sys.__stderr__)


def judge(reports: list[Any]) -> tuple[str, str]:
    """What came of a test, by the reports on its set-up, its body and its tear-down."""
    failed = [f"{report.when}: {report.longreprtext}" for report in reports if report.failed]
    if failed:
        return "failed", "\n".join(failed)
    for report in reports:
        if report.skipped:
            if hasattr(report, "wasxfail"):
                return "skipped", f"expected to fail by its author: {report.wasxfail}"
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            return "skipped", str(reason).removeprefix("Skipped: ")
    return "passed", ""


def tell_blockbuster() -> None:
    """Let what asyncio may do pass with oxloop too: blockbuster knows it by asyncio's file names.

    docs/differences.md has the same names.
    """
    try:
        import blockbuster
    except ImportError:
        return
    init = blockbuster.BlockBuster.__init__

    def telling_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        for function, file, callers in (
            ("os.read", "oxloop/_subprocesses.py", {"subprocess_exec", "subprocess_shell"}),
            ("os.sendfile", "oxloop/_sendfile.py", {"_sendfile"}),
            ("os.stat", "oxloop/_unix.py", {"remove_stale", "_remover", "remove"}),
            ("os.unlink", "oxloop/_unix.py", {"remove"}),
        ):
            self.functions[function].can_block_in(file, callers)

    blockbuster.BlockBuster.__init__ = telling_init


LOOPS = select(CONFIG["loop"])
if CONFIG["loop"].startswith("oxloop"):
    tell_blockbuster()


def pytest_configure(config: Any) -> None:
    config.pluginmanager.register(Notes(LOOPS), "oxloop-upstream-notes")
