"""The life of a uvicorn process: how it listens, and how it ends, by signal or by itself."""

from __future__ import annotations

import signal
import socket

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support import TIME_LIMIT

from .app import pattern
from .test_http import digest, request, say, upload
from .uvicorns import Uvicorn, uvicorn

EXIT_CODES = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 0}
"""uvicorn raises the signal again when it is done, and swallows the KeyboardInterrupt."""

BOTH = pytest.mark.parametrize("number", EXIT_CODES, ids=lambda number: number.name)


def assert_orderly(server: Uvicorn) -> None:
    """Check that the server went through its whole shutdown, without a complaint."""
    assert server.trouble == [], server.output
    for line in "app: shutdown", "Application shutdown complete", "Finished server process":
        server.heard(line)


def assert_gone(server: Uvicorn) -> None:
    """Check that nobody listens any more."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, TIME_LIMIT)


@pytest.mark.parametrize("by_descriptor", [False, True], ids=["port", "descriptor"])
@BOTH
def test_idle(loop_spec, number, by_descriptor):
    with uvicorn(loop_spec, by_descriptor=by_descriptor) as server:
        assert server.get("/say?word=up") == b"up"
        assert server.stop(number) == EXIT_CODES[number], server.output
        assert_orderly(server)
        assert_gone(server)


@BOTH
def test_right_after_the_start(loop_spec, number):
    with uvicorn(loop_spec) as server:
        server.heard("Uvicorn running")
        assert server.stop(number) == EXIT_CODES[number], server.output
        assert_orderly(server)


@BOTH
def test_idle_connections_are_closed(loop_spec, number):
    with uvicorn(loop_spec, "--timeout-keep-alive", "3600") as server:
        with server.wire() as used, server.wire() as unused:
            used.send(say("hello"))
            assert used.response() == (200, b"hello")
            assert server.stop(number) == EXIT_CODES[number], server.output
            assert used.reader.read() == b""
            assert unused.reader.read() == b""
        assert_orderly(server)


@BOTH
def test_a_request_in_progress_is_answered(loop_spec, number):
    body = pattern(200_000)
    with uvicorn(loop_spec) as server, server.wire() as wire:
        wire.send(upload(len(body)), body[:1000])
        server.heard("app: upload began")
        server.process.send_signal(number)
        server.heard("Waiting for connections to close")
        assert_gone(server)
        wire.send(body[1000:])
        status, headers = wire.head()
        assert (status, headers["connection"]) == (200, "close")
        assert wire.reader.read() == digest(body)
        assert server.wait() == EXIT_CODES[number], server.output
        assert_orderly(server)


@BOTH
def test_a_response_in_progress_is_completed(loop_spec, number):
    size = 10_000_000
    with uvicorn(loop_spec) as server, server.wire(receive_buffer=4096) as wire:
        wire.send(request(f"/data?size={size}&piece=100000"))
        assert wire.head()[0] == 200
        server.process.send_signal(number)
        server.heard("Waiting for connections to close")
        assert wire.reader.read() == pattern(size)
        assert server.wait() == EXIT_CODES[number], server.output
        assert_orderly(server)


def test_a_second_interrupt_is_less_polite(loop_spec):
    with uvicorn(loop_spec) as server, server.wire() as wire:
        wire.send(upload(2000), bytes(1000))
        server.heard("app: upload began")
        server.process.send_signal(signal.SIGINT)
        server.heard("Waiting for connections to close")
        server.process.send_signal(signal.SIGINT)
        wire.close()  # from 3.12 on uvicorn still waits for it, in Server.wait_closed
        assert server.wait() == 0, server.output
        server.heard("Finished server process")
        assert "app: shutdown" not in server.output


def test_a_request_that_takes_too_long_is_cancelled(loop_spec):
    with uvicorn(loop_spec, "--timeout-graceful-shutdown", "1") as server, server.wire() as wire:
        wire.send(upload(2000), bytes(1000))
        server.heard("app: upload began")
        assert server.stop(signal.SIGTERM) == -signal.SIGTERM, server.output
        server.heard("Cancel 1 running task(s), timeout graceful shutdown exceeded")
        server.heard("Finished server process")


@BOTH
def test_websockets_are_told(loop_spec, number):
    options = {"proxy": None, "ping_interval": None, "open_timeout": TIME_LIMIT}
    with uvicorn(loop_spec) as server, connect(server.url + "/echo", **options) as client:
        client.send("hello")
        assert client.recv(TIME_LIMIT) == "hello"
        server.process.send_signal(number)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(TIME_LIMIT)
        assert caught.value.rcvd.code == 1012  # service restart
        assert server.wait() == EXIT_CODES[number], server.output
        assert_orderly(server)


def test_keep_alive_expires(loop_spec):
    with uvicorn(loop_spec, "--timeout-keep-alive", "1") as server, server.wire() as wire:
        wire.send(say("hello"))
        assert wire.response() == (200, b"hello")
        assert wire.reader.read() == b""
        assert server.stop(signal.SIGTERM) == -signal.SIGTERM, server.output
        assert_orderly(server)


def test_after_a_number_of_requests(loop_spec):
    with uvicorn(loop_spec, "--limit-max-requests", "3") as server, server.wire() as wire:
        wire.send(say(1) + say(2) + say(3))
        assert [wire.response() for _ in range(3)] == [(200, b"1"), (200, b"2"), (200, b"3")]
        assert server.wait() == 0
        server.heard("Maximum request limit of 3 exceeded")
        assert_orderly(server)


def test_port_in_use(loop_spec):
    with uvicorn(loop_spec) as server:
        with uvicorn(loop_spec, "--port", str(server.address[1])) as second:
            assert second.wait() == 3  # uvicorn's STARTUP_FAILURE
            second.heard("address already in use")
        assert server.get("/say?word=still") == b"still"


@BOTH
def test_workers(loop_spec, number):
    with uvicorn(loop_spec, "--workers", "2") as server:
        server.heard("Application startup complete", times=2)
        assert server.get("/say?word=up") == b"up"
        assert server.stop(number) == 0, server.output
        server.heard("app: shutdown", times=2)
        # The supervisor, which runs no loop, leaves its listening socket to the interpreter.
        assert [line for line in server.trouble if "ResourceWarning" not in line] == []
