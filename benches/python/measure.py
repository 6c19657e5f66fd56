"""One run of one workload on one loop: processes, their CPU time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workloads import Workload

HERE = Path(__file__).parent
LOADGEN = HERE.parent / "loadgen/target/release/loadgen"
START_LIMIT = 30.0
"""Seconds for a server to start."""
WARM = 0.3
"""Seconds of work before a window begins."""
IDLE_FIRST, IDLE_CONNECTIONS = 6000, 5000
"""Connections that are opened before memory is looked at, and those that count."""

CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, CLIENT_CPU = CPUS[0], CPUS[-1]


class Failure(Exception):
    """A run that gave no result, and why."""


@dataclass(frozen=True)
class Server:
    """A server process and its port of 127.0.0.1."""

    pid: int
    port: int


@dataclass(frozen=True)
class Measurer:
    """How to measure: length of a window in seconds, and wrk in place of our HTTP client."""

    seconds: float
    wrk: bool

    def cost(self, workload: Workload, module: str, server: Server | None) -> float:
        """Return the cost of one operation: microseconds of CPU time, or bytes.

        Raises:
            Failure: when there was no operation, or the client or the server fails.
        """
        if server is None:
            return self._cpu_time(
                [sys.executable, str(HERE / "internals.py"), workload.name, module],
                SERVER_CPU,
            )
        if workload.client[0] == "idle":
            return idle_memory(server)
        if workload.client[0] == "http" and self.wrk:
            return self._wrk(server)
        command, *options = workload.client
        address, pid = f"127.0.0.1:{server.port}", str(server.pid)
        return self._cpu_time(
            [str(LOADGEN), command, address, *options, "--pid", pid, "--warm", str(WARM)],
            CLIENT_CPU,
        )

    def _cpu_time(self, command: list[str], cpu: int) -> float:
        output = self._output([*command, "--seconds", str(self.seconds)], cpu)
        result = json.loads(output)
        if not result["ops"]:
            raise Failure("no operation was completed")
        return float(result["cpu_ns"] / 1000 / result["ops"])

    def _wrk(self, server: Server) -> float:
        seconds = max(1, round(self.seconds))
        command = ["wrk", "-t1", "-c50", f"-d{seconds}s", f"http://127.0.0.1:{server.port}/"]
        before = cpu_ns(server.pid)
        output = self._output(command, CLIENT_CPU)
        used = cpu_ns(server.pid) - before
        count = re.search(r"(\d+) requests in", output)
        refused = re.search(r"Non-2xx.*|Socket errors.*", output)
        if count is None or refused or not int(count[1]):
            raise Failure(f"wrk: {refused[0] if refused else output}")
        return used / 1000 / int(count[1])

    def _output(self, command: list[str], cpu: int) -> str:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=60 + 10 * self.seconds,
                preexec_fn=pin_to(cpu),
            )
        except subprocess.TimeoutExpired:
            raise Failure("hangs") from None
        if done.returncode:
            raise Failure(last_line(done.stderr) or f"exit status {done.returncode}")
        return done.stdout


@contextlib.contextmanager
def serving(mode: str, module: str) -> Iterator[Server]:
    """A server in `mode` on a loop of `module`, killed at the end of the block.

    Raises:
        Failure: when it does not start.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "servers.py"), mode, module],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=pin_to(SERVER_CPU),
        )
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], START_LIMIT)
            line = process.stdout.readline() if ready else ""
            if not line:
                errors.seek(0)
                raise Failure(f"the server does not start: {last_line(errors.read())}")
            yield Server(process.pid, int(line))
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def pin_to(cpu: int) -> Callable[[], None]:
    """Return what keeps a new process on `cpu`: server and client do not share one."""
    return lambda: os.sched_setaffinity(0, [cpu])


def last_line(text: str) -> str:
    """Return the last line of `text` that says something."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def cpu_ns(pid: int) -> int:
    """Return the CPU time of process `pid`, all threads: see clock_getcpuclockid(3)."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def raise_file_limit() -> None:
    """Allow this process, and those it starts, as many descriptors as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def idle_memory(server: Server) -> float:
    """Return the resident memory of an idle connection in the server, in bytes.

    The first connections use up what was free in the process (some megabytes after the imports), so
    they don't count. Each has echoed a byte.
    """
    with contextlib.ExitStack() as stack:

        def hold(count: int) -> int:
            for _ in range(count):
                connection = socket.create_connection(("127.0.0.1", server.port), START_LIMIT)
                stack.enter_context(connection).sendall(b"x")
                if connection.recv(1) != b"x":
                    raise Failure("the server closed a connection")
            return resident_bytes(server.pid)

        try:
            before = hold(IDLE_FIRST)
            return (hold(IDLE_CONNECTIONS) - before) / IDLE_CONNECTIONS
        except OSError as error:
            raise Failure(str(error)) from error


def resident_bytes(pid: int) -> int:
    """Return the resident memory of process `pid`."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
