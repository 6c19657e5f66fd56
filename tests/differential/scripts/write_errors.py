"""What write and writelines refuse, in asyncio's words, and that the connection goes on."""

from __future__ import annotations

from array import array
from typing import Any

from ..trace import Trace, case
from ..wire import pair, read_rest, receive


@case
async def wrong_types(trace: Trace) -> None:
    """write takes bytes, bytearray and memoryview; everything else is a TypeError."""
    near, far = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)

    class Buffer(bytes):
        pass

    for wrong in ("text", "", None, 0, 1.5, [b"list"], array("b", [1]), object, Ellipsis):
        trace.call(transport.write, wrong)
    trace.refused(transport.write)
    trace.refused(transport.write, b"one", b"two")
    trace.call(transport.write, Buffer(b"a subclass"))
    trace.call(transport.is_closing)
    trace.call(transport.get_write_buffer_size)
    trace("peer has", receive(far, 10))


@case
async def wrong_types_on_a_closed_transport(trace: Trace) -> None:
    """The type is checked first, whatever the state."""
    near, far = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    transport.close()
    trace.call(transport.write, "text")
    await client.lost()
    trace.call(transport.write, "text")
    trace("peer has", *read_rest(far))


@case
async def wrong_lines(trace: Trace) -> None:
    """writelines refuses what holds no buffers."""
    for wrong in (5, ["text"], [5], "text"):
        near, _ = pair(trace)
        client = trace.protocol("client")
        transport = await trace.connect(client, near)
        trace.refused(transport.writelines, wrong)
        trace.call(transport.is_closing)


@case
async def scattered_memory(trace: Trace) -> None:
    """A memoryview that is not contiguous cannot be sent: the transport fails, not the loop."""
    near, far = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    trace.call(transport.write, memoryview(b"a-b-c-d-")[::2])
    trace.call(transport.is_closing)
    await client.lost()
    trace("peer has", *read_rest(far))


@case
async def released_memory(trace: Trace) -> None:
    """A released memoryview is a ValueError."""
    near, _ = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    view: Any = memoryview(b"data")
    view.release()
    try:
        transport.write(view)
    except Exception as exc:
        trace("raised", exc)
    trace.call(transport.is_closing)
