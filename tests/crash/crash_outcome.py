"""What a recovered image comes to: a digest of all that anything after a crash depends on.

Left out, since the format says that nobody believes it: journal slots that are replayed, the
sequence word, the transient halves of heads, split tables. Of pages that nobody owns, and of free
extents, only whether they hold anything: what is there must never be seen, so one state with and
one without stand for all. Data of files is a part by itself, as names and maps do not depend on
it.
"""

from __future__ import annotations

from typing import NamedTuple

from crash_case import GEOMETRY

from pmemfs.device.sparse import digest_pages
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_PAGE_SHIFT,
    HEAD_BYTES,
    HEAD_DURABLE_BYTES,
    HEAD_TABLE_OFFSET,
    JOURNAL_OFFSET,
    JOURNAL_SLOT_BYTES,
    JOURNAL_SLOTS,
    PAGE_SHIFT,
    PAGES_PER_EXTENT,
)
from pmemfs.layout.records import CONTROL, Kind

_CONTROL = CONTROL_OFFSET >> PAGE_SHIFT
_SEQUENCE = CONTROL.offset_of["sequence"]
_JOURNAL = range(
    JOURNAL_OFFSET >> PAGE_SHIFT,
    (JOURNAL_OFFSET + JOURNAL_SLOTS * JOURNAL_SLOT_BYTES) >> PAGE_SHIFT,
)
_HEADS = HEAD_TABLE_OFFSET >> PAGE_SHIFT
_HEADS_STOP = HEAD_TABLE_OFFSET + GEOMETRY.n_extents * HEAD_BYTES
_FIRST_INODES = GEOMETRY.first_inode_extent
_ZERO_PAGE = bytes(4096)
assert GEOMETRY.head_table_bytes <= 4096, "the heads of a crash image fit in one page"


class Outcome(NamedTuple):
    """Digests of what holds names, maps and attributes together, and of the data of files."""

    structure: int
    data: int


def outcome_of(view: memoryview, pages: dict[int, bytes]) -> Outcome:
    """Return the outcome of a recovered image, given its bytes and its pages by number."""
    kinds = bytes(view[HEAD_TABLE_OFFSET:_HEADS_STOP:HEAD_BYTES])
    structure: list[tuple[int, bytes]] = [(_HEADS, _durable_heads(view))]
    data: list[tuple[int, bytes]] = []
    stained: set[tuple[int, bool]] = set()
    for number, page in pages.items():
        extent = number >> EXTENT_PAGE_SHIFT
        if extent < _FIRST_INODES:
            if number == _CONTROL:
                page = page[:_SEQUENCE] + page[_SEQUENCE + 8 :]
            elif number == _HEADS or number in _JOURNAL:
                continue
            structure.append((number, page))
            continue
        kind = kinds[extent]
        if kind == Kind.INODES:
            structure.append((number, page))
        elif kind == Kind.WHOLE:
            data.append((number, page))
        elif kind in (Kind.SMALL, Kind.METADATA):
            slot = number & (PAGES_PER_EXTENT - 1)
            start = (extent << EXTENT_PAGE_SHIFT << PAGE_SHIFT) + slot * 8
            if not slot or (kind == Kind.METADATA and any(view[start : start + 8])):
                structure.append((number, page))
            elif any(view[start : start + 8]):
                data.append((number, page))
            else:
                stained.add((extent, page != _ZERO_PAGE))
        elif kind == Kind.FREE:
            stained.add((extent, page != _ZERO_PAGE))
    structure += [(-extent, b"data" if is_data else b"zeros") for extent, is_data in stained]
    return Outcome(digest_pages(structure), digest_pages(data))


def _durable_heads(view: memoryview) -> bytes:
    raw = bytes(view[HEAD_TABLE_OFFSET:_HEADS_STOP])
    return b"".join(
        raw[start : start + HEAD_DURABLE_BYTES] for start in range(0, len(raw), HEAD_BYTES)
    )
