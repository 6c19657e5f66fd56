"""Fixtures: a uvicorn on each of the loops, shared by the tests of a module."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support import LOOP_SPECS, module_of

from .uvicorns import Uvicorn, uvicorn


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
