"""The view ``wear``: how often the lines of each extent were flushed, as the heads tell.

Counted are lines of file data when they are flushed: new pages and stores to whole extents with
their write, copies of the daemon's own, and a page of a small file that is overwritten in place
once it is made durable (fsync, unsplit, unmounting), however often it was stored before. Such
pages stand in ``unflushed_pages`` until then. What fills metadata extents, owner pages, inodes, the
head table, split tables and the journal is not counted.

A head's wear is a lower bound: a crash loses what was not added yet. Of extents that are split just
now the wear in their tables is added.

Cost: the part of the head table that exists, 32 KiB for each split extent, and memory for the
extents that have been worn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.inspect.heads import TABLE_SHIFT, counted_kinds, kind_name, read_table, split_mask
from pmemfs.inspect.map import MOST_CELLS, group_for
from pmemfs.inspect.reader import Heads, Reader
from pmemfs.layout.geometry import EXTENT_BYTES
from pmemfs.layout.records import PAGE_DESCRIPTOR, PageFlag

LINES_PER_EXTENT = EXTENT_BYTES // 64
MOST_HOTTEST = 1000
_BELIEVED = 1 << 48  # more lines than any device lives to see: the sums stay in 64 bits

_DIRTY = np.uint64(PageFlag.DIRTY)

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]


def wear(reader: Reader, *, hottest: int = 10, most_cells: int = MOST_CELLS) -> dict[str, Any]:
    """Return totals, the distribution over extents, the hottest, and ``cells`` to draw.

    ``lines`` are lines flushed; ``turns`` is how often that is all of an extent once over. The
    buckets of ``histogram`` are powers of two of lines for each extent. The hottest hundredth of
    the worn extents is rounded up.
    """
    (extents, lines, kinds), unflushed = _columns(reader)
    order = np.argsort(lines, kind="stable")[::-1]
    ranked = lines[order]
    total = int(lines.sum())
    return {
        "n_extents": reader.geometry.n_extents,
        "worn_extents": len(extents),
        "lines": total,
        "unflushed_pages": unflushed,
        "turns": total / LINES_PER_EXTENT / reader.geometry.n_extents,
        "hottest_1_percent_extents": _hundredth(ranked),
        "hottest_1_percent_share": _share(ranked, total),
        "by_kind": _by_kind(lines, kinds),
        "histogram": _histogram(lines),
        "hottest": [
            {
                "extent": int(extents[i]),
                "kind": kind_name(int(kinds[i])),
                "lines": int(lines[i]),
                "turns": int(lines[i]) / LINES_PER_EXTENT,
            }
            for i in order[: min(hottest, MOST_HOTTEST)].tolist()
        ],
        **_cells(reader, extents, lines, most_cells),
    }


def _hundredth(ranked: NDArray[np.int64]) -> int:
    return -(-len(ranked) // 100)


def _share(ranked: NDArray[np.int64], total: int) -> float:
    return int(ranked[: _hundredth(ranked)].sum()) / total if total else 0.0


def _columns(reader: Reader) -> tuple[Columns, int]:
    """Return the numbers, wear and kinds of extents that have been worn, ``(n,)`` each.

    And how many pages are dirty: their lines are not flushed, so not counted yet.
    """
    parts: list[Columns] = []
    unflushed = 0
    for first, heads in reader.iter_heads():
        lines = np.minimum(heads["wear"], _BELIEVED).astype(np.int64)
        _remark_wild(reader, first, heads)
        split = np.flatnonzero(split_mask(reader, heads))
        for place in split.tolist():
            table = int(heads["table"][place]) >> TABLE_SHIFT
            data = read_table(reader, first + place, table)
            if data is not None:
                inside = np.frombuffer(data, PAGE_DESCRIPTOR.dtype)
                lines[place] += int(np.minimum(inside["wear"], _BELIEVED).sum())
                unflushed += dirty_pages(inside)
        worn = np.flatnonzero(lines)
        kinds = counted_kinds(reader, first, heads)
        parts.append((worn + first, lines[worn], kinds[worn]))
    if not parts:
        return (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8)), 0
    columns = tuple(np.concatenate(column) for column in zip(*parts))
    return columns, unflushed  # type: ignore[return-value]


def dirty_pages(table: NDArray[Any]) -> int:
    """Return how many pages of a split table were stored to, and not flushed since."""
    return int(np.count_nonzero((table["owner"] != 0) & (table["state"] & _DIRTY != 0)))


def _remark_wild(reader: Reader, first: int, heads: Heads) -> None:
    for place in np.flatnonzero(heads["wear"] > _BELIEVED)[:5].tolist():
        reader.remark(f"extent {first + place}: its wear cannot be {heads['wear'][place]} lines")


def _by_kind(lines: NDArray[np.int64], kinds: NDArray[np.uint8]) -> dict[str, dict[str, int]]:
    return {
        kind_name(kind): {
            "extents": int((kinds == kind).sum()),
            "lines": int(lines[kinds == kind].sum()),
        }
        for kind in np.unique(kinds).tolist()
    }


def _histogram(lines: NDArray[np.int64]) -> list[dict[str, int]]:
    if not len(lines):
        return []
    buckets = np.floor(np.log2(lines)).astype(np.int64)
    return [
        {
            "min_lines": 1 << bucket,
            "below_lines": 2 << bucket,
            "extents": int((buckets == bucket).sum()),
            "lines": int(lines[buckets == bucket].sum()),
        }
        for bucket in range(int(buckets.min()), int(buckets.max()) + 1)
    ]


def _cells(
    reader: Reader, extents: NDArray[np.int64], lines: NDArray[np.int64], most_cells: int
) -> dict[str, Any]:
    group = group_for(reader.geometry.n_extents, most_cells)
    hottest = np.zeros(-(-reader.geometry.n_extents // group), np.int64)
    np.maximum.at(hottest, extents // group, lines)
    return {"group_extents": group, "cells": hottest.tolist()}
