"""The process that runs one test module; started by the runner, never by hand.

It is given one JSON object on the command line and appends JSON lines to the file named there:
``start`` and ``done`` for each test, ``later`` for a test on the skip list, ``end`` when the module
is through.  Whoever reads the file after this process died knows which test it died in.

Tests that are expected to fail run in a process of their own: what they leave behind would be
found by others, which count warnings and references.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import importlib
import json
import sys
import time
import unittest
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from . import skips
from .modules import Module
from .retarget import LoopFactory, retarget, retarget_module

__all__ = ["main"]


class _Result(unittest.TestResult):
    """Gathers the outcome of the test that is running."""

    def __init__(self, emit: Callable[..., None]) -> None:
        super().__init__()
        self._emit = emit
        self.problems: list[str] = []
        self.skipped_because: str | None = None

    def begin(self) -> None:
        """Forget the test before."""
        self.problems = []
        self.skipped_because = None

    def _problem(self, test: Any, text: str) -> None:
        if isinstance(test, unittest.TestCase) or hasattr(test, "test_case"):
            self.problems.append(text)
        else:  # setUpClass, setUpModule and their opposites
            self._emit("done", test=str(test), outcome="failed", detail=text)

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._problem(test, self.errors[-1][1])

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._problem(test, self.failures[-1][1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            bad = self.failures if issubclass(err[0], test.failureException) else self.errors
            self._problem(test, f"{subtest}\n{bad[-1][1]}")

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        if isinstance(test, unittest.TestCase):
            self.skipped_because = reason
        elif not hasattr(test, "test_case"):
            self._emit("done", test=str(test), outcome="skipped", detail=reason)

    def addUnexpectedSuccess(self, test: Any) -> None:
        super().addUnexpectedSuccess(test)
        self.problems.append("expected to fail by its author, and passed")


class _Worker:
    def __init__(self, config: dict[str, Any], out: TextIO) -> None:
        self._config = config
        self._out = out
        self._module = Module(**config["module"])
        self._factory = LoopFactory(config["factory"])
        self._result = _Result(self._emit)

    def run(self) -> None:
        retarget(self._factory, lambda test: skips.stays_on_test_loop(_short(test)))
        support: Any = importlib.import_module("test.support")
        support.use_resources = dict.fromkeys(("cpu", "walltime"))  # no network
        self._support = support
        try:
            module = importlib.import_module(self._module.full_name)
        except unittest.SkipTest as skip:
            self._emit("done", test=self._module.name, outcome="skipped", detail=str(skip))
        else:
            retarget_module(module, self._factory)
            unittest.TestSuite(self._tests(module)).run(self._result)
        self._emit("end", kinds=sorted(self._factory.kinds))

    def _tests(self, module: Any) -> Iterator[unittest.TestCase]:
        """The tests to run in this process, each in its guard, in the order of unittest."""
        config = self._config
        for test in _flatten(unittest.defaultTestLoader.loadTestsFromModule(module)):
            name = _short(test.id())
            classes = self._module.classes
            if (
                (classes and type(test).__name__ not in classes)
                or config["only"] not in name
                or name in config["seen"]
            ):
                continue
            skip = skips.find(name, stdlib=config["baseline"])
            if (skip is not None) != config["listed"]:
                if skip is not None:
                    self._emit("later", test=name)
            elif skip is not None and not (skip.run and config["strict"]):
                self._emit("done", test=name, outcome="not run", detail=skip.reason)
            else:
                guarded: Any = functools.partial(self._guarded, name, test.run)
                test.run = guarded  # type: ignore[method-assign]
                yield test

    def _guarded(self, name: str, run: Callable[[Any], Any], result: Any) -> None:
        """Run one test, whatever comes of it, and say what came of it."""
        self._emit("start", test=name)
        counts = self._factory
        before = counts.made, counts.white_box, counts.stock
        started = time.perf_counter()
        self._result.begin()
        self._support.environment_altered = False
        faulthandler.dump_traceback_later(self._config["test_timeout"], exit=True)
        try:
            run(result)
        except BaseException as error:  # a loop may let anything out, KeyboardInterrupt too
            self._result.problems.append(f"came out of the test: {error!r}")
        finally:
            faulthandler.cancel_dump_traceback_later()
        if self._support.environment_altered:
            self._result.problems.append("left threads or child processes behind")
        if self._result.problems:
            outcome, detail = "failed", "\n".join(self._result.problems)
            gc.collect()  # what a failure leaves behind is no business of the next test
        elif self._result.skipped_because is not None:
            outcome, detail = "skipped", self._result.skipped_because
        else:
            outcome, detail = "passed", ""
        self._emit(
            "done",
            test=name,
            outcome=outcome,
            detail=detail,
            seconds=time.perf_counter() - started,
            made=counts.made - before[0],
            white_box=counts.white_box - before[1],
            stock=counts.stock - before[2],
        )

    def _emit(self, event: str, **fields: Any) -> None:
        self._out.write(json.dumps({"event": event, **fields}) + "\n")
        self._out.flush()


def _flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flatten(item)
        else:
            yield item


def _short(test: str) -> str:
    return test.removeprefix("test.").removeprefix("test_asyncio.")


def main() -> None:
    """Entry point; see the module's docstring."""
    config = json.loads(sys.argv[1])
    faulthandler.enable()
    with open(config["results"], "a", encoding="utf-8") as out:
        _Worker(config, out).run()


if __name__ == "__main__":
    main()
