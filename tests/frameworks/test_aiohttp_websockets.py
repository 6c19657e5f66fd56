"""aiohttp's WebSockets, server and client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import ClientWSTimeout, WSCloseCode, WSMsgType, web

from tests.support import TIME_LIMIT, until

from .aiohttps import MB, PATIENT, say, serving
from .app import pattern

pytestmark = pytest.mark.usefixtures("silence")

COMPRESSION = pytest.mark.parametrize("compress", [0, 15], ids=["plain", "deflate"])


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Send every message back; the text "close CODE REASON" makes the server close."""
    socket = web.WebSocketResponse(max_msg_size=0, protocols=["chat"])
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.data.startswith("close "):
            _, code, reason = message.data.split(" ", 2)
            await socket.close(code=int(code), message=reason.encode())
        else:
            await socket.send_str(message.data)
    return socket


class Listener:
    """Has a handler that greets and then only listens; its close codes are in `ends`."""

    def __init__(self) -> None:
        self.ends: asyncio.Queue[int | None] = asyncio.Queue()

    async def listen(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        async for _ in socket:
            pass
        self.ends.put_nowait(socket.close_code)
        return socket


@asynccontextmanager
async def dial(handler=echo, **options):
    """Yield a connection to a server with `handler`."""
    options = {"max_msg_size": 0, "timeout": ClientWSTimeout(ws_close=TIME_LIMIT), **options}
    async with serving(handler, say) as url, aiohttp.ClientSession(timeout=PATIENT) as session:
        async with session.ws_connect(f"{url}/{handler.__name__}", **options) as client:
            yield client


class TestMessages:
    async def test_text(self, loop):
        async with dial() as client:
            for text in "hello", "", "ünïcödé \N{CRAB}", "x" * 70_000:
                await client.send_str(text)
                assert await client.receive_str() == text

    @COMPRESSION
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 10 * MB])
    async def test_binary(self, loop, size, compress):
        async with dial(compress=compress) as client:
            await client.send_bytes(pattern(size))
            assert await client.receive_bytes() == pattern(size)

    async def test_many_in_flight(self, loop):
        async def send() -> None:
            for number in range(1000):
                await client.send_str(str(number))

        async with dial() as client:
            sending = asyncio.create_task(send())
            assert [await client.receive_str() for _ in range(1000)] == [
                str(number) for number in range(1000)
            ]
            await sending

    async def test_many_clients(self, loop):
        async def client(number: int) -> list[str]:
            async with session.ws_connect(f"{url}/echo") as connection:
                answers = []
                for step in range(10):
                    await connection.send_str(f"{number}.{step}")
                    answers.append(await connection.receive_str())
                return answers

        async with serving(echo) as url, aiohttp.ClientSession(timeout=PATIENT) as session:
            answers = await asyncio.gather(*map(client, range(60)))
        assert answers == [[f"{number}.{step}" for step in range(10)] for number in range(60)]

    async def test_subprotocol(self, loop):
        async with dial(protocols=["other", "chat"]) as client:
            assert client.protocol == "chat"

    async def test_pings_by_hand(self, loop):
        async with dial(autoping=False) as client:
            for number in range(10):
                await client.ping(str(number).encode())
                message = await client.receive()
                assert (message.type, message.data) == (WSMsgType.PONG, str(number).encode())

    @pytest.mark.parametrize("answered", [True, False])
    async def test_heartbeat(self, loop, answered):
        """While it is answered the connection lives on; else it is given up."""
        pinged = asyncio.Event()

        async def pong(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse(autoping=False)
            await socket.prepare(request)
            async for message in socket:
                if message.type is WSMsgType.PING:
                    pinged.set()
                    if answered:
                        await socket.pong(message.data)
                else:
                    await socket.send_str(message.data)
            return socket

        # An answer may take half the interval, also on a busy machine.
        async with dial(pong, heartbeat=1 if answered else 0.02) as client:
            receiving = asyncio.create_task(client.receive())
            await pinged.wait()
            if answered:
                await client.send_str("still here")
                assert (await receiving).data == "still here"
            else:
                assert (await receiving).type is WSMsgType.ERROR
                assert client.close_code == 1006

    async def test_backpressure(self, loop):
        """A server that sends faster than the client reads has to wait, and loses nothing."""
        sent = 0

        async def burst(request: web.Request) -> web.WebSocketResponse:
            nonlocal sent
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            for number in range(500):
                await socket.send_bytes(number.to_bytes(4, "big") + pattern(50_000))
                sent += 1
            await socket.close()
            return socket

        async with dial(burst) as client:
            transport = client._response.connection.transport
            await until(lambda: not transport.is_reading())
            for number in range(500):
                assert await client.receive_bytes() == number.to_bytes(4, "big") + pattern(50_000)
            assert (await client.receive()).type is WSMsgType.CLOSE
            assert sent == 500


class TestClosing:
    @pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "going"), (4999, "höhö")])
    async def test_by_the_client(self, loop, code, reason):
        listener = Listener()
        async with dial(listener.listen) as client:
            assert await client.receive_str() == "hello"
            assert await client.close(code=code, message=reason.encode())
            assert client.closed
            assert await listener.ends.get() == code

    @pytest.mark.parametrize("code, reason", [(1000, "done"), (1011, "failed"), (4000, "höhö")])
    async def test_by_the_server(self, loop, code, reason):
        async with dial() as client:
            await client.send_str(f"close {code} {reason}")
            message = await client.receive()
            assert message.type is WSMsgType.CLOSE
            assert (message.data, message.extra) == (code, reason)
            assert (await client.receive()).type is WSMsgType.CLOSED

    async def test_the_client_is_gone(self, loop):
        listener = Listener()
        async with dial(listener.listen) as client:
            assert await client.receive_str() == "hello"
            client._response.connection.transport.abort()
            assert await listener.ends.get() == 1006
            assert (await client.receive()).type in {WSMsgType.CLOSED, WSMsgType.ERROR}

    async def test_the_server_is_gone(self, loop):
        async def rude(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.receive()
            request.transport.abort()
            return socket

        async with dial(rude) as client:
            await client.send_str("hello")
            assert (await client.receive()).type in {WSMsgType.CLOSED, WSMsgType.ERROR}
            assert client.close_code == 1006

    async def test_a_message_that_is_too_large(self, loop):
        async def small(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse(max_msg_size=1000)
            await socket.prepare(request)
            assert (await socket.receive()).type is WSMsgType.ERROR
            return socket

        async with dial(small) as client:
            await client.send_bytes(bytes(1001))
            message = await client.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, WSCloseCode.MESSAGE_TOO_BIG)

    async def test_receive_times_out_and_is_cancelled(self, loop):
        async with dial() as client:
            with pytest.raises(asyncio.TimeoutError):
                await client.receive(timeout=0.01)
            receiving = asyncio.create_task(client.receive())
            await asyncio.sleep(0)
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            await client.send_str("still here")
            assert await client.receive_str() == "still here"

    async def test_no_websocket(self, loop):
        async with serving(say) as url, aiohttp.ClientSession(timeout=PATIENT) as session:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"{url}/say?word=plain")
