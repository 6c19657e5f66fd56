"""TLS with OpenSSL's own programs at the other end: `openssl s_client` and `openssl s_server`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator

import pytest

from .certificates import HOST, client_context, server_context, write_files
from .support import TIME_LIMIT, Recorder
from .test_tls_handshake import TLS12, TLS13

pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program here"),
    pytest.mark.usefixtures("as_since_311"),
]

VERSIONS = pytest.mark.parametrize(
    ("version", "flag"), [(TLS12, "-tls1_2"), (TLS13, "-tls1_3")], ids=["1.2", "1.3"]
)


class OpenSsl:
    """A running `openssl` command, spoken to by its standard input and output."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            ["openssl", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self.output = b""

    def say(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    async def heard(self, pattern: bytes) -> re.Match[bytes]:
        """Wait until the output matches `pattern`."""
        return await asyncio.to_thread(self._heard, pattern)

    def _heard(self, pattern: bytes) -> re.Match[bytes]:
        assert self.process.stdout is not None
        while (found := re.search(pattern, self.output)) is None:
            piece = self.process.stdout.read(65536)
            assert piece, self.output.decode()
            self.output += piece
        return found

    async def ended(self) -> int:
        """Wait for its end and return its exit code; its input is closed first."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await asyncio.to_thread(self._ended)

    def _ended(self) -> int:
        assert self.process.stdout is not None
        while piece := self.process.stdout.read(65536):
            self.output += piece
        return self.process.wait(TIME_LIMIT)


@contextlib.contextmanager
def openssl(*command: object) -> Iterator[OpenSsl]:
    """Run `openssl` for the time of the block."""
    program = OpenSsl(*map(str, command))
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()
        for stream in (program.process.stdin, program.process.stdout):
            assert stream is not None
            stream.close()


class Reversing(Recorder):
    """Answers every line with the same line backwards, as `s_server -rev` does."""

    def data_received(self, data):
        super().data_received(data)
        *lines, _ = bytes(self.data).split(b"\n")
        self.data = self.data[sum(len(line) + 1 for line in lines) :]
        for line in lines:
            self.transport.write(line[::-1] + b"\n")


@contextlib.asynccontextmanager
async def dialing(tls, folder, *options, context=None, protocol=None):
    """Run an `s_client` that has connected to a server on the loop."""
    protocol = protocol or Reversing()
    server = await tls.serve(lambda: protocol, context)
    port = server.sockets[0].getsockname()[1]
    _, _, authority = write_files(folder)
    with openssl(
        *("s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST),
        *("-CAfile", authority, "-verify_return_error", "-verify_hostname", HOST, *options),
    ) as client:
        yield client, protocol


@contextlib.asynccontextmanager
async def serving(folder, *options):
    """Run an `s_server` that turns lines round; yield it and its address."""
    certificate, key, authority = write_files(folder)
    with openssl(
        *("s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-rev"),
        *("-cert", certificate, "-key", key, "-CAfile", authority, *options),
    ) as server:
        found = await server.heard(rb"ACCEPT 127\.0\.0\.1:(\d+)")
        yield server, ("127.0.0.1", int(found[1]))


class TestClientOfOpenSsl:
    """The loop serves `s_client`."""

    @VERSIONS
    async def test_lines(self, tls, folder, version, flag):
        async with dialing(tls, folder, flag, context=server_context(version=version)) as (
            client,
            protocol,
        ):
            await client.heard(rb"Verify return code: 0 \(ok\)")
            client.say(b"hello\n")
            await client.heard(rb"olleh\n")
            client.say(b"again\n")
            await client.heard(rb"niaga\n")
            client.say(b"Q\n")
            assert await client.ended() == 0
            assert await protocol.lost() is None
            assert protocol.calls[-2:] == ["eof_received", "connection_lost"]

    @VERSIONS
    async def test_closed_by_the_loop(self, tls, folder, version, flag):
        class Closing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.write(b"x" * 200_000 + b"\nlast words\n")
                self.transport.close()

        async with dialing(tls, folder, flag, protocol=Closing()) as (client, protocol):
            client.say(b"request\n")
            await client.heard(rb"x{200000}\nlast words\n")
            assert await client.ended() == 0
            assert await protocol.lost() is None

    @VERSIONS
    async def test_certificate_and_alpn(self, tls, folder, version, flag):
        certificate, key, _ = write_files(folder, "alice")
        context = server_context(clients=ssl.CERT_REQUIRED, alpn=["lines"])
        options = (flag, "-cert", certificate, "-key", key, "-alpn", "other,lines")
        async with dialing(tls, folder, *options, context=context) as (client, protocol):
            await client.heard(rb"ALPN protocol: lines")
            client.say(b"hello\n")
            await client.heard(rb"olleh\n")
            engine = protocol.transport.get_extra_info("ssl_object")
            assert engine.selected_alpn_protocol() == "lines"
            assert protocol.transport.get_extra_info("peercert")["subject"]

    async def test_key_update(self, tls, folder):
        """Asked for by the client, in the middle of a connection of TLS 1.3."""
        async with dialing(tls, folder, "-tls1_3") as (client, _):
            client.say(b"first\n")
            await client.heard(rb"tsrif\n")
            for _ in range(3):
                client.say(b"K\n")
                await client.heard(rb"KEYUPDATE")
                client.output = b""
                client.say(b"second\n")
                await client.heard(rb"dnoces\n")

    async def test_renegotiation(self, tls, folder):
        """Refused, as OpenSSL's servers do by themselves; the connection ends in good order."""
        async with dialing(tls, folder, "-tls1_2") as (client, protocol):
            client.say(b"first\n")
            await client.heard(rb"tsrif\n")
            client.say(b"R\n")
            await client.heard(rb"no renegotiation")
            await client.ended()
            await protocol.lost()
            assert protocol.calls.count("connection_lost") == 1

    async def test_resumption(self, tls, folder):
        """By the tickets of TLS 1.2, five times."""
        protocols = []

        def factory():
            protocols.append(Recorder())
            return protocols[-1]

        server = await tls.serve(factory)
        port = server.sockets[0].getsockname()[1]
        address = f"127.0.0.1:{port}"
        with openssl("s_client", "-connect", address, "-reconnect", "-tls1_2") as client:
            await client.heard(rb"(?s)(Reused, TLSv1.2.*){5}")
            client.say(b"Q\n")
            await client.ended()
        for protocol in protocols:
            await protocol.lost()
        assert len(protocols) == 6

    async def test_no_common_version(self, tls, folder):
        async with dialing(tls, folder, "-tls1_2", context=server_context(version=TLS13)) as (
            client,
            protocol,
        ):
            assert await client.ended() != 0
            assert protocol.calls == []

    async def test_starttls(self, loop, tls, folder):
        """`s_client -starttls smtp`: the loop's side upgrades by start_tls."""

        class Mail(Recorder):
            secret = False

            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(b"220 test\r\n")

            def data_received(self, data):
                super().data_received(data)
                if data.startswith(b"EHLO"):
                    self.transport.write(b"250-test\r\n250 STARTTLS\r\n")
                elif data.startswith(b"STARTTLS"):
                    self.transport.write(b"220 go on\r\n")
                    self.task = loop.create_task(
                        tls.start_tls(self.transport, self, server_side=True)
                    )
                elif data.startswith(b"NOOP"):
                    self.transport.write(b"250 fine\r\n")

        protocol = Mail()
        server = await tls.network.serve(lambda: protocol)
        port = server.sockets[0].getsockname()[1]
        _, _, authority = write_files(folder)
        with openssl(
            *("s_client", "-connect", f"127.0.0.1:{port}", "-starttls", "smtp"),
            *("-CAfile", authority, "-verify_return_error", "-crlf"),
        ) as client:
            await client.heard(rb"Verify return code: 0 \(ok\)")
            client.say(b"NOOP\n")
            await client.heard(rb"250 fine")
            client.say(b"Q\n")
            assert await client.ended() == 0
        assert await protocol.lost() is None


class TestServerOfOpenSsl:
    """The loop connects to `s_server`."""

    @VERSIONS
    async def test_lines(self, tls, folder, version, flag):
        async with serving(folder, flag) as (_, address):
            reader, writer = await asyncio.open_connection(
                *address, ssl=client_context(), server_hostname=HOST
            )
            engine = writer.get_extra_info("ssl_object")
            assert engine.version() == {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version]
            for line in (b"hello", b"x" * 1000, b"again"):
                writer.write(line + b"\n")
                assert await reader.readline() == line[::-1] + b"\n"
            writer.close()
            await writer.wait_closed()

    @VERSIONS
    async def test_certificate_and_alpn(self, tls, folder, version, flag):
        options = (flag, "-Verify", "1", "-verify_return_error", "-alpn", "lines")
        async with serving(folder, *options) as (_, address):
            reader, writer = await asyncio.open_connection(
                *address,
                ssl=client_context("alice", alpn=["other", "lines"]),
                server_hostname=HOST,
            )
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "lines"
            writer.write(b"hello\n")
            assert await reader.readline() == b"olleh\n"
            writer.close()
            await writer.wait_closed()

    @VERSIONS
    async def test_a_missing_certificate(self, tls, folder, version, flag):
        """The alert comes in the handshake, or behind it with TLS 1.3."""
        async with serving(folder, flag, "-Verify", "1", "-verify_return_error") as (_, address):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                reader, writer = await asyncio.open_connection(
                    *address, ssl=client_context(), server_hostname=HOST
                )
                writer.write(b"hello\n")
                try:
                    await reader.readline()
                finally:
                    writer.close()

    async def test_a_certificate_for_another(self, tls, folder):
        async with serving(folder) as (_, address):
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection(
                    *address, ssl=client_context(), server_hostname="elsewhere.test"
                )

    @VERSIONS
    async def test_a_server_that_is_killed(self, tls, folder, version, flag):
        """An end without close_notify."""
        async with serving(folder, flag) as (server, address):
            reader, writer = await asyncio.open_connection(
                *address, ssl=client_context(), server_hostname=HOST
            )
            writer.write(b"hello\n")
            assert await reader.readline() == b"olleh\n"
            server.process.kill()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
