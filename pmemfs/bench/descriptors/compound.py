"""Schemes that describe a whole extent once: vmemmap deduplication, memory descriptors."""

from __future__ import annotations

import struct
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pmemfs.bench.descriptors.scheme import (
    DESCRIPTOR_BYTES,
    DESCRIPTORS_PER_PAGE,
    FREED,
    PRESENT,
    WHOLE,
    Counts,
    Scheme,
    new_descriptor,
)
from pmemfs.layout.geometry import PAGE_BYTES, PAGES_PER_EXTENT

_VMEMMAP_PAGES = PAGES_PER_EXTENT // DESCRIPTORS_PER_PAGE  # 8 for an extent
_KEPT_PAGES = 2
_TAIL = 1 << 63 | 1
_PTES = struct.Struct(f"<{_VMEMMAP_PAGES}Q")


class VmemmapDedup(Scheme):
    """The linear array by way of page tables: of the 8 pages of an extent, 7 show one page.

    As device-dax does it for 2 MiB: the first page of the 8 is its own, the second has 64 equal
    tail descriptors, and the other six are mapped to the second. (HugeTLB maps all 7 to the first,
    which keeps 1 page instead of 2.) An extent that is used by 4 KiB needs descriptors of its own
    again: six more pages, 384 descriptors, until it is freed as a whole.

    The kernel's page tables of the array, 8 words for each extent, are stores here, too.
    """

    name = "vmemmap-dedup"
    what = "7 of the 8 descriptor pages of a 2 MiB extent show one page, unless it is split"
    source = "Documentation/mm/vmemmap_dedup.rst of the Linux kernel"
    reads_whole: ClassVar[int] = 3  # page table, tail, head
    reads_split: ClassVar[int] = 2
    grows_by: ClassVar[tuple[int, int]] = ((_VMEMMAP_PAGES - _KEPT_PAGES) * PAGE_BYTES, 0)

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return two pages and eight words for each extent."""
        n = size_bytes // PAGE_BYTES // PAGES_PER_EXTENT
        return n * (_KEPT_PAGES * PAGE_BYTES + _PTES.size)

    def initialise(self) -> None:
        """Store the page tables, and head and tail page of each extent."""
        self._kept = -(-self.n_extents * _PTES.size // PAGE_BYTES) * PAGE_BYTES
        self._pool = self._kept + self.n_extents * _KEPT_PAGES * PAGE_BYTES
        self._split: dict[int, list[int]] = {}
        self._free: list[int] = []
        self._frontier = self._pool
        most = self.n_extents * (_VMEMMAP_PAGES - _KEPT_PAGES) * PAGE_BYTES
        self.open(self._pool + most)
        head = PRESENT.to_bytes(8, "little") + bytes(56)
        tail = _TAIL.to_bytes(8, "little") + bytes(56)
        self._tail_page = tail * DESCRIPTORS_PER_PAGE
        pages = head + tail * (2 * DESCRIPTORS_PER_PAGE - 1)
        self.device.store_pattern(self._kept, pages, self.n_extents)
        self._store_tables()

    def _store_tables(self) -> None:
        heads = self._kept + np.arange(self.n_extents, dtype="<u8") * (_KEPT_PAGES * PAGE_BYTES)
        tables = np.empty((self.n_extents, _VMEMMAP_PAGES), "<u8")
        tables[:, 0] = heads
        tables[:, 1:] = (heads + PAGE_BYTES)[:, None]
        self.device.back_bulk(0, tables.nbytes)
        self.device.store(0, tables.data.cast("B"))

    def find(self, pfn: int) -> int:
        """Return the offset by way of the page table; a tail leads to the head of its extent."""
        words = self.device.words
        page = words[pfn >> 6]
        offset = page + (pfn & 63) * DESCRIPTOR_BYTES
        if words[offset >> 3] == _TAIL:
            return words[pfn >> 9 << 3]
        return offset

    def find_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets ``(n,) int64``."""
        words = np.frombuffer(self.device.view, "<i8")
        offsets = words[pfns >> 6] + ((pfns & 63) << 6)
        tails = np.flatnonzero(words[offsets >> 3] == _TAIL - (1 << 64))
        offsets[tails] = words[pfns[tails] >> 9 << 3]
        return offsets

    def touch(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Stamp the head of a whole extent; give a split one its descriptors, and stamp these."""
        extent = pfn >> 9
        if flags & FREED:
            if count == PAGES_PER_EXTENT and extent in self._split:
                self._join(extent)
            return
        if flags & WHOLE:
            self.stamp(self.device.words[extent << 3], flags, lines)
            return
        if extent not in self._split:
            self._restore(extent)
        while count:
            place = pfn & 63
            n = min(count, DESCRIPTORS_PER_PAGE - place)
            start = self.device.words[pfn >> 6] + place * DESCRIPTOR_BYTES
            self.stamp_run(start, n, flags, lines)
            pfn += n
            count -= n

    def _restore(self, extent: int) -> None:
        """Give an extent 512 descriptors of its own, then map them."""
        own = [self._kept + (2 * extent + i) * PAGE_BYTES for i in range(_KEPT_PAGES)]
        more = [self._take_page() for _ in range(_VMEMMAP_PAGES - _KEPT_PAGES)]
        page = new_descriptor() * DESCRIPTORS_PER_PAGE
        self.device.store(own[0], page)
        for start in (own[1], *more):
            self.device.store(start, page)
        self.device.store(extent * _PTES.size, _PTES.pack(*own, *more))
        self._split[extent] = more

    def _join(self, extent: int) -> None:
        """Map the tail page again and give the other pages back."""
        self._free += self._split.pop(extent)
        head = self._kept + 2 * extent * PAGE_BYTES
        tail = head + PAGE_BYTES
        self.device.store(head, PRESENT.to_bytes(8, "little") + bytes(56))
        self.device.store(head + DESCRIPTOR_BYTES, self._tail_page[DESCRIPTOR_BYTES:])
        self.device.store(tail, self._tail_page)
        self.device.store(extent * _PTES.size, _PTES.pack(head, *[tail] * (_VMEMMAP_PAGES - 1)))

    def _take_page(self) -> int:
        if self._free:
            return self._free.pop()
        page = self._frontier
        self._frontier += PAGE_BYTES
        return page

    @classmethod
    def swept_bytes(cls, size_bytes: int, small: Counts, whole: Counts, run_pages: float) -> Counts:
        """Return six pages more for each extent that is split."""
        return cls.initial_bytes(size_bytes) + small * cls.grows_by[0]

    def parts(self) -> dict[str, int]:
        """Return kept pages, pages of split extents, and page tables."""
        more = len(self._split) * (_VMEMMAP_PAGES - _KEPT_PAGES)
        return {
            "descriptors": (self.n_extents * _KEPT_PAGES + more) * PAGE_BYTES,
            "page tables": self.n_extents * _PTES.size,
        }

    def place_of(self, line: int) -> str:
        """Return ``page tables`` or ``descriptors``."""
        return "page tables" if line * 64 < self.n_extents * _PTES.size else "descriptors"


_FOLIO_BYTES = 80
_FOLIOS_PER_PAGE = PAGE_BYTES // _FOLIO_BYTES
_TYPE_FILE = 2
_MISC = 1 << 60


def _run_starts(pages: float) -> NDArray[np.int64]:
    """Return where the runs of an extent begin, if they have so many pages in the mean."""
    return np.unique(np.ceil(np.arange(0, PAGES_PER_EXTENT, pages)).astype(np.int64))


class Memdesc(Scheme):
    """A word for each page; what is in use has a descriptor of its own, and its pages point there.

    The descriptor is the ``struct folio`` of the plan, 10 words, 51 of them in a slab page. A
    whole extent is one folio. A small page is a folio of its own: the worst case, since neighbours
    of one file could share one, as in `MemdescRuns`. A descriptor lives as long as a page of it is
    used by a file, idle or not.
    """

    name = "memdesc"
    what = "8 bytes for each page; a descriptor of 80 bytes for each small page in use"
    source = "kernelnewbies.org/MatthewWilcox/Memdescs and its page Path"
    reads_whole: ClassVar[int] = 2
    reads_split: ClassVar[int] = 2
    grows_by: ClassVar[tuple[int, int]] = (
        PAGES_PER_EXTENT * PAGE_BYTES // _FOLIOS_PER_PAGE,
        _FOLIO_BYTES,
    )

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return a word for each page."""
        return size_bytes // PAGE_BYTES * 8

    def initialise(self) -> None:
        """Store the word of every page: of type Misc, so that nothing is behind it."""
        self._slabs = self.n_pages * 8
        self._frontier = self._slabs
        self._free: list[int] = []
        self.folios = 0
        self._cut_runs()
        slab_pages = -(-self.n_pages // _FOLIOS_PER_PAGE)
        self.open(self._slabs + (slab_pages + 1) * PAGE_BYTES)
        self.device.store_pattern(0, _MISC.to_bytes(8, "little"), self.n_pages)

    @classmethod
    def swept_bytes(cls, size_bytes: int, small: Counts, whole: Counts, run_pages: float) -> Counts:
        """Return the words, and the slab pages for a folio of each run and whole extent."""
        starts = _run_starts(cls.folio_pages(run_pages))
        runs = len(starts) - int(starts[1] == 1)  # page 0 alone is no file's
        slabs = -(-(small * runs + whole) // _FOLIOS_PER_PAGE)
        return cls.initial_bytes(size_bytes) + slabs * PAGE_BYTES

    @classmethod
    def folio_pages(cls, run_pages: float) -> float:
        """Return how many small pages share a folio, the mean."""
        return 1.0

    def _cut_runs(self) -> None:
        """Say of each page of an extent where its run begins and stops."""
        starts = _run_starts(self.folio_pages(self.run_pages))
        lengths = np.diff(starts, append=PAGES_PER_EXTENT)
        self._run_start = np.repeat(starts, lengths).tolist()
        self._run_stop = np.repeat(starts + lengths, lengths).tolist()

    def find(self, pfn: int) -> int:
        """Return where the word of the page points, or the word itself if it says all."""
        word = self.device.words[pfn]
        return word & ~15 if word & 15 == _TYPE_FILE else pfn << 3

    def find_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets ``(n,) int64``."""
        words = np.frombuffer(self.device.view, "<i8")[pfns]
        return np.where(words & 15 == _TYPE_FILE, words & ~15, pfns << 3)

    def touch(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Allocate the descriptors that are missing, then stamp."""
        if flags & FREED:
            self._release(pfn, count)
        elif flags & WHOLE:
            first = pfn & ~(PAGES_PER_EXTENT - 1)
            if self.device.words[first] & 15 != _TYPE_FILE:
                self._allocate(first, PAGES_PER_EXTENT)
            self.stamp(self.device.words[first] & ~15, flags, lines)
        else:
            self._touch_small(pfn, pfn + count, flags, lines)

    def _touch_small(self, pfn: int, stop: int, flags: int, lines: int) -> None:
        """Stamp each folio once, for as many pages of it as were accessed."""
        words = self.device.words
        while pfn < stop:
            if words[pfn] & 15 != _TYPE_FILE:
                self._allocate_run(pfn)
            word = words[pfn]
            first = pfn
            pfn += 1
            while pfn < stop and words[pfn] == word:
                pfn += 1
            self.stamp(word & ~15, flags, lines * (pfn - first))

    def _allocate_run(self, pfn: int) -> None:
        """Give a folio to the run around a page, or to the page alone if a part has one."""
        base, slot = pfn & ~(PAGES_PER_EXTENT - 1), pfn & (PAGES_PER_EXTENT - 1)
        first, stop = base + self._run_start[slot], base + self._run_stop[slot]
        if any(self.device.words[each] & 15 == _TYPE_FILE for each in range(first, stop)):
            first, stop = pfn, pfn + 1
        self._allocate(first, stop - first)

    def _allocate(self, pfn: int, count: int) -> None:
        folio = self._free.pop() if self._free else self._take()
        self.device.store(folio, PRESENT.to_bytes(8, "little") + bytes(_FOLIO_BYTES - 8))
        self.device.store(pfn << 3, (folio | _TYPE_FILE).to_bytes(8, "little") * count)
        self.folios += 1

    def _take(self) -> int:
        folio = self._frontier
        self._frontier += _FOLIO_BYTES
        if self._frontier % PAGE_BYTES + _FOLIO_BYTES > PAGE_BYTES:
            self._frontier = -(-self._frontier // PAGE_BYTES) * PAGE_BYTES
        return folio

    def _release(self, pfn: int, count: int) -> None:
        """Let go of pages that nobody has; a folio is free when no word points to it any more."""
        folios = self._folios_of(pfn, count)
        if folios:
            self.device.store(pfn << 3, _MISC.to_bytes(8, "little") * count)
            free = folios - self._folios_of(pfn & ~(PAGES_PER_EXTENT - 1), PAGES_PER_EXTENT)
            self._free += sorted(free)
            self.folios -= len(free)

    def _folios_of(self, pfn: int, count: int) -> set[int]:
        words = np.frombuffer(self.device.view, "<i8", count, pfn << 3)
        return set((words[words & 15 == _TYPE_FILE] & ~15).tolist())

    def parts(self) -> dict[str, int]:
        """Return the words, and the slab pages ever taken."""
        slabs = -(-(self._frontier - self._slabs) // PAGE_BYTES) * PAGE_BYTES
        return {"words": self.n_pages * 8, "descriptors": slabs}

    def place_of(self, line: int) -> str:
        """Return ``words`` or ``descriptors``."""
        return "words" if line * 64 < self._slabs else "descriptors"


class MemdescRuns(Memdesc):
    """`Memdesc` where the pages of a file that lie side by side share a folio.

    How long such runs are is measured elsewhere: small extents are cut into runs of `run_pages`
    in the mean, all of them used.
    """

    name = "memdesc-runs"
    what = "the same, but a descriptor for each run of small pages of one file"

    @classmethod
    def folio_pages(cls, run_pages: float) -> float:
        """Return the mean run."""
        return run_pages
