"""asyncio's streams on the loop: open_connection, start_server, drain, the reading methods."""

from __future__ import annotations

import asyncio
from typing import Any

from ..trace import Trace, case
from ..wire import dead_address, dial, finish, pair, read, read_end, receive, reset, send


async def _open(trace: Trace, small: bool = False, **options: Any) -> tuple[Any, Any, Any, Any]:
    near, far = pair(trace, small)
    reader, writer = await asyncio.open_connection(sock=near, **options)
    return reader, writer, near, far


async def _close(writer: Any) -> None:
    writer.close()
    await writer.wait_closed()


@case
async def reading(trace: Trace) -> None:
    """read, readline, readuntil, readexactly, and what they say at the end."""
    reader, writer, near, far = await _open(trace)
    send(far, near, b"line one\nline two\nuntil;exactly rest")
    await trace.wait("readline", reader.readline())
    await trace.wait("readline", reader.readline())
    await trace.wait("readuntil", reader.readuntil(b";"))
    await trace.wait("readexactly", reader.readexactly(7))
    await trace.wait("read", reader.read(3))
    finish(far, near)
    await trace.wait("readexactly", reader.readexactly(10))
    await trace.wait("readline", reader.readline())
    await trace.wait("readuntil", reader.readuntil(b";"))
    await trace.wait("read", reader.read())
    trace.call(reader.at_eof)
    await _close(writer)


@case
async def slow_peer(trace: Trace) -> None:
    """A line that comes byte by byte."""
    reader, writer, near, far = await _open(trace)
    line = asyncio.ensure_future(reader.readline())
    for byte in b"slow\n":
        trace("done", line.done())
        send(far, near, bytes([byte]))
        await trace.turns(3)
    trace("line", await line)
    await _close(writer)


@case
async def limits(trace: Trace) -> None:
    """Lines longer than the limit; the transport pauses at twice the limit."""
    reader, writer, near, far = await _open(trace, limit=10)
    send(far, near, b"x" * 15 + b"\n" + b"short\n")
    await trace.wait("readline", reader.readline())
    await trace.wait("readline", reader.readline())
    send(far, near, b"y" * 30)
    await trace.turns(3)
    trace("reading", writer.transport.is_reading())
    await trace.wait("readuntil", reader.readuntil(b";"))
    trace("data", await reader.readexactly(30))
    trace("reading", writer.transport.is_reading())
    await _close(writer)


@case
async def writing(trace: Trace) -> None:
    """write, writelines, drain, write_eof."""
    reader, writer, near, far = await _open(trace)
    writer.write(b"one ")
    writer.writelines([b"two ", b"three"])
    await trace.wait("drain", writer.drain())
    await trace.turns(1)
    trace("peer has", receive(far, 13))
    trace.call(writer.can_write_eof)
    writer.write_eof()
    trace("peer has", *await read_end(far))
    send(far, near, b"answer")
    trace("read", await reader.read(100))
    trace.call(writer.is_closing)
    await _close(writer)
    trace.call(writer.is_closing)


@case
async def backpressure(trace: Trace) -> None:
    """drain waits while the peer does not read, and returns when it does."""
    _, writer, _, far = await _open(trace, small=True)
    writer.write(bytes(500_000))
    draining = asyncio.ensure_future(writer.drain())
    await trace.turns(5)
    trace("drained", draining.done())
    trace("peer has", len(await read(far, 500_000)))
    await trace.wait("drain", draining)
    await trace.wait("drain", writer.drain())
    await _close(writer)


@case
async def reset_by_peer(trace: Trace) -> None:
    """Reads and drains after a reset."""
    reader, writer, near, far = await _open(trace)
    reset(far, near)
    await trace.wait("read", reader.read(10))
    await trace.wait("drain", writer.drain())
    writer.close()
    await trace.wait("wait_closed", writer.wait_closed())


@case
async def drain_and_reset(trace: Trace) -> None:
    """A drain that waits when the reset comes."""
    _, writer, near, far = await _open(trace, small=True)
    writer.write(bytes(500_000))
    draining = asyncio.ensure_future(writer.drain())
    await trace.turns(2)
    reset(far, near)
    await trace.wait("drain", draining)


@case
async def wait_closed(trace: Trace) -> None:
    """wait_closed before and after the loss."""
    _, writer, _, far = await _open(trace)
    writer.write(b"last")
    writer.close()
    await trace.wait("wait_closed", writer.wait_closed())
    await trace.wait("and again", writer.wait_closed())
    trace("peer has", *await read_end(far))


@case
async def server(trace: Trace) -> None:
    """start_server: a coroutine for each client, closed by itself or by the client."""
    ended = trace.loop.create_future()

    async def serve(reader: Any, writer: Any) -> None:
        trace("client", type(reader), type(writer))
        while line := await reader.readline():
            trace("line", line)
            writer.write(line.upper())
            await writer.drain()
        trace("end")
        await _close(writer)
        ended.set_result(None)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = dial(trace, listening.sockets[0].getsockname())
    for line in (b"hello\n", b"goodbye\n"):
        client.sendall(line)
        trace("client has", await read(client, len(line)))
    client.close()
    await ended
    listening.close()
    await listening.wait_closed()


@case(since=(3, 12))
async def failing_server(trace: Trace) -> None:
    """An exception in a client's coroutine is reported."""
    told = trace.loop.create_future()

    def handler(loop: Any, context: dict[str, Any]) -> None:
        trace("handler", sorted(context), context.get("exception"))
        told.set_result(None)

    async def serve(reader: Any, writer: Any) -> None:
        raise ValueError("text")

    trace.loop.set_exception_handler(handler)
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = dial(trace, listening.sockets[0].getsockname())
    await told
    trace("told")
    listening.close()
    client.close()


@case(lanes=True)
async def both_ends(trace: Trace) -> None:
    """open_connection to start_server on one loop."""

    async def serve(reader: Any, writer: Any) -> None:
        data = await reader.readexactly(300_000)
        trace("server has", data, lane="server")
        writer.write(data[::-1])
        await writer.drain()
        await _close(writer)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = listening.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(bytes(range(250)) * 1200)
    await writer.drain()
    trace("client has", await reader.read(-1), lane="client")
    await _close(writer)
    listening.close()
    await listening.wait_closed()


@case
async def refused(trace: Trace) -> None:
    """open_connection to nobody."""
    await trace.wait("open_connection", asyncio.open_connection(*dead_address(trace)))


@case
async def extra_info(trace: Trace) -> None:
    """get_extra_info through the writer."""
    _, writer, _, far = await _open(trace)
    trace("peername", writer.get_extra_info("peername") == far.getsockname())
    trace("default", writer.get_extra_info("nothing", 5))
    await _close(writer)
