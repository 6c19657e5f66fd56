"""Whose context each callback runs in: of whoever registered what led to it.

The word in brackets is the value PLACE had where the line was recorded.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..trace import PLACE, Trace, case
from ..wire import arrived, dial, finish, pair, read_end, receive, reset, send


@case
async def of_a_client(trace: Trace) -> None:
    """connection_made, data and end in the opener's context, however far that has moved on."""
    near, far = pair(trace)
    client = trace.protocol("client")
    PLACE.set("opener")
    await trace.connect(client, near)
    PLACE.set("afterwards")
    send(far, near, b"data")
    await client.received(4)
    finish(far, near)
    await client.lost()


@case
async def of_a_task(trace: Trace) -> None:
    """The same when a task of its own opened the connection."""
    near, far = pair(trace)
    client = trace.protocol("client")

    async def opener() -> Any:
        PLACE.set("task")
        return await trace.connect(client, near)

    await trace.loop.create_task(opener())
    send(far, near, b"data")
    await client.received(4)
    reset(far, near)
    await client.lost()


@case
async def of_the_closer(trace: Trace) -> None:
    """connection_lost in the context of whoever closed or aborted."""
    for method in ("close", "abort"):
        near, _ = pair(trace)
        client = trace.protocol("client")
        PLACE.set("opener")
        transport = await trace.connect(client, near)
        PLACE.set(f"who calls {method}")
        getattr(transport, method)()
        PLACE.set("afterwards")
        await client.lost()


@case
async def of_a_close_inside_data_received(trace: Trace) -> None:
    """A close() in data_received is in data_received's context."""
    near, far = pair(trace)

    def received(data: bytes) -> None:
        PLACE.set("in data_received")
        client.transport.close()

    client = trace.protocol("client", data_received=received)
    await trace.connect(client, near)
    send(far, near, b"data")
    await client.lost()


@case
async def of_who_resumes(trace: Trace) -> None:
    """data_received in the context of whoever resumed reading last."""
    near, far = pair(trace)
    client = trace.protocol("client")
    PLACE.set("opener")
    transport = await trace.connect(client, near)
    PLACE.set("pauser")
    transport.pause_reading()
    PLACE.set("resumer")
    transport.resume_reading()
    PLACE.set("no effect")
    transport.resume_reading()
    send(far, near, b"data")
    await client.received(4)
    PLACE.set("pauser again")
    transport.pause_reading()
    transport.set_protocol(client)
    trace.loop.call_soon(transport.resume_reading)
    PLACE.set("afterwards")
    send(far, near, b"more")
    await client.received(8)
    finish(far, near)
    await client.lost()


@case
async def of_who_writes(trace: Trace) -> None:
    """pause_writing in the writer's context, resume_writing in that of the write that waited."""
    near, far = pair(trace, small=True)
    client = trace.protocol("client")
    PLACE.set("opener")
    transport = await trace.connect(client, near)
    transport.set_write_buffer_limits(high=400_000, low=0)
    PLACE.set("writer who waits")
    transport.write(bytes(300_000))
    PLACE.set("writer who pauses")
    transport.write(bytes(300_000))
    PLACE.set("closer")
    transport.close()
    PLACE.set("reader")
    trace("peer has", *await read_end(far))
    await client.lost()


@case
async def of_a_dead_peer(trace: Trace) -> None:
    """connection_lost in the context of the write that failed."""
    near, far = pair(trace)
    client = trace.protocol("client")
    PLACE.set("opener")
    transport = await trace.connect(client, near)
    reset(far, near)
    PLACE.set("writer")
    transport.write(b"data")
    trace.call(transport.is_closing)
    PLACE.set("afterwards")
    await client.lost()


@case
async def kept_between_callbacks(trace: Trace) -> None:
    """What data_received sets, the next data_received sees; connection_made has another context."""
    near, far = pair(trace)

    def made(transport: Any) -> None:
        PLACE.set("set by connection_made")

    def received(data: bytes) -> None:
        PLACE.set(f"set for {data.decode()}")

    client = trace.protocol(
        "client", connection_made=made, data_received=received, eof_received=lambda: True
    )
    transport = await trace.connect(client, near)
    for number in range(3):
        send(far, near, b"%d" % number)
        await client.received(number + 1)
    transport.pause_reading()
    transport.resume_reading()
    send(far, near, b"3")
    await client.received(4)
    finish(far, near)
    await client.called("eof_received")
    trace("the script's own")


@case
async def of_a_server(trace: Trace) -> None:
    """A server's protocols run in copies of the context that started it."""

    def factory() -> Any:
        trace("factory")
        PLACE.set("set by the factory")
        return served

    served = trace.protocol("served")
    PLACE.set("server")
    server = await trace.loop.create_server(factory, "127.0.0.1", 0)
    PLACE.set("afterwards")
    client = dial(trace, server.sockets[0].getsockname())
    await served.called("connection_made")
    client.sendall(b"data")
    await served.received(4)
    client.close()
    await served.lost()
    server.close()


@case
async def of_who_starts_serving(trace: Trace) -> None:
    """With start_serving=False, of whoever starts it."""
    served = trace.protocol("served")
    PLACE.set("creator")
    server = await trace.loop.create_server(
        lambda: (trace("factory"), served)[1], "127.0.0.1", 0, start_serving=False
    )
    PLACE.set("starter")
    await server.start_serving()
    PLACE.set("afterwards")
    client = dial(trace, server.sockets[0].getsockname())
    await served.called("connection_made")
    client.sendall(b"data")
    await served.received(4)
    served.transport.write(b"answer")
    await trace.turns()
    trace("client has", receive(client, 6))
    client.close()
    await served.lost()
    server.close()


@case
async def clients_do_not_share(trace: Trace) -> None:
    """What one connection sets in its context, another one of the same server does not see."""
    served: list[Any] = []

    def factory() -> Any:
        name = f"served{len(served) + 1}"
        served.append(trace.protocol(name, data_received=lambda data: PLACE.set(f"set by {name}")))
        return served[-1]

    server = await trace.loop.create_server(factory, "127.0.0.1", 0)
    clients = []
    for number in range(2):
        clients.append(dial(trace, server.sockets[0].getsockname()))
        arrived(server.sockets[0])
        while len(served) <= number:
            await trace.turns()
        await served[number].called("connection_made")
    for piece in range(2):
        for client, protocol in zip(clients, served, strict=True):
            client.sendall(b"data")
            await protocol.received(4 * (piece + 1))
    server.close()


@case
async def of_the_exception_handler(trace: Trace) -> None:
    """The handler runs where the callback failed."""
    near, far = pair(trace)

    def received(data: bytes) -> None:
        PLACE.set("in data_received")
        raise ValueError("text")

    client = trace.protocol("client", data_received=received)
    await trace.connect(client, near)
    send(far, near, b"data")
    await client.lost()


@case
async def of_the_executor(trace: Trace) -> None:
    """run_in_executor has no context of the caller's, asyncio.to_thread has."""
    PLACE.set("caller")
    await trace.loop.run_in_executor(None, trace, "in the executor")
    await asyncio.to_thread(trace, "to_thread")


@case
async def of_tasks(trace: Trace) -> None:
    """A task runs in a copy of its creator's context, a done callback in that of who added it."""

    async def work() -> None:
        trace("first step")
        PLACE.set("set by the task")
        await asyncio.sleep(0)
        trace("second step")

    PLACE.set("creator")
    task = trace.loop.create_task(work())
    PLACE.set("who adds a callback")
    task.add_done_callback(trace.callback("done"))
    PLACE.set("afterwards")
    await task
    await trace.turns()
    future = trace.loop.create_future()
    future.add_done_callback(trace.callback("future done"))
    PLACE.set("who sets the result")
    future.set_result(None)
    await trace.turns()
