"""Exceptions of every kind, raised in every callback of a protocol, and in its factory.

An ordinary exception goes to the exception handler, KeyboardInterrupt and SystemExit leave the
loop, which can be run again; afterwards the connection is in the state the script shows.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable, Iterable
from typing import Any

from ..trace import Recorder, Trace, case, raises
from ..wire import dial, finish, pair, read_end, send


class Odd(BaseException):
    """Neither an Exception nor one of the two that leave the loop."""


def exceptions() -> list[BaseException]:
    """Return one of each kind; new ones, since a traceback keeps what it saw alive."""
    return [
        ValueError("text"),
        OSError(5, "an OSError of the protocol's own"),
        asyncio.CancelledError("text"),
        Odd("text"),
        KeyboardInterrupt("text"),
        SystemExit("text"),
    ]


def _raise_in(trace: Trace, callback: str, act: Callable[[Recorder, Any, Any], Any]) -> None:
    """Raise each exception in `callback`, which `act` brings about."""
    loop = trace.loop
    for exc in exceptions():
        near, far = pair(trace, small=True)
        armed = [True]

        def hook(*args: Any, exc: BaseException = exc, armed: list[bool] = armed) -> Any:
            if armed:
                armed.clear()
                raise exc

        client = trace.protocol("client", **{callback: hook})

        async def main(client: Recorder = client, near: Any = near, far: Any = far) -> None:
            transport = await trace.connect(client, near)
            await act(client, near, far)
            await client.called(callback)
            await trace.turns(2)
            trace.call(transport.is_closing)
            if not transport.is_closing():
                transport.write(b"the connection still works")
            transport.close()
            data, end = await read_end(far)
            trace("peer has", data.lstrip(b"\0"), end)
            if "connection_lost" not in client.calls:
                await client.lost()

        task = loop.create_task(main())
        trace.call(loop.run_until_complete, task)
        if not task.done():
            trace.call(loop.run_until_complete, task)


@case
def in_connection_made(trace: Trace) -> None:
    """Raised in connection_made: the connection is made all the same."""

    async def act(client: Recorder, near: Any, far: Any) -> None:
        send(far, near, b"data")
        await client.received(4)

    _raise_in(trace, "connection_made", act)


@case
def in_data_received(trace: Trace) -> None:
    """Raised in data_received: fatal for the connection unless it leaves the loop."""

    async def act(client: Recorder, near: Any, far: Any) -> None:
        send(far, near, b"data")

    _raise_in(trace, "data_received", act)


@case
def in_eof_received(trace: Trace) -> None:
    """Raised in eof_received: the same; one that leaves the loop is asked again."""

    async def act(client: Recorder, near: Any, far: Any) -> None:
        finish(far, near)

    _raise_in(trace, "eof_received", act)


@case
def in_connection_lost(trace: Trace) -> None:
    """Raised in connection_lost: the socket is closed all the same."""

    async def act(client: Recorder, near: Any, far: Any) -> None:
        client.transport.close()

    _raise_in(trace, "connection_lost", act)


@case
def in_pause_writing(trace: Trace) -> None:
    """Raised in pause_writing: comes out of write() only if it leaves the loop."""
    loop = trace.loop
    for exc in exceptions():
        near, far = pair(trace, small=True)
        client = trace.protocol("client", pause_writing=raises(exc))

        async def main(client: Recorder = client, near: Any = near, far: Any = far) -> None:
            transport = await trace.connect(client, near)
            try:
                transport.write(bytes(300_000))
                trace("written")
            except BaseException as raised:
                trace("write raised", raised)
            trace.call(transport.is_closing)
            transport.write(b"more")
            transport.close()
            data, end = await read_end(far)
            trace("peer has", len(data), data.lstrip(b"\0"), end)
            await client.lost()

        trace.call(loop.run_until_complete, trace.name(main(), "main()"))


@case
def in_resume_writing(trace: Trace) -> None:
    """Raised in resume_writing, while there is still a buffer: reported, or leaves the loop."""
    loop = trace.loop
    for exc in exceptions():
        near, far = pair(trace, small=True)
        client = trace.protocol("client", resume_writing=raises(exc))

        async def main(client: Recorder = client, near: Any = near, far: Any = far) -> None:
            transport = await trace.connect(client, near)
            transport.set_write_buffer_limits(high=1 << 20, low=1 << 19)
            transport.write(bytes(1 << 21))
            reading = asyncio.ensure_future(read_end(far))
            await client.called("resume_writing")
            await trace.turns(3)
            trace.call(transport.is_closing)
            transport.close()
            trace("peer has", *await reading)
            await client.lost()

        task = loop.create_task(main())
        trace.call(loop.run_until_complete, task)
        if not task.done():
            trace.call(loop.run_until_complete, task)


@case
def in_the_factory_of_a_client(trace: Trace) -> None:
    """Raised in the protocol factory of create_connection: comes out of it."""
    loop = trace.loop
    for exc in exceptions():
        near, _ = pair(trace)

        async def main(near: Any = near, exc: BaseException = exc) -> None:
            await trace.wait("connect", loop.create_connection(raises(exc), sock=near))

        trace.call(loop.run_until_complete, trace.name(main(), "main()"))
        trace("socket open", near.fileno() >= 0)


def _raise_in_factory(trace: Trace, numbers: Iterable[int]) -> None:
    loop = trace.loop
    for number in numbers:
        served: list[Recorder] = []
        armed = [number]

        def factory(served: list[Recorder] = served, armed: list[int] = armed) -> Any:
            if armed:
                trace("factory raises")
                raise exceptions()[armed.pop()]
            served.append(trace.protocol("served"))
            return served[-1]

        server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0))

        async def main(server: Any = server, served: Any = served) -> None:
            address = server.sockets[0].getsockname()
            bad = dial(trace, address)
            trace("bad client has", *await read_end(bad))
            good = dial(trace, address)
            good.shutdown(socket.SHUT_WR)
            trace("good client has", *await read_end(good))
            await served[0].lost()
            server.close()

        task = loop.create_task(main())
        trace.call(loop.run_until_complete, task)
        if not task.done():
            gc.collect()  # the exception that left the loop held the connection
            trace.call(loop.run_until_complete, task)


@case
def in_the_factory_of_a_server(trace: Trace) -> None:
    """Raised in the protocol factory of a server: the connection is dropped, the server goes on."""
    _raise_in_factory(trace, range(4))


@case
def interrupts_in_the_factory_of_a_server(trace: Trace) -> None:
    """KeyboardInterrupt and SystemExit there: the same, after they have left the loop."""
    _raise_in_factory(trace, range(4, 6))


@case
def twice(trace: Trace) -> None:
    """An exception in data_received and another in the connection_lost it leads to."""
    loop = trace.loop
    near, far = pair(trace)
    client = trace.protocol(
        "client",
        data_received=raises(ValueError("first")),
        connection_lost=raises(KeyError("second")),
    )

    async def main() -> None:
        await trace.connect(client, near)
        send(far, near, b"data")
        await client.lost()
        await trace.turns(2)
        trace("socket closed", near.fileno())

    loop.run_until_complete(main())


@case
def leaving_with_more_data(trace: Trace) -> None:
    """After a KeyboardInterrupt in data_received the next run delivers what came meanwhile."""
    loop = trace.loop
    near, far = pair(trace)
    client = trace.protocol("client", data_received=raises(KeyboardInterrupt("text")))
    loop.run_until_complete(trace.connect(client, near))
    for number in range(3):
        send(far, near, b"%d" % number)
        loop.call_soon(trace.callback("ready before"))
        loop.call_later(0, trace.callback("timer behind"))
        trace.call(loop.run_forever)
        loop.call_soon(loop.stop)
        trace.call(loop.run_forever)
