"""Protocols that lack a callback or raise in one: the call that opens the transport ends, what went
wrong is raised or reported, and nothing is left."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from .processes import children
from .support import PYTHON, descriptors, skip_stock_bug, until

STREAM = ("connection_made", "data_received", "eof_received", "connection_lost")
DATAGRAM = ("connection_made", "datagram_received", "connection_lost")
WRITER = ("connection_made", "connection_lost")
PROCESS = (
    "connection_made",
    "pipe_data_received",
    "pipe_connection_lost",
    "process_exited",
    "connection_lost",
)


def protocol_class(names: tuple[str, ...], raising: str | None = None) -> Any:
    """Return a class with these callbacks, which record themselves; one raises."""

    def callback(name: str) -> Any:
        def call(self: Any, *arguments: Any) -> None:
            self.calls.append(name)
            if name == raising:
                raise LookupError(name)

        return call

    def init(self: Any) -> None:
        self.calls = []

    return type("Protocol", (), {"__init__": init, **{name: callback(name) for name in names}})


class Kind:
    """A way to open a transport, and to set off each of its callbacks."""

    def __init__(self, names: tuple[str, ...], open: Any) -> None:
        self.names = names
        self.open = open


async def connected(loop, factory):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, protocol = await loop.create_connection(factory, *listener.getsockname())
        peer, _ = listener.accept()
    with peer:
        peer.send(b"data")
    return transport, protocol


async def accepted(loop, factory):
    ours, theirs = socket.socketpair()
    with theirs:
        result = await loop.connect_accepted_socket(factory, ours)
        theirs.send(b"data")
    return result


async def datagrams(loop, factory):
    transport, protocol = await loop.create_datagram_endpoint(factory, local_addr=("127.0.0.1", 0))
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"data", transport.get_extra_info("sockname"))
    return transport, protocol


async def read_pipe(loop, factory):
    reader, writer = os.pipe()
    pipe = os.fdopen(reader, "rb", 0)
    try:
        result = await loop.connect_read_pipe(factory, pipe)
        os.write(writer, b"data")
        return result
    except (LookupError, AttributeError):
        # It stays the caller's.
        pipe.close()
        raise
    finally:
        os.close(writer)


async def write_pipe(loop, factory):
    reader, writer = os.pipe()
    pipe = os.fdopen(writer, "wb", 0)
    try:
        return await loop.connect_write_pipe(factory, pipe)
    except (LookupError, AttributeError):
        # It stays the caller's.
        pipe.close()
        raise
    finally:
        os.close(reader)


async def process(loop, factory):
    return await loop.subprocess_exec(factory, "echo", "data")


KINDS = {
    "connected": Kind(STREAM, connected),
    "accepted": Kind(STREAM, accepted),
    "datagrams": Kind(DATAGRAM, datagrams),
    "read_pipe": Kind(STREAM, read_pipe),
    "write_pipe": Kind(WRITER, write_pipe),
    "process": Kind(PROCESS, process),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def nothing_left(loop):
    """Whether all is as before."""
    before = set(descriptors()), children()
    return lambda: (set(descriptors()), children()) == before


CASES = [
    pytest.param(kind, callback, id=f"{name}-{callback}")
    for name, kind in KINDS.items()
    for callback in kind.names
]


async def test_the_factory_raises(loop, loop_spec, kind, nothing_left):
    skip_stock_bug(loop_spec, kind is KINDS["datagrams"], "the socket is left to the collector")
    skip_stock_bug(loop_spec, PYTHON < (3, 14), "the socket stays open")

    def factory():
        raise LookupError("factory")

    with pytest.raises(LookupError, match="factory"):
        await kind.open(loop, factory)
    await until(nothing_left)


@pytest.mark.parametrize("factory", [lambda: None, int, object], ids=["None", "int", "object"])
async def test_no_protocol_at_all(loop, loop_spec, error_contexts, kind, factory, nothing_left):
    skip_stock_bug(loop_spec, True, "half a transport stays open; a subprocess may wait for ever")
    with pytest.raises(AttributeError, match="has no attribute 'connection_made'"):
        await kind.open(loop, factory)
    await until(nothing_left)
    for context in error_contexts:
        assert isinstance(context["exception"], AttributeError)
    error_contexts.clear()


@pytest.mark.parametrize(("kind", "missing"), CASES)
async def test_a_callback_is_missing(loop, loop_spec, error_contexts, kind, missing, nothing_left):
    skip_stock_bug(
        loop_spec,
        kind is KINDS["read_pipe"] and missing == "eof_received",
        "the pipe stays open",
    )
    skip_stock_bug(
        loop_spec,
        missing == "connection_made",
        "half a transport stays open; a subprocess may wait for ever",
    )
    present = tuple(name for name in kind.names if name != missing)
    message = f"has no attribute '{missing}'"
    if missing == "connection_made":
        with pytest.raises(AttributeError, match=message):
            await kind.open(loop, protocol_class(present))
        await until(nothing_left)
        assert error_contexts == []
        return
    transport, protocol = await kind.open(loop, protocol_class(present))
    if missing != "connection_lost":
        await until(lambda: error_contexts or is_over(kind, protocol))
    await end(kind, transport, protocol)
    await until(lambda: error_contexts and nothing_left())
    for context in error_contexts:
        assert isinstance(context["exception"], AttributeError)
        assert message in str(context["exception"])
    error_contexts.clear()


@pytest.mark.parametrize(("kind", "raising"), CASES)
async def test_a_callback_raises(loop, loop_spec, error_contexts, kind, raising, nothing_left):
    transport, protocol = await kind.open(loop, protocol_class(kind.names, raising))
    if raising != "connection_lost":
        await until(lambda: raising in protocol.calls)
    await end(kind, transport, protocol)
    await until(lambda: "connection_lost" in protocol.calls and nothing_left())
    assert set(kind.names) - set(protocol.calls) <= {"eof_received"}
    for context in error_contexts:
        assert isinstance(context["exception"], LookupError)
        assert context["exception"].args == (raising,)
    assert error_contexts
    error_contexts.clear()


def is_over(kind: Kind, protocol: Any) -> bool:
    return "connection_lost" in protocol.calls or set(kind.names[1:-1]) <= set(protocol.calls)


async def end(kind: Kind, transport: Any, protocol: Any) -> None:
    """Close the transport once all callbacks before that have been made, or cannot be."""
    expected = [name for name in kind.names[1:-1] if hasattr(protocol, name)]
    if kind is KINDS["datagrams"] or kind is KINDS["process"]:
        await until(lambda: set(expected) <= set(protocol.calls))
    elif expected:
        # An error in data_received closes the connection before the end of the stream.
        await until(lambda: expected[0] in protocol.calls or "connection_lost" in protocol.calls)
    transport.close()
