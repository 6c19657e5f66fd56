"""The caller's SSLContext is obeyed entirely."""

from __future__ import annotations

import _ssl
import asyncio
import contextlib
import os
import ssl
import sysconfig

import pytest

from .certificates import HOST, client_context, leaf, server_context
from .support import Recorder, hops, module_of, until
from .test_tls_handshake import TLS12, TLS13, VERSIONS
from .tls import TlsPeer

ROLES = pytest.mark.parametrize("role", ["connect", "accept"])


def ours_and_theirs(role, **options):
    """Return the contexts of the loop's side and of the peer."""
    both = [client_context(**options), server_context(**options)]
    return both if role == "connect" else both[::-1]


class TestAlpn:
    @ROLES
    async def test_agreed(self, tls, role):
        ours, theirs = client_context(alpn=["h2", "http/1.1"]), server_context(alpn=["http/1.1"])
        if role == "accept":
            ours, theirs = theirs, ours
        transport, _, peer = await getattr(tls, role)(None, ours, theirs)
        engine = transport.get_extra_info("ssl_object")
        assert engine.selected_alpn_protocol() == "http/1.1"
        assert peer.engine.selected_alpn_protocol() == "http/1.1"

    @ROLES
    async def test_not_asked_for(self, tls, role):
        transport, _, _ = await getattr(tls, role)()
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() is None

    async def test_nothing_in_common(self, tls):
        """OpenSSL's servers as ssl sets them up go on without."""
        transport, _, _ = await tls.connect(
            None, client_context(alpn=["one"]), server_context(alpn=["other"])
        )
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() is None


class TestServerNames:
    async def test_another_certificate(self, tls):
        """A server of two names, chosen by its callback."""
        seen = []
        elsewhere = server_context("wrong_host")

        def choose(engine, name, context):
            seen.append((engine, name, context))
            if name == "elsewhere.test":
                engine.context = elsewhere

        context = server_context()
        context.sni_callback = choose
        transport, _, _ = await tls.accept(None, context)
        assert seen == [(transport.get_extra_info("ssl_object"), HOST, context)]
        protocol = Recorder()
        server = await tls.serve(lambda: protocol, context)
        wire = tls.network.dial(server)
        peer = TlsPeer(wire.sock, client_context(), "elsewhere.test")
        await peer.handshake()
        await protocol.called("connection_made")
        assert protocol.transport.get_extra_info("ssl_object").context is elsewhere
        assert protocol.transport.get_extra_info("sslcontext") is context

    async def test_refused(self, tls):
        context = server_context()
        context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        protocol = Recorder()
        server = await tls.serve(lambda: protocol, context)
        peer = tls.dial(server)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await peer.handshake()
        await hops(5)
        assert protocol.calls == []

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    async def test_a_callback_that_raises(self, tls):
        """The handshake fails; the exception is Python's unraisable one."""

        def choose(*_):
            raise LookupError("no such name")

        context = server_context()
        context.sni_callback = choose
        protocol = Recorder()
        server = await tls.serve(lambda: protocol, context)
        peer = tls.dial(server)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await peer.handshake()
        await hops(5)
        assert protocol.calls == []

    async def test_sent_by_a_client(self, tls):
        names = []
        theirs = server_context()
        theirs.sni_callback = lambda engine, name, context: names.append(name)
        await tls.connect(None, None, theirs)
        assert names == [HOST]


class TestClientCertificates:
    @VERSIONS
    async def test_optional(self, tls, version):
        context = server_context(clients=ssl.CERT_OPTIONAL, version=version)
        transport, _, _ = await tls.accept(None, context)
        assert transport.get_extra_info("peercert") is None
        transport, _, _ = await tls.accept(None, context, client_context("alice"))
        assert transport.get_extra_info("peercert")["subject"]

    @VERSIONS
    async def test_required(self, tls, version):
        context = server_context(clients=ssl.CERT_REQUIRED, version=version)
        transport, protocol, peer = await tls.accept(None, context, client_context("bob"))
        peer.send(b"data")
        assert await protocol.received(4) == b"data"
        assert transport.get_extra_info("peercert")["subject"]

    @VERSIONS
    @pytest.mark.parametrize("clients", [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
    async def test_untrusted(self, tls, version, clients):
        protocol = Recorder()
        server = await tls.serve(lambda: protocol, server_context(clients=clients, version=version))
        peer = tls.dial(server, client_context("stranger"))
        with contextlib.suppress(OSError):
            await peer.handshake()
            assert await peer.read(1) == b""
        await hops(5)
        assert protocol.calls == []

    @VERSIONS
    async def test_of_the_loops_client(self, tls, version):
        theirs = server_context(clients=ssl.CERT_REQUIRED, version=version)
        transport, protocol, peer = await tls.connect(None, client_context("carol"), theirs)
        assert peer.engine.getpeercert()["subject"]
        peer.send(b"data")
        assert await protocol.received(4) == b"data"
        transport.write(b"data")
        assert await peer.read(4) == b"data"

    async def test_missing_at_the_loops_client(self, tls):
        """TLS 1.3: the client finds out by an alert after its own handshake."""
        theirs = server_context(clients=ssl.CERT_REQUIRED, version=TLS13)
        task, protocol, wire = await tls.start_connect()
        peer = TlsPeer(wire.sock, theirs)
        with pytest.raises(ssl.SSLError, match="did not return a certificate"):
            await peer.handshake()
        transport, _ = await task
        error = await protocol.lost()
        assert isinstance(error, ssl.SSLError)
        assert error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert transport.is_closing()


class TestVersionsAndCiphers:
    @VERSIONS
    @ROLES
    async def test_version(self, tls, role, version):
        transport, _, _ = await getattr(tls, role)(None, *ours_and_theirs(role, version=version))
        expected = {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version]
        assert transport.get_extra_info("ssl_object").version() == expected

    @ROLES
    async def test_cipher(self, tls, role):
        ours, theirs = ours_and_theirs(role, version=TLS12)
        ours.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        transport, protocol, peer = await getattr(tls, role)(None, ours, theirs)
        assert transport.get_extra_info("cipher")[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"
        peer.send(b"data")
        assert await protocol.received(4) == b"data"

    async def test_no_common_cipher(self, tls):
        ours = client_context(version=TLS12)
        ours.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        theirs = server_context(version=TLS12)
        theirs.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        task, protocol, wire = await tls.start_connect(None, ours)
        with pytest.raises(ssl.SSLError):
            await TlsPeer(wire.sock, theirs).handshake()
        wire.close()
        with pytest.raises(OSError):
            await task
        assert protocol.calls == []


class TestVerification:
    async def test_flags(self, tls):
        """A revocation list is demanded that nobody has."""
        context = client_context()
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        task, _, wire = await tls.start_connect(None, context)
        peer = TlsPeer(wire.sock, server_context())
        with contextlib.suppress(OSError):
            await peer.handshake()
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await task
        assert caught.value.verify_code == 3  # no certificate revocation list

    async def test_no_name_check(self, tls):
        context = client_context()
        context.check_hostname = False
        transport, _, _ = await tls.connect(None, context, server_context("wrong_host"))
        assert transport.get_extra_info("peercert")["subjectAltName"] == (
            ("DNS", "elsewhere.test"),
        )

    async def test_a_subclass(self, tls):
        """Contexts and engines of the caller's own classes."""

        class Engine(ssl.SSLObject):
            pass

        class Context(ssl.SSLContext):
            sslobject_class = Engine

        context = Context(ssl.PROTOCOL_TLS_SERVER)
        leaf("server").configure_cert(context)
        transport, protocol, peer = await tls.accept(None, context)
        assert type(transport.get_extra_info("ssl_object")) is Engine
        peer.send(b"data")
        assert await protocol.received(4) == b"data"
        transport.write(b"data")
        assert await peer.read(4) == b"data"


class TestSessions:
    @VERSIONS
    async def test_resumed_by_the_peer(self, tls, version):
        """The loop's server takes its tickets back."""

        async def visit(session):
            peer = tls.dial(server, context)
            if session is not None:
                peer.engine.session = session
            await peer.handshake()
            peer.send(b"data")
            assert await peer.read(4) == b"data"  # behind the tickets
            session = peer.engine.session
            await peer.unwrap()
            return peer.engine.session_reused, session

        class Echo(Recorder):
            def data_received(self, data):
                self.transport.write(data)

        context = client_context()
        server = await tls.serve(Echo, server_context(version=version))
        reused, session = await visit(None)
        assert not reused
        assert session.has_ticket
        reused, _ = await visit(session)
        assert reused

    async def test_told_of(self, tls):
        """The client's session is at hand for the caller."""
        theirs = server_context(version=TLS12)
        transport, _, _ = await tls.connect(None, None, theirs)
        engine = transport.get_extra_info("ssl_object")
        assert isinstance(engine.session, ssl.SSLSession)
        assert engine.session_reused is False

    async def test_no_tickets(self, tls):
        context = server_context(version=TLS13)
        context.num_tickets = 0
        _, protocol, peer = await tls.accept(None, context)
        protocol.transport.write(b"data")
        assert await peer.read(4) == b"data"
        assert not peer.engine.session.has_ticket


class TestKeyLog:
    @VERSIONS
    @ROLES
    async def test_written(self, tls, role, version, folder):
        ours, theirs = ours_and_theirs(role, version=version)
        ours.keylog_filename = str(folder / "keys")
        await getattr(tls, role)(None, ours, theirs)
        lines = (folder / "keys").read_text().splitlines()
        label = {TLS12: "CLIENT_RANDOM", TLS13: "CLIENT_HANDSHAKE_TRAFFIC_SECRET"}[version]
        assert any(line.startswith(label + " ") for line in lines)


class TestPostHandshakeAuthentication:
    async def test_asked_for_by_the_server(self, tls):
        """The loop's server demands a certificate in the middle of the connection."""
        context = server_context(version=TLS13)
        context.post_handshake_auth = True
        context.verify_mode = ssl.CERT_REQUIRED
        theirs = client_context("dave")
        theirs.post_handshake_auth = True
        transport, protocol, peer = await tls.accept(None, context, theirs)
        assert transport.get_extra_info("peercert") is None
        engine = transport.get_extra_info("ssl_object")
        engine.verify_client_post_handshake()
        transport.write(b"who are you?")
        assert await peer.read(12) == b"who are you?"
        peer.send(b"dave")
        assert await protocol.received(4) == b"dave"
        assert engine.getpeercert()["subject"]

    async def test_answered_by_the_client(self, tls):
        theirs = server_context(version=TLS13, clients=ssl.CERT_REQUIRED)
        theirs.post_handshake_auth = True
        context = client_context("erin")
        context.post_handshake_auth = True
        transport, protocol, peer = await tls.connect(None, context, theirs)
        assert peer.engine.getpeercert() is None
        peer.engine.verify_client_post_handshake()
        peer.send(b"who are you?")
        await protocol.received(12)
        transport.write(b"erin")
        assert await peer.read(4) == b"erin"
        assert peer.engine.getpeercert()["subject"]

    async def test_not_allowed_by_the_client(self, tls):
        context = server_context(version=TLS13, clients=ssl.CERT_REQUIRED)
        context.post_handshake_auth = True
        theirs = client_context("frank")
        transport, _, _ = await tls.accept(None, context, theirs)
        with pytest.raises(ssl.SSLError):
            transport.get_extra_info("ssl_object").verify_client_post_handshake()


class TestKeyUpdatesAndTickets:
    async def test_messages_without_data(self, tls):
        """TLS 1.3 tickets alone bring no data_received."""
        theirs = server_context(version=TLS13)
        theirs.num_tickets = 8
        _, protocol, peer = await tls.connect(None, None, theirs)
        peer.wire.send(peer.encrypt())
        await hops(10)
        assert protocol.calls == ["connection_made"]
        peer.send(b"data")
        assert await protocol.received(4) == b"data"


class TestContextOfTheServer:
    async def test_changed_later(self, tls):
        """A server goes on with the context as it is by now."""
        context = server_context("expired")
        server = await tls.serve(Recorder, context)
        with pytest.raises(ssl.SSLCertVerificationError):
            await tls.dial(server).handshake()
        leaf("server").configure_cert(context)
        await tls.dial(server).handshake()

    async def test_shared_by_many(self, loop, tls):
        """One context for both ends of many connections at once."""
        context = server_context()
        made = []

        class Counting(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.append(self)

        server = await tls.serve(Counting, context)
        ours = client_context()
        address = server.sockets[0].getsockname()
        pairs = await asyncio.gather(
            *(
                loop.create_connection(Recorder, *address, ssl=ours, server_hostname=HOST)
                for _ in range(20)
            )
        )
        await until(lambda: len(made) == 20)
        for transport, _ in pairs:
            transport.abort()
        for protocol in made:
            await protocol.lost()


class TestMemoryBios:
    """Ciphertext passes by Python's MemoryBIOs only where it has to: see `OXLOOP_TLS_BIO`."""

    def has_memory_bios(self, loop_spec, transport):
        if module_of(loop_spec) != "oxloop":
            pytest.skip("asyncio knows no other way")
        return transport._ssl_protocol._has_memory_bios

    @pytest.mark.skipif(
        getattr(_ssl, "__file__", None) is None, reason="OpenSSL is built into this interpreter"
    )
    @pytest.mark.skipif(
        bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        reason="builds without a global lock have MemoryBIOs always",
    )
    @ROLES
    async def test_not_as_a_rule(self, tls, loop_spec, role):
        transport, _, _ = await getattr(tls, role)()
        asked_for = os.environ.get("OXLOOP_TLS_BIO") == "memory"
        assert self.has_memory_bios(loop_spec, transport) is asked_for

    @ROLES
    async def test_with_a_class_of_the_programs(self, tls, loop_spec, role):
        """What its methods do is seen: they are called."""

        class Engine(ssl.SSLObject):
            def write(self, data):
                written.append(bytes(data))
                return super().write(data)

        written = []
        ours, theirs = ours_and_theirs(role)
        ours.sslobject_class = Engine
        transport, protocol, peer = await getattr(tls, role)(None, ours, theirs)
        transport.write(b"x" * 100_000)
        assert await peer.read(100_000) == b"x" * 100_000
        await peer.send_all(b"y" * 100_000)
        await protocol.received(100_000)
        assert b"".join(written) == b"x" * 100_000
        assert self.has_memory_bios(loop_spec, transport)
