"""Name resolution (event loop page, "DNS"). Nothing here leaves the machine."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest


class TestGetaddrinfo:
    @pytest.mark.parametrize(
        ("arguments", "options"),
        [
            (("127.0.0.1", 80), {}),
            (("127.0.0.1", 80), {"type": socket.SOCK_STREAM}),
            (("127.0.0.1", "80"), {"type": socket.SOCK_STREAM}),
            (("127.0.0.1", None), {"type": socket.SOCK_STREAM}),
            (("127.0.0.1", 80), {"type": socket.SOCK_DGRAM, "proto": socket.IPPROTO_UDP}),
            (("::1", 80), {"family": socket.AF_INET6, "type": socket.SOCK_STREAM}),
            (
                (
                    "::1",
                    80,
                ),
                {"flags": socket.AI_NUMERICHOST},
            ),
            (("localhost", 80), {"family": socket.AF_INET, "type": socket.SOCK_STREAM}),
            ((b"localhost", 80), {"family": socket.AF_INET, "type": socket.SOCK_STREAM}),
            ((None, 80), {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}),
            ((None, 80), {"type": socket.SOCK_STREAM}),
            (("localhost", "http"), {"family": socket.AF_INET, "type": socket.SOCK_STREAM}),
        ],
        ids=repr,
    )
    async def test_answers_as_the_socket_module(self, loop, arguments, options):
        assert await loop.getaddrinfo(*arguments, **options) == socket.getaddrinfo(
            *arguments, **options
        )

    @pytest.mark.parametrize(
        ("arguments", "options"),
        [
            (("127.0.0.1", "no-such-service"), {}),
            (("not numeric", 80), {"flags": socket.AI_NUMERICHOST}),
            (("127.0.0.1", 80), {"family": socket.AF_INET6, "flags": socket.AI_NUMERICHOST}),
            ((None, None), {}),
            (("127.0.0.1", 80), {"type": 4242}),
        ],
        ids=repr,
    )
    async def test_fails_as_the_socket_module(self, loop, arguments, options):
        with pytest.raises(socket.gaierror) as expected:
            socket.getaddrinfo(*arguments, **options)
        with pytest.raises(socket.gaierror) as caught:
            await loop.getaddrinfo(*arguments, **options)
        assert caught.value.args == expected.value.args

    @pytest.mark.parametrize("arguments", [(1, 80), ("127.0.0.1", [])], ids=repr)
    async def test_bad_arguments(self, loop, arguments):
        with pytest.raises((TypeError, OSError)) as expected:
            socket.getaddrinfo(*arguments)
        with pytest.raises(type(expected.value)):
            await loop.getaddrinfo(*arguments)

    async def test_options_are_keywords(self, loop):
        with pytest.raises(TypeError):
            await loop.getaddrinfo("127.0.0.1", 80, socket.AF_INET)

    async def test_names_are_looked_up_in_a_thread(self, loop, monkeypatch):
        """A slow lookup holds up nobody."""
        asked, answer = threading.Event(), threading.Event()
        threads = []

        def getaddrinfo(host, *arguments, **options):
            threads.append(threading.get_ident())
            asked.set()
            answer.wait()
            return ["answer for " + host]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        lookup = loop.create_task(loop.getaddrinfo("slow.name", 80))
        while not asked.is_set():
            await asyncio.sleep(0)
        assert not lookup.done()
        answer.set()
        assert await lookup == ["answer for slow.name"]
        assert threads != [threading.get_ident()]

    async def test_many_at_once(self, loop):
        lookups = [
            loop.getaddrinfo("localhost", port, family=socket.AF_INET, type=socket.SOCK_STREAM)
            for port in range(1, 51)
        ]
        for port, answer in enumerate(await asyncio.gather(*lookups), 1):
            assert answer[0][4] == ("127.0.0.1", port)

    async def test_cancelled(self, loop, monkeypatch):
        answer = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: answer.wait() and [])
        lookup = loop.create_task(loop.getaddrinfo("slow.name", 80))
        await asyncio.sleep(0)
        lookup.cancel()
        answer.set()
        with pytest.raises(asyncio.CancelledError):
            await lookup


class TestGetnameinfo:
    @pytest.mark.parametrize(
        ("address", "flags"),
        [
            (("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV),
            (("127.0.0.1", 80), 0),
            (("::1", 80, 0, 0), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV),
        ],
        ids=repr,
    )
    async def test_answers_as_the_socket_module(self, loop, address, flags):
        assert await loop.getnameinfo(address, flags) == socket.getnameinfo(address, flags)

    async def test_flags_default_to_none(self, loop):
        address = ("127.0.0.1", 80)
        assert await loop.getnameinfo(address) == socket.getnameinfo(address, 0)

    @pytest.mark.parametrize(
        "address", [("not numeric", 80), ("127.0.0.1",), "127.0.0.1", None], ids=repr
    )
    async def test_fails_as_the_socket_module(self, loop, address):
        with pytest.raises((OSError, TypeError)) as expected:
            socket.getnameinfo(address, 0)
        with pytest.raises(type(expected.value)):
            await loop.getnameinfo(address, 0)


async def test_debug_mode_logs_lookups(loop, caplog):
    loop.set_debug(True)
    with caplog.at_level("DEBUG", logger="asyncio"):
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert any("127.0.0.1" in message for message in caplog.messages)
