"""What a type checker makes of the native classes: checked by mypy and pyright, never run."""

# An expected error that is none is one.
# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import asyncio

from oxloop import _oxloop
from typing_extensions import assert_type


def are_asyncios(
    stream: _oxloop.StreamTransport,
    tls: _oxloop.SSLProtocolTransport,
    datagrams: _oxloop.DatagramTransport,
    reading: _oxloop.ReadPipeTransport,
    writing: _oxloop.WritePipeTransport,
    handle: _oxloop.Handle,
    timer: _oxloop.TimerHandle,
) -> None:
    transports: list[asyncio.Transport] = [stream, tls, writing]
    endpoint: asyncio.DatagramTransport = datagrams
    reads: asyncio.ReadTransport = reading
    handles: list[asyncio.Handle] = [handle, timer]
    plain: asyncio.TimerHandle = timer
    everything: list[asyncio.BaseTransport] = [*transports, endpoint, reads]
    assert_type(everything[0].is_closing(), bool)
    assert_type(handles[0].cancelled(), bool)
    assert_type(plain.when(), float)


def methods(stream: _oxloop.StreamTransport) -> None:
    assert_type(stream.write(b"data"), None)
    assert_type(stream.write(memoryview(b"data")), None)
    assert_type(stream.writelines([b"a", bytearray(b"b")]), None)
    assert_type(stream.get_write_buffer_limits(), tuple[int, int])
    assert_type(stream.get_protocol(), asyncio.BaseProtocol)
    stream.write("text")  # type: ignore[arg-type]
    _oxloop.StreamTransport.write_eof(stream)


def cannot_be_subclassed() -> None:
    class Mine(_oxloop.StreamTransport): ...  # type: ignore[misc]

    del Mine
