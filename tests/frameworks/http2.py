"""A hypercorn on the running loop, and an HTTP/2 client that does what no other one would."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.support import TIME_LIMIT, listen

from .app import app

Address = tuple[str, int]


class Hypercorn:
    """Serves `app.py` until `stop` is called."""

    def __init__(self, **options: Any) -> None:
        listener = listen()
        self.address: Address = listener.getsockname()
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        # No idle connection may expire under a test on a busy machine.
        for name, value in {"keep_alive_timeout": TIME_LIMIT, **options}.items():
            assert hasattr(config, name)
            setattr(config, name, value)
        self._stop = asyncio.Event()
        self._serving = asyncio.create_task(serve(app, config, shutdown_trigger=self._stop.wait))

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    @property
    def stopped(self) -> bool:
        """Whether the shutdown is over."""
        return self._serving.done()

    def ask_to_stop(self) -> None:
        """Begin the shutdown."""
        self._stop.set()

    async def stop(self) -> None:
        """Shut down in an orderly way."""
        self._stop.set()
        await self._serving


@asynccontextmanager
async def hypercorn(**options: Any) -> AsyncIterator[Hypercorn]:
    """Run a server for the time of the block."""
    server = Hypercorn(**options)
    try:
        yield server
    finally:
        await server.stop()


class Stream:
    """What has come of the answer to one request."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.status: int | None = None
        self.body = bytearray()
        self.ended = False
        self.reset: int | None = None
        """The error code with which the peer has given up the stream."""


class Client:
    """HTTP/2 over a stream, by hand. Flow control is the test's unless `acknowledge` is left on."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int | None
    ) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.window = window
        self.acknowledge = True
        self.streams: dict[int, Stream] = {}
        self.order: list[int] = []
        """The streams whose data has come, piece by piece."""
        self.pongs: list[bytes] = []
        self.goaway: int | None = None
        self.closed = False
        self._change = asyncio.Condition()
        self._pings = itertools.count()
        self._receiving: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Send the preface: the server is known to speak HTTP/2."""
        if self.window is not None:
            codes = h2.settings.SettingCodes
            self.h2.local_settings = h2.settings.Settings(
                client=True, initial_values={codes.INITIAL_WINDOW_SIZE: self.window}
            )
        self.h2.initiate_connection()
        self.follow()

    def follow(self) -> None:
        """Take in what the server sends from now on."""
        self.flush()
        self._receiving = asyncio.create_task(self._receive())

    def flush(self) -> None:
        """Send what h2 has prepared."""
        self.writer.write(self.h2.data_to_send())

    async def _receive(self) -> None:
        try:
            while data := await self.reader.read(65_536):
                await self.feed(data)
        except ConnectionError:
            pass
        finally:
            async with self._change:
                self.closed = True
                self._change.notify_all()

    async def feed(self, data: bytes) -> None:
        """Take in `data`."""
        async with self._change:
            for event in self.h2.receive_data(data):
                self._handle(event)
            self._change.notify_all()
        self.flush()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            headers = {bytes(name): value for name, value in event.headers}
            self.streams[event.stream_id].status = int(headers[b":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.streams[event.stream_id].body += event.data
            self.order.append(event.stream_id)
            if self.acknowledge and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.streams[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].reset = int(event.error_code)
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs.append(bytes(event.ping_data))
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code)

    async def until(self, condition: Any) -> None:
        """Wait until `condition()` is true; it is looked at whenever something has come."""
        async with self._change:
            await self._change.wait_for(lambda: condition() or self.closed)
        assert condition(), "the connection has ended"

    def request(self, path: str, *, body: bool = False) -> Stream:
        """Send the head of a request; with `body` its data is to follow."""
        stream = Stream(self.h2.get_next_available_stream_id())
        self.streams[stream.number] = stream
        method = "POST" if body else "GET"
        headers = {":method": method, ":path": path, ":scheme": "http", ":authority": "test"}
        self.h2.send_headers(stream.number, list(headers.items()), end_stream=not body)
        self.flush()
        return stream

    async def send(self, stream: Stream, data: bytes) -> None:
        """Send the body of a request, as fast as the server's windows allow."""
        view = memoryview(data)
        while view:
            await self.until(lambda: self.h2.local_flow_control_window(stream.number) > 0)
            size = min(
                self.h2.local_flow_control_window(stream.number),
                self.h2.max_outbound_frame_size,
            )
            self.h2.send_data(stream.number, bytes(view[:size]))
            view = view[size:]
            self.flush()
            await self.writer.drain()
        self.h2.end_stream(stream.number)
        self.flush()

    async def answer(self, stream: Stream) -> bytes:
        """Return the body of a successful answer."""
        await self.until(lambda: stream.ended)
        assert stream.status == 200
        return bytes(stream.body)

    async def ping(self) -> None:
        """Wait for an answer to a ping: all that the server had sent before has come, too."""
        data = next(self._pings).to_bytes(8, "big")
        self.h2.ping(data)
        self.flush()
        await self.until(lambda: data in self.pongs)

    async def gone(self) -> None:
        """Wait until the server has closed the connection."""
        async with self._change:
            await self._change.wait_for(lambda: self.closed)

    async def close(self) -> None:
        self.writer.close()
        if self._receiving is not None:
            await self._receiving


@asynccontextmanager
async def dial(
    address: Address, *, window: int | None = None, begin: bool = True
) -> AsyncIterator[Client]:
    """Connect to `address`; `window` is what a stream may send without being asked for more."""
    client = Client(*await asyncio.open_connection(*address), window)
    if begin:
        client.begin()
    try:
        yield client
    finally:
        await client.close()
