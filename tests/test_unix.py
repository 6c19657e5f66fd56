"""Connections over Unix sockets (event loop page): create_unix_connection, and what is carried."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from pathlib import Path

import pytest

from .support import (
    PYTHON,
    BufferedRecorder,
    Recorder,
    abort,
    descriptors,
    fill,
    hops,
    module_of,
    skip_stock_bug,
    unix_listen,
)

# Where the protocol factory raises, stock asyncio leaves the socket to the collector.
STRAY_SOCKET = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class PathLike:
    """What `os.fspath` takes."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


@pytest.fixture
def path(folder):
    return str(folder / "socket")


@pytest.fixture
def listener(path):
    with unix_listen(path) as sock:
        yield sock


@pytest.fixture
def abstract():
    """The abstract name of a listener, as bytes."""
    with unix_listen(b"\0oxloop-test-%d" % os.getpid()) as sock:
        yield sock.getsockname()


async def disconnect(transport, protocol):
    transport.close()
    await protocol.lost()


class TestByPath:
    async def test_returns_transport_and_protocol(self, loop, path, listener):
        made = []

        def factory():
            made.append(Recorder())
            return made[-1]

        transport, protocol = await loop.create_unix_connection(factory, path)
        assert made == [protocol]
        assert protocol.transport is transport
        assert protocol.calls == ["connection_made"]
        assert isinstance(transport, asyncio.Transport)
        await disconnect(transport, protocol)

    @pytest.mark.parametrize(
        "convert",
        [str, os.fsencode, Path, PathLike, lambda path: PathLike(os.fsencode(path))],
        ids=["str", "bytes", "Path", "PathLike", "PathLike-bytes"],
    )
    async def test_forms_of_the_path(self, network, path, convert):
        transport, protocol, peer = await network.connect_unix(convert(path))
        assert transport.get_extra_info("peername") == path
        transport.write(b"ping")
        assert await peer.read(4) == b"ping"
        peer.send(b"pong")
        assert await protocol.received(4) == b"pong"

    @pytest.mark.parametrize("convert", [bytes, bytes.decode], ids=["bytes", "str"])
    async def test_abstract_names(self, loop, abstract, convert):
        transport, protocol = await loop.create_unix_connection(Recorder, convert(abstract))
        assert transport.get_extra_info("peername") == abstract
        assert transport.get_extra_info("sockname") == ""
        await disconnect(transport, protocol)

    async def test_a_name_that_is_no_text(self, loop, folder):
        path = os.fsencode(folder / "name-\udcff")
        with unix_listen(path):
            transport, protocol = await loop.create_unix_connection(Recorder, path)
            assert transport.get_extra_info("peername") == os.fsdecode(path)
            await disconnect(transport, protocol)

    async def test_the_longest_path(self, loop, folder, monkeypatch):
        monkeypatch.chdir(folder)
        path = "x" * 107
        with unix_listen(path):
            transport, protocol = await loop.create_unix_connection(Recorder, path)
            assert transport.get_extra_info("peername") == path
            await disconnect(transport, protocol)

    async def test_a_relative_path_is_relative_to_the_present_directory(
        self, loop, folder, path, listener, monkeypatch
    ):
        monkeypatch.chdir(folder)
        transport, protocol = await loop.create_unix_connection(Recorder, "socket")
        assert transport.get_extra_info("peername") == path
        await disconnect(transport, protocol)
        monkeypatch.chdir("/")
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Recorder, "socket")

    async def test_many_at_once(self, loop, path, listener):
        pairs = await asyncio.gather(
            *(loop.create_unix_connection(Recorder, path) for _ in range(50))
        )
        for transport, _ in pairs:
            abort(transport)
        await asyncio.gather(*(protocol.lost() for _, protocol in pairs))

    async def test_cancelled_at_every_step(self, loop, path, listener):
        for count in range(8):
            before = descriptors()
            calls = []

            class Protocol(asyncio.Protocol):
                def connection_made(self, transport, calls=calls):
                    calls.append("made")
                    transport.close()

                def connection_lost(self, exc, calls=calls):
                    calls.append("lost")

            task = loop.create_task(loop.create_unix_connection(Protocol, path))
            await hops(count)
            task.cancel()
            await asyncio.wait([task])
            await hops(4)
            assert calls in ([], ["made", "lost"])
            assert descriptors() == before


class TestNames:
    async def test_the_ends_of_a_connection(self, network, path):
        transport, _, _ = await network.connect_unix(path)
        sock = transport.get_extra_info("socket")
        assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        assert transport.get_extra_info("peername") == sock.getpeername() == path
        assert transport.get_extra_info("sockname") == sock.getsockname() == ""
        assert sock.gettimeout() == 0
        assert not os.get_inheritable(sock.fileno())

    async def test_they_stay_known_after_the_end(self, network, path):
        transport, protocol, _ = await network.connect_unix(path)
        await disconnect(transport, protocol)
        await hops()
        assert transport.get_extra_info("peername") == path
        assert transport.get_extra_info("sockname") == ""
        assert transport.get_extra_info("socket").fileno() == -1

    @pytest.mark.parametrize(
        "name", ["bound", b"\0oxloop-bound-%d" % os.getpid()], ids=["path", "abstract"]
    )
    async def test_a_client_with_a_name(self, loop, path, folder, listener, name):
        name = str(folder / name) if isinstance(name, str) else name
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(name)
        sock.connect(path)
        transport, protocol = await loop.create_unix_connection(Recorder, sock=sock)
        assert transport.get_extra_info("sockname") == name
        await disconnect(transport, protocol)

    async def test_a_socket_pair(self, loop, network):
        near, far = socket.socketpair()
        network.peer(far)
        transport, protocol = await loop.create_unix_connection(Recorder, sock=near)
        assert transport.get_extra_info("peername") == ""
        assert transport.get_extra_info("sockname") == ""
        await disconnect(transport, protocol)


class TestExistingSocket:
    async def test_is_taken_over(self, loop, path, listener, network):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        peer = network.peer(listener.accept()[0])
        transport, protocol = await loop.create_unix_connection(Recorder, sock=sock)
        assert sock.gettimeout() == 0
        peer.send(b"data")
        assert await protocol.received(4) == b"data"
        await disconnect(transport, protocol)
        await hops()
        assert sock.fileno() == -1

    @pytest.mark.parametrize(
        "kind",
        [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM)],
        ids=["tcp", "datagrams"],
    )
    async def test_others_are_refused(self, loop, kind):
        with socket.socket(*kind) as sock:
            with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected"):
                await loop.create_unix_connection(Recorder, sock=sock)
            assert sock.fileno() >= 0

    async def test_no_ssl_socket(self, loop, loop_spec, network):
        if module_of(loop_spec) == "asyncio":
            pytest.skip("takes it, and blocks in it or fails")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        near, far = socket.socketpair()
        network.peer(far)
        with context.wrap_socket(near, do_handshake_on_connect=False) as sock:
            for create in (loop.create_unix_connection, loop.create_unix_server):
                with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                    await create(Recorder, sock=sock)

    async def test_in_create_connection_as_well(self, loop, network):
        near, far = socket.socketpair()
        network.peer(far)
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        assert transport.get_extra_info("peername") == ""
        await disconnect(transport, protocol)

    @pytest.mark.skipif(PYTHON < (3, 12), reason="asyncio checks it since 3.12")
    async def test_a_socket_in_use(self, loop, network, path):
        transport, protocol, _ = await network.connect_unix(path)
        sock = transport.get_extra_info("socket")
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.create_unix_connection(Recorder, sock=sock._sock)
        transport.abort()
        await protocol.lost()


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "no path and sock were specified"),
            ({"path": "/dev/null", "sock": object()}, "path and sock can not be specified"),
            ({"server_hostname": "name"}, "server_hostname is only meaningful with ssl"),
            ({"ssl": True}, "you have to pass server_hostname when using ssl"),
            ({"ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful with ssl"),
            # What is looked at first.
            ({"ssl": True, "sock": object(), "path": "x"}, "you have to pass server_hostname"),
            ({"server_hostname": "x", "ssl_handshake_timeout": 1}, "server_hostname is only"),
            ({"ssl_handshake_timeout": 1, "path": "x", "sock": 1}, "ssl_handshake_timeout is"),
            ({"ssl": True, "server_hostname": "x"}, "no path and sock were specified"),
        ],
    )
    async def test_that_do_not_go_together(self, loop, options, message):
        with pytest.raises(ValueError, match=message):
            await loop.create_unix_connection(Recorder, **options)

    async def test_ssl_shutdown_timeout(self, loop):
        expected = ValueError if PYTHON >= (3, 11) else TypeError
        with pytest.raises(expected, match="ssl_shutdown_timeout"):
            await loop.create_unix_connection(Recorder, "/dev/null", ssl_shutdown_timeout=1)

    async def test_of_a_wrong_kind(self, loop):
        with pytest.raises(AssertionError):
            await loop.create_unix_connection(Recorder, "x", ssl=True, server_hostname=b"x")
        with pytest.raises(TypeError, match=r"expected str, bytes or .+ object, not int"):
            await loop.create_unix_connection(Recorder, 3)
        with pytest.raises(TypeError):
            await loop.create_unix_connection(Recorder, "x", host="localhost")


class TestErrors:
    async def refused(self, loop, path):
        """The error of connecting to `path`; no factory is called, and nothing stays open."""
        before = descriptors()
        with pytest.raises(OSError) as caught:
            await loop.create_unix_connection(lambda: pytest.fail("connected"), path)
        assert descriptors() == before
        return caught.value

    async def test_no_such_file(self, loop, path):
        assert type(await self.refused(loop, path)) is FileNotFoundError

    async def test_no_such_directory(self, loop, folder):
        assert type(await self.refused(loop, folder / "a" / "b")) is FileNotFoundError

    async def test_nobody_listens(self, loop, path, listener):
        listener.close()
        assert type(await self.refused(loop, path)) is ConnectionRefusedError

    async def test_no_such_abstract_name(self, loop):
        error = await self.refused(loop, "\0oxloop-nobody")
        assert type(error) is ConnectionRefusedError

    @pytest.mark.parametrize("path", ["/dev/null", "/"])
    async def test_no_socket(self, loop, path):
        assert type(await self.refused(loop, path)) is ConnectionRefusedError

    async def test_a_socket_for_datagrams(self, loop, path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            assert (await self.refused(loop, path)).errno == errno.EPROTOTYPE

    @pytest.mark.parametrize("path", ["x" * 108, b"\0" + b"x" * 108])
    async def test_too_long(self, loop, path):
        assert str(await self.refused(loop, path)) == "AF_UNIX path too long"

    async def test_empty(self, loop):
        assert (await self.refused(loop, "")).errno == errno.EINVAL

    async def test_forbidden(self, loop, path, listener, unprivileged):
        os.chmod(Path(path).parent, 0)
        assert type(await self.refused(loop, path)) is PermissionError
        os.chmod(Path(path).parent, 0o700)

    async def test_a_full_queue(self, loop, loop_spec, path):
        skip_stock_bug(loop_spec, True, "makes a transport of a socket that is not connected")
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(unix_listen(path))
            listener.listen(0)
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            assert type(await self.refused(loop, path)) is BlockingIOError
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                await loop.sock_connect(sock, path)

    @STRAY_SOCKET
    async def test_the_factory_raises(self, loop, path, listener, loop_spec):
        def factory():
            raise LookupError("no protocol")

        before = descriptors()
        with pytest.raises(LookupError, match="no protocol"):
            await loop.create_unix_connection(factory, path)
        if module_of(loop_spec) == "oxloop":  # asyncio leaves it to the collector
            assert descriptors() == before


class TestCarries:
    async def test_a_lot_both_ways(self, network, path):
        transport, protocol, peer = await network.connect_unix(path)
        data = bytes(range(256)) * 8192
        transport.write(data)
        assert await peer.read(len(data)) == data
        await asyncio.gather(peer.send_all(data), protocol.received(len(data)))
        assert bytes(protocol.data) == data

    async def test_into_a_buffer_of_the_protocol(self, network, path):
        _, protocol, peer = await network.connect_unix(path, BufferedRecorder())
        data = bytes(range(256)) * 100
        await peer.send_all(data)
        assert await protocol.received(len(data)) == data

    async def test_the_end_from_the_peer(self, network, path):
        transport, protocol, peer = await network.connect_unix(path)
        peer.send(b"last words")
        peer.shutdown()
        assert await protocol.lost() is None
        assert protocol.story == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]
        assert transport.is_closing()
        assert await peer.read_all() == b""

    async def test_half_closed_by_the_peer(self, network, path):
        transport, protocol, peer = await network.connect_unix(path, Recorder(keep_open=True))
        peer.shutdown()
        await protocol.called("eof_received")
        transport.write(b"answer")
        assert await peer.read(6) == b"answer"
        await disconnect(transport, protocol)
        assert await peer.read_all() == b""

    async def test_half_closed_by_us(self, network, path):
        transport, protocol, peer = await network.connect_unix(path)
        assert transport.can_write_eof()
        transport.write(b"question")
        transport.write_eof()
        assert await peer.read_all() == b"question"
        peer.send(b"answer")
        assert await protocol.received(6) == b"answer"
        peer.close()
        assert await protocol.lost() is None

    async def test_flow_control(self, network, path):
        transport, protocol, peer = await network.connect_unix(path)
        held = await fill(transport)
        transport.set_write_buffer_limits(high=held + 1000, low=held // 2)
        transport.write(bytes(1001))
        assert protocol.calls == ["connection_made", "pause_writing"]
        reading = asyncio.ensure_future(peer.read_all())
        await protocol.called("resume_writing")
        assert transport.get_write_buffer_size() <= held // 2
        transport.close()
        await protocol.lost()
        assert not any(await reading)
        assert protocol.calls[1:] == ["pause_writing", "resume_writing", "connection_lost"]

    async def test_pausing_reading(self, network, path):
        transport, protocol, peer = await network.connect_unix(path)
        transport.pause_reading()
        peer.send(b"later")
        await hops(5)
        assert not protocol.data
        transport.resume_reading()
        assert await protocol.received(5) == b"later"

    async def test_abort_drops_what_waits(self, network, path):
        transport, protocol, peer = await network.connect_unix(path)
        held = await fill(transport)
        transport.abort()
        assert await protocol.lost() is None
        assert held
        assert not any(await peer.read_all())

    async def test_writing_to_a_peer_that_is_gone(self, network, path):
        transport, protocol, peer = await network.connect_unix(path)
        transport.pause_reading()
        peer.close()
        transport.write(b"nobody reads this")
        assert isinstance(await protocol.lost(), BrokenPipeError)

    async def test_a_peer_that_leaves_without_reading(self, network, path):
        transport, protocol, peer = await network.connect_unix(path)
        transport.write(b"unread")
        assert transport.get_write_buffer_size() == 0
        peer.close()
        assert isinstance(await protocol.lost(), ConnectionResetError)

    async def test_closing_sends_what_waits(self, network, path):
        transport, protocol, peer = await network.connect_unix(path)
        held = await fill(transport)
        transport.write(b"end")
        transport.close()
        assert transport.is_closing()
        data = await peer.read_all()
        assert len(data) > held
        assert data.endswith(b"end")
        assert await protocol.lost() is None


class TestAcceptedSocket:
    async def test_becomes_a_connection(self, loop, network, path, listener):
        client = network.peer(socket.socket(socket.AF_UNIX))
        client.sock.connect(path)
        accepted, _ = listener.accept()
        transport, protocol = await loop.connect_accepted_socket(Recorder, accepted)
        assert transport.get_extra_info("sockname") == path
        assert transport.get_extra_info("peername") == ""
        client.send(b"data")
        assert await protocol.received(4) == b"data"
        await disconnect(transport, protocol)


class TestStreams:
    async def test_echo(self, loop, path):
        async def handle(reader, writer):
            assert writer.get_extra_info("peername") == ""
            async for line in reader:
                writer.write(line)
                await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(handle, path)
        reader, writer = await asyncio.open_unix_connection(path, limit=100)
        assert writer.get_extra_info("peername") == path
        for line in (b"one\n", b"two\n"):
            writer.write(line)
            assert await reader.readline() == line
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    async def test_errors(self, loop, path):
        with pytest.raises(FileNotFoundError):
            await asyncio.open_unix_connection(path)
        with pytest.raises(ValueError, match="path was not specified, and no sock specified"):
            await asyncio.start_unix_server(lambda *_: None)

    async def test_drain_waits_for_the_peer(self, loop, network, path, listener):
        reader, writer = await asyncio.open_unix_connection(path)
        peer = network.peer(listener.accept()[0])
        await fill(writer.transport)
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(b"more")
        draining = loop.create_task(writer.drain())
        await hops(5)
        assert not draining.done()
        reading = asyncio.ensure_future(peer.read_all())
        await draining
        writer.close()
        await writer.wait_closed()
        assert (await reading).endswith(b"more")
        assert await reader.read() == b""
