"""HTTP/2 without TLS: hypercorn as the server; httpx, and h2 by hand, as its clients."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from h2.errors import ErrorCodes
from httpx import AsyncClient

from tests.support import TIME_LIMIT

from . import app as application
from .app import pattern
from .http2 import Hypercorn, Stream, dial, hypercorn

pytestmark = pytest.mark.usefixtures("silence")

MB = 1024 * 1024
LARGE = 10 * MB


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[str]:
    """What the application tells."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(
        application, "say", lambda *words: queue.put_nowait(" ".join(map(str, words)))
    )
    return queue


async def heard(told: asyncio.Queue[str], text: str) -> str:
    """Wait until the application tells something that begins with `text`."""
    while not (words := await told.get()).startswith(text):
        pass
    return words


def http(server: Hypercorn, **options) -> AsyncClient:
    """Return a client that takes one connection and knows that the server speaks HTTP/2."""
    limits = httpx.Limits(max_connections=1)
    return AsyncClient(
        http1=False,
        http2=True,
        base_url=server.url,
        trust_env=False,
        **{"timeout": TIME_LIMIT, "limits": limits, **options},
    )


def digest(data: bytes) -> str:
    """Return what the server is to say of `data`."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield `data` in pieces of `size` bytes, each in a turn of its own."""
    for offset in range(0, len(data), size):
        yield data[offset : offset + size]
        await asyncio.sleep(0)


class TestRequests:
    async def test_one_after_the_other(self, loop):
        async with hypercorn() as server, http(server) as client:
            for number in range(100):
                answer = await client.get(f"/say?word={number}&turns={number % 3}")
                assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
                assert answer.text == str(number)
            assert (await client.get("/nowhere")).status_code == 404

    async def test_many_at_once_on_one_connection(self, loop):
        async with hypercorn() as server, http(server) as client:
            answers = await asyncio.gather(
                *(client.get(f"/say?word={number}&turns={number % 7}") for number in range(300))
            )
            assert [answer.text for answer in answers] == [str(number) for number in range(300)]
            answers = await asyncio.gather(*(client.get("/about") for _ in range(20)))
            facts = [json.loads(answer.text) for answer in answers]
            assert len({tuple(fact["client"]) for fact in facts}) == 1
            kind = type(loop)
            assert facts[0]["loop"] == f"{kind.__module__}.{kind.__qualname__}"

    async def test_many_connections(self, loop):
        async def client(number: int) -> list[str]:
            async with http(server) as connection:
                return [
                    (await connection.get(f"/say?word={number}.{step}")).text for step in range(5)
                ]

        async with hypercorn() as server:
            answers = await asyncio.gather(*map(client, range(20)))
        assert answers == [[f"{number}.{step}" for step in range(5)] for number in range(20)]

    async def test_upgrade_from_http_1(self, loop):
        """The answer to the request that asks for the upgrade is the first stream."""
        async with hypercorn() as server, dial(server.address, begin=False) as client:
            settings = client.h2.initiate_upgrade_connection()
            client.writer.write(
                b"GET /say?word=upgraded HTTP/1.1\r\nHost: test\r\nUpgrade: h2c\r\n"
                b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: " + settings + b"\r\n\r\n"
            )
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            stream = client.streams[1] = Stream(1)
            client.follow()
            assert await client.answer(stream) == b"upgraded"
            assert await client.answer(client.request("/say?word=more")) == b"more"

    async def test_not_http(self, loop):
        async with hypercorn() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100))
            await reader.read()  # whatever it says, it closes
            writer.close()
            async with http(server) as client:
                assert (await client.get("/say?word=well")).text == "well"


class TestBodies:
    @pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, LARGE])
    async def test_upload(self, loop, size):
        async with hypercorn() as server, http(server) as client:
            answer = await client.post("/digest", content=pattern(size))
            assert answer.text == digest(pattern(size))

    @pytest.mark.parametrize("size, piece", [(1000, 1), (LARGE, 100_000)])
    async def test_upload_in_pieces(self, loop, size, piece):
        async with hypercorn() as server, http(server) as client:
            answer = await client.post("/digest", content=pieces(pattern(size), piece))
            assert answer.text == digest(pattern(size))

    @pytest.mark.parametrize("size, piece", [(1, 1), (1000, 10), (LARGE, 100_000), (LARGE, LARGE)])
    async def test_download(self, loop, size, piece):
        async with hypercorn() as server, http(server) as client:
            answer = await client.get(f"/data?size={size}&piece={piece}&chunked=yes")
            assert answer.content == pattern(size)

    async def test_both_ways(self, loop):
        async with hypercorn() as server, http(server) as client:
            answer = await client.post("/echo", content=pieces(pattern(MB), 10_000))
            assert answer.content == pattern(MB)

    async def test_several_at_once(self, loop):
        async def upload(size: int) -> bool:
            answer = await client.post("/digest", content=pieces(pattern(size), 10_000))
            return answer.text == digest(pattern(size))

        async def download(size: int) -> bool:
            answer = await client.get(f"/data?size={size}&piece=7000&chunked=yes")
            return answer.content == pattern(size)

        async with hypercorn() as server, http(server) as client:
            sizes = range(MB, MB + 5)
            assert all(await asyncio.gather(*map(upload, sizes), *map(download, sizes)))

    async def test_the_client_takes_its_time(self, loop):
        async with hypercorn() as server, http(server) as client:
            async with client.stream("GET", f"/data?size={MB}&piece=50000") as answer:
                received = bytearray()
                async for piece in answer.aiter_raw(1000):
                    received += piece
                    await asyncio.sleep(0)
        assert received == pattern(MB)


class TestFlowControl:
    async def test_the_server_waits_for_the_window(self, loop):
        async with hypercorn() as server, dial(server.address, window=1000) as client:
            client.acknowledge = False
            stream = client.request("/data?size=100000&piece=100000")
            size = 1000
            for more in 1, 999, 30_000:
                await client.until(lambda size=size: len(stream.body) >= size)
                await client.ping()
                assert len(stream.body) == size
                client.h2.increment_flow_control_window(more, stream.number)
                client.flush()
                size += more
            client.h2.increment_flow_control_window(100_000)
            client.h2.increment_flow_control_window(100_000, stream.number)
            client.flush()
            assert await client.answer(stream) == pattern(100_000)

    async def test_a_stream_that_waits_does_not_hold_up_the_others(self, loop):
        async with hypercorn() as server, dial(server.address, window=1000) as client:
            client.acknowledge = False
            waiting = client.request("/data?size=2000&piece=2000")
            await client.until(lambda: len(waiting.body) == 1000)
            for number in range(20):
                stream = client.request(f"/say?word={number}")
                assert await client.answer(stream) == str(number).encode()
            assert not waiting.ended
            client.h2.increment_flow_control_window(1000, waiting.number)
            client.flush()
            assert await client.answer(waiting) == pattern(2000)

    async def test_streams_take_turns(self, loop):
        async with hypercorn() as server, dial(server.address) as client:
            streams = [client.request(f"/data?size={MB}&piece=100000") for _ in range(3)]
            for stream in streams:
                assert await client.answer(stream) == pattern(MB)
        for stream in streams[1:]:
            begin = client.order.index(stream.number)
            assert streams[0].number in client.order[begin:]

    async def test_uploads_take_turns(self, loop):
        async with hypercorn() as server, dial(server.address) as client:
            streams = [client.request("/digest", body=True) for _ in range(3)]
            await asyncio.gather(*(client.send(stream, pattern(MB)) for stream in streams))
            for stream in streams:
                assert (await client.answer(stream)).decode() == digest(pattern(MB))


class TestTrouble:
    async def test_a_timeout(self, loop, told):
        async with hypercorn() as server, http(server) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/wait", timeout=httpx.Timeout(TIME_LIMIT, read=0.02))
            assert (await client.get("/say?word=next")).text == "next"
            await client.aclose()
            await heard(told, "given up")

    async def test_some_requests_of_many_are_cancelled(self, loop):
        async def get(number: int) -> str:
            return (await client.get(f"/say?word={number}&turns=5")).text

        async with hypercorn() as server, http(server) as client:
            assert await get(0) == "0"  # httpx does not close a connection that it was making
            requests = [asyncio.create_task(get(number)) for number in range(100)]
            for request in requests[::3]:
                await asyncio.sleep(0)
                request.cancel()
            answers = await asyncio.gather(*requests, return_exceptions=True)
            for number, answer in enumerate(answers):
                assert answer == str(number) or (
                    number % 3 == 0 and isinstance(answer, asyncio.CancelledError)
                )
            assert await get(-1) == "-1"

    async def test_the_client_gives_a_stream_up(self, loop, told):
        async with hypercorn() as server, dial(server.address) as client:
            stream = client.request("/endless")
            await client.until(lambda: len(stream.body) > MB)
            client.h2.reset_stream(stream.number, ErrorCodes.CANCEL)
            client.flush()
            await heard(told, "response cut")
            assert await client.answer(client.request("/say?word=next")) == b"next"

    @pytest.mark.parametrize("how", ["close", "abort"])
    async def test_the_client_leaves_in_mid_answer(self, loop, told, how):
        async with hypercorn() as server:
            async with dial(server.address) as client:
                streams = [client.request("/wait") for _ in range(3)]
                for stream in streams:
                    await client.until(lambda stream=stream: stream.body)
                getattr(client.writer.transport, how)()
                for _ in streams:
                    await heard(told, "given up")
            async with http(server) as other:
                assert (await other.get("/say?word=well")).text == "well"

    @pytest.mark.parametrize("how", ["close", "abort"])
    async def test_the_client_leaves_in_mid_upload(self, loop, told, how):
        async with hypercorn() as server:
            async with dial(server.address) as client:
                stream = client.request("/digest", body=True)
                client.h2.send_data(stream.number, pattern(1000))
                client.flush()
                await heard(told, "upload began")
                getattr(client.writer.transport, how)()
                assert await heard(told, "upload cut") == "upload cut after 1000"


class TestShutdown:
    async def test_idle(self, loop, told):
        async with hypercorn() as server, dial(server.address) as client:
            assert await client.answer(client.request("/say?word=once")) == b"once"
            await server.stop()
            await client.gone()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*server.address)
            assert await heard(told, "shutdown") == "shutdown"

    async def test_requests_are_finished(self, loop):
        async with hypercorn(graceful_timeout=TIME_LIMIT) as server:
            async with dial(server.address) as client:
                upload = client.request("/digest", body=True)
                download = client.request(f"/data?size={MB}&piece=10000")
                client.h2.send_data(upload.number, b"first")
                client.flush()
                await client.until(lambda: download.body)
                server.ask_to_stop()
                assert await client.answer(download) == pattern(MB)
                assert not server.stopped
                await client.send(upload, b" last")
                assert (await client.answer(upload)).decode() == digest(b"first last")
                await client.gone()
                assert client.goaway == ErrorCodes.NO_ERROR

    async def test_no_more_requests(self, loop):
        """Those that come while the server waits for others are turned down."""
        async with hypercorn(graceful_timeout=TIME_LIMIT) as server:
            async with dial(server.address) as client:
                first = client.request("/digest", body=True)
                await client.ping()
                server.ask_to_stop()
                late = first
                while late.reset is None:  # the shutdown takes some turns to begin
                    late = client.request("/say?word=later")
                    await client.until(lambda late=late: late.ended or late.reset is not None)
                await client.send(first, b"")
                assert (await client.answer(first)).decode() == digest(b"")

    async def test_an_idle_connection_expires(self, loop):
        # The request has to come in that time, also on a busy machine.
        async with hypercorn(keep_alive_timeout=0.5) as server, dial(server.address) as client:
            assert await client.answer(client.request("/say?word=once")) == b"once"
            await client.gone()
