"""Debug mode: checks, logs, the running handle, reports and the default handler's words."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import types
from typing import Any

from ..trace import Trace, case, raises
from ..wire import pair, send


async def _coroutine_function() -> None: ...


@types.coroutine
def _generator_coroutine() -> Any:
    yield


def _outcome(schedule: Any, *args: Any) -> Any:
    try:
        schedule(*args).cancel()
    except Exception as exc:
        return exc
    return "scheduled"


@case
def checks_of_callbacks(trace: Trace) -> None:
    """What is refused as a callback, in debug mode and without."""
    loop = trace.loop
    callbacks = {
        "none": None,
        "number": 5,
        "coroutine function": _coroutine_function,
        "generator coroutine": _generator_coroutine,
        "partial": functools.partial(_coroutine_function),
        "function": len,
    }
    for debug in (False, True):
        loop.set_debug(debug)
        for name, callback in callbacks.items():
            trace(name, _outcome(loop.call_soon, callback))
            trace(name, _outcome(loop.call_soon_threadsafe, callback))
            trace(name, _outcome(loop.call_later, 1, callback))
            trace(name, _outcome(loop.call_at, 1, callback))
            if debug:
                executor = _outcome(loop.run_in_executor, None, callback)
                trace(name, executor if isinstance(executor, Exception) else "taken")
    coroutine = _coroutine_function()
    trace("coroutine", _outcome(loop.call_soon, coroutine))
    coroutine.close()


@case
async def checks_of_threads(trace: Trace) -> None:
    """Only call_soon_threadsafe is for other threads."""
    loop = trace.loop

    def work() -> None:
        trace("call_soon", _outcome(loop.call_soon, len))
        trace("call_later", _outcome(loop.call_later, 1, len))
        trace("call_at", _outcome(loop.call_at, 1, len))
        trace("threadsafe", _outcome(loop.call_soon_threadsafe, len))

    for debug in (False, True):
        loop.set_debug(debug)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


@case
def switching(trace: Trace) -> None:
    """set_debug takes any truth value."""
    loop = trace.loop
    for value in (1, 0, "yes", "", None):
        loop.set_debug(value)
        trace(f"{value!r}", bool(loop.get_debug()), bool(loop._debug))


@case
def reports(trace: Trace) -> None:
    """The keys that the exception handler gets, and whose frames the tracebacks end with."""
    loop = trace.loop

    def handler(loop: Any, context: dict[str, Any]) -> None:
        stack = context.get("source_traceback")
        raised = context["exception"].__traceback__
        while raised.tb_next is not None:
            raised = raised.tb_next
        trace("keys", sorted(context), stack and stack[-1].name, raised.tb_frame.f_code.co_name)

    def fails(*args: Any) -> None:
        raise ValueError("text")

    def schedules() -> None:
        loop.call_soon(fails, "secret")
        loop.call_soon_threadsafe(fails)
        loop.call_later(0, fails)
        loop.call_at(0, fails)

    loop.set_exception_handler(handler)
    for debug in (False, True):
        loop.set_debug(debug)
        schedules()
        loop.run_until_complete(trace.turns(2))


@case
def reprs_of_handles(trace: Trace) -> None:
    """repr, before and after a cancellation, in debug mode and without."""
    loop = trace.loop

    def callback(*args: Any) -> None: ...

    for debug in (False, True):
        loop.set_debug(debug)
        for handle in (
            loop.call_soon(callback, 1, "two"),
            loop.call_soon_threadsafe(callback),
            loop.call_later(1000, callback, "argument"),
        ):
            trace(_words(handle))
            handle.cancel()
            trace(_words(handle))


def _words(handle: Any) -> str:
    return repr(handle).replace("at 0x", "@")


@case
def the_running_handle(trace: Trace) -> None:
    """`_current_handle`, in callbacks and beside them, and its traceback in the log."""
    loop = trace.loop
    loop.set_exception_handler(None)
    for debug in (False, True):
        loop.set_debug(debug)
        handle: list[Any] = [None]
        handle[0] = loop.call_soon(lambda h=handle: trace("it", loop._current_handle is h[0]))
        report: dict[str, Any] = {"message": "a message"}
        loop.call_soon(loop.default_exception_handler, report)
        loop.run_until_complete(trace.turns())
        trace("keys", sorted(report), loop._current_handle)


@case
async def of_connections(trace: Trace) -> None:
    """What is logged of a connection's life."""
    words: list[str] = []

    class Words(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.getMessage().startswith("Executing"):
                words.append(record.getMessage())

    logger = logging.getLogger("asyncio")
    logger.addHandler(Words())
    logger.setLevel(logging.DEBUG)
    loop = trace.loop
    loop.set_debug(True)
    server = await loop.create_server(lambda: asyncio.Protocol(), "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    await trace.turns(3)
    transport.pause_reading()
    transport.resume_reading()
    transport.close()
    server.close()
    await trace.turns(5)
    logger.setLevel(logging.NOTSET)
    loop.set_debug(False)
    for word in ("is serving", "got a new connection", "connected to", "pauses", "resumes", "EOF"):
        trace(word, sum(word in text for text in words))


@case
async def errors_of_protocols(trace: Trace) -> None:
    """Debug mode adds nothing to what the handler is told of a protocol."""
    trace.loop.set_debug(True)
    near, far = pair(trace)
    client = trace.protocol("client", data_received=raises(ValueError("text")))
    await trace.connect(client, near)
    send(far, near, b"data")
    await client.lost()
    trace.loop.set_debug(False)
