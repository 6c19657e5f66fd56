"""What a type checker makes of the loop: for mypy and pyright (`make lint-py`), never run."""

# An expected error that is none is one.
# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oxloop
from typing_extensions import assert_type


async def number() -> int:
    return 7


def ways_in() -> None:
    assert_type(oxloop.run(number()), int)
    assert_type(oxloop.run(number(), debug=True), int)
    assert_type(oxloop.new_event_loop(), oxloop.Loop)
    assert_type(oxloop.Loop(), oxloop.Loop)
    assert_type(oxloop.EventLoop(), oxloop.Loop)
    assert_type(oxloop.install(), None)
    assert_type(oxloop.__version__, str)
    factory: Callable[[], asyncio.AbstractEventLoop] = oxloop.new_event_loop
    factory = oxloop.Loop
    factory().close()
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=oxloop.new_event_loop) as runner:
            assert_type(runner.run(number()), int)
    if sys.version_info >= (3, 12):
        assert_type(asyncio.run(number(), loop_factory=oxloop.new_event_loop), int)


def policy() -> None:
    chosen: asyncio.AbstractEventLoopPolicy = oxloop.EventLoopPolicy()
    asyncio.set_event_loop_policy(chosen)


def running(loop: oxloop.Loop, plain: asyncio.AbstractEventLoop) -> None:
    # It can be used wherever asyncio's is asked for.
    asyncio.set_event_loop(loop)
    plain = loop
    assert_type(plain.is_running(), bool)
    assert_type(loop.run_until_complete(number()), int)
    assert_type(loop.run_forever(), None)
    assert_type(loop.time(), float)
    assert_type(loop.get_debug(), bool)
    assert_type(loop.is_closed(), bool)


def scheduling(loop: oxloop.Loop) -> None:
    def callback(name: str, count: int) -> None: ...

    handle: asyncio.Handle = loop.call_soon(callback, "a", 1)
    assert_type(handle.cancelled(), bool)
    handle = loop.call_soon_threadsafe(callback, "a", 1)
    timer: asyncio.TimerHandle = loop.call_later(0.5, callback, "a", 1)
    timer = loop.call_at(loop.time() + 1, callback, "a", 1)
    assert_type(timer.when(), float)
    # The arguments are checked against the callback's.
    loop.call_soon(callback, "a")  # type: ignore[arg-type]
    loop.call_later(0.5, callback, 1, "a")  # type: ignore[arg-type]
    assert_type(loop.create_future(), "asyncio.Future[Any]")
    assert_type(loop.create_task(number()), "asyncio.Task[int]")


async def connections(loop: oxloop.Loop) -> None:
    class Echo(asyncio.Protocol): ...

    transport, protocol = await loop.create_connection(Echo, "127.0.0.1", 80)
    assert_type(transport, asyncio.Transport)
    assert_type(protocol, Echo)
    unix, protocol = await loop.create_unix_connection(Echo, "/run/echo")
    assert_type(unix, asyncio.Transport)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    plain: asyncio.AbstractServer = server
    await plain.wait_closed()
    secure = await loop.start_tls(transport, protocol, ssl_context())
    also: asyncio.Transport | None = secure
    with Path("f").open("rb") as file:
        assert_type(await loop.sendfile(also or transport, file), int)


def ssl_context() -> Any: ...


async def others(loop: oxloop.Loop) -> None:
    class Datagrams(asyncio.DatagramProtocol): ...

    class Children(asyncio.SubprocessProtocol): ...

    endpoint, protocol = await loop.create_datagram_endpoint(Datagrams)
    datagrams: asyncio.DatagramTransport = endpoint
    datagrams.sendto(b"hello")
    assert_type(protocol, Datagrams)
    child, children = await loop.subprocess_exec(Children, "true")
    process: asyncio.SubprocessTransport = child
    assert_type(process.get_pid(), int)
    assert_type(children, Children)
    assert_type(await loop.run_in_executor(None, len, "abc"), int)


class MyLoop(oxloop.Loop):
    """A subclass may override what asyncio's could."""

    def call_exception_handler(self, context: dict[str, Any]) -> None: ...
