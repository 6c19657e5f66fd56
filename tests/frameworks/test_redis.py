"""redis-py's asyncio client with a real Redis server, over TCP and over a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    ConnectionPool,
    Redis,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import ConnectionError, ResponseError, TimeoutError, WatchError

from tests.support import TIME_LIMIT, until

from . import databases
from .app import pattern
from .databases import Database, database

pytestmark = pytest.mark.usefixtures("silence")

MB = 1024 * 1024
CANCELLABLE = {"socket_timeout": None}
"""With a timeout redis-py sends by `asyncio.wait_for`, which before Python 3.12 returns what has
arrived at the same moment as a cancellation, and forgets the cancellation."""


@pytest.fixture(scope="module")
def redis() -> Iterator[Database]:
    """A server for the whole module."""
    with database(databases.Redis) as server:
        yield server


@pytest.fixture(params=["tcp", "unix"])
def transport(request: pytest.FixtureRequest) -> str:
    """How the client connects."""
    return str(request.param)


def pool_of(server: Database, transport: str, kind: Any = ConnectionPool, **options: Any) -> Any:
    """Return a pool of connections that never try anything again, unless `retry` is given."""
    options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": TIME_LIMIT, **options}
    if transport == "tcp":
        place = {"host": "127.0.0.1", "port": server.port}
        return kind(connection_class=Connection, **place, **options)
    return kind(connection_class=UnixDomainSocketConnection, path=str(server.path), **options)


@contextlib.asynccontextmanager
async def dial(server: Database, transport: str, **options: Any) -> AsyncIterator[Redis]:
    """Yield a client with a pool of its own, and an empty database."""
    pool = pool_of(server, transport, **options)
    async with Redis.from_pool(pool) as client:
        await client.flushall()
        yield client


async def connected(client: Redis, **facts: str) -> list[dict[str, str]]:
    """Return the server's list of the clients that have `facts`."""
    return [other for other in await client.client_list() if facts.items() <= dict(other).items()]


class TestCommands:
    @pytest.mark.parametrize("protocol", [2, 3])
    async def test_types(self, loop, redis: Database, transport, protocol):
        async with dial(redis, transport, protocol=protocol, decode_responses=True) as client:
            assert await client.set("text", "ünïcödé \N{CRAB}") is True
            assert await client.get("text") == "ünïcödé \N{CRAB}"
            assert await client.get("nothing") is None
            assert [await client.incr("count") for _ in range(3)] == [1, 2, 3]
            assert await client.hset("hash", mapping={"a": 1, "b": 2}) == 2
            assert await client.hgetall("hash") == {"a": "1", "b": "2"}
            assert await client.rpush("list", *range(5)) == 5
            assert await client.lrange("list", 1, -2) == ["1", "2", "3"]
            assert await client.sadd("set", "x", "y", "x") == 2
            assert await client.smembers("set") == {"x", "y"}
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                await client.incr("list")
            assert await client.get("count") == "3"  # the connection is none the worse

    async def test_many_one_after_the_other(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client:
            for number in range(500):
                await client.set("key", number)
                assert await client.get("key") == str(number).encode()

    @pytest.mark.parametrize("size", [0, 1, 65_536, MB, 10 * MB])
    async def test_values_of_any_size(self, loop, redis: Database, transport, size):
        async with dial(redis, transport) as client:
            await client.set("key", pattern(size))
            assert await client.get("key") == pattern(size)

    async def test_scan(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client:
            keys = {f"key:{number}".encode() for number in range(1000)}
            await client.mset(dict.fromkeys(keys, 1))
            assert {key async for key in client.scan_iter("key:*", count=50)} == keys

    async def test_script(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client:
            double = client.register_script("return redis.call('get', KEYS[1]) * ARGV[1]")
            await client.set("key", 21)
            assert await double(keys=["key"], args=[2]) == 42

    async def test_a_slow_answer(self, loop, redis: Database, transport):
        # All other commands have to be answered in that time, also on a busy machine.
        async with dial(redis, transport, socket_timeout=0.5) as client:
            with pytest.raises(TimeoutError):
                await client.blpop("nothing", timeout=0)
            assert await client.ping()


class TestPipelines:
    async def test_many_commands(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client:
            async with client.pipeline(transaction=False) as pipeline:
                for number in range(10_000):
                    pipeline.set(f"key:{number}", number)
                    pipeline.get(f"key:{number}")
                answers = await pipeline.execute()
        assert answers[0::2] == [True] * 10_000
        assert answers[1::2] == [str(number).encode() for number in range(10_000)]

    async def test_large_values(self, loop, redis: Database, transport):
        """Both directions are full at the same time: neither side may wait for the other."""
        async with dial(redis, transport) as client:
            async with client.pipeline(transaction=False) as pipeline:
                for number in range(20):
                    pipeline.set("key", pattern(MB + number))
                    pipeline.get("key")
                answers = await pipeline.execute()
        assert answers[1::2] == [pattern(MB + number) for number in range(20)]

    async def test_an_error_among_them(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client:
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.set("key", "text").incr("key").get("key")
                first, error, last = await pipeline.execute(raise_on_error=False)
        assert (first, last) == (True, b"text")
        assert isinstance(error, ResponseError)

    async def test_transactions(self, loop, redis: Database, transport):
        async def increment() -> None:
            async with client.pipeline() as pipeline:
                while True:
                    with contextlib.suppress(WatchError):
                        await pipeline.watch("count")
                        count = int(await pipeline.get("count") or 0)
                        pipeline.multi()
                        pipeline.set("count", count + 1)
                        await pipeline.execute()
                        return

        async with dial(redis, transport) as client:
            await asyncio.gather(*(increment() for _ in range(20)))
            assert await client.get("count") == b"20"


class TestPublishSubscribe:
    @pytest.mark.parametrize("protocol", [2, 3])
    async def test_messages(self, loop, redis: Database, transport, protocol):
        async def listen() -> list[tuple[bytes, bytes]]:
            got = []
            async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
                await subscriber.subscribe("exact")
                await subscriber.psubscribe("pattern:*")
                ready.release()
                async for message in subscriber.listen():
                    if message["data"] == b"end":
                        return got
                    got.append((message["channel"], message["data"]))
            raise AssertionError("the stream of messages ended")

        ready = asyncio.Semaphore(0)
        async with dial(redis, transport, protocol=protocol) as client:
            listeners = [asyncio.create_task(listen()) for _ in range(5)]
            for _ in listeners:
                await ready.acquire()
            # The subscriptions are sent and not yet confirmed: another connection has to see them.
            while (await client.pubsub_numsub("exact"))[0][1] < 5 or not (
                await client.pubsub_numpat()
            ):
                await asyncio.sleep(0)
            expected = []
            for number in range(200):
                channel = ["exact", f"pattern:{number}"][number % 2]
                await client.publish(channel, number)
                expected.append((channel.encode(), str(number).encode()))
            await client.publish("exact", "end")
            for got in await asyncio.gather(*listeners):
                assert got == expected

    async def test_nothing_to_get(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client, client.pubsub() as subscriber:
            await subscriber.subscribe("channel")
            message = await subscriber.get_message(timeout=TIME_LIMIT)
            assert message["type"] == "subscribe"
            assert await subscriber.get_message(timeout=0.01) is None
            await client.publish("channel", pattern(MB))
            message = await subscriber.get_message(timeout=TIME_LIMIT)
            assert message["data"] == pattern(MB)

    async def test_cancelled(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client, client.pubsub() as subscriber:
            await subscriber.subscribe("channel")
            await subscriber.get_message(timeout=TIME_LIMIT)
            waiting = asyncio.create_task(subscriber.get_message(timeout=None))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await subscriber.unsubscribe("channel")


class TestBlocking:
    async def test_woken_by_a_push(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client:
            waiting = [asyncio.create_task(client.blpop("list", timeout=0)) for _ in range(10)]
            await self.blocked(client, 10)
            await client.rpush("list", *range(10))
            answers = await asyncio.gather(*waiting)
        assert sorted(int(value) for _, value in answers) == list(range(10))

    async def test_cancelled(self, loop, redis: Database, transport):
        """The connection is given up with the answer that it waits for: nothing is lost later."""
        async with dial(redis, transport, **CANCELLABLE) as client:
            for turns in itertools.chain(range(8), [None] * 3):
                waiting = asyncio.create_task(client.blpop("list", timeout=0))
                if turns is None:
                    await self.blocked(client, 1)
                else:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                await self.blocked(client, 0)
                await client.rpush("list", "value")
                assert await client.lpop("list") == b"value"

    async def test_some_of_many(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client:
            waiting = [asyncio.create_task(client.blpop("list", timeout=0)) for _ in range(20)]
            await self.blocked(client, 20)
            for task in waiting[::2]:
                task.cancel()
            await asyncio.wait(waiting[::2])
            await self.blocked(client, 10)
            await client.rpush("list", *range(10))
            answers = await asyncio.gather(*waiting[1::2])
            assert {int(value) for _, value in answers} == set(range(10))
            assert await client.llen("list") == 0

    async def test_the_server_gives_up(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client:
            assert await client.blpop("nothing", timeout=0.01) is None

    @staticmethod
    async def blocked(client: Redis, count: int) -> None:
        """Wait until `count` clients wait in a blocking command."""
        while (await client.info("clients"))["blocked_clients"] != count:
            await asyncio.sleep(0)


class TestPools:
    async def test_as_many_connections_as_tasks(self, loop, redis: Database, transport):
        async with dial(redis, transport, client_name="many") as client:
            numbers = await asyncio.gather(*(client.incr("count") for _ in range(50)))
            assert sorted(numbers) == list(range(1, 51))
            assert len(await connected(client, name="many")) == 50

    async def test_tasks_that_wait_for_a_connection(self, loop, redis: Database, transport):
        options = {"max_connections": 5, "timeout": TIME_LIMIT, "client_name": "few"}
        async with dial(redis, transport, kind=BlockingConnectionPool, **options) as client:
            numbers = await asyncio.gather(*(client.incr("count") for _ in range(100)))
            assert sorted(numbers) == list(range(1, 101))
            assert len(await connected(client, name="few")) == 5

    async def test_no_connection_is_free(self, loop, redis: Database, transport):
        options = {"max_connections": 1, "timeout": 0.01}
        async with dial(redis, transport, kind=BlockingConnectionPool, **options) as client:
            waiting = asyncio.create_task(client.blpop("nothing", timeout=0))
            await until(lambda: not client.connection_pool.can_get_connection())
            with pytest.raises(ConnectionError, match="No connection available"):
                await client.ping()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await client.ping()

    async def test_cancelled_while_connecting(self, loop, redis: Database, transport):
        for turns in range(12):
            async with dial(redis, transport, **CANCELLABLE) as client:
                await client.connection_pool.disconnect()
                command = asyncio.create_task(client.ping())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if command.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await command
                assert await client.ping()


class TestLostConnections:
    async def test_closed_by_the_server(self, loop, redis: Database, transport):
        options = {"retry": Retry(NoBackoff(), 1)}  # over a connection that replaces the dead one
        async with dial(redis, transport, **options) as client, dial(redis, transport) as other:
            for _ in range(10):
                await client.ping()
                await other.client_kill_filter(skipme=True, _type="normal")
                assert await client.ping()

    async def test_closed_while_waiting(self, loop, redis: Database, transport):
        async with dial(redis, transport) as client, dial(redis, transport) as other:
            waiting = asyncio.create_task(client.blpop("nothing", timeout=0))
            await TestBlocking.blocked(other, 1)
            await other.client_kill_filter(skipme=True, _type="normal")
            with pytest.raises(ConnectionError):
                await waiting
            assert await client.ping()

    async def test_the_server_is_killed_and_comes_back(self, loop, transport):
        with database(databases.Redis) as server:
            async with dial(server, transport) as client, client.pubsub() as subscriber:
                await subscriber.subscribe("channel")
                await subscriber.get_message(timeout=TIME_LIMIT)
                waiting = asyncio.create_task(client.blpop("nothing", timeout=0))
                await TestBlocking.blocked(client, 1)
                await asyncio.to_thread(server.stop)
                with pytest.raises(ConnectionError):
                    await waiting
                for _ in range(3):
                    with pytest.raises(ConnectionError):
                        await client.ping()
                await asyncio.to_thread(server.restart)
                assert await client.ping()
                with pytest.raises(ConnectionError):
                    await subscriber.get_message(timeout=TIME_LIMIT)
                # It connects and subscribes again.
                message = await subscriber.get_message(timeout=TIME_LIMIT)
                assert (message["type"], message["channel"]) == ("subscribe", b"channel")
                await client.publish("channel", "again")
                message = await subscriber.get_message(timeout=TIME_LIMIT)
                assert message["data"] == b"again"

    async def test_tried_again_until_the_server_is_back(self, loop, transport):
        with database(databases.Redis) as server:
            attempts = 0

            class Backoff(ConstantBackoff):
                def compute(self, failures: int) -> float:
                    nonlocal attempts
                    attempts += 1
                    return super().compute(failures)

            retry = Retry(Backoff(0.01), 100_000)
            async with dial(server, transport, retry=retry) as client:
                await client.ping()
                await asyncio.to_thread(server.stop)
                pings = [asyncio.create_task(client.ping()) for _ in range(10)]
                await until(lambda: attempts >= 30)
                await asyncio.to_thread(server.restart)
                assert await asyncio.gather(*pings) == [True] * 10
