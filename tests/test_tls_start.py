"""start_tls: a connection that is already in use goes on with TLS, either side first."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import ssl
import sys
import weakref

import pytest

from .certificates import client_context, server_context
from .support import PYTHON, BufferedRecorder, Recorder, hops, skip_stock_bug
from .test_tls_handshake import gone
from .tls import HOST, TlsPeer, Tunnel

SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])


class TestArguments:
    @pytest.mark.parametrize("wrong", [None, True, "context", object()])
    async def test_context(self, loop, network, wrong):
        transport, protocol, peer = await network.connect()
        with pytest.raises(TypeError) as caught:
            await loop.start_tls(transport, protocol, wrong)
        text = f"sslcontext is expected to be an instance of ssl.SSLContext, got {wrong!r}"
        assert str(caught.value) == text
        transport.write(b"plain")
        assert await peer.read(5) == b"plain"

    @pytest.mark.parametrize("wrong", [None, "transport", object(), asyncio.Transport()])
    async def test_transport(self, loop, wrong):
        with pytest.raises(TypeError) as caught:
            await loop.start_tls(wrong, Recorder(), client_context())
        assert str(caught.value) == f"transport {wrong!r} is not supported by start_tls()"

    async def test_datagrams(self, loop, network):
        transport, protocol = await network.datagrams()
        with pytest.raises(TypeError) as caught:
            await loop.start_tls(transport, protocol, client_context())
        assert str(caught.value) == f"transport {transport!r} is not supported by start_tls()"

    async def test_pipes(self, loop):
        read, write = os.pipe()
        reading, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(read, "rb", 0))
        writing, _ = await loop.connect_write_pipe(Recorder, os.fdopen(write, "wb", 0))
        for transport in reading, writing:
            with pytest.raises(TypeError, match=r"is not supported by start_tls\(\)$"):
                await loop.start_tls(transport, protocol, client_context())
            transport.close()
        await hops(3)

    @pytest.mark.parametrize(
        "name",
        [
            "ssl_handshake_timeout",
            pytest.param(
                "ssl_shutdown_timeout",
                marks=pytest.mark.skipif(PYTHON < (3, 11), reason="new in 3.11"),
            ),
        ],
    )
    async def test_a_time_out_of_nothing(self, loop, network, name):
        """Found out before anything has changed."""
        transport, protocol, peer = await network.connect()
        with pytest.raises(ValueError) as caught:
            await loop.start_tls(transport, protocol, client_context(), **{name: 0})
        assert str(caught.value) == f"{name} should be a positive number, got 0"
        assert transport.get_protocol() is protocol
        assert transport.is_reading()
        peer.send(b"plain")
        assert await protocol.received(5) == b"plain"

    @pytest.mark.usefixtures("as_since_311")
    async def test_the_wrong_kind_of_context(self, loop, network):
        transport, protocol, peer = await network.connect()
        with pytest.raises(ssl.SSLError, match="PROTOCOL_TLS_SERVER"):
            await loop.start_tls(transport, protocol, server_context())
        with pytest.raises(ssl.SSLError, match="PROTOCOL_TLS_CLIENT"):
            await loop.start_tls(
                transport, protocol, client_context(verify=False), server_side=True
            )
        peer.send(b"plain")
        assert await protocol.received(5) == b"plain"

    async def test_a_name_for_a_server(self, loop, tls):
        """Of no use, and no harm."""
        transport, protocol, wire = await tls.network.connect()
        peer = TlsPeer(wire.sock, client_context())
        starting = loop.start_tls(
            transport, protocol, server_context(), server_side=True, server_hostname="any"
        )
        _, transport = await asyncio.gather(peer.handshake(), starting)
        assert transport.get_extra_info("ssl_object").server_side
        transport.abort()
        await protocol.lost()


class TestUpgrade:
    @SIDES
    async def test_in_mid_stream(self, tls, server_side):
        """Plain both ways, then TLS both ways; the protocol hears of data alone."""
        transport, protocol, wire = await tls.network.connect()
        transport.write(b"plain out")
        assert await wire.read(9) == b"plain out"
        wire.send(b"plain in")
        await protocol.received(8)
        peer = TlsPeer(wire.sock, tls.other_context(server_side))
        _, new = await asyncio.gather(
            peer.handshake(), tls.start_tls(transport, protocol, server_side=server_side)
        )
        assert new is not transport
        assert new.get_protocol() is protocol
        new.write(b"secret out")
        assert await peer.read(10) == b"secret out"
        peer.send(b"secret in")
        assert await protocol.received(17) == b"plain insecret in"
        new.close()
        await peer.unwrap()
        assert await protocol.lost() is None
        # The peer's answer to a close_notify is the end of its stream.
        assert protocol.story[2:] == ["eof_received", "connection_lost"]

    @SIDES
    async def test_of_an_accepted_connection(self, tls, server_side):
        transport, protocol, wire = await tls.network.accept()
        peer = TlsPeer(wire.sock, tls.other_context(server_side))
        _, new = await asyncio.gather(
            peer.handshake(), tls.start_tls(transport, protocol, server_side=server_side)
        )
        peer.send(b"data")
        assert await protocol.received(4) == b"data"
        new.write(b"answer")
        assert await peer.read(6) == b"answer"

    async def test_the_peer_speaks_first(self, tls):
        """Its ClientHello waits in the kernel, unread, when start_tls is called."""
        transport, protocol, wire = await tls.network.connect()
        transport.pause_reading()
        peer = TlsPeer(wire.sock, client_context())
        wire.send(peer.flight())
        await hops(5)
        _, new = await asyncio.gather(
            peer.handshake(), tls.start_tls(transport, protocol, server_side=True)
        )
        assert protocol.data == b""
        peer.send(b"data")
        assert await protocol.received(4) == b"data"
        assert new.is_reading()

    async def test_called_in_data_received(self, loop, tls):
        """The command and nothing else has come; the peer's hello comes behind the answer."""

        class Commanded(Recorder):
            def data_received(self, data):
                super().data_received(data)
                if data == b"STARTTLS\n":
                    self.transport.write(b"GO\n")
                    self.task = loop.create_task(
                        tls.start_tls(self.transport, self, server_side=True)
                    )

        _, protocol, wire = await tls.network.accept(Commanded())
        wire.send(b"STARTTLS\n")
        assert await wire.read(3) == b"GO\n"
        peer = TlsPeer(wire.sock, client_context())
        await peer.handshake()
        new = await protocol.task
        peer.send(b"secret")
        await protocol.received(15)
        new.write(b"fine")
        assert await peer.read(4) == b"fine"

    async def test_what_was_written_before(self, tls):
        """Plain text that still waits to be sent is sent first, as it is."""
        transport, protocol, wire = await tls.network.connect(receive_buffer=4096)
        plain = bytes(range(256)) * 4000
        transport.write(plain)
        starting = asyncio.ensure_future(tls.start_tls(transport, protocol))
        assert await wire.read(len(plain)) == plain
        peer = TlsPeer(wire.sock, server_context())
        await peer.handshake()
        new = await starting
        new.write(b"secret")
        assert await peer.read(6) == b"secret"

    async def test_reading_was_paused(self, tls):
        """start_tls resumes it."""
        transport, protocol, wire = await tls.network.connect()
        transport.pause_reading()
        peer = TlsPeer(wire.sock, server_context())
        _, new = await asyncio.gather(peer.handshake(), tls.start_tls(transport, protocol))
        peer.send(b"data")
        assert await protocol.received(4) == b"data"
        assert new.is_reading()

    async def test_another_protocol(self, tls):
        """The one that is passed is the one that is told, from then on."""
        transport, first, wire = await tls.network.connect()
        second = Recorder()
        peer = TlsPeer(wire.sock, server_context())
        _, new = await asyncio.gather(peer.handshake(), tls.start_tls(transport, second))
        peer.send(b"data")
        await second.received(4)
        assert new.get_protocol() is second
        peer.close_notify()
        assert await second.lost() is None
        assert first.calls == ["connection_made"]
        assert second.calls == ["data_received", "eof_received", "connection_lost"]

    async def test_a_buffered_protocol(self, tls):
        protocol = BufferedRecorder(100)
        _, _, peer = await tls.upgrade(protocol)
        data = bytes(range(256)) * 10
        peer.send(data)
        assert await protocol.received(len(data)) == data

    async def test_data_with_the_last_flight(self, tls):
        """A client's first data may come with its Finished."""
        transport, protocol, wire = await tls.network.connect()
        peer = TlsPeer(wire.sock, client_context())
        starting = asyncio.ensure_future(tls.start_tls(transport, protocol, server_side=True))
        wire.send(peer.flight())
        await starting_flight(peer, wire)
        last = peer.flight()
        wire.send(last + peer.encrypt(b"at once"))
        await starting
        assert await protocol.received(7) == b"at once"
        assert protocol.story == ["connection_made", "data_received"]

    async def test_over_a_unix_socket(self, tls, folder):
        transport, protocol, wire = await tls.network.connect_unix(str(folder / "socket"))
        peer = TlsPeer(wire.sock, server_context())
        _, new = await asyncio.gather(peer.handshake(), tls.start_tls(transport, protocol))
        new.write(b"data")
        assert await peer.read(4) == b"data"


async def starting_flight(peer, wire):
    """Read until the engine of `peer` (a TLS 1.3 client) has all it needs for its last flight."""
    while True:
        peer.feed(await asyncio.to_thread(wire.sock.recv, 65536))
        try:
            peer.engine.do_handshake()
        except ssl.SSLWantReadError:
            continue
        return


class TestFailures:
    """The protocol had its connection_made long ago: most failures are told to it."""

    @SIDES
    async def test_not_tls(self, tls, server_side):
        transport, protocol, wire = await tls.network.connect()
        starting = asyncio.ensure_future(
            tls.start_tls(transport, protocol, server_side=server_side)
        )
        await hops(3)
        wire.send(b"500 no such command\r\n")
        with pytest.raises(ssl.SSLError) as caught:
            await starting
        assert await protocol.lost() is caught.value
        assert transport.is_closing()
        await gone(wire)

    async def test_a_bad_certificate(self, tls):
        transport, protocol, wire = await tls.network.connect()
        peer = TlsPeer(wire.sock, server_context("stranger"))
        starting = asyncio.ensure_future(tls.start_tls(transport, protocol))
        with contextlib.suppress(OSError):
            await peer.handshake()
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await starting
        assert await protocol.lost() is caught.value

    @SIDES
    async def test_the_end(self, tls, server_side):
        transport, protocol, wire = await tls.network.connect()
        starting = asyncio.ensure_future(
            tls.start_tls(transport, protocol, server_side=server_side)
        )
        await hops(3)
        wire.shutdown()
        with pytest.raises(ConnectionResetError):
            await starting
        assert isinstance(await protocol.lost(), ConnectionResetError)
        assert protocol.calls == ["connection_made", "connection_lost"]

    @SIDES
    async def test_a_reset(self, tls, server_side):
        """Not told to the protocol: connection_lost comes in the midst of the handshake."""
        transport, protocol, wire = await tls.network.connect()
        starting = asyncio.ensure_future(
            tls.start_tls(transport, protocol, server_side=server_side)
        )
        await hops(3)
        wire.reset()
        with pytest.raises(ConnectionResetError):
            await starting
        await hops(5)
        assert transport.is_closing()
        assert protocol.calls == ["connection_made"]

    @SIDES
    async def test_time_out(self, tls, server_side):
        transport, protocol, wire = await tls.network.connect()
        with pytest.raises(ConnectionAbortedError) as caught:
            await tls.start_tls(
                transport, protocol, server_side=server_side, ssl_handshake_timeout=0.02
            )
        text = "SSL handshake is taking longer than 0.02 seconds: aborting the connection"
        assert str(caught.value) == text
        await gone(wire)
        await hops(5)
        assert transport.is_closing()
        assert protocol.calls == ["connection_made"]

    @SIDES
    async def test_cancelled(self, tls, server_side):
        transport, protocol, wire = await tls.network.connect()
        starting = asyncio.ensure_future(
            tls.start_tls(transport, protocol, server_side=server_side)
        )
        await hops(5)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert transport.is_closing()
        await gone(wire)

    async def test_cancelled_at_once(self, loop, tls):
        """While the handshake begins."""
        transport, protocol, wire = await tls.network.connect()
        starting = asyncio.ensure_future(tls.start_tls(transport, protocol))
        await hops()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert transport.is_closing()
        await gone(wire)

    async def test_nothing_is_left(self, tls):
        """Neither the timer nor what it holds."""
        transport, protocol, wire = await tls.network.connect()
        context = client_context()
        reference = weakref.ref(context)
        starting = asyncio.ensure_future(
            tls.start_tls(transport, protocol, context=context, ssl_handshake_timeout=3600)
        )
        await hops(3)
        wire.send(bytes(100))
        with pytest.raises(ssl.SSLError):
            await starting
        await protocol.lost()
        protocol.error = None
        del context, starting
        await hops(3)
        gc.collect()
        assert reference() is None


class TestClosing:
    """This side closes the transport below: there is no TLS transport, and no error."""

    CLOSE = pytest.mark.parametrize("close", ["close", "abort"])

    @CLOSE
    @SIDES
    async def test_before(self, loop, tls, close, server_side):
        transport, protocol, wire = await tls.network.connect()
        getattr(transport, close)()
        own = tls.own_context(server_side)
        name = None if server_side else HOST
        new = await loop.start_tls(
            transport, protocol, own, server_side=server_side, server_hostname=name
        )
        assert new is None
        assert await protocol.lost() is None
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert transport.get_protocol() is None
        await gone(wire)

    @CLOSE
    async def test_meanwhile(self, loop, tls, close):
        """Not told to the protocol: connection_lost comes in the midst of the handshake."""
        transport, protocol, wire = await tls.network.connect()
        starting = asyncio.ensure_future(
            loop.start_tls(transport, protocol, client_context(), server_hostname=HOST)
        )
        assert (await wire.read(1)) == b"\x16"  # of the ClientHello
        getattr(transport, close)()
        assert await starting is None
        await hops(5)
        assert protocol.calls == ["connection_made"]
        await gone(wire)

    async def test_with_data_to_send(self, loop, tls):
        """What was written before is sent, then the ClientHello, then the end."""
        transport, protocol, wire = await tls.network.connect()
        transport.set_write_buffer_limits(1 << 30)
        data = bytes(8_000_000)
        transport.write(data)
        transport.close()
        starting = asyncio.ensure_future(
            loop.start_tls(transport, protocol, client_context(), server_hostname=HOST)
        )
        await hops(3)
        sent = await wire.read_all()
        assert sent[: len(data)] == data
        assert sent[len(data) : len(data) + 1] == b"\x16"
        assert await starting is None
        assert protocol.calls == ["connection_made"]

    async def test_over_tls(self, loop, tls, loop_spec):
        """It ends with the close of the outer TLS, or with the peer's answer to it."""
        skip_stock_bug(loop_spec, PYTHON < (3, 13), "TypeError when TLS over TLS fails")
        transport, protocol, outside = await tls.connect()
        transport.close()
        starting = asyncio.ensure_future(
            loop.start_tls(transport, protocol, client_context(), server_hostname=HOST)
        )
        await outside.unwrap()
        with contextlib.suppress(ConnectionResetError):
            assert await starting is None

    async def test_lost(self, loop, tls, loop_spec):
        skip_stock_bug(loop_spec, True, "start_tls on a lost transport never returns")
        transport, protocol, _ = await tls.network.connect()
        transport.close()
        await protocol.lost()
        with pytest.raises(ConnectionResetError):
            await loop.start_tls(transport, protocol, client_context(), server_hostname=HOST)


class TestTlsInTls:
    """A tunnel through an HTTPS proxy: TLS over TLS."""

    @SIDES
    @pytest.mark.parametrize("outer", ["connect", "accept"])
    async def test_data(self, tls, outer, server_side):
        transport, protocol, outside = await getattr(tls, outer)()
        peer = inside(outside, tls.other_context(server_side))
        _, new = await asyncio.gather(
            peer.handshake(), tls.start_tls(transport, protocol, server_side=server_side)
        )
        data = bytes(range(256)) * 400
        new.write(data)
        assert await peer.read(len(data)) == data
        await peer.send_all(data)
        assert await protocol.received(len(data)) == data
        assert new.get_extra_info("peername") == transport.get_extra_info("peername")
        assert new.get_extra_info("ssl_object") is not transport.get_extra_info("ssl_object")
        assert protocol.story == ["connection_made", "data_received"]

    async def test_close(self, tls):
        """Each layer says its own close_notify, the inner one first."""
        transport, protocol, outside = await tls.connect()
        peer = inside(outside, server_context())
        _, new = await asyncio.gather(peer.handshake(), tls.start_tls(transport, protocol))
        new.write(b"last words")
        new.close()
        assert await peer.read_all() == b"last words"
        await peer.unwrap()
        assert await outside.read_all() == b""
        await outside.unwrap()
        assert await protocol.lost() is None
        assert protocol.story == ["connection_made", "eof_received", "connection_lost"]

    async def test_the_end_of_the_inner_one(self, tls):
        transport, protocol, outside = await tls.connect()
        peer = inside(outside, server_context())
        await asyncio.gather(peer.handshake(), tls.start_tls(transport, protocol))
        peer.send(b"last words")
        peer.close_notify()
        assert await outside.read_all() != b""  # the inner close_notify, then the outer one
        await outside.unwrap()
        assert await protocol.lost() is None
        assert protocol.data == b"last words"

    async def test_three_layers(self, tls):
        transport, protocol, peer = await tls.connect()
        for _ in range(2):
            peer = inside(peer, server_context())
            _, transport = await asyncio.gather(
                peer.handshake(), tls.start_tls(transport, protocol)
            )
        transport.write(b"deep")
        assert await peer.read(4) == b"deep"
        peer.send(b"deeper")
        assert await protocol.received(6) == b"deeper"

    async def test_time_out_inside(self, tls, loop_spec):
        skip_stock_bug(loop_spec, PYTHON < (3, 13), "the failure of an inner TLS raises TypeError")
        transport, protocol, outside = await tls.connect()
        with pytest.raises(ConnectionAbortedError):
            await tls.start_tls(transport, protocol, ssl_handshake_timeout=0.02)
        assert transport.is_closing()
        await gone(outside.wire)

    async def test_a_bad_certificate_inside(self, tls, loop_spec):
        skip_stock_bug(loop_spec, PYTHON < (3, 13), "the failure of an inner TLS raises TypeError")
        transport, protocol, outside = await tls.connect()
        peer = inside(outside, server_context("expired"))
        starting = asyncio.ensure_future(tls.start_tls(transport, protocol))
        with contextlib.suppress(OSError):
            await peer.handshake()
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await starting
        assert await protocol.lost() is caught.value


def inside(outside, context):
    """Return a peer that speaks TLS inside the TLS of another one."""
    return TlsPeer(Tunnel(outside), context)


@pytest.mark.skipif(PYTHON < (3, 11), reason="StreamWriter.start_tls is new in 3.11")
class TestStreams:
    async def test_both_sides(self, loop):
        """STARTTLS as a protocol of lines has it."""

        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"GO\n")
            await writer.drain()
            await writer.start_tls(server_context())
            assert writer.get_extra_info("sslcontext") is not None
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"GO\n"
        await writer.start_tls(client_context(), server_hostname=HOST)
        assert writer.get_extra_info("peercert")["subjectAltName"]
        writer.write(b"secret\n")
        assert await reader.readline() == b"SECRET\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    async def test_a_hello_already_in_the_readers_buffer(self, loop, loop_spec, tls):
        """Nothing that the reader has buffered is lost (gh-142352)."""
        broken = sys.version_info < (3, 14, 8)
        skip_stock_bug(loop_spec, broken, "what the reader holds is lost (gh-142352)")
        started = loop.create_future()

        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            await hops(10)
            await writer.start_tls(server_context())
            started.set_result(await reader.readline())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        wire = tls.network.dial(server)
        peer = TlsPeer(wire.sock, client_context())
        wire.send(b"STARTTLS\n" + peer.flight())
        await peer.handshake()
        peer.send(b"secret\n")
        assert await started == b"secret\n"
        server.close()
        peer.close()
        await hops(5)

    async def test_failing(self, loop):
        async def serve(reader, writer):
            await reader.readline()
            writer.write(b"this is not TLS\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"go\n")
        with pytest.raises(ssl.SSLError):
            await writer.start_tls(client_context(), server_hostname=HOST)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    async def test_over_tls(self, loop):
        """The inner TLS of both sides by streams alone."""

        async def serve(reader, writer):
            await writer.start_tls(server_context())
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context(), server_hostname=HOST
        )
        await writer.start_tls(client_context(), server_hostname=HOST)
        writer.write(b"deep\n")
        assert await reader.readline() == b"deep\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()


class TestOldTransport:
    async def test_after_the_upgrade(self, tls):
        """It stays the plain one below: its descriptor, its addresses."""
        transport, protocol, wire = await tls.network.connect()
        peer = TlsPeer(wire.sock, server_context())
        _, new = await asyncio.gather(peer.handshake(), tls.start_tls(transport, protocol))
        assert new.get_extra_info("socket") is not None
        assert new.get_extra_info("socket").fileno() == transport.get_extra_info("socket").fileno()
        assert new.get_extra_info("peername") == transport.get_extra_info("peername")
        assert transport.get_extra_info("ssl_object") is None
        assert not transport.is_closing()
        new.abort()
        assert await protocol.lost() is None
        assert transport.is_closing()

    async def test_aborting_it(self, tls):
        """Takes the TLS connection with it."""
        transport, protocol, wire = await tls.network.connect()
        peer = TlsPeer(wire.sock, server_context())
        await asyncio.gather(peer.handshake(), tls.start_tls(transport, protocol))
        transport.abort()
        assert await protocol.lost() is None
