"""Servers on Unix sockets (event loop page): create_unix_server, and the files it leaves."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import stat
import struct
from asyncio import trsock
from pathlib import Path

import pytest

from .support import PYTHON, Recorder, descriptors, hops, module_of, unix_listen, until

REMOVES = PYTHON >= (3, 13)
"""Whether a server removes its file unless it is told not to."""
SINCE_313 = pytest.mark.skipif(not REMOVES, reason="new in 3.13")

# Where a check fails, stock asyncio leaves the new socket to the collector.
STRAY_SOCKET = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


@pytest.fixture
def path(folder):
    return str(folder / "socket")


@pytest.fixture
def abstract():
    """An abstract name that is free."""
    return b"\0oxloop-server-%d" % os.getpid()


@pytest.fixture
def bound(path):
    """A socket that is bound to `path`."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        yield sock


def leave_behind(path):
    """Make a socket file that nobody listens on."""
    unix_listen(path).close()


def is_socket(path):
    return stat.S_ISSOCK(os.lstat(path).st_mode)


async def answers(network, server):
    peer = network.dial(server)
    peer.send(b"hello")
    assert await peer.read(5) == b"hello"
    peer.close()


class TestServes:
    @pytest.mark.parametrize("convert", [str, os.fsencode, Path], ids=["str", "bytes", "Path"])
    async def test_forms_of_the_path(self, network, path, convert):
        server = await network.serve_unix(Echo, convert(path))
        assert is_socket(path)
        assert [sock.getsockname() for sock in server.sockets] == [path]
        await answers(network, server)

    @pytest.mark.parametrize("convert", [bytes, bytes.decode], ids=["bytes", "str"])
    async def test_abstract_names(self, network, abstract, convert):
        server = await network.serve_unix(Echo, convert(abstract))
        assert [sock.getsockname() for sock in server.sockets] == [abstract]
        await answers(network, server)
        server.close()
        await network.serve_unix(Echo, abstract)  # it is free again

    async def test_the_longest_path(self, network, folder, monkeypatch):
        monkeypatch.chdir(folder)
        server = await network.serve_unix(Echo, "x" * 107)
        await answers(network, server)

    async def test_attributes(self, loop, network, path):
        server = await network.serve_unix(path=path)
        assert isinstance(server, asyncio.AbstractServer)
        assert server.get_loop() is loop
        assert server.is_serving()
        (sock,) = server.sockets
        assert isinstance(sock, trsock.TransportSocket)
        assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        assert sock.gettimeout() == 0
        assert not os.get_inheritable(sock.fileno())
        assert path in repr(server)

    @pytest.mark.parametrize(
        "name",
        [None, "client", b"\0oxloop-client-%d" % os.getpid()],
        ids=["none", "path", "abstract"],
    )
    async def test_names_of_a_connection(self, network, folder, path, name):
        protocol = Recorder()
        server = await network.serve_unix(lambda: protocol, path)
        peer = network.peer(socket.socket(socket.AF_UNIX))
        if name is not None:
            name = str(folder / name) if isinstance(name, str) else name
            peer.sock.bind(name)
        peer.sock.connect(path)
        await protocol.called("connection_made")
        transport = protocol.transport
        assert transport.get_extra_info("peername") == (name or "")
        assert transport.get_extra_info("sockname") == path
        sock = transport.get_extra_info("socket")
        assert (sock.family, sock.gettimeout()) == (socket.AF_UNIX, 0)
        assert not os.get_inheritable(sock.fileno())
        peer.close()
        await protocol.lost()
        assert transport.get_extra_info("peername") == (name or "")
        assert server.is_serving()

    async def test_a_client_whose_name_fills_the_field(self, network, folder, path, monkeypatch):
        """108 bytes and no NUL behind them: Python binds no such name, other programs may."""
        name = "n" * 108
        protocol = Recorder()
        await network.serve_unix(lambda: protocol, path)
        monkeypatch.chdir(folder)
        libc = ctypes.CDLL(None)
        peer = network.peer(socket.socket(socket.AF_UNIX))
        address = struct.pack("=H108s", socket.AF_UNIX, name.encode())
        assert libc.bind(peer.sock.fileno(), address, len(address)) == 0
        peer.sock.connect(path)
        peer.send(b"hello")
        await protocol.received(5)
        assert protocol.transport.get_extra_info("peername") == name

    async def test_a_crowd(self, network, path):
        await network.serve_unix(Echo, path, backlog=128)

        async def visit(number):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"%d\n" % number)
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return int(line)

        assert await asyncio.gather(*(visit(n) for n in range(100))) == list(range(100))

    async def test_a_visitor_that_left_before_it_was_accepted(self, network, path):
        protocol = Recorder()
        server = await network.serve_unix(lambda: protocol, path)
        peer = network.dial(server)
        peer.send(b"short visit")
        peer.close()
        assert await protocol.lost() is None
        assert protocol.data == b"short visit"


class TestExistingSocket:
    async def test_bound(self, network, path, bound):
        server = await network.serve_unix(Echo, sock=bound)
        assert bound.gettimeout() == 0
        await answers(network, server)
        server.close()
        await hops()
        assert bound.fileno() == -1
        assert os.path.exists(path) != REMOVES

    async def test_listening_with_a_visitor_waiting(self, network, path):
        sock = unix_listen(path)
        early = network.peer(socket.socket(socket.AF_UNIX))
        early.sock.connect(path)
        early.send(b"early")
        await network.serve_unix(Echo, sock=sock)
        assert await early.read(5) == b"early"

    async def test_in_create_server_as_well(self, network, path, bound):
        server = await network.serve(Echo, sock=bound)
        await answers(network, server)
        server.close()
        assert is_socket(path)

    @pytest.mark.parametrize(
        "kind",
        [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM)],
        ids=["tcp", "datagrams"],
    )
    async def test_others_are_refused(self, loop, kind):
        with socket.socket(*kind) as sock:
            with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected"):
                await loop.create_unix_server(Recorder, sock=sock)
            assert sock.fileno() >= 0

    async def test_not_bound(self, loop):
        with socket.socket(socket.AF_UNIX) as sock:
            with pytest.raises(IndexError if REMOVES else OSError):
                await loop.create_unix_server(Recorder, sock=sock)


class TestStarting:
    async def test_not_at_once(self, network, path):
        server = await network.serve_unix(Echo, path, start_serving=False)
        assert is_socket(path)
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            network.dial(server)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        await answers(network, server)

    async def test_serve_forever(self, loop, network, path):
        server = await network.serve_unix(Echo, path, start_serving=False)
        task = loop.create_task(server.serve_forever())
        await hops(2)
        await answers(network, server)
        await hops(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()
        assert os.path.exists(path) != REMOVES

    async def test_cancelled_while_it_starts(self, loop, loop_spec, path):
        if module_of(loop_spec) == "asyncio":
            pytest.skip("leaves the server open, and to nobody")
        before = descriptors()
        task = loop.create_task(loop.create_unix_server(Recorder, path))
        await hops()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert descriptors() == before


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "path was not specified, and no sock specified"),
            ({"path": "/dev/null", "sock": object()}, "path and sock can not be specified"),
            ({"path": "x", "ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful"),
            ({"ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful"),
        ],
    )
    async def test_that_do_not_go_together(self, loop, options, message):
        with pytest.raises(ValueError, match=message):
            await loop.create_unix_server(Recorder, **options)

    async def test_ssl_shutdown_timeout(self, loop):
        expected = ValueError if PYTHON >= (3, 11) else TypeError
        with pytest.raises(expected, match="ssl_shutdown_timeout"):
            await loop.create_unix_server(Recorder, "/dev/null", ssl_shutdown_timeout=1)

    async def test_of_a_wrong_kind(self, loop):
        for wrong in (True, False):
            with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
                await loop.create_unix_server(Recorder, "x", ssl=wrong, sock=object())
        with pytest.raises(TypeError, match=r"expected str, bytes or .+ object, not int"):
            await loop.create_unix_server(Recorder, 3)

    @pytest.mark.skipif(REMOVES, reason="there since 3.13")
    async def test_cleanup_socket_is_unknown(self, loop, path):
        with pytest.raises(TypeError, match="unexpected keyword argument 'cleanup_socket'"):
            await loop.create_unix_server(Recorder, path, cleanup_socket=True)


class TestWhatIsThereAlready:
    async def test_a_socket_that_was_left(self, network, path):
        leave_behind(path)
        await answers(network, await network.serve_unix(Echo, path))

    async def test_a_server_is_replaced(self, network, path):
        old = await network.serve_unix(Recorder, path)
        new = await network.serve_unix(Echo, path)
        assert old.is_serving()
        await answers(network, new)

    @pytest.mark.parametrize("kind", ["file", "directory", "link to nothing"])
    async def test_anything_else_stays(self, loop, path, kind):
        if kind == "file":
            Path(path).write_text("precious")
        elif kind == "directory":
            os.mkdir(path)
        else:
            os.symlink("nothing", path)
        before = descriptors()
        with pytest.raises(OSError) as caught:
            await loop.create_unix_server(Recorder, path)
        assert type(caught.value) is OSError
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.strerror == f"Address {path!r} is already in use"
        assert caught.value.__cause__ is None
        assert descriptors() == before
        assert os.path.lexists(path)
        assert not is_socket(path)

    async def test_a_link_to_a_socket(self, network, folder, path):
        """The link goes, the socket stays."""
        leave_behind(folder / "target")
        os.symlink("target", path)
        await answers(network, await network.serve_unix(Echo, path))
        assert is_socket(path)
        assert is_socket(folder / "target")

    async def test_an_abstract_name_that_is_taken(self, loop, abstract):
        with unix_listen(abstract):
            with pytest.raises(OSError) as caught:
                await loop.create_unix_server(Recorder, abstract)
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.strerror == f"Address {abstract!r} is already in use"

    async def test_a_socket_that_cannot_be_removed(self, loop, path, monkeypatch, caplog):
        def remove(path):
            raise PermissionError(errno.EPERM, "not yours")

        leave_behind(path)
        monkeypatch.setattr(os, "remove", remove)
        with pytest.raises(OSError, match="is already in use"):
            await loop.create_unix_server(Recorder, path)
        assert caplog.messages == [
            f"Unable to check or remove stale UNIX socket {path!r}: PermissionError(1, 'not yours')"
        ]
        assert is_socket(path)


class TestErrors:
    @pytest.mark.parametrize("path", ["x" * 108, b"\0" + b"x" * 108])
    async def test_too_long(self, loop, path):
        before = descriptors()
        with pytest.raises(OSError, match="AF_UNIX path too long"):
            await loop.create_unix_server(Recorder, path)
        assert descriptors() == before

    async def test_no_such_directory(self, loop, folder):
        before = descriptors()
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_server(Recorder, folder / "a" / "b")
        assert descriptors() == before

    @STRAY_SOCKET
    async def test_names_that_are_none(self, loop, loop_spec):
        before = descriptors()
        with pytest.raises(IndexError):
            await loop.create_unix_server(Recorder, "")
        with pytest.raises(ValueError, match="embedded null"):
            await loop.create_unix_server(Recorder, "a\0b")
        if module_of(loop_spec) == "oxloop":
            assert descriptors() == before

    async def test_a_directory_that_is_not_ours(self, loop, folder, unprivileged):
        os.chmod(folder, 0o500)
        with pytest.raises(PermissionError):
            await loop.create_unix_server(Recorder, folder / "socket")
        os.chmod(folder, 0o700)

    async def test_a_directory_that_cannot_be_searched(self, loop, folder, unprivileged, caplog):
        os.chmod(folder, 0)
        with pytest.raises(PermissionError):
            await loop.create_unix_server(Recorder, str(folder / "socket"))
        os.chmod(folder, 0o700)
        (message,) = caplog.messages
        assert message.startswith("Unable to check or remove stale UNIX socket")


class TestClosing:
    async def test_removes_the_file(self, network, path):
        server = await network.serve_unix(path=path)
        server.close()
        assert os.path.exists(path) != REMOVES
        assert not server.is_serving()
        assert server.sockets == ()
        await server.wait_closed()

    async def test_twice(self, network, path):
        server = await network.serve_unix(path=path)
        server.close()
        if REMOVES:
            leave_behind(path)
        server.close()
        assert is_socket(path)

    async def test_as_a_context_manager(self, network, path):
        async with await network.serve_unix(path=path):
            assert is_socket(path)
        assert os.path.exists(path) != REMOVES

    async def test_a_server_that_never_served(self, network, path):
        server = await network.serve_unix(path=path, start_serving=False)
        server.close()
        assert os.path.exists(path) != REMOVES

    async def test_leaves_connections_open(self, network, path):
        protocol = Echo()
        server = await network.serve_unix(lambda: protocol, path)
        peer = network.dial(server)
        await protocol.called("connection_made")
        server.close()
        peer.send(b"still there")
        assert await peer.read(11) == b"still there"
        peer.close()
        await protocol.lost()
        await server.wait_closed()

    async def test_the_file_is_gone_already(self, network, path):
        server = await network.serve_unix(path=path)
        os.unlink(path)
        server.close()
        assert not os.path.exists(path)

    async def test_the_file_was_replaced(self, network, path):
        """By a new server, say: it is left alone."""
        old = await network.serve_unix(path=path)
        os.unlink(path)
        new = await network.serve_unix(Echo, path)
        old.close()
        await answers(network, new)

    async def test_a_path_that_was_relative(self, network, folder, monkeypatch):
        """The name is as it was bound: from elsewhere it leads nowhere."""
        monkeypatch.chdir(folder)
        server = await network.serve_unix(Echo, "here")
        other = await network.serve_unix(path="there")
        monkeypatch.chdir("/")
        server.close()
        assert is_socket(folder / "here")
        monkeypatch.chdir(folder)
        other.close()
        assert os.path.exists("there") != REMOVES

    async def test_does_not_touch_a_namesake_elsewhere(self, network, folder, monkeypatch):
        monkeypatch.chdir(folder)
        server = await network.serve_unix(path="name")
        os.mkdir("other")
        leave_behind("other/name")
        monkeypatch.chdir("other")
        server.close()
        assert is_socket("name")

    @SINCE_313
    async def test_cleanup_socket_false(self, network, path, folder):
        server = await network.serve_unix(path=path, cleanup_socket=False)
        server.close()
        assert is_socket(path)

    @SINCE_313
    async def test_cleanup_of_an_existing_socket(self, network, path, bound):
        server = await network.serve_unix(sock=bound, cleanup_socket=False)
        server.close()
        assert is_socket(path)

    @SINCE_313
    async def test_a_file_that_cannot_be_removed(self, network, path, monkeypatch, caplog):
        def unlink(path):
            raise PermissionError(errno.EPERM, "not yours")

        server = await network.serve_unix(path=path)
        monkeypatch.setattr(os, "unlink", unlink)
        server.close()
        assert caplog.messages == [
            f"Unable to clean up listening UNIX socket {path!r}: PermissionError(1, 'not yours')"
        ]
        assert not server.is_serving()

    @SINCE_313
    async def test_cleanup_of_a_file_that_is_gone(self, network, path, bound):
        os.unlink(path)
        server = await network.serve_unix(sock=bound)
        leave_behind(path)
        server.close()
        assert is_socket(path)

    async def test_clients_that_nobody_accepted_are_turned_away(self, network, path):
        server = await network.serve_unix(path=path, start_serving=False)
        server.sockets[0]._sock.listen()
        peer = network.dial(server)
        server.close()
        with pytest.raises(ConnectionResetError):
            peer.read_blocking(1)

    async def test_wait_closed_waits(self, loop, network, path):
        server = await network.serve_unix(Echo, path)
        peer = network.dial(server)
        peer.send(b"x")
        assert await peer.read(1) == b"x"
        server.close()
        waiting = loop.create_task(server.wait_closed())
        await hops(3)
        assert waiting.done() == (PYTHON < (3, 12))
        peer.close()
        await until(waiting.done)
