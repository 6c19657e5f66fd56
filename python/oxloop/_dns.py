"""Resolving names (asyncio: "DNS"): on the default executor, but numeric addresses at once."""

from __future__ import annotations

import socket
from typing import Any

from ._base import logger
from ._executors import ExecutorMixin

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]

_PROTOCOLS = {
    socket.SOCK_STREAM: socket.IPPROTO_TCP,
    socket.SOCK_DGRAM: socket.IPPROTO_UDP,
}


class DnsMixin(ExecutorMixin):
    """`getaddrinfo` and `getnameinfo`."""

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """`socket.getaddrinfo` in the default executor; debug mode logs how long it took."""
        resolve = self._getaddrinfo_debug if self.get_debug() else socket.getaddrinfo
        return await self.run_in_executor(None, resolve, host, port, family, type, proto, flags)

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int = 0
    ) -> tuple[str, str]:
        """`socket.getnameinfo` in the default executor."""
        return await self.run_in_executor(None, socket.getnameinfo, sockaddr, flags)

    def _getaddrinfo_debug(
        self, host: Any, port: Any, family: int, type: int, proto: int, flags: int
    ) -> list[Any]:
        parts = [f"{host}:{port!r}"]
        named = {"family": family, "type": type, "proto": proto, "flags": flags}
        parts += [f"{name}={value!r}" for name, value in named.items() if value]
        query = ", ".join(parts)
        logger.debug("Get address info %s", query)
        start = self.time()
        infos = socket.getaddrinfo(host, port, family, type, proto, flags)
        duration = self.time() - start
        message = f"Getting address info {query} took {duration * 1e3:.3f}ms: {infos!r}"
        if duration >= self.slow_callback_duration:
            logger.info(message)
        else:
            logger.debug(message)
        return infos

    async def _ensure_resolved(
        self,
        address: Any,
        *,
        family: int = 0,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddressInfo]:
        # What getaddrinfo says of (host, port, ...), without a thread where host is numeric.
        host, port = address[:2]
        info = numeric_info(host, port, family, type, proto, *address[2:])
        if info is not None:
            return [info]
        return await self.getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )


def numeric_info(
    host: Any,
    port: Any,
    family: int,
    type: int,
    proto: int,
    flowinfo: int = 0,
    scope_id: int = 0,
) -> AddressInfo | None:
    """The one entry of getaddrinfo for a numeric host and port, None where it has to be asked.

    It has to be asked for a name, a service, an address with a zone ("fe80::1%eth0") and for other
    protocols than TCP and UDP.
    """
    if host is None or proto not in (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return None
    proto = _PROTOCOLS.get(type, 0)  # type: ignore[call-overload]
    if not proto:
        return None

    if port is None or (isinstance(port, (str, bytes)) and not port):
        port = 0
    else:
        try:
            port = int(port)
        except (TypeError, ValueError):
            return None

    if isinstance(host, bytes):
        host = host.decode("idna")
    if "%" in host:
        return None

    for af in (socket.AF_INET, socket.AF_INET6) if family == socket.AF_UNSPEC else (family,):
        try:
            socket.inet_pton(af, host)
        except OSError:
            continue
        if af == socket.AF_INET6:
            return af, type, proto, "", (host, port, flowinfo, scope_id)
        return af, type, proto, "", (host, port)
    return None
