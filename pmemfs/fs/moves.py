"""Moves: file data that changes its place while nobody writes to it.

Three of them, each at most one transaction of bounded size:

* `move_out`, compaction: pages of a small extent go to holes of other small extents;
* `demote`: the thin tail of a file leaves its whole extent for pages of small ones;
* `promote`: a dense piece that lies in pages goes to a whole extent.

Order of the stores of every move:

1. the pages are copied to places that no committed state refers to, and flushed;
2. **commit** of the owner words of both places, their heads, the map and the inode. The publish
   fences what 1 flushed;
3. only then is the source free: a page of a small extent to be allocated, an extent RETURNED.

A crash before the commit point leaves the file where it was, after it where it goes: nothing else
changes, neither data nor times. One thread serves requests and moves, and a move is one call, so
no write comes between its copy and its commit. Moves are no accesses: they split nothing.

A move that finds no room is left undone and says so; it never takes a free extent to fill a
hole. Pages stored in place and not flushed are flushed at their new place, so durable earlier.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from pmemfs.device import MappedDevice
from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.fs.filemap import FileMaps, piece_of
from pmemfs.fs.files import OWNER_STEP, Files, pages_of
from pmemfs.fs.inodes import Inode, InodeTable, Run
from pmemfs.fs.placement import DataArenas, demotes
from pmemfs.journal import Journal, Transaction
from pmemfs.layout.geometry import (
    EXTENT_PAGE_SHIFT,
    PAGE_SHIFT,
    PAGES_PER_EXTENT,
    extent_to_offset,
    extent_to_pfn,
    pfn_to_extent,
    pfn_to_offset,
)
from pmemfs.layout.records import InodeFlag, Kind
from pmemfs.layout.words import owner_index, owner_ino, owner_word
from pmemfs.pages import Arena, ExtentPool, SplitTables
from pmemfs.pages.arenas import damaged_owner_page

STEP_PAGES = 64
"""Pages that one step of compaction moves at most: 256 KiB copied, 40 KiB of journal."""

Owned = tuple[int, int, int, int]
"""``(inode, first page index, pages, pfn)`` of a run in a small extent, within one piece."""

_PREALLOCATED = int(InodeFlag.PREALLOCATED)
_LINES_PER_PAGE = 64
_SCAN_EXTENTS = 4096


class Moves:
    """All moves of a volume; ``arenas`` take demoted tails, ``holes`` what is moved out."""

    def __init__(
        self,
        *,
        device: MappedDevice,
        journal: Journal,
        pool: ExtentPool,
        tables: SplitTables,
        inodes: InodeTable,
        maps: FileMaps,
        files: Files,
        arenas: DataArenas,
        threshold_pages: int,
    ) -> None:
        self._device = device
        self._journal = journal
        self._pool = pool
        self._tables = tables
        self._inodes = inodes
        self._maps = maps
        self._files = files
        self._arenas = arenas
        self.holes = Arena(pool, Kind.SMALL, breaks=False)
        self._threshold_pages = threshold_pages
        self._scanned = 0  # extents whose owners have been noted since the mount
        self._scan_stop = pool.frontier
        self.pages_moved = 0

    def _attempt(self, move: Callable[[Transaction], int]) -> int:
        """Make a move in one transaction; return its pages, 0 if there was no room for it."""
        try:
            with self._journal.transaction() as tx:
                pages = move(tx)
        except PmemfsError as error:
            if error.errno != errno.ENOSPC:
                raise
            return 0
        self.pages_moved += pages
        return pages

    # -- compaction --------------------------------------------------------------------------

    def move_out(self, extent: int, most_pages: int = STEP_PAGES) -> int:
        """Move up to so many pages out of a small extent; return how many were.

        0 when the extent has none, or the others have no holes for them. The extent is RETURNED
        with its last page.
        """
        self._inodes.trim(self._tables.is_dirty)
        sources = list(self._owned_runs(extent, most_pages))
        return self._attempt(partial(self._move_runs, extent, sources))

    def _move_runs(self, extent: int, sources: list[Owned], tx: Transaction) -> int:
        inodes = {run[0]: self._guarded(tx, run[0]) for run in sources}
        for ino, index, count, pfn in sources:  # all by the maps as they are on the device
            self._validate(inodes[ino], index, count, pfn)
        for ino, index, count, pfn in sources:
            targets = self._fill_holes(tx, extent, ino, index, count)
            self._copy(pfn, targets)
            self._maps.replace(tx, inodes[ino], targets)
            self._files.free_runs(tx, inodes[ino], [(index, count, pfn, False)])
        for inode in inodes.values():
            self._inodes.put(tx, inode)
        return sum(run[2] for run in sources)

    def _owned_runs(self, extent: int, most_pages: int) -> Iterator[Owned]:
        """Iterate the runs of the first so many used pages of a small extent."""
        words = self._owner_words(extent)
        first_pfn = extent_to_pfn(extent)
        slots = np.flatnonzero(words)[:most_pages].tolist()
        place = 0
        while place < len(slots):
            slot = slots[place]
            word = int(words[slot])
            piece = piece_of(owner_index(word))
            count = 1
            while (
                place + count < len(slots)
                and slots[place + count] == slot + count
                and int(words[slot + count]) == word + count * OWNER_STEP
                and piece_of(owner_index(word) + count) == piece
            ):
                count += 1
            yield owner_ino(word), owner_index(word), count, first_pfn + slot
            place += count

    def _owner_words(self, extent: int) -> np.ndarray:
        start = extent_to_offset(extent)
        return np.frombuffer(self._device.view, "<u8", PAGES_PER_EXTENT, start).copy()

    def _validate(self, inode: Inode, index: int, count: int, pfn: int) -> None:
        """Raise `DamagedImageError` unless the map of an inode has a run where its owner says."""
        runs = self._maps.iter_runs(inode, index, index + count)
        found = sum(n for at, n, place, whole in runs if place - at == pfn - index and not whole)
        if found != count:
            raise damaged_owner_page(pfn_to_extent(pfn))

    def _guarded(self, tx: Transaction, ino: int) -> Inode:
        inode = self._find(ino)
        if inode is None:
            raise DamagedImageError(f"pages are owned by inode {ino}, which is no file")
        self._inodes.guard(tx, inode)
        return inode

    def _fill_holes(
        self, tx: Transaction, source: int, ino: int, index: int, count: int
    ) -> list[Run]:
        """Allocate pages outside of ``source``, and never by breaking a free extent."""
        self._pool.own(source)
        try:
            found = self.holes.allocate(tx, count, owner_word(ino, index), OWNER_STEP)
        finally:
            self._pool.disown(source)
        return _as_runs(index, found)

    def _copy(self, pfn: int, targets: list[Run]) -> None:
        """Copy pages that lie in one run to new places; flush, and count the lines as wear."""
        view = self._device.view
        start = pfn_to_offset(pfn)
        for _, count, target, _ in targets:
            length = count << PAGE_SHIFT
            self._device.back(start, length)
            self._device.back(pfn_to_offset(target), length)
            self._device.store(pfn_to_offset(target), view[start : start + length])
            self._device.flush(pfn_to_offset(target), length)
            self._tables.note_copy(pfn_to_extent(target), count * _LINES_PER_PAGE)
            start += length

    # -- tails and dense pieces --------------------------------------------------------------

    def thin_tail(self, ino: int) -> tuple[int, int] | None:
        """Return ``(extent, pages)`` of the last piece of a file if it is whole and thin.

        None if it is not, or if the file has space allocated behind its end.
        """
        self._inodes.trim(self._tables.is_dirty)
        inode = self._find(ino)
        if inode is None or not inode.size or inode.flags & _PREALLOCATED:
            return None
        end = pages_of(inode.size)
        first = (end - 1) & ~(PAGES_PER_EXTENT - 1)
        pfn, _, whole = self._maps.lookup(inode, first, 1)
        if not whole or not demotes(end - first, self._threshold_pages):
            return None
        return pfn_to_extent(pfn), end - first

    def demote(self, ino: int) -> int:
        """Move the thin tail of a file out of its whole extent; return its pages.

        0 if it is not one (see `thin_tail`), or if there is no room.
        """
        tail = self.thin_tail(ino)
        if tail is None:
            return 0
        return self._attempt(partial(self._demote, self._inodes.get(ino), *tail))

    def _demote(self, inode: Inode, extent: int, count: int, tx: Transaction) -> int:
        self._inodes.guard(tx, inode)
        first, pfn = pages_of(inode.size) - count, extent_to_pfn(extent)
        arena = self._arenas.of(inode, count)
        found = arena.allocate(tx, count, owner_word(inode.ino, first), OWNER_STEP)
        targets = _as_runs(first, found)
        self._copy(pfn, targets)
        self._maps.clear(tx, inode, first, first + PAGES_PER_EXTENT)
        for run in targets:
            self._maps.assign(tx, inode, run)
        self._files.free_runs(tx, inode, [(first, PAGES_PER_EXTENT, pfn, True)])
        inode.pages -= PAGES_PER_EXTENT - count
        self._inodes.put(tx, inode)
        return count

    def promote(self, ino: int, piece: int) -> int:
        """Move a piece that is populated to the threshold to a whole extent; return its pages.

        0 if it is not, if it is whole already, or if no extent is free.
        """
        self._inodes.trim(self._tables.is_dirty)
        inode = self._find(ino)
        first = piece << EXTENT_PAGE_SHIFT
        if inode is None or not self._pool.free_extents:
            return 0
        old = list(self._maps.iter_runs(inode, first, first + PAGES_PER_EXTENT))
        count = sum(run[1] for run in old)
        if count < self._threshold_pages or old[0][3]:
            return 0
        return self._attempt(partial(self._promote, inode, piece, old))

    def _promote(self, inode: Inode, piece: int, old: list[Run], tx: Transaction) -> int:
        self._inodes.guard(tx, inode)
        first, count = piece << EXTENT_PAGE_SHIFT, sum(run[1] for run in old)
        extent = self._pool.take(tx, Kind.WHOLE, inode.ino, piece)
        lines = self._files.copy_into(inode, extent_to_offset(extent), first, old)
        for index, pages, _, _ in old:
            self._maps.clear(tx, inode, index, index + pages)
        self._maps.assign(tx, inode, (first, PAGES_PER_EXTENT, extent_to_pfn(extent), True))
        self._files.free_runs(tx, inode, old)
        inode.pages += PAGES_PER_EXTENT - count
        self._inodes.put(tx, inode)
        tx.after.append(lambda: self._tables.note_copy(extent, lines))
        return count

    def _find(self, ino: int) -> Inode | None:
        """Return a regular file, or None if it is gone."""
        try:
            inode = self._inodes.get(ino)
        except PmemfsError as error:
            if error.errno != errno.ENOENT:
                raise
            return None
        return inode if inode.is_file else None

    # -- after a mount -----------------------------------------------------------------------

    @property
    def has_unscanned(self) -> bool:
        """Whether `scan` has extents to look at that were there before the mount."""
        return self._scanned < self._scan_stop

    def scan(self) -> None:
        """Note the owners of some whole extents that the last mount left; reads heads only."""
        start = self._scanned
        stop = self._scanned = min(start + _SCAN_EXTENTS, self._scan_stop)
        whole = np.flatnonzero(self._pool.kind_column[start:stop] == Kind.WHOLE) + start
        owners = {self._owner_of(extent) for extent in whole.tolist()}
        for ino in owners:
            self._files.candidates.note_tail(ino)

    def _owner_of(self, extent: int) -> int:
        return self._device.words[self._pool.geometry.head_offset(extent) >> 3] >> 32


def _as_runs(index: int, found: list[tuple[int, int]]) -> list[Run]:
    runs: list[Run] = []
    for pfn, count in found:
        runs.append((index, count, pfn, False))
        index += count
    return runs
