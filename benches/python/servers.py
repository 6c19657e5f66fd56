"""The servers whose event loop is measured: `servers.py MODE MODULE`.

Prints the port of 127.0.0.1 it listens on, and serves until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from loops import new_event_loop

HOST = "127.0.0.1"
BACKLOG = 1024
BODY = b"Hello, world!"


class Echo(asyncio.Protocol):
    """Writes back what it receives."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Http(asyncio.Protocol):
    """The least that answers HTTP/1.1 requests, parsed by httptools."""

    ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        from httptools import HttpRequestParser

        self.transport: Any = transport
        self.parser = HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(self.ANSWER)
        if not self.parser.should_keep_alive():
            self.transport.close()


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The ASGI application behind uvicorn."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


async def stream_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo by streams, for one connection."""
    try:
        while data := await reader.read(256 * 1024):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # the client ends by closing all its connections at once
    finally:
        writer.close()


async def serve_uvicorn() -> None:
    """Serve `application` by uvicorn on the running loop."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(self.servers[0])

    config = uvicorn.Config(
        application,
        host=HOST,
        port=0,
        loop="none",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=BACKLOG,
    )
    await Server(config).serve()


async def serve(mode: str) -> None:
    """Serve until the process is killed."""
    loop = asyncio.get_running_loop()
    if mode == "uvicorn":
        await serve_uvicorn()
    elif mode == "streams":
        announce(await asyncio.start_server(stream_echo, HOST, 0, backlog=BACKLOG))
    else:
        protocol = {"echo": Echo, "httptools": Http}[mode]
        announce(await loop.create_server(protocol, HOST, 0, backlog=BACKLOG))
    await loop.create_future()


def announce(server: Any) -> None:
    """Tell the benchmark where to connect."""
    print(server.sockets[0].getsockname()[1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["echo", "streams", "httptools", "uvicorn"])
    parser.add_argument("module", help="whose new_event_loop makes the loop")
    arguments = parser.parse_args()
    new_event_loop(arguments.module).run_until_complete(serve(arguments.mode))


if __name__ == "__main__":
    main()
