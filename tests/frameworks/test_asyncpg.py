"""asyncpg with a real PostgreSQL, over TCP and over a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import functools
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from tests.support import TIME_LIMIT, hops

from . import databases
from .app import pattern
from .databases import Database, database

pytestmark = pytest.mark.usefixtures("silence")

MB = 1024 * 1024
FOREVER = "SELECT pg_sleep(3600)"
NAP = "SELECT pg_sleep(2)"
"""A query to be cancelled that may not have begun: PostgreSQL then forgets the cancellation."""
LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)
"""What a connection that ended under a query raises; it depends on what came in first."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Database]:
    """A server for the whole module."""
    with database(databases.Postgres) as server:
        yield server


@pytest.fixture(params=["tcp", "unix"])
def place(request: pytest.FixtureRequest, postgres: Database) -> dict[str, Any]:
    """How the client connects."""
    facts = {"user": "tester", "database": "postgres", "port": postgres.port, "timeout": TIME_LIMIT}
    if request.param == "unix":
        return {"host": str(postgres.path.parent), **facts}
    return {"host": "127.0.0.1", "password": databases.PASSWORD, "ssl": False, **facts}


@contextlib.asynccontextmanager
async def dial(place: dict[str, Any], **options: Any) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection, closed behind the block."""
    connection = await asyncpg.connect(**place, **options)
    try:
        yield connection
    finally:
        await connection.close()


async def busy(observer: asyncpg.Connection, connections: int) -> None:
    """Wait until that many other connections sleep in a query: one that begins is not enough."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    while await observer.fetchval(query) != connections:
        await asyncio.sleep(0)


class TestQueries:
    async def test_types(self, loop, place):
        values = [
            ("int8", -(2**63)),
            ("text", "ünïcödé \N{CRAB}"),
            ("bytea", bytes(range(256))),
            ("numeric", decimal.Decimal("12345.678900")),
            ("timestamptz", datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc)),
            ("uuid", uuid.UUID(int=1 << 100)),
            ("int4[]", [[1, 2], [3, None]]),
            ("jsonb", '{"a": [1, null]}'),
            ("text", None),
        ]
        async with dial(place) as connection:
            for kind, value in values:
                assert await connection.fetchval(f"SELECT $1::{kind}", value) == value
            row = await connection.fetchrow("SELECT 1 AS a, 'x' AS b")
            assert dict(row) == {"a": 1, "b": "x"}

    async def test_many_one_after_the_other(self, loop, place):
        async with dial(place) as connection:
            for number in range(500):
                assert await connection.fetchval("SELECT $1::int", number) == number

    async def test_many_rows(self, loop, place):
        async with dial(place) as connection:
            rows = await connection.fetch("SELECT generate_series(1, 50000)")
            assert [row[0] for row in rows] == list(range(1, 50_001))

    @pytest.mark.parametrize("size", [0, 65_536, 10 * MB])
    async def test_values_of_any_size(self, loop, place, size):
        async with dial(place) as connection:
            assert await connection.fetchval("SELECT $1::bytea", pattern(size)) == pattern(size)

    async def test_executemany(self, loop, place):
        async with dial(place) as connection:
            await connection.execute("CREATE TEMP TABLE numbers (a int, b text)")
            records = [(number, str(number) * 10) for number in range(5000)]
            await connection.executemany("INSERT INTO numbers VALUES ($1, $2)", records)
            rows = await connection.fetch("SELECT * FROM numbers ORDER BY a")
            assert [tuple(row) for row in rows] == records

    async def test_errors(self, loop, place):
        async with dial(place) as connection:
            with pytest.raises(asyncpg.PostgresSyntaxError):
                await connection.execute("SELEKT 1")
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("SELECT 1 / $1::int", 0)
            with pytest.raises(asyncpg.DataError):
                await connection.fetchval("SELECT $1::int", "text")
            assert await connection.fetchval("SELECT 1") == 1

    async def test_prepared_statements(self, loop, place):
        async with dial(place) as connection:
            double = await connection.prepare("SELECT $1::int * 2")
            series = await connection.prepare("SELECT generate_series(1, $1::int)")
            for number in range(100):
                assert await double.fetchval(number) == 2 * number
                assert len(await series.fetch(number)) == number

    async def test_transactions(self, loop, place):
        async with dial(place) as connection:
            await connection.execute("CREATE TEMP TABLE numbers (a int)")
            async with connection.transaction():
                await connection.execute("INSERT INTO numbers VALUES (1)")
                with pytest.raises(RuntimeError):
                    async with connection.transaction():  # a savepoint
                        await connection.execute("INSERT INTO numbers VALUES (2)")
                        raise RuntimeError
            assert [row[0] for row in await connection.fetch("SELECT a FROM numbers")] == [1]

    async def test_two_at_once_on_one_connection(self, loop, place):
        async with dial(place) as connection:
            first = asyncio.create_task(connection.fetchval("SELECT 1"))
            await asyncio.sleep(0)
            with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
                await connection.fetchval("SELECT 2")
            assert await first == 1

    async def test_a_server_that_declines_tls(self, loop, place, postgres):
        """The connection's socket is handed from one transport to another."""
        async with dial({**place, "ssl": "prefer"}) as connection:
            assert await connection.fetchval("SELECT 1") == 1

    async def test_a_wrong_password(self, loop, postgres):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host="127.0.0.1", port=postgres.port, user="tester", password="no", ssl=False
            )


class TestCursors:
    async def test_iteration(self, loop, place):
        async with dial(place) as connection, connection.transaction():
            cursor = connection.cursor("SELECT generate_series(1, 5000)", prefetch=100)
            assert [row[0] async for row in cursor] == list(range(1, 5001))

    async def test_by_hand(self, loop, place):
        async with dial(place) as connection, connection.transaction():
            cursor = await connection.cursor("SELECT generate_series(1, 1000)")
            assert (await cursor.fetchrow())[0] == 1
            assert await cursor.forward(500) == 500
            assert [row[0] for row in await cursor.fetch(3)] == [502, 503, 504]


class TestCopy:
    async def test_records(self, loop, place):
        records = [(number, str(number) * 10) for number in range(20_000)]
        async with dial(place) as connection:
            await connection.execute("CREATE TEMP TABLE numbers (a int, b text)")
            status = await connection.copy_records_to_table("numbers", records=records)
            assert status == "COPY 20000"
            assert await connection.fetchval("SELECT sum(a) FROM numbers") == 199_990_000

    async def test_in_and_out(self, loop, place):
        """10 MB each way, handed over in turns."""

        async def lines() -> AsyncIterator[bytes]:
            for number in range(10_000):
                yield b"%d\t%s\n" % (number, b"x" * 1000)
                if number % 10 == 0:
                    await asyncio.sleep(0)

        got = bytearray()

        async def take(data: bytes) -> None:
            got.extend(data)
            await asyncio.sleep(0)

        async with dial(place) as connection:
            await connection.execute("CREATE TEMP TABLE data (a int, b text)")
            assert await connection.copy_to_table("data", source=lines()) == "COPY 10000"
            query = "SELECT * FROM data ORDER BY a"
            assert await connection.copy_from_query(query, output=take) == "COPY 10000"
        assert got == b"".join([line async for line in lines()])

    async def test_files(self, loop, place, tmp_path):
        path = tmp_path / "table"
        path.write_text("".join(f"{number}\n" for number in range(100_000)))
        async with dial(place) as connection:
            await connection.execute("CREATE TEMP TABLE numbers (a int)")
            assert await connection.copy_to_table("numbers", source=path) == "COPY 100000"
            copy = tmp_path / "copy"
            await connection.copy_from_table("numbers", output=copy)
        assert copy.read_bytes() == path.read_bytes()

    @pytest.mark.parametrize("direction", ["in", "out"])
    async def test_broken_off(self, loop, place, direction):
        async def endless() -> AsyncIterator[bytes]:
            for number in range(1_000_000):
                if number == 1000:
                    raise LookupError("the source")
                yield b"%d\n" % number

        async def refuse(data: bytes) -> None:
            raise LookupError("the sink")

        async with dial(place) as connection:
            await connection.execute("CREATE TEMP TABLE numbers (a int)")
            with pytest.raises(LookupError):
                if direction == "in":
                    await connection.copy_to_table("numbers", source=endless())
                else:
                    query = "SELECT generate_series(1, 1000000)"
                    await connection.copy_from_query(query, output=refuse)
            assert await connection.fetchval("SELECT count(*) FROM numbers") == 0


class TestNotifications:
    async def test_in_order(self, loop, place):
        got: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

        def heard(connection: Any, pid: int, channel: str, payload: str) -> None:
            got.put_nowait((channel, payload))

        async with dial(place) as listener, dial(place) as notifier:
            await listener.add_listener("first", heard)
            await listener.add_listener("second", heard)
            expected = []
            for number in range(500):
                channel = ["first", "second"][number % 2]
                await notifier.execute("SELECT pg_notify($1, $2)", channel, str(number))
                expected.append((channel, str(number)))
            assert [await got.get() for _ in expected] == expected
            await listener.remove_listener("first", heard)
            await notifier.execute("NOTIFY first, 'unheard'")
            await notifier.execute("NOTIFY second, 'heard'")
            assert await got.get() == ("second", "heard")
            await listener.remove_listener("second", heard)

    async def test_to_many(self, loop, place):
        heard = asyncio.Semaphore(0)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(10):
                listener = await stack.enter_async_context(dial(place))
                await listener.add_listener("everyone", lambda *_: heard.release())
                stack.push_async_callback(listener.reset)
            notifier = await stack.enter_async_context(dial(place))
            await notifier.execute("NOTIFY everyone")
            for _ in range(10):
                await heard.acquire()

    async def test_notices(self, loop, place):
        got: asyncio.Queue[str] = asyncio.Queue()
        async with dial(place) as connection:
            connection.add_log_listener(lambda _, message: got.put_nowait(message.message))
            await connection.execute("DO $$ BEGIN RAISE NOTICE 'look'; END $$")
            assert await got.get() == "look"


class TestCancellation:
    """A query is cancelled by a message over a connection of its own."""

    async def test_timeout(self, loop, place):
        async with dial(place) as connection:
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await connection.fetch(NAP, timeout=0.02)
                assert await connection.fetchval("SELECT 1") == 1

    async def test_timeout_of_all_commands(self, loop, place):
        # The goodbye has to be said in that time too, also on a busy machine.
        async with dial(place, command_timeout=0.5) as connection:
            with pytest.raises(asyncio.TimeoutError):
                await connection.execute(NAP)
            assert await connection.fetchval("SELECT 1", timeout=TIME_LIMIT) == 1

    async def test_task(self, loop, place):
        async with dial(place) as connection, dial(place) as observer:
            for _ in range(3):
                query = asyncio.create_task(connection.fetch(FOREVER))
                await busy(observer, 1)
                query.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await query
                assert await connection.fetchval("SELECT 1") == 1
                await busy(observer, 0)

    async def test_at_any_moment(self, loop, place):
        async with dial(place) as connection:
            for turns in range(10):
                query = asyncio.create_task(connection.fetch(NAP))
                await hops(turns)
                query.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await query
                assert await connection.fetchval("SELECT $1::int", turns) == turns

    async def test_while_connecting(self, loop, place):
        for turns in range(15):
            connecting = asyncio.create_task(asyncpg.connect(**place))
            await hops(turns)
            if connecting.cancel():
                with contextlib.suppress(asyncio.CancelledError):
                    await (await connecting).close()
            else:
                await (await connecting).close()
        async with dial(place) as connection:
            assert await connection.fetchval("SELECT 1") == 1

    async def test_in_a_transaction(self, loop, place):
        async with dial(place) as connection:
            with pytest.raises(asyncio.TimeoutError):
                async with connection.transaction():
                    await connection.execute("CREATE TABLE never (a int)")
                    await connection.fetch(NAP, timeout=0.02)
            assert await connection.fetchval("SELECT to_regclass('never')") is None


class TestPools:
    async def test_more_tasks_than_connections(self, loop, place):
        async def work(number: int) -> int:
            async with pool.acquire() as connection:
                pids.add(connection.get_server_pid())
                return await connection.fetchval("SELECT $1::int", number)

        pids: set[int] = set()
        async with asyncpg.create_pool(**place, min_size=2, max_size=5) as pool:
            assert await asyncio.gather(*map(work, range(100))) == list(range(100))
            assert len(pids) == pool.get_size() == 5

    async def test_waiting_for_a_connection(self, loop, place):
        async with asyncpg.create_pool(**place, min_size=1, max_size=1) as pool:
            async with pool.acquire():
                with pytest.raises(asyncio.TimeoutError):
                    await pool.acquire(timeout=0.02)
                waiting = asyncio.ensure_future(pool.acquire())
                await hops(3)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            assert await pool.fetchval("SELECT 1") == 1

    async def test_queries_are_cancelled(self, loop, place):
        async with asyncpg.create_pool(**place, min_size=3, max_size=3) as pool:
            async with dial(place) as observer:
                queries = [asyncio.create_task(pool.fetch(FOREVER)) for _ in range(3)]
                await busy(observer, 3)
                for query in queries:
                    query.cancel()
                results = await asyncio.gather(*queries, return_exceptions=True)
                assert all(isinstance(result, asyncio.CancelledError) for result in results)
                await busy(observer, 0)
            numbers = await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(10)))
            assert numbers == [1] * 10

    async def test_closed_while_in_use(self, loop, place):
        pool = await asyncpg.create_pool(**place, min_size=1, max_size=1)
        connection = await pool.acquire()
        closing = asyncio.create_task(pool.close())
        await hops(3)
        assert not closing.done()
        assert await connection.fetchval("SELECT 1") == 1
        await pool.release(connection)
        await closing
        with pytest.raises(asyncpg.InterfaceError, match="pool is clos"):
            await pool.acquire()


class TestLostConnections:
    async def test_ended_by_the_server(self, loop, place):
        gone = asyncio.Event()
        async with dial(place) as connection, dial(place) as other:
            connection.add_termination_listener(lambda _: gone.set())
            query = asyncio.create_task(connection.fetch(FOREVER))
            await busy(other, 1)
            await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            with pytest.raises(LOST):
                await query
            await gone.wait()
            assert connection.is_closed()
            with pytest.raises(asyncpg.InterfaceError):
                await connection.fetchval("SELECT 1")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
    async def test_the_server_stops_and_comes_back(self, loop, place, postgres, number):
        async with asyncpg.create_pool(**place, min_size=3, max_size=5) as pool:
            async with dial(place) as observer:
                gone = asyncio.Event()
                observer.add_termination_listener(lambda _: gone.set())
                queries = [asyncio.create_task(pool.fetch(FOREVER)) for _ in range(3)]
                await busy(observer, 3)
                await asyncio.to_thread(postgres.stop, number)
                try:
                    results = await asyncio.gather(*queries, return_exceptions=True)
                    assert all(isinstance(result, LOST) for result in results), results
                    await gone.wait()
                    with pytest.raises(OSError):
                        await asyncpg.connect(**place)
                finally:
                    await asyncio.to_thread(postgres.restart)
            query = functools.partial(pool.fetchval, "SELECT 1")
            assert await asyncio.gather(*(query() for _ in range(10))) == [1] * 10

    async def test_terminate(self, loop, place):
        """Left without a goodbye, the server ends its side."""
        async with dial(place) as observer:
            connection = await asyncpg.connect(**place)
            pid = connection.get_server_pid()
            connection.terminate()
            while await observer.fetchval("SELECT pid FROM pg_stat_activity WHERE pid = $1", pid):
                await asyncio.sleep(0)
