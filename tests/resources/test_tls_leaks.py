"""TLS leaves nothing behind: aborted handshakes, connections that come and go, a dropped loop.

As in test_memory, each piece of work runs in a process of its own, first until all that is kept for
good is there, then three times over. Objects and descriptors are counted exactly.
"""

from __future__ import annotations

import gc
import socket
import weakref
from textwrap import dedent

import pytest

from ..certificates import client_context, server_context
from ..support import Recorder, descriptors, hops, run_script
from ..tls import TlsPeer
from .test_memory import MEASURE

SETUP = (
    MEASURE
    + """
import contextlib, ssl, struct
sys.path.insert(0, os.getcwd())
from tests.certificates import HOST, client_context, server_context

loop = new_event_loop()
ours, theirs = client_context(), server_context()

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0, ssl=theirs))
address = server.sockets[0].getsockname()
silent = socket.create_server(("127.0.0.1", 0), backlog=1000)

def hello():
    # What a client sends first.
    outgoing = ssl.MemoryBIO()
    engine = ours.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST)
    with contextlib.suppress(ssl.SSLWantReadError):
        engine.do_handshake()
    return outgoing.read()

def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()

async def settle():
    # Until the server has seen the end of all its connections.
    while len(os.listdir("/proc/self/fd")) > idle:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)

async def connect():
    return await asyncio.open_connection(*address, ssl=ours, server_hostname=HOST)

async def echo(count):
    reader, writer = await connect()
    for _ in range(count):
        writer.write(b"x" * 100)
        await reader.readexactly(100)
    writer.close()
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        await writer.wait_closed()

def counts():
    gc.collect()
    names = [type(each).__name__ for each in gc.get_objects()]
    found = {name: names.count(name) for name in ("SSLObject", "SSLSocket", "Echo", "Task")}
    found["transports"] = sum("Transport" in name for name in names)
    found["protocols"] = sum("SSLProtocol" in name for name in names)
    found["descriptors"] = len(os.listdir("/proc/self/fd"))
    return found

def work(count):
    loop.run_until_complete(main(count))
    loop.run_until_complete(settle())

loop.run_until_complete(echo(1))
idle = len(os.listdir("/proc/self/fd"))
"""
)

WORK = {
    "nothing_said": """
        async def main(count):
            for _ in range(count):
                socket.create_connection(address).close()
                await asyncio.sleep(0)
    """,
    "reset_after_hello": """
        async def main(count):
            for _ in range(count):
                sock = socket.create_connection(address)
                sock.sendall(hello())
                await asyncio.sleep(0)
                reset(sock)
    """,
    "half_a_hello": """
        async def main(count):
            for _ in range(count):
                sock = socket.create_connection(address)
                sock.sendall(hello()[:100])
                await asyncio.sleep(0)
                sock.close()
    """,
    "garbage": """
        async def main(count):
            for _ in range(count):
                sock = socket.create_connection(address)
                sock.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
                await asyncio.sleep(0)
                sock.close()
    """,
    "cancelled_clients": """
        async def main(count):
            for _ in range(count):
                task = asyncio.ensure_future(
                    loop.create_connection(
                        asyncio.Protocol, *silent.getsockname(), ssl=ours, server_hostname=HOST
                    )
                )
                peer, _ = await loop.run_in_executor(None, silent.accept)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                peer.close()
    """,
    "untrusted_servers": """
        strict = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody

        async def main(count):
            for _ in range(count):
                try:
                    await asyncio.open_connection(*address, ssl=strict, server_hostname=HOST)
                except ssl.SSLCertVerificationError:
                    pass
    """,
    "timed_out": """
        async def main(count):
            async def one():
                try:
                    await loop.create_connection(
                        asyncio.Protocol, *silent.getsockname(), ssl=ours, server_hostname=HOST,
                        ssl_handshake_timeout=0.05,
                    )
                except ConnectionAbortedError:
                    pass
            for _ in range(count // 20):
                await asyncio.gather(*(one() for _ in range(20)))
                for _ in range(20):
                    silent.accept()[0].close()
    """,
}

CONNECTIONS = {
    "echo": """
        async def main(count):
            await echo(count)
    """,
    "connections": """
        async def main(count):
            for _ in range(count // 4):
                await echo(1)
    """,
    "large": """
        async def main(count):
            reader, writer = await connect()
            for _ in range(count // 20):
                writer.write(b"x" * 200_000)
                await reader.readexactly(200_000)
            writer.close()
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await writer.wait_closed()
    """,
    "aborted": """
        async def main(count):
            for _ in range(count // 4):
                reader, writer = await connect()
                writer.write(b"x" * 10)
                writer.transport.abort()
                await asyncio.sleep(0)
    """,
}

pytestmark = pytest.mark.usefixtures("as_since_311")


def run(body: str, spec: str, count: int) -> tuple[int, int]:
    """Return by how many blocks and bytes the process grew; nothing that is counted may be left."""
    program = f"""{SETUP}
{dedent(body)}
work({count})
before = counts()
measure(work, {count})
after = counts()
assert after == before, (before, after)
server.close()
silent.close()
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""
    outcome = run_script(program, spec)
    assert outcome.code == 0, outcome.errors
    blocks, size = map(int, outcome.output.split())
    return blocks, size


@pytest.mark.parametrize("name", WORK)
def test_aborted_handshakes(loop_spec, name):
    # A thousand in all of one kind, some hundreds of the others.
    blocks, size = run(WORK[name], loop_spec, 250 if name == "reset_after_hello" else 60)
    assert blocks < 150
    assert size < 500_000


@pytest.mark.parametrize("name", CONNECTIONS)
def test_connections(loop_spec, name):
    blocks, size = run(CONNECTIONS[name], loop_spec, 120)
    assert blocks < 150
    assert size < 500_000


class TestCollected:
    async def test_after_the_end(self, tls):
        """Protocol, transport, engine and context of a connection that has ended."""
        before = descriptors()
        context = client_context()
        transport, protocol, peer = await tls.connect(None, context)
        references = [
            weakref.ref(each)
            for each in (protocol, context, transport.get_extra_info("ssl_object"))
        ]
        transport.close()
        await peer.unwrap()
        await protocol.lost()
        tls.network.forget(transport)
        peer.close()
        del transport, protocol, context, peer
        await hops(3)
        gc.collect()
        assert [reference() for reference in references] == [None] * 3
        assert set(descriptors()) <= set(before)

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    @pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
    def test_with_the_loop(self, loop_factory):
        """A loop that is closed and dropped takes its idle connections with it."""
        loop = loop_factory()
        context = server_context()
        protocol = Recorder()
        references = [weakref.ref(each) for each in (context, protocol)]

        async def main(context, protocol):
            server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=context)
            sock = socket.create_connection(server.sockets[0].getsockname(), 30)
            peer = TlsPeer(sock, client_context())
            await peer.handshake()
            await protocol.called("connection_made")
            server.close()
            return sock

        sock = loop.run_until_complete(main(context, protocol))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        sock.close()
        references.append(weakref.ref(protocol.transport))
        del loop, context, protocol, main
        gc.collect()
        assert [reference() for reference in references] == [None] * 3


def test_idle_connections(loop_spec):
    """Many at the same time, aborted on both sides, leave neither objects nor descriptors."""
    body = """
async def main(count):
    pairs = [await connect() for _ in range(count)]
    for reader, writer in pairs:
        writer.write(b"x")
        await reader.readexactly(1)
    assert counts()["SSLObject"] == 2 * count, counts()
    for _, writer in pairs:
        writer.transport.abort()
    for _, writer in pairs:
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()
"""
    blocks, size = run(body, loop_spec, 40)
    assert blocks < 150
    assert size < 1_000_000
