"""TLS for the tests: a far end that is in the test's hands, and connections with one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import threading
from typing import Any

from .certificates import HOST, client_context, server_context
from .support import Network, Peer, Recorder, hops, listen, tcp_pair

CHUNK = 1 << 20

WANT = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TlsPeer(Peer):
    """The far end of a TLS connection: an engine in memory over a plain blocking socket.

    `send` and `read` carry plain text, as those of `Peer` do; `wire` is the same connection without
    TLS. Whatever the engine wants to send goes out with the next thing that is sent or read.
    """

    def __init__(
        self, sock: Any, context: ssl.SSLContext, server_hostname: str | None = HOST
    ) -> None:
        super().__init__(sock)
        self.wire = Peer(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server_side = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self.engine = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_side else server_hostname,
        )
        self._lock = threading.Lock()

    def handshake_blocking(self) -> None:
        """Do the handshake, in the calling thread."""
        self._drive(self.engine.do_handshake)

    async def handshake(self) -> None:
        """Do the handshake, in a thread."""
        await asyncio.to_thread(self.handshake_blocking)

    def encrypt(self, *pieces: bytes) -> bytes:
        """Return the records that carry `pieces`, one for each, and what else is to be sent."""
        with self._lock:
            for piece in pieces:
                self.engine.write(piece)
            return self._outgoing.read()

    def flight(self) -> bytes:
        """Take one step in the handshake, and return what is to be sent."""
        with self._lock:
            with contextlib.suppress(*WANT):
                self.engine.do_handshake()
            return self._outgoing.read()

    def feed(self, data: bytes) -> None:
        """Give the engine what came over the wire."""
        self._incoming.write(data)

    def send(self, data: bytes) -> None:
        self.sock.sendall(self.encrypt(data))

    async def send_all(self, data: bytes) -> None:
        await asyncio.to_thread(self.send, data)

    def read_blocking(self, size: int) -> bytes:
        """Read up to `size` bytes, or the peer's close_notify, or the end without it."""
        data = bytearray()
        while len(data) < size and (piece := self.read_some(min(CHUNK, size - len(data)))):
            data += piece
        return bytes(data)

    def read_some(self, size: int) -> bytes:
        """Read what there is, at least a byte unless it is the end."""
        try:
            piece: bytes = self._drive(self.engine.read, size)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""
        return piece

    def close_notify(self) -> None:
        """Tell the end of the stream as TLS has it; reading goes on."""
        with self._lock:
            with contextlib.suppress(*WANT):
                self.engine.unwrap()
            data = self._outgoing.read()
        self.sock.sendall(data)

    def unwrap_blocking(self) -> None:
        """Exchange close_notify; the peer's has come when this returns."""
        self._drive(self.engine.unwrap)

    async def unwrap(self) -> None:
        """The same, in a thread."""
        await asyncio.to_thread(self.unwrap_blocking)

    def _drive(self, step: Any, *args: Any) -> Any:
        while True:
            with self._lock:
                try:
                    result = step(*args)
                    wants = False
                except WANT:
                    result, wants = None, True
                finally:
                    data = self._outgoing.read()
                    if data:
                        # A peer that has gone is found out by reading.
                        with contextlib.suppress(OSError):
                            self.sock.sendall(data)
            if not wants:
                return result
            piece = self.sock.recv(CHUNK)
            if piece:
                self._incoming.write(piece)
            else:
                self._incoming.write_eof()


class Tunnel:
    """The connection inside that of a peer, as the socket of another one."""

    def __init__(self, outside: TlsPeer) -> None:
        self.sendall = outside.send
        self.recv = outside.read_some
        self.settimeout = outside.sock.settimeout
        self.close = outside.close


class Tls:
    """Opens TLS connections for one test; `network` closes them behind it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.loop = network.loop

    async def connect(
        self,
        protocol: Any = None,
        context: ssl.SSLContext | None = None,
        peer_context: ssl.SSLContext | None = None,
        *,
        receive_buffer: int | None = None,
        **options: Any,
    ) -> tuple[Any, Any, TlsPeer]:
        """Return transport, protocol and peer of a TLS connection the loop opened."""
        connecting, protocol, wire = await self.start_connect(
            protocol, context, receive_buffer=receive_buffer, **options
        )
        peer = TlsPeer(wire.sock, peer_context or server_context())
        _, (transport, _) = await asyncio.gather(peer.handshake(), connecting)
        return transport, protocol, peer

    async def start_connect(
        self,
        protocol: Any = None,
        context: ssl.SSLContext | None = None,
        *,
        receive_buffer: int | None = None,
        **options: Any,
    ) -> tuple[asyncio.Task[Any], Any, Peer]:
        """Return a task that connects with TLS, its protocol, and a peer that has said nothing."""
        protocol = Recorder() if protocol is None else protocol
        options = {"ssl": context or client_context(), "server_hostname": HOST, **options}

        async def connect() -> Any:
            transport, _ = await self.loop.create_connection(lambda: protocol, *address, **options)
            self.network.keep(transport)
            return transport, protocol

        with listen(receive_buffer=receive_buffer) as listener:
            address = listener.getsockname()
            task = self.loop.create_task(connect())
            peer = self.network.peer((await asyncio.to_thread(listener.accept))[0])
        return task, protocol, peer

    async def accept(
        self,
        protocol: Any = None,
        context: ssl.SSLContext | None = None,
        peer_context: ssl.SSLContext | None = None,
        *,
        receive_buffer: int | None = None,
        **options: Any,
    ) -> tuple[Any, Any, TlsPeer]:
        """Return transport, protocol and peer of a TLS connection the loop accepted."""
        protocol = Recorder() if protocol is None else protocol
        server = await self.serve(lambda: protocol, context, **options)
        peer = self.dial(server, peer_context, receive_buffer=receive_buffer)
        await peer.handshake()
        await protocol.called("connection_made")
        self.network.keep(protocol.transport)
        return protocol.transport, protocol, peer

    async def serve(
        self, factory: Any = Recorder, context: ssl.SSLContext | None = None, **options: Any
    ) -> Any:
        """Return a TLS server on a free port of 127.0.0.1."""
        return await self.network.serve(factory, ssl=context or server_context(), **options)

    def dial(
        self,
        server: Any,
        context: ssl.SSLContext | None = None,
        *,
        receive_buffer: int | None = None,
    ) -> TlsPeer:
        """Return a peer connected to `server`, its handshake still to be done."""
        wire = self.network.dial(server, receive_buffer=receive_buffer)
        return TlsPeer(wire.sock, context or client_context())

    async def upgrade(
        self,
        protocol: Any = None,
        *,
        server_side: bool = False,
        context: ssl.SSLContext | None = None,
        peer_context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> tuple[Any, Any, TlsPeer]:
        """Return transport, protocol and peer of a connection that start_tls has upgraded."""
        transport, protocol, wire = await self.network.connect(protocol)
        peer = TlsPeer(wire.sock, peer_context or self.other_context(server_side))
        starting = self.start_tls(
            transport, protocol, server_side=server_side, context=context, **options
        )
        _, transport = await asyncio.gather(peer.handshake(), starting)
        return transport, protocol, peer

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        *,
        server_side: bool = False,
        context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> Any:
        """Return the transport that start_tls makes of `transport`; `protocol` is told of it."""
        if not server_side:
            options.setdefault("server_hostname", HOST)
        context = context or self.own_context(server_side)
        new = await self.loop.start_tls(
            transport, protocol, context, server_side=server_side, **options
        )
        protocol.transport = new
        self.network.keep(new)
        return new

    @staticmethod
    def own_context(server_side: bool) -> ssl.SSLContext:
        """Return a context for this side of the connection."""
        return server_context() if server_side else client_context()

    @staticmethod
    def other_context(server_side: bool) -> ssl.SSLContext:
        """Return a context for the other side."""
        return client_context() if server_side else server_context()


def count(kind: str | type) -> int:
    """Return how many objects of that type, or of a type of that name, are alive and reachable."""
    gc.collect()
    if isinstance(kind, str):
        return sum(type(each).__name__ == kind for each in gc.get_objects())
    return sum(isinstance(each, kind) for each in gc.get_objects())


__all__ = ["HOST", "Tls", "TlsPeer", "count", "hops", "tcp_pair"]
