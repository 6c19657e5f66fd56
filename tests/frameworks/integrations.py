"""What the tests of docs/integrations.md share: the document, and programs that tell their loop."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import TIME_LIMIT, child

from .programs import Program

DOCUMENT = Path(__file__).parents[2] / "docs/integrations.md"
TEXT = DOCUMENT.read_text()
OURS = "oxloop._loop.Loop"

APP = """
    import asyncio

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        loop = type(asyncio.get_running_loop())
        body = f"{loop.__module__}.{loop.__qualname__}".encode()
        length = str(len(body)).encode()
        headers = [(b"content-length", length), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
"""
"""Answers with the class of the loop that it runs on."""

WHICH = """
    async def main():
        loop = type(asyncio.get_running_loop())
        print(f"{loop.__module__}.{loop.__qualname__}")
"""


def documented(line: str) -> str:
    """The line, which must be in the document."""
    assert f"`{line}`" in TEXT
    return line


def block(containing: str) -> str:
    """The one block of code in the document with that in it."""
    [found] = [
        code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if containing in code
    ]
    return str(found)


def write(folder: Path, name: str, code: str) -> None:
    (folder / name).write_text(textwrap.dedent(code))


def output(folder: Path, *arguments: str, **environment: str) -> str:
    """What a Python program prints, which must end well."""
    with child(*arguments, cwd=folder, env={**os.environ, **environment}) as program:
        done = program.finish()
    assert done.code == 0, f"{done.output}\n{done.errors}"
    return done.output


def loop_of(folder: Path, line: str) -> str:
    """The loop on which `main()` runs, when that line runs it."""
    imports = "import anyio, asyncio, oxloop" if "anyio" in line else "import asyncio, oxloop"
    write(folder, "program.py", imports + textwrap.dedent(WHICH) + line + "\n")
    return output(folder, "program.py").strip()


@contextlib.contextmanager
def serving(folder: Path, *command: str, **environment: str) -> Iterator[Program]:
    """A server of APP on the Unix socket `http` in `folder`, by a program of the environment."""
    write(folder, "app.py", APP)
    program = Program(
        *(sys.executable, *command),
        cwd=folder,
        env={**os.environ, **environment},
        start_new_session=True,  # Sanic kills its whole process group on a second signal
    )
    try:
        yield program
    finally:
        program.process.terminate()
        with contextlib.suppress(Exception):
            program.process.wait(TIME_LIMIT)
        program.kill()


def ask(program: Program, address: Path | tuple[str, int], target: str = "/") -> str:
    """The body of the answer to a request, by a Unix socket or by TCP."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    where = str(address) if isinstance(address, Path) else address
    deadline = time.monotonic() + TIME_LIMIT
    while program.running and time.monotonic() < deadline:
        with socket.socket(family) as client:
            client.settimeout(TIME_LIMIT)
            try:
                client.connect(where)
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.05)
                continue
            client.sendall(
                f"GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0], answer
        return body.decode()
    pytest.fail(f"does not listen\n{program.output}")
