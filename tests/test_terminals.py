"""Terminals as pipes: both ends of a pty, in both directions."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
import tty

import pytest

from .support import Recorder, descriptors, hops


@pytest.fixture
def terminal():
    """Master and slave of a raw pty as file objects, closed after the test."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    files = open(master, "r+b", 0), open(slave, "r+b", 0)
    yield files
    for file in files:
        file.close()


def again(file):
    """Another file object of the same number, which does not close it."""
    return open(file.fileno(), file.mode, 0, closefd=False)


async def both(loop, file):
    """A read and a write pipe on one number: the read pipe closes it."""
    reading, reader = await loop.connect_read_pipe(Recorder, file)
    writing, writer = await loop.connect_write_pipe(Recorder, again(file))
    return reading, reader, writing, writer


async def test_both_ends_in_both_directions(loop, terminal):
    master, slave = terminal
    m_reading, m_reader, m_writing, m_writer = await both(loop, master)
    s_reading, s_reader, s_writing, s_writer = await both(loop, slave)
    for number in range(5):
        m_writing.write(b"to the slave %d" % number)
        s_writing.write(b"to the master %d" % number)
        await s_reader.received(14 * (number + 1))
        await m_reader.received(15 * (number + 1))
    assert bytes(s_reader.data) == b"".join(b"to the slave %d" % number for number in range(5))
    assert bytes(m_reader.data) == b"".join(b"to the master %d" % number for number in range(5))
    for transport in (s_writing, m_writing, s_reading, m_reading):
        transport.close()
    for protocol in (s_writer, m_writer, s_reader, m_reader):
        assert await protocol.lost() is None


async def test_what_is_typed_does_not_close_the_writer(loop, terminal):
    master, slave = terminal
    transport, protocol = await loop.connect_write_pipe(Recorder, slave)
    os.write(master.fileno(), b"typed ahead")
    await hops(5)
    assert not transport.is_closing()
    transport.write(b"output")
    await hops(2)
    assert os.read(master.fileno(), 100) == b"output"
    transport.close()
    await protocol.lost()


async def test_hang_up_of_the_slave(loop, terminal, error_contexts):
    master, slave = terminal
    _, protocol = await loop.connect_read_pipe(Recorder, master)
    os.write(slave.fileno(), b"last words")
    await protocol.received(10)
    slave.close()
    error = await protocol.lost()
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO
    assert "eof_received" not in protocol.calls
    assert error_contexts == []


async def test_hang_up_of_the_master(loop, terminal):
    master, slave = terminal
    _, protocol = await loop.connect_read_pipe(Recorder, slave)
    master.close()
    # A terminal that was hung up reads as ended, or fails with EIO where a write met it.
    error = await protocol.lost()
    assert error is None or error.errno == errno.EIO


async def test_a_full_terminal(loop, terminal):
    master, slave = terminal
    transport, protocol = await loop.connect_write_pipe(Recorder, slave)
    data = os.urandom(100_000)
    transport.write(data)
    await protocol.called("pause_writing")
    _, reader = await loop.connect_read_pipe(Recorder, master)
    assert await reader.received(len(data)) == data
    await protocol.called("resume_writing")
    transport.close()
    assert await protocol.lost() is None
    reader.transport.close()
    await reader.lost()


async def test_hang_up_in_mid_write(loop, terminal):
    master, slave = terminal
    transport, protocol = await loop.connect_write_pipe(Recorder, slave)
    transport.write(b"x" * 100_000)
    await protocol.called("pause_writing")
    master.close()
    error = await protocol.lost()
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO


async def test_canonical_mode(loop):
    master, slave = pty.openpty()
    reading, reader = await loop.connect_read_pipe(Recorder, open(slave, "rb", 0))
    writing, writer = await loop.connect_write_pipe(Recorder, open(master, "wb", 0))
    writing.write(b"half a ")
    await hops(5)
    assert not reader.data
    writing.write(b"line\n")
    assert await reader.received(12) == b"half a line\n"
    reading.close()
    await reader.lost()
    writing.close()
    await writer.lost()


async def test_descriptors(loop):
    before = set(descriptors())
    for _ in range(10):
        master, slave = pty.openpty()
        files = open(master, "r+b", 0), open(slave, "r+b", 0)
        transports = []
        for file in files:
            transports += [await both(loop, file)]
        for reading, reader, writing, writer in transports:
            writing.close()
            await writer.lost()
            reading.close()
            await reader.lost()
    await asyncio.sleep(0)
    assert set(descriptors()) == before
