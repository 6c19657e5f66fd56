"""Runs a make target with every supported Python: `every_python.py TARGET VERSION...`.

An interpreter is taken from the first of these places that has one which runs: the paths in the
variable PYTHONS, `.pythons` (`make pythons`), PATH, and pyenv's folder of versions. One that is in
none of them is missing: it is named and counted at the end, and is no failure.

    every_python.py test-py 3.13 3.14
    every_python.py --list 3.13 3.14     # only where they are
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BROUGHT = ROOT / ".pythons/usr/bin"
"""Where `make pythons` puts them."""

LABEL = "import sys; print('%d.%d%s' % (*sys.version_info[:2], sys.abiflags))"
"""Prints the version as the Makefile names it: 3.14, without a global interpreter lock 3.14t."""


@dataclass(frozen=True)
class Python:
    """One version: its interpreter, if there is one, and how the target ended there."""

    version: str
    path: Path | None
    status: int = 0

    def __str__(self) -> str:
        if self.path is None:
            return f"Python {self.version}: MISSING"
        return f"Python {self.version}: {'FAILED' if self.status else 'passed'} ({self.path})"


def candidates(version: str) -> Iterator[Path]:
    """All places where an interpreter of that version may be."""
    yield from map(Path, os.environ.get("PYTHONS", "").split())
    folders = [BROUGHT, *map(Path, os.get_exec_path())]
    yield from (folder / f"python{version}" for folder in folders)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    newest_first = sorted(pyenv.glob(f"versions/{version}.*"), key=patch_number, reverse=True)
    yield from (folder / "bin/python" for folder in newest_first)


def patch_number(folder: Path) -> int:
    """The last number of a version like 3.13.0; -1 of 3.15.0a7 and the like."""
    last = folder.name.rpartition(".")[2]
    return int(last) if last.isdecimal() else -1


def find(version: str) -> Path | None:
    """The first interpreter that runs and is of that version (a pyenv shim need not be)."""
    for path in candidates(version):
        if path.is_file():
            done = subprocess.run([path, "-c", LABEL], capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.strip() == version:
                return path
    return None


def run(target: str, version: str) -> Python:
    """Run the target with the interpreter of that version, if there is one."""
    path = find(version)
    if path is None:
        return Python(version, None)
    command = ["make", "--no-print-directory", "--keep-going", target, f"PYTHON={path}"]
    print(f"== Python {version}: {' '.join(command)}", flush=True)
    return Python(version, path, subprocess.run(command, cwd=ROOT, check=False).returncode)


def summary(pythons: list[Python]) -> str:
    """One line for each version, and one that counts."""
    missing = [python.version for python in pythons if python.path is None]
    failed = [python.version for python in pythons if python.status]
    counts = [
        f"{len(pythons) - len(missing)} of {len(pythons)} Pythons run",
        f"{len(failed)} failed" + (f" ({', '.join(failed)})" if failed else ""),
        f"{len(missing)} missing" + (f" ({', '.join(missing)})" if missing else ""),
    ]
    return "\n".join([*map(str, pythons), ", ".join(counts)])


def main() -> int:
    """Run it; 1 when a target failed or no version has an interpreter at all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="only print where they are")
    parser.add_argument("arguments", nargs="+", metavar="TARGET VERSION...")
    options = parser.parse_args()
    if options.list:
        for version in options.arguments:
            print(version, find(version) or "missing")
        return 0
    target, *versions = options.arguments
    pythons = [run(target, version) for version in versions]
    print(f"\n{summary(pythons)}", flush=True)
    tested = any(python.path for python in pythons)
    return 1 if any(python.status for python in pythons) or not tested else 0


if __name__ == "__main__":
    sys.exit(main())
