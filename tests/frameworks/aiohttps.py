"""An aiohttp server on the running loop, and the handlers that its tests share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web

from tests.support import TIME_LIMIT

from .app import pattern

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MB = 1024 * 1024
PATIENT = ClientTimeout(total=TIME_LIMIT)


@asynccontextmanager
async def serving(*handlers: Handler, **options: Any) -> AsyncIterator[str]:
    """Serve `handlers`, each under its name, for the time of the block; yield the URL."""
    async with running(*handlers, **options) as runner:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield url_of(runner)


@asynccontextmanager
async def running(*handlers: Handler, **options: Any) -> AsyncIterator[web.AppRunner]:
    """Set up a runner of `handlers` that serves nowhere yet; clean it up behind the block."""
    app = web.Application(client_max_size=64 * MB)
    app.add_routes([web.route("*", f"/{handler.__name__}", handler) for handler in handlers])
    runner = web.AppRunner(app, access_log=None, **options)
    await runner.setup()
    try:
        yield runner
    finally:
        await runner.cleanup()


def url_of(runner: web.AppRunner) -> str:
    """Return where the first site of `runner` is."""
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


def idle_connection(client: ClientSession) -> Any:
    """Return the protocol of the only connection that `client` keeps."""
    assert client.connector is not None
    ((connection,),) = client.connector._conns.values()
    return connection[0]


async def closed(protocol: Any) -> None:
    """Wait until a connection of a client is lost."""
    future = protocol.closed
    if future is not None:  # not lost yet
        await future


def digest_of(data: bytes) -> str:
    """Return what the handler `digest` answers for `data`."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield `data` in pieces of `size` bytes, each in a turn of its own: a chunked upload."""
    for offset in range(0, len(data), size):
        yield data[offset : offset + size]
        await asyncio.sleep(0)


async def say(request: web.Request) -> web.Response:
    """The parameter `word`; after `turns` turns of the loop."""
    for _ in range(int(request.query.get("turns", 0))):
        await asyncio.sleep(0)
    return web.Response(text=request.query["word"])


async def peer(request: web.Request) -> web.Response:
    """The address of the client's end of the connection."""
    assert request.transport is not None
    return web.json_response(request.transport.get_extra_info("peername"))


async def digest(request: web.Request) -> web.Response:
    """Size and SHA-256 of the body, which is looked at piece by piece."""
    size, sha = 0, hashlib.sha256()
    async for piece in request.content.iter_any():
        size += len(piece)
        sha.update(piece)
    return web.Response(text=f"{size} {sha.hexdigest()}")


async def data(request: web.Request) -> web.StreamResponse:
    """`pattern(size)`: at once, or in pieces of `piece` bytes, chunked without `length=yes`."""
    size, piece = int(request.query["size"]), int(request.query.get("piece", 0))
    if not piece:
        return web.Response(body=pattern(size))
    response = web.StreamResponse()
    if request.query.get("length") == "yes":
        response.content_length = size
    else:
        response.enable_chunked_encoding()
    await response.prepare(request)
    for offset in range(0, size, piece):
        await response.write(pattern(size)[offset : offset + piece])
    await response.write_eof()
    return response


async def echo(request: web.Request) -> web.StreamResponse:
    """The body, sent back while it still comes in."""
    response = web.StreamResponse()
    await response.prepare(request)
    async for piece in request.content.iter_any():
        await response.write(piece)
    return response
