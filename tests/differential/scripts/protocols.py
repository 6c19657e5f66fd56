"""set_protocol in mid-stream, BufferedProtocol, protocols of any class, callbacks replaced."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from ..trace import Trace, case, raises
from ..wire import finish, pair, read_end, receive, reset, send


@case
async def in_mid_stream(trace: Trace) -> None:
    """Each callback goes to the protocol that is set then; no connection_made for a new one."""
    near, far = pair(trace)
    one, two, three = (trace.protocol(name) for name in ("one", "two", "three"))
    transport = await trace.connect(one, near)
    for protocol in (one, two, three):
        transport.set_protocol(protocol)
        trace.call(transport.get_protocol)
        send(far, near, protocol.name.encode())
        await protocol.received(len(protocol.name))
    transport.set_protocol(one)
    finish(far, near)
    await one.called("eof_received")
    await one.lost()


@case
async def from_inside_callbacks(trace: Trace) -> None:
    """set_protocol from inside each callback takes effect with the next one."""
    near, far = pair(trace)
    two = trace.protocol("two", data_received=lambda data: transport.set_protocol(three))
    three = trace.protocol("three", eof_received=lambda: transport.set_protocol(four))
    four = trace.protocol("four")
    one = trace.protocol("one", connection_made=lambda transport: transport.set_protocol(two))
    transport = await trace.connect(one, near)
    send(far, near, b"for two")
    await two.received(7)
    send(far, near, b"for three")
    await three.received(9)
    finish(far, near)
    await four.lost()


@case
async def between_pause_and_resume(trace: Trace) -> None:
    """The protocol that is set when the buffer drains is resumed, though another was paused."""
    near, far = pair(trace, small=True)
    one, two = trace.protocol("one"), trace.protocol("two")
    transport = await trace.connect(one, near)
    transport.write(bytes(300_000))
    transport.set_protocol(two)
    transport.close()
    await read_end(far)
    await two.lost()


@case
async def written_before_the_switch(trace: Trace) -> None:
    """What the old protocol wrote is sent before what the new one writes."""
    near, far = pair(trace)
    one, two = trace.protocol("one"), trace.protocol("two")
    transport = await trace.connect(one, near)
    transport.write(b"old ")
    transport.set_protocol(two)
    transport.write(b"new")
    await trace.turns()
    trace("peer has", receive(far, 7))


@case
async def buffered(trace: Trace) -> None:
    """A BufferedProtocol: data in its own buffer, the end, the loss."""
    near, far = pair(trace)
    client = trace.buffered("client", size=16)
    await trace.connect(client, near)
    send(far, near, b"small")
    await client.received(5)
    send(far, near, b"exactly 16 bytes")
    await client.received(21)
    send(far, near, b"more bytes than its buffer holds")
    await client.received(53)
    finish(far, near)
    await client.lost()


@case
async def buffered_pausing(trace: Trace) -> None:
    """A BufferedProtocol that pauses after each piece."""
    near, far = pair(trace)

    def updated(size: int, data: bytes) -> None:
        client.transport.pause_reading()
        trace.loop.call_soon(trace.callback("resume", client.transport.resume_reading))

    client = trace.buffered("client", size=4, buffer_updated=updated)
    await trace.connect(client, near)
    send(far, near, b"123456789")
    await client.received(9)
    reset(far, near)
    await client.lost()


@case
async def buffered_failures(trace: Trace) -> None:
    """Empty buffers, no buffers, and exceptions are fatal, with asyncio's messages."""
    hooks: tuple[dict[str, Any], ...] = (
        {"get_buffer": lambda hint: bytearray()},
        {"get_buffer": lambda hint: None},
        {"get_buffer": lambda hint: b"read-only"},
        {"get_buffer": raises(ValueError("text"))},
        {"buffer_updated": raises(ValueError("text"))},
        {"eof_received": raises(ValueError("text"))},
    )
    for each in hooks:
        near, far = pair(trace)
        client = trace.buffered("client", **each)
        await trace.connect(client, near)
        send(far, near, b"data")
        await trace.turns(2)
        if "eof_received" in each:
            finish(far, near)
        await client.lost()


@case
async def between_both_kinds(trace: Trace) -> None:
    """A stream protocol gives way to a buffered one, and back."""
    near, far = pair(trace)
    stream, buffer = trace.protocol("stream"), trace.buffered("buffer")
    transport = await trace.connect(stream, near)
    send(far, near, b"one")
    await stream.received(3)
    transport.set_protocol(buffer)
    send(far, near, b"two")
    await buffer.received(3)
    transport.set_protocol(stream)
    send(far, near, b"three")
    await stream.received(8)
    finish(far, near)
    await stream.lost()


@case
async def replaced_callbacks(trace: Trace) -> None:
    """A callback assigned to the protocol later is the one that is called."""
    near, far = pair(trace)
    client: Any = trace.protocol("client")
    await trace.connect(client, near)
    send(far, near, b"one")
    await client.received(3)
    seen = trace.loop.create_future()
    client.data_received = trace.callback("replaced data_received", seen.set_result)
    send(far, near, b"two")
    await seen
    client.eof_received = trace.callback("replaced eof_received", lambda: None)
    lost = trace.loop.create_future()
    client.connection_lost = trace.callback("replaced connection_lost", lost.set_result)
    finish(far, near)
    await lost


@case
async def any_class(trace: Trace) -> None:
    """A protocol need not inherit from anything; what it lacks is reported when it is missed."""

    class Bare:
        def connection_made(self, transport: Any) -> None:
            trace("made")

        def data_received(self, data: bytes) -> None:
            trace("data", data)

        def eof_received(self) -> None:
            trace("end")

        def connection_lost(self, exc: BaseException | None) -> None:
            trace("lost", exc)
            lost.set_result(None)

    lost = trace.loop.create_future()
    near, far = pair(trace)
    transport = await trace.connect(Bare(), near)
    send(far, near, b"data")
    finish(far, near)
    await lost
    trace.call(transport.is_closing)


@case
async def nothing_at_all(trace: Trace) -> None:
    """A protocol without connection_made is refused at once."""

    class Nothing:
        pass

    near, _ = pair(trace)
    await trace.wait("connect", trace.connect(Nothing(), near))


@case
async def set_to_something_else(trace: Trace) -> None:
    """set_protocol takes any object; what happens with the next data."""
    for wrong in (object(), 5):
        near, far = pair(trace)
        client = trace.protocol("client")
        transport = await trace.connect(client, near)
        trace.call(transport.set_protocol, trace.name(wrong, "wrong"))
        trace.call(transport.get_protocol)
        send(far, near, b"data")
        await trace.turns(4)
        trace.call(transport.is_closing)


@case
async def old_protocol_is_let_go(trace: Trace) -> None:
    """The transport keeps no reference to a protocol that was replaced, or was lost."""

    class Plain(asyncio.Protocol):
        pass

    near, far = pair(trace)
    old = Plain()
    dead = weakref.ref(old)
    transport = await trace.connect(old, near)
    client = trace.protocol("client")
    transport.set_protocol(client)
    send(far, near, b"data")
    await client.received(4)
    await trace.turns(2)
    del old
    gc.collect()
    trace("old one", dead())
    last = Plain()
    dead = weakref.ref(last)
    transport.set_protocol(last)
    transport.close()
    await trace.turns(3)
    del last
    gc.collect()
    trace("last one", dead())
