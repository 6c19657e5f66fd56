"""TLS through each way to get a connection: arguments, data, Unix sockets, streams, contexts."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import socket
import ssl
import warnings

import pytest

from .certificates import client_context, server_context
from .support import (
    PYTHON,
    BufferedRecorder,
    Recorder,
    hops,
    listen,
    tcp_pair,
    unix_listen,
    until,
)
from .tls import HOST, TlsPeer

TIMEOUTS = ["ssl_handshake_timeout"]
if PYTHON >= (3, 11):
    TIMEOUTS.append("ssl_shutdown_timeout")

NOBODY = ("127.0.0.1", 1)
"""An address that is not looked at when the arguments are wrong."""


async def accepted(listener: socket.socket) -> socket.socket:
    return (await asyncio.to_thread(listener.accept))[0]


class TestArgumentsOfCreateConnection:
    async def test_a_name_without_tls(self, loop):
        for off in (None, False, 0):
            with pytest.raises(ValueError) as caught:
                await loop.create_connection(Recorder, *NOBODY, ssl=off, server_hostname=HOST)
            assert str(caught.value) == "server_hostname is only meaningful with ssl"

    @pytest.mark.parametrize("tls_argument", [True, "context"])
    async def test_no_name(self, loop, network, tls_argument):
        near, far = tcp_pair()
        network.peer(far)
        network.peer(near)
        context = client_context() if tls_argument == "context" else True
        for place in {"sock": near}, {"host": "", "port": 1}:
            with pytest.raises(ValueError) as caught:
                await loop.create_connection(Recorder, ssl=context, **place)
            text = "You must set server_hostname when using ssl without a host"
            assert str(caught.value) == text
        assert near.fileno() >= 0  # the socket is still the caller's

    @pytest.mark.parametrize("name", TIMEOUTS)
    async def test_a_time_out_without_tls(self, loop, name):
        for off in (None, False):
            with pytest.raises(ValueError) as caught:
                await loop.create_connection(Recorder, *NOBODY, ssl=off, **{name: 1.0})
            assert str(caught.value) == f"{name} is only meaningful with ssl"

    @pytest.mark.parametrize("name", TIMEOUTS)
    @pytest.mark.parametrize("value", [0, 0.0, -1, -0.5])
    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # before 3.14.8
    async def test_a_time_out_of_nothing(self, loop, tls, name, value):
        protocol = Recorder()
        task, _, peer = await tls.start_connect(protocol, **{name: value})
        with pytest.raises(ValueError) as caught:
            await task
        assert str(caught.value) == f"{name} should be a positive number, got {value}"
        assert protocol.calls == []
        peer.close()

    @pytest.mark.skipif(PYTHON >= (3, 11), reason="3.11 has it")
    async def test_no_shutdown_time_out_yet(self, loop, loop_factory):
        with pytest.raises(TypeError):
            await loop.create_connection(Recorder, *NOBODY, ssl=True, ssl_shutdown_timeout=1)
        with pytest.raises(TypeError):
            await loop.create_server(Recorder, *NOBODY, ssl_shutdown_timeout=1)
        with pytest.raises(TypeError):
            await loop.start_tls(None, None, None, ssl_shutdown_timeout=1)

    async def test_a_wrapped_socket(self, loop, network):
        near, far = tcp_pair()
        network.peer(far)
        wrapped = client_context().wrap_socket(
            near, do_handshake_on_connect=False, server_hostname=HOST
        )
        with wrapped:
            with pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$"):
                await loop.create_connection(Recorder, sock=wrapped)
            with pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$"):
                await loop.connect_accepted_socket(Recorder, wrapped)
            with pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$"):
                await loop.create_server(Recorder, sock=wrapped)

    async def test_true_means_the_default_context(self, loop, tls):
        """It verifies: nobody vouches for the peer."""
        protocol = Recorder()
        task, _, wire = await tls.start_connect(protocol, ssl=True)
        peer = TlsPeer(wire.sock, server_context())
        with pytest.raises((ssl.SSLError, OSError)):
            await peer.handshake()
            await peer.read(1)
            peer.send(b"x" * 10)
            raise ConnectionError("TLS 1.3 tells a server late, or not at all")
        with pytest.raises(ssl.SSLCertVerificationError):
            await task
        assert protocol.calls == []

    async def test_the_host_is_the_name(self, loop, tls):
        """127.0.0.1 is in the certificate; the name of the host would do as well."""
        transport, _, peer = await tls.connect(server_hostname=None)
        assert transport.get_extra_info("ssl_object").server_hostname == "127.0.0.1"
        peer.close()

    async def test_an_empty_name(self, loop, tls):
        """Allowed where no name is to be checked; none is sent."""
        names = []
        context = server_context()
        context.sni_callback = lambda engine, name, context: names.append(name)
        transport, _, _ = await tls.connect(
            None, client_context(verify=False), context, server_hostname=""
        )
        assert transport.get_extra_info("ssl_object").server_hostname is None
        assert names == [None]

    async def test_an_empty_name_that_is_to_be_checked(self, loop, tls):
        """As ssl.SSLObject: in older releases nothing is compared, newer ones refuse."""
        task, protocol, wire = await tls.start_connect(server_hostname="")
        try:
            client_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
        except ValueError as refused:
            with pytest.raises(ValueError) as caught:
                await task
            assert str(caught.value) == str(refused)
            assert protocol.calls == []
        else:
            await TlsPeer(wire.sock, server_context("wrong_host")).handshake()
            await task
            assert protocol.calls == ["connection_made"]

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # before 3.14.8
    async def test_the_context_of_a_server(self, loop, tls):
        task, protocol, _ = await tls.start_connect(None, server_context())
        with pytest.raises(ssl.SSLError, match="PROTOCOL_TLS_SERVER"):
            await task
        assert protocol.calls == []

    @pytest.mark.parametrize("wrong", ["context", 1, object()], ids=["str", "int", "object"])
    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # before 3.14.8
    async def test_no_context_at_all(self, loop, tls, wrong):
        task, protocol, _ = await tls.start_connect(ssl=wrong)
        with pytest.raises(AttributeError, match="wrap_bio"):
            await task
        assert protocol.calls == []


class TestArgumentsOfServers:
    @pytest.mark.parametrize("wrong", [True, False])
    async def test_not_a_context(self, loop, folder, wrong):
        text = r"^ssl argument must be an SSLContext or None$"
        with pytest.raises(TypeError, match=text):
            await loop.create_server(Recorder, "127.0.0.1", 0, ssl=wrong)
        with pytest.raises(TypeError, match=text):
            await loop.create_unix_server(Recorder, str(folder / "socket"), ssl=wrong)
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize("name", TIMEOUTS)
    async def test_a_time_out_without_tls(self, loop, folder, name):
        text = f"^{name} is only meaningful with ssl$"
        with pytest.raises(ValueError, match=text):
            await loop.create_server(Recorder, "127.0.0.1", 0, **{name: 1})
        with pytest.raises(ValueError, match=text):
            await loop.create_unix_server(Recorder, str(folder / "socket"), **{name: 1})

    @pytest.mark.parametrize("name", TIMEOUTS)
    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # asyncio leaves its socket open
    @pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
    async def test_a_time_out_of_nothing(self, loop, tls, error_contexts, name):
        """It is found out when there is a client; only a loop in debug mode tells."""
        protocol = Recorder()
        server = await tls.serve(lambda: protocol, **{name: 0})
        await tls.network.dial(server).read_all()
        gc.collect()
        assert error_contexts == []
        loop.set_debug(True)
        tls.network.dial(server)
        await until(lambda: error_contexts)
        context = error_contexts.pop()
        assert context["message"] == "Error on transport creation for incoming connection"
        assert context["protocol"] is protocol
        assert "transport" not in context
        error = context["exception"]
        assert isinstance(error, ValueError)
        assert str(error) == f"{name} should be a positive number, got 0"
        assert protocol.calls == []
        loop.set_debug(False)
        del context, error
        gc.collect()


class TestArgumentsOfUnixConnections:
    async def test_a_name_without_tls(self, loop, folder):
        with pytest.raises(ValueError, match=r"^server_hostname is only meaningful with ssl$"):
            await loop.create_unix_connection(
                Recorder, str(folder / "socket"), server_hostname=HOST
            )

    @pytest.mark.parametrize("name", TIMEOUTS)
    async def test_a_time_out_without_tls(self, loop, folder, name):
        with pytest.raises(ValueError, match=f"^{name} is only meaningful with ssl$"):
            await loop.create_unix_connection(Recorder, str(folder / "socket"), **{name: 1})

    async def test_no_name(self, loop, folder):
        for context in True, client_context():
            with pytest.raises(ValueError) as caught:
                await loop.create_unix_connection(Recorder, str(folder / "socket"), ssl=context)
            assert str(caught.value) == "you have to pass server_hostname when using ssl"


class TestArgumentsOfConnectAcceptedSocket:
    @pytest.mark.parametrize("name", TIMEOUTS)
    async def test_a_time_out_without_tls(self, loop, network, name):
        near, far = tcp_pair()
        network.peer(near)
        network.peer(far)
        with pytest.raises(ValueError, match=f"^{name} is only meaningful with ssl$"):
            await loop.connect_accepted_socket(Recorder, near, **{name: 1})

    async def test_true(self, loop, network):
        near, far = tcp_pair()
        network.peer(near)
        network.peer(far)
        with pytest.raises(ValueError, match=r"^Server side SSL needs a valid SSLContext$"):
            await loop.connect_accepted_socket(Recorder, near, ssl=True)

    @pytest.mark.usefixtures("as_since_311")
    async def test_the_context_of_a_client(self, loop, network):
        near, far = tcp_pair()
        network.peer(near)
        network.peer(far)
        with pytest.raises(ssl.SSLError, match="PROTOCOL_TLS_CLIENT"):
            await loop.connect_accepted_socket(Recorder, near, ssl=client_context(verify=False))


def test_signatures(loop_factory):
    """The TLS arguments have asyncio's names, kinds and defaults."""
    loop = loop_factory()
    try:
        for method in (
            "create_connection",
            "create_server",
            "create_unix_connection",
            "create_unix_server",
            "connect_accepted_socket",
            "start_tls",
        ):
            theirs = inspect.signature(getattr(asyncio.SelectorEventLoop, method))
            ours = inspect.signature(getattr(loop, method))
            for name in ("ssl", "server_hostname", "server_side", *TIMEOUTS):
                if name in theirs.parameters:
                    assert ours.parameters[name].kind == theirs.parameters[name].kind
                    assert ours.parameters[name].default == theirs.parameters[name].default
    finally:
        loop.close()


class TestData:
    @pytest.mark.parametrize("size", [1, 16_384, 16_385, 1_000_000])
    async def test_both_ways(self, tls_opened, size):
        transport, protocol, peer = await tls_opened()
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        transport.write(data)
        assert await peer.read(size) == data
        await peer.send_all(data)
        assert await protocol.received(size) == data

    async def test_many_small_writes(self, tls_opened):
        transport, _, peer = await tls_opened()
        for number in range(1000):
            transport.write(b"%03d" % number)
        assert await peer.read(3000) == b"".join(b"%03d" % number for number in range(1000))

    async def test_what_can_be_written(self, tls_opened):
        transport, _, peer = await tls_opened()
        data = bytearray(b"bytearray ")
        transport.write(data)
        data[:] = b"never mind"
        transport.write(memoryview(b"xviewx")[1:-1])
        transport.write(b"")
        transport.writelines([b" one", bytearray(b" two"), memoryview(b" three")])
        transport.writelines(iter([b" four"]))
        transport.writelines([])
        expected = b"bytearray view one two three four"
        assert await peer.read(len(expected)) == expected

    @pytest.mark.parametrize("wrong", ["text", None, 5, [1]])
    async def test_what_cannot(self, tls_opened, wrong):
        transport, _, peer = await tls_opened()
        with pytest.raises(TypeError) as caught:
            transport.write(wrong)
        text = f"data: expecting a bytes-like instance, got {type(wrong).__name__}"
        assert str(caught.value) == text
        transport.write(b"fine")
        assert await peer.read(4) == b"fine"

    async def test_written_in_connection_made(self, loop, tls):
        class Greeting(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(b"hello")

        for opened in tls.connect, tls.accept:
            _, _, peer = await opened(Greeting())
            assert await peer.read(5) == b"hello"

    async def test_a_server_that_speaks_first(self, loop, tls):
        """What comes with the last flight of the handshake is received after connection_made."""
        task, protocol, wire = await tls.start_connect()
        context = server_context(version=ssl.TLSVersion.TLSv1_3)
        peer = TlsPeer(wire.sock, context)

        def speak():
            peer.feed(wire.sock.recv(65536))
            flight = peer.flight()
            # TLS 1.3: a server may send before the client has finished.
            wire.send(flight)
            peer.handshake_blocking()
            peer.send(b"hello")

        await asyncio.to_thread(speak)
        await task
        assert await protocol.received(5) == b"hello"
        assert protocol.story == ["connection_made", "data_received"]

    async def test_two_loops_of_the_same_kind(self, loop, tls):
        """Both ends on one loop."""
        server_protocol = Recorder()
        server = await tls.serve(lambda: server_protocol)
        transport, protocol = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname(), ssl=client_context(), server_hostname=HOST
        )
        tls.network.keep(transport)
        data = bytes(300_000)
        transport.write(data)
        await server_protocol.received(len(data))
        server_protocol.transport.write(data)
        await protocol.received(len(data))
        transport.close()
        assert await protocol.lost() is None
        assert await server_protocol.lost() is None
        assert server_protocol.story == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]

    async def test_slow_records(self, tls_opened):
        """A record that comes byte by byte is one piece of data."""
        _, protocol, peer = await tls_opened()
        record = peer.encrypt(b"data")
        for index in range(len(record)):
            peer.wire.send(record[index : index + 1])
            await hops()
        await protocol.received(4)
        assert protocol.calls.count("data_received") == 1

    async def test_many_at_once(self, loop, tls):
        """Many clients of one server, all handshakes at the same time."""

        class Echo(Recorder):
            def data_received(self, data):
                self.transport.write(data)

        async def client(number):
            reader, writer = await asyncio.open_connection(
                *address, ssl=context, server_hostname=HOST
            )
            writer.write(b"%05d" % number * 100)
            answer = await reader.readexactly(500)
            writer.close()
            await writer.wait_closed()
            return answer

        server = await tls.serve(Echo)
        address = server.sockets[0].getsockname()
        context = client_context()
        answers = await asyncio.gather(*map(client, range(40)))
        assert answers == [b"%05d" % number * 100 for number in range(40)]


class TestTransport:
    async def test_kinds(self, tls_opened):
        transport, protocol, _ = await tls_opened()
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_protocol() is protocol
        assert transport.is_closing() is False
        assert transport.is_reading() is True
        if PYTHON >= (3, 11):
            assert transport._start_tls_compatible is True

    async def test_no_end_of_one_side(self, tls_opened):
        transport, _, peer = await tls_opened()
        assert transport.can_write_eof() is False
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        transport.write(b"still here")
        assert await peer.read(10) == b"still here"

    @pytest.mark.parametrize("buffered", [False, True])
    async def test_another_protocol(self, tls_opened, buffered):
        transport, first, peer = await tls_opened()
        peer.send(b"one")
        await first.received(3)
        second = BufferedRecorder() if buffered else Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        peer.send(b"two")
        assert await second.received(3) == b"two"
        peer.close_notify()
        assert await second.lost() is None
        assert first.story == ["connection_made", "data_received"]
        updated = "buffer_updated" if buffered else "data_received"
        assert second.story == [updated, "eof_received", "connection_lost"]

    async def test_another_protocol_inside_a_callback(self, tls_opened):
        second = Recorder()

        class First(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.set_protocol(second)

        _, first, peer = await tls_opened(First())
        peer.send(b"one")
        await first.received(3)
        peer.send(b"two")
        assert await second.received(3) == b"two"

    def test_never_closed(self, loop, tls):
        """It warns when it is collected, as any transport."""

        async def main():
            server = await tls.serve()
            await loop.create_connection(
                asyncio.Protocol,
                *server.sockets[0].getsockname(),
                ssl=client_context(),
                server_hostname=HOST,
            )

        loop.run_until_complete(main())
        loop.run_until_complete(tls.network.close())
        loop.close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gc.collect()
        texts = [str(each.message) for each in caught if each.category is ResourceWarning]
        assert any(text.startswith("unclosed transport") for text in texts)


class TestSendfile:
    """The kernel cannot encrypt: a file is read and written."""

    @pytest.fixture
    def file(self, folder):
        path = folder / "file"
        path.write_bytes(bytes(range(256)) * 4000)
        with path.open("rb") as opened:
            yield opened

    async def test_between_writes(self, loop, tls_opened, file):
        transport, _, peer = await tls_opened()
        transport.write(b"before")
        reading = asyncio.ensure_future(peer.read(6 + 1_024_000 + 5))
        assert await loop.sendfile(transport, file) == 1_024_000
        transport.write(b"after")
        assert await reading == b"before" + bytes(range(256)) * 4000 + b"after"
        assert file.tell() == 1_024_000

    async def test_a_part(self, loop, tls, file):
        transport, _, peer = await tls.connect()
        assert await loop.sendfile(transport, file, 256, 512) == 512
        assert await peer.read(512) == bytes(range(256)) * 2
        assert file.tell() == 768

    async def test_native_alone(self, loop, tls, file):
        transport, _, _ = await tls.connect()
        with pytest.raises(RuntimeError) as caught:
            await loop.sendfile(transport, file, fallback=False)
        text = "fallback is disabled and native sendfile is not supported for transport "
        assert str(caught.value) == text + repr(transport)

    async def test_protocol_is_back(self, loop, tls, file):
        """The protocol hears of data again, also of what came meanwhile."""
        transport, protocol, peer = await tls.connect()
        reading = asyncio.ensure_future(peer.read(1_024_000))
        await loop.sendfile(transport, file)
        await reading
        assert transport.get_protocol() is protocol
        peer.send(b"thanks")
        assert await protocol.received(6) == b"thanks"

    async def test_closing(self, loop, tls, file):
        transport, _, _ = await tls.connect()
        transport.abort()
        with pytest.raises(RuntimeError, match=r"^Transport is closing$"):
            await loop.sendfile(transport, file)


class TestUnixSockets:
    async def test_connection(self, loop, folder, tls):
        path = str(folder / "socket")
        with unix_listen(path) as listener:
            protocol = Recorder()
            task = asyncio.ensure_future(
                loop.create_unix_connection(
                    lambda: protocol, path, ssl=client_context(), server_hostname=HOST
                )
            )
            peer = TlsPeer(await accepted(listener), server_context())
        tls.network.peer(peer.sock)
        _, (transport, _) = await asyncio.gather(peer.handshake(), task)
        transport.write(b"out")
        assert await peer.read(3) == b"out"
        peer.send(b"in")
        assert await protocol.received(2) == b"in"
        assert transport.get_extra_info("sslcontext") is not None
        transport.close()
        await peer.unwrap()
        assert await protocol.lost() is None

    async def test_server(self, loop, folder, tls):
        path = str(folder / "socket")
        protocol = Recorder()
        await tls.network.serve_unix(lambda: protocol, path, ssl=server_context())
        sock = socket.socket(socket.AF_UNIX)
        tls.network.peer(sock)
        sock.connect(path)
        peer = TlsPeer(sock, client_context())
        sock.settimeout(30)
        await peer.handshake()
        peer.send(b"in")
        assert await protocol.received(2) == b"in"
        protocol.transport.write(b"out")
        assert await peer.read(3) == b"out"
        peer.close_notify()
        assert await protocol.lost() is None

    async def test_streams(self, loop, folder):
        async def serve(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        path = str(folder / "socket")
        server = await asyncio.start_unix_server(serve, path, ssl=server_context())
        reader, writer = await asyncio.open_unix_connection(
            path, ssl=client_context(), server_hostname=HOST
        )
        writer.write(b"line\n")
        assert await reader.read() == b"line\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()


class TestConnectAcceptedSocket:
    async def test_data(self, loop, tls):
        with listen() as listener:
            peer = TlsPeer(socket.create_connection(listener.getsockname(), 30), client_context())
            tls.network.peer(peer.sock)
            sock, _ = listener.accept()
        protocol = Recorder()
        _, (transport, _) = await asyncio.gather(
            peer.handshake(),
            loop.connect_accepted_socket(lambda: protocol, sock, ssl=server_context()),
        )
        peer.send(b"in")
        assert await protocol.received(2) == b"in"
        transport.write(b"out")
        assert await peer.read(3) == b"out"
        transport.close()
        await peer.unwrap()
        assert await protocol.lost() is None

    async def test_failing(self, loop, network):
        near, far = tcp_pair()
        peer = network.peer(far)
        task = asyncio.ensure_future(
            loop.connect_accepted_socket(Recorder, near, ssl=server_context())
        )
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ssl.SSLError) as caught:
            await task
        assert caught.value.reason == "HTTP_REQUEST"


class TestStreams:
    async def test_exchange(self, loop):
        async def serve(reader, writer):
            assert writer.get_extra_info("sslcontext") is context
            async for line in reader:
                writer.write(line.upper())
                await writer.drain()
            writer.close()

        context = server_context()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context(), server_hostname=HOST
        )
        assert not writer.can_write_eof()
        for number in range(10):
            writer.write(b"line %d\n" % number)
            assert await reader.readline() == b"LINE %d\n" % number
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
        server.close()
        await server.wait_closed()

    async def test_large(self, loop):
        """Both flow controls at work: the far end waits before it reads."""

        async def serve(reader, writer):
            await asyncio.sleep(0.05)
            writer.write(await reader.readexactly(len(data)))
            await writer.drain()
            writer.close()

        data = bytes(range(256)) * 20_000
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context(), server_hostname=HOST
        )
        writer.write(data)
        await writer.drain()
        assert await reader.read() == data
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    async def test_a_failed_certificate(self, loop):
        server = await asyncio.start_server(
            lambda *_: None, "127.0.0.1", 0, ssl=server_context("stranger")
        )
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context(), server_hostname=HOST
            )
        server.close()
        await server.wait_closed()


class TestContexts:
    """Each callback runs in the context of the call that made the connection."""

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="-")

    @pytest.mark.parametrize("opened", ["connect", "accept"])
    async def test_of_callbacks(self, loop, tls, opened):
        seen = []

        class Seeing(Recorder):
            def record(self, call):
                seen.append((call, TestContexts.variable.get()))
                super().record(call)

        self.variable.set("outer")
        protocol = Seeing()
        _, _, peer = await getattr(tls, opened)(protocol)
        self.variable.set("later")
        peer.send(b"data")
        await protocol.received(4)
        peer.close_notify()
        await protocol.lost()
        assert seen == [
            ("connection_made", "outer"),
            ("data_received", "outer"),
            ("eof_received", "outer"),
            ("connection_lost", "outer"),
        ]


class TestServers:
    async def test_attached_while_open(self, loop, tls):
        """wait_closed and sockets, with a client."""
        server = await tls.serve()
        peer = tls.dial(server)
        await peer.handshake()
        server.close()
        assert server.sockets == ()
        peer.send(b"still served")
        peer.close()
        await server.wait_closed()

    @pytest.mark.skipif(PYTHON < (3, 13), reason="new in 3.13")
    @pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
    async def test_clients_closed_by_the_server(self, loop, tls, method):
        protocol = Recorder()
        server = await tls.serve(lambda: protocol)
        peer = tls.dial(server)
        await peer.handshake()
        await protocol.called("connection_made")
        server.close()
        getattr(server, method)()
        assert await protocol.lost() is None
        await server.wait_closed()
        assert protocol.transport.is_closing()

    @pytest.mark.skipif(PYTHON < (3, 12), reason="3.12 waits")
    async def test_a_client_in_its_handshake(self, loop, tls):
        """It counts as a client of the server."""
        server = await tls.serve()
        wire = tls.network.dial(server)
        wire.send(TlsPeer(wire.sock, client_context()).flight())
        # The server has answered: it has a transport.
        assert await wire.read(1)
        server.close()
        waiting = asyncio.ensure_future(server.wait_closed())
        await hops(5)
        assert not waiting.done()
        wire.close()
        await waiting
