"""WebSockets over TLS (wss) by the `websockets` library, both ends on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from websockets.sync.client import connect as connect_blocking

from tests.certificates import HOST, client_context, server_context
from tests.support import TIME_LIMIT

from .app import pattern

pytestmark = pytest.mark.usefixtures("silence", "as_since_311")

MB = 1024 * 1024
PATIENT = {"max_size": None, "ping_interval": None, "open_timeout": TIME_LIMIT}


async def echo(connection: ServerConnection) -> None:
    """Send every message back until the client closes."""
    with contextlib.suppress(ConnectionClosedError):
        async for message in connection:
            await connection.send(message)


@contextlib.asynccontextmanager
async def serving(handler, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve on the running loop; yield the URL."""
    context = context or server_context()
    async with serve(handler, "127.0.0.1", 0, ssl=context, **PATIENT) as served:
        yield f"wss://127.0.0.1:{next(iter(served.sockets)).getsockname()[1]}"


def dial(url: str, context: ssl.SSLContext | None = None) -> connect:
    """Return a client connection, to be awaited or entered."""
    return connect(url, ssl=context or client_context(), proxy=None, **PATIENT)


class TestMessages:
    @pytest.mark.parametrize("size", [0, 1, 65_536, 5 * MB])
    async def test_echo(self, loop, size):
        async with serving(echo) as url, dial(url) as client:
            await client.send(pattern(size))
            assert await client.recv() == pattern(size)

    async def test_many_messages(self, loop):
        async with serving(echo) as url, dial(url) as client:
            for number in range(500):
                await client.send(str(number))
            assert [await client.recv() for _ in range(500)] == list(map(str, range(500)))

    async def test_many_clients(self, loop):
        async def talk(number: int) -> str:
            async with dial(url) as client:
                await client.send(str(number))
                return await client.recv()

        async with serving(echo) as url:
            answers = await asyncio.gather(*map(talk, range(30)))
        assert answers == [str(number) for number in range(30)]

    async def test_a_client_in_a_thread(self, loop):
        def talk() -> bytes:
            with connect_blocking(
                url, ssl=client_context(), server_hostname=HOST, proxy=None, max_size=None
            ) as client:
                client.send(pattern(MB))
                return client.recv(timeout=TIME_LIMIT)

        async with serving(echo) as url:
            assert await asyncio.to_thread(talk) == pattern(MB)

    async def test_the_certificate_of_a_client(self, loop):
        async def name(connection: ServerConnection) -> None:
            certificate = connection.transport.get_extra_info("peercert")
            subject = dict(pair for (pair,) in certificate["subject"])
            await connection.send(subject["commonName"])

        context = server_context(clients=ssl.CERT_REQUIRED)
        async with serving(name, context) as url, dial(url, client_context("alice")) as client:
            assert await client.recv() == "alice"


class TestEnds:
    async def test_by_the_server(self, loop):
        async def leave(connection: ServerConnection) -> None:
            await connection.close(4000, "enough")

        async with serving(leave) as url, dial(url) as client:
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "enough")

    async def test_by_the_client(self, loop):
        ends = asyncio.Queue()

        async def wait(connection: ServerConnection) -> None:
            with pytest.raises(ConnectionClosedOK):
                await connection.recv()
            ends.put_nowait(connection.close_code)

        async with serving(wait) as url:
            async with dial(url):
                pass
            assert await ends.get() == 1000

    async def test_aborted(self, loop):
        ends = asyncio.Queue()

        async def wait(connection: ServerConnection) -> None:
            with pytest.raises(ConnectionClosedError):
                await connection.recv()
            ends.put_nowait("lost")

        async with serving(wait) as url:
            client = await dial(url)
            client.transport.abort()
            assert await ends.get() == "lost"

    @pytest.mark.parametrize("name", ["expired", "wrong_host", "stranger"])
    async def test_bad_certificates(self, loop, name):
        async with serving(echo, server_context(name)) as url:
            with pytest.raises(ssl.SSLCertVerificationError):
                await dial(url)
