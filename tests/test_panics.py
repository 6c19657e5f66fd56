"""A panic of the native code leaves what was entered: contexts, the run, a handle's guard.

PyO3 makes a PanicException of a panic where Rust is called, and a panic of a PanicException that
Python code raises: so a callback that raises one stands for native code that fails.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import threading

import pytest

from .support import TIME_LIMIT, module_of, run_limited, turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


@pytest.fixture(autouse=True)
def only_oxloop(loop_spec):
    if module_of(loop_spec) != "oxloop" or os.environ.get("OXLOOP_HANDLES") == "python":
        pytest.skip("asyncio's handles are not native")


@pytest.fixture
def panic(loop):
    """Raises what a panic is to Python."""
    with pytest.raises(TypeError):
        loop.call_at(None, print)
    # Each native module that is built with PyO3 has one; an exception of another goes to the
    # exception handler.
    kinds = [kind for kind in BaseException.__subclasses__() if kind.__name__ == "PanicException"]
    loop.set_exception_handler(lambda *_: None)
    ours = [kind for kind in kinds if leaves_the_loop(loop, kind)]
    loop.set_exception_handler(None)
    assert len(ours) == 1

    def panic(*_: object) -> None:
        variable.set("inside")
        raise ours[0]("a panic for a test")

    panic.kind = ours[0]
    return panic


def leaves_the_loop(loop, kind):
    def callback():
        raise kind

    loop.call_soon(callback)
    try:
        turns(loop, 2)
    except kind:
        turns(loop, 2)  # The stop that was queued behind.
        return True
    return False


def by_call_soon(loop, panic):
    loop.call_soon(panic)


def by_call_soon_threadsafe(loop, panic):
    loop.call_soon_threadsafe(panic)


def by_call_later(loop, panic):
    loop.call_later(0, panic)


def by_a_handle_that_is_held(loop, panic):
    panic.handle = loop.call_soon(panic)


def by_own_context(loop, panic):
    panic.context = contextvars.copy_context()
    loop.call_soon(panic, context=panic.context)


def by_reader(loop, panic):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.send(b"x")

    def read():
        loop.remove_reader(ours)
        ours.close()
        theirs.close()
        panic()

    loop.add_reader(ours, read)


def by_protocol(method):
    def by(loop, panic):
        async def connect():
            protocol = type("Protocol", (asyncio.Protocol,), {})()
            ours, theirs = socket.socketpair()
            await loop.create_connection(lambda: protocol, sock=ours)
            setattr(protocol, method, panic)
            if method != "connection_lost":
                theirs.send(b"x")
            theirs.close()

        assert hasattr(asyncio.Protocol, method)
        loop.run_until_complete(connect())

    by.__name__ = f"by_{method}"
    return by


CALLERS = [
    by_call_soon,
    by_call_soon_threadsafe,
    by_call_later,
    by_a_handle_that_is_held,
    by_own_context,
    by_reader,
    by_protocol("data_received"),
    by_protocol("eof_received"),
    by_protocol("connection_lost"),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.__name__)
def test_leaves_what_was_entered(loop, panic, caller, debug):
    loop.set_debug(debug)
    with pytest.raises(panic.kind):
        caller(loop, panic)
        for _ in range(100):
            turns(loop, 1)
    # The context is left, the loop is not running, and runs again.
    assert variable.get() == "outside"
    assert not loop.is_running()
    assert loop._current_handle is None
    turns(loop, 2)
    seen = []
    loop.call_soon(lambda: seen.append(variable.get()))
    if caller is by_own_context:
        loop.call_soon(lambda: seen.append(variable.get()), context=panic.context)
    turns(loop, 2)
    assert seen == ["outside", "inside"][: len(seen)] != []


def test_of_a_thread_safe_handle_lets_waiting_threads_go_on(loop, panic):
    """On 3.14 cancelling one in another thread waits for the end of its callback."""
    started = threading.Event()

    def cancel():
        started.set()
        handle.cancel()

    thread = threading.Thread(target=cancel, daemon=True)

    def callback():
        thread.start()
        started.wait(TIME_LIMIT)
        panic()

    handle = loop.call_soon_threadsafe(callback)
    with pytest.raises(panic.kind):
        turns(loop, 2)
    turns(loop, 2)
    thread.join(TIME_LIMIT)
    assert not thread.is_alive()
    assert handle.cancelled()
    run_limited(loop, asyncio.sleep(0))
