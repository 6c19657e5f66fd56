"""Datagram endpoints (asyncio: `create_datagram_endpoint`): UDP, Unix and other sockets."""

from __future__ import annotations

import asyncio
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from ._base import logger
from ._oxloop import DatagramTransport
from ._servers import set_reuseport
from ._sockets import SocketMixin
from ._unix import remove_stale

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

_UNSET: Any = object()

# Family, protocol, local and remote address.
_Attempt = tuple[int, int, Any, Any]


class DatagramMixin(SocketMixin):
    """`create_datagram_endpoint`."""

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_address: Any = _UNSET,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[DatagramTransport, _ProtocolT]:
        """Binds a socket to `local_addr`, connects it to `remote_addr`, or takes over `sock`.

        The addresses are ``(host, port)``, or with the family AF_UNIX names of sockets; all that a
        host has are tried in turn. With `allow_broadcast` the remote address is only sent to.
        Returns the transport and its protocol. OSError when no address can be had; ValueError and
        TypeError for arguments that don't fit together, as in asyncio.
        """
        if reuse_address is not _UNSET and sys.version_info >= (3, 11):
            raise TypeError(
                "create_datagram_endpoint() got an unexpected keyword argument 'reuse_address'"
            )
        address = None
        made = sock is None
        if sock is not None:
            options = {
                "local_addr": local_addr,
                "remote_addr": remote_addr,
                "family": family,
                "proto": proto,
                "flags": flags,
                "reuse_address": None if reuse_address is _UNSET else reuse_address,
                "reuse_port": reuse_port,
                "allow_broadcast": allow_broadcast,
            }
            _check_datagram_socket(sock, options)
            sock.setblocking(False)
        else:
            attempts = await self._datagram_attempts(local_addr, remote_addr, family, proto, flags)
            if reuse_address is not _UNSET:
                _refuse_reuse_address(reuse_address)
            sock, address = await self._open_datagram(
                attempts, bool(local_addr), bool(remote_addr), reuse_port, allow_broadcast
            )
        try:
            protocol = protocol_factory()
            waiter = self.create_future()
            transport = self._make_datagram_transport(sock, protocol, address, waiter)
        except BaseException:
            if made:
                sock.close()
            raise
        if self.get_debug():
            if local_addr:
                logger.info(
                    "Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)",
                    local_addr,
                    remote_addr,
                    transport,
                    protocol,
                )
            else:
                logger.debug(
                    "Datagram endpoint remote_addr=%r created: (%r, %r)",
                    remote_addr,
                    transport,
                    protocol,
                )
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def _datagram_attempts(
        self, local_addr: Any, remote_addr: Any, family: int, proto: int, flags: int
    ) -> list[_Attempt]:
        # What to try, in turn.
        if not (local_addr or remote_addr):
            if family == 0:
                raise ValueError("unexpected address family")
            return [(family, proto, None, None)]
        if family == socket.AF_UNIX:
            for address in (local_addr, remote_addr):
                if address is not None and not isinstance(address, str):
                    raise TypeError("string is expected")
            if local_addr and local_addr[0] != "\0":
                remove_stale(local_addr)
            return [(family, proto, local_addr, remote_addr)]
        found: dict[tuple[int, int], list[Any]] = {}
        for index, address in enumerate((local_addr, remote_addr)):
            if address is None:
                continue
            _check_pair(address)
            infos = await self._ensure_resolved(
                address, family=family, type=socket.SOCK_DGRAM, proto=proto, flags=flags
            )
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            for af, _, protocol, _, resolved in infos:
                found.setdefault((af, protocol), [None, None])[index] = resolved
        # Each address that is asked for has to be there.
        attempts = [
            (af, protocol, local, remote)
            for (af, protocol), (local, remote) in found.items()
            if not ((local_addr and local is None) or (remote_addr and remote is None))
        ]
        if not attempts:
            raise ValueError("can not get address information")
        return attempts

    async def _open_datagram(
        self,
        attempts: list[_Attempt],
        binds: bool,
        connects: bool,
        reuse_port: bool | None,
        allow_broadcast: bool | None,
    ) -> tuple[socket.socket, Any]:
        # The socket of the first attempt that succeeds, and the address that it is for.
        errors = []
        try:
            for family, proto, local, remote in attempts:
                sock = None
                try:
                    sock = socket.socket(family=family, type=socket.SOCK_DGRAM, proto=proto)
                    if reuse_port:
                        set_reuseport(sock)
                    if allow_broadcast:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.setblocking(False)
                    if binds:
                        sock.bind(local)
                    if connects and not allow_broadcast:
                        await self.sock_connect(sock, remote)
                    return sock, remote if connects else None
                except BaseException as error:
                    if sock is not None:
                        sock.close()
                    if not isinstance(error, OSError):
                        raise
                    errors.append(error)
            raise errors[0]
        finally:
            # The errors' tracebacks lead to this frame.
            del errors


def _check_datagram_socket(sock: socket.socket, options: dict[str, Any]) -> None:
    if sys.version_info >= (3, 13):
        if sock.type == socket.SOCK_STREAM:
            raise ValueError(f"A datagram socket was expected, got {sock!r}")
    elif sock.type != socket.SOCK_DGRAM:
        raise ValueError(f"A UDP Socket was expected, got {sock!r}")
    problems = ", ".join(f"{name}={value}" for name, value in options.items() if value)
    if problems:
        raise ValueError(
            "socket modifier keyword arguments can not be used when sock is specified. "
            f"({problems})"
        )


def _check_pair(address: Any) -> None:
    if isinstance(address, tuple) and len(address) == 2:
        return
    error = TypeError if sys.version_info >= (3, 11) else AssertionError
    raise error("2-tuple is expected")


def _refuse_reuse_address(reuse_address: Any) -> None:
    # Before Python 3.11.
    if reuse_address:
        raise ValueError(
            "Passing `reuse_address=True` is no longer supported, as the usage of SO_REUSEPORT in "
            "UDP poses a significant security concern."
        )
    warnings.warn(
        "The *reuse_address* parameter has been deprecated as of 3.5.10 and is scheduled for "
        "removal in 3.11.",
        DeprecationWarning,
        stacklevel=3,
    )
