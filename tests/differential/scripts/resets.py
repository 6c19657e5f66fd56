"""A reset by the peer, in every state a connection can be in."""

from __future__ import annotations

from typing import Any

from ..trace import Trace, case
from ..wire import finish, pair, reset, send


async def _open(trace: Trace, small: bool = False, **hooks: Any) -> tuple[Any, Any, Any, Any]:
    near, far = pair(trace, small)
    client = trace.protocol("client", **hooks)
    return await trace.connect(client, near), client, near, far


@case
async def idle(trace: Trace) -> None:
    """connection_lost with the errno, no eof_received."""
    transport, client, near, far = await _open(trace)
    reset(far, near)
    await client.lost()
    trace.call(transport.is_closing)
    await trace.turns(2)


@case
async def before_connection_made(trace: Trace) -> None:
    """A connection that is dead when the loop gets it is made, then lost."""
    near, far = pair(trace)
    reset(far, near)
    client = trace.protocol("client")
    await trace.wait("connect", trace.connect(client, near))
    await client.lost()


@case
async def behind_data(trace: Trace) -> None:
    """Data that came before the reset."""
    _, client, near, far = await _open(trace)
    send(far, near, b"data")
    reset(far, near)
    await client.lost()


@case
async def while_paused(trace: Trace) -> None:
    """A transport that does not read does not see it, until it reads again."""
    transport, client, near, far = await _open(trace)
    transport.pause_reading()
    reset(far, near)
    await trace.turns(3)
    trace("nothing seen", client.calls)
    trace.call(transport.is_closing)
    trace.call(transport.resume_reading)
    await client.lost()


@case
async def while_paused_then_closed(trace: Trace) -> None:
    """close() without having seen it: no error."""
    transport, client, near, far = await _open(trace)
    transport.pause_reading()
    reset(far, near)
    await trace.turns(3)
    trace.call(transport.close)
    await client.lost()


@case
async def while_paused_then_written(trace: Trace) -> None:
    """The write meets it."""
    transport, client, near, far = await _open(trace)
    transport.pause_reading()
    reset(far, near)
    await trace.turns(3)
    trace.call(transport.write, b"data")
    trace.call(transport.is_closing)
    await client.lost()


@case
async def with_a_buffer(trace: Trace) -> None:
    """While the transport waits to send, reading or not."""
    for paused in (False, True):
        transport, client, near, far = await _open(trace, small=True)
        transport.write(bytes(500_000))
        if paused:
            transport.pause_reading()
        reset(far, near)
        await client.lost()
        trace.call(transport.get_write_buffer_size)


@case
async def while_closing_with_a_buffer(trace: Trace) -> None:
    """While a closed transport still sends."""
    transport, client, near, far = await _open(trace, small=True)
    transport.write(bytes(500_000))
    transport.close()
    await trace.turns(2)
    reset(far, near)
    await client.lost()


@case
async def after_own_end(trace: Trace) -> None:
    """After write_eof()."""
    transport, client, near, far = await _open(trace)
    transport.write_eof()
    reset(far, near)
    await client.lost()


@case
async def after_the_peers_end(trace: Trace) -> None:
    """After a kept-open end the transport does not look; a write meets it."""
    transport, client, near, far = await _open(trace, eof_received=lambda: True)
    finish(far, near)
    await client.called("eof_received")
    reset(far, near)
    await trace.turns(3)
    trace("nothing seen", client.calls)
    trace.call(transport.write, b"data")
    trace.call(transport.is_closing)
    await client.lost()


@case
async def after_close(trace: Trace) -> None:
    """Between close() and connection_lost: no error."""
    transport, client, near, far = await _open(trace)
    transport.close()
    reset(far, near)
    await client.lost()


@case
async def in_data_received(trace: Trace) -> None:
    """Seen while a callback runs."""

    def received(data: bytes) -> None:
        reset(far, near)
        trace.call(client.transport.is_closing)
        trace.call(client.transport.write, b"answer")
        trace.call(client.transport.is_closing)

    _, client, near, far = await _open(trace, data_received=received)
    send(far, near, b"data")
    await client.lost()


@case
async def by_unread_data(trace: Trace) -> None:
    """A peer that closes with data unread resets."""
    transport, client, _, far = await _open(trace)
    transport.write(b"never read")
    trace.call(transport.get_write_buffer_size)
    far.recv(1)
    far.close()
    await client.lost()


@case
async def extra_info_survives(trace: Trace) -> None:
    """The addresses stay known after a reset."""
    transport, client, near, far = await _open(trace)
    near_name, far_name = near.getsockname(), far.getsockname()
    reset(far, near)
    await client.lost()
    trace("sockname", transport.get_extra_info("sockname") == near_name)
    trace("peername", transport.get_extra_info("peername") == far_name)
