"""Datagram endpoints: callbacks and their order, errors, what waits, arguments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from typing import Any

from ..trace import PLACE, Trace, case
from ..wire import TIME_LIMIT

ANY = ("127.0.0.1", 0)


class Endpoint(asyncio.DatagramProtocol):
    """Records its callbacks, then does what the hook for each says."""

    def __init__(self, trace: Trace, name: str, **hooks: Any) -> None:
        self.trace = trace
        self.name = name
        self.hooks = hooks
        self.transport: Any = None
        self.calls: list[str] = []

    def _record(self, call: str, *args: Any) -> None:
        self.calls.append(call)
        self.trace(f"{self.name}.{call}", *args, lane=self.name)
        hook = self.hooks.get(call)
        if hook is not None:
            hook(*args)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.trace.name(transport, f"{self.name}.transport")
        self._record("connection_made", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._record("datagram_received", data, addr)

    def error_received(self, exc: Exception) -> None:
        self._record("error_received", exc)

    def pause_writing(self) -> None:
        self._record("pause_writing")

    def resume_writing(self) -> None:
        self._record("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self._record("connection_lost", exc)

    async def called(self, call: str, times: int = 1) -> None:
        """Wait for that many calls."""
        while self.calls.count(call) < times:
            await asyncio.sleep(0.001)


async def _open(trace: Trace, name: str, *, hooks: Any = None, **options: Any) -> Any:
    protocol = Endpoint(trace, name, **(hooks or {}))
    options = options or {"local_addr": ANY}
    await trace.loop.create_datagram_endpoint(lambda: protocol, **options)
    return protocol


def _peer(trace: Trace, family: int = socket.AF_INET, name: Any = ANY) -> socket.socket:
    peer: socket.socket = trace.enter(contextlib.closing(socket.socket(family, socket.SOCK_DGRAM)))
    peer.settimeout(TIME_LIMIT)
    peer.bind(name)
    return peer


@case
async def exchange(trace: Trace) -> None:
    """There and back, and the end."""
    PLACE.set("made")
    one = await _open(trace, "one")
    peer = _peer(trace)
    PLACE.set("later")
    for data in (b"ping", b"", b"pong"):
        peer.sendto(data, one.transport.get_extra_info("sockname"))
    await one.called("datagram_received", 3)
    trace.call(one.transport.sendto, b"back", peer.getsockname())
    trace("peer has", peer.recvfrom(10))
    PLACE.set("closing")
    trace.call(one.transport.close)
    trace.call(one.transport.close)
    trace.call(one.transport.is_closing)
    await one.called("connection_lost")
    await trace.turns(2)
    trace("repr", repr(one.transport))
    trace.call(one.transport.get_protocol)


@case
async def extra_info(trace: Trace) -> None:
    """Names, socket, and what there is not."""
    peer = _peer(trace)
    one = await _open(trace, "one", remote_addr=peer.getsockname())
    for key in ("peername", "sockname", "socket", "nothing"):
        trace(key, one.transport.get_extra_info(key, "default"))
    trace("address", one.transport._address)
    trace("limits", one.transport.get_write_buffer_limits())
    trace("repr", repr(one.transport))
    one.transport.abort()
    await one.called("connection_lost")
    trace("peername", one.transport.get_extra_info("peername"))


@case
async def callbacks_between_datagrams(trace: Trace) -> None:
    """What a callback queues comes before the next datagram."""
    loop = trace.loop

    def received(data: bytes, addr: Any) -> None:
        if data == b"1":
            loop.call_soon(trace.callback("soon", lambda: loop.call_soon(trace.callback("then"))))

    one = await _open(trace, "one", hooks={"datagram_received": received})
    peer = _peer(trace)
    for number in range(4):
        peer.sendto(b"%d" % number, one.transport.get_extra_info("sockname"))
    await one.called("datagram_received", 4)
    one.transport.abort()


@case
async def refused_arguments(trace: Trace) -> None:
    """Of sendto: data, addresses of a connected endpoint."""
    peer = _peer(trace)
    one = await _open(trace, "one", remote_addr=peer.getsockname())
    for data in ("text", 1, None):
        trace.call(one.transport.sendto, data)
    for address in (("127.0.0.1", 1), "nothing", (), 0):
        trace.call(one.transport.sendto, b"data", address)
    trace.call(one.transport.sendto, b"data", peer.getsockname())
    trace("peer has", peer.recv(10))
    one.transport.abort()
    await one.called("connection_lost")


@case
async def impossible_addresses(trace: Trace) -> None:
    """What no socket takes ends the endpoint, what no resolver knows is told."""
    for number, address in enumerate(
        [None, "text", ("127.0.0.1",), ("127.0.0.1", "80"), ("127.0.0.1", 1 << 16), (1, 2)]
    ):
        one = await _open(trace, f"endpoint{number}")
        trace.call(one.transport.sendto, b"data", address)
        await one.called("connection_lost")
    one = await _open(trace, "last")
    trace.call(one.transport.sendto, b"data", ("256.256.256.256", 1))
    trace("closing", one.transport.is_closing())
    one.transport.abort()
    await one.called("connection_lost")


@case
async def system_errors(trace: Trace) -> None:
    """Too large a datagram; nobody there; then all goes on."""
    peer = _peer(trace)
    address = peer.getsockname()
    one = await _open(trace, "one", remote_addr=address)
    PLACE.set("sender")
    trace.call(one.transport.sendto, bytes(70_000))
    peer.close()
    trace.call(one.transport.sendto, b"data")
    await one.called("error_received", 2)
    trace("closing", one.transport.is_closing())
    one.transport.close()
    await one.called("connection_lost")


@case
async def callbacks_that_raise(trace: Trace) -> None:
    """datagram_received, error_received in an event and in sendto, connection_lost."""

    def fail(*args: Any) -> None:
        raise ValueError("no luck")

    hooks = dict.fromkeys(("datagram_received", "error_received", "connection_lost"), fail)
    peer = _peer(trace)
    one = await _open(trace, "one", hooks=hooks, remote_addr=peer.getsockname())
    peer.sendto(b"data", one.transport.get_extra_info("sockname"))
    await one.called("datagram_received")
    trace.call(one.transport.sendto, bytes(70_000))
    peer.close()
    trace.call(one.transport.sendto, b"data")
    await one.called("error_received", 2)
    one.transport.close()
    await one.called("connection_lost")
    await trace.turns(2)


@case
async def late_sends(trace: Trace) -> None:
    """Dropped; the fifth and later are told."""
    peer = _peer(trace)
    one = await _open(trace, "one", remote_addr=peer.getsockname())
    one.transport.close()
    for _ in range(7):
        trace.call(one.transport.sendto, b"late")
    await one.called("connection_lost")


@case(broken=((3, 13), (3, 13, 99)))
async def a_queue(trace: Trace) -> None:
    """What a full peer makes wait: sizes, pause and resume, a close behind it, contexts."""
    folder = trace.enter(tempfile.TemporaryDirectory())
    peer = _peer(trace, socket.AF_UNIX, os.path.join(folder, "peer"))
    PLACE.set("made")
    one = await _open(trace, "one", family=socket.AF_UNIX, remote_addr=peer.getsockname())
    one.transport.set_write_buffer_limits(high=30)
    PLACE.set("sender")
    sent = 0
    while one.transport.get_write_buffer_size() == 0:
        one.transport.sendto(b"%03d" % sent)
        sent += 1
    trace("sent", sent)
    for _ in range(20):
        one.transport.sendto(b"more")
    trace.call(one.transport.get_write_buffer_size)
    trace("repr", repr(one.transport))
    PLACE.set("closer")
    one.transport.close()
    got = [await asyncio.to_thread(peer.recv, 10) for _ in range(sent + 20)]
    trace("got", b" ".join(got))
    await one.called("connection_lost")


@case
async def arguments(trace: Trace) -> None:
    """Of create_datagram_endpoint: what does not fit together, in asyncio's order and words."""
    stream = trace.enter(contextlib.closing(socket.socket()))
    datagrams = _peer(trace)
    tries: list[dict[str, Any]] = [
        {},
        {"proto": 17},
        {"local_addr": "text"},
        {"local_addr": ["127.0.0.1", 0]},
        {"remote_addr": ("127.0.0.1", 1, 2)},
        {"local_addr": ANY, "remote_addr": ("::1", 1)},
        {"local_addr": ("::1", 0), "family": socket.AF_INET},
        {"family": socket.AF_UNIX, "local_addr": ANY},
        {"family": socket.AF_UNIX, "remote_addr": b"bytes"},
        {"local_addr": datagrams.getsockname()},
        {"sock": stream, "local_addr": ANY},
        {"sock": stream},
    ]
    for options in tries:
        label = ", ".join(options)
        await trace.wait(
            label, trace.loop.create_datagram_endpoint(lambda: Endpoint(trace, "none"), **options)
        )
