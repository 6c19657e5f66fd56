"""Pipes and terminals: callbacks, their order, errors, logs, and what is refused."""

from __future__ import annotations

import contextlib
import os
import pty
import tty
from io import FileIO
from typing import Any

from ..trace import Trace, case, raises
from ..wire import arrived

BIG = bytes(300_000)


def _files(trace: Trace, reader: int, writer: int) -> tuple[Any, Any]:
    return (
        trace.enter(contextlib.closing(FileIO(reader, "rb"))),
        trace.enter(contextlib.closing(FileIO(writer, "wb"))),
    )


def _pipe(trace: Trace) -> tuple[Any, Any]:
    return _files(trace, *os.pipe())


async def _read(trace: Trace, protocol: Any, file: Any) -> Any:
    return (await trace.loop.connect_read_pipe(lambda: protocol, file))[0]


async def _write(trace: Trace, protocol: Any, file: Any) -> Any:
    return (await trace.loop.connect_write_pipe(lambda: protocol, file))[0]


@case
async def data_and_end(trace: Trace) -> None:
    """Data, then the end of the stream, whose answer does not matter, then the loss."""
    for answer in (None, True):
        reader, writer = _pipe(trace)
        client = trace.protocol("client", eof_received=lambda answer=answer: answer)
        transport = await _read(trace, client, reader)
        os.write(writer.fileno(), b"data")
        await client.received(4)
        writer.close()
        await client.called("eof_received")
        trace.call(transport.is_closing)
        await client.lost()
        trace("closed", reader.closed)
        trace.call(transport.close)


@case
async def exceptions(trace: Trace) -> None:
    """What data_received raises is told, and reading goes on."""
    reader, writer = _pipe(trace)
    client = trace.protocol("client", eof_received=raises(ValueError("end")))
    await _read(trace, client, reader)
    os.write(writer.fileno(), b"data")
    await client.received(4)
    writer.close()
    await client.lost()


@case
async def pausing(trace: Trace) -> None:
    """A paused pipe reads nothing, not even its end."""
    reader, writer = _pipe(trace)
    client = trace.protocol("client")
    transport = await _read(trace, client, reader)
    trace.call(transport.pause_reading)
    trace.call(transport.pause_reading)
    os.write(writer.fileno(), b"data")
    await trace.turns(3)
    trace.call(transport.resume_reading)
    trace.call(transport.resume_reading)
    await client.received(4)
    transport.pause_reading()
    writer.close()
    await trace.turns(3)
    transport.resume_reading()
    await client.lost()
    trace.call(transport.pause_reading)
    trace.call(transport.resume_reading)


@case
async def writing(trace: Trace) -> None:
    """Writes, their types, the end, and what comes too late."""
    reader, writer = _pipe(trace)
    client = trace.protocol("client")
    transport = await _write(trace, client, writer)
    for data in (b"a", bytearray(b"b"), memoryview(b"c"), b"", "text", None, 5, [b"x"]):
        trace.call(transport.write, data)
    trace.call(transport.writelines, [b"d", bytearray(b"e"), memoryview(b"f")])
    trace.refused(transport.writelines, 5)
    trace.refused(transport.writelines, ["text"])
    trace.call(transport.can_write_eof)
    trace.call(transport.get_write_buffer_size)
    trace.call(transport.get_write_buffer_limits)
    trace.call(transport.write_eof)
    trace.call(transport.is_closing)
    trace.call(transport.write_eof)
    trace.call(transport.close)
    for _ in range(7):
        trace.call(transport.write, b"late")
    await client.lost()
    trace.call(transport.write, b"later")
    trace.call(transport.close)
    trace("reader has", reader.read(100), reader.read(1))
    trace("closed", writer.closed)


@case
async def flow_control(trace: Trace) -> None:
    """Pauses over the high-water mark, resumes at the low one; close waits for the rest."""
    reader, writer = _pipe(trace)
    client = trace.protocol("client")
    transport = await _write(trace, client, writer)
    trace.call(transport.write, BIG)
    trace.call(transport.get_write_buffer_size)
    trace.call(transport.set_write_buffer_limits, high=10, low=20)
    trace.call(transport.close)
    trace.call(transport.write, b"late")
    count = 0
    while "connection_lost" not in client.calls:
        arrived(reader)
        count += len(reader.read(65536))
        await trace.turns(2)
    trace("reader had", count + len(reader.read(BIG.__len__())))


@case
async def the_reader_goes(trace: Trace) -> None:
    """With nothing to write that is no error; else it is, whoever notices first."""
    for waiting in (b"", BIG):
        reader, writer = _pipe(trace)
        client = trace.protocol("client")
        transport = await _write(trace, client, writer)
        transport.write(waiting)
        reader.close()
        await client.lost()
    reader, writer = _pipe(trace)
    client = trace.protocol("client")
    transport = await _write(trace, client, writer)
    reader.close()
    for _ in range(7):
        trace.call(transport.write, b"data")
        trace.call(transport.is_closing)
    await client.lost()


@case
async def aborting(trace: Trace) -> None:
    """abort drops what waits."""
    _, writer = _pipe(trace)
    client = trace.protocol("client")
    transport = await _write(trace, client, writer)
    transport.write(BIG)
    transport.close()
    trace.call(transport.abort)
    trace.call(transport.get_write_buffer_size)
    await client.lost()


@case
async def terminals(trace: Trace) -> None:
    """Both ends of a pty; the slave's going is EIO at the master."""
    numbers = pty.openpty()
    tty.setraw(numbers[1])
    master = trace.enter(contextlib.closing(FileIO(numbers[0], "r+b")))
    slave = trace.enter(contextlib.closing(FileIO(numbers[1], "r+b")))
    near, far = trace.protocol("master"), trace.protocol("slave")
    await _read(trace, near, master)
    transport = await _write(trace, far, slave)
    os.write(master.fileno(), b"typed")
    await trace.turns(3)
    trace.call(transport.is_closing)
    transport.write(b"output")
    await near.received(6)
    transport.close()
    await far.lost()
    await near.lost()


@case
async def refusals(trace: Trace) -> None:
    """Regular files are refused and stay open."""
    with open(__file__, "rb") as file:
        for connect in (trace.loop.connect_read_pipe, trace.loop.connect_write_pipe):
            await trace.wait("connect", connect(lambda: trace.protocol("client"), file))
            trace("closed", file.closed)
