"""Fixtures: a uvicorn on each of the loops, shared by the tests of a module; logs of failures."""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator, Iterator

import pytest

from tests.support import LOOP_SPECS, module_of

from .programs import Program
from .uvicorns import Uvicorn, uvicorn


def pytest_runtest_setup() -> None:
    Program.recent[:] = [program for program in Program.recent if program.running]
    for program in Program.recent:
        program.forget()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for program in Program.recent:
            report.sections.append((" ".join(program.command), program.output))
    return report


@pytest.fixture(scope="module", params=LOOP_SPECS, ids=lambda spec: f"on_{module_of(spec)}")
def server_spec(request: pytest.FixtureRequest) -> str:
    """The loop of the server as `module:factory`: a client's `loop` is chosen on its own."""
    return str(request.param)


@pytest.fixture(scope="module")
def running(server_spec: str) -> Iterator[Uvicorn]:
    """A server for the whole module, which must leave in silence."""
    # No keep-alive connection may expire under a test on a busy machine.
    with uvicorn(server_spec, "--timeout-keep-alive", "3600") as server:
        assert server.address  # it has started
        yield server
        server.forget()
        assert server.stop(signal.SIGTERM) == -signal.SIGTERM, server.output
        assert server.trouble == []


@pytest.fixture
def server(running: Uvicorn) -> Iterator[Uvicorn]:
    """The module's server: a test that leaves it in trouble fails."""
    running.forget()
    yield running
    assert running.get("/say?word=alive") == b"alive"
    assert running.trouble == [], running.output


@pytest.fixture
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test during which a library logged an error."""
    yield
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    assert [record.getMessage() for record in records if record.levelno >= logging.ERROR] == []
