"""WebSockets: uvicorn as the server, the `websockets` library as the client.

The server's loop and the client's are chosen apart, so that each kind meets each.
"""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect as connect_blocking

from tests.support import TIME_LIMIT

from .app import pattern
from .uvicorns import Uvicorn

MB = 1024 * 1024
COMPRESSION = pytest.mark.parametrize("compression", [None, "deflate"], ids=["plain", "deflate"])


def dial(server: Uvicorn, path: str = "/echo", **options) -> connect:
    """Return a client connection to `server`, to be awaited or entered."""
    options = {"max_size": None, "ping_interval": None, "open_timeout": TIME_LIMIT, **options}
    return connect(server.url + path, proxy=None, **options)


async def heard(server: Uvicorn, text: str, times: int = 1) -> None:
    """Wait for the server's word without holding up the client's loop."""
    await asyncio.to_thread(server.heard, text, times)


class TestMessages:
    async def test_text(self, loop, server: Uvicorn):
        async with dial(server) as client:
            for text in "hello", "", "ünïcödé \N{CRAB}", "x" * 70_000:
                await client.send(text)
                assert await client.recv() == text

    @COMPRESSION
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MB, 10 * MB])
    async def test_binary(self, loop, server: Uvicorn, size, compression):
        async with dial(server, compression=compression) as client:
            await client.send(pattern(size))
            assert await client.recv() == pattern(size)

    async def test_fragments(self, loop, server: Uvicorn):
        async with dial(server) as client:
            await client.send([b"in ", b"several ", b"frames"])
            assert await client.recv() == b"in several frames"

    async def test_many_in_flight(self, loop, server: Uvicorn):
        messages = [str(number) for number in range(500)]
        async with dial(server) as client:

            async def send() -> None:
                for message in messages:
                    await client.send(message)

            sending = asyncio.create_task(send())
            assert [await client.recv() for _ in messages] == messages
            await sending

    async def test_a_burst_on_a_slow_client(self, loop, server: Uvicorn):
        """The client's queue is one message long: it stops reading and the server has to wait."""
        async with dial(server, "/burst?count=200&size=50000", max_queue=1) as client:
            for number in range(200):
                message = await client.recv()
                assert message == number.to_bytes(4, "big") + pattern(50_000 - 4)
                await asyncio.sleep(0)
            with pytest.raises(ConnectionClosedOK):
                await client.recv()

    async def test_ping(self, loop, server: Uvicorn):
        async with dial(server) as client:
            for _ in range(10):
                assert await (await client.ping()) >= 0

    async def test_many_clients(self, loop, server: Uvicorn):
        async def client(number: int) -> list[str | bytes]:
            async with dial(server) as connection:
                answers = []
                for step in range(10):
                    await connection.send(f"{number}.{step}")
                    answers.append(await connection.recv())
                return answers

        answers = await asyncio.gather(*map(client, range(40)))
        assert answers == [[f"{number}.{step}" for step in range(10)] for number in range(40)]

    def test_a_client_without_a_loop(self, server: Uvicorn):
        options = {"max_size": None, "ping_interval": None, "open_timeout": TIME_LIMIT}
        with connect_blocking(server.url + "/echo", proxy=None, **options) as client:
            client.send(pattern(MB))
            assert client.recv(TIME_LIMIT) == pattern(MB)


class TestHandshake:
    async def test_subprotocol(self, loop, server: Uvicorn):
        async with dial(server, subprotocols=["chat", "other"]) as client:
            assert client.subprotocol == "chat"

    async def test_addresses(self, loop, server: Uvicorn):
        async with dial(server) as client:
            assert client.remote_address == server.address
            assert client.local_address[0] == "127.0.0.1"

    async def test_turned_down(self, loop, server: Uvicorn):
        with pytest.raises(InvalidStatus) as caught:
            await dial(server, "/forbidden")
        assert caught.value.response.status_code == 403

    async def test_not_a_websocket(self, loop, server: Uvicorn):
        with server.http() as connection:  # an upgrade to something else is a plain request
            connection.request(
                "GET", "/say?word=plain", headers={"connection": "upgrade", "upgrade": "nothing"}
            )
            assert connection.getresponse().read() == b"plain"
        server.heard("WARNING:  Unsupported upgrade request.")
        server.forget()


class TestClosing:
    @pytest.mark.parametrize(
        "code, reason", [(1000, ""), (1001, "going"), (3000, "registered"), (4999, "höhö")]
    )
    async def test_by_the_client(self, loop, server: Uvicorn, code, reason):
        async with dial(server) as client:
            await client.close(code, reason)
            assert (client.close_code, client.close_reason) == (code, reason)
            await heard(server, f"app: websocket closed {code} {reason}")

    @pytest.mark.parametrize(
        "code, reason, error",
        [
            (1000, "done", ConnectionClosedOK),
            (1001, "going", ConnectionClosedOK),
            (1011, "failed", ConnectionClosedError),
            (4000, "own", ConnectionClosedError),
        ],
    )
    async def test_by_the_server(self, loop, server: Uvicorn, code, reason, error):
        async with dial(server) as client:
            await client.send(f"close {code} {reason}")
            with pytest.raises(error) as caught:
                await client.recv()
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)
            await client.wait_closed()
        await heard(server, f"app: websocket closed {code}")

    async def test_by_abort(self, loop, server: Uvicorn):
        client = await dial(server)
        client.transport.abort()
        await client.wait_closed()
        assert client.close_code == 1006
        await heard(server, "app: websocket closed 100")  # 1005 or 1006, by uvicorn's version

    async def test_by_abort_during_a_burst(self, loop, server: Uvicorn):
        client = await dial(server, "/burst?count=2000&size=100000", max_queue=1)
        await client.recv()
        client.transport.abort()
        await client.wait_closed()
        assert client.close_code == 1006
        await heard(server, "app: burst cut")
