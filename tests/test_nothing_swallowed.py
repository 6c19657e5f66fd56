"""What user code raises is dropped nowhere, however far from a callback it runs.

KeyboardInterrupt here stands for what a signal handler raises at that moment.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from .support import (
    PYTHON,
    BufferedRecorder,
    Recorder,
    run_limited,
    skip_stock_bug,
    tcp_pair,
    turns,
)

RAISED = [KeyboardInterrupt, SystemExit, RuntimeError]


class Raises:
    """Raises when it is asked for a number."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.asked = 0

    def __index__(self) -> int:
        self.asked += 1
        raise self.error("asked")

    def __float__(self) -> float:
        return 1.0

    def __floordiv__(self, other: object) -> int:
        return 1

    def __ge__(self, other: object) -> bool:
        return True

    __lt__ = __gt__ = __le__ = __ge__


def make_socket(attribute: str, error: type[BaseException]) -> tuple[Any, socket.socket]:
    """Return a connected socket whose `attribute` raises, and its peer."""

    class Odd(socket.socket):
        def fail(self, *_: object) -> Any:
            raise error(attribute)

    kind = type("Odd", (Odd,), {attribute: property(Odd.fail)})
    left, right = tcp_pair()
    sock = kind(fileno=left.detach())
    socket.socket.setblocking(sock, False)
    return sock, right


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio leaves the socket to its owner
@pytest.mark.parametrize("error", RAISED)
def test_attributes_of_a_socket(loop, error):
    """`family` is read for TCP_NODELAY."""
    sock, peer = make_socket("family", error)
    with pytest.raises(error, match="family"):
        loop.run_until_complete(loop.create_connection(Recorder, sock=sock))
    assert loop.run_until_complete(asyncio.sleep(0, "goes on")) == "goes on"
    socket.socket.close(sock)
    peer.close()


@pytest.mark.parametrize("error", RAISED)
def test_the_size_of_sock_recv(loop, error):
    left, right = tcp_pair()
    right.send(b"x")
    left.setblocking(False)
    size = Raises(error)
    with left, right, pytest.raises(error, match="asked"):
        loop.run_until_complete(loop.sock_recv(left, size))
    assert size.asked == 1


class OddArguments:
    """Raises when it is iterated for the first time: that is for the call."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error: type[BaseException] | None = error

    def __iter__(self) -> Any:
        error, self.error = self.error, None
        if error is not None:
            raise error("iterated")
        return iter(())


class TestArgumentsOfAHandle:
    """`_args` may be replaced by any iterable, which runs when the call does."""

    @pytest.mark.parametrize("kept", [True, False])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_what_leaves_the_loop(self, loop, error, kept):
        handle = loop.call_soon(print)
        handle._args = OddArguments(error)
        if not kept:
            del handle
        with pytest.raises(error, match="iterated"):
            turns(loop)

    @pytest.mark.parametrize("kept", [True, False])
    def test_what_is_reported(self, loop, error_contexts, kept):
        handle = loop.call_soon(print)
        handle._args = OddArguments(LookupError)
        if not kept:
            del handle
        turns(loop)
        (context,) = error_contexts
        error_contexts.clear()
        assert isinstance(context["exception"], LookupError)
        assert "Exception in callback print(" in context["message"]

    def test_any_iterable_will_do(self, loop):
        called = []
        loop.call_soon(lambda *args: called.append(args))._args = iter("ab")
        loop.call_soon(lambda *args: called.append(args))._args = {1: 2}
        turns(loop)
        assert called == [("a", "b"), (1,)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_limits_of_the_write_buffer(loop, network, loop_spec, error):
    """asyncio never asks for a number; that we do must not swallow what comes of it."""
    skip_stock_bug(loop_spec, True, "compares what it is given with the size, later on")
    transport, _, _ = run_limited(loop, network.connect())
    with pytest.raises(error, match="asked"):
        transport.set_write_buffer_limits(high=Raises(error))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_callback_that_cannot_be_looked_up_in_debug_mode(loop, network, error):
    class Protocol(Recorder):
        armed = False

        @property
        def data_received(self) -> Any:
            if self.armed:
                raise error("looked up")
            return super().data_received

    _, protocol, peer = run_limited(loop, network.connect(Protocol()))
    loop.set_debug(True)
    protocol.armed = True
    peer.send(b"x")
    with pytest.raises(error, match="looked up"):
        run_limited(loop, protocol.lost())
    loop.set_debug(False)
    protocol.armed = False


@pytest.mark.skipif(PYTHON < (3, 12), reason="__buffer__ is new in 3.12")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_memory_that_raises(loop, network, loop_spec, error):
    skip_stock_bug(loop_spec, True, "socket.recv_into makes a TypeError of it")

    class Buffer:
        def __len__(self) -> int:
            return 10

        def __buffer__(self, flags: int) -> memoryview:
            raise error("memory")

    class Protocol(BufferedRecorder):
        def get_buffer(self, sizehint: int) -> Any:
            return Buffer()

    _, protocol, peer = run_limited(loop, network.connect(Protocol()))
    peer.send(b"x")
    with pytest.raises(error, match="memory"):
        run_limited(loop, protocol.lost())


class Closes(socket.socket):
    """A socket whose `close` raises, once."""

    error: BaseException | None = None

    def close(self) -> None:
        super().close()
        error, self.error = self.error, None
        if error is not None:
            raise error


def lose(loop: Any, lost: BaseException, closed: BaseException) -> tuple[Any, Any]:
    """Close a connection whose connection_lost raises, then its socket's close."""

    class Protocol(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            raise lost

    left, right = tcp_pair()
    sock = Closes(fileno=left.detach())
    sock.setblocking(False)
    transport, _ = loop.run_until_complete(loop.create_connection(Protocol, sock=sock))
    sock.error = closed
    transport.close()
    try:
        turns(loop, 3)
    finally:
        right.close()
    return transport, sock


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio's transport is not done then
class TestTwoErrors:
    def test_the_first_is_the_context_of_the_second(self, loop, error_contexts):
        lost, closed = LookupError("connection_lost"), ValueError("close")
        lose(loop, lost, closed)
        (context,) = error_contexts
        error_contexts.clear()
        assert context["exception"] is closed
        assert closed.__context__ is lost

    @pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_what_leaves_the_loop_is_not_replaced(self, loop, loop_spec, monkeypatch, kind, first):
        skip_stock_bug(loop_spec, first, "the second one takes its place")
        unraisable: list[BaseException | None] = []
        monkeypatch.setattr("sys.unraisablehook", lambda args: unraisable.append(args.exc_value))
        leaving, other = kind("leaves"), ValueError("other")
        lost, closed = (leaving, other) if first else (other, leaving)
        with pytest.raises(kind) as caught:
            lose(loop, lost, closed)
        assert caught.value is leaving
        assert closed.__context__ is lost
        # The other one is seen, too: by its context, or here.
        assert unraisable == ([other] if first else [])
        turns(loop)
