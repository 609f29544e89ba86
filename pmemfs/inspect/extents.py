"""The view ``extents``: one row for each extent, or for each range of equal ones.

Cost: the part of the head table that exists. An area whose heads were never written is one row
in any case, so that a view of terabytes that nobody used stays short.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.inspect.heads import TABLE_SHIFT, counted_kinds, kind_name, split_mask
from pmemfs.inspect.reader import Heads, Reader
from pmemfs.layout.records import Kind

SORT_KEYS = ("extent", "used", "wear", "access")

Row = dict[str, Any]

_COUNTING_UP = (Kind.WHOLE, Kind.INODES)


def extents(
    reader: Reader, *, all_rows: bool = False, sort: str = "extent", kind: str | None = None
) -> dict[str, Any]:
    """Return ``extents``, a list of rows; each is ``count`` equal extents from ``extent`` on.

    Equal are neighbours of one kind, owner and ``used`` without a split table; pieces of a file
    may count up. ``wear`` is their sum and ``access_s`` the latest, null when unknown. ``kind``
    is how an extent counts today and ``kind_code`` what its head says. All sorts but by
    extent put the largest first.
    """
    rows = _iter_rows(reader) if all_rows else _iter_joined(_iter_rows(reader, joined=True))
    found = [row for row in rows if kind is None or row["kind"] == kind]
    if sort != "extent":
        key = {"access": "access_s"}.get(sort, sort)
        found.sort(key=lambda row: row[key] or 0, reverse=True)
    return {"extents": found}


# The rows of the heads that exist, and one for each gap between them.
def _iter_rows(reader: Reader, *, joined: bool = False) -> Iterator[Row]:
    reached = 0
    for first, heads in reader.iter_heads():
        if first > reached:
            yield _never_used(reached, first - reached)
        yield from _slice_rows(reader, first, heads, joined=joined)
        reached = first + len(heads)
    if reached < reader.geometry.n_extents:
        yield _never_used(reached, reader.geometry.n_extents - reached)


def _never_used(first: int, count: int) -> Row:
    return {
        "extent": first,
        "count": count,
        "kind": kind_name(Kind.FREE),
        "kind_code": int(Kind.FREE),
        "used": 0,
        "owner": 0,
        "index": 0,
        "split": False,
        "table_pfn": None,
        "access_s": None,
        "wear": 0,
    }


def _slice_rows(reader: Reader, first: int, heads: Heads, *, joined: bool) -> Iterator[Row]:
    kinds = counted_kinds(reader, first, heads)
    split = split_mask(reader, heads)
    access = np.where(heads["generation"] == reader.generation, heads["access_s"], 0)
    starts = np.flatnonzero(_breaks(heads, kinds, split)) if joined else np.arange(len(heads))
    counts = np.diff(starts, append=len(heads))
    columns = (
        starts + first,
        counts,
        kinds[starts],
        heads["kind"][starts],
        heads["used"][starts],
        heads["owner"][starts],
        heads["index"][starts],
        split[starts],
        heads["table"][starts] >> TABLE_SHIFT,
        np.maximum.reduceat(access, starts),
        np.add.reduceat(heads["wear"], starts),
    )
    for values in zip(*(column.tolist() for column in columns)):
        yield _row(*values)


def _row(
    extent: int,
    count: int,
    kind: int,
    kind_code: int,
    used: int,
    owner: int,
    index: int,
    split: bool,
    table_pfn: int,
    access_s: int,
    wear: int,
) -> Row:
    return {
        "extent": extent,
        "count": count,
        "kind": kind_name(kind),
        "kind_code": kind_code,
        "used": used,
        "owner": owner,
        "index": index,
        "split": split,
        "table_pfn": table_pfn if split else None,
        "access_s": access_s or None,
        "wear": wear,
    }


# Where a head differs from the one before; the rule of `_continues`, by the column.
def _breaks(heads: Heads, kinds: NDArray[np.uint8], split: NDArray[np.bool_]) -> NDArray[np.bool_]:
    step = np.isin(kinds[:-1], _COUNTING_UP)
    index = heads["index"].astype(np.int64)
    breaks = np.ones(len(heads), np.bool_)
    breaks[1:] = (
        (kinds[1:] != kinds[:-1])
        | (heads["kind"][1:] != heads["kind"][:-1])
        | (heads["used"][1:] != heads["used"][:-1])
        | (heads["owner"][1:] != heads["owner"][:-1])
        | (index[1:] != index[:-1] + step)
        | split[1:]
        | split[:-1]
    )
    return breaks


# Rows of neighbouring slices and gaps may still be equal.
def _iter_joined(rows: Iterator[Row]) -> Iterator[Row]:
    last: Row | None = None
    for row in rows:
        if last is not None and _continues(last, row):
            last["count"] += row["count"]
            last["wear"] += row["wear"]
            last["access_s"] = max(last["access_s"] or 0, row["access_s"] or 0) or None
            continue
        if last is not None:
            yield last
        last = row
    if last is not None:
        yield last


def _continues(last: Row, row: Row) -> bool:
    same = all(last[key] == row[key] for key in ("kind", "kind_code", "used", "owner"))
    step = last["count"] if last["kind_code"] in _COUNTING_UP else 0
    return same and not last["split"] and not row["split"] and row["index"] == last["index"] + step
