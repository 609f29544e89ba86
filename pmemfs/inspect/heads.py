"""What heads mean, taken by the column: counted kinds, live splits, checksums, runs.

A head's durable half is believed as it stands. Its table and `PG_split` are believed only of a
small extent, under the current mount generation, while a daemon lives.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.inspect.reader import Heads, Reader
from pmemfs.layout.geometry import (
    HEAD_BYTES,
    PAGE_BYTES,
    SPLIT_TABLE_BYTES,
    pfn_to_extent,
    pfn_to_offset,
)
from pmemfs.layout.records import HEAD, Kind, PageFlag

TABLE_SHIFT = 8
MAX_USED = 511
KIND_NAMES = {int(kind): kind.name.lower() for kind in Kind}

_SUMMED_BYTES = HEAD.offset_of["checksum"]
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


@cache
def _checksum_tables() -> tuple[NDArray[np.uint32], int]:
    # CRC-32 is affine: the sum is that of zeros, changed by each byte on its own.
    zero = zlib.crc32(bytes(_SUMMED_BYTES))
    tables = np.empty((_SUMMED_BYTES, 256), np.uint32)
    body = bytearray(_SUMMED_BYTES)
    for place in range(_SUMMED_BYTES):
        for value in range(256):
            body[place] = value
            tables[place, value] = zlib.crc32(body) ^ zero
        body[place] = 0
    return tables, zero


def bad_checksums(heads: Heads) -> NDArray[np.bool_]:
    """Return which heads ``(n,) bool`` have a wrong checksum; a durable half of zeros has none."""
    tables, zero = _checksum_tables()
    data = heads.view(np.uint8).reshape(-1, HEAD_BYTES)
    sums = np.full(len(heads), zero, np.uint32)
    for place in range(_SUMMED_BYTES):
        sums ^= tables[place][data[:, place]]
    return (sums != heads["checksum"]) & data[:, : _SUMMED_BYTES + 4].any(axis=1)


def is_sound(head: dict[str, Any]) -> bool:
    """Tell whether the checksum of one head is right, or needs none."""
    return not bad_checksums(np.frombuffer(HEAD.pack(**head), HEAD.dtype))[0]


def runs_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the runs of true of a mask start and how long they are, ``(n,) int64``."""
    padded = np.concatenate(([False], mask, [False]))
    edges = np.flatnonzero(padded[1:] != padded[:-1]).astype(np.int64)
    return edges[::2], edges[1::2] - edges[::2]
