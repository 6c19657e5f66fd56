"""TLS: `ssl=` everywhere, and `start_tls` (asyncio's section "TLS Upgrade").

The engine is the caller's own `ssl.SSLContext`; what runs for each connection is here, what runs
for each record is native.
"""

from __future__ import annotations

import asyncio
from asyncio import constants, streams
from functools import partial
from typing import TYPE_CHECKING, Any

from ._base import LoopBase

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Mapping

    from ._oxloop import SSLProtocol, SSLProtocolTransport
else:
    try:
        import ssl
    except ImportError:  # a Python that was built without OpenSSL
        ssl = None

# asyncio has a constant of that name from 3.11 on, seconds.
_SHUTDOWN_TIMEOUT: float = getattr(constants, "SSL_SHUTDOWN_TIMEOUT", 30.0)


class TlsMixin(LoopBase):
    """`start_tls`, and what the sections on connections and servers need for `ssl=`."""

    async def start_tls(
        self,
        transport: asyncio.BaseTransport,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport | None:
        """Upgrades a connection to TLS; returns the transport that `protocol` uses from now on.

        None where this side closes the connection, before or meanwhile. What a StreamReader has
        buffered already is the first that TLS reads. TypeError for what is no SSLContext and for
        transports that cannot be upgraded; ConnectionResetError for a lost one; the handshake's
        error where it fails, which closes the connection.
        """
        if ssl is None:
            raise RuntimeError("Python ssl module is not available")
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        below: Any = transport
        if below.is_closing() and below.get_protocol() is None:
            # connection_lost is over: asyncio waits for a call that will never come.
            raise ConnectionResetError("Connection lost")

        waiter = self.create_future()
        ssl_protocol = self._make_ssl_protocol(
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            call_connection_made=False,
        )
        # Nothing may be read before connection_made.
        below.pause_reading()
        _move_buffered(protocol, ssl_protocol)
        below.set_protocol(ssl_protocol)
        calls = [
            self.call_soon(ssl_protocol.connection_made, below),
            self.call_soon(below.resume_reading),
        ]
        if getattr(below, "_read_ended", False):
            # The end of the stream was kept open. It is told once; the peer says no more.
            calls.append(self.call_soon(ssl_protocol.eof_received))
        try:
            await waiter
        except BaseException:
            below.close()
            for call in calls:
                call.cancel()
            raise
        finally:
            # It holds the exception, whose traceback leads to this frame.
            del waiter
        return ssl_protocol._app_transport

    def _make_ssl_protocol(
        self,
        app_protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        call_connection_made: bool = True,
    ) -> SSLProtocol:
        # asyncio's SSLProtocol(): its checks, then the session.
        if ssl is None:
            raise RuntimeError("stdlib ssl module not available")
        handshake = _timeout(
            "ssl_handshake_timeout", ssl_handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT
        )
        shutdown = _timeout("ssl_shutdown_timeout", ssl_shutdown_timeout, _SHUTDOWN_TIMEOUT)
        if not sslcontext:
            sslcontext = _default_context(server_side, server_hostname)
        if server_side or not server_hostname:
            server_hostname = None
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        sslobj = sslcontext.wrap_bio(
            incoming, outgoing, server_side=server_side, server_hostname=server_hostname
        )
        return self._make_native_ssl_protocol(
            app_protocol,
            sslcontext,
            (sslobj, incoming, outgoing),
            waiter,
            (handshake, shutdown),
            call_connection_made,
        )

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Mapping[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> SSLProtocolTransport:
        # A connected socket under TLS; `waiter` is done when the handshake is.
        ssl_protocol = self._make_ssl_protocol(
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        below: Any = ssl_protocol
        self._make_socket_transport(rawsock, below, extra=extra, server=server)
        transport = ssl_protocol._app_transport
        assert transport is not None
        return transport

    def _secured(
        self, sslcontext: Any, handshake_timeout: float | None, shutdown_timeout: float | None
    ) -> Callable[[asyncio.BaseProtocol], SSLProtocol]:
        # What a TLS server puts in front of the protocol of each connection.
        def secure(protocol: asyncio.BaseProtocol) -> SSLProtocol:
            # Nobody waits for the handshake: asyncio tells of a failure in debug mode only.
            waiter = self.create_future() if self.get_debug() else None
            ssl_protocol = self._make_ssl_protocol(
                protocol,
                sslcontext,
                waiter,
                server_side=True,
                ssl_handshake_timeout=handshake_timeout,
                ssl_shutdown_timeout=shutdown_timeout,
            )
            if waiter is not None:
                waiter.add_done_callback(
                    partial(self._report_handshake, protocol, ssl_protocol._app_transport)
                )
            return ssl_protocol

        return secure

    def _report_handshake(
        self,
        protocol: asyncio.BaseProtocol,
        transport: SSLProtocolTransport | None,
        waiter: asyncio.Future[None],
    ) -> None:
        if waiter.cancelled():
            return
        try:
            waiter.result()
        except BaseException as error:  # noqa: BLE001
            self.call_exception_handler(
                {
                    "message": "Error on transport creation for incoming connection",
                    "exception": error,
                    "protocol": protocol,
                    "transport": transport,
                }
            )
        finally:
            # The error's traceback leads to this frame.
            del waiter


def _timeout(name: str, seconds: float | None, default: float) -> float:
    if seconds is None:
        return default
    if seconds <= 0:
        raise ValueError(f"{name} should be a positive number, got {seconds}")
    return seconds


def _default_context(server_side: bool, server_hostname: str | None) -> Any:
    # What ssl=True means.
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context


def _move_buffered(protocol: asyncio.BaseProtocol, ssl_protocol: SSLProtocol) -> None:
    # The peer's first record may have come with the last plain text. What is no TLS makes the
    # handshake fail: nobody can pass plain text off as protected (CVE-2011-0411).
    if not isinstance(protocol, streams.StreamReaderProtocol):
        return
    reader = getattr(protocol, "_stream_reader", None)
    if reader is not None and reader._buffer:
        ssl_protocol._feed(reader._buffer)
        reader._buffer.clear()
