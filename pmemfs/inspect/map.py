"""The view ``map``: what each extent is, or each group of neighbours, in few enough cells to draw.

Cost: the part of the head table that exists; memory for the cells, not for the extents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.inspect.heads import MAX_USED, counted_kinds, split_mask
from pmemfs.inspect.reader import Heads, Reader
from pmemfs.layout.geometry import PAGES_PER_EXTENT
from pmemfs.layout.records import Kind

CLASSES = ("free", "returned", "whole", "small", "split", "descriptor", "metadata")
FREE, RETURNED, WHOLE, SMALL, SPLIT, DESCRIPTOR, METADATA = range(len(CLASSES))
MOST_CELLS = 4096

_OF_KIND = np.full(256, METADATA, np.uint8)
for _kind, _class in (
    (Kind.FREE, FREE),
    (Kind.RETURNED, RETURNED),
    (Kind.WHOLE, WHOLE),
    (Kind.SMALL, SMALL),
    (Kind.DESCRIPTOR, DESCRIPTOR),
):
    _OF_KIND[_kind] = _class


def group_for(n_extents: int, most_cells: int) -> int:
    """Return the smallest power of two of extents to a cell that gives at most that many cells."""
    group = 1
    while -(-n_extents // group) > most_cells:
        group *= 2
    return group


def device_map(reader: Reader, *, most_cells: int = MOST_CELLS) -> dict[str, Any]:
    """Return ``cells``, each ``group_extents`` neighbours (the last one maybe fewer).

    A cell says how many of its extents are of each class; ``shows`` is the class that most of
    the used ones have, and free only if all are. ``fill`` is the share of its pages in use.
    Split are small extents with a table that counts.
    """
    n_extents = reader.geometry.n_extents
    group = group_for(n_extents, most_cells)
    n_cells = -(-n_extents // group)
    counts = np.zeros((n_cells, len(CLASSES)), np.int64)
    pages = np.zeros(n_cells, np.int64)
    for first, heads in reader.iter_heads():
        _add(reader, first, heads, group, counts, pages)
    sizes = np.full(n_cells, group)
    sizes[-1] = n_extents - (n_cells - 1) * group
    counts[:, FREE] += sizes - counts.sum(axis=1)
    return {
        "n_extents": n_extents,
        "group_extents": group,
        "totals": dict(zip(CLASSES, counts.sum(axis=0).tolist())),
        "cells": _cells(counts, pages / (sizes * PAGES_PER_EXTENT), group),
    }


def _add(
    reader: Reader,
    first: int,
    heads: Heads,
    group: int,
    counts: NDArray[np.int64],
    pages: NDArray[np.int64],
) -> None:
    classes = _OF_KIND[counted_kinds(reader, first, heads)]
    classes[split_mask(reader, heads)] = SPLIT
    cells = np.arange(first, first + len(heads)) // group
    np.add.at(counts, (cells, classes), 1)
    used = np.where(classes <= RETURNED, 0, PAGES_PER_EXTENT)
    paged = (classes == SMALL) | (classes == SPLIT) | (heads["kind"] == Kind.METADATA)
    used = np.where(paged, np.minimum(heads["used"], MAX_USED) + 1, used)
    np.add.at(pages, cells, used)


def _cells(
    counts: NDArray[np.int64], fill: NDArray[np.float64], group: int
) -> list[dict[str, Any]]:
    shows = counts[:, RETURNED:].argmax(axis=1) + RETURNED
    # what is only returned space beside something used does not hide that
    used = counts[:, WHOLE:].any(axis=1)
    shows = np.where(used, counts[:, WHOLE:].argmax(axis=1) + WHOLE, shows)
    shows[~counts[:, RETURNED:].any(axis=1)] = FREE
    return [
        {
            "extent": place * group,
            "shows": CLASSES[show],
            "fill": round(share, 4),
            **{name: n for name, n in zip(CLASSES, row) if n},
        }
        for place, (show, share, row) in enumerate(
            zip(shows.tolist(), fill.tolist(), counts.tolist())
        )
    ]
