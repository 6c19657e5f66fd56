"""Shows oxloop at work: the echo examples in Rust and in Python, then loops side by side.

`make demo` builds what it needs and runs it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 30.0
"""Seconds after which an example hangs."""

LANGUAGES: dict[str, tuple[Path, Sequence[str], str]] = {
    "Rust": (ROOT / "target/release/examples", (), ""),
    "Python": (ROOT / "examples", (sys.executable, "-u"), ".py"),
}
"""Where the examples are, how to run one, how its file name ends."""

COMPARISON = [
    str(ROOT / "benches/python/compare.py"),
    *("--loops", "asyncio,uvloop,oxloop"),
    *("--workloads", "tcp_1k_c10,http_uvicorn"),
    *("--rounds", "3"),
]


def main() -> None:
    for language, (folder, command, suffix) in LANGUAGES.items():
        server, client, udp_server, udp_client, pair, chat_server, member, date = (
            [*command, str(folder / f"{name}{suffix}")]
            for name in (
                *("tcp_echo_server", "tcp_echo_client"),
                *("udp_echo_server", "udp_echo_client", "existing_socket"),
                *("unix_chat_server", "unix_chat_client", "subprocess_protocol"),
            )
        )
        heading(f"{language}: TCP echo")
        echo(server, client)
        if language == "Rust":
            heading(f"{language}: TCP echo over TLS")
            secure(f"{folder}/tls_echo_server", f"{folder}/tls_echo_client")
        heading(f"{language}: UDP echo")
        echo(udp_server, udp_client)
        heading(f"{language}: an existing socket")
        show("", run(pair))
        heading(f"{language}: a chat over a Unix socket")
        chat(chat_server, member)
        heading(f"{language}: a child process")
        show("", run(date))
    heading("CPU time of the server for each 1 KiB echo, and for each request to uvicorn")
    subprocess.run([sys.executable, *COMPARISON], check=True)


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def show(speaker: str, output: str) -> None:
    for line in output.splitlines():
        print(f"   {speaker:<8}{line}" if speaker else f"   {line}", flush=True)


def run(command: Sequence[str]) -> str:
    """Run an example to its end; its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise SystemExit(f"{command[-1]}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout


def echo(server: Sequence[str], client: Sequence[str]) -> None:
    """Run a client against its server, which serves until it is told to end."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(server, stdout=output, stderr=subprocess.STDOUT)
        try:
            listening = wait_until_listening(process)
            answer = run(client) if listening else ""
        finally:
            process.terminate()
            process.wait(LIMIT)
        output.seek(0)
        if not listening:
            raise SystemExit(f"{server[-1]} does not listen\n{output.read()}")
        show("server", output.read())
        show("client", answer)


def secure(server: str, client: str) -> None:
    """Run a client that trusts what its server shows: a file is handed over."""
    with tempfile.TemporaryDirectory() as folder:
        where = ("8889", f"{folder}/certificate.pem")
        echo([server, *where], [client, *where])


def chat(server: Sequence[str], member: Sequence[str]) -> None:
    """Let Ann say something while Bob listens."""
    with (
        tempfile.TemporaryDirectory() as folder,
        talk([*server, f"{folder}/chat"]) as room,
        talk([*member, "Bob", f"{folder}/chat"]) as bob,
        talk([*member, "Ann", f"{folder}/chat"]) as ann,
    ):
        answer, _ = ann.communicate("hello\n", timeout=LIMIT)
        show("Ann", answer)
        heard, _ = bob.communicate("", timeout=LIMIT)
        show("Bob", heard)
        room.terminate()


@contextlib.contextmanager
def talk(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run an example beside others, once it has printed its first line."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            if not first:
                raise SystemExit(f"{command[-1]}: exit status {process.wait(LIMIT)}")
            show("", first)
            yield process
        finally:
            process.kill()


def wait_until_listening(process: subprocess.Popen[bytes]) -> bool:
    """Wait until `process` listens, or has bound a UDP socket; False if it ends or takes long."""
    give_up = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < give_up:
        if not listening_sockets().isdisjoint(sockets_of(process.pid)):
            return True
        time.sleep(0.02)
    return False


def listening_sockets() -> set[str]:
    """All listening TCP and bound UDP sockets, named as in /proc/PID/fd."""
    found = set()
    for protocol, state in (("tcp", "0A"), ("udp", "07")):
        lines = Path("/proc/net", protocol).read_text().splitlines()[1:]
        found |= {f"socket:[{row[9]}]" for row in map(str.split, lines) if row[3] == state}
    return found


def sockets_of(pid: int) -> set[str]:
    """The descriptors of process `pid`, by what they are."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found.add(os.readlink(link))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


if __name__ == "__main__":
    main()
