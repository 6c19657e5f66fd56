"""create_connection: success, refusal, several addresses, local addresses, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

from ..trace import Trace, case
from ..wire import (
    arrived,
    dead_address,
    dial,
    listener,
    pair,
    receive,
    send,
    silent_address,
)

NAME = "host.invalid"
"""A name that no resolver knows, for where the loop's getaddrinfo is replaced."""


def _resolve_to(trace: Trace, *addresses: tuple[str, int]) -> None:
    """Let the loop's getaddrinfo answer with `addresses` for any host."""

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> list[Any]:
        trace("getaddrinfo", host, lane="getaddrinfo")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    trace.loop.getaddrinfo = getaddrinfo


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@case
async def success(trace: Trace) -> None:
    """The coroutine returns after connection_made; the factory is called once connected."""
    server = listener(trace)
    client = trace.protocol("client")

    def factory() -> Any:
        trace("factory")
        return client

    result = await trace.loop.create_connection(factory, *server.getsockname())
    trace("result", type(result), *result)
    far, address = server.accept()
    with contextlib.closing(far):
        trace("peer is", address == result[0].get_extra_info("sockname"))
        far.sendall(b"data")
        await client.received(4)
        result[0].write(b"answer")
        await trace.turns()
        trace("peer has", receive(far, 6))
    await client.lost()


@case
async def refused(trace: Trace) -> None:
    """ConnectionRefusedError with errno and asyncio's text; the factory is not called."""
    factory = trace.callback("factory")
    files = _open_files()
    await trace.wait("connect", trace.loop.create_connection(factory, *dead_address(trace)))
    trace("files left open", _open_files() - files - 1)  # one is the dead address itself


@case
async def second_address(trace: Trace) -> None:
    """Addresses are tried in turn until one answers."""
    server = listener(trace)
    client = trace.protocol("client")
    _resolve_to(trace, dead_address(trace), dead_address(trace), server.getsockname())
    await trace.wait("connect", trace.loop.create_connection(lambda: client, NAME, 80))
    trace("peer", client.transport.get_extra_info("peername") == server.getsockname())


@case
async def no_address_answers(trace: Trace) -> None:
    """All refused: one error if they say the same, else one that lists them."""
    for count in (1, 2, 3):
        _resolve_to(trace, *(dead_address(trace) for _ in range(count)))
        connect = trace.loop.create_connection(trace.callback("factory"), NAME, 80)
        await trace.wait(f"{count} addresses", connect)
    dead = dead_address(trace)
    _resolve_to(trace, dead, dead)
    connect = trace.loop.create_connection(trace.callback("factory"), NAME, 80)
    await trace.wait("the same address twice", connect)


@case(since=(3, 12))
async def all_errors(trace: Trace) -> None:
    """all_errors=True raises a group."""
    for count in (1, 2):
        _resolve_to(trace, *(dead_address(trace) for _ in range(count)))
        connect = trace.loop.create_connection(trace.callback("factory"), NAME, 80, all_errors=True)
        await trace.wait(f"{count} addresses", connect)


@case
async def no_address_at_all(trace: Trace) -> None:
    """An empty answer of getaddrinfo, and an exception from it."""
    _resolve_to(trace)
    connect = trace.loop.create_connection(trace.callback("factory"), NAME, 80)
    await trace.wait("empty", connect)

    async def failing(*args: Any, **options: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    trace.loop.getaddrinfo = failing
    connect = trace.loop.create_connection(trace.callback("factory"), NAME, 80)
    await trace.wait("failed", connect)


@case
async def numeric_hosts_are_not_resolved(trace: Trace) -> None:
    """Numeric addresses go past getaddrinfo, names do not; ports may be text."""
    server = listener(trace)
    host, port = server.getsockname()
    _resolve_to(trace, (host, port))
    for name, number in (
        (host, port),
        (host, str(port)),
        ("localhost", port),
        (host.encode(), port),
    ):
        client = trace.protocol("client")
        trace("host", name, type(number))
        await trace.wait("connect", trace.loop.create_connection(lambda c=client: c, name, number))


@case
async def existing_socket(trace: Trace) -> None:
    """sock=: the socket becomes the transport's, and non-blocking."""
    near, far = pair(trace)
    near.settimeout(5)
    client = trace.protocol("client")
    transport, protocol = await trace.loop.create_connection(lambda: client, sock=near)
    trace("same protocol", protocol is client)
    trace("timeout", near.gettimeout())
    send(far, near, b"data")
    await client.received(4)
    transport.close()
    await client.lost()
    await trace.turns()
    trace("closed through its owner", near.fileno())


@case
async def socket_pair(trace: Trace) -> None:
    """sock= takes any stream socket, one end of a socketpair too."""
    near, far = (trace.enter(contextlib.closing(sock)) for sock in socket.socketpair())
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    trace("peername", transport.get_extra_info("peername"))
    trace("sockname", transport.get_extra_info("sockname"))
    far.sendall(b"data")
    await client.received(4)
    transport.write(b"answer")
    await trace.turns()
    trace("peer has", receive(far, 6))
    far.close()
    await client.lost()


@case
async def socket_not_connected(trace: Trace) -> None:
    """sock= that is not connected: the transport is made, and lost."""
    sock = trace.enter(contextlib.closing(socket.socket()))
    client = trace.protocol("client")
    transport = await trace.wait("connect", trace.connect(client, sock))
    trace("peername", transport.get_extra_info("peername"))
    await trace.turns(3)
    transport.abort()
    await client.called("connection_lost")


@case(since=(3, 12))
async def socket_in_use(trace: Trace) -> None:
    """A socket that a transport holds cannot be given to another (3.12)."""
    near, _ = pair(trace)
    client = trace.protocol("client")
    transport = await trace.connect(client, near)
    await trace.wait("again", trace.connect(trace.protocol("other"), near))
    transport.abort()
    await client.lost()


@case
async def accepted_socket(trace: Trace) -> None:
    """connect_accepted_socket makes a server-side transport of an accepted socket."""
    server = listener(trace)
    client = dial(trace, server.getsockname())
    sock, _ = server.accept()
    served = trace.protocol("served")
    result = await trace.loop.connect_accepted_socket(lambda: served, sock)
    trace("result", *result)
    client.sendall(b"data")
    await served.received(4)
    client.close()
    await served.lost()
    udp = trace.enter(contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)))
    await trace.wait("UDP", trace.loop.connect_accepted_socket(lambda: served, udp))


@case
async def local_address(trace: Trace) -> None:
    """local_addr binds the connection's own end."""
    server = listener(trace)
    for host in ("127.0.0.1", "127.0.0.2"):
        client = trace.protocol("client")
        await trace.loop.create_connection(
            lambda c=client: c, *server.getsockname(), local_addr=(host, 0)
        )
        trace("from", client.transport.get_extra_info("sockname")[0])


@case
async def local_address_errors(trace: Trace) -> None:
    """A local address that is taken, that is not ours, of another family, of no form."""
    server = listener(trace)
    taken = listener(trace).getsockname()
    for local in (taken, ("192.0.2.1", 0), ("::1", 0)):
        trace("local", local)
        connect = trace.loop.create_connection(
            trace.callback("factory"), *server.getsockname(), local_addr=local
        )
        await trace.wait("connect", connect)


@case
async def cancelled(trace: Trace) -> None:
    """A pending connect that is cancelled calls no factory and leaves no socket behind."""
    address = silent_address(trace)
    files = _open_files()
    task = asyncio.ensure_future(trace.loop.create_connection(trace.callback("factory"), *address))
    for hops in range(4):
        await trace.turns()
        trace("pending", not task.done(), hops)
    trace("files", _open_files() - files)
    task.cancel()
    await trace.wait("connect", task)
    trace("files", _open_files() - files)
    await trace.turns(2)


@case
async def cancelled_at_every_step(trace: Trace) -> None:
    """Cancelled after any number of turns, a connect ends in one way or the other, and cleanly."""
    server = listener(trace)
    for turns in range(8):
        files = _open_files()
        calls: list[str] = []

        class Client(asyncio.Protocol):
            def connection_made(self, transport: Any, calls: list[str] = calls) -> None:
                calls.append("made")
                transport.close()

            def connection_lost(self, exc: BaseException | None, calls: list[str] = calls) -> None:
                calls.append("lost")

        task = asyncio.ensure_future(trace.loop.create_connection(Client, *server.getsockname()))
        await trace.turns(turns)
        task.cancel()
        await asyncio.wait([task])
        await trace.turns(4)
        clean = calls in ([], ["made", "lost"])
        trace("turns", turns, "clean", clean, "files", _open_files() - files)


@case
async def timed_out(trace: Trace) -> None:
    """asyncio.wait_for over a connect that never answers."""
    address = silent_address(trace)
    files = _open_files()
    connect = trace.loop.create_connection(trace.callback("factory"), *address)
    try:
        await asyncio.wait_for(connect, 0.01)
    except Exception as exc:
        trace("raised", type(exc))
    trace("files", _open_files() - files)


@case
async def happy_eyeballs(trace: Trace) -> None:
    """With happy_eyeballs_delay a silent address does not hold up the next one."""
    server = listener(trace)
    client = trace.protocol("client")
    _resolve_to(trace, silent_address(trace), server.getsockname())
    await trace.loop.create_connection(lambda: client, NAME, 80, happy_eyeballs_delay=0.01)
    trace("peer", client.transport.get_extra_info("peername") == server.getsockname())
    _resolve_to(trace, dead_address(trace), dead_address(trace))
    connect = trace.loop.create_connection(
        trace.callback("factory"), NAME, 80, happy_eyeballs_delay=0.01
    )
    try:
        await connect
    except OSError as exc:
        trace("refused", type(exc))


@case
async def peer_closes_at_once(trace: Trace) -> None:
    """A peer that accepts and closes: made, end, lost."""
    server = listener(trace)
    client = trace.protocol("client")
    task = asyncio.ensure_future(
        trace.loop.create_connection(lambda: client, *server.getsockname())
    )
    await trace.turns()
    arrived(server)
    server.accept()[0].close()
    await trace.wait("connect", task)
    await client.lost()


@case(lanes=True)
async def many_at_once(trace: Trace) -> None:
    """Several connects at once all succeed."""
    server = listener(trace)
    clients = [trace.protocol(f"client{number}") for number in range(5)]
    connects = [
        trace.loop.create_connection(lambda c=client: c, *server.getsockname())
        for client in clients
    ]
    await asyncio.gather(*connects)
    for client in clients:
        client.transport.close()
        await client.lost()


@case(lanes=True)
async def client_and_server_of_one_loop(trace: Trace) -> None:
    """Both ends on the loop: an echo, a half-close, the loss of both."""

    def echo(data: bytes) -> None:
        served.transport.write(data)

    served = trace.protocol("served", data_received=echo, eof_received=lambda: None)
    client = trace.protocol("client", merge=True)
    server = await trace.loop.create_server(lambda: served, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    transport, _ = await trace.loop.create_connection(lambda: client, *address)
    for number in range(3):
        transport.write(b"%d" % number)
        await client.received(number + 1)
    transport.write_eof()
    await client.lost()
    await served.lost()
    server.close()


@case
async def options_of_a_connection(trace: Trace) -> None:
    """The socket options that a client gets."""
    server = listener(trace)
    client = trace.protocol("client")
    await trace.loop.create_connection(lambda: client, *server.getsockname())
    sock = client.transport.get_extra_info("socket")
    trace("no delay", bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
    trace("timeout", sock.gettimeout())
    trace("inheritable", sock.get_inheritable())
