"""Transferring files (asyncio's section of that name)."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
import sys
from asyncio import constants
from collections.abc import Awaitable, Callable
from typing import Any

from ._arguments import check_ssl_socket
from ._oxloop import SSLProtocolTransport, StreamTransport
from ._sockets import SocketMixin

# From 3.14 on the file's position is set also where nothing was sent.
_ALWAYS_SEEKS = sys.version_info >= (3, 14)
_WOULD_BLOCK = (BlockingIOError, InterruptedError)
# asyncio's: what the fallback reads at once, bytes.
_FALLBACK_BLOCK = 16 * 1024


class SendfileMixin(SocketMixin):
    """`sendfile` and `sock_sendfile`."""

    async def sock_sendfile(
        self,
        sock: socket.socket,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = True,
    ) -> int:
        """Sends `count` bytes of `file` from `offset` on, or all of them; returns how many.

        By os.sendfile(); with `fallback` by reading and sending where that is not possible, else
        SendfileNotAvailableError. The file's position tells how far it came, after an error too.
        """
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        check_ssl_socket(sock)
        _check_parameters(sock, file, offset, count)
        try:
            return await self._sock_sendfile_native(sock, file, offset, count)
        except asyncio.SendfileNotAvailableError:
            if not fallback:
                raise
        return await self._sock_sendfile_fallback(sock, file, offset, count)

    async def _sock_sendfile_native(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        return await _sendfile(sock.fileno, file, offset, count, lambda: self._writable(sock))

    async def _sock_sendfile_fallback(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        async def send(data: memoryview) -> None:
            await self.sock_sendall(sock, data)

        size = constants.SENDFILE_FALLBACK_READBUFFER_SIZE
        return await self._copy(file, offset, count, size, send)

    async def sendfile(
        self,
        transport: asyncio.WriteTransport,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Sends `count` bytes of `file` from `offset` on, or all of them; returns how many.

        `transport` neither reads nor writes meanwhile. By os.sendfile(); with `fallback` by
        reading and writing where that is not possible, else SendfileNotAvailableError.
        RuntimeError for a transport that is closing, or that cannot send files. The file's
        position tells how far it came, after an error too.
        """
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        modes = constants._SendfileMode
        mode = getattr(transport, "_sendfile_compatible", modes.UNSUPPORTED)
        if mode is modes.UNSUPPORTED:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        if mode is modes.TRY_NATIVE:
            try:
                return await self._sendfile_native(transport, file, offset, count)
            except asyncio.SendfileNotAvailableError:
                if not fallback:
                    raise
        if not fallback:
            raise RuntimeError(
                f"fallback is disabled and native sendfile is not supported for "
                f"transport {transport!r}"
            )
        return await self._sendfile_fallback(transport, file, offset, count)

    async def _sendfile_native(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        if not isinstance(transport, StreamTransport) or transport._loop is not self:
            # asyncio fails with a KeyError here: it does not know the descriptor.
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        was_reading = transport.is_reading()
        transport.pause_reading()
        try:
            waiter = transport._make_empty_waiter()
        except BaseException:
            if was_reading:
                transport.resume_reading()
            raise
        try:
            await waiter
            sock = transport.get_extra_info("socket")
            _check_parameters(sock, file, offset, count)
            # The transport has the descriptor, and the selector knows each only once.
            with socket.socket(fileno=os.dup(sock.fileno())) as duplicate:

                async def writable() -> None:
                    fd = duplicate.fileno()
                    future = self._wait_writable(fd)
                    transport._set_empty_waiter(future)
                    try:
                        await future
                    except BaseException:
                        self._writable_ended(fd, future)
                        raise
                    finally:
                        del future  # see below

                return await _sendfile(duplicate.fileno, file, offset, count, writable)
        finally:
            # It holds the exception, whose traceback leads to this frame.
            del waiter
            transport._reset_empty_waiter()
            if was_reading:
                transport.resume_reading()

    async def _sendfile_fallback(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        protocol = _FallbackProtocol(self, transport)

        async def write(data: memoryview) -> None:
            await protocol.drain()
            transport.write(data)
            if _ALWAYS_SEEKS:
                await protocol.drain()

        try:
            return await self._copy(file, offset, count, _FALLBACK_BLOCK, write)
        finally:
            protocol.restore()

    async def _copy(
        self,
        file: Any,
        offset: int,
        count: int | None,
        size: int,
        send: Callable[[memoryview], Awaitable[None]],
    ) -> int:
        # Reads in the executor: a file may block.
        if offset or (_ALWAYS_SEEKS and hasattr(file, "seek")):
            file.seek(offset)
        size = min(count, size) if count else size
        buffer = bytearray(size)
        total = 0
        try:
            while True:
                if count:
                    size = min(count - total, size)
                    if size <= 0:
                        return total
                view = memoryview(buffer)[:size]
                read = await self.run_in_executor(None, file.readinto, view)
                if not read:
                    return total
                await send(view[:read])
                total += read
        finally:
            if total > 0 and hasattr(file, "seek"):
                file.seek(offset + total)


async def _sendfile(
    fileno: Callable[[], int],
    file: Any,
    offset: int,
    count: int | None,
    writable: Callable[[], Awaitable[None]],
) -> int:
    # os.sendfile() until `count` bytes or the whole file are gone.
    try:
        number = file.fileno()
        size = os.fstat(number).st_size
    except (AttributeError, io.UnsupportedOperation, OSError):
        raise asyncio.SendfileNotAvailableError("not a regular file") from None
    block = count or size
    if not block:
        return 0
    total = 0
    waited = False
    try:
        while not count or total < count:
            if count:
                block = count - total
            try:
                # 32-bit systems take no more at once.
                sent = os.sendfile(fileno(), number, offset, min(block, sys.maxsize // 2 + 1))
            except _WOULD_BLOCK:
                pass
            except OSError as error:
                if total == 0:
                    # Most likely not a file that can be mapped.
                    raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from None
                if waited and error.errno == errno.ENOTCONN:
                    raise ConnectionError("socket is not connected", errno.ENOTCONN) from error
                raise
            else:
                if sent == 0:
                    break
                offset += sent
                total += sent
            waited = True
            await writable()
        return total
    finally:
        if total or _ALWAYS_SEEKS:
            os.lseek(number, offset, os.SEEK_SET)


def _check_parameters(sock: Any, file: Any, offset: int, count: int | None) -> None:
    # In asyncio's order and words.
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    if count is not None:
        if not isinstance(count, int):
            raise TypeError(f"count must be a positive integer (got {count!r})")
        if count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
    if not isinstance(offset, int):
        raise TypeError(f"offset must be a non-negative integer (got {offset!r})")
    if offset < 0:
        raise ValueError(f"offset must be a non-negative integer (got {offset!r})")


class _FallbackProtocol(asyncio.Protocol):
    """Takes the protocol's place while a file is written: only writing goes on."""

    def __init__(self, loop: SendfileMixin, transport: Any) -> None:
        if not isinstance(transport, (StreamTransport, SSLProtocolTransport)):
            raise TypeError("transport should be _FlowControlMixin instance")
        self._loop = loop
        self._transport = transport
        self._protocol: Any = transport.get_protocol()
        self._was_reading = transport.is_reading()
        self._was_paused = transport._protocol_paused
        # Done when writing may go on; None while it may.
        self._resumed: asyncio.Future[None] | None = None
        transport.pause_reading()
        transport.set_protocol(self)
        if self._was_paused:
            self._resumed = loop.create_future()

    async def drain(self) -> None:
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._resumed is not None:
            await self._resumed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise RuntimeError("Invalid state: connection should have been established already.")

    def connection_lost(self, exc: Exception | None) -> None:
        # Something was still to be sent: to the caller that is an error in any case.
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._resumed is None:
            self._resumed = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> bool | None:
        raise RuntimeError("Invalid state: reading should be paused")

    def restore(self) -> None:
        """Gives the transport back to its protocol, which hears that it may write."""
        self._transport.set_protocol(self._protocol)
        if self._was_reading:
            self._transport.resume_reading()
        if self._resumed is not None:
            self._resumed.cancel()
        if self._was_paused:
            self._protocol.resume_writing()
