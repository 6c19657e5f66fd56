"""The exception handler runs as in an `except` block: what is reported is being handled.

So `logger.exception` and `traceback.print_exc` print it there, a bare `raise` raises it again, and
it is the `__context__` of what the handler raises.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from .certificates import server_context
from .processes import PYTHON as CHILD
from .processes import ProcessRecorder
from .support import (
    PYTHON,
    BufferedRecorder,
    DatagramRecorder,
    Network,
    Recorder,
    run_limited,
    skip_stock_bug,
    turns,
    until,
)
from .tls import Tls, TlsPeer

BULK = 8 << 20
"""More than a socket takes while nobody reads, bytes."""


class Boom(Exception):
    """What user code raises."""


def boom(*_: object) -> None:
    raise Boom("boom")


def failing(method: str, base: type = Recorder) -> Any:
    """Return a protocol whose `method` raises."""
    return type("Failing", (base,), {method: boom})()


Place = Callable[[Network], Awaitable[object]]
PLACES: dict[str, Place] = {}
"""Where user code fails, by name: each coroutine makes it fail."""


def place(function: Place) -> Place:
    PLACES[function.__name__] = function
    return function


# Scheduled calls


@place
async def call_soon(net: Network) -> None:
    net.loop.call_soon(boom)


@place
async def call_soon_of_a_kept_handle(net: Network) -> None:
    net.keep_alive = net.loop.call_soon(boom)  # type: ignore[attr-defined]


@place
async def call_soon_in_debug_mode(net: Network) -> None:
    net.loop.set_debug(True)
    net.loop.call_soon(boom)


@place
async def call_later(net: Network) -> None:
    net.loop.call_later(0.001, boom)


@place
async def call_soon_threadsafe(net: Network) -> None:
    thread = threading.Thread(target=net.loop.call_soon_threadsafe, args=(boom,))
    thread.start()
    thread.join()


@place
async def future_callback(net: Network) -> None:
    future = net.loop.create_future()
    future.add_done_callback(boom)
    future.set_result(None)


@place
async def signal_handler(net: Network) -> None:
    net.loop.add_signal_handler(signal.SIGUSR1, boom)
    os.kill(os.getpid(), signal.SIGUSR1)


@place
async def reader(net: Network) -> None:
    left, right = map(net.peer, socket.socketpair())
    net.loop.add_reader(left.sock, lambda: (net.loop.remove_reader(left.sock), boom()))
    right.send(b"x")


@place
async def writer(net: Network) -> None:
    left, _ = map(net.peer, socket.socketpair())
    net.loop.add_writer(left.sock, lambda: (net.loop.remove_writer(left.sock), boom()))


# Connections


@place
async def connection_made(net: Network) -> None:
    await net.connect(failing("connection_made"))


@place
async def data_received(net: Network) -> None:
    _, _, peer = await net.connect(failing("data_received"))
    peer.send(b"x")


@place
async def data_received_by_unix_socket(net: Network) -> None:
    left, right = socket.socketpair()
    transport, _ = await net.loop.create_connection(lambda: failing("data_received"), sock=left)
    net.keep(transport)
    net.peer(right).send(b"x")


@place
async def get_buffer(net: Network) -> None:
    _, _, peer = await net.connect(failing("get_buffer", BufferedRecorder))
    peer.send(b"x")


@place
async def buffer_updated(net: Network) -> None:
    _, _, peer = await net.connect(failing("buffer_updated", BufferedRecorder))
    peer.send(b"x")


@place
async def eof_received(net: Network) -> None:
    _, _, peer = await net.connect(failing("eof_received"))
    peer.shutdown()


@place
async def connection_lost(net: Network) -> None:
    transport, _, _ = await net.connect(failing("connection_lost"))
    transport.close()


@place
async def connection_lost_after_reset(net: Network) -> None:
    _, _, peer = await net.connect(failing("connection_lost"))
    peer.reset()


@place
async def pause_writing(net: Network) -> None:
    transport, _, _ = await net.connect(failing("pause_writing"))
    transport.write(bytes(BULK))


@place
async def resume_writing(net: Network) -> None:
    transport, _, peer = await net.connect(failing("resume_writing"))
    transport.write(bytes(BULK))
    await peer.read(BULK)


@place
async def protocol_factory_of_a_server(net: Network) -> None:
    net.loop.set_debug(True)  # else asyncio does not tell
    net.dial(await net.serve(boom))


@place
async def accept_without_descriptors(net: Network) -> None:
    server = await net.serve()
    address = server.sockets[0].getsockname()
    visitor = net.peer(socket.socket())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    net._stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    visitor.sock.connect(address)


# Datagrams


@place
async def datagram_received(net: Network) -> None:
    transport, _ = await net.datagrams(failing("datagram_received", DatagramRecorder))
    transport.sendto(b"x", transport.get_extra_info("sockname"))


@place
async def error_received(net: Network) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        address = gone.getsockname()
    protocol = failing("error_received", DatagramRecorder)
    transport, _ = await net.datagrams(protocol, remote_addr=address)
    transport.sendto(b"x")


@place
async def connection_lost_of_datagrams(net: Network) -> None:
    transport, _ = await net.datagrams(failing("connection_lost", DatagramRecorder))
    transport.close()


@place
async def pause_writing_of_datagrams(net: Network) -> None:
    left, right = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    net.peer(right)
    right.bind("")  # to a name of the system's choice
    left.connect(right.getsockname())
    transport, _ = await net.datagrams(failing("pause_writing", DatagramRecorder), sock=left)
    transport.set_write_buffer_limits(high=0)
    while not transport.get_write_buffer_size():
        transport.sendto(b"x")


# Pipes and subprocesses


async def connect_read_pipe(net: Network, protocol: Any) -> tuple[Any, Any]:
    reading, writing = os.pipe()
    end = net._stack.enter_context(os.fdopen(writing, "wb", 0))
    transport, _ = await net.loop.connect_read_pipe(lambda: protocol, os.fdopen(reading, "rb", 0))
    net._stack.callback(transport.close)
    return transport, end


async def connect_write_pipe(net: Network, protocol: Any) -> Any:
    reading, writing = os.pipe()
    net._stack.enter_context(os.fdopen(reading, "rb", 0))
    transport, _ = await net.loop.connect_write_pipe(lambda: protocol, os.fdopen(writing, "wb", 0))
    net.keep(transport)
    return transport


@place
async def data_received_by_pipe(net: Network) -> None:
    _, end = await connect_read_pipe(net, failing("data_received"))
    end.write(b"x")


@place
async def eof_received_by_pipe(net: Network) -> None:
    _, end = await connect_read_pipe(net, failing("eof_received"))
    end.close()


@place
async def connection_lost_of_read_pipe(net: Network) -> None:
    transport, _ = await connect_read_pipe(net, failing("connection_lost"))
    transport.close()


@place
async def connection_lost_of_write_pipe(net: Network) -> None:
    transport = await connect_write_pipe(net, failing("connection_lost"))
    transport.close()


@place
async def pause_writing_of_pipe(net: Network) -> None:
    transport = await connect_write_pipe(net, failing("pause_writing"))
    transport.write(bytes(BULK))


@place
async def pipe_data_received(net: Network) -> None:
    protocol = failing("pipe_data_received", ProcessRecorder)
    transport, _ = await net.loop.subprocess_exec(lambda: protocol, *CHILD, "print()", stdin=None)
    net._stack.callback(transport.close)
    await protocol.called("process_exited")


@place
async def process_exited(net: Network) -> None:
    protocol = failing("process_exited", ProcessRecorder)
    transport, _ = await net.loop.subprocess_exec(lambda: protocol, *CHILD, "", stdin=None)
    net._stack.callback(transport.close)


# TLS


async def fail_in_handshake(net: Network, protocol: Any) -> None:
    connecting, _, wire = await Tls(net).start_connect(protocol)
    peer = TlsPeer(wire.sock, server_context())
    await asyncio.gather(connecting, peer.handshake(), return_exceptions=True)


@place
async def connection_made_over_tls(net: Network) -> None:
    await fail_in_handshake(net, failing("connection_made"))


@place
async def data_received_over_tls(net: Network) -> None:
    _, _, peer = await Tls(net).connect(failing("data_received"))
    peer.send(b"x")


@place
async def data_received_after_start_tls(net: Network) -> None:
    _, _, peer = await Tls(net).upgrade(failing("data_received"))
    peer.send(b"x")


@place
async def get_buffer_over_tls(net: Network) -> None:
    await fail_in_handshake(net, failing("get_buffer", BufferedRecorder))


@place
async def eof_received_over_tls(net: Network) -> None:
    _, _, peer = await Tls(net).connect(failing("eof_received"))
    peer.close_notify()


@place
async def connection_lost_over_tls(net: Network) -> None:
    transport, _, _ = await Tls(net).connect(failing("connection_lost"))
    transport.abort()


@place
async def pause_writing_over_tls(net: Network) -> None:
    transport, _, _ = await Tls(net).connect(failing("pause_writing"))
    transport.write(bytes(BULK))  # waits in the transport below
    transport.write(bytes(BULK))


@place
async def garbage_over_tls(net: Network) -> None:
    _, _, peer = await Tls(net).connect()
    net.loop.set_debug(True)  # an SSLError is an OSError: else asyncio does not tell
    peer.wire.send(b"garbage")


@place
async def handshake_of_a_tls_server(net: Network) -> None:
    net.loop.set_debug(True)
    net.dial(await Tls(net).serve()).send(b"garbage")


LOGGED = {"garbage_over_tls"}
"""Places whose error is only logged, in debug mode."""


class Reports:
    """What exception handlers were told, and what was handled meanwhile."""

    def __init__(self) -> None:
        self.seen: list[tuple[BaseException, BaseException | None]] = []

    def add(self, exception: BaseException) -> None:
        kind, handled, traceback = sys.exc_info()
        if handled is not None:
            assert kind is type(handled)
            assert traceback is handled.__traceback__
        self.seen.append((exception, handled))

    def check(self) -> None:
        """Each exception was the one being handled."""
        assert self.seen
        for exception, handled in self.seen:
            assert handled is exception
        self.seen.clear()


@pytest.fixture(params=PLACES)
def name(request: pytest.FixtureRequest, loop_spec: str) -> str:
    """Each name in PLACES."""
    chosen: str = request.param
    tls_is_new = PYTHON >= (3, 11)
    skip_stock_bug(
        loop_spec, "tls" in chosen and not tls_is_new, "3.11 has another implementation of TLS"
    )
    return chosen


@pytest.fixture
def reports() -> Reports:
    return Reports()


class Watch(logging.Filter):
    """Notes what asyncio logs with an exception, and what is handled meanwhile."""

    def __init__(self, reports: Reports) -> None:
        super().__init__()
        self.reports = reports

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            self.reports.add(record.exc_info[1])
        return True


@pytest.fixture
def logged(reports: Reports) -> Any:
    """`reports` of asyncio's logger."""
    logger, watch = logging.getLogger("asyncio"), Watch(reports)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addFilter(watch)
    yield reports
    logger.removeFilter(watch)
    logger.setLevel(level)


async def fail_at(name: str, network: Network, reports: Reports) -> None:
    await PLACES[name](network)
    await until(lambda: reports.seen)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a server's client whose factory failed
class TestInEveryPlace:
    def test_the_handler_handles_it(self, loop, network, name, reports):
        if name in LOGGED:
            pytest.skip("the network's error is logged here, and no handler is called")
        loop.set_exception_handler(lambda _, context: reports.add(context["exception"]))
        run_limited(loop, fail_at(name, network, reports))
        reports.check()
        assert sys.exc_info() == (None, None, None)
        # Nor is anything handled in the loop any more.
        later = []
        loop.call_soon(lambda: later.append(sys.exc_info()))
        turns(loop)
        assert later == [(None, None, None)]

    def test_the_default_handler_handles_it(self, loop, network, name, logged):
        loop.set_exception_handler(None)
        run_limited(loop, fail_at(name, network, logged))
        logged.check()

    def test_a_handler_that_fails_has_it_as_context(self, loop, network, name, reports, logged):
        if name in LOGGED:
            pytest.skip("the network's error is logged here, and no handler is called")
        told = []

        def handler(_, context):
            told.append(context["exception"])
            raise LookupError("in the handler")

        loop.set_exception_handler(handler)
        run_limited(loop, fail_at(name, network, logged))
        errors = [error for error, _ in logged.seen if isinstance(error, LookupError)]
        assert [error.__context__ for error in errors] == told
        logged.check()

    def test_a_bare_raise_raises_it_again(self, loop, network, name, logged):
        if name in LOGGED:
            pytest.skip("the network's error is logged here, and no handler is called")
        told = []

        def handler(_, context):
            told.append(context["exception"])
            raise

        loop.set_exception_handler(handler)
        run_limited(loop, fail_at(name, network, logged))
        assert told
        assert set(told) <= {error for error, _ in logged.seen}
        logged.check()

    def test_an_interrupt_has_it_as_context(self, loop, loop_spec, network, name, reports):
        if name in LOGGED:
            pytest.skip("the network's error is logged here, and no handler is called")
        bug = "what comes after the report is never made up for"
        skip_stock_bug(loop_spec, name in ("resume_writing", "connection_made_over_tls"), bug)

        def handler(_, context):
            reports.add(context["exception"])
            if len(reports.seen) == 1:
                raise KeyboardInterrupt

        loop.set_exception_handler(handler)
        task = loop.create_task(fail_at(name, network, reports))
        with pytest.raises(KeyboardInterrupt) as caught:
            loop.run_until_complete(task)
        assert caught.value.__context__ is reports.seen[0][0]
        if not task.done():  # else it went through a call of the task's
            run_limited(loop, task)
        reports.check()
        # Of a task of asyncio's own that was interrupted.
        loop.set_exception_handler(lambda _, context: None)


class TestAroundIt:
    def test_what_was_handled_before_is_again(self, loop, reports):
        loop.set_exception_handler(lambda _, context: reports.add(context["exception"]))
        loop.call_soon(boom)
        try:
            raise LookupError("around the run")
        except LookupError as error:
            turns(loop)
            assert sys.exc_info()[1] is error
        reports.check()
        assert sys.exc_info()[1] is None

    async def test_a_coroutine_goes_on_handling_its_own(self, loop, network, reports):
        loop.set_exception_handler(lambda _, context: reports.add(context["exception"]))
        transport, _, _ = await network.connect(failing("pause_writing"))
        error = LookupError("of the coroutine")
        with pytest.raises(LookupError) as caught:
            try:
                raise error
            except LookupError:
                transport.write(bytes(BULK))
                assert sys.exc_info()[1] is error
                await asyncio.sleep(0)
                raise
        assert caught.value is error
        reports.check()

    def test_a_coroutine_does_not_keep_what_is_handled_around_the_run(self, loop, network, reports):
        loop.set_exception_handler(lambda _, context: reports.add(context["exception"]))
        resumed = loop.create_future()

        async def write():
            transport, _, _ = await network.connect(failing("pause_writing"))
            transport.write(bytes(BULK))
            loop.stop()
            await resumed
            return sys.exc_info()

        task = loop.create_task(write())
        try:
            raise LookupError("around the first run")
        except LookupError:
            loop.run_forever()
        resumed.set_result(None)
        assert run_limited(loop, task) == (None, None, None)
        reports.check()

    async def test_a_report_inside_of_a_report(self, loop, network, reports):
        transport, _, _ = await network.connect(failing("pause_writing"))
        first = []

        def handler(_, context):
            reports.add(context["exception"])
            if not first:
                first.append(sys.exc_info()[1])
                transport.write(bytes(BULK))
                assert sys.exc_info()[1] is first[0]

        loop.set_exception_handler(handler)
        loop.call_soon(boom)
        await until(lambda: len(reports.seen) == 2)
        assert reports.seen[1][0].__context__ is first[0]
        reports.check()

    async def test_error_received_handles_its_error(self, loop, network):
        handled = []

        class Endpoint(DatagramRecorder):
            def error_received(self, exc):
                handled.append(sys.exc_info()[1])
                super().error_received(exc)

        with socket.socket(type=socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            address = gone.getsockname()
        transport, protocol = await network.datagrams(Endpoint(), remote_addr=address)
        transport.sendto(b"x")
        await protocol.called("error_received")
        # Sent in the call: the error is refused there and then.
        with socket.socket(type=socket.SOCK_DGRAM):
            transport.sendto(bytes(1 << 17))
        await protocol.called("error_received", 2)
        assert handled == protocol.errors

    async def test_nothing_is_handled_where_asyncio_only_finds_an_error(self, loop, reports):
        told = []
        loop.set_exception_handler(lambda _, context: told.append(sys.exc_info()))
        future = loop.create_future()
        future.set_exception(Boom("never retrieved"))
        del future
        gc.collect()
        assert told == [(None, None, None)]
