"""Memory: what is done thousands of times leaves nothing behind.

Each piece of work runs in a process of its own, first until everything that is kept for good
(caches, free lists, arenas) is there, and then three times over: a leak shows each time. Python's
own blocks are counted exactly; the process's resident memory shows what native code keeps.
"""

from __future__ import annotations

from textwrap import dedent

import pytest

from ..support import run_script

MEASURE = """
import gc, socket

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def used():
    gc.collect()
    return sys.getallocatedblocks(), resident()

def measure(work, count):
    # Print the least growth, in blocks and resident bytes, of three times `count` rounds of work.
    work(count)
    growths = []
    for _ in range(3):
        blocks, size = used()
        work(count)
        blocks_now, size_now = used()
        growths.append((blocks_now - blocks, size_now - size))
    say(*map(min, zip(*growths)))
"""

LOOP_WORK = {
    "call_soon": """
        def work(count):
            for _ in range(count):
                loop.call_soon(int)
            loop.call_soon(loop.stop)
            loop.run_forever()
    """,
    "call_soon_cancelled": """
        def work(count):
            for _ in range(count):
                loop.call_soon(int).cancel()
            loop.call_soon(loop.stop)
            loop.run_forever()
    """,
    "call_soon_threadsafe": """
        def work(count):
            for _ in range(count):
                loop.call_soon_threadsafe(int)
            loop.call_soon(loop.stop)
            loop.run_forever()
    """,
    "call_later": """
        def work(count):
            for _ in range(count):
                loop.call_later(0, int)
            loop.call_later(0, loop.stop)
            loop.run_forever()
    """,
    "call_later_cancelled": """
        def work(count):
            for _ in range(count):
                loop.call_later(3600, int).cancel()
            loop.call_soon(loop.stop)
            loop.run_forever()
    """,
    "exceptions": """
        loop.set_exception_handler(lambda *_: None)

        def work(count):
            for _ in range(count):
                loop.call_soon(divmod, 1, 0)
            loop.call_soon(loop.stop)
            loop.run_forever()
    """,
    "tasks": """
        async def rest():
            await asyncio.sleep(0)

        async def main(count):
            for _ in range(count // 10):
                await asyncio.gather(*(rest() for _ in range(10)))

        def work(count):
            loop.run_until_complete(main(count))
    """,
}

CONNECTION_WORK = {
    "echo": """
        async def main(count):
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(count):
                writer.write(b"x" * 100)
                await reader.readexactly(100)
            writer.close()
            await writer.wait_closed()
    """,
    "large_echo": """
        async def main(count):
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(count // 100):
                writer.write(b"x" * 300_000)
                await reader.readexactly(300_000)
            writer.close()
            await writer.wait_closed()
    """,
    "connections": """
        async def main(count):
            for _ in range(count // 10):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"x")
                await reader.readexactly(1)
                writer.close()
                await writer.wait_closed()
    """,
    "refused": """
        async def main(count):
            with socket.create_server(("127.0.0.1", 0)) as closed:
                nobody = closed.getsockname()
            for _ in range(count // 10):
                try:
                    await asyncio.open_connection(*nobody)
                except ConnectionRefusedError:
                    pass
    """,
    "resets": """
        async def main(count):
            for _ in range(count // 10):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"x" * 10)
                writer.transport.abort()
            await asyncio.sleep(0.01)
    """,
    "servers": """
        async def main(count):
            for _ in range(count // 10):
                other = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
                other.close()
                await other.wait_closed()
    """,
}

ECHO = """
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
address = server.sockets[0].getsockname()

def work(count):
    loop.run_until_complete(main(count))
"""


def growth(body: str, spec: str, count: int) -> tuple[int, int]:
    """Return by how many blocks and bytes the process grew."""
    program = f"{MEASURE}\nloop = new_event_loop()\n{body}\nmeasure(work, {count})\nloop.close()\n"
    blocks, size = map(int, run_script(program, spec).output.split())
    return blocks, size


@pytest.mark.parametrize("name", LOOP_WORK)
def test_loop(loop_spec, name):
    blocks, size = growth(dedent(LOOP_WORK[name]), loop_spec, 10_000)
    assert blocks < 500
    assert size < 500_000


@pytest.mark.parametrize("name", CONNECTION_WORK)
def test_connections(loop_spec, name):
    blocks, size = growth(ECHO + dedent(CONNECTION_WORK[name]), loop_spec, 3_000)
    assert blocks < 150
    assert size < 500_000


def test_loops(loop_spec):
    """Whole loops, made and closed; resident memory of a leaked one is tens of KiB."""
    body = """
def work(count):
    for _ in range(count):
        other = new_event_loop()
        other.run_until_complete(asyncio.sleep(0))
        other.close()
"""
    blocks, size = growth(body, loop_spec, 200)
    assert blocks < 100
    assert size < 500_000
