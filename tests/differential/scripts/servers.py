"""Servers: accepting in order, starting, closing with clients open, what a Server offers."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

from ..trace import Recorder, Trace, case
from ..wire import arrived, dial, listener, read_end, receive


class Served:
    """Makes protocols `served1`, `served2`... for a server and remembers them."""

    def __init__(self, trace: Trace, **hooks: Any) -> None:
        self.trace = trace
        self.hooks = hooks
        self.protocols: list[Recorder] = []

    def __call__(self) -> Recorder:
        name = f"served{len(self.protocols) + 1}"
        self.trace("factory", name, lane="factory")
        self.protocols.append(self.trace.protocol(name, **self.hooks))
        return self.protocols[-1]

    async def made(self, count: int) -> None:
        """Wait until `count` connections have been made."""
        while sum("connection_made" in each.calls for each in self.protocols) < count:
            await self.trace.turns()

    async def lost(self) -> None:
        """Wait until all of them are lost."""
        for protocol in self.protocols:
            await protocol.lost()


async def _serve(trace: Trace, served: Any, **options: Any) -> tuple[Any, tuple[str, int]]:
    server = await trace.loop.create_server(served, "127.0.0.1", 0, **options)
    trace.name(server, "server")
    return server, server.sockets[0].getsockname()


@case(lanes=True)
async def accept_order(trace: Trace) -> None:
    """Clients that wait in the queue are accepted in the order in which they connected."""
    served = Served(trace)
    server, address = await _serve(trace, served)
    clients = []
    for number in range(5):
        clients.append(dial(trace, address))
        clients[-1].sendall(b"client %d" % number)
        trace("port", clients[-1].getsockname(), lane="ports")
    await served.made(5)
    for protocol in served.protocols:
        await protocol.received(8)
        trace("peer", protocol.transport.get_extra_info("peername"), lane="peers")
    server.close()


@case
async def made_before_data(trace: Trace) -> None:
    """Data and the end that came with the connection are delivered after connection_made."""
    served = Served(trace)
    server, address = await _serve(trace, served)
    client = dial(trace, address)
    client.sendall(b"hello")
    client.shutdown(socket.SHUT_WR)
    await served.made(1)
    await served.lost()
    trace("client has", *await read_end(client))
    server.close()


@case
async def gone_before_accepted(trace: Trace) -> None:
    """A client that came, spoke and went before it was accepted is served."""
    served = Served(trace, connection_made=lambda transport: transport.write(b"hello"))
    server, address = await _serve(trace, served)
    client = dial(trace, address)
    client.sendall(b"short visit")
    client.close()
    arrived(server.sockets[0])
    await served.made(1)
    await served.lost()
    server.close()


@case
async def attributes(trace: Trace) -> None:
    """What a Server tells, before and after close()."""
    served = Served(trace)
    server, _ = await _serve(trace, served)
    trace("an AbstractServer", isinstance(server, asyncio.AbstractServer))
    for _ in range(2):
        trace.call(server.is_serving)
        trace.call(server.get_loop)
        trace("sockets", type(server.sockets), server.sockets)
        trace.call(server.close)
    trace.refused(setattr, server, "sockets", ())
    trace.call(server.is_serving)


@case
async def options_of_the_listener(trace: Trace) -> None:
    """The socket options that a listener gets."""
    for options in ({}, {"reuse_address": False}, {"reuse_address": True}, {"reuse_port": True}):
        server, _ = await _serve(trace, Served(trace), **options)
        sock = server.sockets[0]
        for name in ("SO_REUSEADDR", "SO_REUSEPORT", "SO_ACCEPTCONN", "SO_KEEPALIVE"):
            number = getattr(socket, name, 30)
            trace(f"{options} {name}", bool(sock.getsockopt(socket.SOL_SOCKET, number)))
        trace("inheritable", sock.get_inheritable())
        trace("timeout", sock.gettimeout())
        server.close()


@case
async def options_of_a_connection(trace: Trace) -> None:
    """The socket options that an accepted connection gets."""
    served = Served(trace)
    server, address = await _serve(trace, served)
    dial(trace, address)
    await served.made(1)
    sock = served.protocols[0].transport.get_extra_info("socket")
    trace("no delay", bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
    trace("timeout", sock.gettimeout())
    trace("inheritable", sock.get_inheritable())
    server.close()


@case
async def close_with_clients(trace: Trace) -> None:
    """close() stops listening; the clients are served on; wait_closed waits for them."""
    served = Served(trace, data_received=lambda data: served.protocols[0].transport.write(data))
    server, address = await _serve(trace, served)
    client = dial(trace, address)
    await served.made(1)
    trace.call(server.close)
    trace.call(server.is_serving)
    try:
        dial(trace, address)
    except OSError as exc:
        trace("another client", exc)
    client.sendall(b"still served")
    await served.protocols[0].received(12)
    await trace.turns()
    trace("client has", receive(client, 12))
    waiting = asyncio.ensure_future(server.wait_closed())
    await trace.turns(3)
    trace("waits for its clients", not waiting.done())
    client.close()
    await trace.wait("wait_closed", waiting)
    await served.lost()


@case
async def close_from_connection_made(trace: Trace) -> None:
    """A server may be closed by its first connection."""
    served = Served(trace, connection_made=lambda transport: server.close())
    server, address = await _serve(trace, served)
    client = dial(trace, address)
    client.sendall(b"data")
    await served.made(1)
    await served.protocols[0].received(4)
    client.close()
    await served.lost()
    await trace.wait("wait_closed", server.wait_closed())


@case
async def close_with_a_full_queue(trace: Trace) -> None:
    """Clients that nobody accepted before close() are reset."""
    served = Served(trace)
    server, address = await _serve(trace, served)
    client = dial(trace, address)
    arrived(server.sockets[0])
    server.close()
    await trace.turns(3)
    trace("client has", *await read_end(client))
    trace("served", len(served.protocols))


@case
async def wait_closed(trace: Trace) -> None:
    """wait_closed before close, after it, twice, by several, and cancelled."""
    server, _ = await _serve(trace, Served(trace))
    early = [asyncio.ensure_future(server.wait_closed()) for _ in range(3)]
    await trace.turns(2)
    trace("early ones wait", [task.done() for task in early])
    early[1].cancel()
    await trace.turns(2)
    server.close()
    for number, task in enumerate(early):
        await trace.wait(f"wait_closed {number}", task)
    await trace.wait("wait_closed after close", server.wait_closed())
    await trace.wait("and again", server.wait_closed())


@case
async def start_serving(trace: Trace) -> None:
    """With start_serving=False the port is taken, but nobody listens before start_serving()."""
    served = Served(trace)
    server, address = await _serve(trace, served, start_serving=False)
    trace.call(server.is_serving)
    try:
        dial(trace, address)
    except OSError as exc:
        trace("a client", exc)
    for _ in range(2):
        await trace.wait("start_serving", server.start_serving())
        trace.call(server.is_serving)
    client = dial(trace, address)
    await served.made(1)
    client.close()
    await served.lost()
    server.close()
    trace("sockets", server.sockets)


@case
async def close_before_serving(trace: Trace) -> None:
    """A server that never served can be closed."""
    server, _ = await _serve(trace, Served(trace), start_serving=False)
    trace.call(server.close)
    await trace.wait("wait_closed", server.wait_closed())
    trace.call(server.is_serving)


@case
async def serve_forever(trace: Trace) -> None:
    """serve_forever starts serving, and closes the server when it is cancelled."""
    served = Served(trace)
    server, address = await _serve(trace, served, start_serving=False)
    task = asyncio.ensure_future(server.serve_forever())
    await trace.turns(2)
    trace.call(server.is_serving)
    await trace.wait("a second one", server.serve_forever())
    client = dial(trace, address)
    client.close()
    await served.made(1)
    await served.lost()
    task.cancel()
    await trace.wait("serve_forever", task)
    trace.call(server.is_serving)
    trace("sockets", server.sockets)
    await trace.wait("after close", server.serve_forever())


@case
async def serve_forever_until_closed(trace: Trace) -> None:
    """close() ends serve_forever with a cancellation."""
    server, _ = await _serve(trace, Served(trace))
    task = asyncio.ensure_future(server.serve_forever())
    await trace.turns(2)
    server.close()
    await trace.wait("serve_forever", task)


@case
async def as_a_context_manager(trace: Trace) -> None:
    """Leaving `async with server` closes it and waits."""
    server, _ = await _serve(trace, Served(trace))
    async with server as entered:
        trace("entered", entered is server)
        trace.call(server.is_serving)
    trace.call(server.is_serving)
    trace("sockets", server.sockets)


async def _serving(trace: Trace, **hooks: Any) -> tuple[Any, Served, socket.socket, Any]:
    """Return a server with one client, its protocols, the client, and a task in serve_forever."""
    served = Served(trace, **hooks)
    server, address = await _serve(trace, served)
    task = asyncio.ensure_future(server.serve_forever())
    client = dial(trace, address)
    await served.made(1)
    return server, served, client, task


@case(lanes=True)
async def serve_forever_with_clients(trace: Trace) -> None:
    """What becomes of clients when serve_forever is cancelled, or the server closed."""
    for by_close in (False, True):
        server, served, client, task = await _serving(trace)
        waiting = asyncio.ensure_future(server.wait_closed())
        if by_close:
            server.close()
        else:
            task.cancel()
        await trace.turns(5)
        trace("by close", by_close, task, waiting)
        trace("client closing", served.protocols[0].transport.is_closing())
        client.close()
        await served.lost()
        await trace.wait("serve_forever", task)
        await trace.wait("wait_closed", waiting)


@case
async def serve_forever_cancelled_twice(trace: Trace) -> None:
    """The second cancellation does not wait for the clients either."""
    _, served, client, task = await _serving(
        trace, connection_made=lambda transport: transport.pause_reading()
    )
    served.protocols[0].transport.write(bytes(8_000_000))
    for _ in range(2):
        task.cancel()
        await trace.turns(3)
    trace("done", task.done())
    client.close()
    await trace.wait("serve_forever", task)
    served.protocols[0].transport.abort()
    await served.lost()


@case
async def context_manager_with_clients(trace: Trace) -> None:
    """Leaving `async with`, by an exception too, closes the server; who waits for clients waits."""
    for error in (None, LookupError("text")):
        served = Served(trace)
        server, address = await _serve(trace, served)
        client = dial(trace, address)
        await served.made(1)

        async def serve(server: Any = server, error: Any = error) -> None:
            async with server:
                if error is not None:
                    raise error

        task = asyncio.ensure_future(serve())
        await trace.turns(4)
        trace("done", task.done(), server.is_serving(), server.sockets)
        client.close()
        await served.lost()
        await trace.wait("async with", task)


@case
async def what_libraries_read(trace: Trace) -> None:
    """Private names of a Server, and what it is an instance of."""
    served = Served(trace)
    server, address = await _serve(trace, served, backlog=7)
    trace("an asyncio.Server", isinstance(server, asyncio.base_events.Server))
    names = ["_ssl_context", "_loop", "_backlog", "_serving", "_ssl_handshake_timeout"]
    if sys.version_info >= (3, 11):
        names.append("_ssl_shutdown_timeout")
    for name in names:
        trace(name, getattr(server, name))
    trace("factory", server._protocol_factory is served)
    trace("sockets", [type(sock) for sock in server._sockets])
    trace("waiters", server._waiters)
    client = dial(trace, address)
    await served.made(1)
    transport = served.protocols[0].transport
    if sys.version_info >= (3, 13):
        trace("clients", list(server._clients))
        arguments: tuple[Any, ...] = (transport,)
    else:
        trace("clients", server._active_count)
        arguments = ()
    server._detach(*arguments)
    server._attach(*arguments)
    client.close()
    await served.lost()
    await trace.turns()
    server.close()
    trace("sockets", server._sockets, "waiters", server._waiters)
    trace.refused(server._attach, *arguments)


@case(since=(3, 13))
async def clients_with_much_to_send(trace: Trace) -> None:
    """close_clients sends what is buffered; abort_clients after it drops that."""
    for abort in (False, True):
        served = Served(trace, connection_made=lambda each: each.write(bytes(8_000_000)))
        server, address = await _serve(trace, served)
        client = dial(trace, address)
        await served.made(1)
        trace.call(server.close_clients)
        await trace.turns(2)
        if abort:
            trace.call(server.abort_clients)
        data, end = await read_end(client)
        trace("client has all", len(data) == 8_000_000, end if not abort else "")
        await served.lost()
        server.close()
        await trace.wait("wait_closed", server.wait_closed())


@case(since=(3, 13))
async def clients_closed_by_a_client(trace: Trace) -> None:
    """close_clients and abort_clients from inside of a client's callbacks."""
    for method in ("close_clients", "abort_clients"):
        served = Served(trace)
        server, address = await _serve(trace, served)
        call = getattr(server, method)
        served.hooks["data_received"] = lambda data, call=call: call()
        client = dial(trace, address)
        await served.made(1)
        client.sendall(b"all of you")
        await served.lost()
        trace("client has", *await read_end(client))
        server.close()
        await trace.wait("wait_closed", server.wait_closed())


@case(since=(3, 13), lanes=True)
async def close_and_abort_clients(trace: Trace) -> None:
    """close_clients sends what is buffered, abort_clients drops it."""
    for method in ("close_clients", "abort_clients"):
        served = Served(trace)
        server, address = await _serve(trace, served)
        clients = [dial(trace, address) for _ in range(2)]
        await served.made(2)
        for protocol in served.protocols:
            protocol.transport.write(b"taken by the kernel")
        trace.call(getattr(server, method))
        await served.lost()
        for client in clients:
            trace("client has", *await read_end(client), lane="clients")
        trace.call(server.is_serving)
        server.close()
        await trace.wait("wait_closed", server.wait_closed())
        trace.call(getattr(server, method))


@case
async def several_hosts(trace: Trace) -> None:
    """One socket for each address; an address that is given twice is bound once."""
    for hosts in (["127.0.0.1", "127.0.0.2"], ("127.0.0.1", "127.0.0.1"), ["127.0.0.1"]):
        server = await trace.loop.create_server(Served(trace), hosts, 0)
        names = sorted(sock.getsockname()[0] for sock in server.sockets)
        trace("bound", names)
        server.close()
        await server.wait_closed()


@case
async def several_sockets_serve(trace: Trace) -> None:
    """A server on two addresses serves both, with one factory, and closes both."""
    served = Served(trace)
    server = await trace.loop.create_server(served, ["127.0.0.1", "127.0.0.2"], 0)
    addresses = sorted(sock.getsockname() for sock in server.sockets)
    for number, address in enumerate(addresses):
        client = dial(trace, address)
        await served.made(number + 1)
        protocol = served.protocols[number]
        trace("sockname", protocol.transport.get_extra_info("sockname") == address)
        client.close()
        await protocol.lost()
    server.close()
    for address in addresses:
        try:
            dial(trace, address)
        except OSError as exc:
            trace("after close", exc)


@case
async def existing_listener(trace: Trace) -> None:
    """A server over a socket of the caller's, listening or only bound."""
    for listening in (True, False):
        served = Served(trace)
        if listening:
            sock = listener(trace)
        else:
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
        server = await trace.loop.create_server(served, sock=sock)
        trace("blocking", sock.getblocking())
        client = dial(trace, sock.getsockname())
        await served.made(1)
        client.close()
        await served.lost()
        server.close()
        await server.wait_closed()
        trace("closed with the server", sock.fileno())


@case
async def backlog(trace: Trace) -> None:
    """Any sensible backlog serves."""
    for number in (1, 2, 1000):
        served = Served(trace)
        server, address = await _serve(trace, served, backlog=number)
        client = dial(trace, address)
        await served.made(1)
        client.close()
        await served.lost()
        server.close()


@case
async def port_in_use(trace: Trace) -> None:
    """The error names the address, with its errno."""
    host, port = listener(trace).getsockname()
    await trace.wait("create_server", trace.loop.create_server(Served(trace), host, port))


@case
async def addresses_that_cannot_be_bound(trace: Trace) -> None:
    """Errors for an address that is not ours, and for one of several hosts."""
    served = Served(trace)
    create = trace.loop.create_server
    await trace.wait("not ours", create(served, "192.0.2.1", 0))
    host, port = listener(trace).getsockname()
    await trace.wait("one of two", create(served, ["127.0.0.2", host], port))
    if sys.version_info >= (3, 12):  # until then it is an error
        try:
            server = await create(served, ["127.0.0.1", "192.0.2.1"], 0)
        except OSError as exc:
            trace("the good one of two", exc)
        else:
            trace("the good one of two", server.sockets)
            server.close()


@case
def served_after_a_stop(trace: Trace) -> None:
    """A server goes on where the loop stopped: clients wait in the queue."""
    loop = trace.loop
    served = Served(trace)
    server, address = loop.run_until_complete(_serve(trace, served))
    client = dial(trace, address)
    client.sendall(b"early")
    trace("nothing yet", len(served.protocols))
    loop.run_until_complete(served.made(1))
    loop.run_until_complete(served.protocols[0].received(5))
    server.close()
    client.close()
    loop.run_until_complete(served.lost())
