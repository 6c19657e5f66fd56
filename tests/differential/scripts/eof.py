"""The end of the stream: eof_received, what it returns, half-closed connections."""

from __future__ import annotations

from typing import Any

from ..trace import Trace, case, raises
from ..wire import finish, pair, read_end, read_rest, receive, send


@case
async def answers(trace: Trace) -> None:
    """A true answer keeps the transport open for writing, any other closes it."""
    for answer in (None, False, 0, "", [], True, 1, "keep", [0]):
        near, far = pair(trace)
        client = trace.protocol("client", eof_received=lambda answer=answer: answer)
        transport = await trace.connect(client, near)
        finish(far, near)
        await client.called("eof_received")
        trace("answered", answer)
        trace.call(transport.is_closing)
        await trace.turns(2)
        trace.call(transport.is_closing)
        if not transport.is_closing():
            transport.write(b"still here")
            transport.close()
            await client.lost()
        trace("peer has", *read_rest(far))


@case
async def data_then_end(trace: Trace) -> None:
    """All data comes before the end, nothing after it."""
    near, far = pair(trace)
    client = trace.protocol("client", merge=True)
    await trace.connect(client, near)
    message = bytes(range(256)) * 100
    send(far, near, message[:10_000])
    send(far, near, message[10_000:])
    finish(far, near)
    await client.lost()


@case
async def only_the_end(trace: Trace) -> None:
    """A peer that sends nothing but the end, before or after the connection is made."""
    near, far = pair(trace)
    finish(far, near)
    client = trace.protocol("client")
    await trace.connect(client, near)
    trace("connected")
    await client.lost()


@case
async def half_closed(trace: Trace) -> None:
    """After the peer's end the protocol goes on writing for as long as it likes."""
    near, far = pair(trace)
    client = trace.protocol("client", eof_received=lambda: True)
    transport = await trace.connect(client, near)
    finish(far, near)
    await client.called("eof_received")
    for number in range(3):
        trace.call(transport.write, b"%d" % number)
        await trace.turns()
        trace("peer has", receive(far, 1))
    trace.call(transport.is_reading)
    trace.call(transport.write_eof)
    trace("peer has", *read_rest(far))
    await trace.turns(3)
    trace.call(transport.is_closing)
    trace.call(transport.close)
    await client.lost()


@case
async def end_after_own_end(trace: Trace) -> None:
    """Both ends written: the protocol is lost when its own answer is false."""
    near, far = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    trace.call(transport.write_eof)
    trace("peer has", *read_rest(far))
    send(far, near, b"answer")
    await client.received(6)
    finish(far, near)
    await client.lost()


@case
async def end_while_writing(trace: Trace) -> None:
    """A false answer with a buffer: the buffer is sent, then the connection is lost."""
    near, far = pair(trace, small=True)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    transport.write(bytes(300_000))
    finish(far, near)
    await client.called("eof_received")
    await trace.turns(2)
    trace.call(transport.is_closing)
    data, end = await read_end(far)
    trace("peer has", len(data), end)
    await client.lost()


@case
async def write_in_eof_received(trace: Trace) -> None:
    """What eof_received writes is delivered, whatever it answers."""

    async def connection(answer: bool) -> None:
        def ended() -> bool:
            client.transport.write(b"last words")
            return answer

        near, far = pair(trace)
        client = trace.protocol("client", eof_received=ended)
        transport = await trace.connect(client, near)
        finish(far, near)
        await client.called("eof_received")
        transport.close()
        await client.lost()
        trace("peer has", *read_rest(far))

    for answer in (False, True):
        await connection(answer)


@case
async def close_in_eof_received(trace: Trace) -> None:
    """close() or abort() inside eof_received counts more than its answer; lost comes once."""

    async def connection(method: str, answer: bool) -> None:
        def ended() -> bool:
            trace.call(getattr(client.transport, method))
            return answer

        near, far = pair(trace)
        client = trace.protocol("client", eof_received=ended)
        transport = await trace.connect(client, near)
        finish(far, near)
        await client.called("eof_received")
        await trace.turns(2)
        trace.call(transport.is_closing)
        transport.close()
        await client.lost()

    for method in ("close", "abort", "write_eof", "pause_reading"):
        for answer in (False, True):
            await connection(method, answer)


@case
async def failing(trace: Trace) -> None:
    """An exception in eof_received is fatal for the transport, and reported."""
    near, far = pair(trace)
    client = trace.protocol("client", eof_received=raises(ValueError("text")))
    await trace.connect(client, near)
    finish(far, near)
    await client.lost()
    trace("peer has", *read_rest(far))


@case
async def end_while_paused(trace: Trace) -> None:
    """A transport that does not read does not see the end, until it reads again."""
    near, far = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    transport.pause_reading()
    finish(far, near)
    await trace.turns(3)
    trace("nothing seen", client.calls)
    trace.call(transport.resume_reading)
    await client.lost()


@case
async def data_and_end_while_paused(trace: Trace) -> None:
    """The same with data before the end; a protocol that pauses in data_received."""
    near, far = pair(trace)
    client = trace.protocol("client", data_received=lambda data: client.transport.pause_reading())
    transport = await trace.connect(client, near)
    send(far, near, b"data")
    finish(far, near)
    await client.received(4)
    await trace.turns(3)
    trace("no end yet", client.calls)
    trace.call(transport.resume_reading)
    await client.lost()


@case
async def reading_after_the_end(trace: Trace) -> None:
    """After the end the transport goes on for writing; is_reading, and pausing again."""
    near, far = pair(trace)
    client = trace.protocol("client", eof_received=lambda: True)
    transport = await trace.connect(client, near)
    finish(far, near)
    await client.called("eof_received")
    trace.call(transport.is_reading)
    trace.call(transport.pause_reading)
    trace.call(transport.is_reading)
    await trace.turns(2)
    trace.call(transport.write, b"goes on")
    transport.close()
    await client.lost()
    trace("peer has", *read_rest(far))


@case
async def new_protocol_after_the_end(trace: Trace) -> None:
    """set_protocol after the end: the new one gets the rest of the callbacks."""
    near, far = pair(trace)
    client = trace.protocol("client", eof_received=lambda: True)
    transport = await trace.connect(client, near)
    finish(far, near)
    await client.called("eof_received")
    other = trace.protocol("other")
    transport.set_protocol(other)
    await trace.turns(2)
    transport.close()
    await other.lost()


@case
async def protocol_without_eof_received(trace: Trace) -> None:
    """A protocol that does not define the callback, or is not even a Protocol."""

    class Bare:
        def connection_made(self, transport: Any) -> None:
            trace("made")

        def connection_lost(self, exc: BaseException | None) -> None:
            trace("lost", exc)
            done.set_result(None)

    done = trace.loop.create_future()
    near, far = pair(trace)
    await trace.loop.create_connection(Bare, sock=near)
    finish(far, near)
    await done
