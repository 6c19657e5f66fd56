"""create_connection over several addresses: their order, the race between them, what is left.

`sock_connect` is replaced, so that each attempt does what the script says.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from ..trace import Trace, case, raises
from ..wire import dead_address, listener

NAME = "host.invalid"
V4, V6 = socket.AF_INET, socket.AF_INET6


def _resolve_to(trace: Trace, *addresses: tuple[Any, ...], local: Any = ()) -> None:
    """Let getaddrinfo answer with `addresses`, and with `local` for the host "local"."""

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> list[Any]:
        trace("getaddrinfo", host, port, options)
        found = local if host == "local" else addresses
        return [
            (V6 if ":" in address[0] else V4, socket.SOCK_STREAM, 6, "", address)
            for address in found
        ]

    trace.loop.getaddrinfo = getaddrinfo


class Attempts:
    """Replaces the loop's sock_connect: an attempt does what `acts` says of its address."""

    def __init__(self, trace: Trace, **acts: Callable[[], Any]) -> None:
        self.trace = trace
        self.acts = acts
        self.begun: dict[str, asyncio.Event] = {}
        self.connect = trace.loop.sock_connect
        trace.loop.sock_connect = self

    async def __call__(self, sock: socket.socket, address: Any) -> Any:
        host = address[0]
        self.trace("try", host, sock.family.name, lane=host)
        self.event(host).set()
        try:
            target = await self.acts.get(_name(host), self.refuse)()
        except BaseException as exc:
            self.trace("end of", host, exc, lane=host)
            raise
        self.trace("success of", host, lane=host)
        return await self.connect(sock, target)

    def event(self, host: str) -> asyncio.Event:
        """Set once `host` is being tried."""
        return self.begun.setdefault(host, asyncio.Event())

    @staticmethod
    async def refuse() -> Any:
        raise ConnectionRefusedError(111, "refused")


def _name(host: str) -> str:
    return "a" + host.replace(".", "_").replace(":", "_")


async def _hang() -> Any:
    await asyncio.Event().wait()


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _connect(trace: Trace, **options: Any) -> Any:
    return trace.loop.create_connection(trace.callback("factory"), NAME, 80, **options)


MIXED: tuple[tuple[Any, ...], ...] = (
    ("fd00::1", 80, 0, 0),
    ("fd00::2", 80, 0, 0),
    ("fd00::3", 80, 0, 0),
    ("10.0.0.1", 80),
    ("10.0.0.2", 80),
)


@case
async def order(trace: Trace) -> None:
    """interleave= takes turns between families; with happy eyeballs it is 1 unless given."""
    options: list[dict[str, Any]] = [{}]
    options += [{"interleave": number} for number in (0, 1, 2, 3, 4, 9, -1, -2, True)]
    options += [{"happy_eyeballs_delay": 60, "interleave": number} for number in (None, 0, 2)]
    Attempts(trace)
    for each in options:
        trace("options", each)
        for addresses in (MIXED, MIXED[:1], MIXED[::-1]):
            _resolve_to(trace, *addresses)
            await trace.wait("connect", _connect(trace, **each))


@case
async def arguments_of_the_resolver(trace: Trace) -> None:
    """family, proto and flags reach getaddrinfo, for the local address as well."""
    Attempts(trace)
    for options in (
        {"family": V4},
        {"family": V6, "proto": 6},
        {"flags": socket.AI_ADDRCONFIG},
        {"family": V4, "proto": 6, "flags": socket.AI_CANONNAME},
    ):
        _resolve_to(trace, ("10.0.0.1", 80), local=[("127.0.0.1", 0)])
        await trace.wait("connect", _connect(trace, local_addr=("local", 0), **options))


@case
async def local_addresses(trace: Trace) -> None:
    """Local addresses of the family are tried in turn; errors of all are kept."""
    dead = dead_address(trace)
    other = ("fd00::1", 0, 0, 0)
    Attempts(trace)
    for local in (
        [],
        [other],
        [dead],
        [dead, ("127.0.0.1", 0)],
        [other, ("192.0.2.1", 0), dead],
        [dead, ("192.0.2.1", 0), ("127.0.0.1", 0)],
    ):
        _resolve_to(trace, ("10.0.0.1", 80), ("10.0.0.2", 80), local=local)
        await trace.wait("connect", _connect(trace, local_addr=("local", 0)))
        if sys.version_info >= (3, 12):
            both = _connect(trace, local_addr=("local", 0), all_errors=True)
            await trace.wait("connect", both)


@case
async def failures_start_the_next(trace: Trace) -> None:
    """With happy eyeballs a failure starts the next attempt at once, whatever the delay."""
    Attempts(trace)
    _resolve_to(trace, *MIXED)
    files = _files()
    await trace.wait("connect", _connect(trace, happy_eyeballs_delay=60))
    trace("files", _files() - files)


@case(lanes=True)  # 3.14 cancels the losers in any order
async def the_first_wins(trace: Trace) -> None:
    """The attempt that is slower than the delay is overtaken, and cancelled."""
    server = listener(trace)

    async def win() -> Any:
        return server.getsockname()

    Attempts(trace, a10_0_0_1=_hang, a10_0_0_2=_hang, a10_0_0_3=win)
    _resolve_to(trace, *((f"10.0.0.{number}", 80) for number in (1, 2, 3, 4)))
    files = _files()
    client = trace.protocol("client")
    connect = trace.loop.create_connection(lambda: client, NAME, 80, happy_eyeballs_delay=0.01)
    await trace.wait("connect", connect)
    trace("files", _files() - files)
    client.transport.abort()
    await client.lost()
    trace("files", _files() - files)


@case
async def an_older_one_wins(trace: Trace) -> None:
    """An attempt that was overtaken may still win."""
    server = listener(trace)
    attempts: Attempts

    async def late() -> Any:
        await attempts.event("10.0.0.2").wait()
        return server.getsockname()

    attempts = Attempts(trace, a10_0_0_1=late, a10_0_0_2=_hang)
    _resolve_to(trace, ("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80))
    files = _files()
    client = trace.protocol("client")
    connect = trace.loop.create_connection(lambda: client, NAME, 80, happy_eyeballs_delay=0.01)
    await trace.wait("connect", connect)
    trace("files", _files() - files)


@case
async def the_loser_resists(trace: Trace) -> None:
    """A loser that does not end at once is waited for."""
    server = listener(trace)

    async def resist() -> Any:
        try:
            await _hang()
        finally:
            for turn in range(3):
                trace("resists", turn)
                await asyncio.sleep(0)

    async def win() -> Any:
        return server.getsockname()

    Attempts(trace, a10_0_0_1=resist, a10_0_0_2=win)
    _resolve_to(trace, ("10.0.0.1", 80), ("10.0.0.2", 80))
    client = trace.protocol("client")
    connect = trace.loop.create_connection(lambda: client, NAME, 80, happy_eyeballs_delay=0.01)
    await trace.wait("connect", connect)


@case(lanes=True)
async def cancelled_race(trace: Trace) -> None:
    """A race that is cancelled ends all its attempts."""
    attempts = Attempts(trace, a10_0_0_1=_hang, a10_0_0_2=_hang, a10_0_0_3=_hang)
    _resolve_to(trace, *((f"10.0.0.{number}", 80) for number in (1, 2, 3)))
    for started in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        attempts.begun.clear()
        files = _files()
        delay = 60 if started == "10.0.0.1" else 0.01
        task = asyncio.ensure_future(_connect(trace, happy_eyeballs_delay=delay))
        await attempts.event(started).wait()
        task.cancel()
        await trace.wait("connect", task)
        await trace.turns(3)
        trace("files", _files() - files, len(asyncio.all_tasks()))


@case
async def cancelled_in_turn(trace: Trace) -> None:
    """Without a race: the attempt that is under way is cancelled, the next one not begun."""
    attempts = Attempts(trace, a10_0_0_2=_hang)
    _resolve_to(trace, *((f"10.0.0.{number}", 80) for number in (1, 2, 3)))
    files = _files()
    task = asyncio.ensure_future(_connect(trace))
    await attempts.event("10.0.0.2").wait()
    task.cancel()
    await trace.wait("connect", task)
    trace("files", _files() - files)


@case
async def other_errors(trace: Trace) -> None:
    """An error that is no OSError ends the connect in turn; in a race it costs its attempt."""

    async def fail() -> Any:
        raise LookupError("no address")

    Attempts(trace, a10_0_0_1=fail)
    _resolve_to(trace, ("10.0.0.1", 80), ("10.0.0.2", 80))
    files = _files()
    await trace.wait("in turn", _connect(trace))
    await trace.wait("race", _connect(trace, happy_eyeballs_delay=60))
    trace("files", _files() - files)


@case(broken=((3, 10), (3, 14)))
async def no_other_errors(trace: Trace) -> None:
    """A race without an OSError timed out (IndexError, until that was mended)."""

    async def fail() -> Any:
        raise LookupError("no address")

    Attempts(trace, a10_0_0_1=fail)
    _resolve_to(trace, ("10.0.0.1", 80))
    await trace.wait("race", _connect(trace, happy_eyeballs_delay=60))


@case
def interrupted(trace: Trace) -> None:
    """KeyboardInterrupt in an attempt leaves the run, in turn and in a race."""
    loop = trace.loop
    for delay in (None, 60):
        Attempts(trace, a10_0_0_1=raises(KeyboardInterrupt("leave")))
        _resolve_to(trace, ("10.0.0.1", 80), ("10.0.0.2", 80))
        files = _files()
        connect = trace.name(_connect(trace, happy_eyeballs_delay=delay), "connect")
        trace.call(loop.run_until_complete, connect)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(trace.turns(3))
        trace("files", _files() - files)


@case
async def keep_alive_and_others(trace: Trace) -> None:
    """create_server: keep_alive= is for 3.13; each option reaches the sockets."""
    options: list[dict[str, Any]] = [{}, {"reuse_port": True}, {"family": V4}, {"backlog": 3}]
    if sys.version_info >= (3, 13):
        options += [{"keep_alive": value} for value in (None, False, True)]
    for each in options:
        server = await trace.loop.create_server(trace.callback("factory"), "127.0.0.1", 0, **each)
        for sock in server.sockets:
            values = [
                bool(sock.getsockopt(socket.SOL_SOCKET, number))
                for number in (socket.SO_REUSEADDR, socket.SO_REUSEPORT, socket.SO_KEEPALIVE)
            ]
            trace("options", each, values)
        server.close()
        await server.wait_closed()
