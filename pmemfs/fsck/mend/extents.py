"""Mend head descriptors: decide anew what an extent is, from what it holds and who has it.

The evidence, the strongest first: the geometry (fixed extents); a map in an inode with a right
checksum that has the extent as a whole one; inodes with right checksums in it; owner words in its
page 0 that all can be. What the damaged head says decides between equals. An extent without any
evidence is returned: what it holds is nobody's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.draft import Risk, Way
from pmemfs.fsck.fields import MAX_TREE_HEIGHT
from pmemfs.fsck.host import ZERO_STRIDE_BYTES, is_present, read_present
from pmemfs.fsck.inodes import MAX_CHUNKS, REGULAR, TYPES
from pmemfs.fsck.maps import RunWords
from pmemfs.fsck.mend.filemap import read_map
from pmemfs.fsck.mend.mending import Mending
from pmemfs.fsck.report import kind_name
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    EXTENT_PAGE_SHIFT,
    INODE_BYTES,
    INODES_PER_EXTENT,
    PAGE_BYTES,
    PAGES_PER_EXTENT,
    extent_to_offset,
    pfn_to_extent,
    pfn_to_offset,
)
from pmemfs.layout.records import DIRECTORY_LEAF, HEAD, INODE, Kind, MapKind, Role
from pmemfs.layout.words import INO_MASK, PFN_MASK, WHOLE, owner_index, owner_ino
from pmemfs.units import count

_SUMMED_BYTES = INODE.offset_of["checksum"]
FREE_KINDS = (Kind.FREE, Kind.RETURNED, Kind.DESCRIPTOR)
_LOSING = (Kind.WHOLE, Kind.SMALL, Kind.METADATA, Kind.INODES)
Words = NDArray[np.uint64]


def mend_beyond(m: Mending) -> None:
    """Clear what lies behind the last head."""
    if m.draft.begin("head-beyond", "clear the heads behind the last extent"):
        stop = m.image.geometry.backup_superblock_offset
        for offset in m.subjects("head-beyond"):
            for start in range(offset, min(offset + ZERO_STRIDE_BYTES, stop), PAGE_BYTES):
                m.draft.put(start, bytes(min(PAGE_BYTES, stop - start)), Way.PLAIN)


def mend_free_data(m: Mending) -> None:
    """Return free extents that hold data, so that they are discarded before they are used."""
    extents = m.subjects("free-data")
    if m.draft.begin(
        "free-data", f"return {count(len(extents), 'free extent', 'free extents')}, to be discarded"
    ):
        for extent in extents:
            m.draft.put_head(extent, Kind.RETURNED)


def mend_generations(m: Mending) -> None:
    """Clear what a later mount would take for its own split table; the wear stays."""
    at, stop = HEAD.offset_of["generation"], HEAD.offset_of["wear"]
    for extent in m.subjects("head-generation"):
        if m.draft.begin("head-generation", f"void the split table of extent {extent}"):
            m.draft.put(m.image.geometry.head_offset(extent) + at, bytes(stop - at))


def mend_heads(m: Mending) -> None:
    """Rebuild each damaged head. Those of inodes go first: they lead to the maps."""
    damaged = m.subjects("head-kind", "head-checksum", "head-free", "head-fixed")
    sound = set(m.subjects("head-fields")) - set(damaged)
    for extent in sorted(sound):
        if m.draft.begin("head-fields", f"clear the fields of extent {extent} it does not use"):
            m.draft.put_head(extent, **_proper(m, extent, m.draft.head(extent)["kind"]))
    inode_extents = [extent for extent in damaged if count_inodes(m, extent)]
    evidence = Evidence(m)
    for extent in inode_extents or damaged:
        kind, risk = evidence.decide(extent)
        sentence = f"make the head of extent {extent} that of a {kind_name(kind)} extent"
        check = next(c for c in m.found if m.is_found(c, extent))
        if m.draft.begin(check, sentence, risk):
            m.draft.put_head(extent, **_proper(m, extent, kind, evidence))


def mend_claimed_extents(m: Mending) -> None:
    """Rebuild heads of extents that should be free, but are not, for maps have pages in them.

    An extent without owner words is left to those who claim its pages.
    """
    evidence = Evidence(m)
    for extent, claimed in sorted(claimed_extents(m, m.subjects("map-extent")).items()):
        if m.extents.kind[extent] not in FREE_KINDS or extent < m.image.geometry.fixed_extents:
            continue
        kind, _ = evidence.decide(extent, claimed)
        if kind == Kind.RETURNED:
            continue
        sentence = f"make the head of extent {extent} that of a {kind_name(kind)} extent again"
        if m.draft.begin("map-extent", sentence):
            m.draft.put_head(extent, **_proper(m, extent, kind, evidence))


def claimed_extents(m: Mending, inos: list[int]) -> dict[int, Kind]:
    """Return the extents that the maps of these inodes lead to, and what they should be."""
    claimed: dict[int, Kind] = {}
    n_pages = m.image.geometry.n_pages
    for ino in inos:
        record, kind = m.record(ino), m.type_of(ino)
        pages = [record["xattr"]]
        if kind == REGULAR:
            found = read_map(record, n_pages, lambda pfn: bytes(m.read_page(pfn)))
            claimed |= {pfn_to_extent(pfn): Kind.SMALL for pfn in found.small.values()}
            claimed |= dict.fromkeys(found.whole.values(), Kind.WHOLE)
            pages += found.nodes
        elif record["map_kind"] in (MapKind.RUNS, MapKind.DIRECTORY):
            pages.append(record["map"][0] & PFN_MASK)
        claimed |= {pfn_to_extent(pfn): Kind.METADATA for pfn in pages if 0 < pfn < n_pages}
    return {extent: kind for extent, kind in claimed.items() if extent < len(m.extents.kind)}


def _proper(m: Mending, extent: int, kind: int, evidence: Evidence | None = None) -> dict[str, int]:
    """Return kind and fields that a head should have; those of chunks are mended later."""
    head = m.draft.head(extent)
    if kind == Kind.WHOLE:
        owner, index = head["owner"], head["index"]
        if evidence is not None:
            owner, index = evidence.whole.get(extent, (owner, index))
        return {"kind": kind, "owner": owner, "index": index}
    if kind in (Kind.SMALL, Kind.METADATA):
        return {"kind": kind, "used": int(np.count_nonzero(owner_words(m, extent)))}
    if kind == Kind.INODES:
        names = ("used", "index", "free_first", "frontier")
        fields = {name: head[name] for name in names}
        if extent == m.image.geometry.first_inode_extent:
            fields["index"] = 0
        fields["frontier"] = used_places(read_records(m, extent))
        return {"kind": kind, **fields}
    return {"kind": kind}


def owner_words(m: Mending, extent: int) -> Words:
    """Return page 0 of an extent as words; zeros where the host has a hole."""
    page = read_present(m.image.device, extent_to_offset(extent), PAGE_BYTES)
    return np.frombuffer(bytes(page), "<u8")


def read_records(m: Mending, extent: int, most: int = INODES_PER_EXTENT) -> NDArray[Any]:
    """Return the first records of an extent of inodes; zeros where the host has holes."""
    length = min(most, INODES_PER_EXTENT) * INODE_BYTES
    data = read_present(m.image.device, extent_to_offset(extent), length)
    return np.frombuffer(bytes(data), INODE.dtype)


def used_places(records: NDArray[Any]) -> int:
    """Return how many inodes of a chunk were ever used: behind the frontier all is zero."""
    nonzero = records.view(np.uint8).reshape(len(records), -1).any(axis=1)
    return int(np.flatnonzero(nonzero)[-1]) + 1 if nonzero.any() else 0


def sealed_places(records: NDArray[Any]) -> list[int]:
    """Return the places of inodes in use with a right checksum."""
    raw = records.tobytes()
    sums = records["checksum"]
    likely = np.isin(records["mode"] >> 12, TYPES)
    return [
        place
        for place in np.flatnonzero(likely).tolist()
        if zlib.crc32(raw[place * INODE_BYTES : place * INODE_BYTES + _SUMMED_BYTES]) == sums[place]
    ]


def count_inodes(m: Mending, extent: int) -> int:
    """Return how many inodes in use with right checksums an extent holds."""
    if not is_present(m.image.device, extent_to_offset(extent), EXTENT_BYTES):
        return 0
    return len(sealed_places(read_records(m, extent)))


class Evidence:
    """What all maps that can be read say of extents: ``whole`` maps extent to owner and piece."""

    def __init__(self, m: Mending) -> None:
        self.m = m
        self.whole: dict[int, tuple[int, int]] = {}
        for extent in m.extents.of_kind(Kind.INODES).tolist():
            index = m.draft.head(extent)["index"]
            if index < MAX_CHUNKS:
                self._read_chunk(index * INODES_PER_EXTENT, read_records(m, extent))

    def _read_chunk(self, first_ino: int, records: NDArray[Any]) -> None:
        for place in sealed_places(records):
            record, ino = records[place], first_ino + place
            if record["mode"] >> 12 != REGULAR:
                continue
            if record["map_kind"] == MapKind.RUNS:
                runs = RunWords(record["map"][None, :]).runs(np.array([ino]), whole=True)
                for piece, extent, count in zip(
                    runs.index.tolist(), runs.place.tolist(), runs.count.tolist()
                ):
                    for step in range(min(count, self.m.image.geometry.n_extents - extent)):
                        self.whole.setdefault(extent + step, (ino, piece + step))
            elif record["map_kind"] == MapKind.TREE:
                for piece, extent in self._iter_tree(record):
                    self.whole.setdefault(extent, (ino, piece))

    def _iter_tree(self, record: Any) -> Iterator[tuple[int, int]]:
        """Iterate ``(piece, extent)`` of a tree; nodes may lie anywhere, each is read once."""
        todo = [(record["map"], int(record["map_height"]), 0)]
        seen: set[int] = set()
        while todo:
            words, height, first = todo.pop()
            for place in np.flatnonzero(words).tolist():
                word = int(words[place])
                pfn, below = word & PFN_MASK, first + (place << 9 * (height - 1))
                if height == 1 and word & WHOLE and pfn % PAGES_PER_EXTENT == 0:
                    yield below, pfn >> EXTENT_PAGE_SHIFT
                    continue
                is_node = 1 < height <= MAX_TREE_HEIGHT and word == pfn
                if is_node and pfn < self.m.image.geometry.n_pages and pfn not in seen:
                    seen.add(pfn)
                    page = read_present(self.m.image.device, pfn_to_offset(pfn), PAGE_BYTES)
                    todo.append((np.frombuffer(bytes(page), "<u8"), height - 1, below))

    def decide(self, extent: int, claimed: Kind | None = None) -> tuple[Kind, Risk]:
        """Return what an extent is, and whether saying so may lose something.

        ``claimed`` is what those need it to be that refer to its pages.
        """
        geometry = self.m.image.geometry
        if extent < geometry.fixed_extents:
            fixed = [Kind.FIXED] * geometry.first_inode_extent + [Kind.INODES, Kind.DESCRIPTOR]
            return fixed[extent], Risk.SAFE
        said = self.m.draft.head(extent)["kind"]
        if extent in self.whole:
            return Kind.WHOLE, Risk.SAFE
        if count_inodes(self.m, extent):
            return Kind.INODES, Risk.SAFE if said == Kind.INODES else Risk.LOSES
        words = owner_words(self.m, extent)
        if words.any() and not words[0] and (words[words != 0] & np.uint64(INO_MASK)).all():
            return claimed or self._small_or_metadata(extent, words, said), Risk.SAFE
        return Kind.RETURNED, Risk.LOSES if said in _LOSING else Risk.SAFE

    def _small_or_metadata(self, extent: int, words: Words, said: int) -> Kind:
        roles = words[words != 0] >> np.uint64(32)
        if ((roles < min(Role)) | (roles > max(Role))).any():
            return Kind.SMALL
        if said in (Kind.SMALL, Kind.METADATA):
            return Kind(said)
        return Kind.METADATA if self._holds_leaves(extent, words) else Kind.SMALL

    def _holds_leaves(self, extent: int, words: Words) -> bool:
        """Tell whether a page that should be a leaf, or attributes, names its inode."""
        for slot in np.flatnonzero(words).tolist():
            word = int(words[slot])
            if owner_index(word) in (Role.DIRECTORY_LEAF, Role.XATTR):
                start = extent_to_offset(extent) + slot * PAGE_BYTES
                page = read_present(self.m.image.device, start, PAGE_BYTES)
                return DIRECTORY_LEAF.unpack(page)["ino"] == owner_ino(word)
        return True
