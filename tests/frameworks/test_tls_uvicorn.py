"""uvicorn with `--ssl-keyfile`: it serves by the loop's create_server(ssl=...)."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.certificates import client_context, write_files
from tests.support import PYTHON, TIME_LIMIT, load, skip_stock_bug, type_of

from .app import pattern
from .uvicorns import Uvicorn, exchange, uvicorn

MB = 1024 * 1024


@pytest.fixture(scope="module")
def secure(server_spec: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uvicorn]:
    """A server of HTTPS for the whole module, which must leave in silence."""
    skip_stock_bug(server_spec, PYTHON < (3, 11), "3.11 has another implementation of TLS")
    folder: Path = tmp_path_factory.mktemp("certificates")
    certificate, key, authority = write_files(folder)
    with uvicorn(
        server_spec,
        *("--ssl-keyfile", str(key), "--ssl-certfile", str(certificate)),
        *("--ssl-ca-certs", str(authority), "--ssl-cert-reqs", "1"),
        *("--timeout-keep-alive", "3600"),
    ) as server:
        assert server.address
        yield server
        server.forget()
        assert server.stop(signal.SIGTERM) == -signal.SIGTERM, server.output
        assert server.trouble == []


class TestRequests:
    def test_the_loop_under_test_serves(self, secure, server_spec):
        kind = type_of(load(server_spec))
        with secure.https(client_context()) as connection:
            about = json.loads(exchange(connection, "GET", "/about"))
        assert about["loop"] == f"{kind.__module__}.{kind.__qualname__}"

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_one_connection_for_many(self, secure, version):
        with secure.https(client_context(version=version)) as connection:
            for number in range(50):
                answer = exchange(connection, "GET", f"/say?word={number}&turns={number % 3}")
                assert answer == str(number).encode()

    def test_with_a_certificate(self, secure):
        with secure.https(client_context("alice")) as connection:
            assert exchange(connection, "GET", "/say?word=alice") == b"alice"

    def test_many_at_once(self, secure):
        def get(number: int) -> bytes:
            with secure.https(client_context()) as connection:
                return exchange(connection, "GET", f"/say?word={number}")

        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(get, range(60)))
        assert answers == [str(number).encode() for number in range(60)]

    def test_large_bodies(self, secure):
        with secure.https(client_context()) as connection:
            answer = exchange(connection, "POST", "/digest", pattern(5 * MB))
            assert answer.startswith(str(5 * MB).encode())


class TestTrouble:
    """The server outlives each of these in silence."""

    @pytest.fixture(autouse=True)
    def well(self, secure):
        secure.forget()
        yield
        with secure.https(client_context()) as connection:
            assert exchange(connection, "GET", "/say?word=alive") == b"alive"
        assert secure.trouble == [], secure.output

    def test_plain_http(self, secure):
        with socket.create_connection(secure.address, TIME_LIMIT) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            try:
                assert b"200" not in sock.recv(1000)
            except ConnectionError:
                pass

    def test_resets(self, secure):
        context = client_context()
        for length in (0, 100, None):
            sock = socket.create_connection(secure.address, TIME_LIMIT)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if length is None:
                sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
                sock.sendall(b"GET /say?word=x HTTP/1.1\r\n")
            else:
                sock.sendall(b"\x16\x03\x01" * length)
            sock.close()

    def test_an_untrusting_client(self, secure):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with pytest.raises(ssl.SSLCertVerificationError):
            with secure.https(context) as connection:
                connection.request("GET", "/")
