"""The ASGI application the tests serve: `python -m uvicorn app:app`, from this folder.

Only the standard library is imported, so that the server process is the server's alone. What the
tests wait for is told on stdout, in lines that start with `app:`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

ENDPOINTS: dict[tuple[str, str], Endpoint] = {}


def endpoint(kind: str, path: str) -> Callable[[Endpoint], Endpoint]:
    """Serve `path` of the scopes of `kind` ("http", "websocket") with what is decorated."""

    def register(function: Endpoint) -> Endpoint:
        ENDPOINTS[kind, path] = function
        return function

    return register


def say(*words: object) -> None:
    """Tell the test that started the server."""
    print("app:", *words, flush=True)


@functools.cache
def pattern(size: int) -> bytes:
    """Return `size` bytes that look random and are the same for server and client."""
    return random.Random(size).randbytes(size)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif (scope["type"], scope["path"]) in ENDPOINTS:
        await ENDPOINTS[scope["type"], scope["path"]](scope, receive, send)
    else:
        await respond(send, b"nothing here", status=404)


async def lifespan(receive: Receive, send: Send) -> None:
    """Tell when the server starts and when it has shut down in an orderly way."""
    for phase in "startup", "shutdown":
        message = await receive()
        assert message["type"] == f"lifespan.{phase}"
        say(phase)
        await send({"type": f"lifespan.{phase}.complete"})


async def start(send: Send, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    """Send the head of a response; without a content-length it will be chunked."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def respond(send: Send, body: bytes, *, status: int = 200) -> None:
    """Send a whole response."""
    await start(send, (b"content-length", str(len(body)).encode()), status=status)
    await send({"type": "http.response.body", "body": body})


async def body_of(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the pieces of the request's body; raise ConnectionError if the client left."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        yield message["body"]
        more = message["more_body"]


def query(scope: Scope) -> dict[str, str]:
    """Return the parameters after the `?`."""
    return dict(parse_qsl(scope["query_string"].decode()))


@endpoint("http", "/about")
async def about(scope: Scope, receive: Receive, send: Send) -> None:
    """Which loop serves, and what the server knows of the connection, in JSON."""
    kind = type(asyncio.get_running_loop())
    facts = {
        "loop": f"{kind.__module__}.{kind.__qualname__}",
        "client": scope["client"],
        "server": scope["server"],
    }
    await respond(send, json.dumps(facts).encode())


@endpoint("http", "/say")
async def repeat(scope: Scope, receive: Receive, send: Send) -> None:
    """The parameter `word`; after `turns` turns of the loop."""
    parameters = query(scope)
    for _ in range(int(parameters.get("turns", 0))):
        await asyncio.sleep(0)
    await respond(send, parameters["word"].encode())


@endpoint("http", "/digest")
async def digest(scope: Scope, receive: Receive, send: Send) -> None:
    """Size and SHA-256 of the body, which is looked at piece by piece."""
    size, sha = 0, hashlib.sha256()
    try:
        async for piece in body_of(receive):
            if not size and piece:
                say("upload began")
            size += len(piece)
            sha.update(piece)
    except ConnectionError:
        say("upload cut after", size)
    else:
        await respond(send, f"{size} {sha.hexdigest()}".encode())


@endpoint("http", "/echo")
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The body, sent back while it still comes in."""
    await start(send)
    async for piece in body_of(receive):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@endpoint("http", "/data")
async def data(scope: Scope, receive: Receive, send: Send) -> None:
    """`pattern(size)` in pieces of `piece` bytes; chunked, or with its length in advance."""
    parameters = query(scope)
    size, piece = int(parameters["size"]), int(parameters["piece"])
    chunked = parameters.get("chunked") == "yes"
    await start(send, *([] if chunked else [(b"content-length", str(size).encode())]))
    for offset in range(0, size, piece):
        body = pattern(size)[offset : offset + piece]
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@endpoint("http", "/endless")
async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """A response that goes on until the client leaves."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watcher = asyncio.create_task(left())
    await start(send)
    while not watcher.done():
        await send({"type": "http.response.body", "body": pattern(65536), "more_body": True})
        await asyncio.sleep(0)  # send() returns at once when nobody is there
    say("response cut")


@endpoint("http", "/wait")
async def wait(scope: Scope, receive: Receive, send: Send) -> None:
    """An answer that begins and does not go on: the client has to give up."""
    await start(send)
    await send({"type": "http.response.body", "body": b"wait", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    say("given up")


@endpoint("websocket", "/echo")
async def websocket_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Every message sent back; the text "close CODE REASON" makes the server close."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text is not None and text.startswith("close "):
            _, code, reason = text.split(" ", 2)
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
        elif text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
    say("websocket closed", message["code"], message.get("reason") or "")


@endpoint("websocket", "/burst")
async def websocket_burst(scope: Scope, receive: Receive, send: Send) -> None:
    """`count` messages of `size` bytes, as fast as the client takes them, then the end."""
    parameters = query(scope)
    await receive()
    await send({"type": "websocket.accept"})
    try:
        for number in range(int(parameters["count"])):
            body = number.to_bytes(4, "big") + pattern(int(parameters["size"]) - 4)
            await send({"type": "websocket.send", "bytes": body})
            await asyncio.sleep(0)  # send() alone may never give the loop its turn
        await send({"type": "websocket.close", "code": 1000})
    except OSError:  # what ASGI has for a client that left
        say("burst cut")


@endpoint("websocket", "/forbidden")
async def websocket_forbidden(scope: Scope, receive: Receive, send: Send) -> None:
    """A handshake that is turned down."""
    await receive()
    await send({"type": "websocket.close"})
