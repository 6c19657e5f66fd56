"""A call that fails or is cancelled leaves nothing for the collector.

An exception leads by its traceback to the frames it passed; a frame that still holds the future
which holds the exception closes a cycle, and with it everything in those frames waits for the next
collection: 57 KiB for a TLS handshake. Each case is a coroutine that fails; objects are counted
with the collector switched off.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ..certificates import HOST, client_context, server_context
from ..support import DatagramRecorder, hops, module_of, unix_listen

ROUNDS = 4

Call = Callable[["Calls"], Awaitable[Any]]


class Calls:
    """What the cases need: servers, addresses at which nobody is, contexts that trust nobody."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self.loop: Any = loop
        self.folder = folder
        self.stack = contextlib.ExitStack()
        self.distrustful = ssl.create_default_context()
        self.trusting = client_context()

    async def start(self) -> None:
        secure = server_context()
        for name, options in (("plain", {}), ("secure", {"ssl": secure})):
            server = await self.loop.create_server(asyncio.Protocol, "127.0.0.1", 0, **options)
            self.stack.callback(server.close)
            setattr(self, name, server.sockets[0].getsockname())
        path = str(self.folder / "secure")
        server = await self.loop.create_unix_server(asyncio.Protocol, path, ssl=secure)
        self.stack.callback(server.close)
        self.unix = path
        with socket.socket() as gone:
            gone.bind(("127.0.0.1", 0))
            self.gone = gone.getsockname()
        # A listener whose queue is full: connecting waits.
        self.full = str(self.folder / "full")
        listener = self.stack.enter_context(contextlib.closing(unix_listen(self.full)))
        listener.listen(0)
        self.stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX))).connect(
            self.full
        )

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair(type=kind)
        near.setblocking(False)
        far.setblocking(False)
        return near, far

    async def given_up(self, call: Awaitable[Any], turns: int = 3) -> None:
        """Cancel a call that waits."""
        task = asyncio.ensure_future(call)
        await hops(turns)
        task.cancel()
        await task


async def refused(calls: Calls) -> None:
    await calls.loop.create_connection(asyncio.Protocol, *calls.gone)


async def refused_by_all(calls: Calls) -> None:
    await calls.loop.create_connection(asyncio.Protocol, "localhost", calls.gone[1])


async def refused_in_a_race(calls: Calls) -> None:
    await calls.loop.create_connection(
        asyncio.Protocol, "localhost", calls.gone[1], happy_eyeballs_delay=0.001
    )


async def unknown_host(calls: Calls) -> None:
    await calls.loop.getaddrinfo("no host", 80, flags=socket.AI_NUMERICHOST)


async def factory_fails(calls: Calls) -> None:
    def factory() -> Any:
        raise LookupError

    await calls.loop.create_connection(factory, *calls.plain)


async def connecting_given_up(calls: Calls) -> None:
    await calls.given_up(calls.loop.create_connection(asyncio.Protocol, *calls.plain), 1)


async def unix_nobody(calls: Calls) -> None:
    await calls.loop.create_unix_connection(asyncio.Protocol, str(calls.folder / "nobody"))


async def address_in_use(calls: Calls) -> None:
    await calls.loop.create_server(asyncio.Protocol, *calls.plain)


async def unix_no_folder(calls: Calls) -> None:
    await calls.loop.create_unix_server(asyncio.Protocol, str(calls.folder / "none" / "name"))


async def tls_verification(calls: Calls) -> None:
    await calls.loop.create_connection(
        asyncio.Protocol, *calls.secure, ssl=calls.distrustful, server_hostname=HOST
    )


async def tls_verification_unix(calls: Calls) -> None:
    await calls.loop.create_unix_connection(
        asyncio.Protocol, calls.unix, ssl=calls.distrustful, server_hostname=HOST
    )


async def tls_reset(calls: Calls) -> None:
    near, far = calls.pair()
    far.close()
    await calls.loop.create_connection(
        asyncio.Protocol, sock=near, ssl=calls.trusting, server_hostname=HOST
    )


async def tls_timeout(calls: Calls) -> None:
    near, far = calls.pair()
    with far:
        await calls.loop.create_connection(
            asyncio.Protocol,
            sock=near,
            ssl=calls.trusting,
            server_hostname=HOST,
            ssl_handshake_timeout=0.001,
        )


async def tls_given_up(calls: Calls) -> None:
    near, far = calls.pair()
    with far:
        await calls.given_up(
            calls.loop.create_connection(
                asyncio.Protocol, sock=near, ssl=calls.trusting, server_hostname=HOST
            )
        )


async def tls_accepted(calls: Calls) -> None:
    near, far = calls.pair()
    far.send(b"no TLS at all")
    with far:
        await calls.loop.connect_accepted_socket(asyncio.Protocol, near, ssl=server_context())


async def start_tls_verification(calls: Calls) -> None:
    transport, protocol = await calls.loop.create_connection(asyncio.Protocol, *calls.secure)
    await calls.loop.start_tls(transport, protocol, calls.distrustful, server_hostname=HOST)


async def start_tls_reset(calls: Calls) -> None:
    near, far = calls.pair()
    transport, protocol = await calls.loop.create_connection(asyncio.Protocol, sock=near)
    far.close()
    await calls.loop.start_tls(transport, protocol, calls.trusting, server_hostname=HOST)


async def start_tls_given_up(calls: Calls) -> None:
    near, far = calls.pair()
    transport, protocol = await calls.loop.create_connection(asyncio.Protocol, sock=near)
    with far:
        await calls.given_up(
            calls.loop.start_tls(transport, protocol, calls.trusting, server_hostname=HOST)
        )


async def no_pipe(calls: Calls) -> None:
    with open(__file__, "rb") as file:
        await calls.loop.connect_read_pipe(asyncio.Protocol, file)


async def pipe_given_up(calls: Calls) -> None:
    near, far = calls.pair()
    with far:
        await calls.given_up(calls.loop.connect_read_pipe(asyncio.Protocol, near), 1)


async def no_common_family(calls: Calls) -> None:
    await calls.loop.create_datagram_endpoint(
        DatagramRecorder, local_addr=("127.0.0.1", 0), remote_addr=("::1", 1)
    )


async def endpoint_given_up(calls: Calls) -> None:
    await calls.given_up(
        calls.loop.create_datagram_endpoint(DatagramRecorder, local_addr=("127.0.0.1", 0)), 1
    )


async def sock_connect_refused(calls: Calls) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        await calls.loop.sock_connect(sock, calls.gone)


async def sock_recv_given_up(calls: Calls) -> None:
    near, far = calls.pair()
    with near, far:
        await calls.given_up(calls.loop.sock_recv(near, 1))


async def sock_recv_closed(calls: Calls) -> None:
    near, far = calls.pair()
    near.close()
    with far:
        await calls.loop.sock_recv(near, 1)


async def sock_recv_into_given_up(calls: Calls) -> None:
    near, far = calls.pair()
    with near, far:
        await calls.given_up(calls.loop.sock_recv_into(near, bytearray(1)))


async def sock_sendall_given_up(calls: Calls) -> None:
    near, far = calls.pair()
    with near, far:
        await calls.given_up(calls.loop.sock_sendall(near, bytes(10 << 20)))


async def sock_sendall_reset(calls: Calls) -> None:
    near, far = calls.pair()
    far.close()
    with near:
        await calls.loop.sock_sendall(near, b"data")


async def sock_accept_given_up(calls: Calls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        await calls.given_up(calls.loop.sock_accept(listener))


async def executor(calls: Calls) -> None:
    def fail() -> None:
        raise LookupError

    await calls.loop.run_in_executor(None, fail)


async def sendfile_closed(calls: Calls) -> None:
    near, far = calls.pair()
    transport, _ = await calls.loop.create_connection(asyncio.Protocol, sock=near)
    transport.abort()
    with far, open(__file__, "rb") as file:
        await calls.loop.sendfile(transport, file)


async def sendfile_given_up(calls: Calls) -> None:
    near, far = calls.pair()
    transport, _ = await calls.loop.create_connection(asyncio.Protocol, sock=near)
    try:
        with far, open(__file__, "rb") as file:
            transport.write(bytes(10 << 20))
            await calls.given_up(calls.loop.sendfile(transport, file))
    finally:
        transport.abort()


async def sendfile_lost(calls: Calls) -> None:
    near, far = calls.pair()
    transport, _ = await calls.loop.create_connection(asyncio.Protocol, sock=near)
    with open(__file__, "rb") as file:
        transport.write(bytes(10 << 20))
        calls.loop.call_later(0.001, far.close)
        await calls.loop.sendfile(transport, file)


async def no_program(calls: Calls) -> None:
    await calls.loop.subprocess_exec(asyncio.SubprocessProtocol, str(calls.folder / "none"))


CASES: dict[str, Call] = {
    call.__name__: call
    for call in (
        refused,
        refused_by_all,
        refused_in_a_race,
        unknown_host,
        factory_fails,
        connecting_given_up,
        unix_nobody,
        address_in_use,
        unix_no_folder,
        tls_verification,
        tls_verification_unix,
        tls_reset,
        tls_timeout,
        tls_given_up,
        tls_accepted,
        start_tls_verification,
        start_tls_reset,
        start_tls_given_up,
        no_pipe,
        pipe_given_up,
        no_common_family,
        endpoint_given_up,
        sock_connect_refused,
        sock_recv_given_up,
        sock_recv_closed,
        sock_recv_into_given_up,
        sock_sendall_given_up,
        sock_sendall_reset,
        sock_accept_given_up,
        executor,
        sendfile_closed,
        sendfile_given_up,
        sendfile_lost,
        no_program,
    )
}


@pytest.fixture
def collector_off():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("name", CASES)
async def test_leaves_nothing(loop, loop_spec, folder, collector_off, name):
    loop.set_exception_handler(lambda loop, context: None)
    calls = Calls(loop, folder)
    await calls.start()

    async def left() -> int:
        for _ in range(ROUNDS):
            try:
                await CASES[name](calls)
            except (Exception, asyncio.CancelledError):
                pass
            else:
                pytest.fail("the call did not fail")
        # What the ends of connections have queued; a server's side, too.
        await asyncio.sleep(0.01)
        await hops(5)
        return gc.collect()

    with calls.stack:
        await left()  # what is made once
        found = await left()
        for _ in range(10):
            if not found:
                break
            # A server's end may have taken its time.
            found = await left()
    if module_of(loop_spec) != "asyncio":  # which leaves up to 90 objects
        assert found == 0, f"{found / ROUNDS} objects for each call"
