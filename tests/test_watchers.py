"""Watching file descriptors (event loop page, "Watching file descriptors")."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import select
import socket
import tempfile
import threading
import weakref
from typing import ClassVar

import pytest

from .support import Recorder, hops, name_of, skip_stock_bug, turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def pair():
    """Two connected sockets that do not block."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


@pytest.fixture
def pipe():
    """The descriptors of a pipe: the end to read from, the end to write to."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


class Numbered:
    """An object that has a number, or fails to tell it."""

    def __init__(self, number):
        self.number = number

    def __repr__(self):
        return f"Numbered({self.number!r})"

    def fileno(self):
        if isinstance(self.number, Exception):
            raise self.number
        return self.number


class TestReader:
    def test_is_called_in_each_turn_while_readable(self, loop, pipe):
        calls = []
        assert loop.add_reader(pipe[0], calls.append, 1) is None
        turns(loop, 2)
        assert calls == []
        os.write(pipe[1], b"data")
        turns(loop, 3)
        assert calls == [1, 1, 1]
        os.read(pipe[0], 100)
        turns(loop, 2)
        assert calls == [1, 1, 1]
        assert loop.remove_reader(pipe[0]) is True
        assert loop.remove_reader(pipe[0]) is False
        os.write(pipe[1], b"more")
        turns(loop, 2)
        assert calls == [1, 1, 1]

    @pytest.mark.parametrize("count", [0, 1, 2, 5])
    def test_arguments(self, loop, pair, count):
        calls = []
        pair[1].send(b"data")
        loop.add_reader(pair[0], lambda *arguments: calls.append(arguments), *range(count))
        turns(loop)
        loop.remove_reader(pair[0])
        assert calls == [tuple(range(count))]

    def test_refuses_missing_and_unknown_arguments(self, loop, pair):
        for method in (loop.add_reader, loop.add_writer):
            with pytest.raises(TypeError):
                method()
            with pytest.raises(TypeError):
                method(pair[0])
            with pytest.raises(TypeError):
                method(pair[0], print, context=None)

    def test_wakes_a_loop_that_waits(self, loop, pair):
        def read():
            pair[0].recv(10)
            loop.remove_reader(pair[0])
            loop.stop()

        loop.add_reader(pair[0], read)
        thread = threading.Thread(target=pair[1].send, args=(b"data",))
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()

    def test_the_end_of_the_stream_and_errors(self, loop, pair):
        """A peer that is gone wakes both sides."""
        calls = []
        pair[1].close()
        loop.add_reader(pair[0], calls.append, "reader")
        turns(loop)
        loop.add_writer(pair[0], calls.append, "writer")
        turns(loop)
        loop.remove_reader(pair[0])
        loop.remove_writer(pair[0])
        assert calls == ["reader", "reader", "writer"]

    def test_context(self, loop, pair):
        pair[1].send(b"data")
        seen = []
        variable.set("when added")
        loop.add_reader(pair[0], lambda: seen.append(variable.get()))
        variable.set("afterwards")
        turns(loop)
        loop.remove_reader(pair[0])
        assert seen == ["when added"]

    def test_an_exception_is_told_and_it_goes_on(self, loop, pair, error_contexts):
        def fails():
            raise LookupError

        pair[1].send(b"data")
        loop.add_reader(pair[0], fails)
        turns(loop, 2)
        loop.remove_reader(pair[0])
        assert len(error_contexts) == 2
        for context in error_contexts:
            assert set(context) == {"message", "exception", "handle"}
            assert context["message"].startswith("Exception in callback ")
        error_contexts.clear()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_what_leaves_the_loop(self, loop, pair, error):
        """What else the descriptor was ready for is called in the next run."""
        calls = []

        def leaves():
            loop.remove_reader(pair[0])
            raise error

        pair[1].send(b"data")
        loop.add_reader(pair[0], leaves)
        loop.add_writer(pair[0], calls.append, "writer")
        with pytest.raises(error):
            loop.run_forever()
        assert calls == []
        turns(loop)
        assert calls[:1] == ["writer"]
        loop.remove_writer(pair[0])

    def test_from_another_thread_and_before_the_run(self, loop, pair):
        """Added while nobody runs the loop."""
        pair[1].send(b"data")
        thread = threading.Thread(target=loop.add_reader, args=(pair[0], loop.stop))
        thread.start()
        thread.join()
        loop.run_forever()
        loop.remove_reader(pair[0])


class TestWriter:
    def test_is_called_while_writable(self, loop, pair):
        calls = []
        assert loop.add_writer(pair[0], calls.append, 1) is None
        turns(loop, 2)
        assert calls == [1, 1]
        with pytest.raises(BlockingIOError):
            while True:
                pair[0].send(bytes(65536))
        calls.clear()
        turns(loop, 2)
        assert calls == []
        with pytest.raises(BlockingIOError):
            while True:
                pair[1].recv(65536)
        turns(loop)
        assert calls == [1]
        assert loop.remove_writer(pair[0]) is True
        assert loop.remove_writer(pair[0]) is False

    def test_a_pipe_without_reader(self, loop, pipe):
        calls = []
        os.close(pipe[0])
        loop.add_writer(pipe[1], calls.append, 1)
        turns(loop)
        loop.remove_writer(pipe[1])
        assert calls == [1]

    def test_a_connect_that_fails(self, loop):
        with socket.socket() as taken, socket.socket() as client:
            taken.bind(("127.0.0.1", 0))
            client.setblocking(False)
            client.connect_ex(taken.getsockname())
            loop.add_writer(client, loop.stop)
            loop.run_forever()
            loop.remove_writer(client)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


class TestBothSides:
    def test_the_reader_first(self, loop, pair):
        calls = []
        pair[1].send(b"data")
        loop.add_writer(pair[0], calls.append, "writer")
        loop.add_reader(pair[0], calls.append, "reader")
        turns(loop, 2)
        assert calls == ["reader", "writer"] * 2
        assert loop.remove_reader(pair[0])
        turns(loop)
        assert calls[4:] == ["writer"]
        assert loop.remove_writer(pair[0])
        turns(loop)
        assert len(calls) == 5

    def test_the_reader_removes_the_writer(self, loop, pair):
        calls = []

        def reader():
            calls.append(loop.remove_writer(pair[0]))

        pair[1].send(b"data")
        loop.add_reader(pair[0], reader)
        loop.add_writer(pair[0], calls.append, "writer")
        turns(loop, 2)
        loop.remove_reader(pair[0])
        assert calls == [True, False]

    def test_the_reader_replaces_the_writer(self, loop, pair):
        """The new one has to wait for the next turn."""
        calls = []

        def reader():
            loop.remove_reader(pair[0])
            loop.add_writer(pair[0], calls.append, "new")

        pair[1].send(b"data")
        loop.add_reader(pair[0], reader)
        loop.add_writer(pair[0], calls.append, "old")
        turns(loop)
        assert calls == []
        turns(loop)
        loop.remove_writer(pair[0])
        assert calls == ["new"]


class TestReplacing:
    def test_the_last_one_counts(self, loop, pair):
        calls = []
        pair[1].send(b"data")
        for number in range(5):
            loop.add_reader(pair[0], calls.append, number)
        turns(loop)
        assert loop.remove_reader(pair[0]) is True
        assert loop.remove_reader(pair[0]) is False
        assert calls == [4]

    def test_in_the_turn_that_found_it_ready(self, loop, pair):
        calls = []
        pair[1].send(b"data")
        loop.add_reader(pair[0], calls.append, "old")
        loop.call_soon(loop.add_reader, pair[0], calls.append, "new")
        turns(loop)
        assert calls == []
        turns(loop)
        loop.remove_reader(pair[0])
        assert calls == ["new"]

    def test_by_itself(self, loop, pair):
        calls = []

        def first():
            calls.append("first")
            loop.add_reader(pair[0], calls.append, "second")

        pair[1].send(b"data")
        loop.add_reader(pair[0], first)
        turns(loop, 2)
        loop.remove_reader(pair[0])
        assert calls == ["first", "second"]

    def test_lets_go(self, loop, pair):
        class Thing:
            def __call__(self, thing): ...

        def add():
            callback, argument = Thing(), Thing()
            loop.add_reader(pair[0], callback, argument)
            return weakref.ref(callback), weakref.ref(argument)

        replaced, removed = add(), add()
        loop.remove_reader(pair[0])
        gc.collect()
        assert [reference() for reference in (*replaced, *removed)] == [None] * 4


class TestRemoving:
    def test_in_its_own_callback(self, loop, pair):
        calls = []

        def reader():
            calls.append(loop.remove_reader(pair[0]))
            calls.append(loop.remove_reader(pair[0]))

        pair[1].send(b"data")
        loop.add_reader(pair[0], reader)
        turns(loop, 2)
        assert calls == [True, False]

    def test_in_the_turn_that_found_it_ready(self, loop, pair):
        pair[1].send(b"data")
        loop.add_reader(pair[0], pytest.fail)
        loop.call_soon(loop.remove_reader, pair[0])
        turns(loop, 2)

    def test_another_one(self, loop, pair):
        """Whichever is called first takes the other's turn away."""
        calls = []

        def remove(other):
            calls.append(loop.remove_reader(other))

        for one, other in (pair, pair[::-1]):
            one.send(b"data")
            loop.add_reader(one, remove, other)
        turns(loop)
        assert calls == [True]
        assert [loop.remove_reader(sock) for sock in pair].count(True) == 1

    def test_what_was_never_added(self, loop, pair):
        assert loop.remove_reader(pair[0]) is False
        assert loop.remove_writer(pair[0]) is False
        loop.add_reader(pair[0], print)
        assert loop.remove_writer(pair[0]) is False
        assert loop.remove_reader(pair[0]) is True

    def test_on_a_closed_loop(self, loop, pair):
        loop.add_reader(pair[0], print)
        loop.close()
        for remove in (loop.remove_reader, loop.remove_writer):
            for what in (pair[0], pair[0].fileno(), -1, 1 << 40, Numbered(-1)):
                assert remove(what) is False
        for add in (loop.add_reader, loop.add_writer):
            for what in (pair[0], pair[0].fileno(), -1, 1 << 40):
                with pytest.raises(RuntimeError, match="Event loop is closed"):
                    add(what, print)
        with pytest.raises(ValueError, match="Invalid file object: 'text'"):
            loop.remove_reader("text")

    def test_close_lets_go(self, loop_factory, pair):
        class Thing:
            def __call__(self): ...

        loop = loop_factory()
        callback, watched = Thing(), Numbered(pair[0].fileno())
        references = [weakref.ref(callback), weakref.ref(watched)]
        loop.add_reader(watched, callback)
        del callback, watched
        loop.close()
        gc.collect()
        assert [reference() for reference in references] == [None, None]


class TestWhatCanBeWatched:
    METHODS: ClassVar = ["add_reader", "add_writer", "remove_reader", "remove_writer"]

    def call(self, loop, method, what):
        arguments = (what, print) if method.startswith("add") else (what,)
        return getattr(loop, method)(*arguments)

    def test_numbers_and_objects_are_the_same(self, loop, pair):
        """Added as one, removed as another."""
        number = pair[0].fileno()
        for added in (number, pair[0], Numbered(number), Numbered(str(number))):
            for removed in (number, pair[0], Numbered(number), Numbered(float(number))):
                loop.add_reader(added, print)
                assert loop.remove_reader(removed) is True
                assert loop.remove_reader(added) is False

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        "what",
        [None, 3.0, "text", b"bytes", object(), Numbered(None), Numbered("text")],
        ids=name_of,
    )
    def test_other_objects(self, loop, method, what):
        with pytest.raises(ValueError, match=r"^Invalid file object: "):
            self.call(loop, method, what)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("error", [ValueError, TypeError, AttributeError])
    def test_a_fileno_that_fails(self, loop, method, error):
        with pytest.raises(ValueError, match=r"^Invalid file object: "):
            self.call(loop, method, Numbered(error()))

    @pytest.mark.parametrize("method", METHODS)
    def test_a_fileno_that_fails_otherwise(self, loop, method):
        with pytest.raises(LookupError):
            self.call(loop, method, Numbered(LookupError()))

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("number", [-1, -100, -(1 << 31)])
    def test_negative_numbers(self, loop, method, number):
        for what in (number, Numbered(number)):
            with pytest.raises(ValueError, match=f"^Invalid file descriptor: {number}$"):
                self.call(loop, method, what)

    @pytest.mark.parametrize("number", [1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, 1 << 80])
    def test_absurd_numbers(self, loop, number):
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises((OSError, OverflowError)):
                add(number, print)
        for remove in (loop.remove_reader, loop.remove_writer):
            assert remove(number) is False

    def test_a_closed_descriptor(self, loop):
        read, write = os.pipe()
        os.close(read)
        os.close(write)
        with pytest.raises(OSError, match="Bad file descriptor"):
            loop.add_reader(read, print)
        assert loop.remove_reader(read) is False

    @pytest.mark.parametrize("method", ["add_reader", "add_writer"])
    def test_regular_files(self, loop, method):
        """epoll refuses what is always ready."""
        with tempfile.TemporaryFile() as file:
            for what in (file, file.fileno()):
                with pytest.raises(PermissionError):
                    getattr(loop, method)(what, print)
            assert loop.remove_reader(file) is False
            assert loop.remove_writer(file) is False

    def test_a_refused_one_leaves_nothing(self, loop, pair):
        """The number can be watched as soon as it stands for something else."""
        with tempfile.TemporaryFile() as file:
            number = file.fileno()
            with pytest.raises(PermissionError):
                loop.add_reader(number, pytest.fail)
        pair[1].send(b"data")
        os.dup2(pair[0].fileno(), number)
        try:
            loop.add_reader(number, loop.stop)
            loop.run_forever()
            assert loop.remove_reader(number) is True
        finally:
            os.close(number)

    def test_an_epoll_object(self, loop, pair):
        """Any descriptor will do: an epoll object is readable when it has events."""
        with select.epoll() as selector:
            selector.register(pair[0], select.EPOLLIN)
            loop.add_reader(selector, loop.stop)
            pair[1].send(b"data")
            loop.run_forever()
            assert loop.remove_reader(selector)


class TestClosedMeanwhile:
    def test_a_number(self, loop):
        near, far = socket.socketpair()
        number = near.fileno()
        loop.add_reader(number, pytest.fail)
        near.close()
        turns(loop)
        far.close()
        assert loop.remove_reader(number) is True
        assert loop.remove_reader(number) is False

    def test_an_object(self, loop):
        """It has no number any more, and is known all the same."""
        near, far = socket.socketpair()
        loop.add_reader(near, pytest.fail)
        near.close()
        far.close()
        turns(loop)
        assert loop.remove_reader(near) is True

    def test_reopened_under_the_same_number(self, loop):
        """What watched the old file says nothing of the new one."""
        calls = []
        near, far = socket.socketpair()
        number = near.fileno()
        loop.add_reader(number, calls.append, "old")
        near.close()
        far.close()
        with reopened(number) as far:
            far.send(b"data")
            turns(loop, 2)
            assert calls == []
            assert loop.remove_reader(number) is True

    def test_reopened_and_watched_again(self, loop, loop_spec):
        skip_stock_bug(loop_spec, True, "the selector is not told of the new file")
        calls = []
        near, far = socket.socketpair()
        number = near.fileno()
        loop.add_reader(number, calls.append, "old")
        near.close()
        far.close()
        with reopened(number) as far:
            far.send(b"data")
            loop.add_reader(number, calls.append, "new")
            turns(loop)
            assert loop.remove_reader(number) is True
        assert calls == ["new"]

    def test_reopened_and_removed_before(self, loop):
        calls = []
        near, far = socket.socketpair()
        number = near.fileno()
        loop.add_reader(number, calls.append, "old")
        assert loop.remove_reader(number)
        near.close()
        far.close()
        with reopened(number) as far:
            far.send(b"data")
            loop.add_reader(number, calls.append, "new")
            turns(loop)
            assert loop.remove_reader(number) is True
        assert calls == ["new"]

    @pytest.mark.parametrize("kinds", [("reader", "writer"), ("writer", "reader")])
    def test_reopened_and_watched_for_the_other_thing(self, loop, kinds):
        """The new file is not for who waited for the old one."""
        old, new = kinds
        near, far = socket.socketpair()
        number = near.fileno()
        getattr(loop, f"add_{old}")(near, pytest.fail)
        near.close()
        far.close()
        with reopened(number) as far, socket.socket(fileno=number) as connection:
            far.send(b"data")
            # asyncio takes it for a change of what is registered.
            with contextlib.suppress(FileNotFoundError):
                getattr(loop, f"add_{new}")(connection, int)
            turns(loop, 2)

    async def test_reopened_as_a_connection(self, loop, loop_spec):
        """A forgotten reader of a number that is now a transport's does not harm it."""
        skip_stock_bug(loop_spec, True, "the transport does not read: the file is not registered")
        near, far = socket.socketpair()
        number = near.fileno()
        loop.add_reader(number, pytest.fail)
        near.close()
        far.close()
        with reopened(number) as far:
            protocol, connection = Recorder(), socket.socket(fileno=number)
            await loop.create_connection(lambda: protocol, sock=connection)
            far.send(b"data")
            assert await protocol.received(4) == b"data"
            protocol.transport.abort()
            await protocol.lost()

    def test_a_duplicate_is_another_descriptor(self, loop, pair):
        calls = []
        pair[1].send(b"data")
        with pair[0].dup() as duplicate:
            loop.add_reader(pair[0], calls.append, "original")
            loop.add_reader(duplicate, calls.append, "duplicate")
            turns(loop)
            assert sorted(calls) == ["duplicate", "original"]
            assert loop.remove_reader(pair[0])
            turns(loop)
            assert calls[2:] == ["duplicate"]
            assert loop.remove_reader(duplicate)

    def test_closed_in_its_callback(self, loop):
        near, far = socket.socketpair()
        with far:

            def reader():
                assert loop.remove_reader(near)
                near.close()

            far.send(b"data")
            loop.add_reader(near, reader)
            turns(loop, 2)
            assert near.fileno() == -1


@contextlib.contextmanager
def reopened(number):
    """Give `number` to a new socket; the block gets its peer."""
    near, far = socket.socketpair()
    near.setblocking(False)
    if near.fileno() == number:
        near.detach()
    else:
        os.dup2(near.fileno(), number)
        near.close()
    with far:
        yield far
    with contextlib.suppress(OSError):
        os.close(number)


class TestTransports:
    async def test_their_descriptors_are_refused(self, loop, network):
        transport, _, _ = await network.connect()
        sock = transport.get_extra_info("socket")
        number = sock.fileno()
        text = f"File descriptor {number} is used by transport {transport!r}"
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError) as caught:
                add(number, print)
            assert str(caught.value) == text
        for remove in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError) as caught:
                remove(number)
            assert str(caught.value) == text
        with pytest.raises(RuntimeError) as caught:
            loop.add_reader(sock, print)
        assert str(caught.value) == f"File descriptor {sock!r} is used by transport {transport!r}"

    async def test_until_they_are_lost(self, loop, network):
        transport, protocol, _ = await network.connect()
        number = transport.get_extra_info("socket").fileno()
        transport.abort()
        await protocol.lost()
        await hops()
        assert loop.remove_reader(number) is False

    async def test_a_watched_socket_becomes_one(self, loop, pair):
        """The reader is replaced by the transport's."""
        calls = []
        loop.add_reader(pair[0], calls.append, 1)
        protocol = Recorder()
        await loop.create_connection(lambda: protocol, sock=pair[0])
        pair[1].send(b"data")
        assert await protocol.received(4) == b"data"
        assert calls == []
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.remove_reader(pair[0])
        protocol.transport.abort()
        await protocol.lost()

    async def test_a_listening_socket(self, loop, network):
        """Without its reader a server is deaf: some programs pause it so."""
        server = await network.serve()
        assert loop.remove_writer(server.sockets[0]) is False
        assert loop.remove_reader(server.sockets[0]) is True
        assert loop.remove_reader(server.sockets[0]) is False
        network.dial(server)
        await hops(3)
        calls = []
        loop.add_reader(server.sockets[0], calls.append, 1)
        await hops(2)
        assert calls
        assert loop.remove_reader(server.sockets[0]) is True
        server.close()
        await server.wait_closed()


class TestHandles:
    """`_add_reader`, which other libraries build on, returns the handle."""

    def test_is_cancelled_when_removed_or_replaced(self, loop, pair):
        number = pair[0].fileno()
        first = loop._add_reader(number, print)
        second = loop._add_reader(number, print)
        assert isinstance(first, asyncio.Handle)
        assert (first.cancelled(), second.cancelled()) == (True, False)
        assert loop._remove_reader(number) is True
        assert second.cancelled()
        assert loop._remove_reader(number) is False

    def test_a_cancelled_one_is_watched_no_more(self, loop, pair):
        pair[1].send(b"data")
        loop._add_reader(pair[0].fileno(), pytest.fail).cancel()
        turns(loop)
        assert loop.remove_reader(pair[0]) is False


def test_many_descriptors(loop):
    """Hundreds at once, each with its own callback, added and removed in any order."""
    pairs = [socket.socketpair() for _ in range(200)]
    calls = []
    for index, (near, _) in enumerate(pairs):
        near.setblocking(False)
        loop.add_reader(near, lambda index, near: calls.append((index, near.recv(10))), index, near)
    for index, (_, far) in enumerate(pairs):
        far.send(str(index).encode())
    for index in range(0, 200, 3):
        assert loop.remove_reader(pairs[index][0])
    turns(loop, 2)
    assert sorted(calls) == [(i, str(i).encode()) for i in range(200) if i % 3]
    for index, (near, far) in enumerate(pairs):
        assert loop.remove_reader(near) is bool(index % 3)
        near.close()
        far.close()
