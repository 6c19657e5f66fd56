"""Many connects, half of them cancelled at any moment: no byte goes astray, nothing is left.

`OXLOOP_STRESS_CONNECTS` says how many; `make stress` takes 100,000.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket

import pytest

from ..support import LoopFactory, descriptors, hops, shut_down, skip_stock_bug, until

COUNT = int(os.environ.get("OXLOOP_STRESS_CONNECTS", "3000"))
AT_ONCE = 200
SIZE = 8
HOSTS = [f"127.0.0.{number}" for number in range(1, 9)]
"""Each has ports of its own for the connections that linger."""


class Ledger:
    """What the ends of all connections were told, and what was wrong with it."""

    def __init__(self) -> None:
        self.told: set[bytes] = set()
        self.wrong: list[str] = []
        self.served = 0


class Served(asyncio.Protocol):
    """Is told a number, once, and repeats it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.data = b""

    def connection_made(self, transport):
        self.transport = transport
        self.ledger.served += 1

    def data_received(self, data):
        self.data += data
        if len(self.data) > SIZE or self.data in self.ledger.told:
            self.ledger.wrong.append(f"a server was told {self.data!r}")
        elif len(self.data) == SIZE:
            self.ledger.told.add(self.data)
            self.transport.write(self.data)

    def connection_lost(self, exc):
        self.ledger.served -= 1


class Told:
    """The client's side: tells its number, and hears it again."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        self.ledger = ledger
        self.number = number.to_bytes(SIZE, "big")
        self.data = b""
        self.heard = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.number)

    def hear(self, data):
        self.data += data
        if not self.number.startswith(self.data):
            self.ledger.wrong.append(f"client {self.number!r} heard {self.data!r}")
        if len(self.data) >= SIZE:
            self.transport.close()

    def connection_lost(self, exc):
        if not self.heard.done():
            self.heard.set_result(self.data)


class Client(Told, asyncio.Protocol):
    def data_received(self, data):
        self.hear(data)


class BufferedClient(Told, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.buffer = bytearray(5)
        return self.buffer

    def buffer_updated(self, nbytes):
        self.hear(bytes(self.buffer[:nbytes]))


async def connect_all(ledger: Ledger, seed: int, racing: bool) -> int:
    """Connect COUNT times in batches; return how many clients were answered."""
    loop = asyncio.get_running_loop()
    chance = random.Random(seed)
    server = await loop.create_server(lambda: Served(ledger), HOSTS, 0, backlog=1000)
    places = [sock.getsockname() for sock in server.sockets]
    dead = socket.socket()
    dead.bind((HOSTS[0], 0))

    async def getaddrinfo(host, port, **options):
        addresses = [dead.getsockname(), places[port % len(places)], dead.getsockname()]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    async def visit(number):
        kind = chance.choice([Client, BufferedClient])
        client = kind(ledger, number)
        if chance.random() < 0.5:
            await loop.create_connection(lambda: client, *places[number % len(places)])
        else:
            options = {}
            if racing:
                options["happy_eyeballs_delay"] = chance.choice([0, 0.0001, 1])
            await loop.create_connection(lambda: client, "a.name", number, **options)
        return await client.heard

    loop.getaddrinfo = getaddrinfo
    listening = descriptors()
    answered = 0
    for first in range(0, COUNT, AT_ONCE):
        tasks = [
            loop.create_task(visit(number)) for number in range(first, min(COUNT, first + AT_ONCE))
        ]
        moments = [chance.randrange(12) for _ in tasks]
        for moment in range(12):
            for task, chosen in zip(tasks[::2], moments[::2]):
                if chosen == moment:
                    task.cancel()
            await hops()
        for task in tasks[1::2]:
            assert len(await task) == SIZE
            answered += 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(tasks)
        await until(lambda: ledger.served == 0 and descriptors() == listening)
    dead.close()
    server.close()
    await server.wait_closed()
    await hops(2)
    return answered


@pytest.mark.timeout(max(120, COUNT // 100))
@pytest.mark.parametrize("racing", [False, True], ids=["in_turn", "racing"])
def test_connects_cancelled_at_any_moment(loop_factory: LoopFactory, loop_spec, racing):
    skip_stock_bug(loop_spec, racing, "a cancelled race may leave a socket open")
    gc.collect()
    before = descriptors()
    loop = loop_factory()
    ledger = Ledger()
    answered = loop.run_until_complete(connect_all(ledger, 2024, racing))
    assert ledger.wrong == []
    assert answered == COUNT // 2
    assert answered <= len(ledger.told) <= COUNT
    shut_down(loop)
    gc.collect()
    assert descriptors() == before
