"""Datagrams over Unix sockets: names and files, and what waits while a peer does not read."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket

import pytest

from .support import PYTHON, DatagramRecorder, hops, skip_stock_bug

PLACE = contextvars.ContextVar("PLACE", default="outside")
HEADER = 8 if PYTHON >= (3, 13) else 0


@pytest.fixture
def path(folder):
    return str(folder / "socket")


@pytest.fixture
def peer(folder):
    """A Unix socket bound to a path; it reads nothing unless told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "peer"))
        sock.settimeout(10)
        yield sock


async def connected(network, peer, protocol=None):
    return await network.datagrams(protocol, family=socket.AF_UNIX, remote_addr=peer.getsockname())


def fill(transport):
    """Send until the peer's queue is full; how many are on their way, how many wait."""
    sent = 0
    while transport.get_write_buffer_size() == 0:
        transport.sendto(b"%04d" % sent)
        sent += 1
    return sent


class TestNames:
    async def test_a_path(self, network, path, peer):
        transport, protocol = await network.datagrams(family=socket.AF_UNIX, local_addr=path)
        assert transport.get_extra_info("sockname") == path
        peer.sendto(b"ping", path)
        await protocol.arrived()
        assert protocol.datagrams == [(b"ping", peer.getsockname())]
        transport.sendto(b"pong", protocol.datagrams[0][1])
        transport.sendto(b"bytes", os.fsencode(peer.getsockname()))
        assert [peer.recv(10), peer.recv(10)] == [b"pong", b"bytes"]

    async def test_an_abstract_name(self, network):
        name = f"\0oxloop-datagrams-{os.getpid()}"
        transport, protocol = await network.datagrams(family=socket.AF_UNIX, local_addr=name)
        assert transport.get_extra_info("sockname") == name.encode()
        other, _ = await network.datagrams(family=socket.AF_UNIX, remote_addr=name)
        assert other.get_extra_info("peername") == name.encode()
        other.sendto(b"ping")
        await protocol.arrived()
        assert protocol.datagrams == [(b"ping", None)]

    async def test_no_name(self, peer, network):
        transport, _ = await network.datagrams(family=socket.AF_UNIX)
        assert transport.get_extra_info("sockname") == ""
        transport.sendto(b"ping", peer.getsockname())
        assert peer.recv(10) == b"ping"

    async def test_a_pair(self, network):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with theirs:
            _, protocol = await network.datagrams(sock=ours)
            theirs.send(b"ping")
            await protocol.arrived()
            assert protocol.datagrams == [(b"ping", None)]

    async def test_what_is_left_of_a_socket_is_replaced(self, network, path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
        transport, _ = await network.datagrams(family=socket.AF_UNIX, local_addr=path)
        assert transport.get_extra_info("sockname") == path

    async def test_another_file_is_not(self, loop, folder):
        path = folder / "file"
        path.write_text("kept")
        with pytest.raises(OSError, match="in use"):
            await loop.create_datagram_endpoint(
                DatagramRecorder, family=socket.AF_UNIX, local_addr=str(path)
            )
        assert path.read_text() == "kept"

    async def test_a_file_that_cannot_be_looked_at(self, loop, folder, caplog):
        (folder / "file").touch()
        with pytest.raises(OSError):
            await loop.create_datagram_endpoint(
                DatagramRecorder, family=socket.AF_UNIX, local_addr=str(folder / "file" / "in")
            )
        assert (
            caplog.records[0].getMessage().startswith("Unable to check or remove stale UNIX socket")
        )

    async def test_nobody_there(self, loop, path):
        with pytest.raises(FileNotFoundError):
            await loop.create_datagram_endpoint(
                DatagramRecorder, family=socket.AF_UNIX, remote_addr=path
            )

    async def test_a_peer_that_goes_away(self, peer, network):
        transport, protocol = await connected(network, peer)
        peer.close()
        transport.sendto(b"ping")
        assert isinstance(protocol.errors[0], ConnectionRefusedError)
        assert not transport.is_closing()


class TestQueue:
    async def test_waits_in_order(self, peer, network, loop_spec):
        transport, _protocol = await connected(network, peer)
        sent = fill(transport)
        assert transport.get_write_buffer_size() == 4 + HEADER
        assert "write=<polling" in repr(transport)
        for number in range(sent, sent + 100):
            transport.sendto(b"%04d" % number)
        assert transport.get_write_buffer_size() == 101 * (4 + HEADER)
        for number in range(sent + 100):
            assert await asyncio.to_thread(peer.recv, 10) == b"%04d" % number
        await hops(2)
        skip_stock_bug(loop_spec, PYTHON == (3, 13), "counts the headers of what is sent")
        assert transport.get_write_buffer_size() == 0
        assert "write=<idle" in repr(transport)

    async def test_pause_and_resume(self, peer, network, loop_spec):
        skip_stock_bug(loop_spec, PYTHON == (3, 13), "counts the headers of what is sent")
        transport, protocol = await connected(network, peer)
        transport.set_write_buffer_limits(high=3 * (4 + HEADER), low=4 + HEADER)
        sent = fill(transport)
        for _ in range(2):
            transport.sendto(b"more")
        assert "pause_writing" not in protocol.calls
        transport.sendto(b"more")
        transport.sendto(b"more")
        assert protocol.calls == ["connection_made", "pause_writing"]
        for _ in range(sent + 4):
            await asyncio.to_thread(peer.recv, 10)
        await protocol.called("resume_writing")
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]

    async def test_new_limits_pause(self, peer, network):
        transport, protocol = await connected(network, peer)
        fill(transport)
        transport.set_write_buffer_limits(high=0)
        assert protocol.calls == ["connection_made", "pause_writing"]

    async def test_close_sends_what_waits(self, peer, network):
        transport, protocol = await connected(network, peer)
        sent = fill(transport)
        transport.sendto(b"last")
        transport.close()
        await hops(3)
        assert "connection_lost" not in protocol.calls
        for number in range(sent):
            assert await asyncio.to_thread(peer.recv, 10) == b"%04d" % number
        assert await asyncio.to_thread(peer.recv, 10) == b"last"
        assert await protocol.lost() is None

    async def test_abort_drops_what_waits(self, peer, network):
        transport, protocol = await connected(network, peer)
        sent = fill(transport)
        transport.abort()
        assert transport.get_write_buffer_size() in (0, 4 + HEADER)  # asyncio's is not reset
        assert await protocol.lost() is None
        assert [peer.recv(10) for _ in range(sent - 1)]
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(10)

    async def test_a_queued_one_that_fails(self, peer, network):
        transport, protocol = await connected(network, peer)
        fill(transport)
        transport.sendto(b"more")
        peer.close()
        await protocol.called("error_received", 2)
        assert isinstance(protocol.errors[0], ConnectionError)
        transport.close()
        assert await protocol.lost() is None

    async def test_several_peers(self, peer, network, folder):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(folder / "other"))
            other.settimeout(10)
            transport, _ = await network.datagrams(family=socket.AF_UNIX)
            sent = 0
            while transport.get_write_buffer_size() == 0:
                transport.sendto(b"one", peer.getsockname())
                sent += 1
            transport.sendto(b"two", other.getsockname())
            transport.sendto(bytearray(b"one"), peer.getsockname())
            for _ in range(sent + 1):
                assert await asyncio.to_thread(peer.recv, 10) == b"one"
            assert await asyncio.to_thread(other.recv, 10) == b"two"

    async def test_what_is_queued_does_not_change(self, peer, network):
        transport, _ = await connected(network, peer)
        sent = fill(transport)
        data = bytearray(b"before")
        transport.sendto(data)
        data[:] = b"after!"
        for _ in range(sent):
            await asyncio.to_thread(peer.recv, 10)
        assert await asyncio.to_thread(peer.recv, 10) == b"before"

    async def test_contexts(self, peer, network, loop_spec):
        skip_stock_bug(loop_spec, PYTHON == (3, 13), "counts the headers of what is sent")

        class Placed(DatagramRecorder):
            def record(self, call):
                super().record(f"{call} {PLACE.get()}")

        PLACE.set("made")
        transport, protocol = await connected(network, peer, Placed())
        transport.set_write_buffer_limits(high=0)
        PLACE.set("sender")
        sent = fill(transport)
        PLACE.set("closer")
        transport.close()
        for _ in range(sent):
            await asyncio.to_thread(peer.recv, 10)
        await protocol.called("connection_lost sender")
        assert protocol.calls == [
            "connection_made made",
            "pause_writing sender",
            "resume_writing sender",
            "connection_lost sender",
        ]

    async def test_flow_control_that_raises(self, peer, network, error_contexts):
        class Raising(DatagramRecorder):
            def pause_writing(self):
                raise ValueError("no luck")

        transport, _protocol = await connected(network, peer, Raising())
        transport.set_write_buffer_limits(high=0)
        fill(transport)
        (context,) = error_contexts
        error_contexts.clear()
        assert context["message"] == "protocol.pause_writing() failed"
        assert context["transport"] is transport
        assert not transport.is_closing()

    async def test_many_late_sends(self, peer, network, caplog):
        transport, protocol = await connected(network, peer)
        transport.abort()
        caplog.set_level(logging.WARNING, "asyncio")
        for _ in range(8):
            transport.sendto(b"late")
        assert len(caplog.records) == 4
        await protocol.lost()

    async def test_memory_in_pieces(self, peer, network, error_contexts):
        transport, protocol = await connected(network, peer)
        sent = fill(transport)
        transport.sendto(memoryview(b"m-o-r-e-")[::2])
        for _ in range(sent):
            await asyncio.to_thread(peer.recv, 10)
        assert await asyncio.to_thread(peer.recv, 10) == b"more"
        await hops(2)
        transport.sendto(memoryview(b"m-o-r-e-")[::2])
        (context,) = error_contexts
        error_contexts.clear()
        assert isinstance(context["exception"], BufferError)
        assert await protocol.lost() is context["exception"]
