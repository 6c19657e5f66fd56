"""Opening connections (event loop page, "Opening network connections"): create_connection."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

import pytest

from .support import (
    PYTHON,
    BufferedRecorder,
    Peer,
    Recorder,
    descriptors,
    hops,
    listen,
    module_of,
    skip_stock_bug,
    tcp_pair,
    until,
)

STREAM = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


def refusing_address(host: str = "127.0.0.1") -> tuple[str, int]:
    """Return an address nobody listens on (its port was free a moment ago)."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        return sock.getsockname()


@pytest.fixture
def resolve(loop, monkeypatch):
    """Make the loop's resolver answer with the given IPv4 addresses, in that order."""

    def set_answer(*addresses):
        async def getaddrinfo(host, port, **options):
            return [(*STREAM, address) for address in addresses]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)

    return set_answer


@pytest.fixture
def listener():
    with listen() as sock:
        yield sock


class TestByAddress:
    async def test_returns_transport_and_protocol(self, loop, listener):
        made = []

        def factory():
            made.append(Recorder())
            return made[-1]

        transport, protocol = await loop.create_connection(factory, *listener.getsockname())
        assert made == [protocol]
        assert protocol.transport is transport
        assert protocol.calls == ["connection_made"]
        assert transport.get_protocol() is protocol
        transport.close()
        await protocol.lost()

    async def test_exchanges_data(self, network):
        transport, protocol, peer = await network.connect()
        transport.write(b"ping")
        assert await peer.read(4) == b"ping"
        peer.send(b"pong")
        assert await protocol.received(4) == b"pong"

    @pytest.mark.parametrize("host", ["127.0.0.1", b"127.0.0.1", "localhost"])
    async def test_forms_of_the_host(self, loop, listener, host):
        transport, protocol = await loop.create_connection(
            Recorder, host, listener.getsockname()[1], family=socket.AF_INET
        )
        assert transport.get_extra_info("peername") == listener.getsockname()
        transport.close()
        await protocol.lost()

    @pytest.mark.parametrize("convert", [str, lambda port: str(port).encode()])
    async def test_forms_of_the_port(self, loop, listener, convert):
        transport, protocol = await loop.create_connection(
            Recorder, "127.0.0.1", convert(listener.getsockname()[1])
        )
        transport.close()
        await protocol.lost()

    async def test_ipv6(self, loop):
        try:
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError:
            pytest.skip("no IPv6 on this machine")
        with listener:
            address = listener.getsockname()
            transport, protocol = await loop.create_connection(Recorder, "::1", address[1])
            assert transport.get_extra_info("peername") == address
            assert len(transport.get_extra_info("sockname")) == 4
            transport.close()
            await protocol.lost()

    async def test_numeric_address_needs_no_resolver(self, loop, listener, monkeypatch):
        async def getaddrinfo(*arguments, **options):
            pytest.fail("a numeric address was sent to the resolver")

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        transport.close()
        await protocol.lost()

    async def test_many_at_once(self, loop):
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            pairs = await asyncio.gather(
                *(loop.create_connection(Recorder, *listener.getsockname()) for _ in range(50))
            )
            names = {transport.get_extra_info("sockname") for transport, _ in pairs}
            assert len(names) == 50
            for transport, _ in pairs:
                transport.abort()
            await asyncio.gather(*(protocol.lost() for _, protocol in pairs))


class TestSeveralAddresses:
    async def test_each_in_turn(self, loop, listener, resolve):
        refusing = [refusing_address(), refusing_address()]
        resolve(*refusing, listener.getsockname())
        transport, protocol = await loop.create_connection(Recorder, "a.name", 1)
        assert transport.get_extra_info("peername") == listener.getsockname()
        transport.close()
        await protocol.lost()

    async def test_the_first_that_answers(self, loop, listener, resolve):
        with listen() as other:
            resolve(listener.getsockname(), other.getsockname())
            transport, protocol = await loop.create_connection(Recorder, "a.name", 1)
            assert transport.get_extra_info("peername") == listener.getsockname()
            transport.close()
            await protocol.lost()

    async def test_all_refused(self, loop, resolve):
        addresses = [refusing_address(), refusing_address("127.0.0.2")]
        resolve(*addresses)
        with pytest.raises(OSError, match="Multiple exceptions: ") as caught:
            await loop.create_connection(Recorder, "a.name", 1)
        for _, port in addresses:
            assert str(port) in str(caught.value)

    @pytest.mark.skipif(PYTHON < (3, 12), reason="all_errors is new in 3.12")
    async def test_all_errors(self, loop, resolve):
        resolve(refusing_address(), refusing_address())
        with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:  # noqa: F821
            await loop.create_connection(Recorder, "a.name", 1, all_errors=True)
        assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2

    async def test_none(self, loop, resolve):
        resolve()
        with pytest.raises(OSError, match=r"getaddrinfo\(\) returned empty list"):
            await loop.create_connection(Recorder, "a.name", 1)

    async def test_happy_eyeballs(self, loop, listener, resolve):
        resolve(refusing_address(), listener.getsockname())
        transport, protocol = await loop.create_connection(
            Recorder, "a.name", 1, happy_eyeballs_delay=0.001
        )
        assert transport.get_extra_info("peername") == listener.getsockname()
        transport.close()
        await protocol.lost()

    async def test_happy_eyeballs_does_not_wait_for_the_silent(self, loop, listener, resolve):
        with silent_address() as silent:
            resolve(silent, listener.getsockname())
            transport, protocol = await loop.create_connection(
                Recorder, "a.name", 1, happy_eyeballs_delay=0.001
            )
            assert transport.get_extra_info("peername") == listener.getsockname()
            transport.close()
            await protocol.lost()


class TestErrors:
    async def test_refused(self, loop):
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, *refusing_address())
        assert caught.value.errno == errno.ECONNREFUSED

    async def test_the_factory_is_not_called_when_refused(self, loop):
        def factory():
            pytest.fail("no connection, no protocol")

        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(factory, *refusing_address())

    async def test_unknown_name(self, loop, monkeypatch):
        async def getaddrinfo(*arguments, **options):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        with pytest.raises(socket.gaierror) as caught:
            await loop.create_connection(Recorder, "a.name", 1)
        assert caught.value.errno == socket.EAI_NONAME

    async def test_the_loop_goes_on(self, loop, listener):
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await loop.create_connection(Recorder, *refusing_address())
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        transport.close()
        await protocol.lost()

    async def test_the_factory_raises(self, loop, loop_spec, listener):
        skip_stock_bug(loop_spec, PYTHON < (3, 14), "leaves the socket open (gh-153133)")

        def factory():
            raise LookupError("no protocol")

        with pytest.raises(LookupError, match="no protocol"):
            await loop.create_connection(factory, *listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1) == b""

    async def test_connection_made_raises(self, loop, listener, error_contexts):
        """The loop reports it; the connection stays."""

        class Failing(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise LookupError("not made")

        _transport, protocol = await loop.create_connection(Failing, *listener.getsockname())
        context = error_contexts.pop()
        assert isinstance(context["exception"], LookupError)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"data")
            assert await protocol.received(4) == b"data"
        assert await protocol.lost() is None

    async def test_cancelled_while_connecting(self, loop):
        before = descriptors()
        with silent_address() as address:
            task = loop.create_task(loop.create_connection(Recorder, *address))
            await hops(5)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert descriptors() == before

    @pytest.mark.skipif(not hasattr(asyncio, "timeout"), reason="asyncio.timeout is new in 3.11")
    async def test_time_out_while_connecting(self, loop):
        with silent_address() as address:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await loop.create_connection(Recorder, *address)

    async def test_bad_arguments(self, loop):
        with socket.socket() as sock:
            attempts = [
                ({}, "host and port was not specified and no sock"),
                ({"host": "127.0.0.1", "port": 1, "sock": sock}, "can not be specified at the"),
                ({"host": "127.0.0.1", "port": 1, "server_hostname": "a"}, "only meaningful"),
                ({"host": "127.0.0.1", "port": 1, "ssl_handshake_timeout": 1}, "only meaningful"),
            ]
            if PYTHON >= (3, 11):
                options = {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 1}
                attempts.append((options, "only meaningful"))
            for options, message in attempts:
                with pytest.raises(ValueError, match=message):
                    await loop.create_connection(Recorder, **options)

    async def test_unknown_keyword(self, loop):
        with pytest.raises(TypeError):
            await loop.create_connection(Recorder, "127.0.0.1", 1, unknown=1)


class TestLocalAddress:
    async def test_is_bound(self, loop, listener):
        local = refusing_address()
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname(), local_addr=local
        )
        assert transport.get_extra_info("sockname") == local
        transport.abort()
        await protocol.lost()

    async def test_in_use(self, loop, listener):
        with listen() as other:
            with pytest.raises(OSError, match="error while attempting to bind on") as caught:
                await loop.create_connection(
                    Recorder, *listener.getsockname(), local_addr=other.getsockname()
                )
        assert caught.value.errno == errno.EADDRINUSE

    async def test_of_another_family(self, loop, listener):
        with pytest.raises(OSError):
            await loop.create_connection(Recorder, *listener.getsockname(), local_addr=("::1", 0))


class TestExistingSocket:
    @pytest.mark.parametrize("make_pair", [tcp_pair, socket.socketpair])
    async def test_takes_over(self, loop, make_pair):
        ours, theirs = make_pair()
        ours.setblocking(True)
        with theirs:
            peer = Peer(theirs)
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            assert ours.gettimeout() == 0
            assert transport.get_extra_info("socket").fileno() == ours.fileno()
            transport.write(b"ping")
            assert await peer.read(4) == b"ping"
            peer.send(b"pong")
            assert await protocol.received(4) == b"pong"
            transport.close()
            await protocol.lost()
            assert await peer.read_all() == b""

    async def test_is_closed_through_its_owner(self, loop):
        ours, theirs = tcp_pair()
        with theirs:
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            transport.close()
            await protocol.lost()
            assert ours.fileno() == -1

    async def test_data_that_was_there_before(self, loop):
        ours, theirs = tcp_pair()
        with theirs:
            theirs.sendall(b"early")
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            assert await protocol.received(5) == b"early"
            transport.close()
            await protocol.lost()

    async def test_of_a_class_that_overrides_its_calls(self, loop, loop_spec):
        used = []

        class Noting(socket.socket):
            def recv(self, *arguments):
                used.append("recv")
                return super().recv(*arguments)

            def send(self, *arguments):
                used.append("send")
                return super().send(*arguments)

        ours, theirs = tcp_pair()
        with theirs:
            peer = Peer(theirs)
            ours = Noting(fileno=ours.detach())
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            transport.write(b"ping")
            assert await peer.read(4) == b"ping"
            peer.send(b"pong")
            assert await protocol.received(4) == b"pong"
            transport.close()
            await protocol.lost()
        # A difference: ours makes the system calls itself.
        assert set(used) == ({"recv", "send"} if module_of(loop_spec) == "asyncio" else set())

    async def test_connected_by_the_caller(self, loop, listener):
        sock = socket.create_connection(listener.getsockname())
        transport, protocol = await loop.create_connection(Recorder, sock=sock)
        assert transport.get_extra_info("peername") == listener.getsockname()
        transport.close()
        await protocol.lost()

    async def test_datagram_socket_is_refused(self, loop):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.create_connection(Recorder, sock=sock)

    @pytest.mark.skipif(PYTHON < (3, 13), reason="checked since 3.13")
    async def test_in_use_by_another_transport(self, loop):
        ours, theirs = tcp_pair()
        with theirs:
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            with pytest.raises(RuntimeError, match="is used by transport"):
                await loop.create_connection(Recorder, sock=ours)
            transport.abort()
            await protocol.lost()


class TestAcceptedSocket:
    async def test_takes_over(self, loop, listener):
        peer = Peer(socket.create_connection(listener.getsockname()))
        ours, address = listener.accept()
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        assert ours.gettimeout() == 0
        assert protocol.transport is transport
        assert transport.get_extra_info("peername") == address
        peer.send(b"ping")
        assert await protocol.received(4) == b"ping"
        transport.write(b"pong")
        assert await peer.read(4) == b"pong"
        peer.close()
        assert await protocol.lost() is None
        await hops()
        assert ours.fileno() == -1

    async def test_buffered(self, loop):
        ours, theirs = socket.socketpair()
        with theirs:
            transport, protocol = await loop.connect_accepted_socket(
                lambda: BufferedRecorder(3), ours
            )
            theirs.sendall(b"accepted")
            assert await protocol.received(8) == b"accepted"
            transport.close()
            await protocol.lost()

    async def test_bad_arguments(self, loop):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.connect_accepted_socket(Recorder, sock)
        with socket.socket() as sock:
            with pytest.raises(ValueError, match="only meaningful with ssl"):
                await loop.connect_accepted_socket(Recorder, sock, ssl_handshake_timeout=1)

    async def test_the_factory_raises(self, loop, loop_spec):
        skip_stock_bug(loop_spec, PYTHON < (3, 14), "leaves the socket open (gh-153133)")

        def factory():
            raise LookupError("no protocol")

        ours, theirs = tcp_pair()
        with theirs:
            with pytest.raises(LookupError):
                await loop.connect_accepted_socket(factory, ours)
            assert theirs.recv(1) == b""


class TestCancelledAtEachStep:
    """After any number of turns: nothing is left, and connection_made has its connection_lost."""

    @staticmethod
    async def cancel_after(loop, count, connect, protocol):
        before = descriptors()
        task = loop.create_task(connect(lambda: protocol))
        await hops(count)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            transport, _ = await task
            transport.abort()
        if protocol.calls:
            await protocol.lost()
        # A name that is being looked up, and a loser of a race, end a little later.
        await until(lambda: set(descriptors()) <= set(before))
        assert protocol.calls in ([], ["connection_made", "connection_lost"])
        return task.cancelled()

    @pytest.mark.parametrize("way", ["by_address", "in_turn", "racing", "bound"])
    async def test_connecting(self, loop, loop_spec, listener, resolve, way):
        skip_stock_bug(loop_spec, way == "racing", "a cancelled race may leave a socket open")
        resolve(refusing_address(), listener.getsockname(), refusing_address())
        arguments, options = {
            "by_address": (listener.getsockname(), {}),
            "in_turn": (("a.name", 1), {}),
            "racing": (("a.name", 1), {"happy_eyeballs_delay": 60}),
            "bound": (listener.getsockname(), {"local_addr": ("127.0.0.1", 0)}),
        }[way]

        def connect(factory):
            return loop.create_connection(factory, *arguments, **options)

        outcomes = [
            await self.cancel_after(loop, count, connect, Recorder()) for count in range(20)
        ]
        assert outcomes[0]
        assert not outcomes[-1]

    @pytest.mark.parametrize("accepted", [False, True])
    async def test_existing_sockets(self, loop, accepted):
        for count in range(1, 6):  # before the first turn it is still the caller's
            ours, theirs = tcp_pair()
            with theirs:

                def connect(factory, ours=ours):
                    if accepted:
                        return loop.connect_accepted_socket(factory, ours)
                    return loop.create_connection(factory, sock=ours)

                await self.cancel_after(loop, count, connect, Recorder())
                await hops()
                assert ours.fileno() == -1
                assert theirs.recv(1) == b""

    async def test_servers(self, loop, loop_spec):
        """A server that nobody got is closed."""
        skip_stock_bug(loop_spec, True, "leaves the listening sockets open")
        with listen() as place:
            address = place.getsockname()
        before = descriptors()
        for count in range(4):
            task = loop.create_task(loop.create_server(Recorder, *address))
            await hops(count)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await task).close()
            assert descriptors() == before


@contextlib.contextmanager
def silent_address():
    """An address that answers nothing: its queue of connections is full, so SYNs are dropped."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # more than enough for a queue of length zero
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()
