"""The extents of a device: which are free, who takes one, who gives one back.

Kept in memory: the kind (1 byte) and the pages used (2 bytes) of each extent, and a column for
each kind that allocates by page, for finding the fullest one in one vector pass. All of it is read
from those pages of the head table that exist, and agrees with the device after every commit.

Invariants:

* A FREE extent reads as zeros on the device; RETURNED may read as anything, and is discarded
  before it is used again. A DESCRIPTOR extent left by another mount is RETURNED here.
* An extent released by a transaction cannot be taken before that transaction is durable.
* ``counts`` adds up to the device.

Of the free extents that have been in use before the least worn one is taken (`FreeExtents`). One
that never was comes when there is no other, or when all others have been overwritten
`FRESH_AFTER` times: so what is in use stays together at first, and all of the device wears in the
end.

The head table is believed after `_validate_heads` only: every head that is not zero must carry its
checksum and a kind, and the fixed extents theirs. `holds_page` and `holds_piece` let whoever
follows a map ask first whether the place says the same.

Stores nothing itself; heads go into the caller's transaction. Only `discard_returned` and the
taking of a returned extent touch the host, after the free is durable.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.device import MappedDevice
from pmemfs.errors import DamagedImageError, InvariantError, no_space
from pmemfs.image import Image
from pmemfs.journal import Journal, Transaction
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    EXTENT_PAGE_SHIFT,
    EXTENT_SHIFT,
    HEAD_DURABLE_BYTES,
    HEAD_TABLE_OFFSET,
    PAGES_PER_EXTENT,
    WORD_BYTES,
    Geometry,
    extent_to_offset,
)
from pmemfs.layout.records import Kind
from pmemfs.layout.sums import bad_sums
from pmemfs.layout.words import INO_MASK
from pmemfs.pages.free_extents import FreeExtents

FRESH_AFTER = 16
_HEAD = struct.Struct("<BBHIIIIII")
_OWNABLE_PAGES = PAGES_PER_EXTENT - 1
_SLOT_MASK = PAGES_PER_EXTENT - 1
_EXTENT_WORD_SHIFT = EXTENT_SHIFT - 3
_HEAD_TABLE_WORD = HEAD_TABLE_OFFSET // WORD_BYTES
_HEAD_WORD_SHIFT = 3  # words of a head, as a power of two
_WHOLE = int(Kind.WHOLE)
_RAMP = np.arange(PAGES_PER_EXTENT, dtype=np.uint64) << np.uint64(32)  # of the owner words of a run
_BATCH_HEADS = 1 << 16
_PAGED = (Kind.SMALL, Kind.METADATA)
_FREE_BYTE = bytes([Kind.FREE])
_RETURNED_BYTE = bytes([Kind.RETURNED])
_DURABLE_ZEROS = bytes(HEAD_DURABLE_BYTES)


def pack_head(
    kind: int, used: int = 0, owner: int = 0, index: int = 0, free_first: int = 0, frontier: int = 0
) -> bytes:
    """Return the durable half of a head, sealed; all zeros for FREE."""
    if kind == Kind.FREE:
        return _DURABLE_ZEROS
    body = _HEAD.pack(kind, 0, used, owner, index, free_first, frontier, 0, 0)
    return body + zlib.crc32(body).to_bytes(4, "little")


class ExtentPool:
    """All extents of one device, and the only way to take or release one."""

    def __init__(self, image: Image, journal: Journal) -> None:
        self.geometry: Geometry = image.geometry
        self.device: MappedDevice = image.device
        self._journal = journal
        self._words = self.device.words
        n = self._n_extents = self.geometry.n_extents
        self._kinds = mmap.mmap(-1, n)
        self._kind_column = np.frombuffer(self._kinds, np.uint8)
        self._used_column = np.zeros(n, np.uint16)
        self._used = self._used_column.data
        # used + 1 of extents that anyone may allocate pages from; 0 for all others
        self._open_columns = {kind: np.zeros(n, np.uint16) for kind in _PAGED}
        self._open_counts = dict.fromkeys(_PAGED, 0)
        self._arena_owned: set[int] = set()
        self._group_column = np.zeros(n, np.uint8)  # of arenas; a hint of this mount only
        self._suspects: set[int] = set()  # FREE on the device, but may not read as zeros
        self.counts = [0] * len(Kind)
        self.free_small_pages = 0
        self._frontier = 0
        self._free = FreeExtents(image)
        self._load(image)

    # -- reading the head table --------------------------------------------------------------

    def _load(self, image: Image) -> None:
        for first, stop in image.iter_head_ranges():
            heads = image.heads[first:stop]
            self._validate_heads(image, first, stop)
            kinds = heads["kind"].copy()
            kinds[kinds == Kind.DESCRIPTOR] = Kind.RETURNED
            kinds[kinds > max(Kind)] = Kind.FIXED  # passed over: nothing is found in it
            self._kind_column[first:stop] = kinds
            self._used_column[first:stop] = heads["used"]
            worn = np.flatnonzero(heads["wear"])
            self._frontier = max(self._frontier, first + int(worn[-1]) + 1 if len(worn) else 0)
        self._validate_fixed(image)
        self._kind_column[self.geometry.reserve_extent] = Kind.DESCRIPTOR
        taken = np.flatnonzero(self._kind_column)
        self._frontier = max(self._frontier, int(taken[-1]) + 1)
        bins = np.bincount(self._kind_column[: self._frontier], minlength=len(Kind))
        self.counts = bins.tolist()
        self._free.load(np.flatnonzero(self._kind_column[: self._frontier] == Kind.FREE))
        self.counts[Kind.FREE] += self.geometry.n_extents - self._frontier
        for kind in _PAGED:
            mine = np.flatnonzero(self._kind_column[: self._frontier] == kind)
            used = self._used_column[mine]
            self._open_columns[kind][mine] = np.where(used < _OWNABLE_PAGES, used + 1, 0)
            self._open_counts[kind] = int((used < _OWNABLE_PAGES).sum())
            if kind == Kind.SMALL:
                self.free_small_pages = len(mine) * _OWNABLE_PAGES - int(used.sum())

    def _validate_heads(self, image: Image, first: int, stop: int) -> None:
        """Refuse the image for a head that cannot be; in batches, so that memory is bounded."""
        for start in range(first, stop, _BATCH_HEADS):
            heads = image.heads[start : min(start + _BATCH_HEADS, stop)]
            self._validate_batch(image, start, heads)

    def _validate_batch(self, image: Image, first: int, heads: NDArray[Any]) -> None:
        kinds, used = heads["kind"], heads["used"]
        paged = (kinds == Kind.SMALL) | (kinds == Kind.METADATA)
        wrong = (kinds > max(Kind)) | (paged & (used > _OWNABLE_PAGES))
        wrong |= bad_sums(heads)
        for place in np.flatnonzero(wrong)[:1].tolist():
            image.refuse(
                DamagedImageError(
                    f"the head of extent {first + place} is damaged; run pmemfs fsck",
                    self.geometry.head_offset(first + place),
                )
            )

    def _validate_fixed(self, image: Image) -> None:
        geometry = self.geometry
        wanted = [Kind.FIXED] * geometry.first_inode_extent + [Kind.INODES, Kind.DESCRIPTOR]
        found = image.heads["kind"][: len(wanted)].tolist()
        if found != wanted:
            image.refuse(
                DamagedImageError(
                    "the heads of the fixed extents are damaged; run pmemfs fsck",
                    geometry.head_offset(0),
                )
            )

    def suspect_free_data(self) -> int:
        """Treat FREE extents that hold host data as RETURNED; return how many there were.

        Needed after a crash: an operation that did not commit may have stored into them. Costs
        one ``SEEK_DATA`` for each run of free extents.
        """
        found = 0
        extent = self._kinds.find(_FREE_BYTE)
        while 0 <= extent < self.geometry.n_extents:
            stop = self._end_of_free_run(extent)
            for low, high in self.device.iter_data(
                extent_to_offset(extent), extent_to_offset(stop)
            ):
                for dirty in range(low // EXTENT_BYTES, -(-high // EXTENT_BYTES)):
                    if self._kinds[dirty] == Kind.FREE:
                        self._suspects.add(dirty)
                        self._set(dirty, Kind.RETURNED, 0)
                        found += 1
            extent = self._kinds.find(_FREE_BYTE, stop)
        return found

    def _end_of_free_run(self, extent: int) -> int:
        if extent >= self._frontier:
            return self.geometry.n_extents
        taken = np.flatnonzero(self._kind_column[extent : self._frontier])
        return extent + int(taken[0]) if len(taken) else self.geometry.n_extents

    # -- point access ------------------------------------------------------------------------

    def kind(self, extent: int) -> int:
        """Return the kind of an extent as a number."""
        return self._kinds[extent]

    def used(self, extent: int) -> int:
        """Return how many pages (or inodes) of an extent are used."""
        return self._used[extent]

    def holds_page(self, pfn: int, kind: int, word: int) -> bool:
        """Whether a page lies in an extent of this kind, and its owner word there is this one."""
        extent = pfn >> EXTENT_PAGE_SHIFT
        return (
            extent < self._n_extents
            and self._kinds[extent] == kind
            and self._words[(extent << _EXTENT_WORD_SHIFT) + (pfn & _SLOT_MASK)] == word
        )

    def holds_run(self, pfn: int, count: int, kind: int, first_word: int) -> bool:
        """Whether pages of one extent are such pages, and consecutive ones of one file."""
        if count == 1:
            return self.holds_page(pfn, kind, first_word)
        slot = pfn & _SLOT_MASK
        extent = pfn >> EXTENT_PAGE_SHIFT
        if (
            extent >= self._n_extents
            or self._kinds[extent] != kind
            or slot + count > PAGES_PER_EXTENT
        ):
            return False
        start = (extent << EXTENT_SHIFT) + (slot << 3)
        words = np.frombuffer(self.device.view, "<u8", count, start)
        return bool((words - _RAMP[:count] == first_word).all())

    def holds_piece(self, pfn: int, owner: int, index: int) -> bool:
        """Whether a page is the first of a whole extent, of this piece of this file."""
        extent = pfn >> EXTENT_PAGE_SHIFT
        if pfn & _SLOT_MASK or extent >= self._n_extents:
            return False
        words = self._words
        head = _HEAD_TABLE_WORD + (extent << _HEAD_WORD_SHIFT)
        return words[head] == _WHOLE | owner << 32 and words[head + 1] & INO_MASK == index

    @property
    def frontier(self) -> int:
        """The first extent from which on all are free and were never worn."""
        return self._frontier

    @property
    def kind_column(self) -> np.ndarray:
        """The kinds, ``(n_extents,) uint8``; for reading only."""
        return self._kind_column

    def open_column(self, kind: Kind) -> np.ndarray:
        """Pages used, plus 1, of extents anyone may allocate from, else 0: ``(n_extents,) uint16``.

        For reading only.
        """
        return self._open_columns[kind]

    @property
    def free_extents(self) -> int:
        """How many extents can be taken, the returned ones included."""
        return self.counts[Kind.FREE] + self.counts[Kind.RETURNED]

    @property
    def free_pages(self) -> int:
        """Pages that file data can still get: free extents whole, and holes in small ones."""
        return self.free_extents * PAGES_PER_EXTENT + self.free_small_pages

    # -- taking and releasing ----------------------------------------------------------------

    def take(self, tx: Transaction, kind: Kind, owner: int = 0, index: int = 0) -> int:
        """Take an extent that reads as zeros, backed by the host; returns its number.

        Raises `PmemfsError` with ENOSPC when none is free or the host is full; nothing has
        changed then.
        """
        extent = self._find_free()
        self.device.back(extent_to_offset(extent), EXTENT_BYTES)
        tx.undo.append(lambda: self._reload(extent))
        self._set(extent, kind, 0)
        tx.put(self.geometry.head_offset(extent), pack_head(kind, 0, owner, index))
        return extent

    def _find_free(self) -> int:
        if self.counts[Kind.FREE]:
            extent = self._free.least_worn()
            if self._frontier < self._n_extents and (
                extent is None or self._free.overwrites(extent) >= FRESH_AFTER
            ):
                return self._frontier
            if extent is None:
                raise InvariantError("3: a free extent is counted but not there")
            return extent
        if self.counts[Kind.RETURNED]:
            extent = self._kinds.find(_RETURNED_BYTE)
            self.device.discard(extent_to_offset(extent), EXTENT_BYTES)
            self.device.fence()
            return extent
        raise no_space()

    def release(self, tx: Transaction, extent: int) -> None:
        """Give an extent back: RETURNED, and to be taken, once the transaction is durable."""
        if extent < self.geometry.fixed_extents:
            raise InvariantError(f"4: extent {extent} is fixed and cannot be released")
        tx.undo.append(lambda: self._reload(extent))
        kind = self._kinds[extent]
        if kind in _PAGED:
            self._validate_count(extent)
            self._set_open(Kind(kind), extent, 0)  # not to be allocated from any more
        tx.put(self.geometry.head_offset(extent), pack_head(Kind.RETURNED))
        tx.after.append(lambda: self._set(extent, Kind.RETURNED, 0))

    def _validate_count(self, extent: int) -> None:
        """Raise `DamagedImageError` unless head and owner page on the device count the same."""
        start = extent_to_offset(extent)
        words = np.frombuffer(self.device.view, "<u8", PAGES_PER_EXTENT, start)
        offset = self.geometry.head_offset(extent)
        used = struct.unpack_from("<BBH", self.device.view, offset)[2]
        if np.count_nonzero(words) != used:
            raise DamagedImageError(
                f"the head of extent {extent} counts {used} pages in use, its owner page has "
                f"{np.count_nonzero(words)}; run pmemfs fsck",
                offset,
            )

    def set_used(self, tx: Transaction, extent: int, used: int) -> None:
        """Change how many pages of a small or metadata extent are used."""
        kind = self._kinds[extent]
        tx.undo.append(lambda: self._reload(extent))
        self._set(extent, kind, used)
        tx.put(self.geometry.head_offset(extent), pack_head(kind, used))

    def set_chunk(
        self, tx: Transaction, extent: int, chunk: int, used: int, free_first: int, frontier: int
    ) -> None:
        """Change the head of an extent of inodes."""
        tx.undo.append(lambda: self._reload(extent))
        self._set(extent, Kind.INODES, used)
        head = pack_head(Kind.INODES, used, 0, chunk, free_first, frontier)
        tx.put(self.geometry.head_offset(extent), head)

    def discard_returned(self, limit: int) -> int:
        """Discard up to ``limit`` returned extents and make them FREE; return how many.

        Order: their free is durable (RETURNED is committed); discard; **fence**; commit FREE.
        """
        batch: list[int] = []
        extent = self._kinds.find(_RETURNED_BYTE)
        while extent >= 0 and len(batch) < limit:
            batch.append(extent)
            extent = self._kinds.find(_RETURNED_BYTE, extent + 1)
        for extent in batch:
            self.device.discard(extent_to_offset(extent), EXTENT_BYTES)
        if batch:
            self.device.fence()
            with self._journal.transaction() as tx:
                for extent in batch:
                    tx.put(self.geometry.head_offset(extent), pack_head(Kind.FREE))
            for extent in batch:
                self._set(extent, Kind.FREE, 0)
        return len(batch)

    def discard_suspects(self) -> None:
        """Discard what is FREE on the device but may hold data: the next mount trusts it.

        Durable after the next fence.
        """
        for extent in self._suspects:
            if self._kinds[extent] == Kind.RETURNED:
                self.device.discard(extent_to_offset(extent), EXTENT_BYTES)
                self._set(extent, Kind.FREE, 0)
        self._suspects.clear()

    # -- extents that pages are allocated from -----------------------------------------------

    def fullest_open(self, kind: Kind, group: int = 0, pages: int = 1) -> int | None:
        """Return the fullest extent of that kind with so many free pages that no arena owns.

        One that an arena of this group owned last, if there is one, else any.
        """
        if not self._open_counts[kind]:
            return None
        column = self._open_columns[kind][: self._frontier]
        if pages > 1:
            column = column * (column <= PAGES_PER_EXTENT - pages)
        if group:
            mine = column * (self._group_column[: self._frontier] == group)
            extent = int(mine.argmax())
            if mine[extent]:
                return extent
        extent = int(column.argmax())
        return extent if column[extent] else None

    @property
    def has_many_holes(self) -> bool:
        """Whether more than 1/40 of the free pages lie in small extents."""
        return self.free_small_pages * 40 > self.free_pages

    def own(self, extent: int, group: int = 0) -> None:
        """Keep an extent for one arena: nobody else finds it, and it stays when empty."""
        self._arena_owned.add(extent)
        if group:
            self._group_column[extent] = group
        self._set(extent, self._kinds[extent], self._used[extent])

    def disown(self, extent: int) -> None:
        """Let others find the extent again."""
        self._arena_owned.discard(extent)
        self._set(extent, self._kinds[extent], self._used[extent])

    def is_owned(self, extent: int) -> bool:
        """Whether an arena owns the extent."""
        return extent in self._arena_owned

    def empty_open(self) -> int | None:
        """Return a small or metadata extent without a used page that no arena owns."""
        for kind in _PAGED:
            if self._open_counts[kind]:
                empty = np.flatnonzero(self._open_columns[kind][: self._frontier] == 1)
                if len(empty):
                    return int(empty[0])
        return None

    # -- the columns -------------------------------------------------------------------------

    def _set(self, extent: int, kind: int, used: int) -> None:
        before = self._kinds[extent]
        if before != kind:
            self.counts[before] -= 1
            self.counts[kind] += 1
            self._kinds[extent] = kind
            if extent >= self._frontier:
                for passed in range(self._frontier, extent):
                    self._free.add(passed)
                self._frontier = extent + 1
            if kind == Kind.FREE:
                self._free.add(extent)
            elif before == Kind.FREE:
                self._free.discard(extent)
        if before == Kind.SMALL:
            self.free_small_pages -= _OWNABLE_PAGES - self._used[extent]
        if kind == Kind.SMALL:
            self.free_small_pages += _OWNABLE_PAGES - used
        self._used[extent] = used
        if before in _PAGED and before != kind:
            self._set_open(Kind(before), extent, 0)
        if kind in _PAGED:
            is_open = used < _OWNABLE_PAGES and extent not in self._arena_owned
            self._set_open(Kind(kind), extent, used + 1 if is_open else 0)

    def _set_open(self, kind: Kind, extent: int, value: int) -> None:
        column = self._open_columns[kind]
        self._open_counts[kind] += bool(value) - bool(column[extent])
        column[extent] = value

    def _reload(self, extent: int) -> None:
        """Read an extent's head again after an aborted transaction."""
        offset = self.geometry.head_offset(extent)
        kind, _, used = struct.unpack_from("<BBH", self.device.view, offset)
        if kind == Kind.DESCRIPTOR and extent != self.geometry.reserve_extent:
            kind = Kind.RETURNED
        if kind == Kind.FREE and self._kinds[extent] != Kind.FREE:
            kind = Kind.RETURNED  # the aborted operation may have stored into it
            self._suspects.add(extent)
        self._set(extent, kind, used)
