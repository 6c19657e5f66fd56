"""Writing: what reaches the peer and when, whatever the program does right after write().

A loop may gather the pieces that one callback writes. These are the things by which a program could
notice, and must not.
"""

from __future__ import annotations

from array import array
from typing import Any

from ..trace import PLACE, Trace, case
from ..wire import broken, fill, finish, pair, read, read_end, read_rest, receive, reset, send


async def _open(trace: Trace, small: bool = False, **hooks: Any) -> tuple[Any, Any, Any, Any]:
    near, far = pair(trace, small)
    client = trace.protocol("client", **hooks)
    return await trace.connect(client, near), client, near, far


@case
async def small_write(trace: Trace) -> None:
    """A small write leaves nothing in the buffer and is with the peer when asked for."""
    transport, _, _, far = await _open(trace)
    trace.call(transport.write, b"hello")
    trace.call(transport.get_write_buffer_size)
    trace("peer has", receive(far, 5))
    trace.call(transport.write, b"again")
    await trace.turns()
    trace("peer has", receive(far, 5))


@case
async def write_and_abort(trace: Trace) -> None:
    """abort() discards the transport's buffer, not what the kernel had taken."""
    transport, client, _, far = await _open(trace)
    trace.call(transport.write, b"head")
    trace.call(transport.write, b"body")
    trace.call(transport.abort)
    await client.lost()
    trace("peer has", *read_rest(far))


@case
async def write_and_close(trace: Trace) -> None:
    """close() delivers what was written before it, and the end."""
    transport, client, _, far = await _open(trace)
    trace.call(transport.write, b"last words")
    trace.call(transport.close)
    trace("size", transport.get_write_buffer_size())
    await client.lost()
    trace("peer has", *read_rest(far))


@case
async def hundred_writes_do_not_pause(trace: Trace) -> None:
    """100 writes of 1 KiB in one callback: the kernel takes each, the buffer stays empty."""
    transport, _, _, far = await _open(trace)
    for number in range(100):
        transport.write(bytes([number]) * 1024)
    trace.call(transport.get_write_buffer_size)
    trace("peer has", await read(far, 102400))


@case
async def hundred_writes_on_a_full_kernel(trace: Trace) -> None:
    """The same where the kernel takes nothing: it pauses at the first byte over the limit."""
    transport, client, _, far = await _open(trace, small=True)
    size = fill(transport)
    transport.set_write_buffer_limits(high=size + 50 * 1024)
    for number in range(100):
        transport.write(bytes(1024))
        if number in (49, 50):
            trace("written", number + 1, transport.get_write_buffer_size() - size)
    trace("size", transport.get_write_buffer_size() - size)
    transport.close()
    await read_end(far)
    await client.lost()


@case
def write_close_and_stop(trace: Trace) -> None:
    """write + close + stop: when run_forever returns, the peer has the data."""
    loop = trace.loop
    near, far = pair(trace)
    client = trace.protocol("client")
    transport = loop.run_until_complete(trace.connect(client, near))

    def leave() -> None:
        transport.write(b"goodbye")
        transport.close()
        loop.stop()

    loop.call_soon(leave)
    loop.run_forever()
    trace("peer has", receive(far, 7))
    loop.run_until_complete(client.lost())
    trace("peer has", *read_rest(far))


@case
def write_and_stop(trace: Trace) -> None:
    """Nor does a stopped, interrupted or closed loop keep what was written."""
    loop = trace.loop
    near, far = pair(trace)
    client = trace.protocol("client")
    transport = loop.run_until_complete(trace.connect(client, near))

    def leave(action: Any) -> None:
        transport.write(b"written at an end")
        action()

    def interrupt() -> None:
        raise KeyboardInterrupt

    for action in (loop.stop, interrupt):
        loop.call_soon(leave, action)
        trace.call(loop.run_forever)
        trace("peer has", receive(far, 17))

    async def result() -> str:
        transport.write(b"written before return")
        return "result"

    trace("returned", loop.run_until_complete(result()))
    trace("peer has", receive(far, 21))
    transport.write(b"written while stopped")
    trace("peer has", receive(far, 21))
    transport.write(b"written before close")
    loop.close()
    trace("peer has", receive(far, 20))


@case
async def write_in_every_callback(trace: Trace) -> None:
    """What callbacks write comes in the order of the callbacks."""
    near, far = pair(trace)

    def made(transport: Any) -> None:
        transport.write(b"<made>")

    def received(data: bytes) -> None:
        client.transport.write(b"<" + data + b">")
        trace.loop.call_soon(client.transport.write, b"<soon>")

    def ended() -> bool:
        client.transport.write(b"<end>")
        return True

    client = trace.protocol(
        "client", connection_made=made, data_received=received, eof_received=ended
    )
    transport = await trace.connect(client, near)
    transport.write(b"<connected>")
    send(far, near, b"data")
    await trace.turns(3)
    finish(far, near)
    await client.called("eof_received")
    transport.close()
    await client.lost()
    trace("peer has", *read_rest(far))


@case
async def dead_peer_shows_at_once(trace: Trace) -> None:
    """After a reset the loop has not seen yet, the write fails: is_closing() tells at once."""
    transport, client, near, far = await _open(trace)
    reset(far, near)
    trace.call(transport.is_closing)
    trace.call(transport.write, b"to a dead peer")
    trace.call(transport.is_closing)
    trace.call(transport.write, b"more")
    trace.call(transport.get_write_buffer_size)
    trace("not yet lost", client.calls)
    await client.lost()


@case
async def looking_in_the_same_callback(trace: Trace) -> None:
    """What a callback has written is with the peer before it returns."""
    transport, _, _, far = await _open(trace)
    far.setblocking(False)
    transport.write(b"small")
    try:
        trace("peer has", far.recv(100))
    except BlockingIOError:
        trace("peer has nothing yet")
    await trace.turns(1)
    far.settimeout(5)
    transport.close()


@case
async def broken_pipe(trace: Trace) -> None:
    """A peer that has closed answers the first write with a reset: the second one fails."""
    transport, client, near, far = await _open(trace, eof_received=lambda: True)
    finish(far, near)
    await client.called("eof_received")
    far.close()
    trace.call(transport.write, b"first")
    trace.call(transport.get_write_buffer_size)  # asked for, it is sent; the answer comes
    broken(near)
    trace.call(transport.write, b"second")
    trace.call(transport.is_closing)
    await client.lost()


@case
async def writes_after_close(trace: Trace) -> None:
    """Writing to a closed transport is nothing; from the fifth time on it is logged."""
    transport, client, _, far = await _open(trace)
    trace.call(transport.close)
    for number in range(7):
        trace("write", number)
        transport.write(b"lost")
    await client.lost()
    for number in range(7):
        trace("write", number)
        transport.write(b"lost")
    trace("peer has", *read_rest(far))


@case
async def writes_after_abort(trace: Trace) -> None:
    """The same after abort(), before and after connection_lost."""
    transport, client, _, far = await _open(trace, connection_lost=lambda exc: write())

    def write() -> None:
        trace.call(transport.write, b"from connection_lost")

    trace.call(transport.abort)
    trace.call(transport.write, b"lost")
    trace.call(transport.write, b"")
    await client.lost()
    await trace.turns()
    for _ in range(7):
        trace.call(transport.write, b"lost")
    trace("peer has", *read_rest(far))


@case(broken=((3, 12), (3, 14, 8)))
async def writelines_after_close(trace: Trace) -> None:
    """writelines on a closed transport is write on one."""
    transport, client, _, far = await _open(trace)
    trace.call(transport.close)
    trace.call(transport.writelines, [b"lost", b"as well"])
    await client.lost()
    for _ in range(7):
        trace.call(transport.writelines, [b"lost", b"as well"])
    trace("peer has", *read_rest(far))


@case
async def write_while_closing(trace: Trace) -> None:
    """While a closing transport still sends its buffer, what is written is added to it."""
    transport, client, _, far = await _open(trace, small=True)
    size = fill(transport)
    trace.call(transport.close)
    trace.call(transport.write, b"after close")
    trace("size", transport.get_write_buffer_size() - size)
    data, end = await read_end(far)
    trace("peer has", data.strip(b"\0"), end)
    await client.lost()


@case
async def abort_while_closing(trace: Trace) -> None:
    """abort() after close() drops the buffer; connection_lost comes once."""
    transport, client, _, far = await _open(trace, small=True)
    fill(transport)
    transport.write(bytes(300_000))
    trace.call(transport.close)
    await trace.turns(2)
    trace.call(transport.abort)
    trace.call(transport.get_write_buffer_size)
    trace.call(transport.abort)
    trace.call(transport.close)
    await client.lost()
    await trace.turns(3)
    trace("peer has", (await read_end(far))[1])


@case
async def close_sends_the_buffer_first(trace: Trace) -> None:
    """connection_lost comes when the buffer is empty, the end reaches the peer after all data."""
    transport, client, _, far = await _open(trace, small=True)
    message = bytes(range(256)) * 1024
    trace.call(transport.write, message)
    trace("buffered", transport.get_write_buffer_size() > 0)
    trace.call(transport.close)
    trace.call(transport.is_closing)
    await trace.turns(3)
    trace("not lost yet", client.calls)
    data, end = await read_end(far)
    trace("peer has", data == message, end)
    await client.lost()
    trace("size", transport.get_write_buffer_size())


@case
async def write_eof(trace: Trace) -> None:
    """write_eof ends the stream after the data; the other direction stays open."""
    transport, client, near, far = await _open(trace)
    trace.call(transport.can_write_eof)
    trace.call(transport.write, b"all")
    trace.call(transport.write_eof)
    trace.call(transport.write_eof)
    trace("peer has", *read_rest(far))
    trace.call(transport.is_closing)
    trace.call(transport.write, b"more")
    trace.call(transport.write, b"")
    trace.call(transport.writelines, [b"more"])
    trace.call(transport.write, "wrong and late")
    send(far, near, b"answer")
    await client.received(6)
    far.close()
    await client.lost()
    trace.call(transport.write, b"more")


@case
async def write_eof_behind_a_buffer(trace: Trace) -> None:
    """With a buffer, the end goes out behind it."""
    transport, client, near, far = await _open(trace, small=True)
    message = bytes(range(256)) * 1024
    transport.write(message)
    trace.call(transport.write_eof)
    trace("buffered", transport.get_write_buffer_size() > 0)
    trace.call(transport.write, b"more")
    data, end = await read_end(far)
    trace("peer has", data == message, end)
    send(far, near, b"answer")
    await client.received(6)
    transport.close()
    await client.lost()


@case
async def close_after_write_eof(trace: Trace) -> None:
    """close() after write_eof(), with and without a buffer."""
    for small in (False, True):
        transport, client, _, far = await _open(trace, small)
        message = bytes(200_000 if small else 10)
        transport.write(message)
        trace.call(transport.write_eof)
        trace.call(transport.close)
        data, end = await read_end(far)
        trace("peer has", data == message, end)
        await client.lost()


@case
async def write_eof_on_a_dead_peer(trace: Trace) -> None:
    """write_eof raises what the system says when the connection is gone."""
    transport, client, near, far = await _open(trace)
    reset(far, near)
    trace.call(transport.write_eof)
    trace.call(transport.is_closing)
    await client.lost()
    trace.call(transport.write_eof)


@case
async def pieces_of_any_kind(trace: Trace) -> None:
    """bytes, bytearray, memoryview, of any item size, empty or not, in order."""
    transport, _, _, far = await _open(trace)
    pieces = (
        b"bytes,",
        bytearray(b"bytearray,"),
        memoryview(b"memoryview,"),
        memoryview(bytearray(b"of a bytearray,")),
        memoryview(b"..sliced,..")[2:9],
        memoryview(array("H", [0x6161, 0x2C62])),
        memoryview(b"23").cast("B", (2, 1)),
        b"",
        bytearray(),
        memoryview(b""),
        b"end",
    )
    for piece in pieces:
        trace.call(transport.write, piece)
    trace.call(transport.get_write_buffer_size)
    trace("peer has", receive(far, 58))
    trace.call(transport.writelines, list(pieces[:5]))
    trace.call(transport.get_write_buffer_size)
    trace("peer has", receive(far, 49))


@case
async def writelines(trace: Trace) -> None:
    """writelines takes any iterable, and keeps its place among the writes."""
    transport, _, _, far = await _open(trace)
    trace.call(transport.write, b"before,")
    trace.call(transport.writelines, [b"one,", b"two,"])
    trace.call(transport.writelines, (b"three,", bytearray(b"four,")))
    transport.writelines(bytes([number]) for number in b"567,")
    trace.call(transport.write, b"after,")
    trace.call(transport.writelines, [])
    trace.call(transport.writelines, ())
    trace.call(transport.get_write_buffer_size)
    trace("peer has", receive(far, 36))
    transport.writelines([b"%d," % number for number in range(3000)])
    expected = b"".join(b"%d," % number for number in range(3000))
    trace("peer has", await read(far, len(expected)) == expected)


@case(broken=((3, 12), (3, 14, 8)))
async def writelines_and_flow_control(trace: Trace) -> None:
    """writelines pauses as write does."""
    transport, client, _, far = await _open(trace, small=True)
    size = fill(transport)
    transport.set_write_buffer_limits(high=size + 10)
    trace.call(transport.writelines, [b"12345", b"67890"])
    trace.call(transport.writelines, [b"", b"1"])
    transport.close()
    await read_end(far)
    await client.lost()


@case(broken=((3, 12), (3, 14, 8)))
async def writelines_of_nothing(trace: Trace) -> None:
    """Empty pieces are no data."""
    transport, client, _, far = await _open(trace)
    trace.call(transport.writelines, [b"", b"one", b""])
    trace.call(transport.writelines, [b"", b""])
    trace.call(transport.get_write_buffer_size)
    transport.close()
    await client.lost()
    trace("peer has", *read_rest(far))


@case
async def changed_after_sending(trace: Trace) -> None:
    """What the kernel took is not touched by later changes of the buffer."""
    transport, _, _, far = await _open(trace)
    data = bytearray(b"original")
    trace.call(transport.write, data)
    trace.call(transport.write, memoryview(data)[:4])
    data[:] = b"mutated!"
    data += b" and longer"
    trace.call(transport.get_write_buffer_size)
    trace("peer has", receive(far, 12))


@case(broken=((3, 12), (4,)))
async def changed_while_queued(trace: Trace) -> None:
    """A mutable buffer that must be queued is copied (stock asyncio aliases it from 3.12 on)."""
    transport, client, _, far = await _open(trace, small=True)
    fill(transport)
    data = bytearray(b"original")
    trace.call(transport.write, data)
    trace.call(transport.write, memoryview(data)[:4])
    data[:] = b"mutated!"
    data += b" and longer"
    transport.close()
    received, end = await read_end(far)
    trace("peer has", received.strip(b"\0"), end)
    await client.lost()


@case
async def large_and_small(trace: Trace) -> None:
    """Pieces of all sizes through small kernel buffers: every byte, in order."""
    transport, client, _, far = await _open(trace, small=True, pause_writing=lambda: None)
    transport.set_write_buffer_limits(high=1 << 30)
    sizes = (1, 10, 1000, 20_000, 100_000, 3, 300_000, 1)
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    for number, piece in enumerate(pieces):
        if number % 3:
            transport.write(piece)
        else:
            transport.writelines([piece[: len(piece) // 2], piece[len(piece) // 2 :]])
    transport.close()
    data, end = await read_end(far)
    trace("peer has", data == b"".join(pieces), end)
    await client.lost()


@case
async def write_from_resume(trace: Trace) -> None:
    """Writing in pause_writing and resume_writing adds at the end, and pauses again."""

    def paused() -> None:
        transport.write(b"P")

    def resumed() -> None:
        trace("size at most low", transport.get_write_buffer_size() <= 1000)
        if client.calls.count("resume_writing") < 3:
            trace.call(transport.write, b"R" * 300_000)
        else:
            trace.loop.call_soon(transport.close)

    transport, client, _, far = await _open(
        trace, small=True, pause_writing=paused, resume_writing=resumed
    )
    transport.set_write_buffer_limits(high=2000, low=1000)
    trace.call(transport.write, b"W" * 300_000)
    data, end = await read_end(far)
    runs = [(chr(byte), data.count(bytes([byte]))) for byte in sorted(set(data))]
    trace("peer has", runs, end)
    await client.lost()


@case(broken=((3, 10), (3, 14, 8)))
async def close_from_resume(trace: Trace) -> None:
    """close() in resume_writing with an empty buffer: connection_lost comes in the next turn."""
    transport, client, _, far = await _open(
        trace, small=True, resume_writing=lambda: transport.close()
    )
    transport.set_write_buffer_limits(high=1000, low=0)
    trace.call(transport.write, bytes(300_000))
    trace("peer has", len((await read_end(far))[0]))
    await client.lost()


@case(broken=((3, 10), (3, 14, 8)))
async def abort_after_a_drained_close(trace: Trace) -> None:
    """abort() and close() after connection_lost, which came when the buffer had been sent."""
    transport, client, _, far = await _open(trace, small=True)
    transport.write(bytes(300_000))
    transport.close()
    await read_end(far)
    await client.lost()
    trace.call(transport.abort)
    trace.call(transport.close)
    trace.call(transport.write, b"late")
    await trace.turns(2)


@case
async def close_from_pause(trace: Trace) -> None:
    """close() in pause_writing: the buffer is still sent; no resume_writing follows by itself."""
    transport, client, _, far = await _open(
        trace, small=True, pause_writing=lambda: transport.close()
    )
    trace.call(transport.write, bytes(300_000))
    trace.call(transport.is_closing)
    data, end = await read_end(far)
    trace("peer has", len(data), end)
    await client.lost()


@case
async def abort_from_pause(trace: Trace) -> None:
    """abort() in pause_writing: connection_lost comes in the next turn, not from inside."""
    transport, client, _, far = await _open(
        trace, small=True, pause_writing=lambda: transport.abort()
    )
    trace.call(transport.write, bytes(300_000))
    trace.call(transport.get_write_buffer_size)
    trace.call(transport.is_closing)
    await client.lost()
    trace("peer has", (await read_end(far))[1])


@case
async def echo(trace: Trace) -> None:
    """Request and answer a few times, in the contexts of an ordinary server."""

    def received(data: bytes) -> None:
        PLACE.set(f"request {len(client.data)}")
        client.transport.write(b"head " + str(len(data)).encode())
        client.transport.write(b" body " + data)

    transport, client, near, far = await _open(trace, data_received=received)
    for size in (1, 10, 100):
        before = len(client.data)
        send(far, near, b"x" * size)
        await client.received(before + size)
        await trace.turns()
        trace("peer has", receive(far, size + 11 + len(str(size))))
    transport.close()
    await client.lost()
