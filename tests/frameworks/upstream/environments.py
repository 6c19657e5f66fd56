"""What a suite needs: its source package, unpacked, and a virtual environment with the project."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

from .suites import Suite

__all__ = ["BUILD", "Environment", "prepare"]

BUILD = Path(__file__).parents[3] / "build"
"""For all that is downloaded, unpacked and found; ignored by git."""


@dataclass(frozen=True)
class Environment:
    """A suite, ready to run: the folder with its tests, and the Python that has the project."""

    source: Path
    python: Path


def prepare(suite: Suite) -> Environment:
    """Download, unpack and install, what of it is not yet done.

    Raises subprocess.CalledProcessError with pip's or apt's output, and LookupError where there is
    no source package to be had.
    """
    folder = BUILD / "upstream" / f"{sys.version_info[0]}.{sys.version_info[1]}" / suite.name
    environment = Environment(folder / "source", folder / "venv" / "bin" / "python")
    stamp = folder / "made-of"
    made_of = repr(
        (
            suite.version,
            suite.debian,
            suite.extras,
            suite.requirements,
            suite.package,
            suite.conftest,
        )
    )
    if not stamp.exists() or stamp.read_text("utf-8") != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _unpack(_debian_source(suite) if suite.debian else _sdist(suite), environment.source)
        _keep_configuration_apart(environment.source)
        if suite.conftest:
            Path(environment.source, "conftest.py").write_text(suite.conftest, "utf-8")
        if suite.package:
            _remove_code(environment.source / suite.package)
        _install(suite, folder / "venv", environment.python)
        stamp.write_text(made_of, "utf-8")
    _link_oxloop(folder / "venv")
    return environment


def _sdist(suite: Suite) -> Path:
    """The file of the project's sdist."""
    folder = BUILD / "upstream" / "sdists"
    pattern = f"{suite.name.replace('-', '[-_]')}-{suite.version}.tar.gz"
    if not any(folder.glob(pattern)):
        options = ("--quiet", "--no-deps", "--no-binary", suite.name, "--dest", str(folder))
        _run(sys.executable, "-m", "pip", "download", *options, f"{suite.name}=={suite.version}")
    return _only(folder, pattern)


def _debian_source(suite: Suite) -> Path:
    """The upstream tar file of a Debian source package; its version may be of any Debian suite."""
    package, _, version = suite.debian.partition("=")
    folder = BUILD / "upstream" / "debian"
    pattern = f"{package}_{version.rpartition('-')[0]}.orig.tar.*"
    if not any(folder.glob(pattern)):
        sources = folder / "debian.sources"
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        sources.write_text(_source_entries(), "utf-8")
        apt = (
            "apt-get",
            *("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
            *("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={folder}"),
        )
        _run(*apt, "--quiet", "update")
        _run(*apt, "--quiet", "source", "--download-only", "--tar-only", suite.debian, cwd=folder)
    return _only(folder, pattern)


def _source_entries() -> str:
    """The archive of this system, as one of sources of Debian's stable and newer suites."""
    known = Path("/etc/apt/sources.list.d/debian.sources")
    if not known.exists():
        raise LookupError(f"the tests are in a Debian source package: no {known}")
    entry = known.read_text("utf-8").partition("\n\n")[0]
    changed = {"Types:": "deb-src", "Suites:": "trixie forky sid", "Components:": "main"}
    lines = (line.split(" ", 1) for line in entry.splitlines() if not line.startswith("#"))
    return "".join(f"{key} {changed.get(key, ' '.join(rest))}\n" for key, *rest in lines)


def _unpack(archive: Path, target: Path) -> None:
    """The one folder in the archive becomes `target`."""
    unpacking = target.with_suffix(".unpacking")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(unpacking, filter="data")
        else:
            tar.extractall(unpacking)  # pinned archives of known projects
    (inside,) = unpacking.iterdir()
    inside.rename(target)
    unpacking.rmdir()


def _keep_configuration_apart(source: Path) -> None:
    """Without a configuration of its own, pytest would find that of this repository."""
    sections = {
        "pyproject.toml": "[tool.pytest",
        "setup.cfg": "[tool:pytest]",
        "tox.ini": "[pytest]",
    }
    if not any(
        section in Path(source, name).read_text("utf-8")
        for name, section in sections.items()
        if Path(source, name).exists()
    ):
        Path(source, "pytest.ini").touch()


def _remove_code(package: Path) -> None:
    """Remove a project's own code, for the installed one to be imported; tests in it stay.

    Raises LookupError where there is none: the entry in suites.py is wrong then.
    """
    if not package.is_dir():
        raise LookupError(f"no folder {package}")
    shutil.rmtree(package)


def _install(suite: Suite, folder: Path, python: Path) -> None:
    """A virtual environment with the project and what its tests need; never with another loop."""
    venv.create(folder, with_pip=False, symlinks=True)
    project = f"{suite.name}[{suite.extras}]=={suite.version}"
    wanted = (project.replace("[]", ""), "pytest", *suite.requirements)
    _run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *wanted)
    for site_packages in folder.glob("lib/python*/site-packages"):
        shutil.rmtree(site_packages / "uvloop", ignore_errors=True)


def _link_oxloop(folder: Path) -> None:
    """Let the environment import the oxloop of this process, and nothing else of it."""
    spec = importlib.util.find_spec("oxloop")
    if spec is None or not spec.submodule_search_locations:
        raise LookupError("oxloop is not installed")
    (site_packages,) = folder.glob("lib/python*/site-packages")
    link = site_packages / "oxloop"
    if link.is_symlink():
        link.unlink()
    link.symlink_to(os.path.realpath(spec.submodule_search_locations[0]))


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise LookupError(f"no {pattern} in {folder}")
    return found[0]


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
