"""SMTP with STARTTLS: aiosmtplib upgrades by start_tls, aiosmtpd by asyncio's own SSLProtocol."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from email.message import EmailMessage
from typing import Any

import aiosmtplib
import pytest
from aiosmtpd.smtp import SMTP

from tests.certificates import HOST, client_context, server_context
from tests.support import TIME_LIMIT

pytestmark = pytest.mark.usefixtures("as_since_311")


class Mailbox:
    """Keeps what is delivered."""

    def __init__(self) -> None:
        self.letters: list[bytes] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        assert session.ssl is not None
        self.letters.append(envelope.content)
        return "250 kept"


@contextlib.asynccontextmanager
async def serving(
    mailbox: Mailbox, context: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[int]:
    """Take mail that comes by TLS; yield the port."""
    loop = asyncio.get_running_loop()
    context = context or server_context()

    def factory() -> SMTP:
        return SMTP(mailbox, tls_context=context, require_starttls=True, loop=loop, **options)

    server = await loop.create_server(factory, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


def client(port: int, **options: Any) -> aiosmtplib.SMTP:
    """Return a client that has not connected yet."""
    options = {"tls_context": client_context(), "timeout": TIME_LIMIT, **options}
    return aiosmtplib.SMTP(hostname="127.0.0.1", port=port, **options)


def letter(text: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "a@client.test", f"b@{HOST}"
    message.set_content(text)
    return message


class TestStartTls:
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_letters(self, loop, version):
        mailbox = Mailbox()
        async with serving(mailbox, server_context(version=version)) as port:
            async with client(port, start_tls=True) as smtp:
                assert smtp.transport.get_extra_info("ssl_object").version()
                for text in ("short", "long line\n" * 20_000):
                    await smtp.send_message(letter(text))
        short, long = mailbox.letters
        assert short.endswith(b"\r\n\r\nshort\r\n")
        assert long.count(b"long line\r\n") == 20_000

    async def test_later(self, loop):
        """Plain commands before the upgrade."""
        mailbox = Mailbox()
        async with serving(mailbox) as port:
            async with client(port, start_tls=False) as smtp:
                with pytest.raises(aiosmtplib.SMTPException):
                    await smtp.send_message(letter("refused"))
                await smtp.starttls(tls_context=client_context())
                await smtp.send_message(letter("taken"))
        assert len(mailbox.letters) == 1

    async def test_many_at_once(self, loop):
        async def send(number: int) -> None:
            async with client(port, start_tls=True) as smtp:
                await smtp.send_message(letter(f"number {number}"))

        mailbox = Mailbox()
        async with serving(mailbox) as port:
            await asyncio.gather(*map(send, range(20)))
        assert len(mailbox.letters) == 20

    async def test_a_bad_certificate(self, loop):
        async with serving(Mailbox(), server_context("stranger")) as port:
            with pytest.raises((aiosmtplib.SMTPException, ssl.SSLError)):
                async with client(port, start_tls=True):
                    pass


async def test_tls_from_the_start(loop):
    """`use_tls`: the connection is made with TLS."""
    server = await loop.create_server(
        lambda: SMTP(Mailbox(), loop=loop), "127.0.0.1", 0, ssl=server_context()
    )
    port = server.sockets[0].getsockname()[1]
    async with client(port, use_tls=True) as smtp:
        await smtp.ehlo()
        assert smtp.get_transport_info("cipher") is not None
    server.close()
    await server.wait_closed()
