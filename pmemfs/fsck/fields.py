"""Check what each inode says of itself: type, kind of map, size, fields of its type.

Vectorised over a chunk: each rule is a column of wrong places. Sums and chains are for `inodes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.inodes import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    REGULAR,
    SYMLINK,
    UNKNOWN_TYPE,
    Chunk,
    InodeTable,
)
from pmemfs.fsck.report import Finding
from pmemfs.layout.geometry import INODE_BYTES, MAX_DEVICE_NUMBER, MAX_FILE_BYTES, SYMLINK_MAX
from pmemfs.layout.records import INLINE_BYTES, INODE, InodeFlag, MapKind

MAX_TREE_HEIGHT = 4
KNOWN_FLAGS = int(sum(InodeFlag))

Columns = NDArray[Any]


def check_fields(
    inodes: InodeTable, row: int, records: Columns, sequence: int
) -> Iterator[Finding]:
    """Yield findings about the inodes of one chunk.

    ``sequence`` is the number of the last transaction that was committed.
    """
    chunk = inodes.chunks[row]
    types = inodes.type[inodes.rows_of(row)]
    used = types != 0
    yield from _each(chunk, "inode-type", types == UNKNOWN_TYPE, "has no type that is known")
    wrong = used & ~_map_fits(types, records)
    yield from _each(chunk, "inode-map-kind", wrong, "has a map that its type does not have")
    wrong = used & ~_size_fits(types, records)
    yield from _each(chunk, "inode-size", wrong, "has an impossible size")
    wrong = used & _has_strays(types, records)
    yield from _each(chunk, "inode-fields", wrong, "has fields set that its type does not use")
    wrong = used & (records["generation"] > np.uint64(sequence))
    yield from _each(chunk, "inode-fields", wrong, "was made by a transaction that never was")
    unlisted = used & ~inodes.listed[inodes.rows_of(row)]
    wrong = unlisted & (records["nlink"] != 0) & (records["next"] != 0)
    text = "names a next inode, but is neither free nor on the orphan list"
    yield from _each(chunk, "inode-fields", wrong, text)
    freed = records["mode"] == 0
    freed[: chunk.first_place] = False
    wrong = freed & _is_not_clear(records)
    yield from _each(chunk, "inode-fields", wrong, "is free, but has fields set")


def _each(chunk: Chunk, check: str, wrong: Columns, text: str) -> Iterator[Finding]:
    for place in np.flatnonzero(wrong).tolist():
        message = f"inode {chunk.first_ino + place} {text}"
        yield Finding(check, message, chunk.offset_of(place), chunk.first_ino + place)


def _map_fits(types: Columns, records: Columns) -> Columns:
    """Tell whether kind and height of the map are those of the type."""
    kind, height = records["map_kind"], records["map_height"]
    tree = (kind == MapKind.TREE) & (height >= 1) & (height <= MAX_TREE_HEIGHT)
    flat = height == 0
    runs = (kind == MapKind.RUNS) & flat
    inline = (kind == MapKind.INLINE) & flat & (records["size"] <= INLINE_BYTES)
    long = runs & (records["size"] > INLINE_BYTES)
    empty = runs & ~records["map"].any(axis=1)
    choices = {
        REGULAR: runs | tree,
        DIRECTORY: (kind == MapKind.DIRECTORY) & flat,
        SYMLINK: inline | long,
        UNKNOWN_TYPE: np.ones(len(types), np.bool_),
    }
    return np.select([types == kind for kind in choices], list(choices.values()), empty)


def _size_fits(types: Columns, records: Columns) -> Columns:
    size = records["size"]
    link = (size >= 1) & (size <= SYMLINK_MAX)
    choices = [types == REGULAR, types == SYMLINK, types == UNKNOWN_TYPE]
    return np.select(choices, [size <= MAX_FILE_BYTES, link, size >= 0], size == 0)


def _has_strays(types: Columns, records: Columns) -> Columns:
    """Tell whether fields, or bits of them, are set that must be zero."""
    device = (types == CHARACTER) | (types == BLOCK)
    strays = (records["reserved0"] != 0) | (records["reserved1"] != 0)
    strays |= records["mode"] > 0xFFFF
    strays |= (records["flags"] & ~np.uint32(KNOWN_FLAGS)) != 0
    preallocated = (records["flags"] & np.uint32(InodeFlag.PREALLOCATED)) != 0
    strays |= (types != REGULAR) & (types != UNKNOWN_TYPE) & preallocated
    strays |= np.where(device, records["rdev"] > MAX_DEVICE_NUMBER, records["rdev"] != 0)
    strays |= (types != DIRECTORY) & ((records["entries"] != 0) | (records["parent"] != 0))
    return strays


def _is_not_clear(records: Columns) -> Any:
    """Tell whether anything but what a freed inode has, a next one and a checksum, is set."""
    raw = records.view(np.uint8).reshape(len(records), INODE_BYTES)
    low, high = INODE.offset_of["next"], INODE.offset_of["checksum"]
    behind = INODE.offset_of["map_kind"]
    return np.any(np.concatenate([raw[:, :low], raw[:, behind:high]], axis=1), axis=1)
