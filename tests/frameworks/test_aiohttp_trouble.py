"""aiohttp when something goes wrong: timeouts, cancelled requests, peers that leave too early."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator

import aiohttp
import pytest
from aiohttp import ClientTimeout, web

from tests.support import TIME_LIMIT, hops, listen

from .aiohttps import PATIENT, peer, running, say, serving
from .app import pattern

pytestmark = pytest.mark.usefixtures("silence")

SOON = 0.05  # seconds: how long a client waits for what does not come


class Stuck:
    """Has a handler that answers when `release` is set, and knows how that was left."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.left: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def wait(self, request: web.Request) -> web.Response:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.left.set_result("cancelled")
            raise
        self.left.set_result("released")
        return web.Response(text="at last")


@contextlib.contextmanager
def full_listener() -> Iterator[tuple[str, int]]:
    """Yield an address to which no connection can be made: the queue of its listener is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # Linux takes one more than it is told
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()


@contextlib.asynccontextmanager
async def raw_server(*pieces: bytes):
    """Answer each request with `pieces`, then nothing; yield the URL and what aborts them all."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        # The client leaves when it likes.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            await reader.read()
        writer.close()

    def abort() -> None:
        for writer in writers:
            writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}/", abort
    finally:
        server.close()
        abort()
        await server.wait_closed()


HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", bytes(500)


class TestTimeouts:
    async def test_total(self, loop):
        stuck = Stuck()
        async with serving(stuck.wait, say, handler_cancellation=True) as url:
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                with pytest.raises(asyncio.TimeoutError):
                    await client.get(f"{url}/wait", timeout=ClientTimeout(total=SOON))
                if stuck.entered.is_set():  # not on a machine that is too busy
                    assert await stuck.left == "cancelled"
                async with client.get(f"{url}/say?word=well") as response:
                    assert await response.text() == "well"

    async def test_total_in_mid_answer(self, loop):
        async with raw_server(*HALF) as (url, _), aiohttp.ClientSession() as client:
            with pytest.raises(asyncio.TimeoutError):
                async with client.get(url, timeout=ClientTimeout(total=SOON)) as response:
                    await response.read()

    async def test_connect_waits_for_a_connection_of_the_pool(self, loop):
        stuck = Stuck()
        timeout = ClientTimeout(total=TIME_LIMIT, connect=SOON)
        async with serving(stuck.wait) as url:
            connector = aiohttp.TCPConnector(limit=1)
            async with aiohttp.ClientSession(connector=connector, timeout=PATIENT) as client:
                first = asyncio.create_task(client.get(f"{url}/wait"))
                await stuck.entered.wait()
                with pytest.raises(aiohttp.ConnectionTimeoutError):
                    await client.get(f"{url}/wait", timeout=timeout)
                stuck.release.set()
                async with await first as response:
                    assert await response.text() == "at last"

    @pytest.mark.parametrize("kind", ["connect", "sock_connect"])
    async def test_nobody_accepts(self, loop, kind):
        with full_listener() as (host, port):
            timeout = ClientTimeout(total=TIME_LIMIT, **{kind: SOON})
            async with aiohttp.ClientSession(timeout=timeout) as client:
                with pytest.raises(aiohttp.ConnectionTimeoutError):
                    await client.get(f"http://{host}:{port}/")

    async def test_sock_read_before_the_answer(self, loop):
        async with raw_server() as (url, _):
            timeout = ClientTimeout(total=TIME_LIMIT, sock_read=SOON)
            async with aiohttp.ClientSession(timeout=timeout) as client:
                with pytest.raises(aiohttp.SocketTimeoutError):
                    await client.get(url)

    async def test_sock_read_in_mid_answer(self, loop):
        async with raw_server(*HALF) as (url, _):
            timeout = ClientTimeout(total=TIME_LIMIT, sock_read=SOON)
            async with aiohttp.ClientSession(timeout=timeout) as client:
                with pytest.raises(aiohttp.SocketTimeoutError):
                    async with client.get(url) as response:
                        await response.read()

    async def test_refused(self, loop):
        with listen() as listener:
            host, port = listener.getsockname()
        async with aiohttp.ClientSession(timeout=PATIENT) as client:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await client.get(f"http://{host}:{port}/")
            assert isinstance(caught.value.os_error, ConnectionRefusedError)


class TestCancelledRequests:
    async def test_while_the_handler_works(self, loop):
        stuck = Stuck()
        async with serving(stuck.wait, peer, handler_cancellation=True) as url:
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                request = asyncio.create_task(client.get(f"{url}/wait"))
                await stuck.entered.wait()
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request
                assert await stuck.left == "cancelled"

    async def test_the_handler_may_go_on(self, loop):
        """As it is when a server does not ask for handlers to be cancelled."""
        stuck = Stuck()
        async with serving(stuck.wait) as url:
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                request = asyncio.create_task(client.get(f"{url}/wait"))
                await stuck.entered.wait()
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request
                stuck.release.set()
                assert await stuck.left == "released"

    async def test_while_connecting(self, loop):
        """After any number of turns; what is left of the connection is closed by the library."""
        async with serving(say) as url:
            for turns in range(12):
                async with aiohttp.ClientSession(timeout=PATIENT) as client:
                    request = asyncio.create_task(client.get(f"{url}/say?word=x"))
                    await hops(turns)
                    if request.cancel():
                        with pytest.raises(asyncio.CancelledError):
                            await request
                    else:
                        assert (await request).status == 200

    async def test_while_nobody_accepts(self, loop):
        with full_listener() as (host, port):
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                request = asyncio.create_task(client.get(f"http://{host}:{port}/"))
                await hops(10)
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request

    async def test_some_of_many(self, loop):
        """The rest get their own answers: no connection is handed on with a stranger's data."""

        async def get(number: int) -> str:
            parameters = {"word": str(number), "turns": "3"}
            async with client.get(f"{url}/say", params=parameters) as response:
                return await response.text()

        async with serving(say) as url:
            connector = aiohttp.TCPConnector(limit=5)
            async with aiohttp.ClientSession(connector=connector, timeout=PATIENT) as client:
                requests = [asyncio.create_task(get(number)) for number in range(200)]
                for request in requests[::3]:
                    await asyncio.sleep(0)
                    request.cancel()
                answers = await asyncio.gather(*requests, return_exceptions=True)
        for number, answer in enumerate(answers):
            assert answer == str(number) or (
                number % 3 == 0 and isinstance(answer, asyncio.CancelledError)
            )

    async def test_in_mid_upload(self, loop):
        began = asyncio.Event()
        errors: asyncio.Queue[BaseException] = asyncio.Queue()

        async def upload(request: web.Request) -> web.Response:
            began.set()
            try:
                await request.read()
            except Exception as error:
                errors.put_nowait(error)
                raise web.HTTPBadRequest from error
            return web.Response()

        async def endless():
            while True:
                yield bytes(1000)
                await asyncio.sleep(0)

        async with serving(upload) as url, aiohttp.ClientSession(timeout=PATIENT) as client:
            request = asyncio.create_task(client.post(f"{url}/upload", data=endless()))
            await began.wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert isinstance(await errors.get(), OSError)


class TestTheClientLeaves:
    @pytest.mark.parametrize("how", ["end", "reset"])
    async def test_in_mid_answer(self, loop, how):
        errors: asyncio.Queue[BaseException] = asyncio.Queue()

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(pattern(65_536))
            except ConnectionError as error:
                errors.put_nowait(error)
            return response

        def client(address: tuple[str, int]) -> None:
            with socket.create_connection(address, TIME_LIMIT) as sock:
                sock.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
                assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")
                if how == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        async with running(endless) as runner:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            await asyncio.to_thread(client, runner.addresses[0])
            assert isinstance(await errors.get(), ConnectionError)

    async def test_the_response_is_closed(self, loop):
        """The client stops reading a body that it has not finished."""
        gone = asyncio.Event()

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                while True:
                    await response.write(pattern(65_536))
            gone.set()
            return response

        async with serving(endless) as url, aiohttp.ClientSession(timeout=PATIENT) as client:
            response = await client.get(f"{url}/endless")
            assert await response.content.readexactly(1000) == pattern(65_536)[:1000]
            response.close()
            await gone.wait()


class TestTheServerLeaves:
    async def test_before_the_answer(self, loop):
        async def rude(request: web.Request) -> web.Response:
            request.transport.abort()
            return web.Response()

        async with serving(rude) as url, aiohttp.ClientSession(timeout=PATIENT) as client:
            # A GET is tried again once; a POST must not be.
            for method in "GET", "POST":
                with pytest.raises(aiohttp.ClientConnectionError):
                    await client.request(method, f"{url}/rude")

    async def test_in_mid_answer(self, loop):
        async with raw_server(*HALF) as (url, abort):
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                async with client.get(url) as response:
                    assert await response.content.readexactly(500) == bytes(500)
                    abort()
                    with pytest.raises(aiohttp.ClientError):
                        await response.read()

    async def test_not_http(self, loop):
        async with raw_server(b"SSH-2.0-OpenSSH\r\n\r\n") as (url, _):
            async with aiohttp.ClientSession(timeout=PATIENT) as client:
                with pytest.raises(aiohttp.ClientResponseError):
                    await client.get(url)
