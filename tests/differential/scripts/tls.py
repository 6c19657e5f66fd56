"""TLS connections: their handshake, data, end, flow control, start_tls, and what is told when."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Any

from ...certificates import HOST, client_context, server_context
from .. import trace as tracing
from ..tlswire import ROLES, TLS12, TLS13, Far, begin, connect, contexts, reports
from ..trace import PLACE, Trace, raises
from ..wire import dial, finish, listener, pair, read_end, receive, reset, send

case = functools.partial(tracing.case, since=(3, 11))
"""3.11 has another implementation of TLS than 3.10."""


@tracing.case
async def arguments(trace: Trace) -> None:
    """What is refused before anything is done."""
    loop = trace.loop
    context = trace.name(client_context(), "context")
    protocol = trace.protocol("nobody")
    make = lambda: protocol  # noqa: E731
    place = ("127.0.0.1", 1)
    for options in (
        {"server_hostname": HOST},
        {"server_hostname": ""},
        {"ssl": False, "server_hostname": HOST},
        {"ssl_handshake_timeout": 1},
        {"ssl": None, "ssl_handshake_timeout": 0},
    ):
        await trace.wait("connection", loop.create_connection(make, *place, **options))
        await trace.wait("unix", loop.create_unix_connection(make, "/nowhere", **options))
    for ssl_ in (True, context):
        await trace.wait("no host", loop.create_connection(make, "", 1, ssl=ssl_))
        await trace.wait("no name", loop.create_unix_connection(make, "/nowhere", ssl=ssl_))
    for ssl_ in (True, False):
        await trace.wait("server", loop.create_server(make, *place, ssl=ssl_))
        await trace.wait("unix server", loop.create_unix_server(make, "/nowhere", ssl=ssl_))
    for options in ({"ssl_handshake_timeout": 1}, {"ssl": None, "ssl_handshake_timeout": 1}):
        await trace.wait("server", loop.create_server(make, *place, **options))
        await trace.wait("unix server", loop.create_unix_server(make, "/nowhere", **options))
    near, _ = pair(trace)
    await trace.wait("accepted", loop.connect_accepted_socket(make, near, ssl_handshake_timeout=1))
    await trace.wait("accepted", loop.connect_accepted_socket(make, near, ssl=True))
    for wrong in (None, True, "context"):
        await trace.wait("context", loop.start_tls(None, protocol, wrong))
    for wrong in (None, "transport"):
        await trace.wait("transport", loop.start_tls(wrong, protocol, context))


@case
async def handshakes(trace: Trace) -> None:
    """connection_made after the handshake, then the result of the call, then the data."""
    for role in ROLES:
        for version in (TLS12, TLS13):
            trace("handshake", role, version.name)
            ours, theirs = contexts(role, version=version)
            near, sock = pair(trace)
            protocol = trace.protocol(role)
            task = begin(trace, role, protocol, near, ours)
            far = Far(sock, near, theirs)
            await far.handshake()
            await trace.wait("made", task)
            far.say(b"in")
            await protocol.received(2)
            protocol.transport.write(b"out")
            trace("peer has", await far.read(3))


@case
async def data_with_the_last_flight(trace: Trace) -> None:
    """The peer's Finished and data in one segment: data_received comes in the same event."""
    for role, version in (("server", TLS12), ("server", TLS13), ("client", TLS12)):
        trace("last flight of the peer of a", role, version.name)
        ours, theirs = contexts(role, version=version)
        near, sock = pair(trace)
        protocol = trace.protocol(role)
        task = begin(trace, role, protocol, near, ours)
        task.add_done_callback(lambda _: trace("the task is done"))
        far = Far(sock, near, theirs)
        while flight := await far.next_flight():
            if far.shaken:
                break
            far.send(flight)
        far.send(flight + far.records(b"data", b" and more"))
        await trace.wait("made", task)
        await protocol.received(13)


@case
async def records_of_one_event(trace: Trace) -> None:
    """All that came is one piece of data, however many records it was."""
    for role in ROLES:
        _, protocol, far = await connect(trace, role)
        far.say(*(b"%d" % number for number in range(20)))
        await protocol.received(30)
        far.say(bytes(10_000), bytes(10_000))
        await protocol.received(20_030)


@case
async def a_record_in_pieces(trace: Trace) -> None:
    """Nothing is told until it is complete."""
    _, protocol, far = await connect(trace)
    record = far.records(b"data", b"more")
    for start, end in ((0, 3), (3, 5), (5, 20), (20, len(record) - 1)):
        far.send(record[start:end])
        await trace.turns(3)
        trace("so far", protocol.calls, protocol.data)
    far.send(record[-1:])
    await protocol.received(8)


@case
async def written_in_callbacks(trace: Trace) -> None:
    """In connection_made, data_received and eof_received; the peer has all of it in order."""

    async def connection(role: str) -> None:
        def write(text: bytes) -> Any:
            return lambda *_: protocol.transport.write(text)

        protocol = trace.protocol(
            role,
            connection_made=write(b"made "),
            data_received=write(b"received "),
            eof_received=write(b"end"),
        )
        _, _, far = await connect(trace, role, protocol)
        far.say(b"data")
        trace("peer has", await far.read(14))
        far.send(far.notice())
        await protocol.lost()
        trace("peer has", *await far.read_end())

    for role in ROLES:
        await connection(role)


@case
async def questions(trace: Trace) -> None:
    """What the transport says of itself, open and closed."""

    def ask() -> None:
        for question in (
            transport.is_closing,
            transport.is_reading,
            transport.can_write_eof,
            transport.get_write_buffer_size,
            transport.get_write_buffer_limits,
            transport.get_read_buffer_size,
            transport.get_read_buffer_limits,
            transport.write_eof,
        ):
            trace.call(question)
        for key in ("cipher", "compression", "nothing"):
            trace(key, transport.get_extra_info(key, "default"))
        for key in ("sslcontext", "ssl_object", "peercert"):
            trace(key, transport.get_extra_info(key) is not None)

    for role in ROLES:
        transport, protocol, far = await connect(trace, role)
        trace.call(transport.get_protocol)
        ask()
        transport.close()
        ask()
        far.send(far.notice())
        await protocol.lost()
        ask()


@case
async def bad_writes(trace: Trace) -> None:
    """What write refuses; empty writes; the connection goes on."""
    transport, _, far = await connect(trace)
    for wrong in ("text", None, 5, [b"data"]):
        trace.call(transport.write, wrong)
    for fine in (b"", bytearray(), memoryview(b""), b"a", bytearray(b"b"), memoryview(b"c")):
        trace.call(transport.write, fine)
    trace.call(transport.writelines, [])
    trace.call(transport.writelines, [b"d", b"", bytearray(b"e")])
    trace.call(transport.writelines, iter((b"f",)))
    trace("peer has", await far.read(6))


@case
async def closing(trace: Trace) -> None:
    """close(): close_notify, the peer's answer, the end; writes behind it are lost."""
    for role in ROLES:
        transport, protocol, far = await connect(trace, role)
        transport.write(b"last words")
        trace.call(transport.close)
        trace.call(transport.is_closing)
        trace.call(transport.write, b"too late")
        trace("peer has", *await far.read_end())
        trace("so far", protocol.calls)
        far.send(far.notice())
        await protocol.lost()


@case
async def aborting(trace: Trace) -> None:
    """abort() is told in a later turn, once."""
    transport, protocol, _ = await connect(trace)
    trace.call(transport.abort)
    trace("at once", protocol.calls)
    await protocol.lost()
    trace.call(transport.abort)
    trace.call(transport.is_closing)
    await trace.turns(3)


@case
async def closing_with_data_on_the_way(trace: Trace) -> None:
    """Data that meets a close_notify: none of it is told, and it is an error."""
    for role in ROLES:
        transport, protocol, far = await connect(trace, role)
        far.say(b"in the kernel, not yet read")
        trace.call(transport.close)
        await protocol.lost()


@case
async def closing_inside_data_received(trace: Trace) -> None:
    """close() or abort() there; the close_notify of the peer may have come with the data."""

    async def connection(method: str, role: str, noticed: bool) -> None:
        def received(data: bytes) -> None:
            trace.call(getattr(protocol.transport, method))

        protocol = trace.protocol(role, data_received=received)
        _, _, far = await connect(trace, role, protocol)
        far.send(far.records(b"one", b"two") + (far.notice() if noticed else b""))
        await protocol.received(6)
        if not noticed and method == "close":
            far.send(far.notice())
        await protocol.lost()

    for method in ("close", "abort"):
        for role in ROLES:
            for noticed in (False, True):
                trace("inside", method, role, noticed)
                await connection(method, role, noticed)


@case
async def closing_inside_connection_made(trace: Trace) -> None:
    """close() or abort() there: the call returns a transport that is closing."""

    async def connection(method: str, role: str) -> None:
        def made(transport: Any) -> None:
            trace.call(getattr(transport, method))

        protocol = trace.protocol(role, connection_made=made)
        ours, theirs = contexts(role, version=TLS12)
        near, sock = pair(trace)
        task = begin(trace, role, protocol, near, ours)
        far = Far(sock, near, theirs)
        with contextlib.suppress(OSError):  # it may have gone
            await far.handshake()
            if method == "close":
                far.send(far.notice())
        await trace.wait("made", task)
        await protocol.lost()

    for method in ("close", "abort"):
        for role in ROLES:
            trace("inside", method, role)
            await connection(method, role)


@case
async def closing_while_paused(trace: Trace) -> None:
    """The answer to a close_notify is seen though reading is paused; data there is an error."""
    for data in (False, True):
        transport, protocol, far = await connect(trace)
        transport.pause_reading()
        if data:
            far.say(b"never told")
            await trace.turns(5)
        trace.call(transport.close)
        if not data:
            far.send(far.notice())
        await protocol.lost()


@case
async def closing_twice(trace: Trace) -> None:
    """The second time does nothing."""
    transport, protocol, far = await connect(trace)
    trace.call(transport.close)
    trace.call(transport.close)
    far.send(far.notice())
    await protocol.lost()
    trace.call(transport.close)
    trace.call(transport.is_closing)
    await trace.turns(3)


@case
async def ends(trace: Trace) -> None:
    """close_notify, the end without it, and the answers of eof_received, which change nothing."""
    for role in ROLES:
        for noticed in (True, False):
            for answer in (None, True):
                trace("end", role, noticed, answer)
                _, protocol, far = await connect(
                    trace, role, eof_received=lambda answer=answer: answer
                )
                far.say(b"last words")
                await protocol.received(10)
                if noticed:
                    far.send(far.notice())
                else:
                    finish(far.sock, far.near)
                await protocol.lost()
                trace("peer has", *await far.read_end())


@case
async def ends_with_data(trace: Trace) -> None:
    """Data and the end in one event."""
    for role in ROLES:
        for noticed in (True, False):
            _, protocol, far = await connect(trace, role)
            far.send(far.records(b"one", b"two") + (far.notice() if noticed else b""))
            finish(far.sock, far.near)
            await protocol.lost()


@case
async def ends_while_paused(trace: Trace) -> None:
    """Seen when reading goes on, behind the data."""
    for noticed in (True, False):
        for data in (b"", b"data"):
            transport, protocol, far = await connect(trace)
            transport.pause_reading()
            far.send((far.records(data) if data else b"") + (far.notice() if noticed else b""))
            if not noticed:
                finish(far.sock, far.near)
            await trace.turns(5)
            trace("so far", protocol.calls)
            trace.call(transport.is_closing)
            trace.call(transport.resume_reading)
            await protocol.lost()


@case
async def pausing(trace: Trace) -> None:
    """pause_reading holds decrypted data back, resume_reading tells of it in a later turn."""
    for role in ROLES:
        transport, protocol, far = await connect(trace, role)
        trace.call(transport.pause_reading)
        trace.call(transport.pause_reading)
        trace.call(transport.is_reading)
        far.say(b"data")
        await trace.turns(5)
        trace("so far", protocol.calls)
        trace.call(transport.resume_reading)
        trace.call(transport.resume_reading)
        trace.call(transport.is_reading)
        trace("not yet", protocol.calls)
        await protocol.received(4)
        transport.pause_reading()
        transport.write(b"goes on")
        trace("peer has", await far.read(7))


@case
async def pausing_inside_data_received(trace: Trace) -> None:
    """What has come by then is told at once, what comes later is not."""
    _, protocol, far = await connect(
        trace, data_received=lambda _: protocol.transport.pause_reading()
    )
    far.say(b"one", b"two")
    await protocol.received(6)
    far.say(b"three")
    await trace.turns(5)
    trace("so far", protocol.data)
    protocol.transport.resume_reading()
    await protocol.received(11)


@case
async def limits(trace: Trace) -> None:
    """The limits of both directions and what they refuse."""
    transport, _, _ = await connect(trace)
    for options in (
        {"high": 100_000},
        {"low": 100_000},
        {"high": 100_000, "low": 50},
        {"high": 5, "low": 10},
        {"high": -1},
        {"low": -1},
        {},
    ):
        trace.call(transport.set_write_buffer_limits, **options)
        trace.call(transport.get_write_buffer_limits)
        trace.call(transport.set_read_buffer_limits, **options)
        trace.call(transport.get_read_buffer_limits)


@case
async def buffered(trace: Trace) -> None:
    """A BufferedProtocol: several records fill one buffer, and the rest another."""
    for role in ROLES:
        protocol = trace.buffered(role, 10)
        protocol._hooks["get_buffer"] = lambda hint, protocol=protocol: memoryview(protocol.buffer)
        _, _, far = await connect(trace, role, protocol)
        far.say(b"one", b"two")
        await protocol.received(6)
        far.say(b"more than a buffer holds")
        await protocol.received(30)
        far.say(b"at once")
        finish(far.sock, far.near)
        await protocol.lost()


@case
async def buffers_that_fail(trace: Trace) -> None:
    """get_buffer raises or returns what cannot be read into, buffer_updated raises."""
    reports(trace)
    for answer in (None, b"read only", 5):
        protocol = trace.buffered("client", 10)
        _, _, far = await connect(trace, "client", protocol)
        protocol._hooks["get_buffer"] = lambda hint, answer=answer: answer
        far.say(b"data")
        await protocol.lost()
    for callback in ("get_buffer", "buffer_updated"):
        protocol = trace.buffered("client", 10)
        _, _, far = await connect(trace, "client", protocol)
        protocol._hooks[callback] = raises(LookupError("text"))
        far.say(b"data")
        await protocol.lost()


@case
async def an_empty_buffer(trace: Trace) -> None:
    """Is taken for the end of the stream."""
    reports(trace)
    protocol = trace.buffered("client", 10)
    _, _, far = await connect(trace, "client", protocol)
    protocol._hooks["get_buffer"] = lambda hint: bytearray()
    far.say(b"data")
    await protocol.lost()


@case
async def another_protocol(trace: Trace) -> None:
    """set_protocol between events, and inside data_received and eof_received."""
    transport, first, far = await connect(trace)
    second = trace.protocol("second")
    transport.set_protocol(second)
    trace.call(transport.get_protocol)
    far.say(b"data")
    await second.received(4)
    third = trace.protocol("third")
    second._hooks["data_received"] = lambda _: transport.set_protocol(third)
    far.say(b"one", b"two")
    await second.received(10)
    far.say(b"three")
    await third.received(5)
    fourth = trace.protocol("fourth")
    third._hooks["eof_received"] = lambda: transport.set_protocol(fourth)
    far.send(far.notice())
    await fourth.lost()
    trace("the first heard", first.calls)


@case
async def exceptions(trace: Trace) -> None:
    """What each callback raises, where it is told, and that connection_lost comes once."""
    reports(trace)
    for callback in ("data_received", "eof_received", "connection_lost"):
        for error in (LookupError("text"), OSError(5, "text")):
            for role in ROLES:
                trace("raised in", callback, error, role)
                _, protocol, far = await connect(trace, role)
                protocol._hooks[callback] = raises(error)
                far.say(b"data")
                await protocol.received(4)
                if callback != "data_received":
                    far.send(far.notice())
                await protocol.lost()
                await trace.turns(3)


@case
async def an_exception_in_connection_made(trace: Trace) -> None:
    """Is what the call raises, and ends the connection."""
    reports(trace, "exception")
    for role in ROLES:
        protocol = trace.protocol(role, connection_made=raises(LookupError("text")))
        ours, theirs = contexts(role, version=TLS12)
        near, sock = pair(trace)
        task = begin(trace, role, protocol, near, ours)
        far = Far(sock, near, theirs)
        with contextlib.suppress(OSError):  # it may have gone
            await far.handshake()
        await trace.wait("made", task)
        await protocol.lost()
        await trace.turns(3)


@case
async def contexts_of_callbacks(trace: Trace) -> None:
    """Each runs in the context of the call that made the connection."""
    PLACE.set("maker")
    _, protocol, far = await connect(trace)
    PLACE.set("later")
    far.say(b"data")
    await protocol.received(4)
    PLACE.set("closer")
    far.send(far.notice())
    await protocol.lost()


@case
async def upgrades(trace: Trace) -> None:
    """start_tls in both directions, after plain data; the old transport stays below."""
    for role in ROLES:
        ours, theirs = contexts(role)
        near, sock = pair(trace)
        protocol = trace.protocol("protocol")
        old = await trace.connect(protocol, near)
        send(sock, near, b"plain")
        await protocol.received(5)
        old.write(b"go on")
        await asyncio.sleep(0)
        trace("peer has", receive(sock, 5))
        far = Far(sock, near, theirs)
        starting = asyncio.ensure_future(_start(trace, role, old, protocol, ours))
        await far.handshake()
        new = trace.name(await starting, "new")
        trace("another one", new is not old)
        trace.call(new.get_protocol)
        trace("the context is ours", new.get_extra_info("sslcontext") is ours)
        far.say(b"secret")
        await protocol.received(11)
        new.write(b"secret")
        trace("peer has", await far.read(6))
        new.close()
        far.send(far.notice())
        await protocol.lost()


async def _start(
    trace: Trace, role: str, transport: Any, protocol: Any, context: Any, **options: Any
) -> Any:
    server = role == "server"
    return await trace.loop.start_tls(
        transport,
        protocol,
        context,
        server_side=server,
        server_hostname=None if server else HOST,
        **options,
    )


@case
async def an_upgrade_with_the_hello_waiting(trace: Trace) -> None:
    """The peer's ClientHello is in the kernel before start_tls is called."""
    ours, theirs = contexts("server")
    near, sock = pair(trace)
    protocol = trace.protocol("protocol")
    old = await trace.connect(protocol, near)
    far = Far(sock, near, theirs)
    far.send(far.flight())
    starting = asyncio.ensure_future(_start(trace, "server", old, protocol, ours))
    await asyncio.sleep(0)  # before the loop polls, the transport is paused
    await far.hear()
    await far.handshake()
    await starting
    trace("heard", protocol.calls)
    far.say(b"secret")
    await protocol.received(6)


@case
async def upgrades_that_fail(trace: Trace) -> None:
    """What start_tls raises, and what the protocol hears of it."""

    def answer(sock: Any, near: Any) -> None:
        send(sock, near, b"500 what?\r\n")

    def hang_up(sock: Any, near: Any) -> None:
        finish(sock, near)

    for role in ROLES:
        for act in (answer, hang_up, reset, None):
            trace("upgrade", role, getattr(act, "__name__", "nothing"))
            ours, _ = contexts(role)
            near, sock = pair(trace)
            protocol = trace.protocol("protocol")
            old = await trace.connect(protocol, near)
            options = {} if act else {"ssl_handshake_timeout": 0.02}
            starting = asyncio.ensure_future(_start(trace, role, old, protocol, ours, **options))
            await trace.turns(5)
            if act is not None:
                act(sock, near)
            await trace.wait("started", starting)
            await trace.turns(5)
            trace.call(old.is_closing)


@case
async def an_upgrade_that_is_cancelled(trace: Trace) -> None:
    """Closes the connection."""
    for role in ROLES:
        ours, _ = contexts(role)
        near, sock = pair(trace)
        protocol = trace.protocol("protocol")
        old = await trace.connect(protocol, near)
        starting = asyncio.ensure_future(_start(trace, role, old, protocol, ours))
        await trace.turns(5)
        starting.cancel()
        await trace.wait("started", starting)
        await trace.turns(5)
        trace.call(old.is_closing)
        data, end = await read_end(sock)
        trace("peer has", len(data) > 0, end)


@case
async def servers(trace: Trace) -> None:
    """Clients of create_server, one whose handshake fails among them; debug mode tells of that."""

    async def serve() -> None:
        protocols = [trace.protocol(f"client{number}") for number in range(3)]
        remaining = iter(protocols)
        server = await trace.loop.create_server(
            lambda: next(remaining), "127.0.0.1", 0, ssl=server_context()
        )
        for number, protocol in enumerate(protocols):
            sock = dial(trace, server.sockets[0].getsockname())
            if number == 1:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                trace("peer has", *await read_end(sock))
                continue
            far = Far(sock, sock, client_context())
            await _handshake(far)
            sock.sendall(far.records(b"data"))
            await protocol.received(4)
            sock.sendall(far.notice())
            await protocol.lost()
        server.close()

    reports(trace)
    trace.loop.slow_callback_duration = 60
    for debug in (False, True):
        trace.loop.set_debug(debug)
        await serve()
    trace.loop.set_debug(False)


async def _handshake(far: Far) -> None:
    """As `Far.handshake`, where the loop's end is not at hand."""
    while not far.shaken:
        far.sock.sendall(await far.next_flight())


@case
async def streams(trace: Trace) -> None:
    """open_connection with TLS: lines, the end, and what is refused."""
    with listener(trace) as server:
        making = asyncio.ensure_future(
            asyncio.open_connection(
                *server.getsockname(), ssl=client_context(), server_hostname=HOST
            )
        )
        await trace.turns(2)
        sock = server.accept()[0]
    far = Far(sock, sock, server_context())
    await _handshake(far)
    reader, writer = await making
    sock.sendall(far.records(b"line one\nline two"))
    await trace.wait("line", reader.readline())
    trace.call(writer.can_write_eof)
    trace.call(writer.write_eof)
    writer.write(b"answer")
    await writer.drain()
    trace("peer has", await far.read(6))
    sock.sendall(far.notice())
    await trace.wait("rest", reader.read())
    trace.call(reader.at_eof)
    writer.close()
    await trace.wait("closed", writer.wait_closed())
    sock.close()


@case
async def settings(trace: Trace) -> None:
    """ALPN, the name that is sent, and the names of versions and ciphers."""
    for version in (TLS12, TLS13):
        ours, theirs = contexts("client", version=version, alpn=["h2", "http/1.1"])
        theirs.sni_callback = lambda engine, name, context: trace("name", name)
        near, sock = pair(trace)
        protocol = trace.protocol("client")
        task = begin(trace, "client", protocol, near, ours)
        far = Far(sock, near, theirs)
        await far.handshake()
        transport, _ = await task
        engine = transport.get_extra_info("ssl_object")
        for question in (engine.version, engine.cipher, engine.selected_alpn_protocol):
            trace.call(question)
        trace("verified", ("DNS", HOST) in transport.get_extra_info("peercert")["subjectAltName"])
