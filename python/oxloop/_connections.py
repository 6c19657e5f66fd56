"""Opening network connections (asyncio's section of that name): TCP."""

from __future__ import annotations

import asyncio
import builtins
import itertools
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ._arguments import (
    check_since,
    check_ssl_socket,
    check_stream_socket,
    check_tls_timeouts,
)
from ._base import logger
from ._dns import AddressInfo
from ._racing import race
from ._sockets import SocketMixin
from ._tls import TlsMixin

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)


class ConnectionMixin(TlsMixin, SocketMixin):
    """`create_connection`."""

    async def create_connection(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        """Connects to `host` and `port`, or takes over the connected `sock`.

        Every address that `host` has is tried in turn, or `happy_eyeballs_delay` seconds apart.
        Returns the transport and its protocol. OSError when no address can be reached; from Python
        3.12 on an ExceptionGroup of all errors with `all_errors`. ValueError and TypeError for
        arguments that don't fit together, as in asyncio.
        """
        check_since(
            (3, 11), "create_connection", "ssl_shutdown_timeout", ssl_shutdown_timeout is not None
        )
        check_since((3, 12), "create_connection", "all_errors", all_errors)
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        if server_hostname is None and ssl and not host:
            raise ValueError("You must set server_hostname when using ssl without a host")
        check_tls_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            check_ssl_socket(sock)
        if happy_eyeballs_delay is not None and interleave is None:
            interleave = 1

        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            infos = await self._resolve_stream((host, port), family, proto, flags)
            local_infos = None
            if local_addr is not None:
                local_infos = await self._resolve_stream(local_addr, family, proto, flags)
            if interleave:
                infos = interleave_families(infos, interleave)
            sock = await self._connect_any(infos, local_infos, happy_eyeballs_delay, all_errors)
        elif sock is None:
            raise ValueError("host and port was not specified and no sock specified")
        else:
            check_stream_socket(sock)

        transport, protocol = await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname=host if server_hostname is None else server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self.get_debug():
            logger.debug(
                "%r connected to %s:%r: (%r, %r)",
                transport.get_extra_info("socket"),
                host,
                port,
                transport,
                protocol,
            )
        return transport, protocol

    async def _resolve_stream(
        self, address: Any, family: int, proto: int, flags: int
    ) -> list[AddressInfo]:
        infos = await self._ensure_resolved(
            address, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags
        )
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        return infos

    async def _connect_any(
        self,
        infos: list[AddressInfo],
        local_infos: list[AddressInfo] | None,
        happy_eyeballs_delay: float | None,
        all_errors: bool,
    ) -> socket.socket:
        # One list for each address, in the order they were tried.
        errors: list[list[OSError]] = []
        try:
            if happy_eyeballs_delay is None:
                for info in infos:
                    try:
                        return await self._connect_sock(errors, info, local_infos)
                    except OSError:
                        continue
            else:
                sock = await race(
                    self,
                    [partial(self._connect_sock, errors, info, local_infos) for info in infos],
                    happy_eyeballs_delay,
                )
                if sock is not None:
                    return sock
            raise _connection_error([error for each in errors for error in each], all_errors)
        finally:
            # The errors' tracebacks lead to this frame.
            del errors

    async def _connect_sock(
        self,
        errors: list[list[OSError]],
        info: AddressInfo,
        local_infos: list[AddressInfo] | None,
    ) -> socket.socket:
        my_errors: list[OSError] = []
        errors.append(my_errors)
        family, type_, proto, _, address = info
        sock = None
        try:
            sock = socket.socket(family=family, type=type_, proto=proto)
            sock.setblocking(False)
            if local_infos is not None:
                _bind_any(sock, family, local_infos, my_errors)
            await self.sock_connect(sock, address)
            return sock
        except BaseException as error:
            if isinstance(error, OSError):
                my_errors.append(error)
            if sock is not None:
                try:
                    sock.close()
                except OSError:
                    # Less important than what went wrong before.
                    pass
            raise
        finally:
            del errors, my_errors

    async def _create_connection_transport(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], _ProtocolT],
        ssl: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        transport: asyncio.Transport
        try:
            sock.setblocking(False)
            self._ensure_fd_no_transport(sock)
            protocol = protocol_factory()
            waiter = self.create_future()
            if ssl:
                transport = self._make_ssl_transport(
                    sock,
                    protocol,
                    None if isinstance(ssl, bool) else ssl,
                    waiter,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                )
            else:
                transport = self._make_socket_transport(sock, protocol, waiter)
        except BaseException:
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        finally:
            # It holds the exception, whose traceback leads to this frame.
            del waiter
        return transport, protocol


def interleave_families(infos: list[AddressInfo], first_family_count: int) -> list[AddressInfo]:
    """Takes turns between address families, after `first_family_count` - 1 of the first one."""
    families: dict[int, list[AddressInfo]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    groups = list(families.values())
    count = max(first_family_count - 1, 0)
    ahead = groups[0][:count]
    groups[0] = groups[0][count:]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    return ahead + [info for info in turns if info is not None]


def _bind_any(
    sock: socket.socket, family: int, local_infos: list[AddressInfo], errors: list[OSError]
) -> None:
    # Binds to the first local address of that family that can be had.
    for local_family, _, _, _, address in local_infos:
        if local_family != family:
            continue
        try:
            sock.bind(address)
            return
        except OSError as error:
            reason = str(error) if sys.version_info >= (3, 13) else str(error.strerror)
            errors.append(
                OSError(
                    error.errno,
                    f"error while attempting to bind on address {address!r}: {reason.lower()}",
                )
            )
    if errors:
        raise errors.pop()
    raise OSError(f"no matching local address with {family=} found")


def _connection_error(errors: list[OSError], all_errors: bool) -> Exception:
    # What create_connection raises for the errors of all addresses.
    if sys.version_info >= (3, 12) and all_errors:
        return builtins.ExceptionGroup("create_connection failed", errors)
    if not errors:
        return TimeoutError("create_connection failed")
    texts = [str(error) for error in errors]
    if all(text == texts[0] for text in texts):
        return errors[0]
    return OSError(f"Multiple exceptions: {', '.join(texts)}")
