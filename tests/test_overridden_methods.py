"""A method that a subclass overrides, or that a program puts into the loop, is the one that is
called, wherever asyncio calls it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import signal
import socket
import tempfile
import threading
import types
from typing import Any

import pytest

from .certificates import client_context, server_context
from .processes import ProcessRecorder
from .support import (
    PYTHON,
    Recorder,
    hops,
    run_limited,
    shut_down,
    skip_stock_bug,
    tcp_pair,
    type_of,
)
from .tls import HOST

# What is done with a loop. Each is a coroutine function, which runs on the loop.


async def sleep(loop):
    await asyncio.sleep(0.001)


async def wait_for(loop):
    await asyncio.wait_for(asyncio.sleep(0), 30)


async def call_later(loop):
    called = asyncio.Event()
    loop.call_later(0.001, called.set)
    await called.wait()


async def future_done(loop):
    future = asyncio.Future(loop=loop)
    future.add_done_callback(int)
    future.cancel()


async def task(loop):
    await asyncio.Task(hops(2), loop=loop)


async def create_task(loop):
    await asyncio.create_task(hops(2))


async def gather(loop):
    await asyncio.gather(hops(2), hops(2))


async def in_executor(loop):
    await loop.run_in_executor(None, int)


async def to_thread(loop):
    await asyncio.to_thread(int)


async def from_thread(loop):
    thread = threading.Thread(target=lambda: asyncio.run_coroutine_threadsafe(hops(), loop))
    thread.start()
    await asyncio.to_thread(thread.join)


async def debug_mode(loop):
    loop.set_debug(not loop.get_debug())


async def forgotten_generator(loop):
    async def generator():
        yield 1

    iterator = generator()
    await iterator.__anext__()
    del iterator
    gc.collect()
    await hops(3)


@contextlib.asynccontextmanager
async def connection(loop):
    ours, theirs = tcp_pair()
    transport, protocol = await loop.create_connection(Recorder, sock=ours)
    with theirs:
        yield transport, protocol, theirs
        transport.abort()
        await protocol.lost()


async def connect(loop):
    async with connection(loop):
        pass


async def connect_by_name(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        transport, protocol = await loop.create_connection(Recorder, "localhost", port)
        transport.abort()
        await protocol.lost()


async def connect_by_number(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        transport.abort()
        await protocol.lost()


async def take_accepted(loop):
    ours, theirs = socket.socketpair()
    with theirs:
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        transport.abort()
        await protocol.lost()


async def serve_by_name(loop):
    server = await loop.create_server(Recorder, "localhost", 0)
    server.close()


async def datagrams(loop):
    transport, protocol = await loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
    transport.abort()
    await protocol.lost()


async def datagrams_to(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        transport, protocol = await loop.create_datagram_endpoint(
            Recorder, remote_addr=peer.getsockname()
        )
        transport.abort()
        await protocol.lost()


async def read_pipe(loop):
    reader, writer = os.pipe()
    transport, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(reader, "rb", 0))
    os.close(writer)
    await protocol.lost()
    transport.close()


async def write_pipe(loop):
    reader, writer = os.pipe()
    transport, protocol = await loop.connect_write_pipe(Recorder, os.fdopen(writer, "wb", 0))
    transport.close()
    await protocol.lost()
    os.close(reader)


async def child(loop):
    transport, protocol = await loop.subprocess_exec(ProcessRecorder, "echo", "data")
    await protocol.lost()
    transport.close()


async def receive(loop):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        receiving = asyncio.Task(loop.sock_recv(ours, 10), loop=loop)
        await hops(2)
        theirs.send(b"data")
        await receiving


async def connect_socket(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("localhost", listener.getsockname()[1]))


async def send_file(loop):
    with connection_file() as file:
        async with connection(loop) as (transport, _, peer):
            await loop.sendfile(transport, file, fallback=True)
            assert peer.recv(10) == b"data"


async def send_file_by_fallback(loop):
    ours, theirs = socket.socketpair()
    with ours, theirs, connection_file() as file:
        ours.setblocking(False)
        # No regular file to the kernel's eyes.
        await loop.sock_sendfile(ours, Wrapped(file), fallback=True)
        assert theirs.recv(10) == b"data"


class Wrapped:
    """A file without a descriptor."""

    mode = "rb"

    def __init__(self, file: Any) -> None:
        self.seek, self.tell, self.readinto = file.seek, file.tell, file.readinto

    def fileno(self) -> int:
        raise io.UnsupportedOperation


@contextlib.contextmanager
def connection_file():
    with tempfile.TemporaryFile() as file:
        file.write(b"data")
        file.seek(0)
        yield file


async def resolve(loop):
    await loop.getaddrinfo("localhost", 80)


async def resolve_address(loop):
    await loop.getnameinfo(("127.0.0.1", 80))


async def callback_raises(loop):
    def fail():
        raise LookupError("expected")

    loop.set_exception_handler(lambda loop, context: None)
    loop.call_soon(fail)
    await hops(2)


async def callback_raises_without_handler(loop):
    def fail():
        raise LookupError("expected")

    loop.set_exception_handler(None)
    loop.call_soon(fail)
    await hops(2)


async def protocol_raises(loop):
    class Failing(Recorder):
        def data_received(self, data):
            raise LookupError("expected")

    loop.set_exception_handler(lambda loop, context: None)
    ours, theirs = tcp_pair()
    with theirs:
        _, protocol = await loop.create_connection(Failing, sock=ours)
        theirs.send(b"data")
        await protocol.lost()


async def forgotten_exception(loop):
    loop.set_exception_handler(lambda loop, context: None)
    future = asyncio.Future(loop=loop)
    future.set_exception(LookupError("expected"))
    del future
    gc.collect()


async def tls(loop):
    ours, theirs = tcp_pair()
    protocol = Recorder()
    (client, _), (server, _) = await asyncio.gather(
        loop.create_connection(
            lambda: protocol, sock=ours, ssl=client_context(), server_hostname=HOST
        ),
        loop.connect_accepted_socket(Recorder, theirs, ssl=server_context()),
    )
    client.close()
    await protocol.lost()
    server.abort()
    await hops(3)


async def start_tls(loop):
    ours, theirs = tcp_pair()
    client, protocol = await loop.create_connection(Recorder, sock=ours)
    server, _ = await loop.connect_accepted_socket(Recorder, theirs)
    client, server = await asyncio.gather(
        loop.start_tls(client, protocol, client_context(), server_hostname=HOST),
        loop.start_tls(server, Recorder(), server_context(), server_side=True),
    )
    client.abort()
    server.abort()
    await hops(3)


TABLE = {
    "call_at": [sleep, call_later, wait_for, tls, start_tls],
    "call_later": [sleep, tls, start_tls],
    "time": [sleep, call_later, wait_for],
    "call_soon": [
        future_done,
        task,
        connect,
        connect_by_number,
        take_accepted,
        datagrams,
        read_pipe,
        write_pipe,
        child,
        start_tls,
    ],
    "call_soon_threadsafe": [in_executor, to_thread, from_thread, debug_mode, forgotten_generator],
    "create_task": [create_task, gather, child, forgotten_generator, from_thread],
    "create_future": [
        sleep,
        in_executor,
        connect,
        take_accepted,
        datagrams,
        read_pipe,
        write_pipe,
        child,
        receive,
        send_file,
        tls,
        start_tls,
    ],
    "call_exception_handler": [callback_raises, protocol_raises, forgotten_exception],
    "default_exception_handler": [callback_raises_without_handler],
    "run_in_executor": [to_thread, resolve, resolve_address, send_file_by_fallback],
    "getaddrinfo": [connect_by_name, serve_by_name, connect_socket],
    "sock_connect": [connect_by_name, connect_by_number, datagrams_to],
    "sock_sendall": [send_file_by_fallback],
    "connect_read_pipe": [child],
    "connect_write_pipe": [child],
    "run_forever": [sleep],
    "stop": [sleep],
    "get_debug": [debug_mode, connect, child],
    "is_closed": [forgotten_generator],
}
"""For each method, some of what asyncio does by it."""

CASES = [
    pytest.param(method, operation, id=f"{method}-{operation.__name__}")
    for method, operations in TABLE.items()
    for operation in operations
]


def overriding(kind: Any, method: str, seen: list[str]) -> Any:
    """Return a subclass whose `method` records that it was called."""

    def override(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(method)
        return getattr(super(Subclass, self), method)(*args, **kwargs)

    class Subclass(kind):
        pass

    setattr(Subclass, method, override)
    return Subclass


def run(loop: Any, operation: Any) -> None:
    try:
        run_limited(loop, operation(loop))
        shut_down(loop)
    finally:
        loop.close()


@pytest.mark.parametrize(("method", "operation"), CASES)
class TestOverridden:
    def check(self, loop_spec, operation):
        stock = operation in (tls, start_tls) and PYTHON < (3, 11)
        skip_stock_bug(loop_spec, stock, "3.11 has another implementation of TLS")

    def test_by_a_subclass(self, loop_spec, loop_factory, method, operation):
        self.check(loop_spec, operation)
        seen: list[str] = []
        loop = overriding(type_of(loop_factory), method, seen)()
        seen.clear()
        run(loop, operation)
        assert seen

    def test_by_an_attribute(self, loop_spec, loop_factory, method, operation):
        self.check(loop_spec, operation)
        seen: list[str] = []
        loop = loop_factory()
        original = getattr(loop, method)

        def replacement(*args: Any, **kwargs: Any) -> Any:
            seen.append(method)
            return original(*args, **kwargs)

        setattr(loop, method, replacement)
        run(loop, operation)
        assert seen


class TestCallLater:
    def test_arguments(self, loop_factory):
        """call_at has what call_later was given; the handle is call_at's."""
        seen = []
        handle = types.SimpleNamespace(_source_traceback=None)

        class Loop(type_of(loop_factory)):
            def time(self):
                return 100.0

            def call_at(self, when, callback, *args, context=None):
                seen.append((when, callback, args, context))
                return handle

        loop = Loop()
        context = contextlib  # any object will do
        assert loop.call_later(1, print, 2, 3, context=context) is handle
        assert loop.call_later(0.5, print) is handle
        assert seen == [(101, print, (2, 3), context), (100.5, print, (), None)]
        with pytest.raises(TypeError):
            loop.call_later("1", print)
        loop.close()

    def test_source_traceback(self, loop_factory):
        """In debug mode a timer says where call_later was called."""

        class Loop(type_of(loop_factory)):
            def call_at(self, when, callback, *args, context=None):
                return super().call_at(when, callback, *args, context=context)

        loop = Loop()
        loop.set_debug(True)
        handle = loop.call_later(1, print)
        names = [frame.name for frame in handle._source_traceback]
        assert "test_source_traceback" in names[-2:]
        handle.cancel()
        loop.close()


class TestCallSoon:
    def test_calls_that_are_put_off(self, loop_factory):
        """A connection waits for an override that lets calls wait; their order stays."""
        waiting = []

        class Loop(type_of(loop_factory)):
            held = False

            def call_soon(self, callback, *args, context=None):
                if not self.held:
                    return super().call_soon(callback, *args, context=context)
                waiting.append((callback, args, context))
                return None

            def release(self):
                self.held = False
                for callback, args, context in waiting:
                    super().call_soon(callback, *args, context=context)
                waiting.clear()

        loop = Loop()
        ours, theirs = socket.socketpair()
        theirs.send(b"data")
        protocol = Recorder()
        coroutine = loop.create_connection(lambda: protocol, sock=ours)
        loop.held = True
        with contextlib.suppress(StopIteration):
            coroutine.send(None)
        assert len(waiting) == 3
        assert protocol.calls == []
        loop.release()
        run_limited(loop, protocol.called("data_received"))
        assert protocol.calls == ["connection_made", "data_received"]
        coroutine.close()
        protocol.transport.abort()
        run_limited(loop, protocol.lost())
        theirs.close()
        shut_down(loop)

    def test_a_signal_is_no_call_of_it(self, loop_factory):
        seen: list[str] = []
        loop = overriding(type_of(loop_factory), "call_soon", seen)()
        called = []
        loop.add_signal_handler(signal.SIGUSR1, called.append, 1)
        seen.clear()
        os.kill(os.getpid(), signal.SIGUSR1)
        while not called:
            loop.call_later(0, loop.stop)
            loop.run_forever()
        assert seen == []
        loop.close()


class TestTaken:
    """A method that is put into the loop, and taken out again."""

    @pytest.mark.parametrize("method", ["time", "call_at", "call_soon", "create_future"])
    def test_back(self, loop_factory, method):
        loop = loop_factory()
        seen = []
        original = getattr(loop, method)

        def replacement(*args, **kwargs):
            seen.append(method)
            return original(*args, **kwargs)

        setattr(loop, method, replacement)
        run_limited(loop, asyncio.sleep(0.001))
        assert seen
        delattr(loop, method)
        seen.clear()
        run_limited(loop, receive(loop))
        run_limited(loop, asyncio.sleep(0.001))
        assert not seen
        loop.close()
