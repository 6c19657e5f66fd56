"""What get_extra_info tells of a TLS connection."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from .certificates import HOST, client_context, leaf, server_context
from .support import Recorder, hops
from .test_tls_handshake import TLS12, TLS13, VERSIONS
from .tls import TlsPeer

KEYS = ("peercert", "cipher", "compression", "sslcontext", "ssl_object")


def der(name: str) -> bytes:
    """Return the certificate `name` in binary."""
    return ssl.PEM_cert_to_DER_cert(leaf(name).cert_chain_pems[0].bytes().decode())


class TestOfAClient:
    @VERSIONS
    async def test_of_the_peer(self, tls, version):
        context = client_context(version=version)
        transport, _, peer = await tls.connect(None, context)
        certificate = transport.get_extra_info("peercert")
        assert ("DNS", HOST) in certificate["subjectAltName"]
        assert ("IP Address", "127.0.0.1") in certificate["subjectAltName"]
        engine = transport.get_extra_info("ssl_object")
        assert isinstance(engine, ssl.SSLObject)
        assert engine.getpeercert(binary_form=True) == der("server")
        assert engine.context is context
        assert engine.server_hostname == HOST
        assert not engine.server_side
        assert transport.get_extra_info("sslcontext") is context
        name, protocol, bits = transport.get_extra_info("cipher")
        assert (name, protocol, bits) == peer.engine.cipher()
        assert transport.get_extra_info("compression") is None
        assert engine.version() == {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version]

    async def test_an_unverified_peer(self, tls):
        """Its certificate is not told, as SSLObject.getpeercert has it."""
        transport, _, _ = await tls.connect(None, client_context(verify=False))
        assert transport.get_extra_info("peercert") == {}
        engine = transport.get_extra_info("ssl_object")
        assert engine.getpeercert(binary_form=True) == der("server")

    async def test_addresses(self, tls):
        transport, _, peer = await tls.connect()
        assert transport.get_extra_info("peername") == peer.sock.getsockname()
        assert transport.get_extra_info("sockname") == peer.sock.getpeername()
        assert transport.get_extra_info("socket").getpeername() == peer.sock.getsockname()


class TestOfAServer:
    async def test_without_a_certificate(self, tls):
        context = server_context()
        transport, _, peer = await tls.accept(None, context)
        assert transport.get_extra_info("peercert") is None
        assert transport.get_extra_info("sslcontext") is context
        engine = transport.get_extra_info("ssl_object")
        assert engine.server_side
        assert transport.get_extra_info("cipher") == peer.engine.cipher()
        assert transport.get_extra_info("peername") == peer.sock.getsockname()
        assert transport.get_extra_info("sockname") == peer.sock.getpeername()

    @VERSIONS
    async def test_with_a_certificate(self, tls, version):
        context = server_context(clients=ssl.CERT_REQUIRED, version=version)
        transport, _, _ = await tls.accept(None, context, client_context("alice"))
        subject = dict(pair for (pair,) in transport.get_extra_info("peercert")["subject"])
        assert subject["commonName"] == "alice"
        engine = transport.get_extra_info("ssl_object")
        assert engine.getpeercert(binary_form=True) == der("alice")


class TestAnyTime:
    async def test_unknown(self, tls_opened):
        transport, _, _ = await tls_opened()
        assert transport.get_extra_info("nothing") is None
        assert transport.get_extra_info("nothing", 5) == 5

    async def test_in_connection_made(self, tls):
        class Asking(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                self.told = {
                    key: transport.get_extra_info(key, "missing")
                    for key in (*KEYS, "socket", "peername", "sockname")
                }

        for opened in tls.connect, tls.accept:
            transport, protocol, _ = await opened(Asking())
            assert "missing" not in protocol.told.values()
            assert protocol.told["ssl_object"] is transport.get_extra_info("ssl_object")

    async def test_after_the_end(self, tls_opened):
        """What belongs to TLS stays known."""
        transport, protocol, _ = await tls_opened()
        before = {key: transport.get_extra_info(key) for key in KEYS}
        transport.abort()
        await protocol.lost()
        await hops(3)
        assert {key: transport.get_extra_info(key) for key in KEYS} == before

    async def test_over_a_unix_socket(self, tls, folder):
        path = str(folder / "socket")
        protocol = Recorder()
        transport, _, wire = await tls.network.connect_unix(path, protocol)
        peer = TlsPeer(wire.sock, server_context())
        _, new = await asyncio.gather(peer.handshake(), tls.start_tls(transport, protocol))
        assert new.get_extra_info("peername") == path
        assert new.get_extra_info("sockname") == ""
        assert new.get_extra_info("ssl_object") is not None

    async def test_streams(self, loop):
        async def serve(reader, writer):
            told.set_result({key: writer.get_extra_info(key) for key in KEYS})
            writer.close()

        told = loop.create_future()
        context = server_context()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        _, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context(), server_hostname=HOST
        )
        assert (await told)["sslcontext"] is context
        assert (await told)["cipher"] == writer.get_extra_info("cipher")
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("key", KEYS)
async def test_plain_connections_have_none_of_it(network, key):
    transport, _, _ = await network.connect()
    assert transport.get_extra_info(key) is None
    assert transport.get_extra_info(key, 5) == 5
