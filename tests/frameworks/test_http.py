"""HTTP/1.1 on uvicorn with httptools: requests, uploads, downloads, and clients that leave."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import load, type_of

from .app import pattern
from .uvicorns import Uvicorn, Wire, exchange

MB = 1024 * 1024
LARGE = 10 * MB


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    """Return the head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: test", *headers, "", ""]).encode()


def say(word: object, *headers: str, turns: int = 0) -> bytes:
    """Return a request that is answered with `word`."""
    return request(f"/say?word={word}&turns={turns}", *headers)


def upload(size: int, *headers: str) -> bytes:
    """Return the head of a request to digest `size` bytes."""
    return request("/digest", f"content-length: {size}", *headers, method="POST")


def digest(data: bytes) -> bytes:
    """Return what the server is to say of `data`."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()


class TestRequests:
    def test_the_loop_under_test_serves(self, server: Uvicorn, server_spec: str):
        kind = type_of(load(server_spec))
        assert json.loads(server.get("/about"))["loop"] == f"{kind.__module__}.{kind.__qualname__}"

    def test_addresses(self, server: Uvicorn):
        with server.wire() as wire:
            wire.send(request("/about"))
            _, body = wire.response()
            assert tuple(json.loads(body)["client"]) == wire.sock.getsockname()
            assert tuple(json.loads(body)["server"]) == server.address

    def test_not_found(self, server: Uvicorn):
        with server.http() as connection:
            connection.request("GET", "/nowhere")
            response = connection.getresponse()
            assert (response.status, response.read()) == (404, b"nothing here")

    def test_keep_alive(self, server: Uvicorn):
        with server.http() as connection:
            connection.connect()
            sock = connection.sock
            for number in range(200):
                path = f"/say?word={number}&turns={number % 3}"
                assert exchange(connection, "GET", path) == str(number).encode()
            assert connection.sock is sock  # http.client would have made another

    def test_connection_close(self, server: Uvicorn):
        with server.wire() as wire:
            wire.send(say("once", "connection: close"))
            assert wire.response() == (200, b"once")
            assert wire.reader.read() == b""

    def test_many_clients(self, server: Uvicorn):
        def client(number: int) -> list[bytes]:
            with server.http() as connection:
                paths = (f"/say?word={number}.{step}&turns={step % 4}" for step in range(20))
                return [exchange(connection, "GET", path) for path in paths]

        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(client, range(60)))
        assert answers == [
            [f"{number}.{step}".encode() for step in range(20)] for number in range(60)
        ]

    def test_not_http(self, server: Uvicorn):
        with server.wire() as wire:
            wire.send(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            status, _ = wire.response()
            assert status == 400
            assert wire.reader.read() == b""
        warning = server.heard("Invalid HTTP request received.")
        assert server.trouble == [warning]
        server.forget()


class TestPipelining:
    @pytest.mark.parametrize("turns", [0, 3], ids=["at_once", "in_some_turns"])
    def test_in_one_piece(self, server: Uvicorn, turns: int):
        with server.wire() as wire:
            wire.send(b"".join(say(number, turns=turns) for number in range(100)))
            answers = [wire.response() for _ in range(100)]
        assert answers == [(200, str(number).encode()) for number in range(100)]

    @pytest.mark.parametrize("size", [1, 7, 64])
    def test_in_small_pieces(self, server: Uvicorn, size: int):
        sent = b"".join(say(number) for number in range(10))
        with server.wire() as wire:
            wire.send(*(sent[index : index + size] for index in range(0, len(sent), size)))
            answers = [wire.response() for _ in range(10)]
        assert answers == [(200, str(number).encode()) for number in range(10)]

    def test_behind_an_upload_and_a_download(self, server: Uvicorn):
        body = pattern(MB)
        with server.wire() as wire:
            sender = threading.Thread(
                target=wire.send,
                args=(
                    upload(len(body)) + body,
                    request(f"/data?size={MB}&piece=8192") + say("between"),
                    upload(len(body)) + body + say("last"),
                ),
            )
            sender.start()
            answers = [wire.response() for _ in range(5)]
            sender.join()
        expected = [digest(body), body, b"between", digest(body), b"last"]
        assert answers == [(200, content) for content in expected]

    def test_the_last_one_closes(self, server: Uvicorn):
        with server.wire() as wire:
            wire.send(say("first") + say("last", "connection: close"))
            assert wire.response() == (200, b"first")
            assert wire.response() == (200, b"last")
            assert wire.reader.read() == b""


class TestUploads:
    def test_large(self, server: Uvicorn):
        body = pattern(LARGE)
        with server.http() as connection:
            assert exchange(connection, "POST", "/digest", body) == digest(body)
            assert exchange(connection, "POST", "/digest", body[:5]) == digest(body[:5])

    def test_chunked(self, server: Uvicorn):
        body = pattern(LARGE)
        pieces = (body[index : index + 50_000] for index in range(0, LARGE, 50_000))
        with server.http() as connection:
            assert exchange(connection, "POST", "/digest", pieces) == digest(body)

    def test_several_at_once(self, server: Uvicorn):
        def client(size: int) -> bool:
            with server.http() as connection:
                body = pattern(size)
                return exchange(connection, "POST", "/digest", body) == digest(body)

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(client, [2 * MB + number for number in range(4)]))

    def test_expect_continue(self, server: Uvicorn):
        body = pattern(MB)
        with server.wire() as wire:
            wire.send(upload(len(body), "expect: 100-continue"))
            status, _ = wire.head()
            assert status == 100
            wire.send(body)
            assert wire.response() == (200, digest(body))


class TestDownloads:
    @pytest.mark.parametrize("chunked", ["no", "yes"], ids=["sized", "chunked"])
    @pytest.mark.parametrize("piece", [16 * 1024, MB, LARGE])
    def test_large(self, server: Uvicorn, piece: int, chunked: str):
        with server.http() as connection:
            path = f"/data?size={LARGE}&piece={piece}&chunked={chunked}"
            assert exchange(connection, "GET", path) == pattern(LARGE)
            assert exchange(connection, "GET", "/say?word=next") == b"next"

    def test_slow_reader(self, server: Uvicorn):
        """The kernel takes little at a time, so that the server has to wait again and again."""
        with server.wire(receive_buffer=4096) as wire:
            wire.send(request(f"/data?size={MB}&piece=100000"))
            status, _ = wire.head()
            assert status == 200
            body = bytearray()
            while len(body) < MB:
                piece = wire.reader.read(1024)
                assert piece, "cut short"
                body += piece
            assert body == pattern(MB)
            wire.send(say("next"))
            assert wire.response() == (200, b"next")

    def test_both_ways_at_once(self, server: Uvicorn):
        body = pattern(LARGE)
        with server.wire() as wire:
            head = request("/echo", f"content-length: {LARGE}", method="POST")
            sender = threading.Thread(target=wire.send, args=(head, body))
            sender.start()
            response = http.client.HTTPResponse(wire.sock, method="POST")
            response.begin()
            with response:
                assert response.read() == body
            sender.join()


@pytest.mark.parametrize("leave", [Wire.close, Wire.reset], ids=["close", "reset"])
class TestClientsThatLeave:
    def test_during_a_response(self, server: Uvicorn, leave):
        with server.wire() as wire:
            wire.send(request("/endless"))
            assert wire.head()[0] == 200
            assert wire.reader.read(MB)
            leave(wire)
        server.heard("app: response cut")

    def test_without_reading(self, server: Uvicorn, leave):
        with server.wire(receive_buffer=4096) as wire:
            wire.send(request("/endless"))
            assert wire.head()[0] == 200
            leave(wire)
        server.heard("app: response cut")

    def test_during_an_upload(self, server: Uvicorn, leave):
        with server.wire() as wire:
            wire.send(upload(LARGE), pattern(MB))
            server.heard("app: upload began")
            leave(wire)
        size = int(server.heard("app: upload cut after").split()[-1])
        assert 0 < size <= MB

    def test_before_saying_anything(self, server: Uvicorn, leave):
        with server.wire() as wire:
            leave(wire)

    def test_during_the_head(self, server: Uvicorn, leave):
        with server.wire() as wire:
            wire.send(request("/say?word=never")[:-4])
            leave(wire)

    def test_with_requests_in_the_pipeline(self, server: Uvicorn, leave):
        with server.wire() as wire:  # few requests: asyncio warns of the sixth write in vain
            wire.send(say("first") + say("second", turns=3) + say("third", turns=3))
            assert wire.response() == (200, b"first")
            leave(wire)

    def test_between_requests(self, server: Uvicorn, leave):
        with server.wire() as wire:
            wire.send(say("bye"))
            assert wire.response() == (200, b"bye")
            leave(wire)

    def test_many(self, server: Uvicorn, leave):
        wires = [Wire(server.address) for _ in range(40)]
        for wire in wires:
            wire.send(request("/endless"))
        for wire in wires:
            assert wire.head()[0] == 200
        for wire in wires:
            leave(wire)
        server.heard("app: response cut", times=len(wires))

    def test_another_client_is_not_disturbed(self, server: Uvicorn, leave):
        with server.http() as other, server.wire() as wire:
            other.request("GET", f"/data?size={LARGE}&piece=65536")
            wire.send(request("/endless"))
            assert wire.head()[0] == 200
            leave(wire)
            assert other.getresponse().read() == pattern(LARGE)
        server.heard("app: response cut")
