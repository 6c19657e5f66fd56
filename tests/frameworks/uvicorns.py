"""A uvicorn in its own process, and the two ways the tests speak HTTP with it."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support import TIME_LIMIT, listen

from .programs import Program

HERE = Path(__file__).parent


class Uvicorn(Program):
    """`python -m uvicorn app:app --loop SPEC`, whose output is collected line by line.

    With `listener` it serves that socket (`--fd`): connections wait there until it has started.
    Without, it opens a port of its own. `options` are more of its command line options.
    """

    def __init__(self, spec: str, *options: str, listener: socket.socket | None = None) -> None:
        descriptors = [] if listener is None else [listener.fileno()]
        place = ["--port", "0"] if listener is None else ["--fd", str(listener.fileno())]
        super().__init__(
            *(sys.executable, "-W", "always::ResourceWarning", "-m", "uvicorn", "app:app"),
            *("--app-dir", str(HERE), "--loop", spec, "--http", "httptools"),
            *("--lifespan", "on", "--no-access-log", "--no-use-colors", *place, *options),
            pass_fds=descriptors,
        )
        self._address: tuple[str, int] | None = None
        if listener is not None:
            self._address = listener.getsockname()

    @property
    def address(self) -> tuple[str, int]:
        """Where the server listens; waits until it does."""
        if self._address is None:
            line = self.heard("Uvicorn running on http")
            self._address = ("127.0.0.1", int(re.findall(r":(\d+) ", line)[0]))
        return self._address

    @property
    def trouble(self) -> list[str]:
        """The lines that a server that is well does not write."""
        return [line for line in self.lines if not line.startswith(("INFO:", "app:"))]

    @property
    def url(self) -> str:
        """Where WebSockets are to be found."""
        return f"ws://{self.address[0]}:{self.address[1]}"

    def http(self) -> contextlib.closing[http.client.HTTPConnection]:
        """Return a client connection of the standard library (made at the first request)."""
        return contextlib.closing(http.client.HTTPConnection(*self.address, timeout=TIME_LIMIT))

    def https(self, context: ssl.SSLContext) -> contextlib.closing[http.client.HTTPSConnection]:
        """Return a client connection with TLS."""
        return contextlib.closing(
            http.client.HTTPSConnection(*self.address, timeout=TIME_LIMIT, context=context)
        )

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
