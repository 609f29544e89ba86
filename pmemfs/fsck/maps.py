"""Check the maps of files: lists of runs here, trees in `trees`.

Every run is validated before it is followed. Runs of a chunk are claimed together, page by
page, in rounds that grow only while the owner words agree: so the work is bounded by the
number of runs and of owner words that exist, whatever the counts in a damaged map say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.heads import ExtentTable
from pmemfs.fsck.inodes import REGULAR, UNKNOWN_TYPE, Chunk, InodeTable
from pmemfs.fsck.owners import OwnerPages
from pmemfs.fsck.report import Finding, kind_name
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    EXTENT_PAGE_SHIFT,
    MAX_FILE_PAGES,
    PAGE_BYTES,
    PAGES_PER_EXTENT,
    extent_to_offset,
)
from pmemfs.layout.records import InodeFlag, Kind, MapKind
from pmemfs.layout.words import COUNT_SHIFT, HOLE, PFN_MASK, WHOLE

FIRST_ROUND = 16
ROUND_GROWTH = 4
BATCH_CLAIMS = 1 << 20
_UNUSED_BITS = np.uint64(((1 << COUNT_SHIFT) - 1) & ~(PFN_MASK | WHOLE | HOLE))

Int64s = NDArray[np.int64]


@dataclass
class Runs:
    """Runs of many files in parallel columns; ``unit`` of ``count`` is pages or extents."""

    ino: Int64s
    index: Int64s
    place: Int64s
    count: Int64s

    def only(self, chosen: NDArray[Any] | slice) -> Runs:
        """Return the chosen runs."""
        return Runs(self.ino[chosen], self.index[chosen], self.place[chosen], self.count[chosen])

    def behind(self, taken: Int64s) -> Runs:
        """Return what is left of each run behind its first ``taken`` units."""
        return Runs(self.ino, self.index + taken, self.place + taken, self.count - taken)

    def expand(self, taken: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Return ``(run, index, place)`` of the first ``taken`` units of each run."""
        run = np.repeat(np.arange(len(taken)), taken)
        step = np.arange(len(run)) - np.repeat(np.cumsum(taken) - taken, taken)
        return run, self.index[run] + step, self.place[run] + step


@dataclass
class MapTotals:
    """What maps of one chunk have, by place: pages, and the first index behind the last."""

    pages: Int64s
    small_end: Int64s
    whole_end: Int64s
    broken: NDArray[np.bool_]

    @classmethod
    def empty(cls, n: int) -> MapTotals:
        """Return totals of ``n`` inodes without maps."""
        zeros = [np.zeros(n, np.int64) for _ in range(3)]
        return cls(zeros[0], zeros[1], zeros[2], np.zeros(n, np.bool_))


class MapChecker:
    """The tables that claims need: owner pages for small pages, heads for whole extents."""

    def __init__(self, image: Image, extents: ExtentTable, owners: OwnerPages) -> None:
        self.image = image
        self.extents = extents
        self.owners = owners

    def claim_runs(self, runs: Runs, kind: Kind) -> Iterator[Finding]:
        """Claim all pages (SMALL) or extents (WHOLE) of the runs; yield what fails."""
        claim = self._claim_small if kind == Kind.SMALL else self._claim_whole
        size = FIRST_ROUND
        while len(runs.ino):
            taken = np.minimum(runs.count, size)
            agreed = np.zeros(len(taken), np.int64)
            for batch in _batches(taken):
                part = runs.only(batch)
                run, index, place = part.expand(taken[batch])
                success = claim(part.ino[run], index, place)
                agreed[batch] += np.bincount(run[success], minlength=len(part.ino))
                fails = np.flatnonzero(~success)
                fails = fails[np.unique(run[fails], return_index=True)[1]]  # one of each run
                for fail in fails.tolist():
                    ino = int(part.ino[run[fail]])
                    yield self._mismatch(kind, ino, int(index[fail]), int(place[fail]))
            runs = runs.behind(taken).only((runs.count > taken) & (agreed * 2 >= taken))
            size *= ROUND_GROWTH

    def _claim_small(self, inos: Int64s, index: Int64s, pfns: Int64s) -> NDArray[np.bool_]:
        words = inos.astype(np.uint64) | index.astype(np.uint64) << np.uint64(32)
        return self.owners.claim(pfns, words, Kind.SMALL)

    def _claim_whole(self, inos: Int64s, index: Int64s, numbers: Int64s) -> NDArray[np.bool_]:
        success = (numbers >= 0) & (numbers < len(self.extents.kind))
        known = np.where(success, numbers, 0)
        success &= self.extents.kind[known] == Kind.WHOLE
        found = np.flatnonzero(success)
        heads = self.image.heads[known[found]]
        agree = (heads["owner"] == inos[found]) & (heads["index"] == index[found])
        success[found[~agree]] = False
        self.extents.whole_claimed[numbers[success]] = True
        self.extents.disputed[known[~success]] = True
        return success

    def _mismatch(self, kind: Kind, ino: int, index: int, place: int) -> Finding:
        if kind == Kind.SMALL:
            return self.owners.mismatch(place, ino | index << 32, kind)
        who = f"inode {ino} has extent {place} as its piece {index}, but "
        if not 0 <= place < len(self.extents.kind):
            return Finding("map-range", who + "the device has no such extent", None, ino)
        found = int(self.extents.kind[place])
        if found != Kind.WHOLE:
            why = f"that is a {kind_name(found)} extent"
            return Finding("map-extent", who + why, extent_to_offset(place), ino)
        head = self.image.heads[place]
        why = f"its head says piece {head['index']} of inode {head['owner']}"
        return Finding("map-whole", who + why, self.image.geometry.head_offset(place), ino)


def _batches(taken: Int64s) -> Iterator[slice]:
    """Iterate slices of runs with about `BATCH_CLAIMS` units each."""
    group = np.cumsum(taken) // BATCH_CLAIMS
    edges = np.flatnonzero(np.diff(group)) + 1
    bounds = [0, *edges.tolist(), len(taken)]
    yield from (slice(low, high) for low, high in pairwise(bounds))


class RunWords:
    """The map words of lists of runs, shape ``(files, 17)``, taken apart in columns."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.pfn = (words & np.uint64(PFN_MASK)).astype(np.int64)
        self.count = (words >> np.uint64(COUNT_SHIFT)).astype(np.int64)
        self.hole = (words & np.uint64(HOLE)) != 0
        self.whole = (words & np.uint64(WHOLE)) != 0
        length = np.where(self.hole, self.pfn, self.count)
        self.start = np.cumsum(length, axis=1) - length
        self.end = self.start + length
        good = ~np.logical_or.accumulate(words == 0, axis=1)  # nothing follows a 0
        good &= (words & _UNUSED_BITS == 0) & (length > 0) & (self.end <= MAX_FILE_PAGES)
        good &= ~(self.hole & (self.whole | (self.count != 0)))
        aligned = (self.pfn | self.count | self.start) % PAGES_PER_EXTENT == 0
        good &= self.hole | np.where(self.whole, aligned, _is_within_extent(self.pfn, self.count))
        self.malformed = (words != 0) & ~good
        self.mapped = (words != 0) & ~self.malformed & ~self.hole

    def runs(self, inos: Int64s, *, whole: bool) -> Runs:
        """Return the runs of small pages, or of whole extents; one inode number for each file."""
        chosen = self.mapped & (self.whole == whole)
        shift = EXTENT_PAGE_SHIFT if whole else 0
        columns = (self.start[chosen], self.pfn[chosen], self.count[chosen])
        ino = np.broadcast_to(inos[:, None], chosen.shape)[chosen]
        return Runs(ino, *(column >> shift for column in columns))

    def end_of(self, *, whole: bool) -> Int64s:
        """Return for each file the first page index behind its last such run."""
        chosen = self.mapped & (self.whole == whole)
        return np.where(chosen, self.end, 0).max(axis=1, initial=0)


def _is_within_extent(pfn: Int64s, count: Int64s) -> NDArray[np.bool_]:
    """Tell which runs of small pages lie in one extent: none goes over an owner page."""
    fits: NDArray[np.bool_] = pfn % PAGES_PER_EXTENT + count <= PAGES_PER_EXTENT
    return fits


def check_runs(
    checker: MapChecker,
    chunk: Chunk,
    types: NDArray[np.uint8],
    records: NDArray[Any],
    totals: MapTotals,
) -> Iterator[Finding]:
    """Yield findings about all lists of runs of files in one chunk; add to ``totals``."""
    listed = (types == REGULAR) & (records["map_kind"] == MapKind.RUNS)
    places = np.flatnonzero(listed & records["map"].any(axis=1))
    inos = chunk.first_ino + places
    words = RunWords(records["map"][places])
    for row, word in np.argwhere(words.malformed).tolist():
        value = int(records["map"][places[row], word])
        message = f"map word {word} of inode {inos[row]}, {value:#x}, is malformed"
        yield Finding("map-word", message, chunk.offset_of(int(places[row])), int(inos[row]))
    totals.pages[places] = np.where(words.mapped, words.count, 0).sum(axis=1)
    totals.small_end[places] = words.end_of(whole=False)
    totals.whole_end[places] = words.end_of(whole=True)
    totals.broken[places] = words.malformed.any(axis=1)
    yield from checker.claim_runs(words.runs(inos, whole=False), Kind.SMALL)
    yield from checker.claim_runs(words.runs(inos, whole=True), Kind.WHOLE)


def check_totals(
    inodes: InodeTable, row: int, records: NDArray[Any], totals: MapTotals
) -> Iterator[Finding]:
    """Yield files that count their pages wrongly, or have pages behind their end.

    Only the data of files counts: no node pages, and nothing of other types.
    The latter is right in preallocated files and on the orphan list; what has no names and is not
    there, `links` finds.
    """
    chunk, slots = inodes.chunks[row], inodes.rows_of(row)
    counted = (inodes.type[slots] != 0) & (inodes.type[slots] != UNKNOWN_TYPE) & ~totals.broken
    for place in np.flatnonzero(counted & (totals.pages != records["pages"])).tolist():
        ino, pages = chunk.first_ino + place, int(records["pages"][place])
        message = f"inode {ino} counts {pages} pages, its map has {totals.pages[place]}"
        yield Finding("inode-pages", message, chunk.offset_of(place), ino)
    size = np.minimum(records["size"], np.uint64(MAX_FILE_PAGES * PAGE_BYTES)).astype(np.int64)
    page_end = -(-size // PAGE_BYTES)
    piece_end = -(-size // EXTENT_BYTES) * PAGES_PER_EXTENT
    beyond = (totals.small_end > page_end) | (totals.whole_end > piece_end)
    beyond &= (inodes.type[slots] == REGULAR) & ~inodes.listed[slots] & (records["nlink"] != 0)
    beyond &= (records["flags"] & np.uint32(InodeFlag.PREALLOCATED)) == 0
    for place in np.flatnonzero(beyond).tolist():
        ino = chunk.first_ino + place
        message = f"inode {ino} has pages behind its size {size[place]}"
        yield Finding("map-beyond-size", message, chunk.offset_of(place), ino)
