"""Unix stream sockets: what asyncio's sections on connections and servers have for them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ._arguments import (
    check_since,
    check_ssl_socket,
    check_tls_timeouts,
    check_unix_socket,
)
from ._base import logger
from ._servers import Server, ServerMixin

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

_REMOVES_SOCKETS = sys.version_info >= (3, 13)


class UnixMixin(ServerMixin):
    """`create_unix_connection` and `create_unix_server`."""

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        path: StrOrBytesPath | None = None,
        *,
        ssl: Any = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        r"""Connects to `path`, or takes over the connected `sock`.

        A path that starts with "\0" is an abstract name. Returns the transport and its protocol.
        OSError when nobody listens there; ValueError and TypeError for arguments that don't fit
        together, as in asyncio.
        """
        check_since(
            (3, 11),
            "create_unix_connection",
            "ssl_shutdown_timeout",
            ssl_shutdown_timeout is not None,
        )
        assert server_hostname is None or isinstance(server_hostname, str)
        if ssl and server_hostname is None:
            raise ValueError("you have to pass server_hostname when using ssl")
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        check_tls_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)

        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = os.fspath(path)
            sock = await self._connect_unix(path)
        elif sock is None:
            raise ValueError("no path and sock were specified")
        else:
            check_unix_socket(sock)
            check_ssl_socket(sock)
        return await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    async def _connect_unix(self, path: str | bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await self.sock_connect(sock, path)
        except BaseException:
            sock.close()
            raise
        return sock

    async def create_unix_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: StrOrBytesPath | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = _REMOVES_SOCKETS,
        mode: int | None = None,
    ) -> Server:
        r"""Listens on `path`, or on `sock`, which is bound already.

        A path that starts with "\0" is an abstract name. A socket that was left at the path is
        replaced. From Python 3.13 on closing the server removes its own, unless `cleanup_socket`
        is false. From 3.16 on `mode` sets the permissions of the socket's file before anybody can
        connect. Returns the `Server`, which accepts connections unless `start_serving` is false.
        OSError when the path cannot be had; ValueError and TypeError for arguments that don't fit
        together, as in asyncio.
        """
        check_since(
            (3, 11), "create_unix_server", "ssl_shutdown_timeout", ssl_shutdown_timeout is not None
        )
        check_since((3, 13), "create_unix_server", "cleanup_socket", cleanup_socket)
        check_since((3, 16), "create_unix_server", "mode", mode is not None)
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_tls_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)

        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = os.fspath(path)
            if mode is not None and _is_abstract(path):
                raise ValueError("mode is not supported for abstract Unix sockets")
            sock = _bind(path, mode)
        elif sock is None:
            raise ValueError("path was not specified, and no sock specified")
        elif mode is not None:
            raise ValueError("mode and sock can not be specified at the same time")
        else:
            check_unix_socket(sock)
            check_ssl_socket(sock)

        try:
            clean_up = _remover(sock) if cleanup_socket else None
            sock.setblocking(False)
        except BaseException:
            if path is not None:
                sock.close()
            raise
        server = Server(self, [sock], protocol_factory, ssl, backlog, clean_up=clean_up)
        if start_serving:
            await self._start_or_close(server)
        return server


def _is_abstract(path: str | bytes) -> bool:
    return path[0] in (0, "\0")


def _bind(path: str | bytes, mode: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not _is_abstract(path):
            remove_stale(path)
        sock.bind(path)
        if mode is not None:
            # Nobody can connect yet: it does not listen.
            os.chmod(path, mode)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            message = f"Address {path!r} is already in use"
            raise OSError(errno.EADDRINUSE, message) from None
        raise
    return sock


def remove_stale(path: str | bytes) -> None:
    """Removes the socket that somebody left at a path.

    Where that fails, bind() has the last word.
    """
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, error)


def _remover(sock: socket.socket) -> Callable[[], None] | None:
    # What removes the socket's file, if it has one, unless somebody has replaced it.
    path = sock.getsockname()
    if _is_abstract(path):
        return None
    try:
        inode = os.stat(path).st_ino
    except FileNotFoundError:
        return None

    def remove() -> None:
        try:
            if os.stat(path).st_ino == inode:
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, error)

    return remove
