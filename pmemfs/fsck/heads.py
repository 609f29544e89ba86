"""Check the head descriptors and keep the kind of every extent.

Only those pages of the head table are read that exist in the sparse file. Everything later
asks `ExtentTable` for the kind of an extent before it follows a number into it. The transient
halves are void on an unmounted image; only that they stay so is checked.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.host import iter_nonzero
from pmemfs.fsck.report import Finding, kind_name
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    HEAD_DURABLE_BYTES,
    HEAD_TABLE_OFFSET,
    Geometry,
    extent_to_offset,
    offset_to_extent,
)
from pmemfs.layout.records import HEAD, Kind

UNKNOWN_KIND = 255
BATCH_HEADS = 1 << 14

# Which fields a kind uses; all others are zero.
_FIELDS_OF_KIND = {
    Kind.RETURNED: (),
    Kind.WHOLE: ("owner", "index"),
    Kind.SMALL: ("used",),
    Kind.DESCRIPTOR: (),
    Kind.METADATA: ("used",),
    Kind.INODES: ("used", "index", "free_first", "frontier"),
    Kind.FIXED: (),
}
_FIELDS = ("used", "owner", "index", "free_first", "frontier")

Tick = Callable[[int, int], None]


class ExtentTable:
    """``kind`` of every extent, shape ``(n_extents,) uint8``, and which whole ones are mapped.

    ``disputed`` are those that a map has, though they are something else. An unknown kind is
    `UNKNOWN_KIND`. Arrays start as lazy zeros: what nobody used costs nothing.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.kind = np.zeros(geometry.n_extents, np.uint8)
        self.whole_claimed = np.zeros(geometry.n_extents, np.bool_)
        self.disputed = np.zeros(geometry.n_extents, np.bool_)

    def of_kind(self, *kinds: Kind) -> NDArray[np.int64]:
        """Return the numbers of all extents of these kinds, in order."""
        return np.flatnonzero(np.isin(self.kind, [int(kind) for kind in kinds]))

    def count_by_kind(self) -> dict[str, int]:
        """Return how many extents have each kind; only the reserve counts as descriptor."""
        counts = np.bincount(self.kind, minlength=UNKNOWN_KIND + 1)
        out = {kind.name.lower(): int(counts[kind]) for kind in Kind}
        stale = out["descriptor"] - int(self.kind[self.geometry.reserve_extent] == Kind.DESCRIPTOR)
        out["descriptor"] -= stale
        out["returned"] += stale
        return out


def check_heads(image: Image, extents: ExtentTable, tick: Tick) -> Iterator[Finding]:
    """Yield findings about heads, and fill the table of kinds."""
    for first, stop in image.iter_head_ranges():
        for start in range(first, stop, BATCH_HEADS):
            tick(start, extents.geometry.n_extents)
            heads = np.array(image.heads[start : min(start + BATCH_HEADS, stop)])
            yield from _check_batch(image.geometry, start, heads, extents)
            yield from _check_generations(image, start, heads)
    yield from _check_fixed(extents)
    yield from _check_beyond(image)


def _check_batch(
    geometry: Geometry, start: int, heads: NDArray[Any], extents: ExtentTable
) -> Iterator[Finding]:
    kinds = heads["kind"]
    raw = heads.view(np.uint8).reshape(len(heads), HEAD.size_bytes)
    known = kinds <= max(Kind)
    extents.kind[start : start + len(heads)] = np.where(known, kinds, UNKNOWN_KIND)
    for place in np.flatnonzero(~known).tolist():
        extent = start + place
        message = f"extent {extent} has the unknown kind {kinds[place]}"
        yield Finding("head-kind", message, geometry.head_offset(extent), extent)
    stained = (kinds == Kind.FREE) & raw[:, :HEAD_DURABLE_BYTES].any(axis=1)
    for place in np.flatnonzero(stained).tolist():
        extent = start + place
        message = f"extent {extent} is free, but the durable half of its head is not zero"
        yield Finding("head-free", message, geometry.head_offset(extent), extent)
    yield from _check_checksums(geometry, start, heads)
    yield from _check_fields(geometry, start, heads)


def _check_generations(image: Image, start: int, heads: NDArray[Any]) -> Iterator[Finding]:
    """Yield heads whose transient half a later mount would believe."""
    beyond = heads["generation"] > np.uint64(image.control()["generation"])
    for place in np.flatnonzero(beyond).tolist():
        extent, generation = start + place, heads["generation"][place]
        message = f"extent {extent} was split under mount generation {generation}, not yet reached"
        yield Finding("head-generation", message, image.geometry.head_offset(extent), extent)


def _check_checksums(geometry: Geometry, start: int, heads: NDArray[Any]) -> Iterator[Finding]:
    raw = heads.tobytes()
    sums = heads["checksum"]
    summed_bytes = HEAD.offset_of["checksum"]
    for place in np.flatnonzero(heads["kind"]).tolist():
        begin = place * HEAD.size_bytes
        if zlib.crc32(raw[begin : begin + summed_bytes]) != sums[place]:
            extent = start + place
            message = f"the head of extent {extent} has a wrong checksum"
            yield Finding("head-checksum", message, geometry.head_offset(extent), extent)


def _check_fields(geometry: Geometry, start: int, heads: NDArray[Any]) -> Iterator[Finding]:
    stray = (heads["reserved0"] | heads["reserved1"] | heads["reserved2"]) != 0
    for kind, used in _FIELDS_OF_KIND.items():
        of_kind = heads["kind"] == kind
        for name in _FIELDS:
            if name not in used:
                stray |= of_kind & (heads[name] != 0)
    stray &= heads["kind"] != Kind.FREE
    for place in np.flatnonzero(stray).tolist():
        extent, name = start + place, kind_name(heads["kind"][place])
        message = f"extent {extent} ({name}) has fields set that its kind does not use"
        yield Finding("head-fields", message, geometry.head_offset(extent), extent)


def _check_fixed(extents: ExtentTable) -> Iterator[Finding]:
    """Yield extents that are not of the kind that the geometry wants, and strays of FIXED."""
    geometry = extents.geometry
    wanted = [Kind.FIXED] * geometry.first_inode_extent + [Kind.INODES, Kind.DESCRIPTOR]
    for extent, kind in enumerate(wanted):
        if extents.kind[extent] != kind:
            found = kind_name(int(extents.kind[extent]))
            message = f"fixed extent {extent} is {found}, not {kind_name(kind)}"
            yield Finding("head-fixed", message, geometry.head_offset(extent), extent)
    for extent in extents.of_kind(Kind.FIXED).tolist():
        if extent >= geometry.first_inode_extent:
            message = f"extent {extent} is fixed, but nothing is fixed there"
            yield Finding("head-fixed", message, geometry.head_offset(extent), extent)


def _check_beyond(image: Image) -> Iterator[Finding]:
    start = HEAD_TABLE_OFFSET + image.geometry.head_table_bytes
    for offset in iter_nonzero(image.device, start, image.geometry.backup_superblock_offset):
        yield Finding("head-beyond", "there are heads behind the last extent", offset, offset)


def check_free_extents(image: Image, extents: ExtentTable, tick: Tick) -> Iterator[Finding]:
    """Yield free extents that do not read as zeros; reads only what the host file holds."""
    taken = np.append(np.flatnonzero(extents.kind), len(extents.kind))
    first = extents.geometry.fixed_extents
    for stop in taken.tolist():
        if first < stop:
            tick(first, len(extents.kind))
            for offset in iter_nonzero(
                image.device, extent_to_offset(first), extent_to_offset(stop)
            ):
                message = "a free extent does not read as zeros"
                yield Finding("free-data", message, offset, offset_to_extent(offset))
        first = max(first, stop + 1)
