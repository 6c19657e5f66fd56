"""Ctrl-C at every moment: SIGINT at the n-th entry into Python code from the loop, for every n.

Exactly one KeyboardInterrupt leaves the run, the loop can be used afterwards, nothing leaks. The
moments are not random: a trace function counts the entries, and raises the signal in the n-th one.
"""

from __future__ import annotations

import _weakrefset
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from .certificates import HOST, client_context, server_context
from .support import (
    PYTHON,
    LoopFactory,
    descriptors,
    module_of,
    skip_stock_bug,
    tcp_pair,
)

BULK = 1 << 20
"""More than a socket or a pipe takes at once, bytes."""

# Raised at a function's first step, an exception of a trace function does not pass through the
# frame's own `try` blocks before 3.12; one that is raised at the next instruction does.
RAISES_AT_ONCE = PYTHON >= (3, 12)


class Interrupter:
    """Raises SIGINT in the entry number `wanted`; 0 only counts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wanted: int) -> None:
        # asyncio calls from here; native code has no frame: to the entry the run is its caller.
        called_from = {type(loop).run_forever.__code__, asyncio.Handle._run.__code__}
        self.callers = called_from
        self.wanted = wanted
        self.count = 0
        self.where = ""

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        caller = frame.f_back
        if event != "call" or caller is None or caller.f_code not in self.callers:
            return None
        if frame.f_code.co_name in ("_run_forever_setup", "_run_forever_cleanup", "_run_once"):
            return None  # parts of the run
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename == _weakrefset.__file__:
            return None  # called where an object ends: what they raise, they raise to nobody
        self.count += 1
        if self.count != self.wanted:
            return None
        self.where = f"{frame.f_code.co_qualname if PYTHON >= (3, 11) else frame.f_code.co_name}"
        if RAISES_AT_ONCE:
            self.interrupt()
        frame.f_trace_opcodes = True
        return self.at_next_instruction

    def at_next_instruction(self, frame: Any, event: str, _: Any) -> Any:
        if event == "opcode":
            self.interrupt()
        return self.at_next_instruction

    @staticmethod
    def interrupt() -> None:
        sys.settrace(None)
        signal.raise_signal(signal.SIGINT)

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Count in this block."""
        before = sys.gettrace(), signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before[0])
            signal.signal(signal.SIGINT, before[1])


class World:
    """What one run of a scenario has made."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.stack = contextlib.ExitStack()
        self.transports: list[Any] = []

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two connected TCP sockets, closed afterwards."""
        left, right = tcp_pair()
        for sock in (left, right):
            sock.setblocking(False)
            self.stack.enter_context(contextlib.closing(sock))
        return left, right

    def close(self) -> None:
        for transport in self.transports:
            with contextlib.suppress(AttributeError):  # a transport that is closed already
                getattr(transport, "abort", transport.close)()
        self.stack.close()


class Talker(asyncio.Protocol):
    """Echoes, or notes what comes; everything else can be waited for."""

    def __init__(self, world: World, *, echoes: bool = False, keep_open: bool = False) -> None:
        self.world = world
        self.echoes = echoes
        self.keep_open = keep_open
        self.data = bytearray()
        self.transport: Any = None
        self.lost = world.loop.create_future()
        self.ended = world.loop.create_future()
        self.news = asyncio.Event()
        self.paused = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.world.transports.append(transport)

    def data_received(self, data: bytes) -> None:
        if self.echoes:
            self.transport.write(data)
        self.data += data
        self.news.set()

    def eof_received(self) -> bool:
        settle(self.ended)
        return self.keep_open

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.paused -= 1
        self.news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        settle(self.lost)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()


class BufferedTalker(Talker, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    data_received = None  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> bytearray:
        self.room = bytearray(1024)
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        Talker.data_received(self, bytes(self.room[:nbytes]))


def settle(future: asyncio.Future[None]) -> None:
    """Wake who waits, unless an interrupt has ended that."""
    if not future.done():
        future.set_result(None)


Scenario = Callable[[World], Awaitable[object]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


async def talk(
    world: World, kind: Callable[..., Talker] = Talker, *, server: Any = None, client: Any = None
) -> None:
    """A server and a client: accept, connect, echo, close."""
    loop, accepted = world.loop, []

    def factory() -> Talker:
        accepted.append(kind(world, echoes=True))
        return accepted[-1]

    listening = await loop.create_server(factory, "127.0.0.1", 0, **(server or {}))
    world.stack.callback(listening.close)
    address = listening.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(
        lambda: kind(world), *address, **(client or {})
    )
    transport.write(b"ping")
    transport.writelines([b"pong", b"!"])
    await protocol.until(lambda: len(protocol.data) == 9)
    transport.pause_reading()
    transport.resume_reading()
    transport.close()
    await protocol.lost
    await accepted[0].lost
    listening.close()
    await listening.wait_closed()


@scenario
async def timers(world: World) -> None:
    loop, called = world.loop, []

    def note(text: str) -> None:
        called.append(text)

    loop.call_soon(note, "soon")
    loop.call_later(0.0001, note, "later")
    loop.call_at(loop.time() + 0.0002, note, "at")
    loop.call_later(30, note, "never").cancel()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(note, "threadsafe"))
    thread.start()
    thread.join()
    while len(called) < 4:
        await asyncio.sleep(0.0001)


@scenario
async def futures(world: World) -> None:
    async def step(number: int) -> int:
        await asyncio.sleep(0)
        return number

    future = world.loop.create_future()
    world.loop.call_soon(future.set_result, 1)
    future.add_done_callback(lambda _: None)
    await future
    assert await step(2) == 2
    assert await world.loop.run_in_executor(None, int) == 0


@scenario
async def failing_callback(world: World) -> None:
    loop, told = world.loop, world.loop.create_future()
    old = loop.get_exception_handler()
    world.stack.callback(loop.set_exception_handler, old)

    def handler(_: object, context: object) -> None:
        settle(told)

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    await told


@scenario
async def tcp(world: World) -> None:
    await talk(world)


@scenario
async def tcp_buffered(world: World) -> None:
    await talk(world, BufferedTalker)


@scenario
async def tcp_in_debug_mode(world: World) -> None:
    world.loop.set_debug(True)
    world.loop.slow_callback_duration = 0.0  # each callback is logged
    await talk(world)


@scenario
async def full(world: World) -> None:
    """Writes more than the kernel takes, is paused, closes, and is resumed while it is closing."""
    left, right = world.pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    transport, protocol = await world.loop.create_connection(lambda: Talker(world), sock=left)
    transport.write(bytes(BULK))
    assert protocol.paused == 1
    received = 0
    while received < BULK // 2:
        received += len(await world.loop.sock_recv(right, 1 << 16))
    transport.close()
    while piece := await world.loop.sock_recv(right, 1 << 16):
        received += len(piece)
    assert received == BULK
    await protocol.lost
    assert protocol.paused == 0


@scenario
async def ends(world: World) -> None:
    """write_eof, the peer's end of stream, which is kept open, then abort."""
    left, right = world.pair()
    transport, protocol = await world.loop.create_connection(
        lambda: Talker(world, keep_open=True), sock=left
    )
    transport.write(b"x")
    transport.write_eof()
    assert await world.loop.sock_recv(right, 2) == b"x"
    assert await world.loop.sock_recv(right, 2) == b""
    right.shutdown(socket.SHUT_WR)
    await protocol.ended
    transport.abort()
    await protocol.lost


@scenario
async def reset(world: World) -> None:
    left, right = world.pair()
    _, protocol = await world.loop.create_connection(lambda: Talker(world), sock=left)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    right.close()
    await protocol.lost


@scenario
async def streams(world: World) -> None:
    served = world.loop.create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        world.transports.append(writer.transport)
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        settle(served)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    world.stack.callback(server.close)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    world.transports.append(writer.transport)
    writer.write(b"line\n")
    assert await reader.readline() == b"line\n"
    await served
    writer.close()
    await writer.wait_closed()


@scenario
async def tls(world: World) -> None:
    await talk(
        world,
        server={"ssl": server_context()},
        client={"ssl": client_context(), "server_hostname": HOST},
    )


@scenario
async def tls_buffered(world: World) -> None:
    await talk(
        world,
        BufferedTalker,
        server={"ssl": server_context()},
        client={"ssl": client_context(), "server_hostname": HOST},
    )


@scenario
async def tls_full(world: World) -> None:
    """Writes more than the transport below takes, until it is paused; the peer reads it all."""
    left, right = world.pair()
    ours, theirs = Talker(world), Talker(world)
    loop = world.loop
    made = [
        loop.create_connection(lambda: ours, sock=left, ssl=client_context(), server_hostname=HOST),
        loop.connect_accepted_socket(lambda: theirs, right, ssl=server_context()),
    ]
    server = loop.create_task(made[1])
    await made[0]
    await server
    theirs.transport.pause_reading()
    while not ours.paused:
        ours.transport.write(bytes(BULK))
        await asyncio.sleep(0)
    theirs.transport.resume_reading()
    await ours.until(lambda: not ours.paused)
    ours.transport.close()
    await ours.lost
    await theirs.lost


@scenario
async def start_tls(world: World) -> None:
    left, right = world.pair()
    loop = world.loop
    below, ours = await loop.create_connection(lambda: Talker(world), sock=left)
    other, theirs = await loop.connect_accepted_socket(lambda: Talker(world, echoes=True), right)
    starting = loop.create_task(loop.start_tls(other, theirs, server_context(), server_side=True))
    transport: Any = await loop.start_tls(below, ours, client_context(), server_hostname=HOST)
    theirs.transport = await starting
    transport.write(b"x")
    await ours.until(lambda: ours.data)
    transport.close()
    await ours.lost
    await theirs.lost


@scenario
async def datagrams(world: World) -> None:
    class Endpoint(Talker, asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.data += data
            self.news.set()

        def error_received(self, exc: Exception) -> None:
            self.data += b"error"
            self.news.set()

    loop = world.loop
    make = lambda: Endpoint(world)  # noqa: E731
    one, _ = await loop.create_datagram_endpoint(make, local_addr=("127.0.0.1", 0))
    address = one.get_extra_info("sockname")
    other, protocol = await loop.create_datagram_endpoint(make, remote_addr=address)
    one.sendto(b"x", other.get_extra_info("sockname"))
    await protocol.until(lambda: protocol.data == b"x")
    one.close()
    await one.get_protocol().lost if hasattr(one, "get_protocol") else None
    while b"error" not in protocol.data:
        other.sendto(b"y")
        await asyncio.sleep(0.001)
    other.close()
    await protocol.lost


@scenario
async def pipes(world: World) -> None:
    loop = world.loop
    reading, writing = os.pipe()
    read_end, write_end = os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0)
    world.stack.enter_context(read_end)
    world.stack.enter_context(write_end)
    _, reader = await loop.connect_read_pipe(lambda: Talker(world), read_end)
    transport, writer = await loop.connect_write_pipe(lambda: Talker(world), write_end)
    transport.write(bytes(BULK))
    await reader.until(lambda: len(reader.data) == BULK)
    transport.close()
    await writer.lost
    await reader.lost


class Process(Talker, asyncio.SubprocessProtocol):
    """Notes what a child does."""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.data_received(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.news.set()

    def process_exited(self) -> None:
        settle(self.ended)


@scenario
async def subprocess(world: World) -> None:
    transport, protocol = await world.loop.subprocess_exec(
        lambda: Process(world), "/bin/cat", stderr=None
    )
    stdin: Any = transport.get_pipe_transport(0)
    stdin.write(b"x")
    await protocol.until(lambda: protocol.data)
    stdin.close()
    await protocol.ended
    await protocol.lost
    assert transport.get_returncode() == 0
    transport.close()


@scenario
async def socket_objects(world: World) -> None:
    loop = world.loop
    left, right = world.pair()
    sending = loop.create_task(loop.sock_sendall(left, bytes(BULK)))
    received, room = 0, bytearray(1 << 16)
    while received < BULK:
        received += await loop.sock_recv_into(right, room)
    await sending
    listener = world.stack.enter_context(contextlib.closing(socket.socket()))
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    visitor = world.stack.enter_context(contextlib.closing(socket.socket()))
    visitor.setblocking(False)
    accepting = loop.create_task(loop.sock_accept(listener))
    await loop.sock_connect(visitor, listener.getsockname())
    connection, _ = await accepting
    connection.close()


@scenario
async def sendfile(world: World) -> None:
    loop = world.loop
    left, right = world.pair()
    transport, protocol = await loop.create_connection(lambda: Talker(world), sock=left)
    _, peer = await loop.create_connection(lambda: Talker(world), sock=right)
    with tempfile.TemporaryFile() as file:
        file.write(bytes(BULK))
        file.seek(0)
        transport.write(b"head")
        await loop.sendfile(transport, file)
    await peer.until(lambda: len(peer.data) == BULK + 4)
    transport.close()
    await protocol.lost
    await peer.lost


@scenario
async def watchers(world: World) -> None:
    loop = world.loop
    left, right = world.pair()
    seen = loop.create_future()

    def readable() -> None:
        loop.remove_reader(left)
        settle(seen)

    def writable() -> None:
        loop.remove_writer(right)
        right.send(b"x")

    loop.add_reader(left, readable)
    loop.add_writer(right, writable)
    await seen


@scenario
async def signals(world: World) -> None:
    loop, heard = world.loop, world.loop.create_future()

    def handler() -> None:
        settle(heard)

    loop.add_signal_handler(signal.SIGUSR1, handler)
    world.stack.callback(loop.remove_signal_handler, signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    await heard


ASYNCIO_FAILS = {
    **dict.fromkeys(
        ("tcp", "tcp_buffered", "tcp_in_debug_mode", "streams", "tls", "tls_buffered"),
        "a connection whose transport was not made stays in the selector",
    ),
    "futures": "what ends one run may stay scheduled, and ends the next one",
    "subprocess": "subprocess_exec waits for the child also where the coroutine is only closed",
}
"""What asyncio does not hold, of some entries."""


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What could only be printed."""
    seen: list[Any] = []

    def hook(args: Any) -> None:
        # Not the object itself: it would live on.
        seen.append((repr(args.exc_value), repr(args.object)[:200], args.err_msg))

    monkeypatch.setattr(sys, "unraisablehook", hook)
    return seen


class LineInterrupter:
    """Raises SIGINT before the line number `wanted` that runs in functions of these names."""

    def __init__(self, names: tuple[str, ...], wanted: int) -> None:
        self.names = names
        self.wanted = wanted
        self.count = 0

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_name not in self.names:
            return None
        if event == "line":
            self.count += 1
            if self.count == self.wanted:
                Interrupter.interrupt()
        return self


def test_around_the_run(loop: asyncio.AbstractEventLoop, loop_spec: str) -> None:
    """In any line of what sets a run up, and of what cleans up behind it."""
    skip_stock_bug(loop_spec, True, "a loop that is interrupted there stays running")
    names = ("_run_forever_setup", "_run_forever_cleanup", "_forget_running_loop")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    tracer = sys.gettrace()
    try:
        for wanted in range(1, 1000):
            interrupter = LineInterrupter(names, wanted)
            stop = loop.call_soon(loop.stop)
            sys.settrace(interrupter)
            try:
                loop.run_forever()
            except KeyboardInterrupt:
                pass
            else:
                break
            finally:
                sys.settrace(tracer)
            stop.cancel()
            assert not loop.is_running()
            assert asyncio._get_running_loop() is None
            assert sys.get_asyncgen_hooks() == (None, None)
            result = loop.run_until_complete(asyncio.sleep(0, "slept"))
            assert result == "slept"
    finally:
        signal.signal(signal.SIGINT, handler)
    assert interrupter.count > 10
    assert wanted == interrupter.count + 1


def is_wrong(context: dict[str, Any]) -> bool:
    """Whether a report says that something was swallowed or left behind.

    What an interrupted callback has not done may fail later on, and be reported; a task that was
    interrupted has the KeyboardInterrupt as its result.
    """
    message = context["message"]
    of_a_task = "never retrieved" in message or "client_connected_cb" in message
    interrupted = isinstance(context.get("exception"), KeyboardInterrupt)
    return (interrupted and not of_a_task) or "destroyed" in message


def run_once(run: Scenario, loop: asyncio.AbstractEventLoop, wanted: int) -> Interrupter:
    """Run a scenario with the interrupt in the entry `wanted`; check what comes of it."""
    interrupter = Interrupter(loop, wanted)
    world = World(loop)
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))
    main: asyncio.Task[Any] = loop.create_task(run(world))  # type: ignore[arg-type]
    # An interrupt may take away what the scenario waits for.
    stop = loop.call_later(5, main.cancel)
    interrupt = None
    try:
        with interrupter.armed():
            loop.run_until_complete(main)
    except KeyboardInterrupt as error:
        interrupt = error
    there = f"in entry {wanted}, {interrupter.where}"
    assert (interrupt is not None) == bool(interrupter.where), there

    def finish(task: asyncio.Task[Any]) -> None:
        for _ in range(20):
            if task.done():
                break
            task.cancel()
            try:
                loop.run_until_complete(asyncio.sleep(0))
            except KeyboardInterrupt as error:
                # A task that was interrupted has that as its result, for those that wait for it.
                assert error is interrupt, there
        else:
            # It waits for what the interrupted callback would have done, as asyncio.gather may.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            return
        if not task.cancelled() and task.exception() is not None:
            assert task.exception() is interrupt, there

    finish(main)
    stop.cancel()
    # The loop can be used, and there is no second one.
    loop.set_debug(False)
    assert loop.run_until_complete(asyncio.sleep(0, "slept")) == "slept", there
    if interrupt is not None:
        after = World(loop)
        loop.run_until_complete(asyncio.wait_for(talk(after), 30))
        after.close()
    world.close()
    for task in asyncio.all_tasks(loop):
        finish(task)
    loop.run_until_complete(loop.shutdown_default_executor())
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    wrong = [context for context in reports if is_wrong(context)]
    assert wrong == [], f"{there}: {wrong}"
    return interrupter


@pytest.fixture
def unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep asyncio's records, and what they name, from being kept."""
    logger = logging.getLogger("asyncio")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])


# Of what nobody could close or await.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SCENARIOS)
def test_in_every_entry(
    loop_factory: LoopFactory, loop_spec: str, name: str, unraisable: list[Any], unlogged: None
) -> None:
    if module_of(loop_spec) == "asyncio":
        if name in ASYNCIO_FAILS:
            pytest.skip(f"asyncio: {ASYNCIO_FAILS[name]}")
        if name.startswith(("tls", "start_tls")) and PYTHON < (3, 11):
            pytest.skip("3.11 has another implementation of TLS")
    run = SCENARIOS[name]
    total = run_once(run, loop_factory(), 0).count
    assert total > 1
    gc.collect()
    before = descriptors()
    for wanted in range(1, 10 * total):
        interrupter = run_once(run, loop_factory(), wanted)
        if not interrupter.where:
            break
        there = f"in entry {wanted}, {interrupter.where}"
        gc.collect()
        if name != "subprocess":
            # Pipes that asyncio's transport had not connected are their Popen's to close.
            assert descriptors().keys() == before.keys(), there
        assert unraisable == [], there
    else:
        pytest.fail("the scenario never came to its end")
    assert wanted > 1
