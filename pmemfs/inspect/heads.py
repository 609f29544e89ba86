"""What heads mean, taken by the column: counted kinds, live splits, checksums, runs.

A head's durable half is believed as it stands. Its table and `PG_split` are believed only of a
small extent, under the current mount generation, while a daemon lives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.inspect.reader import Heads, Reader
from pmemfs.layout.geometry import (
    PAGE_BYTES,
    SPLIT_TABLE_BYTES,
    pfn_to_extent,
    pfn_to_offset,
)
from pmemfs.layout.records import HEAD, Kind, PageFlag
from pmemfs.layout.sums import bad_sums

TABLE_SHIFT = 8
MAX_USED = 511
KIND_NAMES = {int(kind): kind.name.lower() for kind in Kind}

_TABLE_PAGES = SPLIT_TABLE_BYTES // PAGE_BYTES


def kind_name(code: int) -> str:
    """Return the name of a kind in lower case; ``unknown (9)`` for what is none."""
    return KIND_NAMES.get(code, f"unknown ({code})")


def counted_kinds(reader: Reader, first: int, heads: Heads) -> NDArray[np.uint8]:
    """Return the kinds ``(n,) uint8`` of extents ``first`` onwards, as they count today.

    A descriptor extent that no living daemon took is returned, but for the reserve.
    """
    kinds: NDArray[np.uint8] = heads["kind"].copy()
    stale = kinds == Kind.DESCRIPTOR
    if reader.live:
        stale &= heads["generation"] != reader.generation
    reserve = reader.geometry.reserve_extent - first
    if 0 <= reserve < len(kinds):
        stale[reserve] = False
    kinds[stale] = Kind.RETURNED
    return kinds


def split_mask(reader: Reader, heads: Heads) -> NDArray[np.bool_]:
    """Return which heads ``(n,) bool`` have a split table that can be believed."""
    if not reader.live:
        return np.zeros(len(heads), np.bool_)
    split = (heads["table"] & int(PageFlag.SPLIT)) != 0
    return split & (heads["generation"] == reader.generation) & (heads["kind"] == Kind.SMALL)


def is_current(reader: Reader, head: dict[str, Any]) -> bool:
    """Tell whether the transient half of a head belongs to the current mount generation."""
    return bool(head["generation"] == reader.generation)


def is_split(reader: Reader, head: dict[str, Any]) -> bool:
    """Tell whether one head has a split table that can be believed."""
    flagged = bool(head["table"] & PageFlag.SPLIT) and head["kind"] == Kind.SMALL
    return flagged and reader.live and is_current(reader, head)


def table_problem(reader: Reader, table_pfn: int) -> str | None:
    """Return why there can be no split table at this pfn, or None."""
    if table_pfn >= reader.geometry.n_pages:
        return "beyond the device"
    if table_pfn % _TABLE_PAGES:
        return "not at a multiple of 32 KiB"
    if reader.kind(pfn_to_extent(table_pfn)) != Kind.DESCRIPTOR:
        return "not in a descriptor extent"
    return None


def read_table(reader: Reader, extent: int, table_pfn: int) -> bytes | None:
    """Return the 32 KiB of the split table of an extent; None, with a remark, if it is wild."""
    problem = table_problem(reader, table_pfn)
    if problem:
        reader.remark(f"extent {extent}: its split table at pfn {table_pfn} is {problem}")
        return None
    return reader.read(pfn_to_offset(table_pfn), SPLIT_TABLE_BYTES)


def is_sound(head: dict[str, Any]) -> bool:
    """Tell whether the checksum of one head is right, or needs none."""
    return not bad_sums(np.frombuffer(HEAD.pack(**head), HEAD.dtype))[0]


def runs_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the runs of true of a mask start and how long they are, ``(n,) int64``."""
    padded = np.concatenate(([False], mask, [False]))
    edges = np.flatnonzero(padded[1:] != padded[:-1]).astype(np.int64)
    return edges[::2], edges[1::2] - edges[::2]
