"""Creating network servers, and Server objects (asyncio's sections of those names): TCP."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import itertools
import socket
import sys
import weakref
from asyncio import base_events
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ._arguments import (
    check_since,
    check_ssl_socket,
    check_stream_socket,
    check_tls_timeouts,
)
from ._base import logger
from ._connections import ConnectionMixin
from ._dns import AddressInfo
from ._tls import TlsMixin

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)


class Server(base_events.Server):
    """Listening sockets and the connections that came in through them (asyncio: "Server objects").

    Made by `create_server` and `create_unix_server`. It is the running version's
    `asyncio.Server`, on native listeners.
    """

    _loop: TlsMixin
    # None once it is closed.
    _sockets: list[socket.socket] | None
    _protocol_factory: Callable[[], asyncio.BaseProtocol]
    _backlog: int
    _serving: bool
    # asyncio.Server has it from 3.15 on.
    _context: contextvars.Context

    def __init__(
        self,
        loop: TlsMixin,
        sockets: list[socket.socket],
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        ssl_context: Any,
        backlog: int,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        clean_up: Callable[[], None] | None = None,
    ) -> None:
        timeouts = [ssl_handshake_timeout, ssl_shutdown_timeout]
        if sys.version_info < (3, 11):
            timeouts.pop()
        super().__init__(loop, sockets, protocol_factory, ssl_context, backlog, *timeouts)
        self._secure = None
        if ssl_context:
            self._secure = loop._secured(ssl_context, ssl_handshake_timeout, ssl_shutdown_timeout)
        # Called once the sockets are closed.
        self._clean_up = clean_up
        if sys.version_info >= (3, 13):
            self._clients = _Clients(self)

    def _start_serving(self) -> None:
        if self._serving:
            return
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._serving = True
        for sock in self._sockets:
            sock.listen(self._backlog)
            arguments = self._protocol_factory, sock, self, self._backlog, self._secure
            # The connections' contexts are copies of the one in which serving is started.
            if sys.version_info >= (3, 15):
                self._context.run(self._loop._start_serving, *arguments)
            else:
                self._loop._start_serving(*arguments)

    def close(self) -> None:
        """Stops accepting and closes the listening sockets; connections stay open."""
        super().close()
        clean_up, self._clean_up = self._clean_up, None
        if clean_up is not None:
            clean_up()

    if sys.version_info >= (3, 13):

        def _attach(self, transport: asyncio.BaseTransport) -> None:
            assert self._sockets is not None
            self._clients.count += 1

        def _detach(self, transport: asyncio.BaseTransport | None) -> None:
            self._clients.count -= 1
            if not self._clients.count and self._sockets is None:
                self._wakeup()  # type: ignore[attr-defined]


class _Clients:
    """The transports of a server: counted here, and found in the loop when they are asked for.

    asyncio keeps a set of weak references, which costs each connection more than counting.
    """

    def __init__(self, server: Server) -> None:
        self._server = weakref.ref(server)
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[asyncio.BaseTransport]:
        return iter(self.copy())

    def copy(self) -> list[asyncio.BaseTransport]:
        server = self._server()
        return [] if server is None else [*server._loop._transports_of(server)]


class ServerMixin(ConnectionMixin):
    """`create_server` and `connect_accepted_socket`."""

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        """Listens on `host` (one, or several; None or "" for every interface) and `port`.

        Or on `sock`, which is bound already. Returns the `Server`, which accepts connections unless
        `start_serving` is false. `keep_alive` is for Python 3.13 on. OSError when an address cannot
        be had; ValueError and TypeError for arguments that don't fit together, as in asyncio.
        """
        check_since(
            (3, 11), "create_server", "ssl_shutdown_timeout", ssl_shutdown_timeout is not None
        )
        check_since((3, 13), "create_server", "keep_alive", keep_alive is not None)
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_tls_timeouts(ssl is not None, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            check_ssl_socket(sock)

        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            infos = await self._resolve_all(host, port, family, flags)
            options = [socket.SO_REUSEADDR] if reuse_address is None or reuse_address else []
            if keep_alive:
                options.append(socket.SO_KEEPALIVE)
            sockets = self._bind_all(infos, options, bool(reuse_port))
        elif sock is None:
            raise ValueError("Neither host/port nor sock were specified")
        else:
            check_stream_socket(sock)
            sockets = [sock]
        for each in sockets:
            each.setblocking(False)

        server = Server(
            self,
            sockets,
            protocol_factory,
            ssl,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        if start_serving:
            await self._start_or_close(server)
        if self.get_debug():
            logger.info("%r is serving", server)
        return server

    async def _start_or_close(self, server: Server) -> None:
        try:
            await server.start_serving()
        except BaseException:
            # Nobody else could close it.
            server.close()
            raise

    async def _resolve_all(
        self, host: Any, port: Any, family: int, flags: int
    ) -> list[AddressInfo]:
        hosts: Iterable[Any]
        if host == "":
            hosts = [None]
        elif isinstance(host, str) or not isinstance(host, Iterable):
            hosts = [host]
        else:
            hosts = host

        async def resolve(each: Any) -> list[AddressInfo]:
            infos = await self._ensure_resolved(
                (each, port), family=family, type=socket.SOCK_STREAM, flags=flags
            )
            if not infos:
                raise OSError(f"getaddrinfo({each!r}) returned empty list")
            return infos

        found = await asyncio.gather(*[resolve(each) for each in hosts])
        # Each address once, in the order they were given.
        return list(dict.fromkeys(itertools.chain.from_iterable(found)))

    def _bind_all(
        self, infos: list[AddressInfo], options: list[int], reuse_port: bool
    ) -> list[socket.socket]:
        sockets: list[socket.socket] = []
        try:
            for family, type_, proto, _, address in infos:
                try:
                    sock = socket.socket(family, type_, proto)
                except OSError:
                    # A combination that this system does not have, as far as we know.
                    if self.get_debug():
                        logger.warning(
                            "create_server() failed to create socket.socket(%r, %r, %r)",
                            family,
                            type_,
                            proto,
                            exc_info=True,
                        )
                    continue
                sockets.append(sock)
                for option in options:
                    sock.setsockopt(socket.SOL_SOCKET, option, True)
                if reuse_port and family in (socket.AF_INET, socket.AF_INET6):
                    set_reuseport(sock)
                if family == socket.AF_INET6:
                    # IPv4 has a socket of its own.
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
                try:
                    sock.bind(address)
                except OSError as error:
                    self._bind_failed(error, address)
                    sockets.pop().close()
            if not sockets and sys.version_info >= (3, 13):
                raise OSError(f"could not bind on any address out of {[i[4] for i in infos]!r}")
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    def _bind_failed(self, error: OSError, address: Any) -> None:
        # Raises, except (3.13 on) for a family that seems to be switched off.
        newer = sys.version_info >= (3, 13)
        reason = str(error) if newer else str(error.strerror)
        message = f"error while attempting to bind on address {address!r}: {reason.lower()}"
        if not newer or error.errno != errno.EADDRNOTAVAIL:
            raise OSError(error.errno, message) from None
        if self.get_debug():
            logger.warning(message)

    async def connect_accepted_socket(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        sock: socket.socket,
        *,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        """Takes over a connection that was accepted elsewhere: the transport and its protocol."""
        check_since(
            (3, 11),
            "connect_accepted_socket",
            "ssl_shutdown_timeout",
            ssl_shutdown_timeout is not None,
        )
        check_stream_socket(sock)
        check_tls_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        check_ssl_socket(sock)
        transport, protocol = await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_side=True,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self.get_debug():
            connection = transport.get_extra_info("socket")
            logger.debug("%r handled: (%r, %r)", connection, transport, protocol)
        return transport, protocol


def set_reuseport(sock: socket.socket) -> None:
    """SO_REUSEPORT; ValueError where there is no such thing."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        raise ValueError(
            "reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented."
        ) from None
