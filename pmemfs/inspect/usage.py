"""The view ``usage``: what the device, its extents and its descriptors take.

Cost: the part of the head table that exists, and 32 KiB for each split extent; nothing grows
with files or pages. It always holds that ``extents.total`` is the sum of free, whole, small,
descriptor and metadata; ``returned`` is a part of free.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.inspect.heads import (
    MAX_USED,
    TABLE_SHIFT,
    counted_kinds,
    read_table,
    split_mask,
)
from pmemfs.inspect.reader import Heads, Reader
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    HEAD_BYTES,
    PAGE_BYTES,
    SPLIT_TABLE_BYTES,
)
from pmemfs.layout.records import PAGE_DESCRIPTOR, Kind, PageFlag
from pmemfs.layout.sums import bad_sums


class _Totals:
    """Sums over the heads that exist; extents without one are added as free."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.by_kind = np.zeros(256, np.int64)
        self.small_pages = 0
        self.inodes = 0
        self.tables: list[tuple[int, int]] = []
        for first, heads in reader.iter_heads():
            self._add(first, heads)
        self.by_kind[Kind.FREE] += reader.geometry.n_extents - int(self.by_kind.sum())

    def _add(self, first: int, heads: Heads) -> None:
        kinds = counted_kinds(self.reader, first, heads)
        self.by_kind += np.bincount(kinds, minlength=256)
        self.small_pages += int(np.minimum(heads["used"][kinds == Kind.SMALL], MAX_USED).sum())
        self.inodes += int(heads["used"][kinds == Kind.INODES].sum(dtype=np.int64))
        split = split_mask(self.reader, heads)
        places = np.flatnonzero(split)
        pfns = (heads["table"][places] >> TABLE_SHIFT).tolist()
        self.tables += zip((first + places).tolist(), pfns)
        self._check(first, heads, kinds, split)

    def _check(
        self, first: int, heads: Heads, kinds: NDArray[np.uint8], split: NDArray[np.bool_]
    ) -> None:
        paged = (kinds == Kind.SMALL) | (kinds == Kind.METADATA)
        flagged = (heads["table"] & int(PageFlag.SPLIT)) != 0
        current = flagged & (heads["generation"] == self.reader.generation)
        live = np.bool_(self.reader.live)
        self._remark(first, bad_sums(heads), "have a head with a wrong checksum")
        self._remark(first, kinds > max(Kind), "are of an unknown kind; counted as metadata")
        self._remark(first, paged & (heads["used"] > MAX_USED), "use more than 511 pages")
        self._remark(first, live & current & ~split, "are split but not small")

    def _remark(self, first: int, mask: NDArray[np.bool_], what: str) -> None:
        places = np.flatnonzero(mask)
        if len(places):
            named = ", ".join(str(first + place) for place in places[:5].tolist())
            more = f" and {len(places) - 5} more" if len(places) > 5 else ""
            self.reader.remark(f"extents {named}{more} {what}")

    def extents(self) -> dict[str, int]:
        """Return the extents by how they count; the kinds that are none are metadata."""
        count = {kind: int(self.by_kind[kind]) for kind in Kind}
        total = self.reader.geometry.n_extents
        free = count[Kind.FREE] + count[Kind.RETURNED]
        named = free + count[Kind.WHOLE] + count[Kind.SMALL] + count[Kind.DESCRIPTOR]
        return {
            "total": total,
            "free": free,
            "returned": count[Kind.RETURNED],
            "whole": count[Kind.WHOLE],
            "small": count[Kind.SMALL],
            "descriptor": count[Kind.DESCRIPTOR],
            "metadata": total - named,
        }


# A table named twice is read once, so that what is read is bounded by the descriptor extents.
def _touched_descriptors(reader: Reader, tables: list[tuple[int, int]]) -> int:
    touched = 0
    seen: dict[int, int] = {}
    for extent, pfn in tables:
        if pfn in seen:
            reader.remark(f"extents {seen[pfn]} and {extent} name one split table, pfn {pfn}")
            continue
        seen[pfn] = extent
        data = read_table(reader, extent, pfn)
        if data is not None:
            owners = np.frombuffer(data, PAGE_DESCRIPTOR.dtype)["owner"]
            touched += int(np.count_nonzero(owners))
    return touched


def usage(reader: Reader) -> dict[str, Any]:
    """Return bytes, extents by kind, inodes and descriptors of the image.

    ``inodes`` are those in use, the root included; ``files`` are these without the root, of any
    type. ``page_descriptors`` are the touched ones, ``page_descriptor_bytes`` whole tables.
    """
    totals = _Totals(reader)
    extents = totals.extents()
    device_bytes = reader.geometry.device_bytes
    free_pages = extents["small"] * MAX_USED - totals.small_pages
    free_bytes = extents["free"] * EXTENT_BYTES + free_pages * PAGE_BYTES
    return {
        "device_bytes": device_bytes,
        "host_bytes": reader.image.device.host_bytes,
        "used_bytes": device_bytes - free_bytes,
        "free_bytes": free_bytes,
        "inodes": totals.inodes,
        "files": max(totals.inodes - 1, 0),
        "extents": extents,
        **_descriptors(reader, totals, extents),
    }


def _descriptors(reader: Reader, totals: _Totals, extents: dict[str, int]) -> dict[str, int]:
    n_split = len(totals.tables)
    return {
        "split_extents": n_split,
        "head_descriptors": reader.geometry.n_extents,
        "head_descriptor_bytes": reader.geometry.n_extents * HEAD_BYTES,
        "page_descriptors": _touched_descriptors(reader, totals.tables),
        "page_descriptor_bytes": n_split * SPLIT_TABLE_BYTES,
        "descriptor_extents": extents["descriptor"],
        "descriptor_extent_bytes": extents["descriptor"] * EXTENT_BYTES,
        "reserve_bytes": EXTENT_BYTES,
        "small_pages": totals.small_pages,
        "owner_page_bytes": extents["small"] * PAGE_BYTES,
        "metadata_owner_page_bytes": int(totals.by_kind[Kind.METADATA]) * PAGE_BYTES,
    }
