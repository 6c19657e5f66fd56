"""The examples: each prints on oxloop what it prints on stdlib asyncio."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LIMIT = 30


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A free port, below those that the system gives to clients."""
    while True:
        with socket.socket(socket.AF_INET, kind) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 30_000)))
            return int(probe.getsockname()[1])


def variant(name: str, loop: str, folder: Path, port: int = 8888) -> list[str]:
    """The command that runs an example, on a free port, as it is or back on asyncio."""
    text = (EXAMPLES / f"{name}.py").read_text().replace("8888", str(port))
    if loop == "asyncio":
        text = text.replace("import oxloop\n", "").replace("oxloop.", "asyncio.")
        assert "oxloop" not in text
    path = folder / f"{name}-{loop}-{port}.py"
    path.write_text(text)
    return [sys.executable, "-u", "-X", "dev", "-W", "error", str(path)]


class Talker:
    """An example that goes on, read line by line; ended with the block."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *exception: object) -> None:
        with self.process:
            self.process.kill()

    def hear(self) -> str:
        """The next line that it prints; "" at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, said: str) -> str:
        """What it still prints, given `said` and the end of its input."""
        printed, errors = self.process.communicate(said, timeout=LIMIT)
        assert (self.process.returncode, errors) == (0, "")
        return printed


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def wait_for_listener(port: int, server: subprocess.Popen[str]) -> None:
    """Until the kernel lists the port as listening: a probing connection would be served."""
    wanted = re.compile(rf": 0100007F:{port:04X} 00000000:0000 0A ")
    while not wanted.search(Path("/proc/net/tcp").read_text()):
        assert server.poll() is None, server.communicate()


def echo(form: str, loop: str, folder: Path) -> tuple[str, str]:
    """Output of the server, which is ended by Ctrl-C, and of its client."""
    port = free_port()
    server = subprocess.Popen(
        variant(f"{form}tcp_echo_server", loop, folder, port),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_listener(port, server)
        client = run(variant(f"{form}tcp_echo_client", loop, folder, port))
        server.send_signal(signal.SIGINT)
        served, errors = server.communicate(timeout=LIMIT)
    finally:
        server.kill()
        server.wait()
    if form:
        assert (server.returncode, errors) == (0, "")
    else:
        assert errors.rstrip().endswith("KeyboardInterrupt")
    numbers = re.compile(r"\b\d{4,5}\b")
    return numbers.sub("PORT", served), client


@pytest.mark.parametrize("form", ["", "old_"], ids=["modern", "old"])
def test_tcp_echo(form: str, tmp_path: Path) -> None:
    served, client = echo(form, "oxloop", tmp_path)
    assert "Data received: 'Hello World!'" in served
    assert "Data received: 'Hello World!'" in client
    assert (served, client) == echo(form, "asyncio", tmp_path)


@pytest.mark.parametrize("form", ["", "old_"], ids=["modern", "old"])
def test_existing_socket(form: str, tmp_path: Path) -> None:
    name = f"{form}existing_socket"
    printed = run(variant(name, "oxloop", tmp_path))
    assert printed == "Received: abc\n"
    assert printed == run(variant(name, "asyncio", tmp_path))


def chat(loop: str, folder: Path, path: str) -> tuple[list[str], str]:
    """What Bob reads while Ann joins, speaks and leaves, and what Ann does."""
    client = variant("unix_chat_client", loop, folder)
    with Talker(*variant("unix_chat_server", loop, folder), path) as server:
        assert server.hear() == f"The chat is at {path}\n"
        with Talker(*client, "Bob", path) as bob:
            heard = [bob.hear()]
            with Talker(*client, "Ann", path) as ann:
                alone = ann.end("hello\nand goodbye")
            heard += [bob.hear(), bob.hear()]
            heard.append(bob.end("nobody reads this\n"))
        server.process.send_signal(signal.SIGINT)
        _, errors = server.process.communicate(timeout=LIMIT)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    return heard, alone


def test_unix_chat(tmp_path: Path, folder: Path) -> None:
    heard, alone = told = chat("oxloop", tmp_path, str(folder / "chat"))
    assert heard == ["Bob joins\n", "Ann: hello\n", "Ann: and goodbye\n", "The chat is over\n"]
    assert alone == "Ann joins\nThe chat is over\n"
    assert told == chat("asyncio", tmp_path, str(folder / "chat"))


def udp_echo(form: str, loop: str, folder: Path) -> tuple[list[str], str]:
    """Output of the server, which is ended by Ctrl-C, and of its client."""
    port = free_port(socket.SOCK_DGRAM)

    def command(name: str) -> list[str]:
        path = folder / f"{form}{name}-{loop}-{port}.py"
        text = Path(variant(f"{form}{name}", loop, folder)[-1]).read_text()
        path.write_text(text.replace("9999", str(port)))
        return [sys.executable, "-u", str(path)]

    bound = re.compile(rf": 0100007F:{port:04X} 00000000:0000 07 ")
    with Talker(*command("udp_echo_server")) as server:
        heard = [server.hear()]
        while not bound.search(Path("/proc/net/udp").read_text()):
            assert server.process.poll() is None, server.process.communicate()
        client = talk(command("udp_echo_client"))
        heard += [server.hear(), server.hear()]
        server.process.send_signal(signal.SIGINT)
        _, errors = server.process.communicate(timeout=LIMIT)
    if form:
        assert (server.process.returncode, errors) == (0, "")
    else:
        assert errors.rstrip().endswith("KeyboardInterrupt")
    return [re.sub(r"\b\d{4,5}\b", "PORT", line) for line in heard], client


def talk(client: list[str]) -> str:
    """What a client prints until it says that its connection is closed.

    The old example waits for ever where that comes before it has begun to wait.
    """
    printed = ""
    with Talker(*client) as talker:
        ending = threading.Timer(LIMIT / 2, talker.process.kill)
        ending.start()
        while (line := talker.hear()) and not line.startswith(
            ("Socket closed", "Connection closed")
        ):
            printed += line
        ending.cancel()
    if not line:
        raise subprocess.TimeoutExpired(client, LIMIT / 2)
    return printed + line


def udp_echo_again(form: str, loop: str, folder: Path) -> tuple[list[str], str]:
    """The same, once more where a datagram was lost: the example waits for its answer for ever."""
    try:
        return udp_echo(form, loop, folder)
    except subprocess.TimeoutExpired:
        return udp_echo(form, loop, folder)


@pytest.mark.parametrize("form", ["", "old_"], ids=["modern", "old"])
def test_udp_echo(form: str, tmp_path: Path) -> None:
    heard, client = told = udp_echo_again(form, "oxloop", tmp_path)
    assert heard == [
        "Starting UDP server\n",
        "Received 'Hello World!' from ('127.0.0.1', PORT)\n",
        "Send 'Hello World!' to ('127.0.0.1', PORT)\n",
    ]
    assert client.startswith("Send: Hello World!\nReceived: Hello World!\n")
    assert told == udp_echo_again(form, "asyncio", tmp_path)


@pytest.mark.parametrize(
    "name", ["subprocess_protocol", "old_subprocess_protocol", "subprocess_streams"]
)
def test_subprocesses(name: str, tmp_path: Path) -> None:
    # The child prints the time, which is another one in each run.
    for loop in ("oxloop", "asyncio"):
        printed = run(variant(name, loop, tmp_path))
        assert re.fullmatch(r"Current date: [\d-]+ [\d:.]+\n", printed)
