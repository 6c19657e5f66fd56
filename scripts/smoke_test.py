"""Whether an installed oxloop works at all: run it by the interpreter that has it, `python -I`.

Streams, datagrams, a child, a thread, a timer and a signal, with nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import oxloop

LIMIT = 30.0
"""Seconds after which it hangs."""


async def streams() -> None:
    """A client's line comes back from a server."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"hello\n"
        writer.close()
        await writer.wait_closed()


async def datagrams() -> None:
    """An endpoint receives what another one sends."""
    received = asyncio.get_running_loop().create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            received.set_result(data)

    loop = asyncio.get_running_loop()
    one, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    other, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=one.get_extra_info("sockname")
    )
    other.sendto(b"hello")
    assert await received == b"hello"
    one.close()
    other.close()


async def child() -> None:
    """A child's output and exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print('hello'); raise SystemExit(3)", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert (output, process.returncode) == (b"hello\n", 3)


async def others() -> None:
    """A signal, a thread, a timer."""
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, seen.set)
    signal.raise_signal(signal.SIGUSR1)
    await seen.wait()
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert await asyncio.to_thread(lambda: 7) == 7
    await asyncio.sleep(0.001)


async def main() -> None:
    assert isinstance(asyncio.get_running_loop(), oxloop.Loop)
    for check in (streams, datagrams, child, others):
        await asyncio.wait_for(check(), LIMIT)


if __name__ == "__main__":
    oxloop.run(main())
    where = Path(oxloop.__file__).parent
    print(f"oxloop {oxloop.__version__} works on Python {sys.version.split()[0]} from {where}")
