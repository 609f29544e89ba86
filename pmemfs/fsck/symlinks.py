"""Check symbolic links: the target in the inode, or in a page of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.inodes import SYMLINK, Chunk
from pmemfs.fsck.owners import OwnerPages
from pmemfs.fsck.report import Finding
from pmemfs.layout.geometry import PAGE_BYTES
from pmemfs.layout.records import INLINE_BYTES, MapKind, Role


def check_symlinks(
    owners: OwnerPages,
    chunk: Chunk,
    types: NDArray[np.uint8],
    records: NDArray[Any],
) -> Iterator[Finding]:
    """Yield findings about all symbolic links of one chunk."""
    for place in np.flatnonzero(types == SYMLINK).tolist():
        record, ino = records[place], chunk.first_ino + place
        offset = chunk.offset_of(place)
        kind, size = int(record["map_kind"]), int(record["size"])
        if kind == MapKind.INLINE and size <= INLINE_BYTES:
            yield from _check_target(ino, size, record["map"].tobytes(), offset)
        elif kind == MapKind.RUNS:
            yield from _check_page(owners, ino, record, offset)


def _check_page(owners: OwnerPages, ino: int, record: Any, offset: int) -> Iterator[Finding]:
    if record["map"][1:].any():
        message = f"symlink {ino} has more than one map word"
        yield Finding("map-word", message, offset, ino)
    finding = owners.claim_metadata(int(record["map"][0]), ino, Role.SYMLINK)
    if finding is not None:
        yield finding
    elif int(record["size"]) < PAGE_BYTES:
        page = bytes(owners.read_page(int(record["map"][0])))
        yield from _check_target(ino, int(record["size"]), page, offset)


def _check_target(ino: int, size: int, data: bytes, offset: int) -> Iterator[Finding]:
    length = len(data.rstrip(b"\0"))
    if length != size or 0 in data[:size]:
        message = f"the target of symlink {ino} is not the {size} bytes that its size says"
        yield Finding("symlink-target", message, offset, ino)
