"""aiohttp's server and client on one loop: requests, connections that are kept, bodies."""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import zlib

import aiohttp
import pytest
from aiohttp import web

from tests.support import TIME_LIMIT, listen

from .aiohttps import (
    MB,
    PATIENT,
    closed,
    data,
    digest,
    digest_of,
    echo,
    idle_connection,
    peer,
    pieces,
    running,
    say,
    serving,
    url_of,
)
from .app import pattern

LARGE = 10 * MB

pytestmark = pytest.mark.usefixtures("silence")


def session(**options) -> aiohttp.ClientSession:
    """Return a client that gives up when a test counts as hung."""
    return aiohttp.ClientSession(timeout=PATIENT, **options)


class TestRequests:
    async def test_methods_and_headers(self, loop):
        async def mirror(request: web.Request) -> web.Response:
            facts = [request.method, request.headers["x-word"], dict(request.query)]
            return web.json_response([*facts, (await request.read()).decode()])

        async with serving(mirror) as url, session() as client:
            for method in "GET", "POST", "PUT", "PATCH", "DELETE":
                body = "" if method == "GET" else f"body of {method}"
                async with client.request(
                    method, f"{url}/mirror", params={"a": "ü"}, headers={"x-word": "w"}, data=body
                ) as response:
                    assert response.status == 200
                    assert await response.json() == [method, "w", {"a": "ü"}, body]

    async def test_statuses(self, loop):
        async def moved(request: web.Request) -> web.Response:
            raise web.HTTPFound("/say?word=here")

        async with serving(say, moved) as url, session() as client:
            async with client.get(f"{url}/moved") as response:
                assert (await response.text(), len(response.history)) == ("here", 1)
            async with client.get(f"{url}/nowhere") as response:
                assert response.status == 404
            async with client.head(f"{url}/say?word=silent") as response:
                assert (response.headers["content-length"], await response.read()) == ("6", b"")

    async def test_a_name_with_several_addresses(self, loop):
        """The client resolves in a thread and races the addresses."""
        async with running(say) as runner:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]
            async with session() as client:
                async with client.get(f"http://localhost:{port}/say?word=found") as response:
                    assert await response.text() == "found"

    async def test_a_socket_that_listens_already(self, loop):
        async with running(say) as runner:
            await web.SockSite(runner, listen()).start()
            async with session() as client:
                async with client.get(f"{url_of(runner)}/say?word=found") as response:
                    assert await response.text() == "found"

    async def test_unix_socket(self, loop, tmp_path):
        path = str(tmp_path / "socket")
        async with running(say, echo) as runner:
            await web.UnixSite(runner, path).start()
            async with session(connector=aiohttp.UnixConnector(path)) as client:
                async with client.get("http://x/say?word=found") as response:
                    assert await response.text() == "found"
                upload = pieces(pattern(LARGE), 100_000)
                async with client.post("http://x/echo", data=upload) as response:
                    assert await response.read() == pattern(LARGE)

    async def test_many_at_once(self, loop):
        async def get(number: int) -> str:
            parameters = {"word": str(number), "turns": str(number % 7)}
            async with client.get(f"{url}/say", params=parameters) as response:
                return await response.text()

        async with serving(say) as url:
            for limit in 0, 10:  # no limit: as many connections as requests
                async with session(connector=aiohttp.TCPConnector(limit=limit)) as client:
                    answers = await asyncio.gather(*map(get, range(300)))
                    assert answers == [str(number) for number in range(300)]

    async def test_a_client_without_a_loop(self, loop):
        def client(host: str, port: int) -> list[bytes]:
            connection = http.client.HTTPConnection(host, port, timeout=TIME_LIMIT)
            answers = []
            for number in range(50):
                connection.request("GET", f"/say?word={number}&turns={number % 3}")
                answers.append(connection.getresponse().read())
            connection.request("POST", "/digest", iter([pattern(MB)] * 3), encode_chunked=True)
            answers.append(connection.getresponse().read())
            connection.close()
            return answers

        async with running(say, digest) as runner:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            *answers, last = await asyncio.to_thread(client, *runner.addresses[0])
        assert answers == [str(number).encode() for number in range(50)]
        assert last.decode() == digest_of(pattern(MB) * 3)

    async def test_pipelining(self, loop):
        def client(address: tuple[str, int]) -> bytes:
            request = "GET /say?word=%d HTTP/1.1\r\nhost: x\r\nconnection: %s\r\n\r\n"
            with socket.create_connection(address, TIME_LIMIT) as sock, sock.makefile("rb") as file:
                requests = [request % (number, "keep-alive") for number in range(99)]
                sock.sendall("".join([*requests, request % (99, "close")]).encode())
                return file.read()

        async with running(say) as runner:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            answers = await asyncio.to_thread(client, runner.addresses[0])
        bodies = [answer.partition(b"\r\n\r\n")[2] for answer in answers.split(b"HTTP/1.1 200 OK")]
        assert bodies[1:] == [str(number).encode() for number in range(100)]


class TestKeepAlive:
    async def test_one_connection_for_all(self, loop):
        async with serving(peer) as url, session() as client:
            addresses = set()
            for _ in range(200):
                async with client.get(f"{url}/peer") as response:
                    addresses.add(tuple(await response.json()))
            assert len(addresses) == 1

    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_one_for_each(self, loop, side):
        async def ending(request: web.Request) -> web.Response:
            response = await peer(request)
            response.force_close()
            return response

        async with serving(peer, ending) as url:
            connector = aiohttp.TCPConnector(force_close=side == "client")
            async with session(connector=connector) as client:
                addresses = set()
                for _ in range(10):
                    path = "peer" if side == "client" else "ending"
                    async with client.get(f"{url}/{path}") as response:
                        addresses.add(tuple(await response.json()))
                assert len(addresses) == 10

    async def test_the_server_closes_it_between_two_requests(self, loop):
        """An idle connection that has expired is noticed: the client makes another one."""
        async with serving(peer, keepalive_timeout=0.01) as url:
            async with session(connector=aiohttp.TCPConnector(limit=1)) as client:
                async with client.get(f"{url}/peer") as response:
                    first = await response.json()
                await closed(idle_connection(client))
                async with client.get(f"{url}/peer") as response:
                    assert await response.json() != first

    async def test_after_an_upload_that_nobody_reads(self, loop):
        """The server answers first and drains the rest of the body."""

        async def ignore(request: web.Request) -> web.Response:
            return web.Response(text="never mind")

        async with serving(ignore, say) as url, session() as client:
            async with client.post(f"{url}/ignore", data=pieces(pattern(MB), 50_000)) as response:
                assert await response.text() == "never mind"
            async with client.get(f"{url}/say?word=next") as response:
                assert await response.text() == "next"


class TestUploads:
    @pytest.mark.parametrize("size", [0, 1, 65_536, LARGE])
    async def test_with_a_length(self, loop, size):
        async with serving(digest) as url, session() as client:
            async with client.post(f"{url}/digest", data=io.BytesIO(pattern(size))) as response:
                assert await response.text() == digest_of(pattern(size))

    @pytest.mark.parametrize("size, piece", [(1000, 1), (MB, 1000), (LARGE, 100_000)])
    async def test_chunked(self, loop, size, piece):
        async with serving(digest) as url, session() as client:
            upload = pieces(pattern(size), piece)
            async with client.post(f"{url}/digest", data=upload) as response:
                assert await response.text() == digest_of(pattern(size))

    async def test_expecting_a_go_ahead(self, loop):
        async with serving(digest) as url, session() as client:
            body = pattern(MB)
            async with client.post(f"{url}/digest", data=body, expect100=True) as response:
                assert await response.text() == digest_of(body)

    async def test_form_with_a_file(self, loop):
        async def form(request: web.Request) -> web.Response:
            fields = await request.post()
            content = await asyncio.to_thread(fields["file"].file.read)
            return web.Response(text=f"{fields['name']} {digest_of(content)}")

        async with serving(form) as url, session() as client:
            fields = aiohttp.FormData({"name": "crab"})
            fields.add_field("file", io.BytesIO(pattern(3 * MB)), filename="crab.bin")
            async with client.post(f"{url}/form", data=fields) as response:
                assert await response.text() == f"crab {digest_of(pattern(3 * MB))}"

    async def test_compressed(self, loop):
        async with serving(digest) as url, session() as client:
            body = bytes(MB)
            async with client.post(f"{url}/digest", data=body, compress=True) as response:
                assert await response.text() == digest_of(body)


class TestDownloads:
    @pytest.mark.parametrize("size", [0, 1, 65_536, LARGE])
    async def test_at_once(self, loop, size):
        async with serving(data) as url, session() as client:
            async with client.get(f"{url}/data?size={size}") as response:
                assert await response.read() == pattern(size)

    @pytest.mark.parametrize("length", ["yes", "no"], ids=["length", "chunked"])
    @pytest.mark.parametrize("size, piece", [(1000, 1), (MB, 1000), (LARGE, 100_000)])
    async def test_streamed(self, loop, size, piece, length):
        async with serving(data) as url, session() as client:
            query = f"size={size}&piece={piece}&length={length}"
            async with client.get(f"{url}/data?{query}") as response:
                received = bytearray()
                async for got in response.content.iter_any():
                    received += got
                assert received == pattern(size)

    async def test_the_client_takes_its_time(self, loop):
        """Its buffer is 1 KB: reading is paused and resumed all the time."""
        async with serving(data) as url, session(read_bufsize=1024) as client:
            async with client.get(f"{url}/data?size={MB}&piece=5000") as response:
                received = bytearray()
                while got := await response.content.read(500):
                    received += got
                assert received == pattern(MB)

    @pytest.mark.parametrize("size", [10, LARGE])
    async def test_file(self, loop, tmp_path, size):
        async def file(request: web.Request) -> web.FileResponse:
            return web.FileResponse(path)

        path = tmp_path / "data"
        path.write_bytes(pattern(size))
        async with serving(file) as url, session() as client:
            async with client.get(f"{url}/file") as response:
                assert await response.read() == pattern(size)
            async with client.get(f"{url}/file", headers={"range": "bytes=3-6"}) as response:
                assert (response.status, await response.read()) == (206, pattern(size)[3:7])

    async def test_compressed(self, loop):
        """Bodies of this size are compressed by the executor."""

        async def zeros(request: web.Request) -> web.Response:
            response = web.Response(body=bytes(LARGE), zlib_executor_size=1024)
            response.enable_compression(web.ContentCoding.deflate)
            return response

        async with serving(zeros) as url, session(auto_decompress=False) as client:
            async with client.get(f"{url}/zeros") as response:
                assert zlib.decompress(await response.read()) == bytes(LARGE)


class TestBothWays:
    @pytest.mark.parametrize("size, piece", [(1000, 10), (LARGE, 100_000)])
    async def test_echo(self, loop, size, piece):
        async with serving(echo) as url, session() as client:
            upload = pieces(pattern(size), piece)
            async with client.post(f"{url}/echo", data=upload) as response:
                assert await response.read() == pattern(size)

    async def test_several_at_once(self, loop):
        async def exchange(size: int) -> bool:
            async with client.post(f"{url}/echo", data=pieces(pattern(size), 10_000)) as response:
                return await response.read() == pattern(size)

        async with serving(echo) as url, session() as client:
            assert all(await asyncio.gather(*map(exchange, range(200_000, 200_020))))
