"""Results as columns and rows for a table, as JSON, and as a bar chart.

Tables are data here; who prints them is the command's business. A column whose name starts with
``>`` is set to the right.
"""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pmemfs.bench.fio import FioJob, FioResult
from pmemfs.bench.picture import load_matplotlib, save_picture
from pmemfs.bench.ratios import Comparison, Measure, compare, goal, median
from pmemfs.bench.rounds import Results

Table = tuple[list[str], list[tuple[str, ...]]]

_INCHES_PER_ROW = 0.3
_VERDICT_ORDER = ("met", "close", "not met")
IO_COLUMNS = ["job", ">IOPS", ">MiB/s", ">mean µs", ">p99 µs"]


# -- one file system -------------------------------------------------------------------------


def io_row(job: FioJob, result: FioResult | None) -> tuple[str, ...]:
    """Return the row of one fio job for `IO_COLUMNS`; all unknown if it failed."""
    if result is None:
        return (job.name, "-", "-", "-", "-")
    return (
        job.name,
        f"{result.iops:,.0f}",
        f"{result.mib_per_s:,.1f}",
        f"{result.mean_us:,.1f}",
        f"{result.p99_us:,.1f}",
    )


def io_document(job: FioJob, result: FioResult | None, error: str | None) -> dict[str, Any]:
    """Return one fio job for JSON."""
    document: dict[str, Any] = {"name": job.name, "error": error}
    if result is not None:
        document |= {
            "iops": result.iops,
            "bytes_per_s": result.bytes_per_s,
            "mean_us": result.mean_us,
            "p99_us": result.p99_us,
        }
    return document


# -- peers -----------------------------------------------------------------------------------


def comparisons(results: Results, measure: Measure) -> dict[str, Comparison]:
    """Compare the first peer with each other one that has figures of the same rounds."""
    ours, *others = results.peers
    samples = results.samples.get(measure.name, {})
    return {
        peer: compare(measure, samples[ours], samples[peer], goal(ours, peer, measure.kind))
        for peer in others
        if samples.get(ours, {}).keys() & samples.get(peer, {}).keys()
    }


def ratio_table(results: Results) -> Table:
    """Return the table of ratios of medians, with each goal and whether it is met."""
    ours, *others = results.peers
    columns = ["measure", f">{ours}", "unit", *(f">/ {peer}" for peer in others)]
    rows = []
    for measure in results.measures:
        found = comparisons(results, measure)
        cells = (_ratio_cell(found.get(peer)) for peer in others)
        rows.append((measure.name, _median_cell(results, measure, ours), measure.unit, *cells))
    return columns, rows


def _ratio_cell(comparison: Comparison | None) -> str:
    if comparison is None:
        return "-"
    text = f"{_figure(comparison.ratio)}x"
    if comparison.goal is None:
        return f"{text}  (no goal)    "
    return f"{text}  ({comparison.goal:g}) {comparison.verdict:<7}"


def median_table(results: Results) -> Table:
    """Return the table of medians of all peers."""
    columns = ["measure", "unit", *(f">{peer}" for peer in results.peers)]
    rows = [
        (m.name, m.unit, *(_median_cell(results, m, peer) for peer in results.peers))
        for m in results.measures
    ]
    return columns, rows


def _median_cell(results: Results, measure: Measure, peer: str) -> str:
    samples = results.samples.get(measure.name, {}).get(peer)
    return _figure(median(list(samples.values()))) if samples else "-"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def goal_lines(results: Results) -> list[str]:
    """Return for each peer how many goals are met, and which are not."""
    lines = []
    for peer in list(results.peers)[1:]:
        by_verdict: dict[str, list[str]] = {verdict: [] for verdict in _VERDICT_ORDER}
        for measure in results.measures:
            comparison = comparisons(results, measure).get(peer)
            if comparison is not None and comparison.verdict is not None:
                by_verdict[comparison.verdict].append(measure.name)
        total = sum(map(len, by_verdict.values()))
        if total:
            lines.append(f"against {peer}: {len(by_verdict['met'])} of {total} goals met")
        for verdict in _VERDICT_ORDER[1:]:
            if by_verdict[verdict]:
                lines.append(f"  {verdict}: {', '.join(by_verdict[verdict])}")
    return lines


def document(results: Results, facts: dict[str, Any]) -> dict[str, Any]:
    """Return everything for JSON: samples by round, medians, ratios, goals."""
    return {
        "environment": facts,
        "peers": results.peers,
        "left_out": results.left_out,
        "errors": results.errors,
        "measures": [_measure_document(results, measure) for measure in results.measures],
    }


def _measure_document(results: Results, measure: Measure) -> dict[str, Any]:
    samples = results.samples.get(measure.name, {})
    return {
        "name": measure.name,
        "unit": measure.unit,
        "kind": measure.kind.value,
        "samples": samples,
        "medians": {peer: median(list(values.values())) for peer, values in samples.items()},
        "ratios": {
            peer: {
                "ratio": c.ratio,
                "lowest": c.lowest,
                "highest": c.highest,
                "goal": c.goal,
                "verdict": c.verdict,
            }
            for peer, c in comparisons(results, measure).items()
        },
    }


def environment() -> dict[str, Any]:
    """Return what a reader must know of the machine, and how busy it is with other things."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "fio": _first_line("fio", "--version"),
        "commit": _first_line(
            "git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"
        ),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return next(iter(done.stdout.splitlines()), None)


# -- the chart -------------------------------------------------------------------------------


def write_chart(results: Results, path: Path) -> None:
    """Write the ratios as horizontal bars on a logarithmic scale, a mark at each goal."""
    pyplot = load_matplotlib()
    ours, *others = results.peers
    measures = [measure for measure in results.measures if comparisons(results, measure)]
    height = 1.5 + _INCHES_PER_ROW * max(1, len(measures)) * (0.5 + 0.25 * len(others))
    figure, axes = pyplot.subplots(figsize=(10, height))
    thickness = 0.8 / max(1, len(others))
    for place, peer in enumerate(others):
        offset = (place - (len(others) - 1) / 2) * thickness
        _draw_peer(axes, results, measures, peer, offset, thickness)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_yticks(range(len(measures)), [measure.name for measure in measures])
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel(f"speed of {ours} as a multiple of the peer; more is faster; | is the goal")
    axes.grid(axis="x", which="both", linewidth=0.3)
    if others:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.6 / height), ncols=len(others))
    figure.tight_layout()
    save_picture(figure, path)


def _draw_peer(
    axes: Any,
    results: Results,
    measures: Sequence[Measure],
    peer: str,
    offset: float,
    thickness: float,
) -> None:
    """Draw the bars of one peer from 1 to the ratio, with the range of the rounds."""
    found = [(y + offset, comparisons(results, m).get(peer)) for y, m in enumerate(measures)]
    bars = [(y, c) for y, c in found if c is not None]
    axes.barh(
        [y for y, _ in bars],
        [c.ratio - 1.0 for _, c in bars],
        left=1.0,
        height=thickness,
        label=peer,
        xerr=_ranges(c for _, c in bars),
        error_kw={"elinewidth": 0.6, "ecolor": "gray"},
    )
    goals = [(y, c.goal) for y, c in bars if c.goal is not None]
    axes.plot([g for _, g in goals], [y for y, _ in goals], "|", color="black", markersize=6)


def _ranges(found: Iterable[Comparison]) -> list[list[float]]:
    pairs = [(max(0.0, c.ratio - c.lowest), max(0.0, c.highest - c.ratio)) for c in found]
    return [[low for low, _ in pairs], [high for _, high in pairs]]
