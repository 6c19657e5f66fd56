"""Checks of the sources that no other lint makes; prints what breaks them, and fails.

- Unsafe code is in `sys/` and `ffi/` alone.
- A module that says `(pure)` in its first line uses no system call, socket, thread or clock, and
  the modules of which this is promised do say so.
- The binding hands no bare text or number to PyO3, which panics if Python has no memory for it.
- Every class of the binding is frozen, and may be used from any thread (PyO3 asks Sync of it then).
- A SAFETY note leans on the global interpreter lock only where builds without one are told apart.
- No source file is longer than LINES.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINES = 800
UNSAFE_FOLDERS = {"sys", "ffi"}
PURE = {
    "connection_state.rs",
    "datagram_queue.rs",
    "flow_control.rs",
    "gather.rs",
    "memory.rs",
    "registry.rs",
    "state.rs",
    "timers.rs",
    "write_buffer.rs",
}

UNSAFE = re.compile(r"\bunsafe\s*(\{|\(|fn\b|impl\b|extern\b|trait\b)")
IMPURE = re.compile(
    r"\bsys::(?!failing\b)|\bstd::(env|fs|net|os|process|thread)\b|\b(Instant|SystemTime)\b"
    r"|\b(libc|rustix|socket2|signal_hook|pyo3)::|\bio::.*\b(Read|Write)\b"
)
BARE = re.compile(
    r"\.(call_method[01]?|contains|getattr(_opt)?|[gs]et_item|hasattr|import|setattr)\(\s*&?\""
    r"|\.(call1|call_method1)\((?:[^()]*,\s*)?\([^()]*(\"|\b\d)"
    r"|\bnew_err\(\s*(\"|&|format!|\w+\.to_string)"
)
PYCLASS = re.compile(r"^#\[pyclass(?:\((.*?)\))?\]$", re.DOTALL | re.MULTILINE)
SAFETY = re.compile(r"// SAFETY:.*(?:\n *//.*)*")
LOCK = re.compile(r"(?<!without a )\b(GIL|(global|interpreter|global interpreter) lock)\b")


def code_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a Rust file without their comments."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        yield number, line.partition("//")[0]


def check_unsafe(path: Path) -> Iterator[str]:
    """Unsafe code where it may not be."""
    if UNSAFE_FOLDERS.isdisjoint(path.relative_to(ROOT).parent.parts):
        for number, line in code_lines(path):
            if UNSAFE.search(line):
                yield f"{path}:{number}: unsafe outside of sys/ and ffi/: {line.strip()}"


def check_pure(path: Path) -> Iterator[str]:
    """What makes a pure module impure."""
    first, _, _ = path.read_text().partition("\n")
    if "(pure)" in first:
        for number, line in code_lines(path):
            if IMPURE.search(line):
                yield f"{path}:{number}: in a pure module: {line.strip()}"
    elif path.name in PURE and "src" in path.parts:
        yield f"{path}:1: has to be pure, and to say so: //! ... (pure)"


def check_bare(path: Path) -> Iterator[str]:
    """What PyO3 would make an object of without asking for memory."""
    if "oxloop-python" in path.parts:
        source = path.read_text()
        for found in BARE.finditer(source):
            text = found[0].strip()
            yield f"{path}:{line_of(source, found)}: objects::Text, Int, Message: {text}"


def check_free_threaded(path: Path) -> Iterator[str]:
    """What would not hold without a global interpreter lock."""
    source = path.read_text()
    for found in PYCLASS.finditer(source):
        options = {option.strip() for option in (found[1] or "").split(",")}
        if "frozen" not in options or "unsendable" in options:
            yield f"{path}:{line_of(source, found)}: a class not frozen, or of one thread"
    if "Py_GIL_DISABLED" not in source:
        for found in SAFETY.finditer(source):
            words = " ".join(line.strip(" /") for line in found[0].splitlines())
            if LOCK.search(words):
                yield f"{path}:{line_of(source, found)}: safe only with a global lock: {words}"


def line_of(source: str, found: re.Match[str]) -> int:
    """The number of the line where a match begins."""
    return source.count("\n", 0, found.start()) + 1


def check_length(path: Path) -> Iterator[str]:
    """A file that is too long."""
    count = len(path.read_text().splitlines())
    if count > LINES:
        yield f"{path}: {count} lines, more than {LINES}: split it by what it is about"


def main() -> int:
    """Check everything; the exit status."""
    rust = [path for path in ROOT.glob("crates/**/*.rs") if "target" not in path.parts]
    python = [
        path
        for top in ("python", "tests", "scripts", "benches")
        for path in sorted((ROOT / top).rglob("*.py*"))
        if path.suffix in {".py", ".pyi"}
    ]
    missing = PURE - {path.name for path in rust if "oxloop" in path.parts}
    problems = [f"no such module any more: {name}" for name in sorted(missing)]
    for path in rust:
        problems += [*check_unsafe(path), *check_pure(path)]
        problems += [*check_bare(path), *check_free_threaded(path)]
    for path in [*rust, *python]:
        problems += check_length(path)
    for problem in problems:
        print(problem.replace(f"{ROOT}/", ""))
    print(f"{len(rust)} Rust and {len(python)} Python files checked, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
