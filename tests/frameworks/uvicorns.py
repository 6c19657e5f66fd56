"""A uvicorn in its own process, and the two ways the tests speak HTTP with it."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import TIME_LIMIT, listen

HERE = Path(__file__).parent


class Uvicorn:
    """`python -m uvicorn app:app --loop SPEC`, whose output is collected line by line.

    With `listener` it serves that socket (`--fd`): connections wait there until it has started.
    Without, it opens a port of its own. `options` are more of its command line options.
    """

    def __init__(self, spec: str, *options: str, listener: socket.socket | None = None) -> None:
        descriptors = [] if listener is None else [listener.fileno()]
        place = ["--port", "0"] if listener is None else ["--fd", str(listener.fileno())]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "always::ResourceWarning", "-m", "uvicorn", "app:app"),
                *("--app-dir", str(HERE), "--loop", spec, "--http", "httptools"),
                *("--lifespan", "on", "--no-access-log", "--no-use-colors", *place, *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=descriptors,
        )
        self.lines: list[str] = []
        self._ended = False
        self._change = threading.Condition()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()
        self._address: tuple[str, int] | None = None
        if listener is not None:
            self._address = listener.getsockname()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._change:
                self.lines.append(line.rstrip("\n"))
                self._change.notify_all()
        with self._change:
            self._ended = True
            self._change.notify_all()

    def heard(self, text: str, times: int = 1) -> str:
        """Wait until `text` has been in `times` lines of the output; return the last of them."""
        deadline = time.monotonic() + TIME_LIMIT
        with self._change:
            while len(found := [line for line in self.lines if text in line]) < times:
                if self._ended or not self._change.wait(deadline - time.monotonic()):
                    pytest.fail(f"{times} x {text!r} never came\n{self.output}")
        return found[times - 1]

    @property
    def address(self) -> tuple[str, int]:
        """Where the server listens; waits until it does."""
        if self._address is None:
            line = self.heard("Uvicorn running on http://")
            self._address = ("127.0.0.1", int(re.findall(r":(\d+) ", line)[0]))
        return self._address

    @property
    def output(self) -> str:
        """What the server has said so far, on stdout and stderr."""
        return "\n".join(self.lines)

    @property
    def trouble(self) -> list[str]:
        """The lines that a server that is well does not write."""
        return [line for line in self.lines if not line.startswith(("INFO:", "app:"))]

    def forget(self) -> None:
        """Drop what has been said so far."""
        with self._change:
            self.lines.clear()

    def wait(self) -> int:
        """Wait for the end of the process and return its exit code (negative: the signal)."""
        try:
            code = self.process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"uvicorn does not end\n{self.output}")
        self._reader.join(TIME_LIMIT)
        return code

    def stop(self, number: int) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End the process, however it is."""
        self.process.kill()
        self.process.wait()
        self._reader.join(TIME_LIMIT)
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def url(self) -> str:
        """Where WebSockets are to be found."""
        return f"ws://{self.address[0]}:{self.address[1]}"

    def http(self) -> contextlib.closing[http.client.HTTPConnection]:
        """Return a client connection of the standard library (made at the first request)."""
        return contextlib.closing(http.client.HTTPConnection(*self.address, timeout=TIME_LIMIT))

    def get(self, path: str) -> bytes:
        """Return the body of a successful response, over a connection of its own."""
        with self.http() as connection:
            return exchange(connection, "GET", path)

    def wire(self, *, receive_buffer: int | None = None) -> contextlib.closing[Wire]:
        """Return a bare connection."""
        return contextlib.closing(Wire(self.address, receive_buffer))


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: object = None
) -> bytes:
    """Make a request that must succeed, and return the body of the response."""
    connection.request(method, path, body)  # type: ignore[arg-type]
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200, content
    return content


class Wire:
    """HTTP by hand: what http.client would not send, and where it would not stop."""

    def __init__(self, address: tuple[str, int], receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(TIME_LIMIT)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.sock.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        """Send each of `pieces` on its own."""
        for piece in pieces:
            self.sock.sendall(piece)

    def head(self) -> tuple[int, http.client.HTTPMessage]:
        """Read status line and headers."""
        version, status, _ = self.reader.readline().split(b" ", 2)
        assert version == b"HTTP/1.1"
        return int(status), http.client.parse_headers(self.reader)

    def response(self) -> tuple[int, bytes]:
        """Read a response that has its length in advance; return status and body."""
        status, headers = self.head()
        return status, self.reader.read(int(headers["content-length"]))

    def reset(self) -> None:
        """Leave with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.reader.close()
        self.sock.close()


@contextlib.contextmanager
def uvicorn(spec: str, *options: str, by_descriptor: bool = False) -> Iterator[Uvicorn]:
    """Serve `app.py` on the loop `spec` for the time of the block."""
    with listen() if by_descriptor else contextlib.nullcontext() as listener:
        server = Uvicorn(spec, *options, listener=listener)
    try:
        yield server
    finally:
        server.kill()
