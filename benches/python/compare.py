"""Compares event loops: CPU time for each operation of a workload, side by side.

    python benches/python/compare.py --loops asyncio,uvloop,oxloop --workloads 'tcp_*' --rounds 5

A round runs each workload on loop A, B, C... in turn, and the next round in another order, so that
a drift of the machine's speed hits all of them alike. README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import report
import workloads
from loops import Contestant
from measure import LOADGEN, Failure, Measurer, Server, raise_file_limit, serving
from workloads import Workload

LOOPS = "asyncio,uvloop,rloop,oxloop"
Record = Callable[[Workload, Contestant, "float | Failure"], None]


def run_round(
    measurer: Measurer, chosen: Sequence[Workload], loops: Sequence[Contestant], record: Record
) -> None:
    """Run each workload once on each loop; `record` gets its cost or its failure."""
    # Workloads next to each other with the same server and client share a server process.
    for (mode, _), group in itertools.groupby(chosen, lambda w: (w.server, w.client[0])):
        with contextlib.ExitStack() as stack:
            servers: dict[Contestant, Server | Failure | None] = {}
            for loop in loops:
                servers[loop] = start(stack, mode, loop) if mode else None
            for workload, loop in itertools.product(group, loops):
                server = servers[loop]
                try:
                    if isinstance(server, Failure):
                        raise server
                    record(workload, loop, measurer.cost(workload, loop.module, server))
                except Failure as failure:
                    record(workload, loop, failure)


def start(stack: contextlib.ExitStack, mode: str, loop: Contestant) -> Server | Failure:
    """Start a server that lives as long as `stack`."""
    try:
        return stack.enter_context(serving(mode, loop.module))
    except Failure as failure:
        return failure


def compare(
    measurer: Measurer, chosen: Sequence[Workload], loops: Sequence[Contestant], rounds: int
) -> dict[str, Any]:
    """Run all rounds; the costs in their order (None for a failed run) and the failures."""
    results: dict[str, Any] = {
        workload.name: {
            "unit": workload.unit,
            "costs": {loop.name: [] for loop in loops},
            "failures": {},
        }
        for workload in chosen
    }

    def record(workload: Workload, loop: Contestant, outcome: float | Failure) -> None:
        result = results[workload.name]
        if isinstance(outcome, Failure):
            result["failures"][loop.name] = str(outcome)
        result["costs"][loop.name].append(None if isinstance(outcome, Failure) else outcome)

    for number in range(rounds):
        turned = [*loops[number % len(loops) :], *loops[: number % len(loops)]]
        run_round(measurer, chosen, turned, record)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return results


def installed(names: Sequence[str]) -> list[Contestant]:
    """The loops of that name which can be imported; says which cannot."""
    loops = [Contestant(name, name) for name in names]
    for loop in loops:
        if not loop.installed:
            print(f"not installed, left out: {loop.name}", file=sys.stderr)
    return [loop for loop in loops if loop.installed]


def cpu_model() -> str:
    """The name of the processor, as far as Linux tells it."""
    model = re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return model[1].strip() if model else platform.machine()


def circumstances(
    arguments: argparse.Namespace, loops: Sequence[Contestant], baseline: str
) -> dict[str, Any]:
    """What a reader must know beside the figures."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}"
        f" built by {platform.python_compiler()}",
        "versions": {loop.name: loop.version for loop in loops},
        "baseline": baseline,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "wrk": arguments.wrk,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loops", default=LOOPS, help=f"modules with new_event_loop ({LOOPS})")
    parser.add_argument("--workloads", default="*", help="names or patterns, with commas (*)")
    parser.add_argument("--rounds", type=int, default=5, help="how often (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one window (1)")
    parser.add_argument("--baseline", default="uvloop", help="what ratios are to (uvloop)")
    parser.add_argument("--wrk", action="store_true", help="wrk as the HTTP client")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    parser.add_argument("--list", action="store_true", help="list the workloads and end")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("at least one round")
    if arguments.wrk and shutil.which("wrk") is None:
        parser.error("wrk is not installed")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    chosen = workloads.choose(arguments.workloads.split(","))
    if arguments.list:
        for workload in chosen:
            print(f"{workload.name:<18}{workload.operation}")
        return
    if not chosen:
        raise SystemExit(f"no such workload: {arguments.workloads}")
    if not LOADGEN.exists():
        raise SystemExit("first: cargo build --release --manifest-path benches/loadgen/Cargo.toml")
    loops = installed(arguments.loops.split(","))
    names = [loop.name for loop in loops]
    if not names:
        raise SystemExit("nothing to compare")
    baseline = arguments.baseline if arguments.baseline in names else names[0]
    control = Contestant(report.CONTROL, baseline)
    raise_file_limit()
    result = {
        "meta": circumstances(arguments, loops, baseline),
        "workloads": compare(
            Measurer(arguments.seconds, arguments.wrk),
            chosen,
            [*loops, control],
            arguments.rounds,
        ),
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(report.text(result))
    if any(workload["failures"] for workload in result["workloads"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
