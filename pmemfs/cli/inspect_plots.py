"""The views map and wear as PNG pictures; needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pmemfs.bench.picture import load_matplotlib, save_picture
from pmemfs.cli.inspect_device import COLOURS, hottest_sentence
from pmemfs.inspect.map import CLASSES
from pmemfs.units import format_size

Data = dict[str, Any]

_PAPER = (0.97, 0.97, 0.97)
_EMPTY = (0.90, 0.90, 0.90)


def _columns(n_cells: int) -> int:
    """Return a power of two that makes the picture about twice as wide as high."""
    return 1 << max(4, math.ceil(math.log2(math.sqrt(2 * n_cells))))


def write_map(data: Data, path: Path) -> None:
    """Write the view ``map``: a square for each cell, paler where it is less full."""
    pyplot = load_matplotlib()
    cells = data["cells"]
    columns = _columns(len(cells))
    rows = -(-len(cells) // columns)
    image = np.full((rows * columns, 3), _PAPER)
    for place, cell in enumerate(cells):
        image[place] = _tint(cell)
    figure, axes = pyplot.subplots(figsize=(11, max(2.6, 10.2 * rows / columns + 1.1)))
    axes.imshow(image.reshape(rows, columns, 3), interpolation="nearest", aspect="equal")
    if columns <= 128:
        axes.set_xticks(np.arange(-0.5, columns), minor=True)
        axes.set_yticks(np.arange(-0.5, rows), minor=True)
        axes.grid(which="minor", color="white", linewidth=0.4)
        axes.tick_params(which="minor", length=0)
    _label_extents(axes, data, columns, rows)
    group = data["group_extents"]
    what = "an extent of 2 MiB" if group == 1 else f"{group} extents, {format_size(group << 21)}"
    size = format_size(data["n_extents"] << 21)
    axes.set_title(f"{_name(data)}: {size}, a square is {what}", fontsize=11)
    handles = [
        pyplot.Rectangle((0, 0), 1, 1, color=_rgb(name) if name != "free" else _EMPTY)
        for name in CLASSES
    ]
    labels = [f"{name}: {data['totals'][name]:,}" for name in CLASSES]
    figure.legend(handles, labels, loc="lower center", ncols=len(CLASSES), fontsize=8)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save_picture(figure, path, bbox_inches="tight")


def _rgb(name: str) -> tuple[float, ...]:
    return tuple(part / 255 for part in COLOURS[name])


def _tint(cell: Data) -> tuple[float, ...]:
    shows = cell["shows"]
    if shows == "free":
        return _EMPTY
    strength = 1.0 if shows == "returned" else 0.3 + 0.7 * cell["fill"]
    return tuple(1 - (1 - part) * strength for part in _rgb(shows))


def _name(data: Data) -> str:
    return str(data["image"]).rpartition("/")[2].replace("$", r"\$")


def _label_extents(axes: Any, data: Data, columns: int, rows: int) -> None:
    step = max(1, rows // 8)
    ticks = range(0, rows, step)
    axes.set_yticks(list(ticks), [f"{row * columns * data['group_extents']:,}" for row in ticks])
    axes.set_xticks([])
    axes.set_ylabel("extent")


def write_wear(data: Data, path: Path) -> None:
    """Write the view ``wear``: lines by place, and by rank of the extent."""
    pyplot = load_matplotlib()
    figure, (places, ranks) = pyplot.subplots(1, 2, figsize=(12, 4.5), width_ratios=(3, 2))
    cells = np.array(data["cells"], np.int64)
    worn = np.flatnonzero(cells)
    group = data["group_extents"]
    places.vlines(worn * group, 0.8, cells[worn], color=_rgb("whole"), linewidth=1)
    places.set_xlim(-0.01 * data["n_extents"], 1.01 * data["n_extents"])
    places.set_xlabel("extent" if group == 1 else f"extent, the hottest of each {group}")
    places.set_ylabel("lines flushed")
    ranked = np.sort(cells[worn])[::-1]
    ranks.plot(np.arange(1, len(ranked) + 1), ranked, color=_rgb("descriptor"))
    ranks.set_xlabel("rank, the hottest first")
    for axes in (places, ranks):
        if len(ranked):
            axes.set_yscale("log")
        axes.grid(which="major", linewidth=0.3)
    ranks.set_ylabel("lines flushed")
    ranks.set_title(f"the hottest {hottest_sentence(data)}", fontsize=10)
    places.set_title(
        f"{_name(data)}: {data['lines']:,} lines in {data['worn_extents']:,} extents", fontsize=10
    )
    figure.tight_layout()
    save_picture(figure, path, bbox_inches="tight")
