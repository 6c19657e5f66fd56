"""Descriptors: as many after as before, whatever state things were in when they were dropped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import warnings

import pytest

from ..support import (
    LoopFactory,
    Recorder,
    abort,
    descriptors,
    hops,
    listen,
    shut_down,
    tcp_pair,
    turns,
    until,
)


@pytest.fixture(autouse=True)
def _none_left():
    """Check the count around every test here."""
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    assert descriptors() == before


class TestLoops:
    def test_closed(self, loop_factory: LoopFactory):
        for _ in range(20):
            loop = loop_factory()
            turns(loop)
            loop.close()

    def test_never_run(self, loop_factory: LoopFactory):
        for _ in range(20):
            loop_factory().close()

    def test_dropped(self, loop_factory: LoopFactory):
        for _ in range(20):
            with pytest.warns(ResourceWarning, match="unclosed event loop"):
                loop_factory()
                gc.collect()

    def test_many_at_once(self, loop_factory: LoopFactory):
        loops = [loop_factory() for _ in range(20)]
        for loop in loops:
            turns(loop)
        for loop in loops:
            loop.close()

    def test_of_a_loop_are_not_inherited(self, loop_factory: LoopFactory):
        before = descriptors()
        loop = loop_factory()
        own = set(descriptors()) - set(before)
        assert own
        assert not any(os.get_inheritable(number) for number in own)
        loop.close()


class TestServersAndConnections:
    def test_everything_closed(self, loop_factory: LoopFactory):
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            pairs = [await loop.create_connection(Recorder, *address) for _ in range(20)]
            for transport, protocol in pairs:
                transport.close()
                await protocol.lost()
            server.close()
            await server.wait_closed()
            await hops(5)

        loop = loop_factory()
        loop.run_until_complete(main())
        shut_down(loop)

    def test_failures(self, loop_factory: LoopFactory):
        """What cannot be opened, bound, resolved or made leaves nothing behind."""

        def fail():
            raise LookupError("no protocol")

        async def main():
            loop = asyncio.get_running_loop()
            with listen() as listener:
                address = listener.getsockname()
                attempts = [
                    lambda: loop.create_server(Recorder, *address),
                    lambda: loop.create_server(Recorder, ["127.0.0.2", "127.0.0.1"], address[1]),
                    lambda: loop.create_server(Recorder, "192.0.2.1", 0),
                    lambda: loop.create_connection(Recorder, "192.0.2.1", 1, local_addr=address),
                    lambda: loop.create_connection(fail, *address),
                ]
                for _ in range(5):
                    for attempt in attempts:
                        with pytest.raises((OSError, LookupError)):
                            await attempt()
            with pytest.raises(ConnectionRefusedError):
                await loop.create_connection(Recorder, *address)

        loop = loop_factory()
        with warnings.catch_warnings():
            # Stock asyncio leaves the socket of a connection without a protocol to the collector.
            warnings.simplefilter("ignore", ResourceWarning)
            loop.run_until_complete(main())
            gc.collect()
        shut_down(loop)

    def test_sockets_of_the_caller(self, loop_factory: LoopFactory):
        async def main():
            loop = asyncio.get_running_loop()
            for _ in range(10):
                ours, theirs = tcp_pair()
                with theirs:
                    transport, protocol = await loop.create_connection(Recorder, sock=ours)
                    transport.abort()
                    await protocol.lost()
            await hops(2)

        loop = loop_factory()
        loop.run_until_complete(main())
        shut_down(loop)


LARGE = bytes(4 << 20)
"""More than the kernel takes at once."""


class Sink(Recorder):
    """Keeps no data."""

    def data_received(self, data):
        pass


class TestRandomStates:
    """A thousand connections, both ends on the loop, dropped in whatever state they are."""

    COUNT = 1000
    BATCH = 100

    @staticmethod
    async def leave_in_some_state(transport, protocol, chance):
        """Bring one connection into a random state."""
        state = chance.choice(
            ["idle", "written", "full", "paused", "half_closed", "closing", "aborted", "lost"]
        )
        if state == "written":
            transport.write(b"data")
        elif state in ("full", "closing"):
            transport.write(LARGE)
        elif state == "paused":
            transport.pause_reading()
        elif state == "half_closed":
            transport.write_eof()
        elif state == "aborted":
            transport.abort()
        elif state == "lost":
            transport.abort()
            await protocol.lost()
        if state == "closing":
            transport.close()
        await hops(chance.randrange(3))

    async def open_batch(self, loop, chance, protocols):
        """Return a server with connections in random states, and tasks that open some more.

        The protocols of all, on both ends, are in `protocols`, which may still grow.
        """

        def factory():
            protocols.append(Sink(keep_open=chance.random() < 0.5))
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for _ in range(self.BATCH):
            await loop.create_connection(factory, *address)
        await until(lambda: len(protocols) == 2 * self.BATCH)
        await until(lambda: all(protocol.transport for protocol in protocols))
        for protocol in list(protocols):
            if chance.random() < 0.7 and not protocol.transport.is_closing():
                await self.leave_in_some_state(protocol.transport, protocol, chance)
        opening = [loop.create_task(loop.create_connection(factory, *address)) for _ in range(5)]
        await hops(chance.randrange(4))
        for task in opening:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(opening)
        return server

    def test_aborted(self, loop_factory: LoopFactory):
        async def main(seed):
            protocols = []
            server = await self.open_batch(loop, random.Random(seed), protocols)
            server.close()
            while len(descriptors()) > count:
                for protocol in protocols:
                    if protocol.transport is not None:
                        abort(protocol.transport)
                await hops()
            for protocol in protocols:
                assert protocol.calls.count("connection_lost") == len(protocol.calls[:1])

        loop = loop_factory()
        count = len(descriptors())
        for seed in range(self.COUNT // self.BATCH):
            loop.run_until_complete(main(seed))
        shut_down(loop)

    @pytest.mark.parametrize("closed", [True, False], ids=["loop_closed", "loop_dropped"])
    def test_dropped_with_the_loop(self, loop_factory: LoopFactory, closed):
        before = descriptors()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for seed in range(self.COUNT // self.BATCH):
                loop = loop_factory()
                batch = self.open_batch(loop, random.Random(seed), [])
                loop.run_until_complete(batch)
                if closed:
                    loop.close()
                del loop, batch
                gc.collect()
                assert descriptors() == before
        messages = [str(each.message) for each in caught]
        assert sum(message.startswith("unclosed transport") for message in messages) > self.COUNT
        unclosed = sum(message.startswith("unclosed event loop") for message in messages)
        assert unclosed == (0 if closed else self.COUNT // self.BATCH)
