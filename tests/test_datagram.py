"""Datagram endpoints over UDP and other sockets: create_datagram_endpoint, DatagramTransport."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import logging
import socket
import struct

import pytest

from .support import PYTHON, DatagramRecorder, descriptors, hops, until

PLACE = contextvars.ContextVar("PLACE", default="outside")
SENDS_EMPTY = PYTHON >= (3, 13)


@pytest.fixture
def peer():
    """A plain UDP socket on 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        yield sock


def closed_port():
    """An address where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()


class TestMaking:
    async def test_returns_transport_and_protocol(self, network):
        transport, protocol = await network.datagrams()
        assert protocol.transport is transport
        assert protocol.calls == ["connection_made"]
        assert transport.get_protocol() is protocol
        assert isinstance(transport, asyncio.Transport)
        if PYTHON >= (3, 12):
            assert isinstance(transport, asyncio.DatagramTransport)

    async def test_a_bound_endpoint(self, network):
        transport, _ = await network.datagrams()
        sock = transport.get_extra_info("socket")
        assert type(sock) is asyncio.trsock.TransportSocket
        assert transport.get_extra_info("sockname") == sock.getsockname()
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("nothing", 1) == 1
        assert transport._address is None

    async def test_a_connected_endpoint(self, network, peer):
        transport, _ = await network.datagrams(remote_addr=peer.getsockname())
        assert transport.get_extra_info("peername") == peer.getsockname()
        assert transport._address == peer.getsockname()

    async def test_both_addresses(self, network, peer):
        transport, _ = await network.datagrams(
            local_addr=("127.0.0.1", 0), remote_addr=peer.getsockname()
        )
        transport.sendto(b"ping")
        assert peer.recvfrom(10) == (b"ping", transport.get_extra_info("sockname"))

    async def test_by_family_alone(self, network, peer):
        transport, _ = await network.datagrams(family=socket.AF_INET)
        transport.sendto(b"ping", peer.getsockname())
        assert peer.recv(10) == b"ping"

    async def test_by_name(self, network):
        transport, _ = await network.datagrams(local_addr=("localhost", 0), family=socket.AF_INET)
        assert transport.get_extra_info("sockname")[0] == "127.0.0.1"

    async def test_an_existing_socket(self, network, peer):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        transport, protocol = await network.datagrams(sock=sock)
        assert sock.getblocking() is False
        peer.sendto(b"ping", sock.getsockname())
        assert await protocol.arrived() == [b"ping"]
        transport.close()
        await protocol.lost()
        assert sock.fileno() == -1

    async def test_an_existing_connected_socket_ignores_addresses(self, network, peer):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(peer.getsockname())
        transport, _ = await network.datagrams(sock=sock)
        transport.sendto(b"ping", closed_port())
        assert peer.recv(10) == b"ping"

    async def test_reuse_port(self, network):
        first, _ = await network.datagrams(local_addr=("127.0.0.1", 0), reuse_port=True)
        name = first.get_extra_info("sockname")
        second, _ = await network.datagrams(local_addr=name, reuse_port=True)
        assert second.get_extra_info("sockname") == name
        with pytest.raises(OSError) as caught:
            await network.datagrams(local_addr=name)
        assert caught.value.errno == errno.EADDRINUSE

    async def test_allow_broadcast_does_not_connect(self, network, peer):
        transport, protocol = await network.datagrams(
            local_addr=("127.0.0.1", 0), remote_addr=peer.getsockname(), allow_broadcast=True
        )
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        assert transport.get_extra_info("peername") is None
        transport.sendto(b"ping")
        assert peer.recv(10) == b"ping"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"from anywhere", sock.getsockname())
            assert await protocol.arrived() == [b"from anywhere"]

    async def test_cancelled_before_it_is_made(self, loop):
        gc.collect()
        before = descriptors()
        making = loop.create_task(loop.create_datagram_endpoint(DatagramRecorder, ("127.0.0.1", 0)))
        await hops()
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        await hops(3)
        assert descriptors() == before


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({}, ValueError, "unexpected address family"),
            ({"flags": 1}, ValueError, "unexpected address family"),
            (
                {"local_addr": "127.0.0.1"},
                TypeError if PYTHON >= (3, 11) else AssertionError,
                "2-tuple is expected",
            ),
            (
                {"remote_addr": ("127.0.0.1", 1, 2)},
                TypeError if PYTHON >= (3, 11) else AssertionError,
                "2-tuple is expected",
            ),
            (
                {"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 1)},
                ValueError,
                "can not get address information",
            ),
            ({"family": socket.AF_UNIX, "local_addr": b"name"}, TypeError, "string is expected"),
        ],
    )
    async def test_errors(self, loop, options, error, text):
        with pytest.raises(error) as caught:
            await loop.create_datagram_endpoint(DatagramRecorder, **options)
        assert str(caught.value) == text

    async def test_stream_sockets_are_refused(self, loop):
        with socket.socket() as sock:
            with pytest.raises(ValueError) as caught:
                await loop.create_datagram_endpoint(DatagramRecorder, sock=sock)
            kind = "datagram socket" if PYTHON >= (3, 13) else "UDP Socket"
            assert str(caught.value) == f"A {kind} was expected, got {sock!r}"

    @pytest.mark.skipif(PYTHON < (3, 11), reason="names reuse_address, too")
    async def test_options_of_a_new_socket_are_refused(self, loop):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError) as caught:
                await loop.create_datagram_endpoint(
                    DatagramRecorder, ("127.0.0.1", 0), family=2, sock=sock, reuse_port=True
                )
        assert str(caught.value) == (
            "socket modifier keyword arguments can not be used when sock is specified. "
            "(local_addr=('127.0.0.1', 0), family=2, reuse_port=True)"
        )

    @pytest.mark.skipif(PYTHON < (3, 11), reason="only deprecated")
    async def test_reuse_address_is_gone(self, loop):
        with pytest.raises(TypeError, match="unexpected keyword argument 'reuse_address'"):
            await loop.create_datagram_endpoint(
                DatagramRecorder, ("127.0.0.1", 0), reuse_address=False
            )


class TestDatagrams:
    async def test_from_and_to_a_peer(self, network, peer):
        transport, protocol = await network.datagrams()
        peer.sendto(b"ping", transport.get_extra_info("sockname"))
        await protocol.arrived()
        assert protocol.datagrams == [(b"ping", peer.getsockname())]
        transport.sendto(b"pong", protocol.datagrams[0][1])
        assert peer.recv(10) == b"pong"

    async def test_ipv6(self, network):
        one, protocol = await network.datagrams(local_addr=("::1", 0))
        two, _ = await network.datagrams(local_addr=("::1", 0))
        two.sendto(b"with all parts", one.get_extra_info("sockname"))
        two.sendto(b"with two", one.get_extra_info("sockname")[:2])
        assert await protocol.arrived(2) == [b"with all parts", b"with two"]
        assert {addr for _, addr in protocol.datagrams} == {two.get_extra_info("sockname")}
        assert len(protocol.datagrams[0][1]) == 4

    async def test_many_in_order(self, network, peer):
        transport, protocol = await network.datagrams()
        sent = [b"%d" % number for number in range(200)]
        for data in sent:
            peer.sendto(data, transport.get_extra_info("sockname"))
        assert await protocol.arrived(200) == sent

    async def test_a_callback_comes_before_the_next_datagram(self, loop, network, peer):
        class Calling(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if data == b"2":
                    loop.call_soon(self.record, "called")

        transport, protocol = await network.datagrams(Calling())
        for number in range(5):
            peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
        await protocol.arrived(5)
        got = ["datagram_received"] * 3 + ["called"] + ["datagram_received"] * 2
        assert protocol.calls[1:] == got

    async def test_nothing_after_a_close_from_inside(self, network, peer):
        class Closing(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.close()

        transport, protocol = await network.datagrams(Closing())
        for _ in range(3):
            peer.sendto(b"ping", transport.get_extra_info("sockname"))
        await protocol.lost()
        assert protocol.calls == ["connection_made", "datagram_received", "connection_lost"]

    def test_stop_ends_the_turn(self, loop, peer):
        class Stopping(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                loop.stop()

        making = loop.create_datagram_endpoint(Stopping, ("127.0.0.1", 0))
        transport, protocol = loop.run_until_complete(making)
        for _ in range(3):
            peer.sendto(b"ping", transport.get_extra_info("sockname"))
        for count in (1, 2, 3):
            loop.run_forever()
            assert len(protocol.datagrams) == count
        transport.abort()

    async def test_empty_ones_are_received(self, network, peer):
        transport, protocol = await network.datagrams()
        peer.sendto(b"", transport.get_extra_info("sockname"))
        peer.sendto(b"more", transport.get_extra_info("sockname"))
        assert await protocol.arrived(2) == [b"", b"more"]

    async def test_empty_ones_are_sent(self, network, peer):
        transport, _ = await network.datagrams(remote_addr=peer.getsockname())
        for data in (b"", bytearray(), memoryview(b""), b"more"):
            transport.sendto(data)
        assert [peer.recv(10) for _ in range(4 if SENDS_EMPTY else 1)] == (
            [b"", b"", b"", b"more"] if SENDS_EMPTY else [b"more"]
        )

    async def test_largest(self, network, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        transport, _ = await network.datagrams(remote_addr=peer.getsockname())
        transport.sendto(bytes(65507))
        assert len(peer.recv(1 << 17)) == 65507

    @pytest.mark.parametrize("convert", [bytes, bytearray, memoryview, lambda b: Bytes(b)])
    async def test_kinds_of_data(self, network, peer, convert):
        transport, _ = await network.datagrams(remote_addr=peer.getsockname())
        transport.sendto(convert(b"data"))
        assert peer.recv(10) == b"data"

    @pytest.mark.parametrize("data", ["text", 1, None, [1]])
    async def test_other_data_is_refused(self, network, peer, data):
        transport, _protocol = await network.datagrams(remote_addr=peer.getsockname())
        with pytest.raises(TypeError) as caught:
            transport.sendto(data)
        name = type(data).__name__
        assert str(caught.value) == f"data argument must be a bytes-like object, not {name!r}"
        assert not transport.is_closing()


class Bytes(bytes):
    pass


class TestAddresses:
    async def test_only_the_remote_address(self, network, peer):
        remote = peer.getsockname()
        transport, _ = await network.datagrams(remote_addr=remote)
        for address in (None, remote, (*remote,)):
            transport.sendto(b"ping", address)
            assert peer.recv(10) == b"ping"
        with pytest.raises(ValueError) as caught:
            transport.sendto(b"ping", ("127.0.0.1", 1))
        assert str(caught.value) == f"Invalid address: must be None or {remote}"

    @pytest.mark.parametrize("host", ["localhost", "127.1", b"127.0.0.1"])
    async def test_names_are_resolved(self, network, peer, host):
        transport, _ = await network.datagrams()
        transport.sendto(b"ping", (host, peer.getsockname()[1]))
        assert peer.recv(10) == b"ping"

    async def test_a_host_that_is_none(self, network, peer):
        transport, protocol = await network.datagrams()
        transport.sendto(b"ping", ("256.256.256.256", 1))
        (error,) = protocol.errors
        assert isinstance(error, socket.gaierror)
        transport.sendto(b"pong", peer.getsockname())
        assert peer.recv(10) == b"pong"

    @pytest.mark.parametrize(
        ("address", "error"),
        [
            (("127.0.0.1", 65536), OverflowError),
            (("127.0.0.1", -1), OverflowError),
            (("127.0.0.1", "80"), TypeError),
            (("127.0.0.1",), TypeError),
            ("127.0.0.1", TypeError),
            (None, TypeError),
        ],
    )
    async def test_an_address_that_is_none_ends_it(self, network, error_contexts, address, error):
        transport, protocol = await network.datagrams()
        transport.sendto(b"ping", address)
        assert transport.is_closing()
        (context,) = error_contexts
        error_contexts.clear()
        assert context["message"] == "Fatal write error on datagram transport"
        assert type(context["exception"]) is error
        assert context["transport"] is transport
        assert context["protocol"] is protocol
        assert await protocol.lost() is context["exception"]
        assert protocol.errors == []


class TestErrors:
    async def test_nobody_there(self, network):
        transport, protocol = await network.datagrams(remote_addr=closed_port())
        transport.sendto(b"ping")
        await protocol.called("error_received")
        assert isinstance(protocol.errors[0], ConnectionRefusedError)
        assert not transport.is_closing()
        transport.sendto(b"ping")
        await protocol.called("error_received", 2)

    async def test_too_large(self, network, peer):
        transport, protocol = await network.datagrams(remote_addr=peer.getsockname())
        transport.sendto(bytes(70_000))
        assert [error.errno for error in protocol.errors] == [errno.EMSGSIZE]
        transport.sendto(b"small")
        assert peer.recv(10) == b"small"

    @pytest.mark.parametrize("exception", [ValueError, OSError])
    async def test_exception_in_datagram_received(self, network, peer, error_contexts, exception):
        class Raising(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if data == b"bad":
                    raise exception("no luck")

        transport, protocol = await network.datagrams(Raising())
        for data in (b"bad", b"good"):
            peer.sendto(data, transport.get_extra_info("sockname"))
        await protocol.arrived(2)
        (context,) = error_contexts
        error_contexts.clear()
        assert context["message"].startswith("Exception in callback ")
        assert isinstance(context["exception"], exception)
        assert isinstance(context["handle"], asyncio.Handle)
        assert not transport.is_closing()

    async def test_exception_in_error_received(self, network, error_contexts):
        class Raising(DatagramRecorder):
            def error_received(self, exc):
                super().error_received(exc)
                raise RuntimeError("no luck")

        transport, _protocol = await network.datagrams(Raising(), remote_addr=closed_port())
        with pytest.raises(RuntimeError, match="no luck"):
            transport.sendto(bytes(70_000))
        transport.sendto(b"ping")
        await until(lambda: error_contexts)
        (context,) = error_contexts
        error_contexts.clear()
        assert context["message"].startswith("Exception in callback ")
        assert isinstance(context["exception"], RuntimeError)
        assert not transport.is_closing()

    @pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
    def test_interrupts_leave_the_loop(self, loop, peer, exception):
        class Raising(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                raise exception

        making = loop.create_datagram_endpoint(Raising, ("127.0.0.1", 0))
        transport, _protocol = loop.run_until_complete(making)
        peer.sendto(b"1", transport.get_extra_info("sockname"))
        with pytest.raises(exception):
            loop.run_forever()
        assert not transport.is_closing()
        transport.abort()


class TestClosing:
    async def test_close(self, network):
        transport, protocol = await network.datagrams()
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert protocol.calls == ["connection_made"]
        assert await protocol.lost() is None
        assert protocol.calls == ["connection_made", "connection_lost"]
        await hops()
        assert transport.get_protocol() is None
        assert transport.get_extra_info("socket").fileno() == -1

    async def test_abort(self, network):
        transport, protocol = await network.datagrams()
        transport.abort()
        transport.abort()
        transport.close()
        assert await protocol.lost() is None
        assert protocol.calls == ["connection_made", "connection_lost"]

    async def test_sends_after_close_are_dropped(self, network, peer, caplog):
        transport, protocol = await network.datagrams(remote_addr=peer.getsockname())
        transport.close()
        await protocol.lost()
        for _ in range(6):
            transport.sendto(b"late")
        assert [record.getMessage() for record in caplog.records] == [
            "socket.send() raised exception."
        ] * 2
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(10)

    async def test_unconnected_ones_send_until_the_socket_is_closed(self, network, peer):
        transport, protocol = await network.datagrams()
        transport.close()
        transport.sendto(b"still", peer.getsockname())
        assert peer.recv(10) == b"still"
        await protocol.lost()

    async def test_connection_lost_raises(self, network, error_contexts):
        class Raising(DatagramRecorder):
            def connection_lost(self, exc):
                super().connection_lost(exc)
                raise ValueError("no luck")

        transport, protocol = await network.datagrams(Raising())
        transport.close()
        await protocol.lost()
        await hops()
        (context,) = error_contexts
        error_contexts.clear()
        assert str(context["exception"]) == "no luck"
        assert transport.get_extra_info("socket").fileno() == -1

    def test_dropped_unclosed(self, loop_factory):
        loop = loop_factory()
        making = loop.create_datagram_endpoint(DatagramRecorder, ("127.0.0.1", 0))
        transport, protocol = loop.run_until_complete(making)
        sock = transport.get_extra_info("socket")
        loop.close()
        with pytest.warns(ResourceWarning, match="unclosed transport <.*fd=") as caught:
            del making, transport, protocol
            gc.collect()
        assert len(caught) == 1
        assert sock.fileno() == -1


class TestTransport:
    async def test_repr(self, network):
        transport, protocol = await network.datagrams()
        await hops()
        fd = transport.get_extra_info("socket").fileno()
        assert f" fd={fd} read=polling write=<idle, bufsize=0>>" in repr(transport)
        transport.close()
        assert f" closing fd={fd} read=idle" in repr(transport)
        await protocol.lost()
        await hops()
        assert repr(transport).endswith(f" closed fd={fd}>")

    async def test_limits(self, network):
        transport, _ = await network.datagrams()
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(high=1, low=2)
        assert transport.get_write_buffer_size() == 0

    async def test_set_protocol(self, network, peer):
        transport, first = await network.datagrams()
        second = DatagramRecorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        peer.sendto(b"ping", transport.get_extra_info("sockname"))
        await second.arrived()
        transport.close()
        await second.lost()
        assert first.calls == ["connection_made"]

    @pytest.mark.skipif(PYTHON < (3, 11), reason="asyncio has it from 3.11 on")
    async def test_pause_reading(self, network, peer):
        transport, protocol = await network.datagrams()
        transport.pause_reading()
        assert not transport.is_reading()
        peer.sendto(b"ping", transport.get_extra_info("sockname"))
        await hops(5)
        assert protocol.datagrams == []
        transport.resume_reading()
        assert await protocol.arrived() == [b"ping"]

    async def test_its_descriptor_is_its_own(self, loop, network):
        transport, _ = await network.datagrams()
        fd = transport.get_extra_info("socket").fileno()
        for method in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                method(fd, print)

    async def test_attributes_can_be_set(self, network):
        transport, _ = await network.datagrams()
        transport.mark = 1
        assert transport.mark == 1

    async def test_contexts(self, network, peer):
        class Placed(DatagramRecorder):
            def record(self, call):
                super().record(f"{call} {PLACE.get()}")

        PLACE.set("made")
        transport, protocol = await network.datagrams(Placed())
        PLACE.set("later")
        peer.sendto(b"ping", transport.get_extra_info("sockname"))
        await protocol.called("datagram_received made")
        PLACE.set("closed")
        transport.close()
        await protocol.called("connection_lost closed")
        assert protocol.calls[0] == "connection_made made"

    async def test_debug_mode_logs(self, loop, network, caplog):
        loop.set_debug(True)
        caplog.set_level(logging.DEBUG, "asyncio")
        transport, protocol = await network.datagrams()
        texts = [record.getMessage() for record in caplog.records]
        assert (
            f"Datagram endpoint local_addr=('127.0.0.1', 0) remote_addr=None created: "
            f"({transport!r}, {protocol!r})" in texts
        )


class TestOtherSockets:
    async def test_netlink(self, network):
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)  # NETLINK_ROUTE
        sock.bind((0, 0))
        transport, protocol = await network.datagrams(sock=sock)
        links, dump = 18, 0x301  # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP
        transport.sendto(struct.pack("=IHHIIB3x", 20, links, dump, 1, 0, 0))
        await protocol.arrived()
        data, addr = protocol.datagrams[0]
        assert addr == (0, 0)
        assert struct.unpack_from("=IHH", data)[1] == 16  # RTM_NEWLINK

    @pytest.mark.skipif(PYTHON < (3, 13), reason="refused before 3.13")
    async def test_raw(self, network):
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)  # for experiments
        except PermissionError:
            pytest.skip("needs CAP_NET_RAW")
        sock.bind(("127.0.0.1", 0))
        transport, protocol = await network.datagrams(sock=sock)
        transport.sendto(b"ping", ("127.0.0.1", 0))
        (data,) = await protocol.arrived()
        assert data.endswith(b"ping")
        assert protocol.datagrams[0][1] == ("127.0.0.1", 0)

    async def test_a_subclass_of_socket_is_asked(self, network, peer):
        class Shouting(socket.socket):
            def sendto(self, data, *address):
                return super().sendto(data.upper(), *address)

            def recvfrom(self, size):
                data, address = super().recvfrom(size)
                return data.lower(), address

        sock = Shouting(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        transport, protocol = await network.datagrams(sock=sock)
        transport.sendto(b"ping", peer.getsockname())
        assert peer.recv(10) == b"PING"
        for data in (b"ONE", b"TWO"):
            peer.sendto(data, sock.getsockname())
        assert await protocol.arrived(2) == [b"one", b"two"]
