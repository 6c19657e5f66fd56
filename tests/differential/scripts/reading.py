"""pause_reading and resume_reading: in every callback, twice, with data and the end pending."""

from __future__ import annotations

from typing import Any

from ..trace import Trace, case, raises
from ..wire import finish, pair, read_rest, send


async def _open(trace: Trace, **hooks: Any) -> tuple[Any, Any, Any, Any]:
    near, far = pair(trace)
    client = trace.protocol("client", **hooks)
    return await trace.connect(client, near), client, near, far


@case
async def calls_without_effect(trace: Trace) -> None:
    """Pausing twice, resuming twice, resuming what was never paused."""
    transport, client, near, far = await _open(trace)
    for method in ("resume", "pause", "pause", "resume", "resume", "pause", "resume"):
        trace.call(getattr(transport, f"{method}_reading"))
        trace.call(transport.is_reading)
    send(far, near, b"data")
    await client.received(4)


@case
async def data_waits(trace: Trace) -> None:
    """Data that comes while paused is delivered after resuming, in one piece or several."""
    transport, client, near, far = await _open(trace)
    transport.pause_reading()
    for number in range(3):
        send(far, near, b"%d" % number)
        await trace.turns(2)
    trace("nothing seen", client.calls)
    trace.call(transport.resume_reading)
    trace("not from inside", client.calls)
    await client.received(3)


@case
async def pause_in_connection_made(trace: Trace) -> None:
    """A protocol that pauses in connection_made gets no data, though it was there already."""
    near, far = pair(trace)
    send(far, near, b"early")

    def made(transport: Any) -> None:
        trace.call(transport.pause_reading)
        trace.call(transport.is_reading)

    client = trace.protocol("client", connection_made=made)
    transport = await trace.connect(client, near)
    await trace.turns(3)
    trace("nothing seen", client.calls)
    trace.call(transport.resume_reading)
    await client.received(5)


@case
async def pause_and_resume_in_connection_made(trace: Trace) -> None:
    """Pausing and resuming before reading has started."""
    near, far = pair(trace)
    send(far, near, b"early")

    def made(transport: Any) -> None:
        trace.call(transport.pause_reading)
        trace.call(transport.resume_reading)
        trace.call(transport.is_reading)

    client = trace.protocol("client", connection_made=made)
    await trace.connect(client, near)
    trace("connected")
    await client.received(5)


@case
async def close_in_connection_made(trace: Trace) -> None:
    """close() and abort() in connection_made, with data there: none is delivered."""
    for method in ("close", "abort"):
        near, far = pair(trace)
        send(far, near, b"early")
        client = trace.protocol(
            "client", connection_made=lambda transport, m=method: getattr(transport, m)()
        )
        await trace.wait("connect", trace.connect(client, near))
        await client.lost()
        trace("peer has", *read_rest(far))


@case
async def pause_in_data_received(trace: Trace) -> None:
    """A protocol that pauses after each piece and resumes in the next turn loses nothing."""

    def received(data: bytes) -> None:
        client.transport.pause_reading()
        trace.loop.call_soon(trace.callback("resume", client.transport.resume_reading))
        if len(client.data) < 5:
            send(far, near, b"%d" % len(client.data))

    _, client, near, far = await _open(trace, data_received=received)
    send(far, near, b"0")
    await client.received(5)


@case
async def pause_and_resume_in_data_received(trace: Trace) -> None:
    """Pausing and resuming inside one callback."""

    def received(data: bytes) -> None:
        client.transport.pause_reading()
        if len(client.data) < 5:
            send(far, near, b"%d" % len(client.data))
        client.transport.resume_reading()

    _, client, near, far = await _open(trace, data_received=received)
    send(far, near, b"0")
    await client.received(5)


@case
async def resume_while_closed(trace: Trace) -> None:
    """After close(), resume_reading delivers nothing any more."""
    for method in ("close", "abort"):
        transport, client, near, far = await _open(trace)
        transport.pause_reading()
        send(far, near, b"unread")
        getattr(transport, method)()
        trace.call(transport.resume_reading)
        trace.call(transport.is_reading)
        await client.lost()
        trace.call(transport.resume_reading)
        trace.call(transport.pause_reading)
        trace("peer has", *read_rest(far))


@case
async def close_with_unread_data(trace: Trace) -> None:
    """close() while paused, with data and the end pending: neither comes."""
    transport, client, near, far = await _open(trace)
    transport.pause_reading()
    send(far, near, b"unread")
    finish(far, near)
    trace.call(transport.close)
    await client.lost()
    await trace.turns(2)
    trace("peer has", *read_rest(far))


@case
async def abort_in_data_received(trace: Trace) -> None:
    """After abort() or close() in data_received nothing more is read."""

    async def connection(method: str) -> None:
        def received(data: bytes) -> None:
            send(far, near, b"more")
            trace.call(getattr(client.transport, method))
            trace.call(client.transport.is_reading)

        _, client, near, far = await _open(trace, data_received=received)
        send(far, near, b"data")
        await client.lost()
        trace("peer has", *read_rest(far))

    for method in ("close", "abort"):
        await connection(method)


@case
async def failing_data_received(trace: Trace) -> None:
    """An exception in data_received is fatal for the transport, and reported."""
    transport, client, near, far = await _open(trace, data_received=raises(ValueError("text")))
    send(far, near, b"data")
    await client.received(4)
    trace.call(transport.is_closing)
    await client.lost()
    trace("peer has", *read_rest(far))


@case
async def large_data(trace: Trace) -> None:
    """A megabyte, in whichever pieces: all bytes, in order."""
    near, far = pair(trace)
    client = trace.protocol("client", merge=True)
    await trace.connect(client, near)
    message = bytes(range(256)) * 4096
    far.setblocking(False)
    sent = 0
    while sent < len(message):
        try:
            sent += far.send(message[sent : sent + 100_000])
        except BlockingIOError:
            pass
        await trace.turns()
    await client.received(len(message))
    far.close()
    await client.lost()


@case
async def type_of_data(trace: Trace) -> None:
    """data_received gets bytes, which stay what they are."""
    kept: list[Any] = []
    _, client, near, far = await _open(trace, data_received=kept.append)
    for size in (1, 5000, 40_000):
        before = len(client.data)
        send(far, near, bytes([size % 251]) * size)
        await client.received(before + size)
    trace("types", {type(data).__name__ for data in kept})
    trace("data", b"".join(kept))


@case(lanes=True)
async def two_transports_take_turns(trace: Trace) -> None:
    """Two connections with data: each gets a turn, whichever is first."""
    ends = [pair(trace) for _ in range(2)]
    clients = [trace.protocol(name) for name in ("one", "two")]
    for client, (near, _) in zip(clients, ends, strict=True):
        await trace.connect(client, near)
    for near, far in ends:
        send(far, near, b"data")
    for client in clients:
        await client.received(4)
