"""The `websockets` library as server and as client, on one loop, without a framework around it."""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve, unix_serve
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidMessage,
    InvalidStatus,
)
from websockets.sync.client import connect as connect_blocking

from tests.support import TIME_LIMIT, hops, listen, until

from .app import pattern

pytestmark = pytest.mark.usefixtures("silence")

VERSION = int(metadata.version("websockets").split(".")[0])
MB = 1024 * 1024
COMPRESSION = pytest.mark.parametrize("compression", [None, "deflate"], ids=["plain", "deflate"])


@asynccontextmanager
async def serving(handler: Any, **options: Any) -> AsyncIterator[str]:
    """Serve WebSockets on the running loop; yield the URL."""
    options = {"max_size": None, "ping_interval": None, **options}
    async with serve(handler, "127.0.0.1", 0, **options) as served:
        yield url_of(served)


def url_of(server: Server) -> str:
    """Return where `server` is."""
    host, port = next(iter(server.sockets)).getsockname()
    return f"ws://{host}:{port}"


def dial(url: str, **options: Any) -> connect:
    """Return a client connection, to be awaited or entered."""
    options = {"max_size": None, "ping_interval": None, "open_timeout": TIME_LIMIT, **options}
    return connect(url, proxy=None, **options)


async def echo(connection: ServerConnection) -> None:
    """Send every message back until the client closes."""
    with contextlib.suppress(ConnectionClosedError):
        async for message in connection:
            await connection.send(message)


class Waiting:
    """A handler that waits for the end of its connections, and tells what it was in `ends`."""

    def __init__(self) -> None:
        self.connections: list[ServerConnection] = []
        self.ends: asyncio.Queue[ConnectionClosed] = asyncio.Queue()

    async def __call__(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        await connection.send("hello")
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await connection.recv()
        self.ends.put_nowait(caught.value)


class TestMessages:
    @COMPRESSION
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MB, 10 * MB])
    async def test_binary(self, loop, compression, size):
        async with serving(echo, compression=compression) as url:
            async with dial(url, compression=compression) as client:
                await client.send(pattern(size))
                assert await client.recv() == pattern(size)

    async def test_text(self, loop):
        async with serving(echo) as url, dial(url) as client:
            for text in "", "hello", "ünïcödé \N{CRAB}", "\N{CRAB}" * 100_000:
                await client.send(text)
                assert await client.recv() == text

    @pytest.mark.parametrize("size, piece", [(10, 1), (10 * MB, 50_000)])
    async def test_fragments(self, loop, size, piece):
        """Sent in fragments, handed on while they come in, and put together again."""

        async def relay(connection: ServerConnection) -> None:
            await connection.send(connection.recv_streaming())

        async def fragments() -> AsyncIterator[bytes]:
            for offset in range(0, size, piece):
                yield pattern(size)[offset : offset + piece]
                if offset % (10 * piece) == 0:
                    await (await client.ping())  # control frames may come in between

        async with serving(relay) as url, dial(url) as client:
            sending = asyncio.create_task(client.send(fragments()))
            assert await client.recv() == pattern(size)
            await sending

    async def test_fragments_as_they_come(self, loop):
        """The next fragment is sent when the one before has come back."""

        async def relay(connection: ServerConnection) -> None:
            await connection.send(connection.recv_streaming())

        turns: asyncio.Queue[str | None] = asyncio.Queue()

        async def fragments() -> AsyncIterator[str]:
            while (fragment := await turns.get()) is not None:
                yield fragment

        async with serving(relay, compression=None) as url:
            async with dial(url, compression=None) as client:
                sending = asyncio.create_task(client.send(fragments()))
                coming = client.recv_streaming()
                for number in range(50):
                    turns.put_nowait(str(number))
                    assert await anext(coming) == str(number)
                turns.put_nowait(None)
                assert "".join([fragment async for fragment in coming]) == ""
                await sending

    async def test_many_in_flight(self, loop):
        async def send() -> None:
            for number in range(2000):
                await client.send(str(number))

        async with serving(echo) as url, dial(url) as client:
            sending = asyncio.create_task(send())
            assert [await client.recv() for _ in range(2000)] == [str(n) for n in range(2000)]
            await sending

    async def test_recv_is_cancelled(self, loop):
        """No message is lost with a `recv` that is given up, however late."""
        async with serving(echo) as url, dial(url) as client:
            for turns in range(15):
                receiving = asyncio.create_task(client.recv())
                await client.send(str(turns))
                await hops(turns)
                if receiving.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await receiving
                    assert await client.recv() == str(turns)
                else:
                    assert await receiving == str(turns)


class TestManyClients:
    async def test_echo(self, loop):
        async def client(url: str, number: int) -> list[str | bytes]:
            async with dial(url) as connection:
                await asyncio.gather(*(connection.send(f"{number}.{step}") for step in range(10)))
                return [await connection.recv() for _ in range(10)]

        async with serving(echo) as url:
            answers = await asyncio.gather(*(client(url, number) for number in range(100)))
        assert answers == [[f"{number}.{step}" for step in range(10)] for number in range(100)]

    async def test_broadcast(self, loop):
        waiting = Waiting()
        async with serving(waiting) as url, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(dial(url)) for _ in range(50)]
            for client in clients:
                assert await client.recv() == "hello"
            for number in range(20):
                broadcast(waiting.connections, pattern(10_000 + number))
            for client in clients:
                for number in range(20):
                    assert await client.recv() == pattern(10_000 + number)

    async def test_in_a_thread(self, loop):
        def client(url: str) -> None:
            with connect_blocking(url, proxy=None, max_size=None) as connection:
                connection.send(pattern(MB))
                answers.append(connection.recv(TIME_LIMIT))

        answers: list[str | bytes] = []
        async with serving(echo) as url:
            thread = threading.Thread(target=client, args=(url,))
            thread.start()
            await asyncio.to_thread(thread.join)
        assert answers == [pattern(MB)]


class TestPings:
    async def test_from_both_ends(self, loop):
        waiting = Waiting()
        async with serving(waiting) as url, dial(url) as client:
            assert await client.recv() == "hello"
            receiving = asyncio.create_task(client.recv())  # a client answers while it reads
            for end in client, waiting.connections[0]:
                for number in range(20):
                    assert await (await end.ping(str(number))) >= 0
            receiving.cancel()

    async def test_answered_together(self, loop):
        async with serving(echo) as url, dial(url) as client:
            pongs = [await client.ping() for _ in range(20)]
            await pongs[-1]  # acknowledges those before
            assert all(pong.done() for pong in pongs)

    async def test_kept_alive(self, loop):
        async with serving(echo, ping_interval=0.01) as url:
            async with dial(url, ping_interval=0.01) as client:
                for number in range(50):
                    await client.send(str(number))
                    assert await client.recv() == str(number)
                    await (await client.ping())

    async def test_not_answered(self, loop):
        """The peer reads nothing any more: the server closes with 1011."""
        waiting = Waiting()
        async with serving(
            waiting, ping_interval=0.01, ping_timeout=0.01, close_timeout=0.01
        ) as url:
            client = await dial(url)
            client.transport.pause_reading()
            end = await waiting.ends.get()
            assert (end.sent.code, end.rcvd) == (1011, None)
            client.transport.abort()
            await client.wait_closed()


class TestBackpressure:
    async def test_a_client_that_does_not_read(self, loop):
        """The server stops sending until the client reads again; what it holds is bounded."""
        sent = 0
        sender: ServerConnection

        async def burst(connection: ServerConnection) -> None:
            nonlocal sent, sender
            sender = connection
            for number in range(1000):
                await connection.send(number.to_bytes(4, "big") + pattern(50_000))
                sent += 1

        options = {"compression": None, "max_queue": 1}
        async with serving(burst, **options) as url, dial(url, **options) as client:
            await until(lambda: not client.transport.is_reading() and sender.paused)
            assert 0 < sent < 1000
            assert sender.transport.get_write_buffer_size() < 200_000
            for number in range(1000):
                assert await client.recv() == number.to_bytes(4, "big") + pattern(50_000)
            with pytest.raises(ConnectionClosedOK):
                await client.recv()
        assert sent == 1000

    async def test_both_ends_send_and_read(self, loop):
        async def exchange(connection: Any) -> None:
            async def send() -> None:
                for number in range(300):
                    await connection.send(pattern(30_000 + number))

            sending = asyncio.create_task(send())
            for number in range(300):
                assert await connection.recv() == pattern(30_000 + number)
            await sending

        served = asyncio.Event()

        async def handler(connection: ServerConnection) -> None:
            await exchange(connection)
            served.set()

        async with serving(handler, compression=None, max_queue=1) as url:
            async with dial(url, compression=None, max_queue=1) as client:
                await exchange(client)
                await served.wait()


class TestClosing:
    @pytest.mark.parametrize(
        "code, reason", [(1000, ""), (1001, "going"), (3000, "registered"), (4999, "höhö")]
    )
    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_codes(self, loop, side, code, reason):
        waiting = Waiting()
        async with serving(waiting) as url, dial(url) as client:
            assert await client.recv() == "hello"
            closing = client if side == "client" else waiting.connections[0]
            await closing.close(code, reason)
            end = await waiting.ends.get()
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
            for error in end, caught.value:
                assert (error.rcvd.code, error.rcvd.reason) == (code, reason)
                assert error.rcvd == error.sent
            assert end.rcvd_then_sent is (side == "client")

    async def test_at_the_same_moment(self, loop):
        waiting = Waiting()
        async with serving(waiting) as url, dial(url) as client:
            assert await client.recv() == "hello"
            await asyncio.gather(client.close(4001), waiting.connections[0].close(4002))
            assert client.close_code in {4001, 4002}
            assert waiting.connections[0].close_code in {4001, 4002}

    async def test_with_data_in_flight(self, loop):
        """What was sent before the closing frame arrives before it."""

        async def burst(connection: ServerConnection) -> None:
            for _ in range(20):
                await connection.send(pattern(MB))
            await connection.close(4000)

        async with serving(burst, compression=None) as url:
            async with dial(url, compression=None) as client:
                for _ in range(20):
                    assert await client.recv() == pattern(MB)
                with pytest.raises(ConnectionClosedError) as caught:
                    await client.recv()
                assert caught.value.rcvd.code == 4000

    async def test_a_message_that_is_too_large(self, loop):
        waiting = Waiting()
        async with serving(waiting, max_size=1000) as url, dial(url) as client:
            assert await client.recv() == "hello"
            await client.send(bytes(1001))
            with pytest.raises(ConnectionClosedError) as caught:
                await client.recv()
            assert caught.value.rcvd.code == 1009

    async def test_the_handler_fails(self, loop, caplog):
        async def failing(connection: ServerConnection) -> None:
            raise RuntimeError("in the handler")

        async with serving(failing) as url, dial(url) as client:
            with pytest.raises(ConnectionClosedError) as caught:
                await client.recv()
            assert caught.value.rcvd.code == 1011
        assert [record.getMessage() for record in caplog.records if record.exc_info] == [
            "connection handler failed"
        ]
        caplog.clear()


class TestAbruptEnds:
    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_abort(self, loop, side):
        waiting = Waiting()
        async with serving(waiting) as url:
            client = await dial(url)
            assert await client.recv() == "hello"
            (client if side == "client" else waiting.connections[0]).transport.abort()
            with pytest.raises(ConnectionClosedError) as caught:
                await client.recv()
            for error in caught.value, await waiting.ends.get():
                assert (error.rcvd, error.sent) == (None, None)
            assert client.close_code == waiting.connections[0].close_code == 1006

    @pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
    @pytest.mark.parametrize("sent", [b"", b"\x82\xff" + bytes(5)], ids=["idle", "in_a_frame"])
    async def test_a_bare_socket_leaves(self, loop, sent, reset):
        waiting = Waiting()
        async with serving(waiting) as url:
            host, _, port = url.removeprefix("ws://").partition(":")
            await asyncio.to_thread(self.leave, (host, int(port)), sent, reset)
            end = await waiting.ends.get()
            assert end.rcvd is None
            assert waiting.connections[0].close_code == 1006

    @staticmethod
    def leave(address: tuple[str, int], sent: bytes, reset: bool) -> None:
        """Make the handshake, read the greeting, send `sent` and leave."""
        with socket.create_connection(address, TIME_LIMIT) as sock, sock.makefile("rb") as file:
            sock.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert file.readline().startswith(b"HTTP/1.1 101 ")
            while file.readline() != b"\r\n":
                pass
            assert file.read(7) == b"\x81\x05hello"
            sock.sendall(sent)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def test_in_the_middle_of_a_burst(self, loop):
        left: asyncio.Future[ConnectionClosed] = loop.create_future()

        async def burst(connection: ServerConnection) -> None:
            with pytest.raises(ConnectionClosed) as caught:
                while True:
                    await connection.send(pattern(MB))
            left.set_result(caught.value)

        async with serving(burst, compression=None) as url:
            client = await dial(url, compression=None)
            await client.recv()
            client.transport.abort()
            assert (await left).rcvd is None

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\x16\x03\x01\x00\n"])
    async def test_no_websocket_server(self, loop, answer):
        async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(answering, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            with pytest.raises((InvalidMessage, InvalidStatus)):
                await dial(f"ws://{host}:{port}")

    async def test_nobody_listens(self, loop):
        with listen() as listener:
            host, port = listener.getsockname()
        with pytest.raises(ConnectionRefusedError):
            await dial(f"ws://{host}:{port}")

    async def test_the_handshake_takes_too_long(self, loop):
        with listen() as listener:  # the kernel accepts, and nobody answers
            host, port = listener.getsockname()
            with pytest.raises(asyncio.TimeoutError):
                await dial(f"ws://{host}:{port}", open_timeout=0.02)

    @pytest.mark.skipif(VERSION < 17, reason="websockets 16 leaves the connection open")
    async def test_cancelled_while_connecting(self, loop):
        async with serving(echo) as url:
            for turns in range(12):
                connecting = asyncio.ensure_future(self.connect(url))
                await hops(turns)
                if connecting.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await connecting
                else:
                    await (await connecting).close()

    @staticmethod
    async def connect(url: str) -> ClientConnection:
        return await dial(url)


class TestServer:
    async def test_goes_away(self, loop):
        clients: list[ClientConnection] = []
        async with serving(echo) as url:
            for _ in range(5):
                clients.append(await dial(url))
                await clients[-1].send("hello")
                assert await clients[-1].recv() == "hello"
        for client in clients:
            with pytest.raises(ConnectionClosedOK):
                await client.recv()
            await client.wait_closed()
            assert client.close_code == 1001
        with pytest.raises(ConnectionRefusedError):
            await dial(url)

    async def test_waits_for_its_connections(self, loop):
        server = await serve(echo, "127.0.0.1", 0)
        url = url_of(server)
        async with dial(url) as client:
            server.close(close_connections=False)
            await hops(3)
            with pytest.raises(ConnectionRefusedError):
                await dial(url)
            waiting = asyncio.create_task(server.wait_closed())
            await client.send("still here")
            assert await client.recv() == "still here"
            assert not waiting.done()
        await waiting

    async def test_serve_forever_is_cancelled(self, loop):
        server = await serve(echo, "127.0.0.1", 0)
        assert server.is_serving()
        serving = asyncio.create_task(server.serve_forever())
        async with dial(url_of(server)) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert not server.is_serving()
            server.close()  # before version 17, the connections stay open until then
            with pytest.raises(ConnectionClosedOK):
                await client.recv()
            await server.wait_closed()

    async def test_unix_socket(self, loop, tmp_path):
        path = str(tmp_path / "socket")
        async with unix_serve(echo, path, max_size=None):
            async with unix_connect(path, max_size=None) as client:
                await client.send(pattern(MB))
                assert await client.recv() == pattern(MB)

    async def test_turns_a_request_down(self, loop):
        def guard(connection: ServerConnection, request: Any) -> Any:
            if request.path != "/open":
                return connection.respond(http.HTTPStatus.FORBIDDEN, "no")
            return None

        async with serving(echo, process_request=guard) as url:
            with pytest.raises(InvalidStatus) as caught:
                await dial(f"{url}/closed")
            assert caught.value.response.status_code == 403
            async with dial(f"{url}/open") as client:
                await client.send("yes")
                assert await client.recv() == "yes"

    async def test_comes_back(self, loop):
        """A client that iterates over its connections gets a new one when the server is back."""

        async def greet(connection: ServerConnection) -> None:
            await connection.send("hello")
            await connection.wait_closed()

        server = await serve(greet, "127.0.0.1", 0)
        url, address = url_of(server), next(iter(server.sockets)).getsockname()
        greetings = 0
        async for client in dial(url):
            with contextlib.suppress(ConnectionClosed):
                async for message in client:
                    assert message == "hello"
                    greetings += 1
                    if greetings < 3:
                        server.close()
                        await server.wait_closed()
                        server = await serve(greet, *address)
                    else:
                        break
            if greetings == 3:
                break
        server.close()
        await server.wait_closed()
        await client.wait_closed()
