"""Working with pipes (asyncio's section of that name)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from ._base import LoopBase, logger

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)


class PipeMixin(LoopBase):
    """`connect_read_pipe` and `connect_write_pipe`."""

    async def connect_read_pipe(
        self, protocol_factory: Callable[[], _ProtocolT], pipe: Any
    ) -> tuple[asyncio.ReadTransport, _ProtocolT]:
        """Reads from `pipe`, a file object of a pipe, a terminal or a socket.

        Returns the transport, which closes `pipe` in the end, and its protocol. ValueError for any
        other kind of file; then, and after an OSError, `pipe` stays the caller's.
        """
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_read_pipe_transport(pipe, protocol, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        if self.get_debug():
            logger.debug("Read pipe %r connected: (%r, %r)", pipe.fileno(), transport, protocol)
        return transport, protocol

    async def connect_write_pipe(
        self, protocol_factory: Callable[[], _ProtocolT], pipe: Any
    ) -> tuple[asyncio.WriteTransport, _ProtocolT]:
        """Writes to `pipe`, a file object of a pipe, a terminal or a socket.

        Returns the transport, which closes `pipe` in the end, and its protocol. ValueError for any
        other kind of file; then, and after an OSError, `pipe` stays the caller's.
        """
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_write_pipe_transport(pipe, protocol, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        if self.get_debug():
            logger.debug("Write pipe %r connected: (%r, %r)", pipe.fileno(), transport, protocol)
        return transport, protocol
