"""The handshake of TLS: when it is over, how it fails, what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import weakref

import pytest

from .certificates import client_context, server_context
from .support import Recorder, hops, listen, turns, until
from .tls import HOST, TlsPeer

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

VERSIONS = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["1.2", "1.3"])

NOT_TLS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    bytes(100),
    b"\x80\x2e\x01\x00\x02" + bytes(50),  # as SSL 2 had it
    b"SSH-2.0-OpenSSH\r\n",
    b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",  # a message that is too short
    b"\x16\x03\x01\xff\xff" + bytes(100),  # a record that is too long
]


def engine(context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """Return the ssl module's engine alone, with what goes in and what comes out."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = context.protocol == ssl.PROTOCOL_TLS_SERVER
    name = None if server_side else HOST
    made = context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=name)
    return made, incoming, outgoing


def refusal(context: ssl.SSLContext, data: bytes) -> ssl.SSLError:
    """Return what the ssl module says to a peer that answers with `data`."""
    made, incoming, _ = engine(context)
    with contextlib.suppress(ssl.SSLWantReadError):
        made.do_handshake()
    incoming.write(data)
    with pytest.raises(ssl.SSLError) as caught:
        made.do_handshake()
    return caught.value


async def gone(wire):
    """Wait for the end of the connection, a reset included."""
    with contextlib.suppress(ConnectionError):
        await wire.read_all()


class TestOrder:
    @VERSIONS
    @pytest.mark.parametrize("role", ["connect", "accept"])
    async def test_connection_made_comes_after_it(self, tls, role, version):
        class Looking(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                self.version = transport.get_extra_info("ssl_object").version()
                self.cipher = transport.get_extra_info("cipher")

        ours, theirs = server_context(version=version), client_context()
        if role == "connect":
            ours, theirs = client_context(), ours
        _, protocol, _ = await getattr(tls, role)(Looking(), ours, theirs)
        assert protocol.version == {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version]
        assert protocol.cipher is not None
        assert protocol.calls == ["connection_made"]

    async def test_nothing_before_it(self, tls):
        task, protocol, wire = await tls.start_connect()
        hello = await wire.read(5)
        assert hello[0] == 22  # a record of the handshake
        await hops(5)
        assert protocol.calls == []
        assert not task.done()
        wire.close()
        with pytest.raises(ConnectionResetError):
            await task

    async def test_a_server_says_nothing_first(self, tls):
        protocol = Recorder()
        server = await tls.serve(lambda: protocol)
        peer = tls.dial(server)
        await hops(5)
        assert protocol.calls == []
        await peer.handshake()
        await protocol.called("connection_made")

    @VERSIONS
    async def test_byte_by_byte(self, tls, version):
        """Each flight of the peer in pieces of one byte."""
        task, protocol, wire = await tls.start_connect()
        peer = TlsPeer(wire.sock, server_context(version=version))

        def slowly():
            while True:
                flight = peer.flight()
                for index in range(len(flight)):
                    wire.send(flight[index : index + 1])
                if peer.engine.version() and not flight:
                    break
                if protocol.calls:
                    break
                piece = wire.sock.recv(65536)
                peer.feed(piece)

        slow = asyncio.ensure_future(asyncio.to_thread(slowly))
        transport, _ = await task
        transport.write(b"through")
        await slow
        assert await peer.read(7) == b"through"


CERTIFICATES = {
    "stranger": (18, 19, 20),  # self-signed, in the chain too, or no issuer
    "expired": (10,),
    "wrong_host": (62,),
}


class TestOfAClient:
    """What create_connection raises; the protocol hears of nothing."""

    @VERSIONS
    @pytest.mark.parametrize("name", CERTIFICATES)
    async def test_a_bad_certificate(self, tls, name, version):
        task, protocol, wire = await tls.start_connect()
        peer = TlsPeer(wire.sock, server_context(name, version=version))
        with contextlib.suppress(OSError):  # TLS 1.2: the server waits for the client
            await peer.handshake()
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await task
        assert caught.value.verify_code in CERTIFICATES[name]
        assert caught.value.reason == "CERTIFICATE_VERIFY_FAILED"
        assert protocol.calls == []
        await gone(wire)

    @pytest.mark.parametrize("answer", NOT_TLS, ids=range(len(NOT_TLS)))
    async def test_not_tls(self, tls, answer):
        """The error is the ssl module's."""
        context = client_context()
        task, protocol, wire = await tls.start_connect(None, context)
        wire.send(answer)
        with pytest.raises(ssl.SSLError) as caught:
            await task
        expected = refusal(context, answer)
        assert type(caught.value) is type(expected)
        assert caught.value.reason == expected.reason
        assert protocol.calls == []

    @pytest.mark.parametrize("heard", [False, True], ids=["at_once", "after_hello"])
    async def test_the_end(self, tls, heard):
        task, protocol, wire = await tls.start_connect()
        if heard:
            await wire.read(5)
        wire.shutdown()
        with pytest.raises(ConnectionResetError) as caught:
            await task
        assert caught.value.errno is None
        assert protocol.calls == []
        await gone(wire)

    async def test_a_reset(self, tls):
        task, protocol, wire = await tls.start_connect()
        await wire.read(5)
        wire.reset()
        with pytest.raises(ConnectionResetError):
            await task
        assert protocol.calls == []

    @pytest.mark.parametrize("say", ["nothing", "half"])
    async def test_time_out(self, tls, say):
        task, protocol, wire = await tls.start_connect(ssl_handshake_timeout=0.05)
        if say == "half":
            peer = TlsPeer(wire.sock, server_context())
            peer.feed(await wire.read(5))
            wire.send(b"\x16\x03")
        with pytest.raises(ConnectionAbortedError) as caught:
            await task
        text = "SSL handshake is taking longer than 0.05 seconds: aborting the connection"
        assert str(caught.value) == text
        assert protocol.calls == []
        await gone(wire)

    async def test_a_peer_that_goes_on_slowly(self, tls):
        """Bytes that come do not put off the time-out."""
        task, protocol, wire = await tls.start_connect(ssl_handshake_timeout=0.1)
        peer = TlsPeer(wire.sock, server_context())
        peer.feed(await asyncio.to_thread(wire.sock.recv, 65536))
        flight = peer.flight()
        sent = 0
        while not task.done():
            with contextlib.suppress(ConnectionError):
                wire.send(flight[sent : sent + 1])
            sent = min(sent + 1, len(flight) - 2)
            await asyncio.sleep(0.005)
        with pytest.raises(ConnectionAbortedError):
            await task
        assert protocol.calls == []

    async def test_cancelled(self, tls):
        task, protocol, wire = await tls.start_connect()
        await wire.read(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone(wire)
        assert protocol.calls == []

    async def test_a_time_limit_of_the_caller(self, tls):
        task, protocol, wire = await tls.start_connect()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(task, 0.02)
        await gone(wire)
        assert protocol.calls == []

    @VERSIONS
    async def test_a_time_out_that_is_not_reached(self, loop, tls, version):
        """The timer goes when the handshake is over."""
        transport, protocol, peer = await tls.connect(
            None, client_context(version=version), ssl_handshake_timeout=0.5
        )
        await asyncio.sleep(0.6)
        transport.write(b"still here")
        assert await peer.read(10) == b"still here"
        assert protocol.calls == ["connection_made"]

    async def test_no_common_version(self, tls):
        task, protocol, wire = await tls.start_connect(None, client_context(version=TLS13))
        peer = TlsPeer(wire.sock, server_context(version=TLS12))

        def refuse():
            peer.feed(wire.sock.recv(65536))
            with pytest.raises(ssl.SSLError):
                peer.engine.do_handshake()
            wire.send(peer.encrypt())  # the alert

        await asyncio.to_thread(refuse)
        with pytest.raises(ssl.SSLError) as caught:
            await task
        assert "ALERT" in caught.value.reason
        assert protocol.calls == []

    async def test_every_length_of_the_servers_flight(self, loop, tls):
        """The peer's flight is cut off after each of its bytes (of some of the longest)."""

        async def cut(length):
            task, protocol, wire = await tls.start_connect()
            peer = TlsPeer(wire.sock, server_context())
            peer.feed(await asyncio.to_thread(wire.sock.recv, 65536))
            flight = peer.flight()
            assert length < len(flight)
            wire.send(flight[:length])
            wire.shutdown()
            with pytest.raises(OSError) as caught:
                await task
            wire.close()
            assert protocol.calls == []
            return type(caught.value)

        lengths = [*range(12), *range(12, 700, 37)]
        kinds = {await cut(length) for length in lengths}
        assert kinds == {ConnectionResetError}


class TestOfAServer:
    """The protocol hears of nothing, the others are served, and only debug mode tells."""

    def refused(self, error_contexts, kind):
        context = error_contexts.pop()
        assert context["message"] == "Error on transport creation for incoming connection"
        assert isinstance(context["exception"], kind)
        assert "protocol" in context and "transport" in context
        return context["exception"]

    @pytest.fixture(params=[False, True], ids=["", "debug"])
    def debug(self, request, loop):
        loop.set_debug(request.param)
        loop.slow_callback_duration = 60
        return request.param

    async def fail(self, tls, act, debug, error_contexts, kind, **options):
        """Make a client fail by `act(wire)`; another one must be served."""
        protocols = []

        def factory():
            protocols.append(Recorder())
            return protocols[-1]

        server = await tls.serve(factory, **options)
        wire = tls.network.dial(server)
        await act(wire)
        if debug:
            await until(lambda: error_contexts)
            error = self.refused(error_contexts, kind)
        else:
            error = None
            await gone(wire)
            await hops(5)
        gc.collect()
        assert [each.calls for each in protocols] == [[]]
        peer = tls.dial(server, client_context(verify=False))
        await peer.handshake()
        peer.send(b"fine")
        await until(lambda: len(protocols) == 2)
        assert await protocols[1].received(4) == b"fine"
        return error

    @pytest.mark.parametrize("data", NOT_TLS, ids=range(len(NOT_TLS)))
    async def test_not_tls(self, tls, debug, error_contexts, data):
        async def act(wire):
            wire.send(data)

        context = server_context()
        expected = refusal(context, data)
        error = await self.fail(tls, act, debug, error_contexts, ssl.SSLError, context=context)
        if debug:
            assert error.reason == expected.reason
            assert type(error) is type(expected)

    async def test_the_end(self, tls, debug, error_contexts):
        async def act(wire):
            wire.shutdown()

        error = await self.fail(tls, act, debug, error_contexts, ConnectionResetError)
        if debug:
            assert error.errno is None

    async def test_a_reset(self, tls, debug, error_contexts):
        async def act(wire):
            wire.send(TlsPeer(wire.sock, client_context()).flight())
            await wire.read(5)
            wire.reset()
            wire.read_all = hops

        await self.fail(tls, act, debug, error_contexts, ConnectionResetError)

    async def test_time_out(self, tls, debug, error_contexts):
        error = await self.fail(
            tls,
            lambda wire: hops(),
            debug,
            error_contexts,
            ConnectionAbortedError,
            ssl_handshake_timeout=0.5,
        )
        if debug:
            text = "SSL handshake is taking longer than 0.5 seconds: aborting the connection"
            assert str(error) == text

    @VERSIONS
    async def test_a_client_that_does_not_trust_it(self, tls, debug, error_contexts, version):
        async def act(wire):
            context = client_context(version=version)
            peer = TlsPeer(wire.sock, context)

            def refuse():
                with pytest.raises(ssl.SSLCertVerificationError):
                    peer.handshake_blocking()  # which sends the alert

            await asyncio.to_thread(refuse)

        error = await self.fail(
            tls, act, debug, error_contexts, ssl.SSLError, context=server_context("stranger")
        )
        if debug:
            assert error.reason == "TLSV1_ALERT_UNKNOWN_CA"

    @VERSIONS
    async def test_a_client_without_a_certificate(self, tls, debug, error_contexts, version):
        """With TLS 1.3 the client finds its own handshake complete, and is told later."""
        protocol = Recorder()
        context = server_context(clients=ssl.CERT_REQUIRED)
        server = await tls.serve(lambda: protocol, context)
        peer = tls.dial(server, client_context(version=version))
        with contextlib.suppress(OSError):
            await peer.handshake()
            await peer.read(1)
        if debug:
            await until(lambda: error_contexts)
            error = self.refused(error_contexts, ssl.SSLError)
            assert error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
        await hops(5)
        assert protocol.calls == []

    async def test_the_server_is_closed_meanwhile(self, tls):
        """A handshake that has begun is finished."""
        protocol = Recorder()
        server = await tls.serve(lambda: protocol)
        peer = tls.dial(server)
        peer.wire.send(peer.flight())
        peer.feed(await asyncio.to_thread(peer.sock.recv, 65536))
        server.close()
        await peer.handshake()
        await protocol.called("connection_made")
        peer.send(b"data")
        assert await protocol.received(4) == b"data"


class TestLeftBehind:
    """Nothing: no timer, no task, no transport, no descriptor."""

    @pytest.mark.parametrize("how", ["end", "reset", "garbage", "timeout", "cancel"])
    async def test_by_a_client(self, loop, tls, how):
        before = asyncio.all_tasks()
        context = client_context()
        task, protocol, wire = await tls.start_connect(
            None, context, ssl_handshake_timeout=0.02 if how == "timeout" else 3600
        )
        await wire.read(5)
        {
            "end": wire.shutdown,
            "reset": wire.reset,
            "garbage": lambda: wire.send(bytes(100)),
            "timeout": lambda: None,
            "cancel": task.cancel,
        }[how]()
        with pytest.raises(asyncio.CancelledError if how == "cancel" else OSError):
            await task
        reference = weakref.ref(context)
        del context, task, protocol
        await hops(5)
        gc.collect()
        assert reference() is None
        assert asyncio.all_tasks() <= before

    @pytest.mark.parametrize("how", ["end", "garbage", "timeout"])
    async def test_by_a_server(self, loop, tls, how):
        before = asyncio.all_tasks()
        references = []

        def factory():
            protocol = Recorder()
            references.append(weakref.ref(protocol))
            return protocol

        server = await tls.serve(factory, ssl_handshake_timeout=0.5 if how == "timeout" else 3600)
        wire = tls.network.dial(server)
        if how == "end":
            wire.shutdown()
        elif how == "garbage":
            wire.send(bytes(100))
        await gone(wire)
        await hops(5)
        gc.collect()
        assert [each() for each in references] == [None]
        assert asyncio.all_tasks() <= before

    def test_a_loop_that_is_closed_meanwhile(self, loop, tls):
        """The connection ends with its loop, in silence."""

        async def main():
            with listen() as listener:
                task = loop.create_task(
                    loop.create_connection(
                        Recorder,
                        *listener.getsockname(),
                        ssl=client_context(),
                        server_hostname=HOST,
                    )
                )
                wire = tls.network.peer((await asyncio.to_thread(listener.accept))[0])
                await wire.read(5)
                return task, wire

        task, wire = loop.run_until_complete(main())
        task.cancel()
        turns(loop, 5)
        assert task.cancelled()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        with contextlib.suppress(ConnectionError):
            wire.read_blocking(1 << 20)  # it ends
        wire.close()


class TestCallbacksThatRaise:
    @pytest.mark.parametrize("role", ["connect", "accept"])
    async def test_connection_made(self, tls, role, error_contexts):
        """It is reported, ends the connection, and is what create_connection raises."""

        class Failing(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise LookupError("not made")

        protocol = Failing()
        if role == "connect":
            task, _, wire = await tls.start_connect(protocol)
            peer = TlsPeer(wire.sock, server_context())
            with contextlib.suppress(OSError):
                await peer.handshake()
            with pytest.raises(LookupError, match="not made"):
                await task
        else:
            server = await tls.serve(lambda: protocol)
            peer = tls.dial(server)
            with contextlib.suppress(OSError):
                await peer.handshake()
        error = await protocol.lost()
        assert isinstance(error, LookupError)
        context = error_contexts.pop()
        assert context["exception"] is error
        assert protocol.calls == ["connection_made", "connection_lost"]
        await gone(peer.wire)

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # before 3.14.8
    @pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
    async def test_the_factory_of_a_client(self, loop, tls):
        def factory():
            raise LookupError("no protocol")

        with listen() as listener:
            with pytest.raises(LookupError, match="no protocol"):
                await loop.create_connection(
                    factory, *listener.getsockname(), ssl=client_context(), server_hostname=HOST
                )
            gc.collect()


class TestInterrupts:
    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
    def test_in_connection_made(self, loop, tls, interrupt):
        class Stopping(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise interrupt("stop")

        protocol = Stopping()

        async def begin():
            server = await tls.serve(lambda: protocol)
            peer = tls.dial(server)
            return loop.run_in_executor(None, peer.handshake_blocking)

        handshake = loop.run_until_complete(begin())
        with pytest.raises(interrupt, match="stop"):
            loop.run_until_complete(asyncio.sleep(30))
        assert protocol.calls == ["connection_made"]
        protocol.transport.abort()
        with contextlib.suppress(OSError):
            loop.run_until_complete(handshake)
        loop.run_until_complete(protocol.lost())
