"""Pipes: connect_read_pipe and connect_write_pipe, their transports and their ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from io import FileIO

import pytest

from .support import PYTHON, Recorder, descriptors, hops, turns


def pipe_files():
    """Both ends of a new pipe as file objects: reader, writer."""
    reader, writer = os.pipe()
    return FileIO(reader, "rb"), FileIO(writer, "wb")


async def read_pipe(file):
    """Transport and protocol of a pipe that is read from."""
    return await asyncio.get_running_loop().connect_read_pipe(Recorder, file)


async def write_pipe(file):
    """Transport and protocol of a pipe that is written to."""
    return await asyncio.get_running_loop().connect_write_pipe(Recorder, file)


@pytest.fixture
def ends(loop):
    """A pipe's ends, closed after the test."""
    reader, writer = pipe_files()
    yield reader, writer
    reader.close()
    writer.close()


def drain(file, size):
    """Reads exactly `size` bytes, or up to the end; blocks."""
    os.set_blocking(file.fileno(), True)
    data = b""
    while len(data) < size and (piece := file.read(size - len(data))):
        data += piece
    return data


class TestReading:
    async def test_from_first_to_last(self, ends):
        reader, writer = ends
        transport, protocol = await read_pipe(reader)
        assert isinstance(transport, asyncio.ReadTransport)
        assert protocol.calls == ["connection_made"]
        assert protocol.transport is transport
        assert transport.get_extra_info("pipe") is reader
        assert transport.get_extra_info("other", 1) == 1
        writer.write(b"one")
        assert await protocol.received(3) == b"one"
        writer.write(b"two")
        writer.close()
        assert await protocol.lost() is None
        assert protocol.data == b"onetwo"
        assert protocol.story == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]
        assert reader.closed
        assert transport.get_extra_info("pipe") is reader

    async def test_large_data(self, ends):
        reader, writer = ends
        _, protocol = await read_pipe(reader)
        data = os.urandom(1 << 20)

        def feed():
            with writer:
                for start in range(0, len(data), 60_000):
                    piece = data[start : start + 60_000]
                    while piece:
                        piece = piece[writer.write(piece) :]

        await asyncio.get_running_loop().run_in_executor(None, feed)
        await protocol.lost()
        assert protocol.data == data

    async def test_the_answer_to_the_end_does_not_matter(self, ends):
        reader, writer = ends
        transport, protocol = await read_pipe(reader)
        protocol.keep_open = True
        writer.close()
        await protocol.called("eof_received")
        assert transport.is_closing()
        assert await protocol.lost() is None

    async def test_is_closing_at_the_end_before_it_is_told(self, ends):
        reader, writer = ends
        seen = []

        class Looker(Recorder):
            def eof_received(self):
                seen.append(self.transport.is_closing())

        loop = asyncio.get_running_loop()
        _, protocol = await loop.connect_read_pipe(Looker, reader)
        writer.close()
        await protocol.lost()
        assert seen == [True]

    async def test_pause_and_resume(self, ends):
        reader, writer = ends
        transport, protocol = await read_pipe(reader)
        if PYTHON >= (3, 11):
            assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        if PYTHON >= (3, 11):
            assert not transport.is_reading()
        writer.write(b"data")
        await hops(5)
        assert not protocol.data
        transport.resume_reading()
        transport.resume_reading()
        assert await protocol.received(4) == b"data"
        transport.pause_reading()
        writer.close()
        await hops(5)
        assert "eof_received" not in protocol.calls
        transport.resume_reading()
        assert await protocol.lost() is None

    async def test_close(self, ends):
        reader, writer = ends
        transport, protocol = await read_pipe(reader)
        transport.close()
        assert transport.is_closing()
        assert "connection_lost" not in protocol.calls
        transport.close()
        transport.pause_reading()
        transport.resume_reading()
        assert await protocol.lost() is None
        assert protocol.calls.count("connection_lost") == 1
        assert reader.closed
        transport.close()
        with pytest.raises(BrokenPipeError):
            writer.write(b"x")

    async def test_another_protocol(self, ends):
        reader, writer = ends
        transport, first = await read_pipe(reader)
        assert transport.get_protocol() is first
        second = Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        writer.write(b"data")
        assert await second.received(4) == b"data"
        writer.close()
        await second.lost()
        assert first.calls == ["connection_made"]
        assert second.story == ["data_received", "eof_received", "connection_lost"]

    async def test_an_exception_of_the_protocol(self, ends, error_contexts):
        reader, writer = ends

        class Failing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                if data == b"bad":
                    raise RuntimeError("no")

        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_read_pipe(Failing, reader)
        writer.write(b"bad")
        await protocol.received(3)
        await hops(2)
        assert not transport.is_closing()
        assert [repr(context["exception"]) for context in error_contexts] == ["RuntimeError('no')"]
        error_contexts.clear()
        writer.write(b"good")
        assert await protocol.received(7) == b"badgood"
        transport.close()
        await protocol.lost()

    async def test_a_socket(self, loop):
        near, far = socket.socketpair()
        with far:
            transport, protocol = await read_pipe(near)
            far.sendall(b"data")
            assert await protocol.received(4) == b"data"
            far.shutdown(socket.SHUT_WR)
            assert await protocol.lost() is None
            assert near.fileno() == -1
            assert transport.get_extra_info("pipe") is near

    async def test_a_reset_socket_is_reported(self, loop, error_contexts):
        listener = socket.create_server(("127.0.0.1", 0))
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
        listener.close()
        _, protocol = await read_pipe(near)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        assert isinstance(await protocol.lost(), ConnectionResetError)
        (context,) = error_contexts
        assert context["message"] == "Fatal read error on pipe transport"
        assert context["protocol"] is protocol
        error_contexts.clear()

    async def test_a_stream_reader(self, ends):
        reader, writer = ends
        stream = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), reader
        )
        writer.write(b"a line\nthe rest")
        assert await stream.readline() == b"a line\n"
        writer.close()
        assert await stream.read() == b"the rest"
        transport.close()
        await hops(2)


class TestWriting:
    async def test_from_first_to_last(self, ends):
        reader, writer = ends
        transport, protocol = await write_pipe(writer)
        assert isinstance(transport, asyncio.WriteTransport)
        assert transport.get_extra_info("pipe") is writer
        assert transport.can_write_eof()
        transport.write(b"one ")
        transport.write(bytearray(b"two "))
        transport.write(memoryview(b"three "))
        transport.write(b"")
        transport.writelines([b"four ", bytearray(b"five")])
        transport.write_eof()
        assert transport.is_closing()
        assert "connection_lost" not in protocol.calls
        assert await protocol.lost() is None
        assert drain(reader, 100) == b"one two three four five"
        assert writer.closed
        assert protocol.calls == ["connection_made", "connection_lost"]

    @pytest.mark.parametrize("wrong", ["text", None, 1, [b"x"]])
    async def test_wrong_types(self, ends, wrong):
        _, writer = ends
        transport, protocol = await write_pipe(writer)
        with pytest.raises(AssertionError) as caught:
            transport.write(wrong)
        assert str(caught.value) == repr(wrong)
        transport.close()
        await protocol.lost()

    async def test_flow_control(self, ends):
        reader, writer = ends
        transport, protocol = await write_pipe(writer)
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=1000, low=10)
        assert transport.get_write_buffer_limits() == (10, 1000)
        with pytest.raises(ValueError, match="must be >="):
            transport.set_write_buffer_limits(high=1, low=2)
        data = os.urandom(300_000)
        transport.write(data)
        assert protocol.calls == ["connection_made", "pause_writing"]
        waiting = transport.get_write_buffer_size()
        assert 0 < waiting < len(data)
        read = asyncio.get_running_loop().run_in_executor(None, drain, reader, len(data))
        await protocol.called("resume_writing")
        assert await read == data
        assert transport.get_write_buffer_size() == 0
        transport.close()
        await protocol.lost()
        assert protocol.calls == [
            "connection_made",
            "pause_writing",
            "resume_writing",
            "connection_lost",
        ]

    @pytest.mark.parametrize("end", ["close", "write_eof"])
    async def test_what_waits_is_written_before_the_end(self, ends, end):
        reader, writer = ends
        transport, protocol = await write_pipe(writer)
        data = os.urandom(300_000)
        transport.write(data)
        getattr(transport, end)()
        transport.write(b"too late")
        read = asyncio.get_running_loop().run_in_executor(None, drain, reader, 400_000)
        assert await protocol.lost() is None
        assert await read == data

    async def test_abort(self, ends):
        reader, writer = ends
        transport, protocol = await write_pipe(writer)
        transport.write(b"x" * 300_000)
        written = 300_000 - transport.get_write_buffer_size()
        transport.abort()
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost() is None
        assert len(drain(reader, 300_000)) == written

    async def test_the_reader_goes(self, ends):
        reader, writer = ends
        transport, protocol = await write_pipe(writer)
        reader.close()
        assert await protocol.lost() is None
        assert transport.is_closing()
        assert writer.closed

    async def test_the_reader_goes_while_data_waits(self, ends):
        reader, writer = ends
        transport, protocol = await write_pipe(writer)
        transport.write(b"x" * 300_000)
        reader.close()
        error = await protocol.lost()
        assert type(error) is BrokenPipeError
        assert protocol.calls[-1] == "connection_lost"

    async def test_the_reader_goes_while_closing(self, ends):
        reader, writer = ends
        transport, protocol = await write_pipe(writer)
        transport.write(b"x" * 300_000)
        transport.close()
        reader.close()
        assert type(await protocol.lost()) is BrokenPipeError

    async def test_the_reader_is_gone_when_something_is_written(self, ends, caplog):
        reader, writer = ends
        transport, protocol = await write_pipe(writer)
        reader.close()
        with caplog.at_level(logging.WARNING, "asyncio"):
            transport.write(b"x")
            assert transport.is_closing()
            for _ in range(4):
                transport.write(b"x")
            assert caplog.messages == []
            for _ in range(2):
                transport.write(b"x")
        warning = "pipe closed by peer or os.write(pipe, data) raised exception."
        assert caplog.messages == [warning] * 2
        error = await protocol.lost()
        assert isinstance(error, BrokenPipeError)
        assert error.errno == 32

    async def test_writes_to_a_closed_pipe(self, ends, caplog):
        _, writer = ends
        transport, protocol = await write_pipe(writer)
        transport.close()
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(5):
                transport.write(b"x")
            assert caplog.messages == []
            transport.write(b"x")
        assert len(caplog.messages) == 1
        await protocol.lost()

    async def test_a_socket_that_is_written_to_closes_the_pipe(self, loop):
        # asyncio takes readiness for reading for the reader's going.
        near, far = socket.socketpair()
        with far:
            transport, protocol = await write_pipe(near)
            transport.write(b"data")
            await hops(2)
            assert far.recv(10) == b"data"
            far.sendall(b"x")
            assert await protocol.lost() is None

    async def test_both_directions_of_one_socket(self, loop):
        near, far = socket.socketpair()
        with far:
            reading, reader = await read_pipe(near.dup())
            writing, writer = await write_pipe(near)
            near_fd = near.fileno()
            assert near_fd != reading.get_extra_info("pipe").fileno()
            writing.write(b"out")
            await hops(2)
            assert far.recv(10) == b"out"
            writing.close()
            await writer.lost()
            far.sendall(b"in")
            assert await reader.received(2) == b"in"
            reading.close()
            await reader.lost()

    async def test_a_fifo(self, loop, folder):
        path = folder / "fifo"
        os.mkfifo(path)
        reading, reader = await read_pipe(FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb"))
        writing, writer = await write_pipe(FileIO(path, "wb"))
        writing.write(b"through a file")
        assert await reader.received(14) == b"through a file"
        reading.close()
        await reader.lost()
        assert await writer.lost() is None

    async def test_the_null_device(self, loop):
        transport, protocol = await write_pipe(FileIO(os.devnull, "wb"))
        transport.write(b"x" * 1_000_000)
        assert transport.get_write_buffer_size() == 0
        transport.close()
        assert await protocol.lost() is None


@pytest.mark.parametrize("connect", ["connect_read_pipe", "connect_write_pipe"])
class TestBoth:
    def end(self, ends, connect):
        return ends[connect == "connect_write_pipe"]

    async def test_order(self, loop, ends, connect):
        events = []

        class Protocol(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                events.append("made")
                loop.call_soon(events.append, "later")

        loop.call_soon(events.append, "before")
        transport, protocol = await getattr(loop, connect)(Protocol, self.end(ends, connect))
        events.append("connected")
        assert events[:2] == ["before", "made"]
        transport.close()
        await protocol.lost()

    async def test_a_regular_file(self, loop, connect):
        with tempfile.TemporaryFile() as file:
            with pytest.raises(ValueError, match="Pipe transport is "):
                await getattr(loop, connect)(Recorder, file)
            assert not file.closed

    @pytest.mark.parametrize("wrong", [None, 5, object(), io.BytesIO()])
    async def test_no_file(self, loop, connect, wrong, loop_spec):
        if loop_spec.startswith("asyncio"):
            pytest.skip("asyncio's half-made transport fails in its __del__, too")
        with pytest.raises((AttributeError, io.UnsupportedOperation)):
            await getattr(loop, connect)(Recorder, wrong)

    async def test_a_closed_descriptor(self, loop, connect, loop_spec):
        if loop_spec.startswith("asyncio"):
            pytest.skip("asyncio's half-made transport fails in its __del__, too")
        reader, writer = pipe_files()
        with writer:
            fd = reader.fileno()
            os.close(fd)
            with pytest.raises(OSError, match="Bad file descriptor"):
                await getattr(loop, connect)(Recorder, reader)
            with contextlib.suppress(OSError):
                reader.close()

    async def test_a_factory_that_fails(self, loop, ends, connect):
        def factory():
            raise RuntimeError("no protocol")

        with pytest.raises(RuntimeError, match="no protocol"):
            await getattr(loop, connect)(factory, self.end(ends, connect))
        assert not self.end(ends, connect).closed

    async def test_repr(self, loop, ends, connect):
        end = self.end(ends, connect)
        transport, protocol = await getattr(loop, connect)(Recorder, end)
        fd = end.fileno()
        state = "polling" if connect == "connect_read_pipe" else "idle bufsize=0"
        assert f" fd={fd} {state}>" in repr(transport)
        transport.close()
        assert " closing fd=" in repr(transport)
        await protocol.lost()
        await hops()
        assert f" closed fd={fd} closed>" in repr(transport)

    async def test_cancelled(self, loop, ends, connect):
        end = self.end(ends, connect)
        task = loop.create_task(getattr(loop, connect)(Recorder, end))
        await hops()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hops(3)
        assert end.closed

    def test_nobody_closes_it(self, loop, ends, connect):
        end = self.end(ends, connect)
        transport, _ = loop.run_until_complete(getattr(loop, connect)(asyncio.Protocol, end))
        text = repr(transport)
        loop.close()
        with pytest.warns(ResourceWarning, match="unclosed transport <.*PipeTransport fd="):
            del transport
            gc.collect()
        assert text
        assert end.closed

    def test_debug_mode(self, loop, ends, connect, caplog):
        loop.set_debug(True)
        with caplog.at_level(logging.DEBUG, "asyncio"):
            transport, protocol = loop.run_until_complete(
                getattr(loop, connect)(Recorder, self.end(ends, connect))
            )
            self.end(ends[::-1], connect).close()
            loop.run_until_complete(protocol.lost())
        assert any(" pipe " in line and " connected: " in line for line in caplog.messages)
        assert any(line.endswith(" was closed by peer") for line in caplog.messages)
        assert transport.is_closing()

    async def test_descriptors(self, loop, ends, connect):
        before = set(descriptors())
        for _ in range(20):
            reader, writer = pipe_files()
            end, other = (reader, writer) if connect == "connect_read_pipe" else (writer, reader)
            transport, protocol = await getattr(loop, connect)(Recorder, end)
            transport.close()
            await protocol.lost()
            other.close()
        await hops()
        assert set(descriptors()) == before


class TestFaults:
    async def test_a_reader_that_is_killed(self, loop):
        before = set(descriptors())
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], stdin=-1, bufsize=0
        )
        transport, protocol = await write_pipe(child.stdin)
        transport.write(b"x" * 1_000_000)
        await protocol.called("pause_writing")
        child.send_signal(signal.SIGKILL)
        assert type(await protocol.lost()) is BrokenPipeError
        await loop.run_in_executor(None, child.wait)
        await hops()
        assert set(descriptors()) <= before
        assert transport.get_write_buffer_size() == 0

    async def test_a_writer_that_is_killed(self, loop):
        program = "import os, time; os.write(1, b'half'); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", program], stdout=-1, bufsize=0)
        _, protocol = await read_pipe(child.stdout)
        assert await protocol.received(4) == b"half"
        child.kill()
        assert await protocol.lost() is None
        await loop.run_in_executor(None, child.wait)

    async def test_a_full_pipe_leaves_the_loop_free(self, ends):
        _, writer = ends
        transport, protocol = await write_pipe(writer)
        for _ in range(10):
            transport.write(b"x" * 100_000)
        waiting = transport.get_write_buffer_size()
        await hops(10)
        assert transport.get_write_buffer_size() == waiting
        transport.abort()
        await protocol.lost()


def test_a_closed_loop(loop, ends):
    transport, _ = loop.run_until_complete(loop.connect_read_pipe(asyncio.Protocol, ends[0]))
    turns(loop)
    loop.close()
    if PYTHON >= (3, 11):
        with contextlib.suppress(RuntimeError):
            transport.close()
    with pytest.warns(ResourceWarning):
        del transport
        gc.collect()
