"""The exception handler: setting it, what the default one logs, interrupts in it, its context."""

from __future__ import annotations

from typing import Any

from ..trace import PLACE, Trace, case, raises
from ..wire import pair, send


@case
def setting(trace: Trace) -> None:
    """set_exception_handler takes callables and None."""
    loop = trace.loop
    loop.set_exception_handler(None)
    trace.call(loop.get_exception_handler)
    handler = trace.name(lambda loop, context: None, "handler")
    trace.call(loop.set_exception_handler, handler)
    trace.call(loop.get_exception_handler)
    for wrong in (5, "text"):
        trace.call(loop.set_exception_handler, wrong)
    trace.call(loop.get_exception_handler)


@case
def default_handler(trace: Trace) -> None:
    """What the default handler logs: the message, sorted keys, the exception."""
    loop = trace.loop
    loop.set_exception_handler(None)
    trace.call(loop.call_exception_handler, {"message": "a message"})
    trace.call(loop.call_exception_handler, {"message": "a message", "zeta": 1, "alpha": "two"})
    trace.call(loop.call_exception_handler, {"message": "one", "exception": ValueError("text")})
    trace.call(loop.call_exception_handler, {})
    trace.call(loop.default_exception_handler, {"message": "called directly"})


@case
def custom_handler_defers(trace: Trace) -> None:
    """A handler may hand on to the default one."""
    loop = trace.loop

    def handler(loop: Any, context: dict[str, Any]) -> None:
        trace("handler", context)
        loop.default_exception_handler(context)

    loop.set_exception_handler(handler)
    trace.call(loop.call_exception_handler, {"message": "deferred", "exception": KeyError(1)})


@case
def failing_handlers(trace: Trace) -> None:
    """A handler that fails is logged; KeyboardInterrupt and SystemExit pass through it."""
    loop = trace.loop
    for exc in (ValueError("in the handler"), KeyboardInterrupt("text"), SystemExit(1)):
        loop.set_exception_handler(raises(exc))
        trace.call(loop.call_exception_handler, {"message": "a message"})


@case
def interrupts_from_handlers(trace: Trace) -> None:
    """A KeyboardInterrupt in the handler leaves the run in which the callback failed."""
    loop = trace.loop
    loop.set_exception_handler(raises(KeyboardInterrupt("text")))
    loop.call_soon(raises(ValueError("text")))
    loop.call_soon(trace.callback("kept"))
    trace.call(loop.run_forever)
    loop.call_soon(loop.stop)
    trace.call(loop.run_forever)


@case
def default_handler_for_callbacks(trace: Trace) -> None:
    """What is logged for a callback, a timer and a protocol that fail."""
    loop = trace.loop
    loop.set_exception_handler(None)
    near, far = pair(trace)
    client = trace.protocol("client", data_received=raises(ValueError("in the protocol")))

    def fails() -> None:
        raise KeyError("in a callback")

    async def main() -> None:
        loop.call_soon(fails)
        loop.call_later(0, fails)
        await trace.turns(2)
        await trace.connect(client, near)
        send(far, near, b"data")
        await client.lost()

    loop.run_until_complete(main())


@case
def contexts_of_handlers(trace: Trace) -> None:
    """The handler runs in the context of the callback that failed."""
    loop = trace.loop

    def fails() -> None:
        PLACE.set("where it failed")
        raise ValueError("text")

    loop.call_soon(fails)
    loop.call_soon(loop.stop)
    loop.run_forever()


@case
def exceptions_nobody_took(trace: Trace) -> None:
    """Tasks and futures report the exceptions nobody looked at."""
    loop = trace.loop

    async def fails() -> None:
        raise ValueError("text")

    async def main() -> None:
        loop.create_task(fails(), name="mine")
        await trace.turns(2)
        future = loop.create_future()
        future.set_exception(KeyError("text"))

    loop.run_until_complete(main())
