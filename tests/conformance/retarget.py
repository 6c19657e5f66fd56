"""Points every place from which CPython's tests take a loop to the loop under test.

Called in the process that runs one test module, before that module is imported.  What is
replaced, and what is left alone on purpose, is said in README.md.
"""

from __future__ import annotations

import asyncio
import importlib
from asyncio import base_events, unix_events
from asyncio.log import logger
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["LoopFactory", "retarget", "retarget_module"]


class LoopFactory:
    """The factory of the loop under test, which counts.

    An object and not a function: the tests also hang it on classes (``loop_factory = ...``),
    where a function would turn into a method.

    Attributes:
        made: loops of the loop under test made so far.
        kinds: their classes, as ``module.Class``.
        white_box: loops of the tests' own ``BaseEventLoop`` subclasses (``TestLoop`` mostly).
        stock: ordinary stdlib loops made by somebody else: places that were not retargeted.
    """

    def __init__(self, spec: str) -> None:
        """Take ``module:attribute``; raises ImportError, AttributeError or ValueError."""
        module, separator, attribute = spec.partition(":")
        if not separator or not attribute:
            raise ValueError(f"a loop factory is written module:attribute, not {spec!r}")
        make: Any = importlib.import_module(module)
        for name in attribute.split("."):
            make = getattr(make, name)
        self._make: Callable[[], asyncio.AbstractEventLoop] = make
        self._making = False
        self.made = 0
        self.kinds: set[str] = set()
        self.white_box = 0
        self.stock = 0

    def __call__(self) -> asyncio.AbstractEventLoop:
        """Make a loop of the loop under test."""
        self._making = True
        try:
            loop = self._make()
        finally:
            self._making = False
        self.made += 1
        self.kinds.add(f"{type(loop).__module__}.{type(loop).__qualname__}")
        return loop

    def watch_stdlib_loops(self) -> None:
        """Count from now on the stdlib loops that are made behind this factory's back."""
        base: Any = base_events.BaseEventLoop
        stdlib_init = base.__init__

        def counting_init(loop: Any, *args: Any, **kwargs: Any) -> None:
            if not self._making:
                if isinstance(loop, unix_events.SelectorEventLoop):
                    self.stock += 1
                else:
                    self.white_box += 1
            stdlib_init(loop, *args, **kwargs)

        base.__init__ = counting_init


def retarget(factory: LoopFactory, stays_on_test_loop: Callable[[str], bool]) -> None:
    """Retarget what all test modules share: the policy, the aliases, the tests' base class.

    Args:
        factory: the loop under test.
        stays_on_test_loop: tells by a test's id whether it keeps the suite's ``TestLoop``
            although it does not script the time.
    """
    # On the class, as every test module's tearDownModule makes a new stock policy.  This serves
    # asyncio.new_event_loop, asyncio.run, Runner, and IsolatedAsyncioTestCase.
    policy: Any = unix_events._UnixDefaultEventLoopPolicy
    policy._loop_factory = factory
    if hasattr(asyncio, "EventLoop"):  # since 3.13
        vars(asyncio)["EventLoop"] = factory
    factory.watch_stdlib_loops()

    utils: Any = importlib.import_module("test.test_asyncio.utils")
    on_test_loop = utils.TestCase.new_test_loop

    def new_test_loop(test: Any, gen: Any = None) -> Any:
        if gen is not None or stays_on_test_loop(test.id()):
            return on_test_loop(test, gen)
        loop = factory()
        test.set_event_loop(loop)
        return loop

    utils.TestCase.new_test_loop = new_test_loop
    utils.TestCase.close_loop = staticmethod(_close_loop(utils.TestCase.close_loop))
    _send_errors_to_mocks()


def _close_loop(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """The tests' clean-up reads a private attribute; a loop without it is still to be tested."""

    def close_loop(loop: Any) -> None:
        if hasattr(loop, "_default_executor"):
            original(loop)
        else:
            loop.close()

    return close_loop


def _send_errors_to_mocks() -> None:
    """Tests put a mock in the place of asyncio's logger in the module of asyncio's loop.

    Another loop logs to the same logger without passing by that module: hand over what it says.
    """

    def through(name: str) -> Callable[..., None]:
        real = getattr(logger, name)

        def log(*args: Any, **kwargs: Any) -> None:
            there = vars(base_events)["logger"]
            (real if there is logger else getattr(there, name))(*args, **kwargs)

        return log

    for name in ("error", "warning"):
        setattr(logger, name, through(name))


def retarget_module(module: ModuleType, factory: LoopFactory) -> None:
    """Retarget what only `module` does, if it does something."""
    adapt = _ADAPTERS.get(module.__name__.rpartition(".")[2])
    if adapt is not None:
        adapt(module, factory)


def _bound(mixin: str, name: str, *others: str) -> Callable[[Any, LoopFactory], None]:
    """An adapter which binds mixins of tests; the stdlib's own selector loops go."""

    def adapt(module: Any, factory: LoopFactory) -> None:
        utils: Any = importlib.import_module("test.test_asyncio.utils")

        bases = [getattr(module, each) for each in (mixin, *others)]

        class Tests(*bases, utils.TestCase):  # type: ignore[misc]
            def create_event_loop(self) -> asyncio.AbstractEventLoop:
                return factory()

        Tests.__module__ = module.__name__
        Tests.__name__ = Tests.__qualname__ = name
        setattr(module, name, Tests)

    return adapt


def _test_base_events(module: Any, factory: LoopFactory) -> None:
    """A real loop in the place of a BaseEventLoop with a mock for its selector.

    Unless asyncio's own is under test: the mocks belong to that one.
    """
    with_mocks = module.BaseEventLoopTests.setUp

    def set_up(test: Any, case: Any) -> None:
        super(case, test).setUp()
        test.loop = factory()
        test.set_event_loop(test.loop)

    def set_up_base(test: Any) -> None:
        set_up(test, module.BaseEventLoopTests)
        if isinstance(test.loop, base_events.BaseEventLoop):
            test.loop.close()
            with_mocks(test)

    module.BaseEventLoopTests.setUp = set_up_base
    selector_tests = module.BaseEventLoopWithSelectorTests
    selector_tests.setUp = lambda test: set_up(test, selector_tests)


def _new_loop(*classes: str) -> Callable[[Any, LoopFactory], None]:
    """An adapter for functional tests which name the stdlib's loop in `new_loop`."""

    def adapt(module: Any, factory: LoopFactory) -> None:
        for name in classes:
            getattr(module, name).new_loop = lambda test: factory()

    return adapt


def _test_runners(module: Any, factory: LoopFactory) -> None:
    """The same loop as the tests' own, without the mocks: they are there to do no I/O."""

    def new_loop(test: Any) -> Any:
        loop: Any = factory()
        loop.shutdown_ag_run = False

        async def shutdown_asyncgens() -> None:
            loop.shutdown_ag_run = True

        loop.shutdown_asyncgens = shutdown_asyncgens
        return loop

    module.BaseTest.new_loop = new_loop


def _loop_of_set_up(name: str) -> Callable[[Any, LoopFactory], None]:
    """An adapter for a class whose setUp makes a loop and nothing else."""

    def adapt(module: Any, factory: LoopFactory) -> None:
        cls = getattr(module, name)

        def set_up(test: Any) -> None:
            super(cls, test).setUp()
            test.loop = factory()
            test.set_event_loop(test.loop)

        cls.setUp = set_up

    return adapt


def _test_tasks(module: Any, factory: LoopFactory) -> None:
    """The gather tests run "until nothing is ready": for us, more turns than any of them needs."""
    utils: Any = importlib.import_module("test.test_asyncio.utils")

    def run_loop(test: Any, loop: Any) -> None:
        for _ in range(20):
            utils.run_briefly(loop)

    module.GatherTestsBase._run_loop = run_loop


def _test_subprocess(module: Any, factory: LoopFactory) -> None:
    """The mixin on the loop under test: the classes that bind it do so to asyncio's watchers."""
    utils: Any = importlib.import_module("test.test_asyncio.utils")

    class Tests(module.SubprocessMixin, utils.TestCase):  # type: ignore[misc]
        def setUp(self) -> None:
            super().setUp()
            self.loop = factory()
            self.set_event_loop(self.loop)

    Tests.__module__ = module.__name__
    Tests.__name__ = Tests.__qualname__ = "SubprocessTests"
    module.SubprocessTests = Tests


_ADAPTERS: dict[str, Callable[[Any, LoopFactory], None]] = {
    "test_base_events": _test_base_events,
    "test_buffered_proto": _new_loop("BufferedProtocolSelectorTests"),
    "test_events": _bound("EventLoopTestsMixin", "EventLoopTests", "SubprocessTestsMixin"),
    "test_pep492": _loop_of_set_up("BaseTest"),
    "test_runners": _test_runners,
    "test_tasks": _test_tasks,
    "test_sendfile": _bound("SendfileTestsBase", "SendfileTests"),
    "test_subprocess": _test_subprocess,
    "test_sock_lowlevel": _bound("BaseSockTestsMixin", "SockTests"),
    "test_server": _new_loop("SelectorStartServerTests"),
    "test_sslproto": _new_loop("SelectorStartTLSTests"),
    "test_unix_events": _loop_of_set_up("SelectorEventLoopUnixSocketTests"),
}
