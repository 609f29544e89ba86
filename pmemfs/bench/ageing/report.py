"""What ageing has shown, for people and programs: tables, goals, plots.

Tables are data here, as in `pmemfs.bench.output`: columns and rows of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pmemfs.bench.ageing import ext4, profile
from pmemfs.bench.ageing.run import OURS, Result
from pmemfs.bench.ageing.store import Sample
from pmemfs.bench.picture import load_matplotlib, save_picture
from pmemfs.layout.geometry import PAGES_PER_EXTENT
from pmemfs.units import format_size

Table = tuple[list[str], list[tuple[str, ...]]]

MODE_TEXT = {
    "within": "sizes drawn within the published buckets",
    "bounds": "sizes at the bounds of the published buckets",
}
_FULL_LIMIT = 0.8  # fuller than that, the goals of a device 90 % full hold


class Goal(NamedTuple):
    """What is asked, what was measured, and whether that is enough."""

    text: str
    measured: str
    met: bool


def goals(result: Result) -> list[Goal]:
    """Hold a result against the goals of the project; none for a run that ended in the filling."""
    if not result.is_complete and result.overwrites < 1:
        return []
    ours = result.samples[OURS][-1]
    c = ours.columns
    least = 0.9 if result.options.full <= _FULL_LIMIT else 0.7
    found = [
        Goal(
            f"free space in free 2 MiB extents at least {least:.0%} "
            f"({result.options.full:.0%} full)",
            _percent(ours.free_whole),
            ours.free_whole >= least,
        )
    ]
    for name, samples in result.samples.items():
        if name != OURS:
            same = _at(result.samples[OURS], samples[-1].overwrites)
            theirs = samples[-1].free_whole
            found.append(
                Goal(
                    f"more of it than {name} after {samples[-1].overwrites:.0f} overwrites",
                    f"{_percent(same.free_whole)} against {_percent(theirs)}",
                    same.free_whole > theirs,
                )
            )
    if result.options.full <= _FULL_LIMIT:
        assert result.active is not None
        share = max(c["descriptors_active"], result.active.columns["descriptors_now"])
        text = "page descriptors, everything active: at most 0.65 % of the device"
        found.append(Goal(text, _percent(share, 3), share <= 0.0065))
    assert result.idle is not None
    idle = result.idle.columns["descriptors_now"]
    found += [
        Goal("page descriptors after the idle time: none", _percent(idle, 3), idle == 0),
        Goal(
            "space amplification at most 1.15",
            f"{c['amplification']:.3f}",
            c["amplification"] <= 1.15,
        ),
        Goal(
            "pages moved in the background for each page written at most 0.5",
            f"{c['moved_per_written']:.3f}",
            c["moved_per_written"] <= 0.5,
        ),
        Goal(
            "all free after the last file is deleted",
            ", ".join(f"{name} {count}" for name, count in result.left.items()),
            not any(result.left.values()),
        ),
    ]
    return found


def _at(samples: Sequence[Sample], overwrites: float) -> Sample:
    """Return the sample that was taken closest to a number of overwrites."""
    return min(samples, key=lambda sample: abs(sample.overwrites - overwrites))


def heading(result: Result) -> str:
    """Return what was done, in a line."""
    o = result.options
    times = f"{o.overwrites:g} times"
    if not result.is_complete:
        times = f"{result.overwrites:.1f} of {times} (ended early)"
    return (
        f"{format_size(o.size_bytes)}, overwritten {times}, {o.full:.0%} full, "
        f"{MODE_TEXT[o.sizes]}, promoted at {o.threshold_pages} pages, seed {o.seed}"
    )


def goal_table(result: Result) -> Table:
    """Return the goals as a table."""
    rows: list[tuple[str, ...]] = [
        (g.text, g.measured, "met" if g.met else "NOT MET") for g in goals(result)
    ]
    return ["goal", ">measured", ""], rows


def policy_table(result: Result) -> Table:
    """Return the table of all policies, a row for each sample."""
    columns = [
        "policy", ">overwritten", ">full", ">files", ">free in 2 MiB", ">of the device",
        ">files in 2 MiB",
    ]  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for name, samples in result.samples.items():
        for s in samples:
            rows.append(
                (
                    name,
                    f"{s.overwrites:.1f}x",
                    _percent(s.full),
                    f"{s.files:,}",
                    _percent(s.free_whole),
                    _percent(s.free_whole * (1 - s.full)),
                    _percent(s.file_whole),
                )
            )
    return columns, rows


_OUR_COLUMNS: dict[str, tuple[str, int | None]] = {
    ">split": ("split_extents", None),
    ">small": ("small_extents", None),
    ">whole": ("whole_extents", None),
    ">descriptors, all active": ("descriptors_active", 3),
    ">now": ("descriptors_now", 3),
    ">heads": ("heads", 5),
    ">reserve": ("reserve", 3),
    ">owner pages": ("owner_pages", 3),
    ">amplification": ("amplification", -3),
    ">all in all": ("amplification_all", -3),
    ">moved/written": ("moved_per_written", -3),
    ">promoted/written": ("promoted_per_written", -3),
}


def our_table(result: Result) -> Table:
    """Return what only the volume has: extents, descriptors, amplification, moves."""
    samples = result.samples[OURS]
    rows = [(f"{s.overwrites:.1f}x", *_our_cells(s)) for s in samples]
    for name, sample in (("idle", result.idle), ("all read", result.active)):
        if sample is not None:
            rows.append((name, *_our_cells(sample)))
    return [">overwritten", *_OUR_COLUMNS, ">pages/run"], rows


def _our_cells(sample: Sample) -> tuple[str, ...]:
    cells = []
    for name, digits in _OUR_COLUMNS.values():
        value = sample.columns[name]
        if digits is None:
            cells.append(f"{value:,.0f}")
        else:
            cells.append(_percent(value, digits) if digits > 0 else f"{value:.{-digits}f}")
    return (*cells, f"{sample.pages_per_run or 0:.1f}")


def fixed_facts(result: Result) -> list[tuple[str, str]]:
    """Return what does not change from sample to sample, as labels and values."""
    c = result.samples[OURS][-1].columns
    return [
        ("stores for each extent split again", _per(c["resplit_stores"], c["resplits"])),
        ("files made", f"{result.files_made:,} in {result.seconds:.0f} s"),
    ]


def left_out_lines(result: Result) -> list[str]:
    """Return one line for each policy that could not be aged."""
    return [f"{name} is left out: {reason}" for name, reason in result.left_out.items()]


def curve_table(results: dict[int, Result]) -> Table:
    """Return the curve over the promotion threshold, measured and by arithmetic."""
    columns = [
        ">promote", ">amplification", ">by arithmetic", ">descriptors", ">by arithmetic",
        ">free in 2 MiB", ">moved/written",
    ]  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for percent, result in results.items():
        sample = result.samples[OURS][-1]
        c = sample.columns
        computed = curve_document(result)
        rows.append(
            (
                f"{percent}%",
                f"{c['amplification']:.3f}",
                f"{computed['amplification']:.3f}",
                _percent(c["descriptors_active"], 3),
                _percent(computed["descriptors_active"], 3),
                _percent(sample.free_whole),
                f"{c['moved_per_written']:.3f}",
            )
        )
    return columns, rows


def curve_document(result: Result) -> dict[str, float]:
    """Return what arithmetic says about a threshold, for JSON."""
    o = result.options
    amplification, descriptors = profile.by_arithmetic(o.threshold_pages, o.sizes, o.full)
    return {"amplification": amplification, "descriptors_active": descriptors}


def placement_table(results: dict[str, Result]) -> Table:
    """Return the placement policies side by side, after ageing."""
    columns = [
        "placement", ">free in 2 MiB", ">lowest", ">small extents", ">descriptors", ">pages/run",
        ">moved/written",
    ]  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for name, result in results.items():
        samples = result.samples[OURS]
        last = samples[-1]
        lowest = min(s.free_whole for s in samples[len(samples) // 2 :])
        rows.append(
            (
                name,
                _percent(last.free_whole),
                _percent(lowest),
                f"{last.columns['small_extents']:.0f}",
                _percent(last.columns["descriptors_active"], 3),
                f"{last.pages_per_run or 0:.2f}",
                f"{last.columns['moved_per_written']:.3f}",
            )
        )
    return columns, rows


def _percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def _per(amount: float, count: float) -> str:
    return f"{amount / count:.2f} ({count:,.0f} times)" if count else "none was"


# -- plots ----------------------------------------------------------------------------------------


def write_plot(result: Result, path: Path) -> None:
    """Draw the shares of all policies and the overheads of the volume over the overwrites."""
    pyplot = load_matplotlib()
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.5))
    for name, samples in result.samples.items():
        x = [s.overwrites for s in samples]
        left.plot(x, [100 * s.free_whole for s in samples], marker="o", label=name)
        if name != ext4.NAME:
            middle.plot(x, [100 * (s.file_whole or 0) for s in samples], marker="o", label=name)
    ours = result.samples[OURS]
    x = [s.overwrites for s in ours]
    for column, label, style in (
        ("descriptors_active", "all active, computed", "o-"),
        ("descriptors_now", "now", "x--"),
    ):
        right.plot(x, [100 * s.columns[column] for s in ours], style, label=label)
    right.axhline(100 / 64, color="gray", linestyle=":", label="flat, 64 bytes for 4 KiB")
    for axes, title in (
        (left, "free space in free 2 MiB extents, %"),
        (middle, "file pages in whole 2 MiB extents, %"),
        (right, "page descriptors, % of the device"),
    ):
        axes.set_title(title)
        axes.set_xlabel("device overwritten, times")
        axes.set_ylim(0, None if axes is right else 103)
        axes.grid(linewidth=0.3)
        axes.legend()
    figure.suptitle(heading(result))
    figure.tight_layout()
    save_picture(figure, path)


def write_placement_plot(results: dict[str, Result], path: Path) -> None:
    """Draw the share of whole free extents over the overwrites, a line for each policy."""
    pyplot = load_matplotlib()
    figure, axes = pyplot.subplots(figsize=(7, 5))
    for name, result in results.items():
        samples = result.samples[OURS]
        x = [s.overwrites for s in samples]
        axes.plot(x, [100 * s.free_whole for s in samples], marker="o", label=name)
    axes.set_xlabel("device overwritten, times")
    axes.set_ylabel("free space in free 2 MiB extents, %")
    axes.set_title(f"which arena a page goes to, {result.options.full:.0%} full")
    axes.grid(linewidth=0.3)
    axes.legend()
    figure.tight_layout()
    save_picture(figure, path)


def write_curve_plot(results: dict[int, Result], path: Path) -> None:
    """Draw space amplification against page descriptors, a point for each threshold."""
    pyplot = load_matplotlib()
    figure, axes = pyplot.subplots(figsize=(7, 5))
    options = next(iter(results.values())).options
    percents = range(20, 101, 5)
    pages = [max(1, round(p * PAGES_PER_EXTENT / 100)) for p in percents]
    line = [profile.by_arithmetic(p, options.sizes, options.full) for p in pages]
    axes.plot([100 * d for _, d in line], [a for a, _ in line], label="by arithmetic")
    points = [(p, r.samples[OURS][-1].columns) for p, r in results.items()]
    x = [100 * c["descriptors_active"] for _, c in points]
    y = [c["amplification"] for _, c in points]
    axes.plot(x, y, "o", label="aged")
    for (percent, _), a, b in zip(points, x, y):
        axes.annotate(f"{percent}%", (a, b), textcoords="offset points", xytext=(6, 4))
    axes.set_xlabel("page descriptors, everything active, % of the device")
    axes.set_ylabel("space amplification")
    axes.set_title(f"the promotion threshold, {options.full:.0%} full")
    axes.grid(linewidth=0.3)
    axes.legend()
    figure.tight_layout()
    save_picture(figure, path)
