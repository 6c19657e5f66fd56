"""BufferedProtocol: kinds of buffers, calls from inside its callbacks, what each may raise."""

from __future__ import annotations

import array
import asyncio
import ctypes
import mmap
from collections.abc import Callable
from typing import Any

from ..trace import PLACE, BufferedRecorder, Trace, case, raises
from ..wire import dial, finish, listener, pair, read_end, receive, reset, send


def _asking(trace: Trace, name: str, size: int = 64, **hooks: Any) -> BufferedRecorder:
    """Return a buffered recorder that records its get_buffer calls too; a hook is handed itself."""
    inner = hooks.pop("get_buffer", None)

    def get_buffer(*hints: Any) -> Any:
        trace(f"{name}.get_buffer{hints}")
        return client.buffer if inner is None else inner(client)

    client = trace.buffered(name, size, get_buffer=get_buffer, **hooks)
    return client


@case
async def calls(trace: Trace) -> None:
    """get_buffer(-1) comes before each read, also before the one that finds the end."""
    near, far = pair(trace)
    client = _asking(trace, "client", 8)
    await trace.connect(client, near)
    send(far, near, b"more than eight")
    await client.received(15)
    finish(far, near)
    await client.lost()


class _OnlyLength:
    def __len__(self) -> int:
        return 4


class _SaysEmpty(bytearray):
    def __len__(self) -> int:
        return 0


class _SaysFull(bytearray):
    def __len__(self) -> int:
        return 4


class _LengthFails(bytearray):
    def __len__(self) -> int:
        raise LookupError("no length")


@case
async def kinds_of_buffers(trace: Trace) -> None:
    """Whatever get_buffer may return: read into, or refused with the words of recv_into."""
    makers: list[Callable[[], Any]] = [
        lambda: bytearray(4),
        lambda: bytearray(2),
        lambda: memoryview(bytearray(8))[2:6],
        lambda: memoryview(bytearray(16)).cast("I"),
        lambda: memoryview(bytearray(16)).cast("B", (4, 4)),
        lambda: array.array("i", [0, 0]),
        lambda: mmap.mmap(-1, 64),
        lambda: (ctypes.c_char * 6)(),
        lambda: _SaysFull(8),
        lambda: _SaysFull(),
        # Refused from here on.
        lambda: memoryview(bytearray(8))[::2],
        lambda: memoryview(bytes(8)),
        lambda: mmap.mmap(-1, 64, access=mmap.ACCESS_READ),
        lambda: bytes(8),
        lambda: "text",
        lambda: [0, 0],
        lambda: {1: 2},
        lambda: asyncio.BufferedProtocol,
        lambda: 8,
        lambda: None,
        lambda: bytearray(),
        lambda: memoryview(bytearray(8))[4:4],
        lambda: _OnlyLength(),
        lambda: _SaysEmpty(8),
        lambda: _LengthFails(8),
    ]
    for make in makers:
        near, far = pair(trace)
        client: Any = trace.buffered("client")
        seen: list[Any] = []

        def get_buffer(hint: int, make: Any = make, seen: list[Any] = seen) -> Any:
            seen.append(make())
            return seen[-1]

        client.get_buffer = get_buffer
        transport = await trace.connect(client, near)
        trace("buffer", type(make()))
        send(far, near, b"data")
        await trace.turns(4)
        for buffer in seen:
            try:
                trace("holds", bytes(buffer))
            except Exception as exc:
                trace("holds", type(exc))
        trace("closing", transport.is_closing())
        transport.abort()
        await client.lost()


@case
async def buffer_is_free(trace: Trace) -> None:
    """The buffer can be resized in buffer_updated and after an error: nothing holds it."""
    near, far = pair(trace)

    def updated(nbytes: int, data: bytes) -> None:
        del client.buffer[:nbytes]
        client.buffer.extend(bytes(nbytes + 3))
        trace("size", len(client.buffer))

    client = trace.buffered("client", 4, buffer_updated=updated)
    await trace.connect(client, near)
    send(far, near, b"0123456789" * 3)
    await client.called("buffer_updated", 4)
    reset(far, near)
    await client.lost()
    client.buffer.clear()
    trace("size", len(client.buffer))


@case
async def view_is_held(trace: Trace) -> None:
    """A view that get_buffer returned is alive in buffer_updated: its bytearray has its size."""
    near, far = pair(trace)
    client: Any = trace.buffered("client", 4)
    client.get_buffer = lambda hint: memoryview(client.buffer)
    client._hooks["buffer_updated"] = lambda *args: client.buffer.extend(b"more")
    await trace.connect(client, near)
    send(far, near, b"data")
    await client.lost()


@case
async def exceptions(trace: Trace) -> None:
    """Each callback raises: an ordinary exception, an OSError."""
    for name in (
        "connection_made",
        "get_buffer",
        "buffer_updated",
        "eof_received",
        "connection_lost",
    ):
        for error in (LookupError("text"), ConnectionResetError(104, "not from the network")):
            near, far = pair(trace)
            client = trace.buffered("client", **{name: raises(error)})
            await trace.connect(client, near)
            send(far, near, b"data")
            await trace.turns(3)
            if "connection_lost" not in client.calls:
                finish(far, near)
            await client.lost()
            await trace.turns(2)


@case
async def exceptions_in_flow_control(trace: Trace) -> None:
    """pause_writing and resume_writing raise: told, and the connection goes on."""
    near, far = pair(trace, small=True)
    client = trace.buffered(
        "client",
        pause_writing=raises(LookupError("pause")),
        resume_writing=raises(LookupError("resume")),
    )
    transport = await trace.connect(client, near)
    transport.write(bytes(400_000))
    transport.close()
    await read_end(far)
    await client.lost()


@case
def interrupts(trace: Trace) -> None:
    """KeyboardInterrupt and SystemExit leave the run from each callback; the next run goes on."""
    loop = trace.loop
    for error in (KeyboardInterrupt("leave"), SystemExit(3)):
        for name in ("get_buffer", "buffer_updated", "connection_lost"):
            near, far = pair(trace)
            client: Any = trace.buffered("client")
            transport = loop.run_until_complete(trace.connect(client, near))
            hook = raises(error)
            if name == "get_buffer":
                client.get_buffer = hook
            else:
                client._hooks[name] = hook
            if name == "connection_lost":
                transport.close()
            else:
                send(far, near, b"data")
            trace.call(loop.run_forever)
            client.__dict__.pop("get_buffer", None)
            client._hooks.clear()
            loop.run_until_complete(trace.turns(3))
            trace("state", transport.is_closing(), client.data)
            transport.abort()
            loop.run_until_complete(trace.turns(3))


@case
async def calls_from_get_buffer(trace: Trace) -> None:
    """What get_buffer does to its transport comes after this read, which goes on."""
    for name in ("close", "abort", "pause_reading", "write_eof"):
        for end in (False, True):
            near, far = pair(trace)
            calls = [name]

            def act(client: BufferedRecorder, calls: list[str] = calls) -> Any:
                if calls:
                    trace.call(getattr(client.transport, calls.pop()))
                return client.buffer

            client = _asking(trace, "client", get_buffer=act)
            transport = await trace.connect(client, near)
            if end:
                finish(far, near)
            else:
                send(far, near, b"data")
            await trace.turns(4)
            trace(name, end, client.data, transport.is_closing())
            transport.abort()
            await client.lost()


@case
async def calls_from_buffer_updated(trace: Trace) -> None:
    """What buffer_updated does to its transport takes effect with the next read."""
    for name in ("close", "abort", "pause_reading", "write_eof"):
        near, far = pair(trace)
        client = _asking(trace, "client", 3)
        transport = await trace.connect(client, near)
        call = getattr(transport, name)
        client._hooks["buffer_updated"] = lambda *args, call=call: trace.call(call)
        send(far, near, b"data")
        await trace.turns(4)
        trace(name, client.data, transport.is_closing())
        transport.abort()
        await client.lost()


@case
async def switched_in_get_buffer(trace: Trace) -> None:
    """set_protocol in get_buffer: the new protocol hears of what the old one's buffer got."""
    for plain in (False, True):
        near, far = pair(trace)
        other: Any = trace.protocol("other") if plain else _asking(trace, "other")

        def switch(client: BufferedRecorder, other: Any = other) -> Any:
            client.transport.set_protocol(other)
            return client.buffer

        client = _asking(trace, "client", get_buffer=switch)
        transport = await trace.connect(client, near)
        send(far, near, b"data")
        await trace.turns(3)
        trace("first has", bytes(client.buffer[:4]))
        if not transport.is_closing():
            send(far, near, b"more")
            await trace.turns(3)
            finish(far, near)
        await other.lost()


@case
async def switched_in_callbacks(trace: Trace) -> None:
    """set_protocol in data_received and in buffer_updated, to the other kind, data waiting."""
    near, far = pair(trace)
    kinds: list[Any] = []

    def switch(*args: Any) -> None:
        kinds.append(kinds.pop(0))
        transport.set_protocol(kinds[0])

    kinds += [
        _asking(trace, "one", 3, buffer_updated=switch),
        _asking(trace, "two", 5, buffer_updated=switch),
        trace.protocol("three", data_received=switch),
    ]
    protocols = list(kinds)
    transport = await trace.connect(kinds[0], near)
    for _ in range(3):
        send(far, near, b"0123456789")
        await trace.turns(4)
    trace("data", *(each.data for each in protocols))
    finish(far, near)
    await kinds[0].lost()


@case
async def switched_before_the_read(trace: Trace) -> None:
    """set_protocol in a callback that runs before the read of the same turn decides its kind."""
    near, far = pair(trace)
    stream, buffer = trace.protocol("stream"), _asking(trace, "buffer")
    transport = await trace.connect(stream, near)
    for protocol in (buffer, stream, buffer):
        send(far, near, b"data")
        trace.loop.call_soon(transport.set_protocol, protocol)
        await trace.turns(3)
    finish(far, near)
    trace.loop.call_soon(transport.set_protocol, stream)
    await stream.lost()


@case
async def switched_from_streams(trace: Trace) -> None:
    """A StreamReader's connection goes on as a BufferedProtocol's and comes back."""
    near, far = pair(trace)
    reader, writer = await asyncio.open_connection(sock=near)
    send(far, near, b"line\nrest")
    trace("line", await reader.readline())
    trace("rest", await reader.readexactly(4))
    transport = writer.transport
    old = transport.get_protocol()
    client = _asking(trace, "client")
    transport.set_protocol(client)
    send(far, near, b"buffered")
    await client.received(8)
    transport.set_protocol(old)
    send(far, near, b"again\n")
    trace("line", await reader.readline())
    finish(far, near)
    trace("end", await reader.read())
    writer.close()
    await trace.wait("wait_closed", writer.wait_closed())


@case
async def half_closed(trace: Trace) -> None:
    """eof_received keeps the connection open; what is written then still arrives."""
    near, far = pair(trace)
    client = _asking(trace, "client", eof_received=lambda: True)
    transport = await trace.connect(client, near)
    finish(far, near)
    await client.called("eof_received")
    await trace.turns(3)
    transport.write(b"after the end")
    await trace.turns()
    trace("peer has", receive(far, 13))
    transport.close()
    await client.lost()


@case
async def broken(trace: Trace) -> None:
    """A reset is connection_lost's argument; get_buffer was called before the read."""
    near, far = pair(trace)
    client = _asking(trace, "client")
    await trace.connect(client, near)
    reset(far, near)
    await client.lost()


@case
async def contexts(trace: Trace) -> None:
    """get_buffer and buffer_updated run in the context of who connected, or resumed reading."""
    near, far = pair(trace)
    client = _asking(trace, "client")
    PLACE.set("connected")
    transport = await trace.connect(client, near)
    PLACE.set("later")
    send(far, near, b"one")
    await client.received(3)
    transport.pause_reading()
    PLACE.set("resumed")
    transport.resume_reading()
    PLACE.set("later still")
    send(far, near, b"two")
    await client.received(6)
    finish(far, near)
    await client.lost()


@case
async def missing_callbacks(trace: Trace) -> None:
    """A BufferedProtocol that lacks everything, and one whose methods are taken away."""

    class Bare(asyncio.BufferedProtocol):
        pass

    class Taken(asyncio.BufferedProtocol):
        get_buffer: Any = None
        buffer_updated: Any = None

    class Half(asyncio.BufferedProtocol):
        buffer_updated: Any = None

        def get_buffer(self, hint: int) -> Any:
            return bytearray(4)

    for kind in (Bare, Taken, Half):
        near, far = pair(trace)
        protocol: Any = trace.name(kind(), "protocol")
        transport = trace.name(await trace.connect(protocol, near), "transport")
        send(far, near, b"data")
        await trace.turns(4)
        trace("closing", transport.is_closing())
        transport.abort()
        await trace.turns(2)


@case
async def by_a_metaclass(trace: Trace) -> None:
    """Which kind a protocol is, is asked by isinstance, once for each set_protocol."""

    class Virtual:
        """No subclass, but it says that it is one."""

        __class__: Any = asyncio.BufferedProtocol

        def connection_made(self, transport: Any) -> None:
            trace("made")

        def get_buffer(self, hint: int) -> Any:
            trace("get_buffer", hint)
            return bytearray(8)

        def buffer_updated(self, nbytes: int) -> None:
            trace("buffer_updated", nbytes)

        def eof_received(self) -> None:
            trace("eof_received")

        def connection_lost(self, exc: Any) -> None:
            lost.set_result(None)

    lost = trace.loop.create_future()
    near, far = pair(trace)
    await trace.connect(Virtual(), near)
    send(far, near, b"data")
    await trace.turns(3)
    finish(far, near)
    await lost


@case(lanes=True)
async def on_a_server(trace: Trace) -> None:
    """A server of buffered protocols, an accepted socket, and one it connects to."""
    served = _asking(trace, "served", 8)
    server = await trace.loop.create_server(lambda: served, "127.0.0.1", 0)
    client = dial(trace, server.sockets[0].getsockname())
    client.sendall(b"0123456789")
    await served.called("connection_made")
    await served.received(10)
    client.close()
    await served.lost()
    server.close()

    ours = listener(trace)
    far = dial(trace, ours.getsockname())
    accepted = _asking(trace, "accepted", 8)
    sock, _ = ours.accept()
    await trace.loop.connect_accepted_socket(lambda: accepted, sock)
    far.sendall(b"data")
    await accepted.received(4)
    far.close()
    await accepted.lost()
