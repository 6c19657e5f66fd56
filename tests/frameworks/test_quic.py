"""QUIC with aioquic: client and server over UDP on the loopback interface."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("aioquic", reason="aioquic needs Python 3.11")

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import TIME_LIMIT

from .app import pattern

MB = 1024 * 1024


@pytest.fixture(scope="module")
def configuration() -> QuicConfiguration:
    """A server's configuration, with a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    configuration = QuicConfiguration(alpn_protocols=["digest"], is_client=False)
    configuration.certificate = certificate
    configuration.private_key = key
    return configuration


@asynccontextmanager
async def serving(configuration: QuicConfiguration) -> AsyncIterator[int]:
    """A server that answers every stream with a digest of it; its port."""
    answers: set[asyncio.Task[None]] = set()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        digest = hashlib.sha256()
        while data := await reader.read(256 * 1024):
            digest.update(data)
        writer.write(digest.hexdigest().encode())
        writer.write_eof()

    def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(respond(reader, writer))
        answers.add(task)
        task.add_done_callback(answers.discard)

    server = await serve(
        "127.0.0.1", 0, configuration=configuration, stream_handler=on_stream, retry=False
    )
    try:
        yield server._transport.get_extra_info("sockname")[1]
    finally:
        server.close()
        for task in answers:
            task.cancel()
        await asyncio.gather(*answers, return_exceptions=True)


def client() -> QuicConfiguration:
    """A client's configuration, which takes any certificate."""
    return QuicConfiguration(
        alpn_protocols=["digest"],
        is_client=True,
        verify_mode=ssl.CERT_NONE,
        idle_timeout=TIME_LIMIT,
    )


async def send(connection: QuicConnectionProtocol, data: bytes) -> bytes:
    """Send `data` over a stream of its own; the digest that the server gives."""
    reader, writer = await connection.create_stream()
    writer.write(data)
    writer.write_eof()
    return await reader.read()


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


async def test_streams(loop, configuration):
    """Many streams of one connection at once."""
    async with serving(configuration) as port:
        async with connect("127.0.0.1", port, configuration=client()) as connection:
            await connection.ping()
            bodies = [pattern(size) for size in (0, 1, 1000, 70_000, 300_000)]
            digests = await asyncio.gather(*(send(connection, body) for body in bodies))
            assert digests == [digest(body) for body in bodies]


async def test_large_transfer(loop, configuration):
    """10 MB: congestion control, flow control, timers."""
    body = pattern(10 * MB)
    async with serving(configuration) as port:
        async with connect("127.0.0.1", port, configuration=client()) as connection:
            assert await send(connection, body) == digest(body)


async def test_connections(loop, configuration):
    """Several clients, one after the other and at once."""
    async with serving(configuration) as port:

        async def visit(number: int) -> bytes:
            async with connect("127.0.0.1", port, configuration=client()) as connection:
                return await send(connection, b"%d" % number)

        expected = [digest(b"%d" % number) for number in range(5)]
        assert [await visit(number) for number in range(5)] == expected
        assert await asyncio.gather(*(visit(number) for number in range(5))) == expected


async def test_nobody_there(loop):
    """Nobody answers: the handshake's packets are refused, and the client gives up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    configuration = client()
    configuration.idle_timeout = 0.5
    with pytest.raises(ConnectionError):
        async with connect("127.0.0.1", port, configuration=configuration):
            pass
