"""The test modules that are run, and what is known about each."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["MODULES", "SUITE", "Module", "choose"]

#: The package with asyncio's own tests.
SUITE = "test.test_asyncio"


@dataclass(frozen=True)
class Module:
    """One module of CPython's tests.

    Attributes:
        name: short name, as in ``test_tasks``.
        package: where it lives.
        since: the first Python version that has it.
        classes: the test classes to take; empty for all.
        extra: not in the list that has to pass, run all the same.
    """

    name: str
    package: str = SUITE
    since: tuple[int, int] = (3, 10)
    classes: tuple[str, ...] = ()
    extra: bool = False

    @property
    def full_name(self) -> str:
        """The name to import."""
        return f"{self.package}.{self.name}" if self.package else self.name


# Slowest first, so that two processes end at about the same time.
MODULES = (
    Module(
        "test_events",
        # HandleTests, TimerTests, AbstractEventLoopTests and PolicyTests try asyncio's own
        # classes against mocks; the rest of the module binds the mixin to asyncio's loops.
        classes=("EventLoopTests", "TestPyGetEventLoop", "TestCGetEventLoop", "TestServer"),
    ),
    Module("test_tasks"),
    Module(
        "test_base_events",
        extra=True,
        classes=(
            "BaseEventTests",
            "BaseEventLoopTests",
            "BaseEventLoopWithSelectorTests",
            "RunningLoopTests",
        ),
    ),
    Module(
        "test_subprocess",
        # The others try asyncio's own child watchers.
        classes=("SubprocessTransportTests", "SubprocessTests"),
    ),
    Module("test_sock_lowlevel", extra=True, classes=("SockTests",)),
    Module("test_ssl", since=(3, 11)),
    # SslProtoHandshakeTests try asyncio's own class of protocols against mocks.
    Module("test_sslproto", classes=("SelectorStartTLSTests",)),
    Module("test_waitfor"),
    Module("test_streams"),
    Module("test_locks"),
    Module("test_futures"),
    Module("test_taskgroups", since=(3, 11)),
    Module("test_runners"),
    Module("test_timeouts", since=(3, 11)),
    Module("test_queues"),
    Module("test_context"),
    Module("test_futures2", extra=True),
    Module("test_server"),
    Module("test_buffered_proto"),
    Module(
        "test_unix_events",
        extra=True,
        # The others try asyncio's own signal handling, pipes and child watchers against mocks.
        classes=("SelectorEventLoopUnixSocketTests", "TestFork", "TestFunctional"),
    ),
    Module("test_sendfile", extra=True, classes=("SendfileTests",)),
    Module("test_eager_task_factory", since=(3, 12), extra=True),
    Module("test_free_threading", since=(3, 14), extra=True),
    Module("test_graph", since=(3, 14), extra=True),
    Module("test_pep492", extra=True),
    Module("test_staggered", since=(3, 13), extra=True),
    Module("test_threads", extra=True),
    Module(
        "test_asyncgen",
        package="test",
        extra=True,
        classes=("AsyncGenAsyncioTest",),  # the others run no loop
    ),
)


def choose(names: Iterable[str], required_only: bool = False) -> list[Module]:
    """The modules to run on the running interpreter.

    Args:
        names: short names of modules, or whole dotted names of any unittest module; when empty,
            all that this Python version has.
        required_only: leave the extra ones out.
    """
    known = {module.name: module for module in MODULES}
    if wanted := list(names):
        return [known.get(name) or Module(*_split(name)) for name in wanted]
    return [
        module
        for module in MODULES
        if sys.version_info >= module.since and not (required_only and module.extra)
    ]


def _split(dotted: str) -> tuple[str, str]:
    package, _, name = dotted.rpartition(".")
    return name, package
