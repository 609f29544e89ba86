"""Mend inode chunks: their number, frontier, inodes that are zero, counts and free chains."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.draft import Risk
from pmemfs.fsck.inodes import MAX_CHUNKS, Chunk, zero_places
from pmemfs.fsck.mend.extents import (
    FREE_KINDS,
    count_inodes,
    read_records,
    sealed_places,
    used_places,
)
from pmemfs.fsck.mend.inodes import make_anew
from pmemfs.fsck.mend.mending import Mending
from pmemfs.layout.geometry import (
    INODE_BYTES,
    INODE_CHUNK_SHIFT,
    INODES_PER_EXTENT,
    inode_offset,
)
from pmemfs.layout.records import Kind, MapKind
from pmemfs.layout.words import INO_MASK, PFN_MASK
from pmemfs.units import count


def mend_indexes(m: Mending) -> None:
    """Give chunks the number that the owner words of their pages name, or return them."""
    taken = {chunk.index for chunk in m.inodes.chunks}
    for extent in m.subjects("chunk-index"):
        if not count_inodes(m, extent):
            sentence = f"return extent {extent}: it holds no inode, and its number cannot be"
            if m.draft.begin("chunk-index", sentence):
                m.draft.put_head(extent, Kind.RETURNED)
            continue
        index = _index_by_owners(m, extent)
        if index is None or index in taken:
            sentence = f"return extent {extent}: nothing tells which inodes it holds"
            if m.draft.begin("chunk-index", sentence, Risk.LOSES):
                m.draft.put_head(extent, Kind.RETURNED)
        elif m.draft.begin("chunk-index", f"make the inodes of extent {extent} chunk {index}"):
            m.draft.patch_head(extent, index=index)
            taken.add(index)


def _index_by_owners(m: Mending, extent: int) -> int | None:
    """Return the chunk number that most pages of the inodes in an extent name as their owner."""
    votes: Counter[int] = Counter()
    records = read_records(m, extent)
    for place in sealed_places(records):
        word = int(records["map"][place][0])
        pfn = np.array([word & PFN_MASK], np.int64)
        if not word or records["map_kind"][place] == MapKind.INLINE:
            continue
        for kind in (Kind.SMALL, Kind.METADATA):
            owner = int(m.owners.words_at(pfn, kind)[0]) & INO_MASK
            if owner and owner % INODES_PER_EXTENT == place:
                votes[owner // INODES_PER_EXTENT] += 1
    best = [index for index, _ in votes.most_common(1) if 0 < index < MAX_CHUNKS]
    return best[0] if best else None


def mend_lost_chunks(m: Mending) -> None:
    """Find the inodes that names and owner words miss, where a head has lost their extent.

    A free extent is a chunk if inodes with right checksums are in it, and pages name inodes of one
    and the same chunk that is not there, in the same places.
    """
    taken = {chunk.index for chunk in m.inodes.chunks}
    for extent in m.extents_with_data(*FREE_KINDS):
        if not count_inodes(m, extent):
            continue
        index = _index_by_owners(m, extent)
        if index is None or index in taken:
            continue
        sentence = f"make extent {extent} chunk {index} of the inodes again, which pages name"
        if m.draft.begin("owner-inode", sentence):
            records = read_records(m, extent)
            used = int(np.count_nonzero(records["mode"]))
            m.draft.put_head(
                extent, Kind.INODES, index=index, used=used, frontier=used_places(records)
            )
            taken.add(index)


def mend_zeros(m: Mending) -> None:
    """Make inodes anew that are zero and have pages; without any, free those that are zero.

    At the end of a chunk that takes the frontier back, and no inode is stored. A chunk of which
    nothing is left is returned.
    """
    named = [ino for ino in _named_inos(m) if _is_zero(m, ino)]
    belongings = m.belongings(named)
    made = [ino for ino in named if make_anew(m, ino, belongings[ino], "chunk-zeros")]
    if made:
        return
    wrong = set(m.subjects("chunk-zeros"))
    for chunk in m.inodes.chunks:
        if chunk.extent in wrong:
            _free_zeros(m, chunk)


def _free_zeros(m: Mending, chunk: Chunk) -> None:
    if not chunk.stop and chunk.index:
        sentence = f"return extent {chunk.extent}: nothing is left of the inodes in it"
        if m.draft.begin("chunk-zeros", sentence):
            m.draft.put_head(chunk.extent, Kind.RETURNED)
        return
    is_zero = zero_places(chunk.read(m.image))
    is_zero[: chunk.first_place] = False
    frontier = max(chunk.stop, chunk.first_place)
    n = int(np.count_nonzero(is_zero)) + chunk.claimed - frontier
    sentence = f"free {count(n, 'inode', 'inodes')} of extent {chunk.extent} that are zero"
    if m.draft.begin("chunk-zeros", sentence):
        for place in np.flatnonzero(is_zero).tolist():
            m.draft.put_inode(chunk.offset_of(place))
        m.draft.patch_head(chunk.extent, frontier=frontier)


def _named_inos(m: Mending) -> list[int]:
    """Return what owner words and heads name of the inodes of chunks with inodes that are zero."""
    extents = set(m.subjects("chunk-zeros"))
    chunks = [chunk.index for chunk in m.inodes.chunks if chunk.extent in extents]
    found: set[int] = set()
    whole = m.image.heads["owner"][m.extents.of_kind(Kind.WHOLE)]
    owners = (words & np.uint64(INO_MASK) for _, words, _ in m.owners.batches())
    for inos in (whole, *owners):
        here = np.unique(inos).astype(np.int64)
        found.update(here[np.isin(here >> INODE_CHUNK_SHIFT, chunks)].tolist())
    return sorted(found - {0})


def _is_zero(m: Mending, ino: int) -> bool:
    """Tell whether an inode of a chunk stands below the frontier, and is zero."""
    chunk, start = m.inodes.chunk_of(ino), m.offset(ino)
    is_below = chunk is not None and ino - chunk.first_ino < chunk.claimed
    return is_below and not any(m.image.device.view[start : start + INODE_BYTES])


def mend_chunks(m: Mending) -> None:
    """Bring frontier, count and free chain of damaged chunks in line with their inodes."""
    for extent in m.subjects("chunk-frontier"):
        if m.draft.begin("chunk-frontier", f"find the frontier of the inodes in extent {extent}"):
            _mend_frontier(m, extent)
    for extent in m.subjects("chunk-chain"):
        if m.draft.begin("chunk-chain", f"chain the freed inodes of extent {extent} anew"):
            _mend_chain(m, extent)
    for extent in m.subjects("chunk-used"):
        used = int(np.count_nonzero(_in_use(m, extent)))
        if m.draft.begin(
            "chunk-used", f"count {count(used, 'inode', 'inodes')} in use in extent {extent}"
        ):
            m.draft.patch_head(extent, used=used)
    if "inode-zero" in m.report.counts and m.draft.begin("inode-zero", "clear inode 0"):
        offset = inode_offset(m.image.geometry.first_inode_extent, 0)
        m.draft.put(offset, bytes(INODE_BYTES))


def _first_place(m: Mending, extent: int) -> int:
    return 1 if m.draft.head(extent)["index"] == 0 else 0


def _in_use(m: Mending, extent: int) -> NDArray[np.bool_]:
    """Tell which places below the frontier hold inodes in use."""
    records = read_records(m, extent, m.draft.head(extent)["frontier"])
    used: NDArray[np.bool_] = records["mode"] != 0
    used[: _first_place(m, extent)] = False
    return used


def _mend_frontier(m: Mending, extent: int) -> None:
    """Raise the frontier over inodes in use, clear what else lies behind, seal what it passes."""
    records = read_records(m, extent)
    head = m.draft.head(extent)
    nonzero = np.flatnonzero(records.view(np.uint8).reshape(-1, INODE_BYTES).any(axis=1))
    last = max([head["frontier"] - 1, *sealed_places(records)])
    if head["frontier"] > INODES_PER_EXTENT:
        last = int(nonzero[-1]) if len(nonzero) else -1
    frontier = max(last + 1, _first_place(m, extent))
    for place in nonzero[nonzero >= frontier].tolist():
        m.draft.put(inode_offset(extent, place), bytes(INODE_BYTES))
    for place in range(min(head["frontier"], frontier), frontier):
        if not records["mode"][place]:
            m.draft.put_inode(inode_offset(extent, place))
    m.draft.patch_head(extent, frontier=frontier)


def _mend_chain(m: Mending, extent: int) -> None:
    """Chain all freed inodes in order of their numbers; those that change are stored first."""
    records: NDArray[Any] = read_records(m, extent)
    first_ino = m.draft.head(extent)["index"] * INODES_PER_EXTENT
    freed = np.flatnonzero(~_in_use(m, extent))
    following = 0
    for place in freed[freed >= _first_place(m, extent)][::-1].tolist():
        if records["next"][place] != following:
            m.draft.patch_inode(inode_offset(extent, place), next=following)
        following = first_ino + place
    m.draft.patch_head(extent, free_first=following)
