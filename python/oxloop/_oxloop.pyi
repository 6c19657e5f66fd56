"""The native half of oxloop: what runs for each callback or packet."""

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from typing import Any, final

from _typeshed import ReadableBuffer
from typing_extensions import Self, TypeVarTuple, Unpack, disjoint_base

from ._servers import Server

__version__: str

_Ts = TypeVarTuple("_Ts")

@final
class Handle(asyncio.Handle):
    """A scheduled call (asyncio.Handle)."""

    def cancel(self) -> None: ...
    def cancelled(self) -> bool: ...

@final
class TimerHandle(asyncio.TimerHandle):
    """A call scheduled for a time (asyncio.TimerHandle)."""

    def cancel(self) -> None: ...
    def cancelled(self) -> bool: ...
    def when(self) -> float: ...

@final
class StreamTransport(asyncio.Transport):
    """A connection: what the loop hands to `connection_made` of a streaming protocol.

    Made by the loop only. Every method is asyncio's, errors included.
    """

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...
    def get_protocol(self) -> asyncio.BaseProtocol: ...
    def is_reading(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def get_write_buffer_limits(self) -> tuple[int, int]: ...
    def write(self, data: bytes | bytearray | memoryview[Any]) -> None: ...
    def writelines(self, list_of_data: Iterable[ReadableBuffer]) -> None: ...
    def write_eof(self) -> None: ...
    def can_write_eof(self) -> bool: ...

@final
class DatagramTransport(asyncio.Transport, asyncio.DatagramTransport):
    """A datagram endpoint: what the loop hands to `connection_made` of a datagram protocol.

    Made by the loop only. Every method is asyncio's, errors included.
    """

    max_size: int
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...
    def get_protocol(self) -> asyncio.BaseProtocol: ...
    def is_reading(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def get_write_buffer_limits(self) -> tuple[int, int]: ...
    def sendto(
        self,
        data: bytes | bytearray | memoryview[Any],
        addr: tuple[Any, ...] | str | ReadableBuffer | None = None,
    ) -> None: ...

@disjoint_base
class BaseLoop:
    """The engine under `oxloop.Loop`: the ready queue, timers, the selector and its transports."""

    # The identifier of the thread that runs the loop, None while it does not run.
    _thread_id: int | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...

    # Running.
    def _run(self) -> None:
        """Runs turns until `stop`; raises what left a callback (KeyboardInterrupt, SystemExit)."""

    def stop(self) -> None: ...
    def is_closed(self) -> bool: ...
    def _close(self) -> None:
        """Releases queues, timers, selector and descriptors; `is_closed` is true from now on."""

    def _check_closed(self) -> None:
        """Raises RuntimeError on a closed loop."""

    # Scheduling.
    def time(self) -> float: ...
    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: Unpack[_Ts],
        context: Context | None = None,
    ) -> Handle: ...
    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: Unpack[_Ts],
        context: Context | None = None,
    ) -> Handle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: Unpack[_Ts],
        context: Context | None = None,
    ) -> TimerHandle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: Unpack[_Ts],
        context: Context | None = None,
    ) -> TimerHandle: ...
    def create_future(self) -> asyncio.Future[Any]: ...
    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    # Debug mode.
    def get_debug(self) -> bool: ...
    @property
    def _debug(self) -> bool: ...
    @_debug.setter
    def _debug(self, enabled: bool) -> None: ...

    # Watching descriptors. A watcher that is replaced or removed is cancelled at once, its handle
    # too, also while it runs.
    def _add_reader(
        self, fd: int, callback: Callable[[Unpack[_Ts]], object], *args: Unpack[_Ts]
    ) -> asyncio.Handle: ...
    def _remove_reader(self, fd: int) -> bool: ...
    def _add_writer(
        self, fd: int, callback: Callable[[Unpack[_Ts]], object], *args: Unpack[_Ts]
    ) -> asyncio.Handle: ...
    def _remove_writer(self, fd: int) -> bool: ...

    # Sockets: what can be done at once, and futures of when more can. A future that is given up is
    # handed back.
    @staticmethod
    def _recv_now(sock: socket.socket, n: int) -> bytes | None: ...
    @staticmethod
    def _send_now(sock: socket.socket, data: ReadableBuffer) -> int: ...
    def _wait_readable(self, fd: int) -> asyncio.Future[None]: ...
    def _wait_writable(self, fd: int) -> asyncio.Future[None]: ...
    def _readable_ended(self, fd: int, future: asyncio.Future[None]) -> None: ...
    def _writable_ended(self, fd: int, future: asyncio.Future[None]) -> None: ...

    # Transports and listening sockets.
    def _transport_of(self, fd: int) -> asyncio.BaseTransport | None:
        """The transport that owns this descriptor, None for any other number."""

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: Mapping[str, Any] | None = None,
        server: Server | None = None,
    ) -> StreamTransport:
        """Takes over a connected, non-blocking socket and schedules `connection_made`."""

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> DatagramTransport:
        """Takes over a non-blocking socket for datagrams and schedules `connection_made`."""

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        server: Server,
        backlog: int,
    ) -> None:
        """Accepts the connections of a listening socket from now on."""

    def _stop_serving(self, sock: socket.socket) -> None:
        """Stops accepting, if it did, and closes the socket; also on a closed loop."""
