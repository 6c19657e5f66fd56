"""What goes wrong around Unix sockets and pipes: clear errors, nothing left open, and the loop
goes on. For subprocesses see test_subprocess_faults.py."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from .support import DatagramRecorder, Recorder, descriptors, module_of, until


@pytest.fixture
def path(folder):
    return str(folder / "socket")


@contextlib.asynccontextmanager
async def nothing_left():
    """Checks at the end of a block that its descriptors are gone."""
    before = set(descriptors())
    yield
    await until(lambda: set(descriptors()) == before)


async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


class TestVanishedPath:
    async def test_connections_outlive_the_name_of_their_server(self, loop, path):
        async with nothing_left():
            server = await asyncio.start_unix_server(echo, path)
            reader, writer = await asyncio.open_unix_connection(path)
            os.unlink(path)
            for said in (b"still there", bytes(1 << 20)):
                writer.write(said)
                assert await reader.readexactly(len(said)) == said
            for _ in range(20):
                with pytest.raises(FileNotFoundError):
                    await loop.create_unix_connection(Recorder, path)
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
            # The loop goes on, at the same place.
            again = await asyncio.start_unix_server(echo, path)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"again")
            writer.write_eof()
            assert await reader.read() == b"again"
            writer.close()
            await writer.wait_closed()
            again.close()
            await again.wait_closed()

    async def test_its_folder_as_well(self, loop, folder):
        inner = folder / "inner"
        inner.mkdir()
        async with nothing_left():
            server = await asyncio.start_unix_server(echo, str(inner / "socket"))
            (inner / "socket").unlink()
            inner.rmdir()
            for connect in (
                loop.create_unix_connection(Recorder, str(inner / "socket")),
                loop.create_unix_server(Recorder, str(inner / "socket")),
            ):
                with pytest.raises(FileNotFoundError):
                    await connect
            server.close()
            await server.wait_closed()

    async def test_datagrams(self, loop, network, path):
        async with nothing_left():
            transport, protocol = await network.datagrams(
                family=socket.AF_UNIX, local_addr=f"{path}-near"
            )
            for _ in range(3):
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
                    peer.bind(path)
                    peer.settimeout(10)
                    transport.sendto(b"well", path)
                    assert peer.recv(10) == b"well"
                    os.unlink(path)
                    seen = len(protocol.errors)
                    transport.sendto(b"to nobody", path)
                    await until(lambda seen=seen: len(protocol.errors) > seen)
                    assert type(protocol.errors[-1]) is FileNotFoundError
            transport.close()
            await protocol.lost()


@contextlib.contextmanager
def only(available: int) -> Iterator[None]:
    """So many descriptors can be opened in the block."""
    used = set(descriptors())
    free = sorted(set(range(max(used) + available + 2)) - used)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[available], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestNoMoreDescriptors:
    @pytest.mark.parametrize("what", ["connection", "server", "datagrams", "tcp"])
    async def test_sockets(self, loop, path, what):
        server = await asyncio.start_unix_server(echo, path)
        openings = {
            "connection": lambda: loop.create_unix_connection(Recorder, path),
            "server": lambda: loop.create_unix_server(Recorder, f"{path}-other"),
            "datagrams": lambda: loop.create_datagram_endpoint(
                DatagramRecorder, local_addr=f"{path}-datagrams", family=socket.AF_UNIX
            ),
            "tcp": lambda: loop.create_connection(Recorder, "127.0.0.1", 9),
        }
        async with nothing_left():
            for _ in range(5):
                with only(0):
                    with pytest.raises(OSError) as caught:
                        await openings[what]()
                assert caught.value.errno == errno.EMFILE
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"on")
        writer.write_eof()
        assert await reader.read() == b"on"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    async def test_a_connection_that_goes_on(self, loop, path):
        """What is open needs no descriptor more, not even to end."""
        async with nothing_left():
            server = await asyncio.start_unix_server(echo, path)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"first")
            assert await reader.readexactly(5) == b"first"
            with only(0):
                writer.write(bytes(1 << 20))
                writer.write_eof()
                assert not any(await reader.read())
                writer.close()
                await writer.wait_closed()
            server.close()
            await server.wait_closed()

    async def test_terminals(self, loop, loop_spec):
        """They are watched by a duplicate here, which asyncio does not need."""
        if module_of(loop_spec) == "asyncio":
            pytest.skip("needs no descriptor")
        near, far = os.openpty()
        try:
            async with nothing_left():
                for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
                    with open(near, "rb", buffering=0, closefd=False) as file, only(0):
                        with pytest.raises(OSError) as caught:
                            await connect(Recorder, file)
                        assert caught.value.errno == errno.EMFILE
        finally:
            os.close(near)
            os.close(far)
