"""Every method of a TCP transport in every state of its connection.

Each pair of a state and a method has a connection of its own: the state is reached, the method is
called, and then whatever still happens until the connection is lost is recorded.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..trace import Trace, case
from ..wire import finish, pair, read_end, send

QUESTIONS = (
    "is_closing",
    "is_reading",
    "can_write_eof",
    "get_write_buffer_size",
    "get_write_buffer_limits",
    "get_protocol",
)
METHODS: tuple[tuple[Any, ...], ...] = (
    ("pause_reading",),
    ("resume_reading",),
    ("write", b"written late"),
    ("write_eof",),
    ("set_write_buffer_limits", 1000, 100),
    ("close",),
    ("abort",),
    ("get_extra_info", "nothing"),
)


BUFFER = 300_000
"""Bytes that the states with a buffer have written: far more than the kernel takes."""


class Connection:
    """A transport and its far end, for one method in one state."""

    def __init__(self, trace: Trace, small: bool = False, keep_open: bool = False) -> None:
        self.trace = trace
        self.near, self.far = pair(trace, small)
        self.protocol = trace.protocol("client", eof_received=lambda: keep_open)
        self.transport: Any = None

    async def open(self) -> Connection:
        self.transport = await self.trace.connect(self.protocol, self.near)
        return self

    def set_protocol(self) -> None:
        """Hand over to another protocol."""
        self.protocol = self.trace.protocol("other")
        self.trace.call(self.transport.set_protocol, self.protocol)
        self.trace.call(self.transport.get_protocol)

    async def end(self) -> None:
        """Close; record what the peer got, of zeros (the buffer) only whether all came."""
        receiving = asyncio.ensure_future(read_end(self.far))
        self.transport.close()
        await self.protocol.lost()
        data, end = await receiving
        self.trace("peer has", data.strip(b"\0"), len(data) >= BUFFER, end)


async def _all_methods(trace: Trace, reach: Any, questions: tuple[str, ...] = QUESTIONS) -> None:
    connection = await reach()
    for name in questions:
        trace.call(getattr(connection.transport, name))
    await connection.end()
    for name, *arguments in METHODS:
        connection = await reach()
        trace.call(getattr(connection.transport, name), *arguments)
        for question in QUESTIONS[:2]:
            trace.call(getattr(connection.transport, question))
        await connection.end()
    connection = await reach()
    connection.set_protocol()
    await connection.end()


@case
async def connected(trace: Trace) -> None:
    """An open connection."""

    async def reach() -> Connection:
        return await Connection(trace).open()

    await _all_methods(trace, reach)


@case
async def reading_paused(trace: Trace) -> None:
    """An open connection that does not read."""

    async def reach() -> Connection:
        connection = await Connection(trace).open()
        connection.transport.pause_reading()
        return connection

    await _all_methods(trace, reach)


@case
async def own_end_written(trace: Trace) -> None:
    """After write_eof()."""

    async def reach() -> Connection:
        connection = await Connection(trace).open()
        connection.transport.write_eof()
        return connection

    await _all_methods(trace, reach)


@case
async def end_received(trace: Trace) -> None:
    """After the peer's end, kept open by eof_received."""

    async def reach() -> Connection:
        connection = await Connection(trace, keep_open=True).open()
        finish(connection.far, connection.near)
        await connection.protocol.called("eof_received")
        return connection

    await _all_methods(trace, reach)


@case
async def both_ends(trace: Trace) -> None:
    """After both ends, kept open by eof_received."""

    async def reach() -> Connection:
        connection = await Connection(trace, keep_open=True).open()
        connection.transport.write_eof()
        finish(connection.far, connection.near)
        await connection.protocol.called("eof_received")
        return connection

    await _all_methods(trace, reach)


@case
async def buffer_not_sent(trace: Trace) -> None:
    """While the peer does not read and the transport holds data."""

    async def reach() -> Connection:
        connection = await Connection(trace, small=True).open()
        connection.transport.set_write_buffer_limits(high=1 << 30)
        connection.transport.write(bytes(BUFFER))
        return connection

    await _all_methods(trace, reach, QUESTIONS[:3])


@case
async def end_behind_a_buffer(trace: Trace) -> None:
    """After write_eof(), while the buffer is being sent."""

    async def reach() -> Connection:
        connection = await Connection(trace, small=True).open()
        connection.transport.set_write_buffer_limits(high=1 << 30)
        connection.transport.write(bytes(BUFFER))
        connection.transport.write_eof()
        return connection

    await _all_methods(trace, reach, QUESTIONS[:3])


@case
async def closing_with_a_buffer(trace: Trace) -> None:
    """After close(), while the buffer is being sent."""

    async def reach() -> Connection:
        connection = await Connection(trace, small=True).open()
        connection.transport.set_write_buffer_limits(high=1 << 30)
        connection.transport.write(bytes(BUFFER))
        connection.transport.close()
        return connection

    await _all_methods(trace, reach, QUESTIONS[:3])


@case
async def closed(trace: Trace) -> None:
    """After close(), before connection_lost."""

    async def reach() -> Connection:
        connection = await Connection(trace).open()
        connection.transport.close()
        return connection

    await _all_methods(trace, reach)


@case
async def aborted(trace: Trace) -> None:
    """After abort(), before connection_lost."""

    async def reach() -> Connection:
        connection = await Connection(trace).open()
        connection.transport.abort()
        return connection

    await _all_methods(trace, reach)


@case
async def lost(trace: Trace) -> None:
    """After connection_lost: nothing raises, nothing happens."""

    async def reach() -> Connection:
        connection = await Connection(trace).open()
        connection.transport.close()
        await connection.protocol.lost()
        await trace.turns()
        return connection

    connection = await reach()
    for name in QUESTIONS:
        trace.call(getattr(connection.transport, name))
    for name, *arguments in METHODS:
        connection = await reach()
        trace.call(getattr(connection.transport, name), *arguments)
        await trace.turns(2)
    connection = await reach()
    connection.set_protocol()
    await trace.turns(2)


@case
async def inside_connection_lost(trace: Trace) -> None:
    """What a protocol can still ask and do inside its connection_lost."""

    def lost(exc: BaseException | None) -> None:
        transport = client.transport
        for name in QUESTIONS:
            trace.call(getattr(transport, name))
        for name, *arguments in METHODS:
            trace.call(getattr(transport, name), *arguments)
        for name in ("peername", "sockname", "socket"):
            trace(name, transport.get_extra_info(name))
        trace("open", transport.get_extra_info("socket").fileno() >= 0)

    near, far = pair(trace)
    client = trace.protocol("client", connection_lost=lost)
    await trace.connect(client, near)
    finish(far, near)
    await client.lost()
    await trace.turns(2)
    trace("socket closed", near.fileno())


@case
async def inside_data_received(trace: Trace) -> None:
    """Every method from inside data_received, then what follows."""

    async def connection(name: str, *arguments: Any) -> None:
        def received(data: bytes) -> None:
            trace.call(getattr(client.transport, name), *arguments)

        near, far = pair(trace)
        client = trace.protocol("client", data_received=received)
        transport = await trace.connect(client, near)
        send(far, near, b"first")
        await client.received(5)
        trace.call(transport.resume_reading)
        finish(far, near)
        await client.lost()
        trace("peer has", *await read_end(far))

    for name, *arguments in METHODS:
        await connection(name, *arguments)
