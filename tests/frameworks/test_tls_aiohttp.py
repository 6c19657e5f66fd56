"""HTTPS by aiohttp, both ends on the loop: ALPN, certificates of clients, proxies, bad peers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.certificates import client_context, server_context
from tests.support import hops

from .aiohttps import MB, PATIENT, running
from .app import pattern

pytestmark = pytest.mark.usefixtures("silence", "as_since_311")


async def say(request: web.Request) -> web.Response:
    return web.Response(text=request.query.get("word", ""))


async def data(request: web.Request) -> web.StreamResponse:
    """Send as many bytes as were asked for, in pieces, or until the client has gone."""
    response = web.StreamResponse()
    await response.prepare(request)
    body = pattern(int(request.query["size"]))
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(body), 100_000):
            await response.write(body[start : start + 100_000])
    return response


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def who(request: web.Request) -> web.Response:
    """Tell what TLS knows of the client."""
    assert request.transport is not None
    certificate = request.transport.get_extra_info("peercert")
    engine = request.transport.get_extra_info("ssl_object")
    subject = dict(pair for (pair,) in certificate["subject"]) if certificate else {}
    return web.json_response([subject.get("commonName"), engine.selected_alpn_protocol()])


async def talk(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse()
    await connection.prepare(request)
    async for message in connection:
        await connection.send_str(message.data[::-1])
    return connection


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve by HTTPS for the time of the block; yield the URL."""
    async with running(say, data, echo, who, talk) as runner:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context or server_context())
        await site.start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"


def session(context: ssl.SSLContext | None = None, **options: Any) -> aiohttp.ClientSession:
    """Return a client that trusts the tests' authority."""
    connector = aiohttp.TCPConnector(ssl=context or client_context())
    return aiohttp.ClientSession(connector=connector, timeout=PATIENT, **options)


class TestExchange:
    @pytest.mark.parametrize("size", [0, 1, 65_536, 3 * MB])
    async def test_bodies(self, loop, size):
        async with serving() as url, session() as client:
            async with client.get(f"{url}/data?size={size}") as response:
                assert await response.read() == pattern(size)
            async with client.post(f"{url}/echo", data=io.BytesIO(pattern(size))) as response:
                assert await response.read() == pattern(size)

    async def test_many_at_once(self, loop):
        async def get(number: int) -> str:
            async with client.get(f"{url}/say?word={number}") as response:
                return await response.text()

        async with serving() as url, session() as client:
            answers = await asyncio.gather(*map(get, range(100)))
            assert answers == [str(number) for number in range(100)]

    async def test_alpn(self, loop):
        theirs = server_context(alpn=["http/1.1"])
        async with (
            serving(theirs) as url,
            session(client_context(alpn=["h2", "http/1.1"])) as client,
        ):
            async with client.get(f"{url}/who") as response:
                assert await response.json() == [None, "http/1.1"]

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_the_certificate_of_a_client(self, loop, version):
        theirs = server_context(clients=ssl.CERT_REQUIRED, version=version)
        async with serving(theirs) as url:
            async with session(client_context("alice")) as client:
                async with client.get(f"{url}/who") as response:
                    assert await response.json() == ["alice", None]
            async with session() as client:
                with pytest.raises((aiohttp.ClientError, ssl.SSLError, OSError)):
                    await client.get(f"{url}/who")

    async def test_websockets(self, loop):
        async with serving() as url, session() as client:
            async with client.ws_connect(f"{url}/talk") as connection:
                for text in ("hello", "x" * 100_000, ""):
                    await connection.send_str(text)
                    assert await connection.receive_str() == text[::-1]

    async def test_a_client_that_leaves(self, loop):
        """In the midst of a large response; the server goes on."""
        async with serving() as url:
            for _ in range(5):
                async with session() as client:
                    response = await client.get(f"{url}/data?size={20 * MB}")
                    await response.content.readexactly(1000)
                    response.close()
            async with session() as client, client.get(f"{url}/say?word=fine") as response:
                assert await response.text() == "fine"


class TestRefusals:
    @pytest.mark.parametrize("name", ["expired", "wrong_host", "stranger"])
    async def test_of_the_client(self, loop, name):
        async with serving(server_context(name)) as url, session() as client:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await client.get(f"{url}/say")

    async def test_plain_http(self, loop):
        """To a server of HTTPS, and the other way round."""
        async with serving() as url, session() as client:
            with pytest.raises(aiohttp.ClientError):
                await client.get(f"{url}/say".replace("https", "http"))
        async with running(say) as runner, session() as client:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            with pytest.raises(aiohttp.ClientError):
                await client.get(f"https://127.0.0.1:{runner.addresses[0][1]}/say")
            await hops(5)


class TestProxies:
    """CONNECT, and then start_tls: over a plain connection, or inside the TLS of the proxy."""

    async def relay(self, reader, writer) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        method, place, _ = request.split(b" ", 2)
        assert method == b"CONNECT"
        host, port = place.decode().split(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def pump(source, sink) -> None:
            with contextlib.suppress(OSError):
                while piece := await source.read(65536):
                    sink.write(piece)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        for sink in writer, far_writer:
            with contextlib.suppress(OSError):
                await sink.wait_closed()

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_connect(self, loop, scheme):
        context = server_context() if scheme == "https" else None
        proxy = await asyncio.start_server(self.relay, "127.0.0.1", 0, ssl=context)
        place = f"{scheme}://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        async with serving() as url, session() as client:
            for size in (10, MB):
                async with client.get(f"{url}/data?size={size}", proxy=place) as response:
                    assert await response.read() == pattern(size)
        proxy.close()
        await proxy.wait_closed()
