"""The workloads, by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

import internals


@dataclass(frozen=True)
class Workload:
    """What is measured, and with what client.

    Attributes:
        name: as the tables show it.
        operation: what one operation is.
        server: mode of servers.py; None for a workload of internals.py.
        client: what makes the work: `echo` or `http` (the load generator's command and options),
            `idle` (connections that are only held), `internals`.
        unit: of its cost.
    """

    name: str
    operation: str
    server: str | None = None
    client: tuple[str, ...] = ("internals",)
    unit: str = "us"


def _echo(size: int, connections: int) -> tuple[str, ...]:
    return ("echo", "--size", str(size), "--connections", str(connections))


_HTTP = ("http", "--connections", "50")

WORKLOADS = (
    Workload("tcp_64_c10", "64 bytes echoed by a Protocol", "echo", _echo(64, 10)),
    Workload("tcp_1k_c10", "1 KiB echoed by a Protocol", "echo", _echo(1024, 10)),
    Workload("tcp_1k_c100", "the same over 100 connections", "echo", _echo(1024, 100)),
    Workload("tcp_16k_c10", "16 KiB echoed by a Protocol", "echo", _echo(16384, 10)),
    Workload("streams_1k_c10", "1 KiB echoed by start_server", "streams", _echo(1024, 10)),
    Workload("http_httptools", "a request to a bare httptools server", "httptools", _HTTP),
    Workload("http_uvicorn", "a request to uvicorn with httptools", "uvicorn", _HTTP),
    Workload("memory_idle", "resident memory of an idle connection", "echo", ("idle",), "bytes"),
    *(
        Workload(name, (function.__doc__ or "").rstrip("."))
        for name, function in internals.WORKLOADS.items()
    ),
)


def choose(patterns: Iterable[str]) -> list[Workload]:
    """The workloads whose names match one of `patterns` (as in a shell)."""
    patterns = list(patterns)
    return [w for w in WORKLOADS if any(fnmatch.fnmatch(w.name, p) for p in patterns)]
