"""Error handling (asyncio: "Error Handling API").

The engine reports what a callback or protocol raised through `call_exception_handler`.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from typing import Any

from ._base import logger
from ._debug import DebugMixin

_Context = dict[str, Any]
_Handler = Callable[[asyncio.AbstractEventLoop, _Context], object]


class ErrorMixin(DebugMixin):
    """The exception handler, the program's or the default one."""

    _exception_handler: _Handler | None = None

    def get_exception_handler(self) -> _Handler | None:
        """The program's exception handler, None where the default one is in force."""
        return self._exception_handler

    def set_exception_handler(self, handler: _Handler | None) -> None:
        """Makes `handler(loop, context)` hear of errors; None restores the default one."""
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: _Context) -> None:
        """Logs the error: the message, the context's other keys in order, the traceback."""
        message = context.get("message") or "Unhandled exception in event loop"
        exception = context.get("exception")
        exc_info: Any = False
        if exception is not None:
            exc_info = (type(exception), exception, exception.__traceback__)

        if "source_traceback" not in context and self._current_handle is not None:
            created_at = getattr(self._current_handle, "_source_traceback", None)
            if created_at:
                context["handle_traceback"] = created_at

        lines = [message]
        for key in sorted(context):
            if key in ("message", "exception"):
                continue
            value = context[key]
            if key == "source_traceback":
                value = _format_origin("Object", value)
            elif key == "handle_traceback":
                value = _format_origin("Handle", value)
            else:
                value = repr(value)
            lines.append(f"{key}: {value}")
        logger.error("\n".join(lines), exc_info=exc_info)

    def call_exception_handler(self, context: _Context) -> None:
        """Tells the exception handler of an error.

        The keys of `context` are asyncio's: message, exception, future, task, handle, protocol,
        transport, socket, source_traceback, handle_traceback, asyncgen. An error in the handler is
        logged; only SystemExit and KeyboardInterrupt leave this method.
        """
        handler = self._exception_handler
        try:
            if handler is None:
                self.default_exception_handler(context)
            else:
                self._run_handler(handler, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001
            if handler is None:
                logger.error("Exception in default exception handler", exc_info=True)
                return
            try:
                self.default_exception_handler(
                    {
                        "message": "Unhandled error in exception handler",
                        "exception": error,
                        "context": context,
                    }
                )
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:  # noqa: BLE001
                logger.error(
                    "Exception in default exception handler while handling an unexpected error "
                    "in custom exception handler",
                    exc_info=True,
                )

    def _run_handler(self, handler: _Handler, context: _Context) -> None:
        if sys.version_info >= (3, 12):
            # In the context of the task or handle that failed, where there is one.
            for key in ("task", "future", "handle"):
                source = context.get(key)
                if source is not None:
                    if hasattr(source, "get_context"):
                        variables = source.get_context()
                        if variables is not None and hasattr(variables, "run"):
                            variables.run(handler, self, context)
                            return
                    break
        handler(self, context)


def _format_origin(what: str, stack: Any) -> str:
    text = "".join(traceback.format_list(stack))
    return f"{what} created at (most recent call last):\n{text.rstrip()}"
