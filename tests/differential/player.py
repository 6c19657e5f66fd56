"""Plays a generated script: a list of operations on ends of several kinds, in steps.

A script is plain data, so that one that fails can be kept:

    {"ends": [{"kind": "stream", "how": "sock"}], "steps": [[[0, "write", 10], [0, "close"]]]}

The operations of one step are done in one callback; then the loop turns until nothing happens any
more. What ends of the far side do comes first in a step: what the loop's side wrote in the same
callback may not be sent before the turn ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .ends import ERRORS, End, Op
from .other_ends import KINDS
from .trace import PLACE, Trace
from .wire import TIME_LIMIT, dead_address, dial, listener, silent_address

QUIET = 12
"""Turns without an event after which nothing more is expected to happen by itself."""

Script = dict[str, Any]


class Player:
    """Plays one script on the loop of `trace`. Every event recorded must be told to `happened`."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.loop = trace.loop
        self.step = 0
        self.ends: list[End] = []
        self.count = 0
        self.nested = False
        """Whether operations are being done in a callback."""
        self._handles: list[Any] = []
        self._due = 0.0
        self._base = 0.0

    def happened(self) -> None:
        """Take note of an event."""
        self.count += 1

    async def play(self, script: Script) -> None:
        """Open the ends, do the steps, close the ends."""
        PLACE.set("open")
        for number, options in enumerate(script["ends"]):
            end = KINDS[options["kind"]](self, f"e{number}", options)
            self.ends.append(end)
            for hook in options.get("hooks", ()):
                end.op_hook(*hook)
            await end.open()
            await self.settle()
            self.step += 1
        for number, ops in enumerate(script["steps"]):
            PLACE.set(f"step {number}")
            for op in ops:
                done = self.do(op)
                if inspect.isawaitable(done):
                    await done
            self._spin()
            await self.settle()
            self.step += 1
        PLACE.set("close")
        for end in self.ends:
            await end.close()
            await self.settle()
            self.step += 1

    def do(self, op: Op) -> Any:
        """Do one operation; of one that waits, return the coroutine."""
        target, name, *args = op
        if target == "loop":
            thing: Any = self
        elif target < len(self.ends):
            thing = self.ends[target]
        else:
            return None
        method = getattr(thing, f"op_{name}", None)
        return None if method is None else method(*args)

    def do_now(self, ops: list[Op]) -> None:
        """Do operations in a callback, where those that wait cannot be done."""
        outer, self.nested = self.nested, True
        try:
            for op in ops:
                done = self.do(op)
                if inspect.iscoroutine(done):
                    done.close()
        finally:
            self.nested = outer

    def replace(self, old: End, new: End) -> None:
        """Put another end into the place of one."""
        self.ends[self.ends.index(old)] = new

    async def settle(self) -> None:
        """Let the loop turn until nothing has happened for some turns."""
        idle = 0
        while idle < QUIET:
            before = self.count
            await asyncio.sleep(0)
            idle = idle + 1 if self.count == before else 0

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn until `condition()` is true."""
        deadline = time.monotonic() + TIME_LIMIT
        while not condition():
            await asyncio.sleep(0.0005)
            if time.monotonic() > deadline:
                self.trace("this does not come:", inspect.getsource(condition).strip())
                break

    def op_soon(self, do: list[Op], error: str | None) -> None:
        """call_soon of a callback that does operations and then raises."""
        self._handles.append(self.loop.call_soon(*self._callback("soon", do, error)))

    def op_threadsafe(self, do: list[Op], error: str | None) -> None:
        self._handles.append(
            self.loop.call_soon_threadsafe(*self._callback("threadsafe", do, error))
        )

    def op_later(self, milliseconds: int, do: list[Op], error: str | None) -> None:
        """A timer; all of a step are due when the step has been done."""
        self._base = self._base or self.loop.time()
        when = self._base + milliseconds / 1000
        self._due = max(self._due, when)
        callback = self._callback(f"later {milliseconds}", do, error)
        self._handles.append(self.loop.call_at(when, *callback))

    def op_cancel(self, number: int) -> None:
        """Cancel the handle made `number` ago."""
        if number < len(self._handles):
            handle = self._handles[-1 - number]
            handle.cancel()
            self.trace("cancelled", handle.cancelled(), lane="loop")

    def op_task(self, turns: int, error: str | None) -> None:
        """A task that takes some turns, and may fail; nobody looks at the result."""
        number = len(self._handles)

        async def work() -> None:
            try:
                for turn in range(turns):
                    self.trace(f"task {number} turn {turn}", lane="loop")
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.trace(f"task {number} cancelled", lane="loop")
                raise
            if error is not None:
                raise ERRORS[error]()

        self._handles.append(self.loop.create_task(work()))

    async def op_connect(self, to: str, cancel: int | None) -> None:
        """Connect to who refuses, accepts or does not answer; cancel after so many turns."""
        number = len(self._handles)
        protocol = self.trace.protocol(f"c{number}")
        making = self.loop.create_connection(lambda: protocol, *self._address(to))
        task = asyncio.ensure_future(self.trace.wait(f"c{number}: connect", making))
        self._handles.append(task)
        if to == "silent" and cancel is None:
            cancel = 3
        if cancel is not None:
            await self.trace.turns(cancel)
            task.cancel()
        await asyncio.wait([task])
        if protocol.transport is not None:
            protocol.transport.abort()

    async def op_sock_connect(self, to: str, cancel: int | None) -> None:
        """Connect a socket of the script's own, as `op_connect` does."""
        sock = self.trace.enter(socket.socket())
        sock.setblocking(False)
        await self._cancelled(
            f"sock_connect {to}",
            lambda: self.loop.sock_connect(sock, self._address(to)),
            3 if to == "silent" and cancel is None else cancel,
        )
        self.trace("peer", _peer(sock), lane="loop")

    async def op_sock_accept(self, before: bool, cancel: int | None) -> None:
        """Accept who has come `before`, or comes meanwhile; cancel after so many turns."""
        server = listener(self.trace)
        server.setblocking(False)
        address = server.getsockname()
        if before:
            dial(self.trace, address)
        accepted = await self._cancelled(
            "sock_accept",
            lambda: self.loop.sock_accept(server),
            cancel,
            None if before else lambda: dial(self.trace, address),
        )
        if accepted is not None:
            accepted[0].close()

    async def _cancelled(
        self,
        label: str,
        make: Callable[[], Awaitable[Any]],
        cancel: int | None,
        begun: Callable[[], Any] | None = None,
    ) -> Any:
        """Await `make()`; call `begun` once that has begun, cancel after `cancel` turns more."""

        async def work() -> Any:
            return await self.trace.wait(label, make(), lane="loop")

        task = asyncio.ensure_future(work())
        if begun is not None:
            await self.trace.turns(2)
            begun()
        if cancel is not None:
            await self.trace.turns(cancel)
            task.cancel()
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    def _address(self, to: str) -> Any:
        makers: dict[str, Any] = {
            "refused": lambda: dead_address(self.trace),
            "silent": lambda: silent_address(self.trace),
            "there": lambda: listener(self.trace).getsockname(),
        }
        return makers[to]()

    def _callback(self, name: str, do: list[Op], error: str | None) -> Any:
        number = len(self._handles)

        def callback(label: str) -> None:
            self.trace(label, lane="loop")
            self.do_now(do)
            if error is not None:
                raise ERRORS[error]()

        return callback, f"{name} #{number}"

    def _spin(self) -> None:
        while self._due and self.loop.time() <= self._due + 0.0011:
            pass  # all timers are due before the loop looks
        self._due = self._base = 0.0


def _peer(sock: socket.socket) -> Any:
    with contextlib.suppress(OSError):
        return sock.getpeername()
    return None
