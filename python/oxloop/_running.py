"""Running and stopping the loop (asyncio's section of that name).

The turns themselves are native (`BaseLoop._run`); this is what surrounds a run, and the end of a
loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
import weakref
from asyncio import events
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, TypeVar

from ._base import logger
from ._executors import ExecutorMixin

_T = TypeVar("_T")


class RunningMixin(ExecutorMixin):
    """`run_forever`, `run_until_complete`, `close` and what they need around a run."""

    # Asynchronous generators that were iterated on this loop and are not finished.
    _asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]]
    _asyncgens_shutdown_called = False
    # The hooks in force before the run.
    _old_agen_hooks: Any = None

    def __init__(self) -> None:
        super().__init__()
        self._asyncgens = weakref.WeakSet()

    def is_running(self) -> bool:
        """Whether the loop is inside `run_forever` or `run_until_complete`."""
        return self._thread_id is not None

    def _check_running(self) -> None:
        if self.is_running():
            raise RuntimeError("This event loop is already running")
        if events._get_running_loop() is not None:
            raise RuntimeError("Cannot run the event loop while another loop is running")

    def _run_forever_setup(self) -> None:
        self._check_closed()
        self._check_running()
        here = threading.get_ident()
        try:
            # Of two threads that have come so far one goes on.
            if not self._enter_run(here):
                raise RuntimeError("This event loop is already running")
            self._set_coroutine_origin_tracking(self.get_debug())
            self._old_agen_hooks = sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
        except BaseException:
            if self._thread_id == here:
                self._run_forever_cleanup()
            raise

    def _run_forever_cleanup(self) -> None:
        self._leave_run()
        try:
            _forget_running_loop()
        finally:
            if self._old_agen_hooks is not None:
                sys.set_asyncgen_hooks(*self._old_agen_hooks)
                self._old_agen_hooks = None
            self._set_coroutine_origin_tracking(False)

    def run_forever(self) -> None:
        """Runs until `stop` is called.

        RuntimeError if the loop is closed, or if it or another loop runs in this thread.
        """
        self._run_forever_setup()
        try:
            self._run()
        finally:
            try:
                self._run_forever_cleanup()
            except BaseException:
                # Ctrl-C comes at any moment: a loop that was left by half could not run again.
                self._run_forever_cleanup()
                raise

    def run_until_complete(self, future: Generator[Any, None, _T] | Awaitable[_T]) -> _T:
        """Runs until `future` is done and returns its result or raises its exception.

        A coroutine is wrapped in a task. RuntimeError if the loop is stopped before.
        """
        self._check_closed()
        self._check_running()
        is_new = not asyncio.isfuture(future)
        task: Any = asyncio.ensure_future(future, loop=self)  # type: ignore[arg-type]
        if is_new:
            # If it does not finish an exception says so; no message on top of that.
            task._log_destroy_pending = False
        runs = True

        def stop_when_done(future: asyncio.Future[Any]) -> None:
            # An interrupt may leave the run when this is queued: it would stop the next one.
            error = None if future.cancelled() else future.exception()
            # A KeyboardInterrupt or SystemExit has left run_forever already.
            if runs and not isinstance(error, (SystemExit, KeyboardInterrupt)):
                self.stop()

        task.add_done_callback(stop_when_done)
        try:
            self.run_forever()
        except BaseException:
            if is_new and task.done() and not task.cancelled():
                # The caller cannot reach the task: its exception counts as retrieved.
                task.exception()
            raise
        finally:
            task.remove_done_callback(stop_when_done)
            runs = False
        if not task.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        result: _T = task.result()
        return result

    def close(self) -> None:
        """Closes the loop, for good and at most once; the default executor is not waited for.

        RuntimeError while it runs.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        if self.get_debug():
            logger.debug("Close %r", self)
        self._close()
        self._release_default_executor()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self.is_closed():
            _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
            if not self.is_running():
                self.close()

    # Asynchronous generators.

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        if self._asyncgens_shutdown_called:
            warnings.warn(
                f"asynchronous generator {agen!r} was scheduled after "
                f"loop.shutdown_asyncgens() call",
                ResourceWarning,
                source=self,
            )
        self._asyncgens.add(agen)

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._asyncgens.discard(agen)
        if not self.is_closed():
            # Called by the collector, in any thread.
            self.call_soon_threadsafe(self.create_task, agen.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Closes all asynchronous generators that are still open; their errors are reported."""
        self._asyncgens_shutdown_called = True
        agens = list(self._asyncgens)
        if not agens:
            return
        self._asyncgens.clear()
        results = await asyncio.gather(*[agen.aclose() for agen in agens], return_exceptions=True)
        for agen, result in zip(agens, results):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": "an error occurred during closing of asynchronous generator "
                        f"{agen!r}",
                        "exception": result,
                        "asyncgen": agen,
                    }
                )

    # The default executor.

    if sys.version_info >= (3, 12):

        async def shutdown_default_executor(self, timeout: float | None = None) -> None:
            """Waits until the default executor's threads are gone, `timeout` seconds at most.

            Then a RuntimeWarning says so, and they are left behind.
            """
            self._executor_shutdown_called = True
            executor = self._default_executor
            if executor is None:
                return
            future = self.create_future()
            thread = threading.Thread(target=self._do_shutdown, args=(executor, future))
            thread.start()
            try:
                async with asyncio.timeout(timeout):
                    await future
            except TimeoutError:
                warnings.warn(
                    f"The executor did not finishing joining its threads within {timeout} seconds.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                executor.shutdown(wait=False)
            else:
                thread.join()

    else:

        async def shutdown_default_executor(self) -> None:
            """Waits until the default executor's threads are gone."""
            self._executor_shutdown_called = True
            executor = self._default_executor
            if executor is None:
                return
            future = self.create_future()
            thread = threading.Thread(target=self._do_shutdown, args=(executor, future))
            thread.start()
            try:
                await future
            finally:
                thread.join()

    def _do_shutdown(self, executor: Any, future: asyncio.Future[None]) -> None:
        # In a thread of its own, since it blocks.
        outcome: BaseException | None = None
        try:
            executor.shutdown(wait=True)
        except Exception as error:  # noqa: BLE001
            outcome = error
        try:
            if not self.is_closed():
                self.call_soon_threadsafe(_settle, future, outcome)
        except RuntimeError:
            # Closed meanwhile: nobody waits.
            pass


def _forget_running_loop() -> None:
    try:
        events._set_running_loop(None)
    except MemoryError:
        # Before 3.12 it makes an object. While a loop is named no other one runs in this thread, so
        # what the failed attempt has freed is tried.
        events._set_running_loop(None)


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
