"""asyncpg with a PostgreSQL that takes nobody without TLS: it goes through start_tls."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.certificates import client_context
from tests.support import TIME_LIMIT, descriptors, until

from . import databases
from .app import pattern
from .databases import Database, database

pytestmark = pytest.mark.usefixtures("silence", "as_since_311")

MB = 1024 * 1024


@pytest.fixture(scope="module")
def postgres() -> Iterator[Database]:
    """A server for the whole module."""
    with database(databases.TlsPostgres) as server:
        yield server


@contextlib.asynccontextmanager
async def dial(postgres: Database, **options) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection, closed behind the block."""
    options = {
        "host": "127.0.0.1",
        "port": postgres.port,
        "user": "tester",
        "database": "postgres",
        "password": databases.PASSWORD,
        "ssl": client_context(),
        "timeout": TIME_LIMIT,
        **options,
    }
    connection = await asyncpg.connect(**options)
    try:
        yield connection
    finally:
        await connection.close()


class TestQueries:
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_encrypted(self, loop, postgres, version):
        async with dial(postgres, ssl=client_context(version=version)) as connection:
            row = await connection.fetchrow(
                "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            )
            assert row["ssl"]
            name = {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
            assert row["version"] == name

    @pytest.mark.parametrize("size", [0, 65_536, 5 * MB])
    async def test_values(self, loop, postgres, size):
        async with dial(postgres) as connection:
            assert await connection.fetchval("SELECT $1::bytea", pattern(size)) == pattern(size)

    async def test_rows(self, loop, postgres):
        async with dial(postgres) as connection:
            rows = await connection.fetch("SELECT generate_series(1, 20000)")
            assert [row[0] for row in rows] == list(range(1, 20_001))

    async def test_copy(self, loop, postgres):
        async with dial(postgres) as connection:
            await connection.execute("CREATE TEMP TABLE numbers (a int, b text)")
            records = [(number, str(number) * 10) for number in range(20_000)]
            await connection.copy_records_to_table("numbers", records=records)
            assert await connection.fetchval("SELECT count(*) FROM numbers") == 20_000

    async def test_a_pool(self, loop, postgres):
        pool = asyncpg.create_pool(
            host="127.0.0.1",
            port=postgres.port,
            user="tester",
            database="postgres",
            password=databases.PASSWORD,
            ssl=client_context(),
            min_size=1,
            max_size=5,
        )
        async with pool:
            answers = await asyncio.gather(
                *(pool.fetchval("SELECT $1::int", number) for number in range(50))
            )
        assert answers == list(range(50))

    async def test_cancelled(self, loop, postgres):
        """The request to cancel goes over a TLS connection of its own."""
        async with dial(postgres) as connection:
            with pytest.raises(asyncio.TimeoutError):
                await connection.fetchval("SELECT pg_sleep(60)", timeout=0.2)
            assert await connection.fetchval("SELECT 1") == 1


async def refused(
    postgres: Database, error: type[Exception] | tuple[type[Exception], ...], **options
) -> None:
    """Fail to connect, and wait for the end of the connection: asyncpg leaves it to close."""
    before = descriptors()
    with pytest.raises(error):
        async with dial(postgres, **options):
            pass
    await until(lambda: descriptors().items() <= before.items())


class TestRefusals:
    async def test_without_tls(self, loop, postgres):
        await refused(postgres, asyncpg.InvalidAuthorizationSpecificationError, ssl=False)

    async def test_an_unknown_authority(self, loop, postgres):
        context = ssl.create_default_context()
        await refused(postgres, ssl.SSLCertVerificationError, ssl=context)

    async def test_the_certificate_of_a_client(self, loop, postgres):
        """It stands for the password of the user it names."""
        async with dial(postgres) as connection:
            await connection.execute("DROP ROLE IF EXISTS guarded; CREATE ROLE guarded LOGIN")
        options = {"user": "guarded", "password": None}
        async with dial(postgres, ssl=client_context("guarded"), **options) as connection:
            assert await connection.fetchval("SELECT current_user") == "guarded"
        await refused(postgres, (asyncpg.PostgresError, OSError), **options)
