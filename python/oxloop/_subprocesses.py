"""Subprocesses (asyncio's section "Running Subprocesses" of the event loop page).

A child is a `subprocess.Popen`, so every keyword of the running Python's is there. Its transport is
asyncio's, over this loop's pipes.
"""

from __future__ import annotations

import asyncio
import subprocess
from asyncio import unix_events
from collections.abc import Callable
from typing import Any, TypeVar

from ._base import logger
from ._children import ChildMixin
from ._pipes import PipeMixin

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

_PIPE = subprocess.PIPE

_AsyncioTransport: Any = unix_events._UnixSubprocessTransport  # type: ignore[attr-defined]


class _UnixSubprocessTransport(_AsyncioTransport):  # type: ignore[misc]
    """asyncio's own, which leaves no pipe open when connecting them is given up or fails."""

    _pipes: dict[int, Any]

    def close(self) -> None:
        """Closes the pipes and kills the child, if it still runs."""
        pipes = self._pipes
        if self._loop is not None and self._loop.is_closed():
            # They ended with the loop. Older versions would fail here, and let the child run.
            self._pipes = {}
        super().close()
        self._pipes = pipes

    async def _connect_pipes(self, waiter: asyncio.Future[None] | None) -> None:
        await super()._connect_pipes(waiter)
        is_connected = self._pending_calls is None
        if self._proc is None:
            return
        streams = self._proc.stdin, self._proc.stdout, self._proc.stderr
        if is_connected and not self._closed:
            if self._proc.pipesize <= 0:
                for stream in streams:
                    if stream is not None and not stream.closed:
                        self._loop._let_pipe_grow(stream.fileno())
            return
        for fd, stream in enumerate(streams):
            if self._pipes.get(fd) is not None:
                self._pipes[fd].pipe.close()
            elif stream is not None:
                stream.close()


class SubprocessMixin(PipeMixin, ChildMixin):
    """`subprocess_exec` and `subprocess_shell`."""

    async def subprocess_shell(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        cmd: bytes | str,
        *,
        stdin: Any = _PIPE,
        stdout: Any = _PIPE,
        stderr: Any = _PIPE,
        universal_newlines: bool = False,
        shell: bool = True,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, _ProtocolT]:
        """Runs the command line `cmd` with the shell; all else is as for `subprocess_exec`."""
        if not isinstance(cmd, (bytes, str)):
            raise ValueError("cmd must be a string")
        _refuse_text(universal_newlines, bufsize, encoding, errors, text, shell, shell_is=True)
        return await self._start_subprocess(
            f"run shell command {cmd!r}", protocol_factory, cmd, True, stdin, stdout, stderr, kwargs
        )

    async def subprocess_exec(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        program: Any,
        *args: Any,
        stdin: Any = _PIPE,
        stdout: Any = _PIPE,
        stderr: Any = _PIPE,
        universal_newlines: bool = False,
        shell: bool = False,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, _ProtocolT]:
        """Starts `program` with `args`, its standard streams connected as asked for.

        Takes every keyword of `subprocess.Popen` but for those that concern text. Returns the
        transport and its protocol, once the pipes are connected. What `Popen` raises: OSError
        when the program cannot be run; ValueError for text.
        """
        _refuse_text(universal_newlines, bufsize, encoding, errors, text, shell, shell_is=False)
        return await self._start_subprocess(
            f"execute program {program!r}",
            protocol_factory,
            (program, *args),
            False,
            stdin,
            stdout,
            stderr,
            kwargs,
        )

    async def _start_subprocess(
        self,
        action: str,
        protocol_factory: Callable[[], _ProtocolT],
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        options: dict[str, Any],
    ) -> tuple[asyncio.SubprocessTransport, _ProtocolT]:
        protocol = protocol_factory()
        debug = self._debug
        if debug:
            # No arguments: they may be secret, or long.
            logger.debug("%s", _describe(action, stdin, stdout, stderr))
        transport = await self._make_subprocess_transport(
            protocol, args, shell, stdin, stdout, stderr, 0, **options
        )
        if debug and self._debug:
            logger.info("%s: %r", action, transport)
        return transport, protocol

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.BaseProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> asyncio.SubprocessTransport:
        waiter = self.create_future()
        transport: Any = _UnixSubprocessTransport(
            self,
            protocol,
            args,
            shell,
            stdin,
            stdout,
            stderr,
            bufsize,
            waiter=waiter,
            extra=extra,
            **kwargs,
        )
        exited = self.create_future()

        def report(returncode: int) -> None:
            try:
                # Raises for a protocol without `process_exited`.
                transport._process_exited(returncode)
            finally:
                if not exited.done():
                    exited.set_result(None)

        try:
            self._watch_child(transport.get_pid(), report)
        except BaseException:
            # Not even a thread could be had. The Popen sees to the child when it is freed.
            waiter.cancel()
            transport.close()
            raise
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except GeneratorExit:
            # Nobody will resume this coroutine.
            transport.close()
            raise
        except BaseException:
            transport.close()
            await exited
            raise
        return transport  # type: ignore[no-any-return]


def _refuse_text(
    universal_newlines: Any,
    bufsize: Any,
    encoding: Any,
    errors: Any,
    text: Any,
    shell: Any,
    *,
    shell_is: bool,
) -> None:
    # asyncio's checks in asyncio's order.
    if universal_newlines:
        raise ValueError("universal_newlines must be False")
    if bool(shell) is not shell_is:
        raise ValueError(f"shell must be {shell_is}")
    if bufsize != 0:
        raise ValueError("bufsize must be 0")
    if text:
        raise ValueError("text must be False")
    if encoding is not None:
        raise ValueError("encoding must be None")
    if errors is not None:
        raise ValueError("errors must be None")


def _describe(action: str, stdin: Any, stdout: Any, stderr: Any) -> str:
    streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    if stdout is not None and stderr == subprocess.STDOUT:
        streams = {"stdin": stdin, "stdout=stderr": stdout}
    parts = [f" {name}={_name(it)}" for name, it in streams.items() if it is not None]
    return action + "".join(parts)


def _name(stream: Any) -> str:
    if stream == subprocess.PIPE:
        return "<pipe>"
    return "<stdout>" if stream == subprocess.STDOUT else repr(stream)
