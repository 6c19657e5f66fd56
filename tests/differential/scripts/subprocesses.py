"""Subprocesses: callbacks, their order within each pipe, states, refusals, errors, contexts.

How the end of a pipe and the exit of the process mix is nobody's promise: each has a lane.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ..trace import PLACE, Trace, case, raises

CAT = ("cat",)


class Process(asyncio.SubprocessProtocol):
    """Records every callback; `hooks` are called after the record, by the callback's name."""

    def __init__(self, trace: Trace, name: str = "process", **hooks: Callable[..., Any]) -> None:
        self.trace = trace
        self.name = name
        self.hooks = hooks
        self.calls: list[str] = []
        self.output = bytearray()
        self.transport: Any = None
        self._changed = asyncio.Event()

    def _record(self, call: str, *args: Any, lane: Any = "") -> None:
        if call == "connection_lost" and sys.version_info < (3, 12):
            # Of the last pipe, or of the exit, which comes from a thread: a matter of chance.
            PLACE.set("either")
        words = ", ".join(map(self.trace.text, args))
        self.trace(f"{self.name}.{call}({words})", lane=f"{self.name} {lane}")
        self.calls.append(call)
        self._changed.set()
        if call in self.hooks:
            self.hooks[call](*args)

    def connection_made(self, transport: Any) -> None:
        self.transport = self.trace.name(transport, f"transport of {self.name}")
        self._record("connection_made", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output += data
        self._record("pipe_data_received", fd, data, lane=fd)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._record("pipe_connection_lost", fd, exc, lane=fd)

    def process_exited(self) -> None:
        self._record("process_exited", lane="exit")

    def pause_writing(self) -> None:
        self._record("pause_writing", lane=0)

    def resume_writing(self) -> None:
        self._record("resume_writing", lane=0)

    def connection_lost(self, exc: Exception | None) -> None:
        self._record("connection_lost", exc)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def lost(self) -> None:
        """Wait for the end, and close what is left."""
        await self.until(lambda: "connection_lost" in self.calls)
        self.transport.close()


async def _start(trace: Trace, *command: Any, **options: Any) -> tuple[Any, Process]:
    hooks = options.pop("hooks", {})
    process = Process(trace, **hooks)
    transport, _ = await trace.loop.subprocess_exec(lambda: process, *command, **options)
    return transport, process


@case(lanes=True)
async def a_life(trace: Trace) -> None:
    """Every callback, and the context it runs in."""
    PLACE.set("start")
    transport, process = await _start(trace, *CAT)
    PLACE.set("write")
    stdin = transport.get_pipe_transport(0)
    stdin.write(b"hello")
    await process.until(lambda: process.output == b"hello")
    PLACE.set("end")
    stdin.write_eof()
    await process.lost()
    trace("returncode", transport.get_returncode())


@case(lanes=True)
async def by_the_shell(trace: Trace) -> None:
    """subprocess_shell, and both outputs."""
    process = Process(trace)
    command = "read x; echo a; echo b >&2; exit 3"
    transport, protocol = await trace.loop.subprocess_shell(lambda: process, command)
    transport.get_pipe_transport(0).write(b"\n")
    trace("the same", protocol is process)
    await process.lost()
    trace("returncode", transport.get_returncode())


@case(lanes=True)
async def states(trace: Trace) -> None:
    """What a transport tells: at first, while it closes, at the end."""
    transport, process = await _start(trace, *CAT, stderr=None)

    def look(when: str) -> None:
        text = repr(transport).replace(f"pid={transport.get_pid()}", "pid=P")
        trace(when, text.partition(" stdin=")[0], transport.is_closing(), lane="look")
        for fd in (-1, 0, 1, 2, 3):
            pipe = transport.get_pipe_transport(fd)
            trace(f"{fd}", pipe is not None and pipe.is_closing(), lane="look")
        trace("returncode", transport.get_returncode(), lane="look")
        trace("protocol", transport.get_protocol() is process, lane="look")

    look("at first")
    popen = transport.get_extra_info("subprocess")
    trace("popen", isinstance(popen, subprocess.Popen), popen.pid == transport.get_pid())
    trace("other", transport.get_extra_info("pipe"), transport.get_extra_info("socket", 7))
    transport.close()
    look("closed")
    transport.close()
    await process.until(lambda: "connection_lost" in process.calls)
    look("lost")
    transport.close()
    for method in (transport.kill, transport.terminate):
        trace.call(method)
    trace.call(transport.send_signal, 15)


@case(lanes=True)
async def signals(trace: Trace) -> None:
    """kill, terminate, send_signal, and a second one."""
    for send in ("kill", "terminate"):
        transport, process = await _start(trace, *CAT)
        getattr(transport, send)()
        await process.lost()
        trace(send, transport.get_returncode())
    transport, process = await _start(trace, *CAT)
    transport.send_signal(1)
    await process.lost()
    trace("1", transport.get_returncode())


@case(lanes=True)
async def closing_in_callbacks(trace: Trace) -> None:
    """close() from inside of each."""
    for call in ("connection_made", "pipe_data_received", "process_exited", "connection_lost"):
        trace("in", call)
        box: list[Process] = []
        hooks = {call: lambda *_, box=box: box[0].transport.close()}
        process = Process(trace, f"closed in {call}", **hooks)
        box.append(process)
        # One that has exited, unnoticed so far, would be reaped by close().
        stays = call in ("connection_made", "pipe_data_received")
        command = "exec cat" if stays else "read x"
        transport, _ = await trace.loop.subprocess_shell(
            lambda process=process: process, command, stderr=None
        )
        if call != "connection_made":
            transport.get_pipe_transport(0).write(b"a\n")
        await process.lost()


@case(lanes=True)
async def failing_callbacks(trace: Trace) -> None:
    """What each raises reaches the exception handler; the life goes on."""
    names = "connection_made pipe_data_received pipe_connection_lost process_exited"
    for call in names.split():
        hooks = {call: raises(LookupError(call))}
        process = Process(trace, f"failing {call}", **hooks)
        transport, _ = await trace.loop.subprocess_exec(
            lambda process=process: process, *CAT, stderr=None
        )
        stdin = transport.get_pipe_transport(0)
        stdin.write(b"a")
        stdin.write_eof()
        await process.lost()


@case(lanes=True)
async def another_protocol(trace: Trace) -> None:
    """set_protocol before the data of the second half."""
    transport, first = await _start(trace, *CAT, stderr=None)
    stdin = transport.get_pipe_transport(0)
    stdin.write(b"one")
    await first.until(lambda: first.output == b"one")
    second = Process(trace, "second")
    second.transport = transport
    transport.set_protocol(second)
    trace("protocol", transport.get_protocol() is second)
    stdin.write(b"two")
    await second.until(lambda: second.output == b"two")
    stdin.close()
    await second.lost()


@case(lanes=True)
async def flow_control(trace: Trace) -> None:
    """pause_writing and resume_writing of the standard input, and their contexts."""
    PLACE.set("start")
    command = "read x; exec cat > /dev/null"
    process = Process(trace)
    transport, _ = await trace.loop.subprocess_shell(lambda: process, command, stderr=None)
    stdin = transport.get_pipe_transport(0)
    PLACE.set("write")
    stdin.write(bytes(1 << 20))
    trace("buffered", stdin.get_write_buffer_size() > 0)
    PLACE.set("release")
    stdin.write(b"\n")
    await process.until(lambda: "resume_writing" in process.calls)
    while stdin.get_write_buffer_size():
        await trace.turns()
    stdin.close()
    await process.lost()
    trace("returncode", transport.get_returncode())


@case(lanes=True)
async def killed_with_its_input_unread(trace: Trace) -> None:
    """The input's end has an error, the outputs' none."""
    transport, process = await _start(trace, "sleep", "1000")
    transport.get_pipe_transport(0).write(bytes(1 << 20))
    transport.kill()
    await process.lost()
    trace("returncode", transport.get_returncode())


@case
async def refused_arguments(trace: Trace) -> None:
    """Texts and order of the refusals."""
    exec_, shell = trace.loop.subprocess_exec, trace.loop.subprocess_shell
    factory = trace.callback("factory")
    given: dict[str, Any] = {
        "universal_newlines": True,
        "shell": True,
        "bufsize": 1,
        "text": True,
        "encoding": "",
        "errors": "",
    }
    for name, value in given.items():
        trace("only", name)
        if name != "shell":
            await trace.wait("shell", shell(factory, "true", **{name: value}))
        await trace.wait("exec", exec_(factory, "true", **{name: value}))
    while given:
        await trace.wait("all of these", exec_(factory, "true", **given))
        del given[next(iter(given))]
        if len(given) == 1:
            break
    await trace.wait("not shell", shell(factory, "true", shell=False))
    await trace.wait("no string", shell(factory, ["true"]))
    await trace.wait("no string, text", shell(factory, 1, text=True))


@case
async def failing_starts(trace: Trace) -> None:
    """What Popen raises comes through, after the factory was called."""
    factory = trace.callback("factory", lambda: asyncio.SubprocessProtocol())
    start = trace.loop.subprocess_exec
    await trace.wait("no file", start(factory, "/no/such/program"))
    await trace.wait("a folder", start(factory, "/"))
    await trace.wait("no cwd", start(factory, "true", cwd="/no/such/folder"))
    await trace.wait("null", start(factory, "a\0b"))
    await trace.wait("int", start(factory, 1))
    await trace.wait("keyword", start(factory, "true", nonsense=1))
    await trace.wait("env", start(factory, "true", env={"A=B": ""}))
    await trace.wait("factory", start(raises(LookupError("factory")), "true"))


@case
async def streams(trace: Trace) -> None:
    """asyncio.create_subprocess_exec, communicate, wait."""
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec("sort", stdin=pipe, stdout=pipe)
    await trace.wait("communicate", process.communicate(b"b\na\n"))
    trace("returncode", process.returncode)
    await trace.wait("again", process.wait())
    process = await asyncio.create_subprocess_shell("exit 7")
    await trace.wait("wait", process.wait())
    process = await asyncio.create_subprocess_exec("true", stdin=pipe, stdout=pipe)
    await trace.wait("nobody reads", process.communicate(bytes(1 << 20)))
    process = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
    await trace.wait("drain", _feed(process, b"x" * 300_000))
    await trace.wait("read", process.stdout.readexactly(300_000))  # type: ignore[union-attr]
    process.terminate()
    await trace.wait("terminated", process.wait())


async def _feed(process: Any, data: bytes) -> None:
    process.stdin.write(data[:1000])
    await process.stdin.drain()
    process.stdin.write(data[1000:])


@case(lanes=True)
async def streams_of_its_own(trace: Trace) -> None:
    """Files and DEVNULL for streams: no transports, no callbacks."""
    reader, writer = os.pipe()
    transport, process = await _start(
        trace, "echo", "a", stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.STDOUT
    )
    os.close(writer)
    for fd in range(3):
        trace("pipe", transport.get_pipe_transport(fd))
    await process.lost()
    trace("read", os.read(reader, 10))
    os.close(reader)
