"""Accepting when the process has no descriptors left: report, wait, go on."""

from __future__ import annotations

import pytest

from .support import child, script, skip_stock_bug

BODY = """
import errno, resource, socket, struct
from asyncio import trsock

errors = []
hoard = []

class Greeter(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"welcome")
        transport.close()

def use_up_descriptors():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        while True:
            hoard.append(os.dup(0))
    except OSError as error:
        assert error.errno == errno.EMFILE

def give_back_descriptors():
    while hoard:
        os.close(hoard.pop())

async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)

async def refuse(loop):
    # A server, and a visitor it cannot accept.
    server = await loop.create_server(Greeter, "127.0.0.1", 0)
    visitor = socket.socket()
    visitor.settimeout(20)
    use_up_descriptors()
    visitor.connect(server.sockets[0].getsockname())
    await until(lambda: errors)
    return server, visitor

def receive(visitor):
    with visitor:
        data = b""
        while piece := visitor.recv(100):
            data += piece
        return data

def run(main):
    loop = new_event_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    loop.run_until_complete(main(loop))
    loop.close()
"""


def check(body: str, spec: str) -> str:
    with child(*script(BODY + body, spec)) as program:
        return program.finish().check()


def test_reports_and_recovers(loop_spec):
    output = check(
        """
async def main(loop):
    server, visitor = await refuse(loop)
    context = errors[0]
    say(sorted(context))
    say(context["message"])
    say(type(context["exception"]) is OSError, context["exception"].errno == errno.EMFILE)
    say(isinstance(context["socket"], trsock.TransportSocket))
    say(server.is_serving())
    give_back_descriptors()
    say(await loop.run_in_executor(None, receive, visitor))
    server.close()
    await server.wait_closed()
    await loop.shutdown_default_executor()

run(main)
""",
        loop_spec,
    )
    assert output.splitlines() == [
        "['exception', 'message', 'socket']",
        "socket.accept() out of system resource",
        "True True",
        "True",
        "True",
        "b'welcome'",
    ]


def test_does_not_spin_meanwhile(loop_spec):
    """The visitor still waits, yet turn after turn nothing is tried or reported again."""
    output = check(
        """
async def main(loop):
    server, visitor = await refuse(loop)
    reported = len(errors)
    for _ in range(100):
        await asyncio.sleep(0)
    say(len(errors) == reported)
    give_back_descriptors()
    say(await loop.run_in_executor(None, receive, visitor))
    server.close()
    await server.wait_closed()
    await loop.shutdown_default_executor()

run(main)
""",
        loop_spec,
    )
    assert output == "True\nb'welcome'\n"


def test_other_work_goes_on(loop_spec):
    """Timers, callbacks from threads and open connections are not held up."""
    output = check(
        """
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

async def main(loop):
    echo = await loop.create_server(Echo, "127.0.0.1", 0)
    friend = socket.create_connection(echo.sockets[0].getsockname())
    friend.settimeout(20)
    friend.send(b"before")
    await asyncio.sleep(0.001)
    await loop.run_in_executor(None, int)  # its thread has to be there before
    say(await loop.run_in_executor(None, friend.recv, 100))

    server, visitor = await refuse(loop)
    say(await asyncio.sleep(0.001, "timer"))
    friend.send(b"meanwhile")
    say(await loop.run_in_executor(None, friend.recv, 100))
    give_back_descriptors()
    say(await loop.run_in_executor(None, receive, visitor))

    friend.close()
    for each in (server, echo):
        each.close()
        await each.wait_closed()
    await loop.shutdown_default_executor()

run(main)
""",
        loop_spec,
    )
    assert output.splitlines() == ["b'before'", "timer", "b'meanwhile'", "b'welcome'"]


@pytest.mark.parametrize("last", ["server", "loop"])
def test_closed_before_the_next_attempt(loop_spec, last):
    """Nothing is left over from a server (or a loop) that is closed while it backs off."""
    skip_stock_bug(loop_spec, True, "tries to listen on the closed socket")
    output = check(
        f"""
async def main(loop):
    server, visitor = await refuse(loop)
    give_back_descriptors()
    visitor.close()
    errors.clear()
    if "{last}" == "server":
        server.close()
        await server.wait_closed()
        await asyncio.sleep(1.1)  # longer than the delay before the next attempt
    say(errors)

import warnings
warnings.simplefilter("ignore", ResourceWarning)
run(main)
""",
        loop_spec,
    )
    assert output == "[]\n"
