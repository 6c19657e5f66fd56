"""oxloop is for the main interpreter: any other one gets an ImportError and goes on without it."""

from __future__ import annotations

import pytest

from .support import PYTHON, child

try:
    import _interpreters  # noqa: F401  (3.13)
except ImportError:
    pytest.importorskip("_xxsubinterpreters")

KINDS = ["legacy", "isolated"]
ORDERS = ["s", "m", "sm", "ms", "sms", "ssmsm"]

WORK = """
import asyncio, gc

def work(factory):
    loop = factory()
    log = []

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            log.append(isinstance(transport, asyncio.Transport))

        def data_received(self, data):
            self.transport.write(data)

    class Client(asyncio.BufferedProtocol):
        def __init__(self):
            self.buffer = bytearray(10)
            self.done = loop.create_future()

        def get_buffer(self, sizehint):
            return self.buffer

        def buffer_updated(self, count):
            self.done.set_result(bytes(self.buffer[:count]))

    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, client = await loop.create_connection(Client, *address)
        transport.write(b"hello")
        log.append(await client.done)
        log.append(isinstance(loop.call_soon(int), asyncio.Handle))
        try:
            transport.write("text")
        except TypeError as error:
            log.append(type(error).__name__)
        loop.set_exception_handler(lambda _, context: log.append(type(context["exception"])))
        loop.call_soon(lambda: 1 / 0)
        transport.close()
        server.close()
        for _ in range(5):
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    loop.close()
    gc.collect()
    right = [True, b"hello", True, "TypeError", ZeroDivisionError]
    return "right" if log == right else repr(log)
"""

MAIN = """
import oxloop
print("main:", work(oxloop.new_event_loop), flush=True)
"""

SUB = """
for attempt in range(2):
    try:
        import oxloop
    except ImportError as error:
        print("sub:", type(error).__name__, "subinterpreters" in str(error), flush=True)
"""

WITHOUT = """
print("sub without:", work(asyncio.new_event_loop), flush=True)
"""

PROGRAM = """
import faulthandler, sys
faulthandler.enable()
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
kind, order, *codes = sys.argv[1:]
common, main, sub = codes
exec(common)

def run_sub():
    if sys.version_info >= (3, 13):
        number = interpreters.create(kind)
    else:
        number = interpreters.create(isolated=kind == "isolated")
    failed = interpreters.run_string(number, common + sub)
    if failed is not None:
        print("sub failed:", failed)
    interpreters.destroy(number)

for which in order:
    if which == "m":
        exec(main)
    else:
        run_sub()
"""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_in_the_main_one_alone(kind, order):
    """Whichever comes first, and whichever is gone by then."""
    # asyncio alone takes the process down in an isolated interpreter of 3.12.1.
    without = "" if kind == "isolated" and PYTHON == (3, 12) else WITHOUT
    with child("-c", PROGRAM, kind, order, WORK, MAIN, SUB + without) as program:
        outcome = program.finish()
    assert outcome.code == 0, f"exit code {outcome.code}\n{outcome.output}\n{outcome.errors}"
    refused = ["sub: ImportError True"] * 2 + ["sub without: right"] * bool(without)
    expected = [line for which in order for line in (["main: right"] if which == "m" else refused)]
    assert outcome.output.splitlines() == expected
