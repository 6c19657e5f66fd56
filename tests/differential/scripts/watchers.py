"""add_reader, add_writer, remove_*: arguments, order, replacing, removing, errors, contexts."""

from __future__ import annotations

import os
import socket
import tempfile
from typing import Any

from ..trace import PLACE, Trace, case, raises


def _pair(trace: Trace) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that do not block."""
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)
        trace.enter(sock)
    return near, far


def _turns(trace: Trace, count: int = 1) -> None:
    for _ in range(count):
        trace.loop.call_soon(trace.loop.stop)
        trace.loop.run_forever()


class _Numbered:
    """An object that tells a number, or fails to."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"Numbered({self.number!r})"

    def fileno(self) -> Any:
        if isinstance(self.number, Exception):
            raise self.number
        return self.number


@case
def what_can_be_watched(trace: Trace) -> None:
    """Numbers, objects with a number, and what is neither."""
    loop = trace.loop
    wrong = [None, 3.0, "text", b"bytes", _Numbered(None), _Numbered("x"), -1, -100, _Numbered(-1)]
    wrong += [_Numbered(exc("e")) for exc in (ValueError, TypeError, AttributeError, LookupError)]
    for what in [*wrong, 1 << 20, (1 << 31) - 1]:
        trace.call(loop.add_reader, what, print)
        trace.call(loop.add_writer, what, print)
        trace.call(loop.remove_reader, what)
        trace.call(loop.remove_writer, what)
    for what in (1 << 31, 1 << 80, _Numbered(1 << 40)):
        trace.refused(loop.add_reader, what, print)
        trace.call(loop.remove_reader, what)


@case
def regular_files(trace: Trace) -> None:
    """What epoll refuses."""
    with tempfile.TemporaryFile() as file:
        number = file.fileno()
        for what in (number, _Numbered(number)):
            for method in (trace.loop.add_reader, trace.loop.add_writer):
                try:
                    method(what, print)
                except OSError as exc:
                    trace("refused", exc)
        trace("removed", trace.loop.remove_reader(number), trace.loop.remove_writer(number))


@case
def readers_and_writers(trace: Trace) -> None:
    """Both sides of one descriptor, in each turn, the reader first."""
    loop = trace.loop
    near, far = _pair(trace)
    far.send(b"data")
    loop.add_writer(near, trace.callback("writer"), 1, "two")
    _turns(trace)
    loop.add_reader(near, trace.callback("reader"), 3)
    _turns(trace, 2)
    trace("removed", loop.remove_writer(near.fileno()), loop.remove_writer(near))
    _turns(trace)
    trace("removed", loop.remove_reader(near), loop.remove_reader(near))
    _turns(trace)


@case
def replacing(trace: Trace) -> None:
    """The last one counts; one that was replaced loses its turn."""
    loop = trace.loop
    near, far = _pair(trace)
    far.send(b"data")
    loop.add_reader(near, trace.callback("first"))
    loop.add_reader(near, trace.callback("second"))
    _turns(trace)
    loop.call_soon(lambda: loop.add_reader(near, trace.callback("third")))
    _turns(trace, 2)
    loop.add_reader(
        near, trace.callback("itself", lambda: loop.add_reader(near, trace.callback("other")))
    )
    _turns(trace, 2)
    trace("removed", loop.remove_reader(near))


@case
def removing_in_callbacks(trace: Trace) -> None:
    """A callback removes itself, or the other side, or replaces the other side."""
    loop = trace.loop
    near, far = _pair(trace)
    far.send(b"data")
    loop.add_reader(near, trace.callback("itself", lambda: loop.remove_reader(near)))
    _turns(trace, 2)
    loop.add_reader(near, trace.callback("reader", lambda: loop.remove_writer(near)))
    loop.add_writer(near, trace.callback("writer"))
    _turns(trace, 2)
    loop.add_reader(
        near, trace.callback("reader", lambda: loop.add_writer(near, trace.callback("new")))
    )
    loop.add_writer(near, trace.callback("old"))
    _turns(trace, 2)
    loop.call_soon(loop.remove_reader, near)
    _turns(trace)
    trace("removed", loop.remove_reader(near), loop.remove_writer(near))


@case
def ends_and_errors(trace: Trace) -> None:
    """A peer that is gone wakes both sides."""
    loop = trace.loop
    near, far = _pair(trace)
    far.close()
    loop.add_reader(near, trace.callback("reader"))
    _turns(trace)
    loop.add_writer(near, trace.callback("writer"))
    _turns(trace)
    loop.remove_reader(near)
    _turns(trace)
    loop.remove_writer(near)
    read, write = os.pipe()
    loop.add_writer(write, trace.callback("pipe"))
    os.close(read)
    _turns(trace)
    loop.remove_writer(write)
    os.close(write)


@case
def exceptions(trace: Trace) -> None:
    """What the exception handler is told; what leaves the run."""
    loop = trace.loop
    near, far = _pair(trace)
    far.send(b"data")
    loop.add_reader(near, raises(ValueError("text")))
    _turns(trace, 2)
    loop.add_reader(near, None)
    _turns(trace)

    def leaves() -> None:
        loop.remove_reader(near)
        raise KeyboardInterrupt("text")

    loop.add_reader(near, leaves)
    trace.call(loop.run_forever)
    trace("removed", loop.remove_reader(near))


@case
def contexts(trace: Trace) -> None:
    """Each callback runs in a copy of the context it was added in."""
    loop = trace.loop
    near, far = _pair(trace)
    far.send(b"data")
    PLACE.set("reader's")
    loop.add_reader(near, trace.callback("reader"))
    PLACE.set("writer's")
    loop.add_writer(near, trace.callback("writer"))
    PLACE.set("afterwards")
    _turns(trace)
    loop.remove_reader(near)
    loop.remove_writer(near)


@case
def closed_meanwhile(trace: Trace) -> None:
    """A descriptor that was closed behind the loop's back."""
    loop = trace.loop
    near, _ = _pair(trace)
    number = near.fileno()
    loop.add_reader(number, trace.callback("never"))
    near.close()
    _turns(trace)
    trace("by number", loop.remove_reader(number), loop.remove_reader(number))
    near, _ = _pair(trace)
    loop.add_reader(near, trace.callback("never"))
    near.close()
    _turns(trace)
    trace("by object", loop.remove_reader(near))
    trace.call(loop.remove_reader, trace.name(near, "closed socket"))


@case
def duplicates(trace: Trace) -> None:
    """A duplicate is a descriptor of its own."""
    loop = trace.loop
    near, far = _pair(trace)
    copy = trace.enter(near.dup())
    far.send(b"data")
    loop.add_reader(copy, trace.callback("copy"))
    _turns(trace)
    near.close()
    _turns(trace)
    trace("removed", loop.remove_reader(copy))


@case
async def of_transports(trace: Trace) -> None:
    """Descriptors of transports are refused."""
    loop = trace.loop
    near, _ = _pair(trace)
    transport = await trace.connect(trace.protocol("client"), near)
    number = near.fileno()
    for method in (loop.add_reader, loop.add_writer):
        try:
            method(near, print)
        except RuntimeError as exc:
            trace("refused", str(exc).replace(repr(transport), "it"))
    for method in (loop.remove_reader, loop.remove_writer):
        try:
            method(number)
        except RuntimeError as exc:
            trace("refused", str(exc).replace(repr(transport), "it").replace(str(number), "N"))


@case
async def of_servers(trace: Trace) -> None:
    """A listening socket's reader can be taken away, and then the server is deaf."""
    loop = trace.loop
    server = await loop.create_server(lambda: trace.protocol("server"), "127.0.0.1", 0)
    number = server.sockets[0].fileno()
    trace("writer", loop.remove_writer(number))
    trace("reader", loop.remove_reader(number), loop.remove_reader(number))
    with socket.create_connection(server.sockets[0].getsockname()):
        await trace.turns(3)
    server.close()


@case
def on_a_closed_loop(trace: Trace) -> None:
    """Removing does nothing, adding is refused."""
    loop = trace.loop
    near, _ = _pair(trace)
    loop.add_reader(near, trace.callback("never"))
    loop.close()
    for what in (near.fileno(), -1, _Numbered(-1), "text"):
        for method in (loop.remove_reader, loop.remove_writer):
            trace("remove", type(what), _outcome(method, what))
        for method in (loop.add_reader, loop.add_writer):
            trace("add", type(what), _outcome(method, what, print))


def _outcome(method: Any, *args: Any) -> Any:
    try:
        return method(*args)
    except Exception as exc:
        return exc
