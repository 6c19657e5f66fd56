"""start_tls where the peer has said its last word already, or one word too many."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from .certificates import client_context, server_context
from .support import PYTHON, BufferedRecorder, Recorder, hops, skip_stock_bug, until
from .tls import HOST, TlsPeer

SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])


@pytest.fixture(params=[Recorder, BufferedRecorder], ids=["plain", "buffered"])
def keeper(request):
    """A protocol that keeps the connection open at the end of the stream."""
    return request.param(keep_open=True)


def opener(kind, network, folder):
    async def open_unix(protocol):
        return await network.connect_unix(folder / "socket", protocol)

    return {"connected": network.connect, "accepted": network.accept, "unix": open_unix}[kind]


KINDS = pytest.mark.parametrize("kind", ["connected", "accepted", "unix"])


@pytest.mark.usefixtures("as_since_311")
class TestAfterTheEndOfTheStream:
    @SIDES
    @KINDS
    async def test_before(self, loop, network, folder, keeper, kind, server_side):
        transport, _, peer = await opener(kind, network, folder)(keeper)
        peer.send(b"last words")
        peer.shutdown()
        await keeper.called("eof_received")
        await refused(loop, transport, keeper, server_side)
        assert keeper.calls.count("eof_received") == 1
        await keeper.lost()

    @SIDES
    @KINDS
    async def test_in_eof_received(self, loop, network, folder, kind, server_side):
        class Upgrades(Recorder):
            def eof_received(self):
                super().eof_received()
                self.task = loop.create_task(refused(loop, self.transport, self, server_side))
                return True

        protocol = Upgrades()
        _, _, peer = await opener(kind, network, folder)(protocol)
        peer.shutdown()
        await protocol.called("eof_received")
        await protocol.task
        await protocol.lost()

    @SIDES
    @KINDS
    @pytest.mark.parametrize("turns", range(5))
    async def test_meanwhile(self, loop, network, folder, keeper, kind, turns, server_side):
        """The end arrives before, as or after the handshake begins."""
        transport, _, peer = await opener(kind, network, folder)(keeper)
        starting = loop.create_task(refused(loop, transport, keeper, server_side))
        await hops(turns)
        peer.shutdown()
        await starting
        await keeper.lost()

    async def test_while_paused(self, loop, network, keeper):
        """It has not been received yet."""
        transport, _, peer = await network.connect(keeper)
        transport.pause_reading()
        peer.shutdown()
        await hops(5)
        await refused(loop, transport, keeper, False)
        assert "eof_received" not in keeper.calls
        await keeper.lost()

    async def test_what_this_side_writes_still_goes_out(self, loop, network, keeper):
        transport, _, peer = await network.connect(keeper)
        peer.shutdown()
        await keeper.called("eof_received")
        transport.write(b"before")
        await refused(loop, transport, keeper, False)
        assert (await peer.read_all()).startswith(b"before\x16\x03")

    @pytest.mark.parametrize("turns", range(5))
    async def test_tls_in_tls(self, loop, loop_spec, tls, turns):
        """The outer TLS ends: its end cannot be kept open, so the connection closes."""
        skip_stock_bug(loop_spec, True, "an error in eof_received, or TypeError before 3.13")
        transport, protocol, outside = await tls.connect()
        starting = loop.create_task(started(loop, transport, protocol))
        await hops(turns)
        outside.close_notify()
        outside.sock.shutdown(1)
        assert isinstance(await starting, ConnectionResetError)

    async def test_tls_in_tls_in_eof_received(self, loop, loop_spec, tls):
        skip_stock_bug(loop_spec, PYTHON < (3, 13), "the failure of an inner TLS raises TypeError")

        class Upgrades(Recorder):
            def eof_received(self):
                super().eof_received()
                self.task = loop.create_task(started(loop, self.transport, self))

        protocol = Upgrades()
        _, _, outside = await tls.connect(protocol)
        outside.close_notify()
        outside.sock.shutdown(1)
        await protocol.called("eof_received")
        # It is closing already.
        assert isinstance(await protocol.task, (ConnectionResetError, type(None)))

    async def test_a_stream_writer(self, loop, network):
        """StreamReaderProtocol keeps a plain connection open at the end."""
        if PYTHON < (3, 11):
            pytest.skip("StreamWriter.start_tls is new in 3.11")
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _, peer = await network.connect(protocol)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        peer.shutdown()
        assert await reader.read() == b""
        with pytest.raises(ConnectionResetError):
            await writer.start_tls(client_context(), server_hostname=HOST)


async def started(loop, transport, protocol, server_side=False):
    """What start_tls returns or raises."""
    context = server_context() if server_side else client_context()
    name = None if server_side else HOST
    try:
        return await loop.start_tls(
            transport, protocol, context, server_side=server_side, server_hostname=name
        )
    except OSError as error:
        return error


async def refused(loop, transport, protocol, server_side):
    """Check that start_tls fails, long before the handshake times out."""
    assert type(await started(loop, transport, protocol, server_side)) is ConnectionResetError


@pytest.mark.usefixtures("as_since_311")
@pytest.mark.skipif(PYTHON < (3, 11), reason="StreamWriter.start_tls is new in 3.11")
class TestPlainTextBeforeTls:
    """Plain text that the StreamReader holds is no protected data: somebody in the middle may have
    put it behind the last answer in plain text (CVE-2011-0411 and its like)."""

    @SIDES
    @pytest.mark.parametrize("by", ["writer", "loop"])
    async def test_is_refused(self, loop, loop_spec, network, by, server_side):
        skip_stock_bug(
            loop_spec,
            not server_side or PYTHON < (3, 14),
            "plain text is read as if TLS had protected it",
        )
        reader, writer, peer = await streams(loop, network)
        peer.send(b"220 go ahead\r\n250 injected\r\n")
        assert await reader.readline() == b"220 go ahead\r\n"
        assert reader._buffer
        with pytest.raises(ssl.SSLError):
            await upgrade(loop, by, writer, server_side)
        with pytest.raises(ssl.SSLError):
            # Nothing of it is read later either.
            assert await reader.read() == b""
            raise reader.exception() or ssl.SSLError
        assert not reader._buffer

    @SIDES
    @pytest.mark.parametrize("by", ["writer", "loop"])
    async def test_the_peers_first_record(self, loop, loop_spec, network, by, server_side):
        """The peer speaks TLS too early, by its own lights: no byte of that is lost."""
        if not server_side:
            pytest.skip("a server says nothing before the client")
        skip_stock_bug(loop_spec, True, "what the reader holds is lost before 3.14.8")
        reader, writer, wire = await streams(loop, network)
        peer = TlsPeer(wire.sock, client_context())
        wire.send(b"STARTTLS\r\n" + peer.flight())
        assert await reader.readline() == b"STARTTLS\r\n"
        await until(lambda: reader._buffer)
        await asyncio.gather(peer.handshake(), upgrade(loop, by, writer, server_side))
        peer.send(b"secret\n")
        assert await reader.readline() == b"secret\n"
        writer.close()

    async def test_a_reader_that_was_full(self, loop, loop_spec, network):
        """Its transport was paused; it reads on."""
        skip_stock_bug(loop_spec, True, "plain text is read as if TLS had protected it")
        reader, writer, peer = await streams(loop, network, limit=4)
        peer.send(bytes(100))
        await until(lambda: reader._paused)
        with pytest.raises(ssl.SSLError):
            await upgrade(loop, "writer", writer, False)


async def streams(loop, network, limit=1 << 16):
    reader = asyncio.StreamReader(limit)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _, peer = await network.connect(protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop), peer


async def upgrade(loop, by, writer, server_side):
    context = server_context() if server_side else client_context()
    name = None if server_side else HOST
    if by == "writer":
        if server_side:
            # A writer takes its side from how its protocol was made.
            writer._protocol._client_connected_cb = print
        await writer.start_tls(context, server_hostname=name)
    else:
        writer._transport = await loop.start_tls(
            writer.transport,
            writer.transport.get_protocol(),
            context,
            server_side=server_side,
            server_hostname=name,
        )
