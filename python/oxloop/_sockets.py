"""Working with socket objects directly (asyncio's section of that name).

Each call is tried at once. Where it would block, the coroutine waits for the descriptor and tries
again itself: whatever is cancelled meanwhile, no data and no accepted connection is lost. Only
`sock_sendall` goes on sending from the loop, one piece in each turn.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._arguments import check_ssl_socket
from ._dns import DnsMixin
from ._watchers import WatcherMixin

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_Socket = socket.socket
_WOULD_BLOCK = (BlockingIOError, InterruptedError)


class SocketMixin(WatcherMixin, DnsMixin):
    """The `sock_*` coroutines, for non-blocking sockets that no transport owns."""

    # Named as asyncio's own loops name it; AbstractEventLoop has `nbytes`.
    async def sock_recv(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, sock: socket.socket, n: int
    ) -> bytes:
        """Receives up to `n` bytes; b"" at the end of the stream."""
        if self._debug or type(sock) is not _Socket:
            self._check_socket(sock)
        while (data := self._recv_now(sock, n)) is None:
            # `_readable`, written out: a coroutine less for each call.
            fd = sock.fileno()
            future = self._wait_readable(fd)
            try:
                await future
            except BaseException:
                self._readable_ended(fd, future)
                raise
        return data

    async def sock_recv_into(self, sock: socket.socket, buf: WriteableBuffer) -> int:
        """Receives into `buf` and returns the number of bytes."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recv_into(buf)
            except _WOULD_BLOCK:
                pass
            await self._readable(sock)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receives a datagram of up to `bufsize` bytes: it and the sender's address."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recvfrom(bufsize)
            except _WOULD_BLOCK:
                pass
            await self._readable(sock)

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: WriteableBuffer, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receives a datagram into `buf`: the number of bytes and the sender's address."""
        self._check_socket(sock)
        if not nbytes:
            nbytes = len(buf)  # type: ignore[arg-type]
        while True:
            try:
                return sock.recvfrom_into(buf, nbytes)
            except _WOULD_BLOCK:
                pass
            await self._readable(sock)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accepts a connection: its socket, non-blocking, and the peer's address."""
        self._check_socket(sock)
        while True:
            try:
                connection, address = sock.accept()
            except _WOULD_BLOCK:
                pass
            else:
                connection.setblocking(False)
                return connection, address
            await self._readable(sock)

    async def sock_sendto(self, sock: socket.socket, data: ReadableBuffer, address: Any) -> int:
        """Sends a datagram to `address` and returns the number of bytes."""
        self._check_socket(sock)
        while True:
            try:
                return sock.sendto(data, address)
            except _WOULD_BLOCK:
                pass
            await self._writable(sock)

    async def sock_sendall(self, sock: socket.socket, data: ReadableBuffer) -> None:
        """Sends all of `data`; after an error or a cancellation some of it may have been sent."""
        if self._debug or type(sock) is not _Socket:
            self._check_socket(sock)
        sent = self._send_now(sock, data)
        if type(data) is bytes and sent == len(data):
            return
        view = memoryview(data)
        if sent == view.nbytes:
            return
        view = view.cast("B")[sent:]

        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        done = self.create_future()

        def send_more() -> None:
            nonlocal view
            try:
                view = view[sock.send(view) :]
                if view:
                    return
            except _WOULD_BLOCK:
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001
                self._remove_writer(fd)
                if not done.done():
                    done.set_exception(error)
                return
            self._remove_writer(fd)
            if not done.done():
                done.set_result(None)

        handle = self._add_writer(fd, send_more)
        try:
            await done
        except BaseException:
            _remove(self._remove_writer, fd, handle)
            raise

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connects `sock`; a host name in `address` is resolved."""
        self._check_socket(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            infos = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto
            )
            address = infos[0][4]
        try:
            sock.connect(address)
            return
        except _WOULD_BLOCK as error:
            # An interrupted connect goes on in the background as well. A Unix socket whose
            # listener's queue is full stays unconnected.
            if error.errno == errno.EAGAIN and sock.family == socket.AF_UNIX:
                raise
        await self._writable(sock)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, f"Connect call failed {address}")

    def _check_socket(self, sock: socket.socket) -> None:
        check_ssl_socket(sock)
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _readable(self, sock: socket.socket) -> None:
        await self._until_ready(sock, self._wait_readable, self._readable_ended)

    async def _writable(self, sock: socket.socket) -> None:
        await self._until_ready(sock, self._wait_writable, self._writable_ended)

    async def _until_ready(
        self,
        sock: socket.socket,
        wait: Callable[[int], asyncio.Future[None]],
        ended: Callable[[int, asyncio.Future[None]], None],
    ) -> None:
        fd = sock.fileno()
        future = wait(fd)
        try:
            await future
        except BaseException:
            ended(fd, future)
            raise


def _remove(remove: Callable[[int], bool], fd: int, handle: asyncio.Handle) -> None:
    # A cancelled handle was replaced by another operation's, or is gone already.
    if not handle.cancelled():
        remove(fd)
