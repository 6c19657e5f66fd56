"""Network servers (event loop page, "Creating network servers" and "Server objects")."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from asyncio import trsock

import pytest

from .support import (
    PYTHON,
    Recorder,
    descriptors,
    hops,
    listen,
    module_of,
    skip_stock_bug,
    until,
)

# Where the protocol factory raises, stock asyncio leaves the accepted socket to the collector.
STRAY_SOCKET = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
KEEPS_CLIENTS = pytest.mark.skipif(PYTHON < (3, 13), reason="new in 3.13")


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class TestCreateServer:
    async def test_serves(self, network):
        server = await network.serve(Echo)
        peers = [network.dial(server) for _ in range(3)]
        for number, peer in enumerate(peers):
            peer.send(b"hello %d" % number)
        for number, peer in enumerate(peers):
            assert await peer.read(7) == b"hello %d" % number

    async def test_a_protocol_for_each_connection(self, network):
        made = []

        def factory():
            made.append(Recorder())
            return made[-1]

        server = await network.serve(factory)
        peers = [network.dial(server) for _ in range(5)]
        await until(lambda: len(made) == 5)
        for protocol in made:
            await protocol.called("connection_made")
        names = {protocol.transport.get_extra_info("peername") for protocol in made}
        assert names == {peer.sock.getsockname() for peer in peers}
        for peer in peers:
            peer.close()
        for protocol in made:
            await protocol.lost()

    async def test_attributes(self, loop, network):
        server = await network.serve()
        assert isinstance(server, asyncio.AbstractServer)
        assert isinstance(server, asyncio.Server)
        assert server.get_loop() is loop
        assert server.is_serving()
        assert isinstance(server.sockets, tuple)
        (sock,) = server.sockets
        assert isinstance(sock, trsock.TransportSocket)
        assert sock.gettimeout() == 0
        assert sock.getsockname()[0] == "127.0.0.1"
        assert sock.getsockname()[1] > 0
        assert repr(server.sockets) in repr(server)

    async def test_descriptors_are_not_inherited(self, network):
        server = await network.serve()
        assert not os.get_inheritable(server.sockets[0].fileno())
        transport, _, _ = await network.accept()
        assert not os.get_inheritable(transport.get_extra_info("socket").fileno())

    async def test_a_crowd(self, network):
        server = await network.serve(Echo, backlog=128)
        host, port = server.sockets[0].getsockname()

        async def visit(number):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"%d\n" % number)
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return int(line)

        assert await asyncio.gather(*(visit(n) for n in range(100))) == list(range(100))

    @pytest.mark.parametrize("backlog", [-1, 0])
    async def test_no_backlog(self, network, loop_spec, backlog):
        """listen(2) takes any number."""
        server = await network.serve(Echo, backlog=backlog)
        skip_stock_bug(loop_spec, backlog < 0 or PYTHON < (3, 14), "accepts nobody")
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        writer.close()
        await writer.wait_closed()

    async def test_a_visitor_that_leaves_before_it_is_accepted(self, network):
        server = await network.serve(Echo)
        for _ in range(5):
            network.dial(server).reset()
        peer = network.dial(server)
        peer.send(b"still here")
        assert await peer.read(10) == b"still here"

    @STRAY_SOCKET
    async def test_the_factory_raises(self, network):
        """The server goes on."""
        protocols = iter([LookupError("no protocol"), Echo()])

        def factory():
            protocol = next(protocols)
            if isinstance(protocol, Exception):
                raise protocol
            return protocol

        server = await network.serve(factory)
        network.dial(server)
        welcome = network.dial(server)
        welcome.send(b"hello")
        assert await welcome.read(5) == b"hello"

    async def test_a_visitor_without_a_protocol_is_turned_away(self, network, loop_spec):
        skip_stock_bug(loop_spec, True, "leaves the accepted socket to the collector")

        def factory():
            raise LookupError("no protocol")

        server = await network.serve(factory)
        assert await network.dial(server).read_all() == b""

    @STRAY_SOCKET
    async def test_the_factory_raises_in_debug_mode(self, loop, network, error_contexts):
        def factory():
            raise LookupError("no protocol")

        loop.set_debug(True)
        server = await network.serve(factory)
        network.dial(server)
        await until(lambda: error_contexts)
        context = error_contexts.pop()
        assert context["message"] == "Error on transport creation for incoming connection"
        assert isinstance(context["exception"], LookupError)

    async def test_connection_made_raises(self, network, error_contexts):
        class Failing(Echo):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise LookupError("not made")

        server = await network.serve(Failing)
        peer = network.dial(server)
        peer.send(b"hello")
        assert await peer.read(5) == b"hello"
        assert isinstance(error_contexts.pop()["exception"], LookupError)


class TestAddresses:
    async def test_several_hosts(self, network):
        server = await network.serve(Echo, host=["127.0.0.1", "127.0.0.2"])
        hosts = {sock.getsockname()[0] for sock in server.sockets}
        assert hosts == {"127.0.0.1", "127.0.0.2"}
        for sock in server.sockets:
            with socket.create_connection(sock.getsockname()) as connection:
                peer = network.peer(connection)
                peer.send(b"x")
                assert await peer.read(1) == b"x"

    async def test_a_host_given_twice_is_bound_once(self, network):
        server = await network.serve(host=["127.0.0.1", "127.0.0.1"])
        assert len(server.sockets) == 1

    @pytest.mark.parametrize("host", [None, ""])
    async def test_all_interfaces(self, network, host):
        server = await network.serve(host=host, port=0, family=socket.AF_INET)
        assert [sock.getsockname()[0] for sock in server.sockets] == ["0.0.0.0"]

    async def test_ipv6_only(self, network):
        try:
            server = await network.serve(host="::1")
        except OSError:
            pytest.skip("no IPv6 on this machine")
        (sock,) = server.sockets
        assert sock.family == socket.AF_INET6
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)

    async def test_in_use(self, loop):
        with listen() as listener:
            with pytest.raises(OSError, match="error while attempting to bind on") as caught:
                await loop.create_server(Recorder, *listener.getsockname())
        assert caught.value.errno == errno.EADDRINUSE
        assert str(listener.family.name) == "AF_INET"

    async def test_in_use_closes_what_was_bound(self, loop):
        before = descriptors()
        with listen() as listener:
            port = listener.getsockname()[1]
            with pytest.raises(OSError):
                await loop.create_server(Recorder, ["127.0.0.1", "127.0.0.2", "127.0.0.3"], port)
        assert descriptors() == before

    async def test_not_of_this_machine(self, loop):
        with pytest.raises(OSError):
            await loop.create_server(Recorder, "192.0.2.1", 0)  # TEST-NET-1

    async def test_names_go_through_the_resolver(self, loop, monkeypatch):
        async def getaddrinfo(host, port, **options):
            assert host == "a.name"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        server = await loop.create_server(Recorder, "a.name", 0)
        assert server.sockets[0].getsockname()[0] == "127.0.0.1"
        server.close()
        await server.wait_closed()


class TestOptions:
    async def test_reuse_address_by_default(self, network):
        server = await network.serve()
        (sock,) = server.sockets
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)

    async def test_no_reuse_address(self, network):
        server = await network.serve(reuse_address=False)
        (sock,) = server.sockets
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)

    async def test_reuse_port(self, network):
        first = await network.serve(reuse_port=True)
        host, port = first.sockets[0].getsockname()
        second = await network.serve(host=host, port=port, reuse_port=True)
        assert second.sockets[0].getsockname() == (host, port)

    @pytest.mark.skipif(PYTHON < (3, 13), reason="keep_alive is new in 3.13")
    async def test_keep_alive(self, network):
        server = await network.serve(keep_alive=True)
        (sock,) = server.sockets
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    async def test_bad_arguments(self, loop):
        with socket.socket() as sock:
            for options, message in [
                ({}, "Neither host/port nor sock were specified"),
                ({"host": "127.0.0.1", "sock": sock}, "can not be specified at the same time"),
                ({"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1}, "only meaningful"),
            ]:
                with pytest.raises(ValueError, match=message):
                    await loop.create_server(Recorder, **options)
        with pytest.raises(TypeError, match="must be an SSLContext or None"):
            await loop.create_server(Recorder, "127.0.0.1", 0, ssl=True)


class TestExistingSocket:
    async def test_bound(self, network):
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        server = await network.serve(Echo, sock=sock)
        assert [each.getsockname() for each in server.sockets] == [sock.getsockname()]
        assert sock.gettimeout() == 0
        peer = network.dial(server)
        peer.send(b"hello")
        assert await peer.read(5) == b"hello"
        server.close()
        await hops()
        assert sock.fileno() == -1

    async def test_listening_with_a_visitor_waiting(self, network):
        sock = listen()
        early = network.peer(socket.create_connection(sock.getsockname()))
        early.send(b"early")
        await network.serve(Echo, sock=sock)
        assert await early.read(5) == b"early"

    @pytest.mark.parametrize("proto", [socket.IPPROTO_TCP, 0], ids=["tcp", "unnamed"])
    async def test_no_delay(self, network, loop_spec, proto):
        """For connections that waited before the server as for those that come later."""
        sock = socket.socket(proto=proto)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        early = network.peer(socket.create_connection(sock.getsockname()))
        protocols = []
        server = await network.serve(lambda: protocols.append(Echo()) or protocols[-1], sock=sock)
        late = network.dial(server)
        for peer in early, late:
            peer.send(b"hello")
            assert await peer.read(5) == b"hello"
        expected = proto == socket.IPPROTO_TCP or module_of(loop_spec) == "oxloop"
        for protocol in protocols:
            connection = protocol.transport.get_extra_info("socket")
            no_delay = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert bool(no_delay) is expected

    async def test_datagram_socket_is_refused(self, loop):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.create_server(Recorder, sock=sock)


class TestStarting:
    async def test_not_at_once(self, network):
        server = await network.serve(Echo, start_serving=False)
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            network.dial(server)
        await server.start_serving()
        assert server.is_serving()
        peer = network.dial(server)
        peer.send(b"now")
        assert await peer.read(3) == b"now"

    async def test_twice_is_once(self, network):
        server = await network.serve(Echo)
        await server.start_serving()
        await server.start_serving()
        peer = network.dial(server)
        peer.send(b"once")
        assert await peer.read(4) == b"once"

    async def test_serve_forever(self, loop, network):
        server = await network.serve(Echo, start_serving=False)
        task = loop.create_task(server.serve_forever())
        await hops(2)
        assert server.is_serving()
        peer = network.dial(server)
        peer.send(b"x")
        assert await peer.read(1) == b"x"
        peer.close()
        await hops()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()
        assert server.sockets == ()

    async def test_serve_forever_twice(self, loop, network):
        server = await network.serve()
        task = loop.create_task(server.serve_forever())
        await hops()
        with pytest.raises(RuntimeError, match="is already being awaited on serve_forever"):
            await server.serve_forever()
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_serve_forever_on_a_closed_server(self, network):
        server = await network.serve()
        server.close()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    async def test_close_ends_serve_forever(self, loop, network):
        server = await network.serve()
        task = loop.create_task(server.serve_forever())
        await hops()
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestClosing:
    async def test_stops_listening(self, network):
        server = await network.serve()
        address = server.sockets[0].getsockname()
        server.close()
        assert not server.is_serving()
        assert server.sockets == ()
        server.close()
        await hops()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    async def test_keeps_open_connections(self, network):
        protocol = Echo()
        server = await network.serve(lambda: protocol)
        peer = network.dial(server)
        await protocol.called("connection_made")
        server.close()
        peer.send(b"hello")
        assert await peer.read(5) == b"hello"
        peer.close()
        await protocol.lost()

    async def test_async_with(self, network):
        async with await network.serve() as server:
            assert server.is_serving()
        assert not server.is_serving()

    async def test_wait_closed_without_connections(self, network):
        server = await network.serve()
        server.close()
        await server.wait_closed()
        await server.wait_closed()

    async def test_wait_closed_waits_for_close(self, loop, network):
        server = await network.serve()
        waiting = loop.create_task(server.wait_closed())
        await hops(3)
        assert not waiting.done()
        server.close()
        await waiting

    @pytest.mark.skipif(PYTHON >= (3, 12), reason="meaning before 3.12")
    async def test_wait_closed_ignores_connections(self, network):
        protocol = Recorder()
        server = await network.serve(lambda: protocol)
        network.dial(server)
        await protocol.called("connection_made")
        server.close()
        await server.wait_closed()
        assert "connection_lost" not in protocol.calls
        protocol.transport.abort()
        await protocol.lost()

    @pytest.mark.skipif(PYTHON < (3, 12), reason="meaning since 3.12")
    async def test_wait_closed_waits_for_connections(self, loop, network):
        protocol = Recorder()
        server = await network.serve(lambda: protocol)
        peer = network.dial(server)
        await protocol.called("connection_made")
        server.close()
        waiting = [loop.create_task(server.wait_closed()) for _ in range(2)]
        await hops(3)
        assert not any(task.done() for task in waiting)
        peer.close()
        await asyncio.gather(*waiting)
        assert "connection_lost" in protocol.calls

    @KEEPS_CLIENTS
    async def test_close_clients(self, network):
        """Closes each connection as its own close() does: what was written is delivered."""
        made = []
        server = await network.serve(lambda: made.append(Recorder()) or made[-1])
        peers = [network.dial(server) for _ in range(3)]
        await until(lambda: len(made) == 3 and all(each.transport for each in made))
        for protocol in made:
            protocol.transport.write(b"bye")
        server.close()
        server.close_clients()
        assert [await peer.read_all() for peer in peers] == [b"bye"] * 3
        await server.wait_closed()
        assert [protocol.error for protocol in made] == [None] * 3

    @KEEPS_CLIENTS
    async def test_abort_clients(self, network):
        made = []
        server = await network.serve(lambda: made.append(Recorder()) or made[-1])
        peer = network.dial(server)
        await until(lambda: made and made[0].transport)
        server.close()
        server.abort_clients()
        await server.wait_closed()
        assert made[0].story == ["connection_made", "connection_lost"]
        assert await peer.read_all() == b""

    @KEEPS_CLIENTS
    async def test_close_clients_leaves_the_server_open(self, network):
        made = []
        server = await network.serve(lambda: made.append(Echo()) or made[-1])
        first = network.dial(server)
        await until(lambda: made and made[0].transport)
        server.close_clients()
        assert await first.read_all() == b""
        assert server.is_serving()
        second = network.dial(server)
        second.send(b"x")
        assert await second.read(1) == b"x"
        second.close()
        await made[1].lost()

    async def test_a_visitor_in_the_queue_is_turned_away(self, network):
        server = await network.serve(Echo)
        late = network.dial(server)
        server.close()
        await hops(2)
        with pytest.raises(OSError):
            late.send(b"anyone?")
            if await late.read_all() == b"":
                raise ConnectionResetError
