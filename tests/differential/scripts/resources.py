"""What is let go, and what warns: unclosed transports and loops, references, descriptors."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
import weakref
from typing import Any

from ..trace import Trace, case
from ..wire import finish, pair, read_end, read_rest, send


class Plain(asyncio.Protocol):
    """A protocol that weak references can be made to."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _collect(trace: Trace) -> None:
    """Collect garbage and record the warnings (but of sockets) by their first words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    texts = sorted({f"{w.category.__name__}: {w.message}" for w in caught})
    # A warning has the loop it is about; asyncio's has not closed itself if its sockets were
    # finalized before it, and keeps its epoll descriptor as long as it lives.
    caught.clear()
    gc.collect()
    for warning in texts:
        if "socket.socket" not in warning:  # which object goes first is chance
            trace("warned", " ".join(warning.split()[:3]))


@case
def unclosed_loop(trace: Trace) -> None:
    """A loop that is dropped without close() warns, and closes its descriptors."""
    factory = type(trace.loop)
    files = _open_files()
    loop = factory()
    loop.run_until_complete(asyncio.sleep(0))
    del loop
    _collect(trace)
    trace("files", _open_files() - files)


@case
def unclosed_transport(trace: Trace) -> None:
    """An open transport that is dropped with its loop warns, and its peer sees the end."""
    near, far = pair(trace)

    def open_and_drop() -> None:
        # The transport owns the only socket object of this descriptor.
        loop = type(trace.loop)()
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=near.dup()))
        loop.close()

    open_and_drop()
    near.close()
    _collect(trace)
    trace("peer has", *read_rest(far))


@case
async def lost_connections_are_let_go(trace: Trace) -> None:
    """After connection_lost neither protocol nor transport is kept by the loop."""
    near, far = pair(trace)
    protocol = Plain()
    transport = await trace.connect(protocol, near)
    dead = [weakref.ref(protocol), weakref.ref(transport)]
    finish(far, near)
    await read_end(far)
    await trace.turns(2)
    del protocol, transport
    gc.collect()
    trace("left", [each() for each in dead])


@case
async def descriptors_come_back(trace: Trace) -> None:
    """A hundred connections, however they end, leave no descriptor open."""
    files = _open_files()
    for number in range(100):
        near, far = pair(trace)
        client = Plain()
        transport = await trace.connect(client, near)
        transport.write(b"data")
        send(far, near, b"data")
        (transport.close, transport.abort, far.close)[number % 3]()
        await trace.turns(4)
        far.close()
    trace("files", _open_files() - files)


@case
async def callbacks_are_let_go(trace: Trace) -> None:
    """A callback, its arguments and its context are let go once it ran or was cancelled."""

    class Argument:
        def method(self) -> None: ...

    dead = []
    for how in ("runs", "is cancelled", "is a timer", "is a cancelled timer"):
        argument = Argument()
        dead.append(weakref.ref(argument))
        if "timer" in how:
            handle: Any = trace.loop.call_later(0, argument.method)
        else:
            handle = trace.loop.call_soon(argument.method)
        if "cancelled" in how:
            handle.cancel()
        del argument, handle
    await trace.turns(3)
    gc.collect()
    trace("left", [each() for each in dead])


@case
def cycles_through_the_loop(trace: Trace) -> None:
    """A loop that refers to itself through callbacks and handlers is collected."""
    loop: Any = type(trace.loop)()
    dead = weakref.ref(loop)
    loop.mine = loop
    loop.set_exception_handler(lambda *args, loop=loop: None)
    loop.call_soon(lambda loop=loop: loop)
    loop.call_later(1000, lambda loop=loop: loop)
    loop.close()
    del loop
    gc.collect()
    trace("left", dead())
