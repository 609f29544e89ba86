"""What `measure` found as three pictures."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import numpy as np

from pmemfs.bench.descriptors.accesses import usable_extents
from pmemfs.bench.descriptors.measure import SCHEMES, Document
from pmemfs.bench.picture import load_matplotlib, save_picture, validate_picture
from pmemfs.dead_mounts import validate_alive
from pmemfs.errors import PmemfsError
from pmemfs.units import format_size

PLOTS = ("bytes.png", "initialise.png", "wear.png")
_COLOURS = {
    "flat": "#d62728",
    "scattered": "#ff9896",
    "hierarchical": "#ff7f0e",
    "inverted": "#1f77b4",
    "vmemmap-dedup": "#2ca02c",
    "memdesc": "#9467bd",
    "memdesc-runs": "#c5b0d5",
}
_LEAST_APART = 0.09  # of the axis, for a label on it
_DASHED = ("scattered", "hierarchical")  # each close to another


def write_plots(document: Document, folder: Path) -> list[Path]:
    """Write the pictures to a folder, see `make_folder`; raises `PmemfsError` if one cannot be."""
    pyplot = load_matplotlib()
    paths = []
    for name, draw in zip(PLOTS, (_draw_bytes, _draw_initialise, _draw_wear)):
        figure, axes = pyplot.subplots(figsize=(8, 5))
        draw(axes, document)
        axes.grid(which="both", linewidth=0.3)
        axes.legend(fontsize="small")
        figure.tight_layout()
        save_picture(figure, folder / name)
        paths.append(folder / name)
    return paths


def make_folder(folder: Path) -> None:
    """Make a folder for the pictures; raises `PmemfsError` if one of them cannot be written."""
    load_matplotlib()
    validate_alive(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PmemfsError(
            error.errno or errno.EIO, f"cannot make the folder {folder}: {error.strerror}"
        ) from error
    for name in PLOTS:
        validate_picture(folder / name)


def _style(name: str) -> dict[str, Any]:
    is_ours = name == "inverted"
    width = {"inverted": 2.5, "flat": 4.0}.get(name, 1.5)  # flat is seen below those that equal it
    return {
        "label": name,
        "color": _COLOURS[name],
        "linewidth": width,
        "linestyle": (0, (4, 2)) if name in _DASHED else "-",
        "zorder": 1.5 if name == "flat" else 3 if is_ours or name in _DASHED else 2,
    }


def _draw_bytes(axes: Any, document: Document) -> None:
    for name, scheme in document.items():
        points = scheme["sweep"]
        if not points:
            continue
        size_bytes = points[0]["device_bytes"]
        n = usable_extents(size_bytes)
        small = np.arange(n + 1)
        computed = SCHEMES[name].swept_bytes(size_bytes, small, n - small, scheme["run_pages"])
        style = _style(name)
        axes.plot(100 * small / n, 100 * computed / size_bytes, **style)
        shares = [100 * row["split_share"] for row in points]
        measured = [100 * row["share_of_device"] for row in points]
        axes.plot(shares, measured, "o", markersize=4, color=style["color"], zorder=4)
    axes.set_title("Space of descriptors (lines: computed; points: measured)")
    axes.set_xlabel("split extents, % of those in use")
    axes.set_ylabel("descriptors, % of the device")
    axes.set_ylim(bottom=0)


def _draw_initialise(axes: Any, document: Document) -> None:
    for name, scheme in document.items():
        rows = scheme["initialise"]
        sizes = [row["device_bytes"] for row in rows]
        seconds = [row["seconds"] for row in rows]
        axes.plot(sizes, seconds, **_style(name))
        for row in rows:
            face = "none" if row["extrapolated"] else _COLOURS[name]
            axes.plot(
                row["device_bytes"], row["seconds"], "o", color=_COLOURS[name],
                markerfacecolor=face, markersize=6, zorder=4,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, _apart(sizes))
    axes.minorticks_off()
    axes.set_title("Time to initialise (open circles: extrapolated)")
    axes.set_xlabel("size of the device")
    axes.set_ylabel("CPU time, s")


def _apart(sizes: list[int]) -> list[str]:
    """Return a label for each size, empty where it would reach into the one before."""
    least = _LEAST_APART * math.log(sizes[-1] / sizes[0])
    labels: list[str] = []
    last = -math.inf
    for size in sizes:
        is_apart = math.log(size) - last >= least
        last = math.log(size) if is_apart else last
        labels.append(format_size(size) if is_apart else "")
    return labels


def _draw_wear(axes: Any, document: Document) -> None:
    for name, scheme in document.items():
        curve = scheme["wear"].get("curve", [])
        if curve:
            axes.plot([rank for rank, _ in curve], [n for _, n in curve], **_style(name))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title("Wear: stores to each line of the device, the hottest first")
    axes.set_xlabel("rank of the line of 64 bytes, 1 = hottest")
    axes.set_ylabel("stores to the line, number")
