"""Write flow control: the limits, and exactly when pause_writing and resume_writing come."""

from __future__ import annotations

from typing import Any

from ..trace import PLACE, Trace, case, raises
from ..wire import fill, pair, read, read_end, reset


async def _open(trace: Trace, **hooks: Any) -> tuple[Any, Any, Any, Any]:
    near, far = pair(trace, small=True)
    client = trace.protocol("client", **hooks)
    return await trace.connect(client, near), client, near, far


@case
async def limits(trace: Trace) -> None:
    """Defaults, and how one limit follows from the other."""
    transport, _, _, _ = await _open(trace)
    trace.call(transport.get_write_buffer_limits)
    for arguments in (
        {"high": 1000},
        {"low": 1000},
        {"high": 1000, "low": 10},
        {"high": 0},
        {"low": 0},
        {"high": 0, "low": 0},
        {"high": 7, "low": 7},
        {"high": 3},
        {"high": 1 << 40},
        {"high": None, "low": None},
        {},
    ):
        trace.call(transport.set_write_buffer_limits, **arguments)
        trace.call(transport.get_write_buffer_limits)
    trace.call(transport.set_write_buffer_limits, 500, 400)
    trace.call(transport.get_write_buffer_limits)


@case
async def wrong_limits(trace: Trace) -> None:
    """What is refused, and that the old limits stay."""
    transport, _, _, _ = await _open(trace)
    for arguments in (
        {"high": 10, "low": 11},
        {"high": -1},
        {"low": -1},
        {"high": 0, "low": 1},
        {"high": -5, "low": -5},
        {"high": 1, "low": -1},
    ):
        trace.call(transport.set_write_buffer_limits, **arguments)
        trace.call(transport.get_write_buffer_limits)
    trace.refused(transport.set_write_buffer_limits, high="many")
    trace.refused(transport.set_write_buffer_limits, nothing=1)
    trace.call(transport.get_write_buffer_limits)


@case
async def strictly_over_high(trace: Trace) -> None:
    """Exactly `high` bytes do not pause, one more does; only once."""
    transport, client, _, far = await _open(trace)
    size = fill(transport)
    transport.set_write_buffer_limits(high=size + 100, low=0)
    trace.call(transport.write, bytes(99))
    trace.call(transport.write, bytes(1))
    trace.call(transport.write, bytes(1))
    trace.call(transport.write, bytes(1000))
    trace("size", transport.get_write_buffer_size() - size)
    transport.close()
    await read_end(far)
    await client.lost()


@case
async def pause_comes_from_inside_write(trace: Trace) -> None:
    """pause_writing is called before write() returns, in the writer's context."""
    transport, client, _, _ = await _open(trace)
    fill(transport)
    transport.set_write_buffer_limits(high=transport.get_write_buffer_size())
    PLACE.set("writer")
    trace("before write")
    transport.write(b"x")
    trace("after write")
    PLACE.set("main")
    transport.abort()
    await client.lost()


@case
async def resume_at_low(trace: Trace) -> None:
    """resume_writing comes once, when the buffer is at or under `low`."""

    def resumed() -> None:
        trace("at most low", transport.get_write_buffer_size() <= 5000)

    transport, client, _, far = await _open(trace, resume_writing=resumed)
    transport.set_write_buffer_limits(high=10_000, low=5000)
    trace.call(transport.write, bytes(500_000))
    trace("data", len(await read(far, 500_000)))
    await client.called("resume_writing")
    await trace.turns(3)
    trace("size", transport.get_write_buffer_size())


@case
async def low_of_zero(trace: Trace) -> None:
    """With low = 0, resume_writing comes when the buffer is empty."""

    def resumed() -> None:
        trace("size", transport.get_write_buffer_size())

    transport, client, _, far = await _open(trace, resume_writing=resumed)
    transport.set_write_buffer_limits(high=10_000, low=0)
    trace.call(transport.write, bytes(500_000))
    trace("data", len(await read(far, 500_000)))
    await client.called("resume_writing")


@case
async def high_of_zero(trace: Trace) -> None:
    """With high = 0, any byte that stays in the buffer pauses, and none that does not."""
    transport, client, _, far = await _open(trace)
    trace.call(transport.set_write_buffer_limits, high=0)
    trace.call(transport.write, b"the kernel takes it")
    trace.call(transport.write, b"and that")
    trace.call(transport.get_write_buffer_size)
    trace.call(transport.write, bytes(500_000))
    trace("buffered", transport.get_write_buffer_size() > 0)
    trace("data", len(await read(far, 500_027)))
    await client.called("resume_writing")
    trace.call(transport.get_write_buffer_size)


@case
async def strict_alternation(trace: Trace) -> None:
    """Pauses and resumes alternate over several rounds."""
    transport, client, _, far = await _open(trace)
    transport.set_write_buffer_limits(high=1000, low=100)
    for number in range(1, 4):
        for _ in range(3):
            transport.write(bytes(100_000))
        await read(far, 300_000)
        await client.called("resume_writing", number)
    trace("pauses", client.calls.count("pause_writing"))


@case
async def new_limits_can_pause(trace: Trace) -> None:
    """Lowering the limit under what is buffered pauses at once."""
    transport, client, _, far = await _open(trace)
    size = fill(transport)
    trace.call(transport.set_write_buffer_limits, high=size + 10)
    transport.write(bytes(10))
    trace("set")
    transport.set_write_buffer_limits(high=size + 9)
    trace("set again")
    transport.set_write_buffer_limits(high=size + 1)
    trace("raised")
    transport.set_write_buffer_limits(high=1 << 30)
    trace("raising resumes nothing by itself")
    transport.close()
    await read_end(far)
    await client.lost()


@case
async def raised_limits_resume_with_the_next_send(trace: Trace) -> None:
    """A raised `low` counts as soon as something has been sent."""
    transport, client, _, far = await _open(trace)
    transport.set_write_buffer_limits(high=1000, low=0)
    transport.write(bytes(500_000))
    transport.set_write_buffer_limits(high=1 << 30, low=1 << 29)
    trace("raised")
    await trace.turns(2)
    trace("data", len(await read(far, 500_000)))
    await client.called("resume_writing")


@case
async def paused_and_lost(trace: Trace) -> None:
    """A paused protocol whose connection is aborted or reset gets no resume_writing."""
    for how in ("abort", "reset"):
        transport, client, near, far = await _open(trace)
        transport.set_write_buffer_limits(high=1000)
        transport.write(bytes(500_000))
        if how == "abort":
            transport.abort()
        else:
            reset(far, near)
        await client.lost()
        trace(how, transport.get_write_buffer_size())


@case
async def paused_and_closed(trace: Trace) -> None:
    """A paused protocol that closes is resumed while its buffer is sent, then lost."""
    transport, client, _, far = await _open(trace)
    transport.set_write_buffer_limits(high=1000)
    transport.write(bytes(500_000))
    transport.close()
    data, end = await read_end(far)
    trace("peer has", len(data), end)
    await client.lost()


@case
async def failing_pause_and_resume(trace: Trace) -> None:
    """Exceptions in pause_writing and resume_writing are reported; the connection goes on."""
    transport, client, _, far = await _open(
        trace, pause_writing=raises(ValueError("pause")), resume_writing=raises(KeyError("resume"))
    )
    transport.set_write_buffer_limits(high=1000)
    trace.call(transport.write, bytes(500_000))
    trace("data", len(await read(far, 500_000)))
    await client.called("resume_writing")
    trace.call(transport.is_closing)
    trace.call(transport.write, b"goes on")
    trace("data", await read(far, 7))


@case
async def resume_in_the_writers_context(trace: Trace) -> None:
    """resume_writing runs in the context of the write that found the kernel full."""
    transport, client, _, far = await _open(trace)
    transport.set_write_buffer_limits(high=1000)
    PLACE.set("first writer")
    transport.write(bytes(500_000))
    PLACE.set("second writer")
    transport.write(bytes(100_000))
    PLACE.set("main")
    await read(far, 600_000)
    await client.called("resume_writing")
