"""Arenas: each owns one extent at a time and allocates its pages without looking elsewhere.

When its extent has no free page left, an arena takes the fullest partly used extent that no
arena owns before it breaks a free one. The owner page is the allocation map: a page is free if
its owner word is 0.

A request for several pages should not end up as many runs. Within an extent the best fitting
hole is used. If no hole of its own is large enough, an arena goes to the fullest extent that has
room, and holes large enough. Where there is none it breaks a free extent, unless many holes
(1/40 of the free pages) wait to be filled: then it fills those.

Invariants: owner word and head count change in one transaction; a page that a transaction frees
is not allocated again before that transaction is durable, since an arena reads the owner page on
the device, never the transaction's view of it.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from pmemfs.errors import DamagedImageError, no_space
from pmemfs.journal import Transaction
from pmemfs.layout.geometry import (
    PAGE_BYTES,
    PAGES_PER_EXTENT,
    extent_to_offset,
    extent_to_pfn,
    pfn_to_extent,
    pfn_to_slot,
)
from pmemfs.layout.records import Kind
from pmemfs.pages.extents import ExtentPool


def owner_word_offset(pfn: int) -> int:
    """Byte offset of the owner word of a page in a small or metadata extent."""
    return extent_to_offset(pfn_to_extent(pfn)) + pfn_to_slot(pfn) * 8


class Arena:
    """Allocates pages of one kind (SMALL or METADATA) for one purpose.

    One that does not ``break`` free extents fills holes only, and raises ENOSPC without one.
    ``group`` above 0 marks arenas that prefer extents which one of the same group owned last.
    """

    def __init__(
        self, pool: ExtentPool, kind: Kind, *, breaks: bool = True, group: int = 0
    ) -> None:
        self._pool = pool
        self._breaks = breaks
        self._group = group
        self._device = pool.device
        self._kind = kind
        self._extent: int | None = None
        self._free_runs: list[tuple[int, int]] = []  # (pages, slot), the smallest first

    def allocate(
        self, tx: Transaction, count: int, first_word: int, step: int
    ) -> list[tuple[int, int]]:
        """Allocate pages; return ``(pfn, pages)`` runs in order.

        Page ``i`` gets owner word ``first_word + i * step``. Raises `PmemfsError` with ENOSPC;
        the transaction must be aborted then.
        """
        runs: list[tuple[int, int]] = []
        tx.undo.append(self.retire)
        if count > 1 and self._largest < count:
            self._find_room(tx, count)
        while count:
            if not self._free_runs:
                self._refill(tx)
            slot, n = self._take_run(count)
            assert self._extent is not None
            pfn = extent_to_pfn(self._extent) + slot
            tx.store(owner_word_offset(pfn), _owner_words(first_word, step, n))
            self._pool.set_used(tx, self._extent, self._pool.used(self._extent) + n)
            runs.append((pfn, n))
            first_word += n * step
            count -= n
        return runs

    @property
    def _largest(self) -> int:
        return self._free_runs[-1][0] if self._free_runs else 0

    def _take_run(self, count: int) -> tuple[int, int]:
        """Take up to ``count`` pages side by side from the best fitting hole: (slot, pages)."""
        runs = self._free_runs
        place = min(bisect_left(runs, (count, 0)), len(runs) - 1)
        free, slot = runs.pop(place)
        if free <= count:
            return slot, free
        insort(runs, (free - count, slot + count))
        return slot, count

    def _find_room(self, tx: Transaction, count: int) -> None:
        """Go to an extent with a hole of so many pages, or a free one; else stay."""
        own = self._extent
        if own is not None and self._pool.used(own) + count < PAGES_PER_EXTENT:
            self._free_runs = self._read_free_runs(own, tx)  # with what was freed meanwhile
            if self._largest >= count:
                return
        for pages in (count, 2 * count, 4 * count):
            extent = self._pool.fullest_open(self._kind, self._group, pages)
            if extent is None:
                break
            runs = self._read_free_runs(extent, tx)
            if runs and runs[-1][0] >= count:
                self._move_to(extent, runs)
                return
        if self._breaks and self._pool.free_extents and not self._pool.has_many_holes:
            self._break_free(tx)

    def _move_to(self, extent: int, runs: list[tuple[int, int]]) -> None:
        self.retire()
        self._extent, self._free_runs = extent, runs
        self._pool.own(extent, self._group)

    def _break_free(self, tx: Transaction) -> None:
        extent = self._pool.take(tx, self._kind)
        self._move_to(extent, [(PAGES_PER_EXTENT - 1, 1)])

    def retire(self) -> None:
        """Give the extent up; the next allocation looks for one again."""
        self._free_runs = []
        if self._extent is not None:
            extent, self._extent = self._extent, None
            self._pool.disown(extent)

    @property
    def owns_extent(self) -> bool:
        """Whether the arena keeps an extent for itself."""
        return self._extent is not None

    @property
    def is_idle_empty(self) -> bool:
        """Whether the arena keeps an extent that no page is used of."""
        return self._extent is not None and self._pool.used(self._extent) == 0

    def _refill(self, tx: Transaction) -> None:
        """Find free pages: freed meanwhile in the own extent, then elsewhere."""
        if self._extent is not None:
            self._free_runs = self._read_free_runs(self._extent, tx)
            if self._free_runs:
                return
            self.retire()
        extent = self._find_open(tx)
        if extent is not None:
            self._move_to(extent, self._free_runs)
        elif self._breaks:
            self._break_free(tx)
        else:
            raise no_space("no small extent has a free page")

    def _find_open(self, tx: Transaction) -> int | None:
        """Return the fullest extent with pages that can be had, and read them.

        One whose only free pages this transaction has freed itself is passed over.
        """
        passed_over = []
        while (extent := self._pool.fullest_open(self._kind, self._group)) is not None:
            self._free_runs = self._read_free_runs(extent, tx)
            if self._free_runs:
                break
            self._pool.own(extent)
            passed_over.append(extent)
        for each in passed_over:
            self._pool.disown(each)
        return extent

    @staticmethod
    def _has_stores_to(extent: int, tx: Transaction) -> bool:
        start = extent_to_offset(extent)
        return any(start <= offset < start + PAGE_BYTES for offset, _ in tx.stores)

    def _read_free_runs(self, extent: int, tx: Transaction) -> list[tuple[int, int]]:
        """Return free runs ``(pages, slot)``, the smallest first."""
        start = extent_to_offset(extent)
        words = np.frombuffer(self._device.view, "<u8", PAGES_PER_EXTENT, start)
        free = words == 0
        free[0] = False
        for offset, data in tx.stores:  # this transaction's own allocations are not there yet
            if start <= offset < start + PAGES_PER_EXTENT * 8:
                slot = (offset - start) >> 3
                free[slot : slot + (len(data) >> 3)] = False
        room = PAGES_PER_EXTENT - 1 - self._pool.used(extent)
        if np.count_nonzero(free) != room and not self._has_stores_to(extent, tx):
            raise damaged_owner_page(extent)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], free.view(np.int8), [0]))))
        pairs = edges.reshape(-1, 2)
        return sorted((b - a, a) for a, b in pairs.tolist())


def _owner_words(first_word: int, step: int, count: int) -> bytes:
    if count == 1:
        return first_word.to_bytes(8, "little")
    return b"".join((first_word + i * step).to_bytes(8, "little") for i in range(count))


def damaged_owner_page(extent: int) -> DamagedImageError:
    """Return the error for an owner page that does not agree with a head or a map."""
    return DamagedImageError(
        f"the owner page of extent {extent} does not agree with what refers to it; run pmemfs fsck",
        extent_to_offset(extent),
    )


def free_metadata(pool: ExtentPool, tx: Transaction, pfn: int, word: int) -> None:
    """Free one metadata page that has this owner word; see `free_pages`."""
    free_pages(pool, tx, pfn, 1, word, 0, Kind.METADATA)


def free_pages(
    pool: ExtentPool,
    tx: Transaction,
    pfn: int,
    count: int,
    first_word: int,
    step: int,
    kind: Kind = Kind.SMALL,
) -> None:
    """Free pages of one extent; an extent that becomes empty, and no arena owns, is released.

    Page ``i`` must have the owner word ``first_word + i * step``. Raises `DamagedImageError` for
    any that has not: what is another's is never freed.
    """
    extent = pfn_to_extent(pfn)
    used = 0
    if pfn not in tx.freed and (pfn in tx.fresh or pool.holds_page(pfn, kind, first_word)):
        slot = pfn_to_slot(pfn)
        first = extent_to_offset(extent) // 8 + slot
        words = pool.device.words[first : first + count]
        if pfn in tx.fresh or words.tobytes() == _owner_words(first_word, step, count):
            used = pool.used(extent)
    if used < count or pfn_to_extent(pfn + count - 1) != extent:
        raise damaged_owner_page(extent)
    tx.freed.add(pfn)
    tx.store(owner_word_offset(pfn), bytes(8 * count))
    used -= count
    pool.set_used(tx, extent, used)
    if used == 0 and not pool.is_owned(extent):
        pool.release(tx, extent)
