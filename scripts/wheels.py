"""Builds the sdist and the wheels into dist/, and tries each in a new virtual environment.

    wheels.py VERSION...      # for the Pythons of these versions that are there

The sdist is built with nothing but Rust and pip; the wheels are linked by zig against an old glibc,
so that they run on all systems with that one or a newer. Wheels for musl are built where Rust has
the target (`rustup target add x86_64-unknown-linux-musl`), and are to be tried on such a system.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from every_python import find

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
SMOKE_TEST = ROOT / "scripts/smoke_test.py"
GLIBC, MUSL = "manylinux_2_17", "musllinux_1_2"
"""The oldest systems: glibc 2.17 (2012) is the oldest that Rust supports."""


def run(*command: str | Path) -> None:
    """Run a command, shown first; raises CalledProcessError."""
    print("+", *command, flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


def maturin(*arguments: str | Path) -> Path:
    """Run maturin; the file that it made."""
    before = set(DIST.iterdir())
    run(sys.executable, "-m", "maturin", *arguments, "--out", DIST)
    [made] = set(DIST.iterdir()) - before
    return made


def try_out(package: Path, python: Path) -> None:
    """Install a wheel or an sdist into a new virtual environment and use it."""
    with tempfile.TemporaryDirectory() as folder:
        # Of the interpreter that runs this: Debian's may lack the module venv.
        environment = Path(folder, "env")
        run(sys.executable, "-m", "virtualenv", "--quiet", "--python", python, environment)
        own = environment / "bin/python"
        run(own, "-m", "pip", "install", "--quiet", "--no-deps", package)
        run(own, "-I", SMOKE_TEST)


def targets() -> Iterator[tuple[str, str]]:
    """Rust targets and the tag of their wheels."""
    machine = platform.machine()
    yield f"{machine}-unknown-linux-gnu", GLIBC
    musl = f"{machine}-unknown-linux-musl"
    libraries = subprocess.run(
        ["rustc", "--print", "target-libdir", "--target", musl],
        capture_output=True,
        text=True,
        check=True,
    )
    if Path(libraries.stdout.strip()).is_dir():
        yield musl, MUSL
    else:
        print(f"NOT BUILT: wheels for musl (rustup target add {musl})")


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    lines = []
    pythons = {version: find(version) for version in sys.argv[1:]}
    found = {version: path for version, path in pythons.items() if path}
    if not found:
        raise SystemExit("no Python to build for")
    source = maturin("sdist")
    newest = list(found)[-1]
    try_out(source, found[newest])
    lines.append((source, f"built and works on {newest}"))
    for target, tag in targets():
        for version, path in found.items():
            wheel = maturin(
                *("build", "--release", "--strip", "--zig", "--target", target),
                *("--compatibility", tag, "--interpreter", path),
            )
            if tag == GLIBC:
                try_out(wheel, path)
            lines.append((wheel, f"works on {version}" if tag == GLIBC else "not tried here"))
    print()
    for file, outcome in lines:
        print(f"{file.name}: {file.stat().st_size / 1024:.0f} KiB, {outcome}")
    for version in pythons.keys() - found.keys():
        print(f"Python {version}: MISSING, no wheel")


if __name__ == "__main__":
    main()
