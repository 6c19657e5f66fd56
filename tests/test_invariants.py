"""The nine invariants of ARCHITECTURE.md, one class for each (8 and 9 in files of their own).

They hold for asyncio too; where a version of it breaks one, the skip says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import random
import socket
import weakref

import pytest

from .support import (
    BufferedRecorder,
    DatagramRecorder,
    Recorder,
    abort,
    descriptors,
    fill,
    hops,
    listen,
    run_script,
    skip_stock_bug,
    tcp_pair,
    udp_pair,
    until,
)


class Checked(Recorder):
    """Checks the order of its callbacks as they come, and that none comes from its own calls."""

    def __init__(self, *, keep_open: bool = False) -> None:
        super().__init__(keep_open=keep_open)
        self.wrong: list[str] = []
        self.calling: str | None = None

    def record(self, call: str) -> None:
        last = self.calls[-1] if self.calls else None
        if (last is None) != (call == "connection_made"):
            self.wrong.append(f"{call} after {last}")
        if last == "connection_lost":
            self.wrong.append(f"{call} after connection_lost")
        if "eof_received" in self.calls and call in ("data_received", "eof_received"):
            self.wrong.append(f"{call} after eof_received")
        if call in ("pause_writing", "resume_writing"):
            flow = [each for each in self.calls if each.endswith("_writing")]
            if call == (flow[-1] if flow else "resume_writing"):
                self.wrong.append(f"{call} twice")
        elif self.calling is not None:
            self.wrong.append(f"{call} from inside {self.calling}()")
        super().record(call)

    def call(self, name: str, *arguments: object) -> None:
        """Call a method of the transport."""
        self.calling = name
        try:
            getattr(self.transport, name)(*arguments)
        finally:
            self.calling = None


class TestInvariant1CallbackOrder:
    """connection_made and connection_lost exactly once, everything else between them;
    eof_received at most once and no data after it; connection_lost always in a later turn."""

    async def play(self, network, seed):
        """Let both ends of a connection do random things until it is over."""
        chance = random.Random(seed)
        opened = network.connect if chance.random() < 0.5 else network.accept
        protocol = Checked(keep_open=chance.random() < 0.5)
        transport, _, peer = await opened(protocol, receive_buffer=4096)
        peer.sock.setblocking(False)
        transport.set_write_buffer_limits(high=chance.choice([0, 1, 1000, 100_000]))
        ours = [
            lambda: transport.is_closing() or protocol.call("write", bytes(chance.randrange(9999))),
            lambda: protocol.call("pause_reading"),
            lambda: protocol.call("resume_reading"),
            lambda: protocol.call("close"),
            lambda: None,
            lambda: None,
        ]
        theirs = [
            lambda: peer.send(b"data"),
            lambda: peer.sock.recv(100_000),
            peer.shutdown,
            peer.reset,
            peer.close,
        ]
        for _ in range(chance.randrange(12)):
            chance.choice(ours)()
            with contextlib.suppress(OSError):
                chance.choice(theirs)()
            await hops(chance.randrange(3))
        protocol.calling = "abort"
        abort(transport)
        protocol.calling = None
        await protocol.lost()
        await hops(3)
        return protocol

    @pytest.mark.parametrize("seed", range(0, 200, 20))
    async def test_random_lives(self, network, seed):
        for each in range(seed, seed + 20):
            protocol = await self.play(network, each)
            assert protocol.wrong == [], each
            assert protocol.calls.count("connection_made") == 1
            assert protocol.calls.count("connection_lost") == 1

    @pytest.mark.parametrize("method", ["close", "abort"])
    async def test_lost_in_a_later_turn(self, network, method):
        _, protocol, _ = await network.connect(Checked())
        protocol.call(method)
        assert protocol.calls == ["connection_made"]
        await protocol.lost()
        assert protocol.wrong == []

    async def test_lost_in_a_later_turn_when_a_write_fails(self, network):
        transport, protocol, peer = await network.connect(Checked())
        transport.pause_reading()
        peer.send(b"unread")
        peer.reset()
        protocol.call("write", b"anyone?")
        assert protocol.calls == ["connection_made"]
        assert isinstance(await protocol.lost(), ConnectionError)
        assert protocol.wrong == []

    async def test_no_data_after_close(self, network):
        """Even if it had arrived, and been seen by the selector, before."""
        first, second = Checked(), Checked()
        _, _, one = await network.connect(first)
        _, _, two = await network.connect(second)
        # Both get data in the same turn; whoever is first closes the other.
        first.data_received = lambda data: second.call("close")
        second.data_received = lambda data: first.call("close")
        one.send(b"data")
        two.send(b"data")
        await until(lambda: "connection_lost" in first.calls + second.calls)
        await hops(3)
        assert first.wrong == second.wrong == []
        lost = [each for each in (first, second) if "connection_lost" in each.calls]
        assert [each.calls for each in lost] == [["connection_made", "connection_lost"]]


class TestInvariant2FlowControl:
    """pause_writing and resume_writing strictly alternate, at their exact edges."""

    @pytest.mark.parametrize("seed", range(10))
    async def test_random_writes(self, network, seed):
        chance = random.Random(seed)
        wrong = []

        class Edges(Checked):
            def pause_writing(self):
                super().pause_writing()
                _low, high = self.transport.get_write_buffer_limits()
                if not self.transport.get_write_buffer_size() > high:
                    wrong.append("paused at or under high")

            def resume_writing(self):
                super().resume_writing()
                low, _high = self.transport.get_write_buffer_limits()
                if not self.transport.get_write_buffer_size() <= low:
                    wrong.append("resumed over low")

        transport, protocol, peer = await network.connect(Edges(), receive_buffer=4096)
        await fill(transport)
        peer.sock.setblocking(False)

        def paused():
            flow = [call for call in protocol.calls if call.endswith("_writing")]
            return bool(flow) and flow[-1] == "pause_writing"

        for _ in range(300):
            if chance.random() < 0.1:
                high = chance.choice([0, 1, 1000, 10_000, 30_000])
                transport.set_write_buffer_limits(high=high, low=chance.choice([None, 0, high]))
            elif chance.random() < (0.1 if paused() else 0.9):
                transport.write(bytes(chance.randrange(5000)))
            else:
                for _ in range(chance.randrange(20)):
                    with contextlib.suppress(BlockingIOError):
                        peer.sock.recv(chance.randrange(1, 60_000))
                    await hops()
            _low, high = transport.get_write_buffer_limits()
            if transport.get_write_buffer_size() > high and not paused():
                wrong.append("over high and not paused")
        assert wrong == []
        assert protocol.wrong == []
        assert protocol.calls.count("pause_writing") > 3
        assert protocol.calls.count("resume_writing") > 3

    @pytest.mark.parametrize("high", [0, 1, 64 * 1024])
    async def test_low_zero_resumes_when_empty(self, network, high):
        sizes = []

        class Edges(Checked):
            def resume_writing(self):
                super().resume_writing()
                sizes.append(self.transport.get_write_buffer_size())

        transport, protocol, peer = await network.connect(Edges(), receive_buffer=4096)
        await fill(transport)
        transport.write(bytes(64 * 1024))
        transport.set_write_buffer_limits(high=high, low=0)
        transport.write_eof()
        await peer.read_all()
        assert sizes == [0]
        assert protocol.wrong == []


class TestInvariant3Descriptors:
    """One owner for each descriptor, closed exactly once, whatever goes wrong in between."""

    async def test_a_number_is_not_closed_again(self, network):
        """Once a connection is over its number may belong to another file: hands off."""
        transport, protocol, _ = await network.connect()
        sock = transport.get_extra_info("socket")
        transport.close()
        await protocol.lost()
        await hops()
        others = [os.pipe() for _ in range(10)]  # take the number
        before = [os.fstat(number) for pair in others for number in pair]
        abort(transport)
        transport.close()
        transport.write(b"late")
        del transport, sock
        protocol.transport = None
        gc.collect()
        await hops(3)
        assert [os.fstat(number) for pair in others for number in pair] == before
        for pair in others:
            for number in pair:
                os.close(number)

    async def test_a_new_connection_gets_nothing_meant_for_the_old(self, network):
        """The successor on the same number is another connection in every respect."""
        for _ in range(20):
            transport, protocol, peer = await network.connect()
            peer.send(b"for the first")
            transport.abort()
            await protocol.lost()
            await hops()
            _, successor, other = await network.connect()
            other.send(b"for the second")
            assert await successor.received(14) == b"for the second"
            assert protocol.calls == ["connection_made", "connection_lost"]

    async def test_the_socket_given_by_the_caller(self, loop):
        ours, theirs = tcp_pair()
        number = ours.fileno()
        with theirs:
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            transport.close()
            await protocol.lost()
            await hops()
            assert ours.fileno() == -1
            with pytest.raises(OSError):
                os.fstat(number)
            ours.close()

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
    async def test_the_callers_socket_closed_too_early(self, loop, kind):
        """What is written later is not for the file that has the number by then."""
        ours, theirs = tcp_pair() if kind == socket.SOCK_STREAM else udp_pair()
        number = ours.fileno()
        if kind == socket.SOCK_STREAM:
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            write = transport.write
        else:
            transport, protocol = await loop.create_datagram_endpoint(DatagramRecorder, sock=ours)
            write = transport.sendto
        ours.close()
        # They take the number, if it is free.
        strangers = [each for _ in range(10) for each in socket.socketpair()]
        write(b"not for strangers")
        await hops(3)
        transport.close()
        await protocol.lost()
        await hops()
        for stranger in strangers:
            with pytest.raises(BlockingIOError):
                stranger.recv(100, socket.MSG_DONTWAIT)
        for stranger in strangers:
            stranger.close()
        with pytest.raises(OSError):
            os.fstat(number)
        theirs.close()

    @pytest.mark.parametrize("steps", range(6))
    async def test_connecting_cancelled_after_some_steps(self, loop, steps):
        before = descriptors()
        with listen() as listener:
            task = loop.create_task(loop.create_connection(Recorder, *listener.getsockname()))
            await hops(steps)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                transport, _ = await task
                transport.abort()
            await hops(3)
        assert descriptors() == before

    @pytest.mark.parametrize("steps", range(7))
    async def test_serving_cancelled_after_some_steps(self, loop, loop_spec, steps):
        skip_stock_bug(loop_spec, steps in (4, 5), "leaves a server that nobody can close")
        before = descriptors()
        task = loop.create_task(loop.create_server(Recorder, "127.0.0.1", 0))
        await hops(steps)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            server = await task
            server.close()
        await hops(3)
        gc.collect()
        assert descriptors() == before

    async def test_exceptions_in_callbacks(self, network, error_contexts):
        before = descriptors()
        for callback in ("connection_made", "data_received", "eof_received", "connection_lost"):
            protocol = Recorder()

            def fail(*arguments, callback=callback, protocol=protocol):
                if callback == "connection_made":
                    (protocol.transport,) = arguments
                protocol.record(callback)
                raise LookupError(callback)

            setattr(protocol, callback, fail)
            _transport, _, peer = await network.connect(protocol)
            peer.send(b"data")
            peer.close()
            await protocol.lost()
            await hops()
        assert len(error_contexts) == 4
        error_contexts.clear()
        assert descriptors() == before

    def test_a_loop_closed_with_everything_open(self, loop_factory):
        """What the loop itself opened goes with it; what was handed out goes with its owner."""
        before = descriptors()
        loop = loop_factory()

        async def open_everything(loop):
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            pairs = [await loop.create_connection(Recorder, *address) for _ in range(5)]
            return server, pairs

        with pytest.warns(ResourceWarning):
            everything = loop.run_until_complete(open_everything(loop))
            loop.close()
            del everything
            gc.collect()
        del loop
        gc.collect()
        assert descriptors() == before


class TestInvariant4LateCalls:
    """A late call on a closed transport is a no-op exactly where asyncio's is."""

    TABLE = (
        ("write", (b"late",), None),
        ("write", (b"",), None),
        ("write", ("text",), TypeError),
        ("writelines", ([],), None),
        ("write_eof", (), None),
        ("can_write_eof", (), True),
        ("close", (), None),
        ("abort", (), None),
        ("is_closing", (), True),
        ("pause_reading", (), None),
        ("resume_reading", (), None),
        ("is_reading", (), False),
        ("get_write_buffer_size", (), 0),
        ("get_write_buffer_limits", (), (16 * 1024, 64 * 1024)),
        ("set_write_buffer_limits", (64 * 1024,), None),
        ("set_write_buffer_limits", (-1,), ValueError),
        ("get_extra_info", ("unknown", 42), 42),
    )

    @pytest.mark.parametrize("end", ["close", "abort", "peer_closes", "peer_resets", "error"])
    async def test_every_method(self, network, error_contexts, end):
        class Failing(Recorder):
            def data_received(self, data):
                raise LookupError("at the end")

        transport, protocol, peer = await network.connect(Failing())
        if end == "peer_closes":
            peer.close()
        elif end == "peer_resets":
            peer.reset()
        elif end == "error":
            peer.send(b"data")
        else:
            getattr(transport, end)()
            self.check(transport)
        await protocol.lost()
        self.check(transport)
        await hops()
        self.check(transport)
        assert protocol.calls == [call for call in protocol.story if call in self.allowed(end)]
        assert protocol.calls.count("connection_lost") == 1
        assert [type(context["exception"]) for context in error_contexts] == (
            [LookupError] if end == "error" else []
        )
        error_contexts.clear()

    @staticmethod
    def allowed(end):
        middle = ["eof_received"] if end == "peer_closes" else []
        return ["connection_made", *middle, "connection_lost"]

    def check(self, transport):
        for name, arguments, expected in self.TABLE:
            method = getattr(transport, name)
            if isinstance(expected, type):
                with pytest.raises(expected):
                    method(*arguments)
            else:
                assert method(*arguments) == expected, name


class TestInvariant5Exceptions:
    """Exceptions of callbacks go to the exception handler with asyncio's keys; KeyboardInterrupt
    and SystemExit leave run_forever; nothing ends the process."""

    FATAL = "Fatal error: protocol.{}() call failed."
    CONNECTION_KEYS = frozenset({"message", "exception", "transport", "protocol"})
    HANDLE_KEYS = frozenset({"message", "exception", "handle"})
    CALLBACKS = (
        ("connection_made", "Exception in callback", HANDLE_KEYS),
        ("data_received", FATAL.format("data_received"), CONNECTION_KEYS),
        ("get_buffer", FATAL.format("get_buffer"), CONNECTION_KEYS),
        ("buffer_updated", FATAL.format("buffer_updated"), CONNECTION_KEYS),
        ("eof_received", FATAL.format("eof_received"), CONNECTION_KEYS),
        ("pause_writing", "protocol.pause_writing() failed", CONNECTION_KEYS),
        ("resume_writing", "protocol.resume_writing() failed", CONNECTION_KEYS),
        ("connection_lost", "Exception in callback", HANDLE_KEYS),
    )

    def provoke(self, loop, network, callback, error):
        """Open a connection, make it call `callback`, which raises `error`; return both ends."""
        buffered = callback in ("get_buffer", "buffer_updated")
        protocol = BufferedRecorder() if buffered else Recorder()
        stock = getattr(protocol, callback)
        failed = []

        def fail(*arguments):
            if failed:
                return stock(*arguments)
            failed.append(True)
            if callback in ("connection_made", "connection_lost"):
                stock(*arguments)
            raise error

        setattr(protocol, callback, fail)

        async def play():
            transport, _, peer = await network.connect(protocol, receive_buffer=4096)
            if callback in ("pause_writing", "resume_writing"):
                transport.set_write_buffer_limits(high=0)
                while not transport.get_write_buffer_size():
                    transport.write(bytes(64 * 1024))
                transport.write_eof()
                await peer.read_all()
            if callback in ("data_received", "get_buffer", "buffer_updated"):
                peer.send(b"data")
                await until(lambda: failed)
            if callback == "eof_received":
                peer.shutdown()
                await until(lambda: failed)
            if callback == "connection_lost":
                transport.close()
                await until(lambda: failed)
            await hops(3)
            return transport, protocol

        task = loop.create_task(play())
        try:
            return loop.run_until_complete(task)
        finally:
            abort(protocol.transport)
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))

    @pytest.mark.parametrize(("callback", "message", "keys"), CALLBACKS)
    def test_reported(self, loop, network, error_contexts, callback, message, keys):
        error = LookupError(callback)
        transport, protocol = self.provoke(loop, network, callback, error)
        context = error_contexts.pop()
        assert context["message"].startswith(message)
        assert context["exception"] is error
        assert context.keys() == keys
        if "transport" in keys:
            assert context["transport"] is transport
            assert context["protocol"] is protocol
        if message.startswith("Fatal"):
            assert protocol.error is error

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("callback", [name for name, _, _ in CALLBACKS])
    def test_leaves_the_loop(self, loop, network, loop_spec, callback, error):
        skip_stock_bug(loop_spec, callback == "resume_writing", "goes on to write nothing")
        with pytest.raises(error, match=callback):
            self.provoke(loop, network, callback, error(callback))
        # The loop is as good as before.
        assert loop.run_until_complete(asyncio.sleep(0.001, "result")) == "result"

    def test_ready_events_survive_the_exception(self, loop, network):
        """Other connections that were ready in the same turn get their data in the next run."""

        async def open_all():
            return [await network.connect() for _ in range(5)]

        opened = loop.run_until_complete(open_all())

        def leave(data):
            raise KeyboardInterrupt

        leaving = opened[2][1]
        leaving.data_received = leave
        for _, _, peer in opened:
            peer.send(b"data")
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        del leaving.data_received
        others = [protocol for _, protocol, _ in opened if protocol is not leaving]

        async def receive():
            for protocol in others:
                assert await protocol.received(4) == b"data"

        loop.run_until_complete(asyncio.wait_for(receive(), 20))

    def test_hostile_protocols_do_not_end_the_process(self, loop_spec):
        outcome = run_script(
            """
            import logging
            logging.disable(logging.CRITICAL)

            class Hostile:
                # Every attribute, every result and every text of it is an exception.
                def __getattribute__(self, name):
                    raise ValueError(name)
                def __repr__(self):
                    raise ValueError("repr")
                def __del__(self):
                    raise ValueError("del")

            class Strange(asyncio.Protocol):
                # Changes everything below the transport's feet.
                def connection_made(self, transport):
                    self.transport = transport
                def data_received(self, data):
                    transport = self.transport
                    del self.transport
                    transport.set_protocol(Hostile())
                    transport.write(data)
                    transport.close()

            async def main():
                loop = asyncio.get_running_loop()
                for factory in (Hostile, Strange, lambda: None, int):
                    server = await loop.create_server(factory, "127.0.0.1", 0)
                    address = server.sockets[0].getsockname()
                    for _ in range(3):
                        reader, writer = await asyncio.open_connection(*address)
                        writer.write(b"data")
                        await asyncio.sleep(0.005)
                        writer.transport.abort()
                    server.close()
                say("alive")

            loop = new_event_loop()
            loop.run_until_complete(main())
            os._exit(0)
            """,
            loop_spec,
        )
        assert outcome.code == 0, outcome.errors
        assert outcome.output == "alive\n"


def texts(caught):
    """The texts of warnings, which are let go: they hold what they warn of (from 3.15 on)."""
    found = [str(each.message) for each in caught]
    caught.clear()
    gc.collect()
    return found


class TestInvariant6Collector:
    """The collector sees every reference: a dropped loop goes, with all that was open on it."""

    def test_a_dropped_loop_with_open_connections(self, loop_factory):
        before = descriptors()
        loop = loop_factory()

        async def open_everything(loop):
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            pairs = [await loop.create_connection(Recorder, *address) for _ in range(10)]
            for transport, protocol in pairs:
                transport.write(b"data")
                protocol.loop = loop  # a cycle through everything
            await hops(3)
            return [weakref.ref(each) for pair in pairs for each in pair]

        references = [weakref.ref(loop), *loop.run_until_complete(open_everything(loop))]
        with pytest.warns(ResourceWarning) as caught:
            del loop
            gc.collect()
        messages = texts(caught)
        assert [reference() for reference in references if reference() is not None] == []
        assert descriptors() == before
        assert sum(message.startswith("unclosed event loop") for message in messages) == 1
        assert sum(message.startswith("unclosed transport") for message in messages) >= 10

    def test_a_closed_loop_with_open_connections(self, loop_factory):
        before = descriptors()
        loop = loop_factory()

        async def open_some(loop):
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            transport, _ = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
            await hops(3)
            server.close()
            return weakref.ref(transport)

        reference = loop.run_until_complete(open_some(loop))
        loop.close()
        with pytest.warns(ResourceWarning) as caught:
            del loop
            gc.collect()
        assert any(text.startswith("unclosed transport") for text in texts(caught))
        assert reference() is None
        assert descriptors() == before


class TestInvariant7Errors:
    """Errors keep their errno and are of asyncio's type."""

    async def test_refused(self, loop):
        with listen() as listener:
            address = listener.getsockname()
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, *address)
        assert caught.value.errno == errno.ECONNREFUSED

    async def test_address_in_use(self, loop):
        with listen() as listener:
            with pytest.raises(OSError) as caught:
                await loop.create_server(Recorder, *listener.getsockname())
        assert caught.value.errno == errno.EADDRINUSE

    async def test_unknown_name(self, loop):
        with pytest.raises(socket.gaierror) as caught:
            await loop.create_connection(Recorder, "not numeric", 1, flags=socket.AI_NUMERICHOST)
        assert caught.value.errno == socket.EAI_NONAME

    @pytest.mark.parametrize("address", [("255.255.255.255", 9), ("224.0.0.1", 9)])
    async def test_as_the_kernel_says(self, loop, address):
        with socket.socket() as sock:
            sock.setblocking(False)
            number = sock.connect_ex(address)
        if number == errno.EINPROGRESS:
            pytest.skip("this network lets it pass")
        with pytest.raises(OSError) as caught:
            await loop.create_connection(Recorder, *address)
        assert caught.value.errno == number
        assert type(caught.value) is type(OSError(number, ""))

    async def test_reset_while_reading(self, network):
        _, protocol, peer = await network.connect()
        peer.reset()
        error = await protocol.lost()
        assert type(error) is ConnectionResetError
        assert error.errno == errno.ECONNRESET

    async def test_reset_while_writing(self, network):
        transport, protocol, peer = await network.connect()
        transport.pause_reading()
        peer.send(b"unread")
        peer.reset()
        transport.write(b"anyone?")
        error = await protocol.lost()
        assert type(error) is type(OSError(error.errno, ""))
        assert error.errno in (errno.ECONNRESET, errno.EPIPE)

    async def test_the_text_is_the_systems(self, network):
        _, protocol, peer = await network.connect()
        peer.reset()
        error = await protocol.lost()
        assert str(error) == f"[Errno {errno.ECONNRESET}] {os.strerror(errno.ECONNRESET)}"
