"""Fixtures: every behaviour test gets a `loop`, once of each kind in `OXLOOP_TEST_LOOPS`.

An `async def` test runs on its `loop` fixture. What reaches the loop's exception handler and is not
taken out of `error_contexts` by the test fails it, and so does every warning.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .support import (
    LOOP_SPECS,
    PYTHON,
    TIME_LIMIT,
    ErrorContext,
    LoopFactory,
    Network,
    load,
    module_of,
    run_limited,
    shut_down,
    skip_stock_bug,
)
from .tls import Tls

HERE = Path(__file__).parent
STRICT_FOLDERS = {HERE, HERE / "resources", HERE / "frameworks"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent in STRICT_FOLDERS:
            # Marks put in front give way to the test's own.
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(2 * TIME_LIMIT))


def pytest_collection_finish() -> None:
    # Every test ends with a full collection: keep what was loaded so far out of it.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    run_limited(pyfuncitem.funcargs["loop"], pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(params=LOOP_SPECS, ids=module_of)
def loop_spec(request: pytest.FixtureRequest) -> str:
    """The loop under test as `module:factory`, for tests that start a process."""
    return str(request.param)


@pytest.fixture
def loop_factory(loop_spec: str) -> LoopFactory:
    """What makes a new loop of the kind under test."""
    return load(loop_spec)


@pytest.fixture
def error_contexts() -> list[ErrorContext]:
    """What reached the exception handler of `loop`; a test takes out what it expects."""
    return []


@pytest.fixture
def loop(
    loop_factory: LoopFactory, error_contexts: list[ErrorContext]
) -> Iterator[asyncio.AbstractEventLoop]:
    """A new loop of the kind under test, shut down after the test."""
    loop = loop_factory()
    loop.set_exception_handler(lambda _, context: error_contexts.append(context))
    yield loop
    shut_down(loop)
    # A transport or a loop that nobody closed warns when it is collected: let that be now.
    gc.collect()
    assert error_contexts == []


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new directory with a name that is short enough for Unix sockets in it."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def unprivileged(folder: Path) -> Iterator[None]:
    """Without root's rights, but for `folder`."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65534
    os.chown(folder, nobody, -1)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def network(loop: asyncio.AbstractEventLoop) -> Iterator[Network]:
    """Connections and servers on `loop`, closed after the test."""
    network = Network(loop)
    yield network
    if not loop.is_closed():
        run_limited(loop, network.close())


@pytest.fixture
def as_since_311(loop_spec: str) -> None:
    """Skip asyncio's TLS of 3.10, which 3.11 replaced."""
    skip_stock_bug(loop_spec, PYTHON < (3, 11), "3.11 has another implementation of TLS")


@pytest.fixture
def tls(network: Network, as_since_311: None) -> Tls:
    """TLS connections and servers on `loop`, closed after the test."""
    return Tls(network)


@pytest.fixture(params=["connected", "accepted", "upgraded", "upgraded_server"])
def tls_opened(request: pytest.FixtureRequest, tls: Tls) -> Any:
    """Coroutine function that returns transport, protocol and peer of a TLS connection."""
    return {
        "connected": tls.connect,
        "accepted": tls.accept,
        "upgraded": tls.upgrade,
        "upgraded_server": functools.partial(tls.upgrade, server_side=True),
    }[request.param]
