"""Unix sockets: connecting, serving, their names, half-closing, flow control, the files left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..trace import PLACE, Recorder, Trace, case
from ..wire import TIME_LIMIT, arrived, broken, fill, finish, read_end, read_rest, receive, send

PATH = "socket"
"""Relative to a directory that each case has to itself: the same name in every run."""


@contextlib.contextmanager
def _somewhere_new() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _socket(trace: Trace, kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock: socket.socket = trace.enter(contextlib.closing(socket.socket(socket.AF_UNIX, kind)))
    sock.settimeout(TIME_LIMIT)
    return sock


def _listener(trace: Trace, path: str | bytes = PATH, backlog: int = 128) -> socket.socket:
    """A listening socket in a new directory."""
    trace.enter(_somewhere_new())
    sock = _socket(trace)
    sock.bind(path)
    sock.listen(backlog)
    return sock


def _dial(trace: Trace, path: str | bytes = PATH, name: str | None = None) -> socket.socket:
    sock = _socket(trace)
    if name is not None:
        sock.bind(name)
    sock.connect(path)
    return sock


async def _pair(trace: Trace, client: Any) -> tuple[Any, socket.socket]:
    """The transport of `client`, and a far end that is driven step by step."""
    server = _listener(trace)
    transport, _ = await trace.loop.create_unix_connection(lambda: client, PATH)
    far = trace.enter(contextlib.closing(server.accept()[0]))
    far.settimeout(TIME_LIMIT)
    return transport, far


async def _serve(trace: Trace, factory: Any, path: Any = PATH, **options: Any) -> Any:
    trace.enter(_somewhere_new())
    server = await trace.loop.create_unix_server(factory, path, **options)
    return trace.name(server, "server")


def _what_is_at(trace: Trace, path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        trace(path, "nothing")
    else:
        trace(path, stat.filemode(mode)[0])


@case
async def connect_and_exchange(trace: Trace) -> None:
    """A connection from its making to its loss, in order."""
    PLACE.set("connect")
    client = trace.protocol("client")
    transport, far = await _pair(trace, client)
    PLACE.set("later")
    sock = transport.get_extra_info("socket")
    send(far, sock, b"hello")
    await client.received(5)
    transport.write(b"answer")
    await trace.turns()
    trace("peer has", receive(far, 6))
    finish(far, sock)
    await client.lost()
    trace("then", *await read_end(far))


@case
async def extra_info(trace: Trace) -> None:
    """Names, socket, and what there is not."""
    client = trace.protocol("client")
    transport, _ = await _pair(trace, client)
    for key in ("peername", "sockname", "socket", "pipe", "nothing like it"):
        trace(key, transport.get_extra_info(key, "default"))
    sock = transport.get_extra_info("socket")
    trace("family", sock.family, sock.type, sock.proto, sock.gettimeout(), sock.get_inheritable())
    trace("repr", repr(transport))
    transport.close()
    await client.lost()
    await trace.turns()
    for key in ("peername", "sockname"):
        trace(key, transport.get_extra_info(key))


@case
async def names_seen_by_a_server(trace: Trace) -> None:
    """Of clients without a name, with a path, and with an abstract name."""
    served: list[Recorder] = []

    def factory() -> Recorder:
        served.append(trace.protocol(f"served{len(served) + 1}"))
        return served[-1]

    server = await _serve(trace, factory)
    for name in (None, "client", f"\0differential-{os.getpid()}"):
        client = _dial(trace, name=name)
        while len(served) == 0 or "connection_made" not in served[-1].calls:
            await trace.turns()
        peername = served[-1].transport.get_extra_info("peername")
        if isinstance(peername, bytes):
            trace("abstract", peername == client.getsockname())
        else:
            trace("peername", peername)
        trace("sockname", served[-1].transport.get_extra_info("sockname"))
        client.close()
        await served.pop().lost()
    server.close()


@case
async def forms_of_the_path(trace: Trace) -> None:
    """Text, bytes, path objects, abstract names; what is none of them."""
    _listener(trace)
    abstract = b"\0differential-%d" % os.getpid()
    hidden = _socket(trace)
    hidden.bind(abstract)
    hidden.listen()
    for path in (PATH, PATH.encode(), Path(PATH), os.path.join(".", PATH)):
        client = trace.protocol("client")
        await trace.loop.create_unix_connection(lambda c=client: c, path)
        trace("peername", client.transport.get_extra_info("peername"))
        client.transport.abort()
        await client.lost()
    for path in (abstract, abstract.decode()):
        client = trace.protocol("client")
        await trace.loop.create_unix_connection(lambda c=client: c, path)
        trace("peername", client.transport.get_extra_info("peername") == abstract)
        client.transport.abort()
        await client.lost()
    for wrong in (3, 1.5, [], object, bytearray(b"socket")):
        connect = trace.loop.create_unix_connection(trace.callback("factory"), wrong)
        await trace.wait("connect", connect)
        serve = trace.loop.create_unix_server(trace.callback("factory"), wrong)
        await trace.wait("serve", serve)


@case
async def connections_that_fail(trace: Trace) -> None:
    """Each error, with its number and its text."""
    dead = _listener(trace)
    dead.close()
    Path("file").write_text("")
    os.mkdir("directory")
    datagrams = _socket(trace, socket.SOCK_DGRAM)
    datagrams.bind("datagrams")
    for path in (
        *(PATH, "file", "directory", "datagrams", "missing", "missing/too", "file/in"),
        *("", "x" * 108, b"y" * 200, "\0nobody-here", "a\0b"),
    ):
        connect = trace.loop.create_unix_connection(trace.callback("factory"), path)
        await trace.wait(f"connect {path!r}", connect)


@case
async def servers_that_fail(trace: Trace) -> None:
    """Each error, with its number and its text; what is there stays."""
    trace.enter(_somewhere_new())
    Path("file").write_text("")
    os.mkdir("directory")
    os.symlink("nothing", "link")
    hidden = _socket(trace)
    with contextlib.suppress(OSError):  # another run has it: taken all the same
        hidden.bind("\0differential-taken")
    for path in (
        *("file", "directory", "link", b"file", Path("file"), "missing/too", "file/in"),
        *("x" * 108, b"y" * 200, "\0differential-taken", b"\0differential-taken"),
    ):
        serve = trace.loop.create_unix_server(trace.callback("factory"), path)
        await trace.wait(f"serve {path!r}", serve)
    for path in ("file", "directory", "link"):
        _what_is_at(trace, path)


@case
async def arguments(trace: Trace) -> None:
    """What does not go together, and what is said of it first."""
    tcp = trace.enter(contextlib.closing(socket.socket()))
    datagrams = _socket(trace, socket.SOCK_DGRAM)
    options: list[dict[str, Any]] = [
        {},
        {"sock": tcp},
        {"sock": datagrams},
        {"path": PATH, "sock": tcp},
        {"path": PATH, "ssl": True},
        {"path": PATH, "ssl": False, "sock": tcp},
        {"path": PATH, "ssl_handshake_timeout": 1},
        {"ssl": True, "sock": tcp},
        {"ssl": "yes"},
    ]
    if sys.version_info >= (3, 11):
        options.append({"ssl_shutdown_timeout": 1, "sock": tcp})
        options.append({"ssl_shutdown_timeout": 1, "ssl_handshake_timeout": 1})
    for each in options:
        trace.name(tcp, "tcp")
        serve = trace.loop.create_unix_server(trace.callback("factory"), **each)
        await trace.wait(f"serve {sorted(each)}", serve)
        connect = trace.loop.create_unix_connection(trace.callback("factory"), **each)
        await trace.wait(f"connect {sorted(each)}", connect)
    for each in (
        {"path": PATH, "server_hostname": "name"},
        {"path": PATH, "server_hostname": ""},
        {"path": PATH, "server_hostname": b"name", "ssl": True},
        {"sock": tcp, "path": PATH, "server_hostname": "name", "ssl": True},
    ):
        connect = trace.loop.create_unix_connection(trace.callback("factory"), **each)
        await trace.wait(f"connect {sorted(each)}", connect)


@case
async def existing_sockets(trace: Trace) -> None:
    """sock=: connected, one of a pair, and one that is not connected."""
    server = _listener(trace)
    connected = _dial(trace)
    paired, _far = (trace.enter(contextlib.closing(sock)) for sock in socket.socketpair())
    for sock in (connected, paired):
        client = trace.protocol("client")
        transport, _ = await trace.loop.create_unix_connection(lambda c=client: c, sock=sock)
        trace("names", transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
        trace("timeout", sock.gettimeout())
        transport.close()
        await client.lost()
        await trace.turns()
        trace("closed", sock.fileno())
    client = trace.protocol("client")
    transport, _ = await trace.loop.create_unix_connection(lambda: client, sock=_socket(trace))
    trace("names", transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
    await client.lost()
    server.close()


@case
async def a_full_queue(trace: Trace) -> None:
    """A server that has not accepted, and can keep nobody waiting any more."""
    _listener(trace, backlog=0)
    _dial(trace)
    client = trace.protocol("client")
    connect = trace.loop.create_unix_connection(lambda: client, PATH)
    await trace.wait("connect", connect)
    await trace.turns(3)


@case
async def cancelled_at_every_step(trace: Trace) -> None:
    """Cancelled after any number of turns, a connect ends in one way or the other, and cleanly."""
    _listener(trace)
    for turns in range(6):
        files = len(os.listdir("/proc/self/fd"))
        client = trace.protocol(f"client{turns}")
        task = asyncio.ensure_future(trace.loop.create_unix_connection(lambda c=client: c, PATH))
        await trace.turns(turns)
        task.cancel()
        await asyncio.wait([task])
        if client.transport is not None and not task.cancelled():
            client.transport.close()
        await trace.turns(4)
        trace("turns", turns, "cancelled", task.cancelled())
        trace("files", len(os.listdir("/proc/self/fd")) - files)


@case
async def half_closed_by_the_peer(trace: Trace) -> None:
    """After a kept-open end the other direction goes on."""
    client = trace.protocol("client", eof_received=lambda: True)
    transport, far = await _pair(trace, client)
    finish(far, transport.get_extra_info("socket"))
    await client.called("eof_received")
    transport.write(b"still")
    await trace.turns()
    trace("peer has", receive(far, 5))
    transport.close()
    await client.lost()
    trace("then", *read_rest(far))


@case
async def half_closed_by_us(trace: Trace) -> None:
    """write_eof after data; the peer's answer still comes."""
    client = trace.protocol("client")
    transport, far = await _pair(trace, client)
    transport.write(b"question")
    trace.call(transport.can_write_eof)
    transport.write_eof()
    trace.call(transport.write, b"more")
    await trace.turns()
    trace("peer has", *read_rest(far))
    send(far, transport.get_extra_info("socket"), b"answer")
    await client.received(6)
    far.close()
    await client.lost()


@case
async def flow_control(trace: Trace) -> None:
    """Pause at the high-water mark, resume at the low one, and the loss after the last byte."""
    client = trace.protocol("client")
    transport, far = await _pair(trace, client)
    size = fill(transport)
    transport.set_write_buffer_limits(high=size + 100, low=size)
    transport.write(bytes(100))
    trace("not yet")
    transport.write(b"x")
    transport.write_eof()
    trace("end of data", (await read_end(far))[1])
    await client.called("resume_writing")
    transport.close()
    await client.lost()


@case
async def peer_gone(trace: Trace) -> None:
    """A peer that closes with unread data, and one that is written to after it closed."""
    client = trace.protocol("client")
    transport, far = await _pair(trace, client)
    transport.write(b"unread")
    await trace.turns(2)
    far.close()
    await client.lost()
    other = trace.protocol("other")
    transport, far = await _pair(trace, other)
    transport.pause_reading()
    sock = transport.get_extra_info("socket")
    far.close()
    broken(sock)
    transport.write(b"to nobody")
    await other.lost()


@case
async def served(trace: Trace) -> None:
    """A served connection, from accept to loss; data and end that came with it."""
    PLACE.set("serve")
    protocol = trace.protocol("served", connection_made=lambda transport: transport.write(b"hi"))
    server = await _serve(trace, lambda: protocol)
    PLACE.set("later")
    trace("sockets", [sock.getsockname() for sock in server.sockets], repr(server))
    client = _dial(trace)
    client.sendall(b"hello")
    client.shutdown(socket.SHUT_WR)
    arrived(server.sockets[0])
    await protocol.called("connection_lost")
    trace("client has", *await read_end(client))
    server.close()
    trace("serving", server.is_serving(), server.sockets)
    await trace.wait("closed", server.wait_closed())
    _what_is_at(trace, PATH)


@case
async def what_was_there(trace: Trace) -> None:
    """A stale socket and a living one are replaced; a link to one is, its target is not."""
    _listener(trace).close()
    servers = []
    for _ in range(2):
        servers.append(await trace.loop.create_unix_server(asyncio.Protocol, PATH))
        trace("serving", [server.is_serving() for server in servers])
    os.symlink(PATH, "link")
    servers.append(await trace.loop.create_unix_server(asyncio.Protocol, "link"))
    for path in (PATH, "link"):
        _what_is_at(trace, path)
    for server in servers:
        server.close()
        for path in (PATH, "link"):
            _what_is_at(trace, path)


@case
async def files_left(trace: Trace) -> None:
    """What a closed server leaves: replaced, gone, bound by the caller, from elsewhere, twice."""
    keep = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
    server = await _serve(trace, asyncio.Protocol)
    os.unlink(PATH)
    replaced = _socket(trace)
    replaced.bind(PATH)
    server.close()
    _what_is_at(trace, PATH)
    os.unlink(PATH)
    bound = _socket(trace)
    bound.bind(PATH)
    server = await trace.loop.create_unix_server(asyncio.Protocol, sock=bound)
    server.close()
    _what_is_at(trace, PATH)
    server = await trace.loop.create_unix_server(asyncio.Protocol, "gone")
    os.unlink("gone")
    server.close()
    server.close()
    server = await trace.loop.create_unix_server(asyncio.Protocol, "kept", **keep)
    server.close()
    _what_is_at(trace, "kept")
    server = await trace.loop.create_unix_server(asyncio.Protocol, "relative")
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    server.close()
    os.chdir("..")
    _what_is_at(trace, "relative")
    server = await trace.loop.create_unix_server(asyncio.Protocol, "idle", start_serving=False)
    trace("serving", server.is_serving())
    server.close()
    _what_is_at(trace, "idle")


@case
async def serve_forever(trace: Trace) -> None:
    """Cancelled, it closes the server, and with it goes the file."""
    server = await _serve(trace, asyncio.Protocol, start_serving=False)
    task = asyncio.ensure_future(server.serve_forever())
    await trace.turns(2)
    trace("serving", server.is_serving())
    task.cancel()
    await trace.wait("serve_forever", task)
    trace("serving", server.is_serving())
    _what_is_at(trace, PATH)


@case
async def streams(trace: Trace) -> None:
    """open_unix_connection and start_unix_server."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        trace("handler", writer.get_extra_info("peername"), lane="server")
        while line := await reader.readline():
            writer.write(line.upper())
        writer.close()
        await writer.wait_closed()
        trace("handled", lane="server")

    trace.enter(_somewhere_new())
    server = await asyncio.start_unix_server(handle, PATH)
    reader, writer = await asyncio.open_unix_connection(PATH, limit=64)
    trace("client", writer.get_extra_info("peername"))
    for line in (b"one\n", b"two\n"):
        writer.write(line)
        await writer.drain()
        trace("line", await reader.readline())
    writer.write_eof()
    trace("rest", await reader.read())
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
