"""getaddrinfo and getnameinfo, for addresses and names this machine knows without asking."""

from __future__ import annotations

import socket

from ..trace import Trace, case


@case
async def numeric(trace: Trace) -> None:
    """Numeric hosts and ports, with families, types and flags."""
    resolve = trace.loop.getaddrinfo
    await trace.wait("plain", resolve("127.0.0.1", 80))
    await trace.wait("stream", resolve("127.0.0.1", 80, type=socket.SOCK_STREAM))
    await trace.wait("text port", resolve("127.0.0.1", "80", type=socket.SOCK_STREAM))
    await trace.wait("no port", resolve("127.0.0.1", None, type=socket.SOCK_STREAM))
    await trace.wait("bytes", resolve(b"127.0.0.1", b"80", type=socket.SOCK_STREAM))
    await trace.wait("ipv6", resolve("::1", 80, type=socket.SOCK_STREAM))
    await trace.wait("no host", resolve(None, 80, type=socket.SOCK_STREAM, family=socket.AF_INET))
    await trace.wait(
        "passive",
        resolve(None, 80, type=socket.SOCK_STREAM, family=socket.AF_INET, flags=socket.AI_PASSIVE),
    )


@case
async def same_as_the_socket_module(trace: Trace) -> None:
    """The answer is the socket module's, to the types of its items."""
    for arguments in (("127.0.0.1", 80), ("localhost", 80), ("127.0.0.1", "http")):
        options = {"type": socket.SOCK_STREAM}
        answer = await trace.loop.getaddrinfo(*arguments, **options)
        trace("same", answer == socket.getaddrinfo(*arguments, **options))
        trace("types", [type(item) for item in answer[0]])


@case
async def errors(trace: Trace) -> None:
    """gaierror with its number; wrong arguments."""
    resolve = trace.loop.getaddrinfo
    await trace.wait("family", resolve("127.0.0.1", 80, family=socket.AF_INET6))
    await trace.wait("service", resolve("127.0.0.1", "no such service"))
    await trace.wait("name", resolve("no such name", 80, flags=socket.AI_NUMERICHOST))
    await trace.wait("nothing", resolve(None, None))
    for wrong in ((5, 80), ("127.0.0.1", 1.5)):
        try:
            await resolve(*wrong)
        except Exception as exc:
            trace("raised", type(exc))


@case
async def names_of_addresses(trace: Trace) -> None:
    """getnameinfo, numeric both ways, and its errors."""
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    await trace.wait("ipv4", trace.loop.getnameinfo(("127.0.0.1", 80), flags))
    await trace.wait("ipv6", trace.loop.getnameinfo(("::1", 80), flags))
    await trace.wait("service", trace.loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST))
    for wrong in (("no such name", 80), "text", ("127.0.0.1",)):
        try:
            await trace.loop.getnameinfo(wrong, flags)
        except Exception as exc:
            trace("raised", type(exc))
