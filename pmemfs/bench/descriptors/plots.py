"""What `measure` found as three pictures."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from pmemfs.bench.descriptors.measure import Document
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
        shares = [100 * row["split_share"] for row in points]
        parts = [100 * row["share_of_device"] for row in points]
        axes.plot(shares, parts, marker="o", markersize=3, **_style(name))
    axes.set_title("Space of descriptors by the share of extents that are split")
    axes.set_xlabel("split extents, % of all")
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
    axes.set_xticks(sizes, [format_size(size) for size in sizes])
    axes.minorticks_off()
    axes.set_title("Time to initialise (open circles: extrapolated)")
    axes.set_xlabel("size of the device, bytes")
    axes.set_ylabel("CPU time, s")


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
