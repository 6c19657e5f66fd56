"""A process that may not have more memory: the caller or the connection hears of it, and the loop
goes on."""

from __future__ import annotations

from textwrap import dedent

import pytest

from ..certificates import HOST, write_files
from ..support import module_of, run_script

ROOM = 60 << 20
"""So many bytes a process may have beside what it has."""

PRELUDE = """
import contextlib, gc, resource, socket, ssl

def limit():
    gc.collect()
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))

def unlimit():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

class Protocol(asyncio.Protocol):
    lost = None
    def connection_made(self, transport):
        self.transport = transport
    def connection_lost(self, exc):
        self.lost = type(exc).__name__
    pauses = 0
    def pause_writing(self):
        self.pauses += 1

told = []
loop = new_event_loop()
loop.set_exception_handler(lambda _, context: told.append(type(context.get("exception"))))
ours, theirs = socket.socketpair()
theirs.setblocking(False)
big = bytearray(4 * ROOM)
raised = None

async def stream():
    return await loop.create_connection(Protocol, sock=ours)

async def read_all():
    # The far end reads until it has had all that was taken, or the end.
    size = 0
    while not transport.is_closing() and transport.get_write_buffer_size() > 0 or size == 0:
        try:
            size += len(theirs.recv(1 << 16))
        except BlockingIOError:
            await asyncio.sleep(0.001)
    with contextlib.suppress(BlockingIOError):
        while data := theirs.recv(1 << 20):
            size += len(data)
    return size
"""

EPILOGUE = """
async def go_on():
    await asyncio.sleep(0.001)
    return "slept"

# The handling of the error needs some, too.
spare = bytearray(4 << 20)
limit()
try:
    work()
except MemoryError:
    spare = None
    raised = "MemoryError"
spare = None
unlimit()
big = None
print_state()
say(raised, set(told) <= {MemoryError}, loop.run_until_complete(go_on()))
"""

SCHEDULING = {
    "call_soon": "loop.call_soon(int)",
    "call_soon_threadsafe": "loop.call_soon_threadsafe(int)",
    "call_soon with arguments": "loop.call_soon(max, 1, 2)",
    "call_later": "loop.call_later(1000, int)",
    "call_at": "loop.call_at(1e12, int)",
    "create_future": "kept.append(loop.create_future())",
}


def limited(body: str, spec: str) -> list[str]:
    """What the program says when it has run under the limit."""
    program = f"ROOM = {ROOM}\n{PRELUDE}\n{dedent(body)}\n{EPILOGUE}"
    outcome = run_script(program, spec)
    return outcome.output.split()


@pytest.mark.parametrize("name", SCHEDULING)
def test_scheduling(loop_spec, name):
    body = f"""
        kept = []
        def work():
            for _ in range(10_000_000):
                {SCHEDULING[name]}
        def print_state():
            kept.clear()
    """
    assert limited(body, loop_spec) == ["MemoryError", "True", "slept"]


WRITES = {
    "one bytearray": "transport.write(big)",
    "one in a list": "transport.writelines([b'abc', big])",
    "many": "[transport.write(bytearray(1 << 20)) for _ in range(400)]",
    "many lists": "[transport.writelines([bytearray(1 << 20)] * 2) for _ in range(400)]",
}


@pytest.mark.parametrize("name", WRITES)
def test_writing(loop_spec, name):
    """What was taken arrives, once, and the connection stays as it was."""
    if module_of(loop_spec) == "asyncio":
        pytest.skip("asyncio keeps references to what is written, or fails with half of it sent")
    body = f"""
        transport, protocol = loop.run_until_complete(stream())
        transport.pause_reading()
        taken = 0
        write, writelines = transport.write, transport.writelines
        class Counting:
            def write(self, data):
                global taken
                write(data)
                taken += len(data)
            def writelines(self, lines):
                global taken
                writelines(lines)
                taken += sum(map(len, lines))
        real, transport = transport, Counting()
        def work():
            {WRITES[name]}
        def print_state():
            global transport
            transport = real
            waiting = transport.get_write_buffer_size()
            assert (protocol.pauses == 1) == (waiting > 64 * 1024), (protocol.pauses, waiting)
            if taken:
                assert loop.run_until_complete(read_all()) == taken
            assert protocol.lost is None and not transport.is_closing()
            transport.write(b"again")
            loop.run_until_complete(asyncio.sleep(0))
            assert theirs.recv(100) == b"again"
            transport.abort()
    """
    assert limited(body, loop_spec) == ["MemoryError", "True", "slept"]


TLS = {
    "one bytes": "transport.write(bytes(big))",
    "one bytearray": "transport.write(big)",
    "many": "[transport.write(bytes(1 << 20)) for _ in range(400)]",
}


@pytest.mark.parametrize("name", TLS)
def test_tls(loop_spec, name, folder):
    """The connection ends with the MemoryError: records that are lost cannot be sent again."""
    if module_of(loop_spec) == "asyncio":
        pytest.skip("asyncio is left with a part of a record sent")
    certificate, key, authority = map(str, write_files(folder))
    body = f"""
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain({certificate!r}, {key!r})
        client = ssl.create_default_context(cafile={authority!r})
        async def both():
            return await asyncio.gather(
                loop.create_connection(Protocol, sock=ours, ssl=client, server_hostname={HOST!r}),
                loop.connect_accepted_socket(Protocol, theirs, ssl=server),
            )
        (transport, protocol), (far, _) = loop.run_until_complete(both())
        far.pause_reading()
        def work():
            global raised
            {TLS[name]}
            loop.run_until_complete(asyncio.sleep(0))
            raised = protocol.lost
        def print_state():
            far.abort()
            transport.abort()
    """
    assert limited(body, loop_spec) == ["MemoryError", "True", "slept"]


def test_datagrams(loop_spec, folder):
    path = str(folder / "socket")
    body = f"""
        theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        theirs.bind({path!r})
        made = loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, family=socket.AF_UNIX, remote_addr={path!r}
        )
        transport, _ = loop.run_until_complete(made)
        def work():
            for _ in range(100_000):
                transport.sendto(bytes(50_000))
        def print_state():
            transport.abort()
    """
    assert limited(body, loop_spec) == ["MemoryError", "True", "slept"]


def test_pipes(loop_spec):
    body = """
        reading, writing = os.pipe()
        made = loop.connect_write_pipe(Protocol, open(writing, "wb", 0))
        transport, _ = loop.run_until_complete(made)
        def work():
            for _ in range(400):
                transport.write(bytearray(1 << 20))
        def print_state():
            transport.abort()
            os.close(reading)
    """
    assert limited(body, loop_spec) == ["MemoryError", "True", "slept"]
