"""Redis and PostgreSQL servers of a test's own: on a free port, in a temporary directory."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import write_files
from tests.support import TIME_LIMIT, listen

from .programs import Program

PASSWORD = "correct horse"
ATTEMPTS = 5
"""How often a server may find that somebody has taken its port just before it did."""


class Database:
    """A server that listens on `port` of 127.0.0.1 and on the Unix socket `path`."""

    ready: str
    """What the server says when it takes connections."""

    end: int
    """The signal by which it ends at once, with all that belongs to it."""

    program: Program
    port: int

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def path(self) -> Path:
        raise NotImplementedError

    def command(self) -> tuple[str, ...]:
        """Return the command that starts the server."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Return the options that the process is started with."""
        return {"cwd": self.directory}

    def start(self) -> None:
        """Start the server on a port that is free."""
        for _ in range(ATTEMPTS):
            with listen() as listener:
                self.port = listener.getsockname()[1]
            if self._launch():
                return
            if "in use" not in self.program.output:
                break
        pytest.fail(f"{self.program.command[0]} does not start\n{self.program.output}")

    def restart(self) -> None:
        """Start the server again where it was."""
        assert self._launch(), self.program.output

    def _launch(self) -> bool:
        self.program = Program(*self.command(), **self.options())
        if self.program.found(self.ready):
            return True
        self.program.kill()
        return False

    def stop(self, number: int | None = None) -> None:
        """End the server by a signal; without one, at once."""
        self.program.stop(self.end if number is None else number)
        self.program.kill()


class Redis(Database):
    """`redis-server` of the package of that name, which keeps nothing on disk."""

    ready = "Ready to accept connections"
    end = signal.SIGKILL

    @property
    def path(self) -> Path:
        return self.directory / "socket"

    def command(self) -> tuple[str, ...]:
        return (
            *(program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(self.path), "--save", "", "--appendonly", "no"),
            *("--dir", str(self.directory)),
        )


class Postgres(Database):
    """PostgreSQL, run by an unprivileged user, as it demands."""

    ready = "database system is ready to accept connections"
    end = signal.SIGQUIT  # its processes and its shared memory outlive a SIGKILL

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        password = directory / "password"
        password.write_text(PASSWORD)
        for path in directory, password:
            if os.getuid() == 0:
                shutil.chown(path, unprivileged())
        made = subprocess.run(
            [
                *(program("initdb"), "-D", str(directory / "data"), "-U", "tester"),
                *("--pwfile", str(password), "--auth-local=trust", "--auth-host=scram-sha-256"),
                *("--no-sync", "--no-locale", "--encoding=UTF8"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * TIME_LIMIT,
            **self.options(),
        )
        if made.returncode != 0:
            pytest.fail(made.stdout)

    @property
    def path(self) -> Path:
        return self.directory / f".s.PGSQL.{self.port}"

    def command(self) -> tuple[str, ...]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "statement_timeout": f"{TIME_LIMIT:.0f}s",  # no query of a test outlives it for long
            "log_connections": "on",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return (program("postgres"), "-D", str(self.directory / "data"), *options)

    def options(self) -> dict[str, Any]:
        options = super().options() | {"env": {**os.environ, "LC_ALL": "C"}}
        if os.getuid() == 0:
            account = pwd.getpwnam(unprivileged())
            options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        return options


class TlsPostgres(Postgres):
    """The same, and nobody connects by TCP without TLS."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        folder = directory / "certificates"
        folder.mkdir()
        self.certificate, self.key, self.authority = write_files(folder)
        rules = directory / "data" / "pg_hba.conf"
        owner = rules.stat()
        rules.write_text(
            "local all all trust\n"
            "hostssl all guarded 127.0.0.1/32 cert\n"
            "hostssl all all 127.0.0.1/32 scram-sha-256\n"
        )
        for path in folder, *folder.iterdir():
            os.chown(path, owner.st_uid, owner.st_gid)

    def command(self) -> tuple[str, ...]:
        settings = {
            "ssl": "on",
            "ssl_cert_file": self.certificate,
            "ssl_key_file": self.key,
            "ssl_ca_file": self.authority,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return (*super().command(), *options)


PACKAGES = {
    "redis-server": "redis-server",
    "initdb": "postgresql",
    "postgres": "postgresql",
    "dbus-daemon": "dbus",
}


def program(name: str) -> str:
    """Return the path of a server's program; skip the test where it is not installed."""
    # Debian has PostgreSQL's outside of the path, by version.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, folders)]))
    if path is None:
        pytest.skip(f"no {name} here (Debian: apt install {PACKAGES[name]})")
    return path


def unprivileged() -> str:
    """Return the user whom a server runs as that refuses to be root's."""
    names = {account.pw_name for account in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextlib.contextmanager
def database(kind: type[Database]) -> Iterator[Database]:
    """Run a server of that kind for the time of the block."""
    # Not pytest's own directory: no other user may enter that.
    with tempfile.TemporaryDirectory(prefix="oxloop-") as directory:
        server = kind(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()
