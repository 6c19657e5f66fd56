"""Checks of arguments that several sections share, with asyncio's errors and wording."""

from __future__ import annotations

import socket
import sys
from typing import Any

try:
    from ssl import SSLSocket
except ImportError:  # a Python that was built without OpenSSL
    SSLSocket = None  # type: ignore[assignment,misc]


def check_ssl_socket(sock: socket.socket) -> None:
    """TypeError for an `ssl.SSLSocket`, which does not work without blocking."""
    if SSLSocket is not None and isinstance(sock, SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


def check_stream_socket(sock: socket.socket) -> None:
    """ValueError for a socket that is no stream; any family will do."""
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A Stream Socket was expected, got {sock!r}")


def check_unix_socket(sock: socket.socket) -> None:
    """ValueError for a socket that is no Unix stream."""
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")


def check_tls_timeouts(
    ssl: Any, ssl_handshake_timeout: float | None, ssl_shutdown_timeout: float | None
) -> None:
    """ValueError for a TLS time-out without TLS."""
    if ssl:
        return
    if ssl_handshake_timeout is not None:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if ssl_shutdown_timeout is not None:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def check_since(version: tuple[int, int], function: str, argument: str, given: bool) -> None:
    """TypeError where `argument`, which asyncio has from `version` on, is given too early."""
    if given and sys.version_info < version:
        raise TypeError(f"{function}() got an unexpected keyword argument {argument!r}")
