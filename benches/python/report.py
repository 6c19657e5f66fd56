"""Tables of a result of compare.py: `report.py RESULT.json [--update docs/performance.md]`.

Without an option the table is printed; `--update` writes it as Markdown between the two marks of
a document.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
CONTROL = "control"
"""The contestant that is the baseline once more: what differs between the two is noise."""


@dataclass(frozen=True)
class Cell:
    """One workload on one loop: medians over the rounds.

    Attributes:
        cost: of an operation, in the workload's unit.
        ratio: the baseline's cost in the same round divided by this one (more is better).
    """

    cost: float
    ratio: float | None


@dataclass(frozen=True)
class Row:
    """One workload on all loops; a loop without any result has no cell.

    Attributes:
        noise: median distance of the control's ratio from 1.
    """

    workload: str
    unit: str
    cells: Mapping[str, Cell]
    noise: float | None


def rows(result: Mapping[str, Any]) -> list[Row]:
    """Sum up what compare.py wrote."""
    baseline = result["meta"]["baseline"]
    summary = []
    for name, workload in result["workloads"].items():
        costs = workload["costs"]
        ratios = {loop: _ratios(costs.get(baseline, []), values) for loop, values in costs.items()}
        cells = {
            loop: Cell(statistics.median(good), _median(ratios[loop]))
            for loop, values in costs.items()
            if loop != CONTROL and (good := [value for value in values if value is not None])
        }
        noise = [abs(ratio - 1) for ratio in ratios.get(CONTROL, [])]
        summary.append(Row(name, workload["unit"], cells, _median(noise)))
    return summary


def _ratios(base: list[float | None], costs: list[float | None]) -> list[float]:
    return [b / c for b, c in zip(base, costs, strict=False) if b and c]


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def text(result: Mapping[str, Any]) -> str:
    """The table for a terminal: cost and ratio of each loop."""
    loops = list(result["meta"]["versions"])
    lines = [f"{'':<26}" + "".join(f"{loop:>18}" for loop in loops) + f"{'noise':>8}"]
    for row in rows(result):
        cells = "".join(f"{_text_cell(row.cells.get(loop)):>18}" for loop in loops)
        lines.append(f"{row.workload:<18}{_unit(row.unit):<8}{cells}{_percent(row.noise):>8}")
    lines.append(_explanation(result["meta"]))
    for name, workload in result["workloads"].items():
        for loop, reason in workload["failures"].items():
            lines.append(f"FAILED {name} on {loop}: {reason}")
    return "\n".join(lines)


def _text_cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{_cost(cell.cost)}" + (f"  {cell.ratio:5.2f}x" if cell.ratio else "")


def markdown(result: Mapping[str, Any]) -> str:
    """The table for a document: ratio (cost) of each loop, then how it was measured."""
    meta = result["meta"]
    loops = list(meta["versions"])
    versions = [f"{loop} {version}" for loop, version in meta["versions"].items()]
    lines = [
        "| workload | unit | " + " | ".join(versions) + " | noise |",
        "| --- | --- |" + " ---: |" * (len(loops) + 1),
    ]
    for row in rows(result):
        cells = [_markdown_cell(row.cells.get(loop)) for loop in loops]
        fields = [f"`{row.workload}`", _unit(row.unit), *cells, _percent(row.noise)]
        lines.append("| " + " | ".join(fields) + " |")
    lines += ["", _explanation(meta), "", _circumstances(meta)]
    return "\n".join(lines)


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "fails"
    return f"**{cell.ratio:.2f}** ({_cost(cell.cost)})" if cell.ratio else _cost(cell.cost)


def _cost(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.2f}" if cost >= 1 else f"{cost:.3f}"


def _percent(noise: float | None) -> str:
    return "-" if noise is None else f"{noise:.0%}"


def _unit(unit: str) -> str:
    return {"us": "µs"}.get(unit, unit)


def _explanation(meta: Mapping[str, Any]) -> str:
    return (
        f"Cost of one operation and ratio to {meta['baseline']} in the same round (more is better);"
        f" medians of {meta['rounds']} rounds. Noise: how far {meta['baseline']}, run twice in each"
        " round, was from itself."
    )


def _circumstances(meta: Mapping[str, Any]) -> str:
    client = "wrk" if meta["wrk"] else "benches/loadgen"
    return (
        f"Measured {meta['date']}: {meta['cpu']}, {meta['cpus']} CPUs, Linux {meta['kernel']}"
        f" ({meta['machine']}), {meta['python']}; windows of {meta['seconds']} s;"
        f" HTTP client {client}."
    )


def update(document: Path, table: str) -> None:
    """Put `table` between the marks of `document`."""
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{document}: no place for the table, {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--update", type=Path, metavar="DOCUMENT", help="put the table there")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    if arguments.update:
        update(arguments.update, markdown(result))
    else:
        print(text(result))


if __name__ == "__main__":
    main()
