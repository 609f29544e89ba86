"""Schemes with a descriptor of 64 bytes for every page, always: flat, scattered, hierarchical."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
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
    per_page,
)
from pmemfs.layout.geometry import PAGE_BYTES, PAGES_PER_EXTENT

_GROUP_PAGES = DESCRIPTORS_PER_PAGE + 1
_GRANULE_ORDER = 9
_GRANULE_BYTES = PAGES_PER_EXTENT * DESCRIPTOR_BYTES
_GROUP_MARK = 2 << 32
_TAIL = 1 << 63  # and the byte offset of the head
_HEAD = _TAIL - 1


class PerPage(Scheme):
    """A descriptor for each page, always; whole extents are compound pages, as in the kernel.

    When an extent is first used whole, its descriptors but the first are marked as tails that
    point to the first, the head; from then on only the head is stamped. When it is first used by
    4 KiB, or freed, the marks are taken away. So do ``prep_compound_page`` and the freeing of a
    compound page in the Linux kernel, and a lookup follows the tail as ``compound_head`` does.
    """

    reads_whole: ClassVar[int] = 2  # tail, head
    reads_split: ClassVar[int] = 1

    def initialise(self) -> None:
        """Start with single pages only."""
        self._compound: set[int] = set()

    @abstractmethod
    def own(self, pfn: int) -> int:
        """Return the byte offset of a page's own descriptor."""

    @abstractmethod
    def own_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what `own` does for each page, ``(n,) int64``."""

    @abstractmethod
    def iter_runs(self, pfn: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield the descriptors of pages as ``(byte offset, count)`` of those side by side."""

    def find(self, pfn: int) -> int:
        """Return the offset: that of the page's own descriptor, or of the head it points to."""
        offset = self.own(pfn)
        word = self.device.words[offset >> 3]
        return word & _HEAD if word & _TAIL else offset

    def find_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets ``(n,) int64``."""
        offsets = self.own_many(pfns)
        words = np.frombuffer(self.device.view, "<i8")[offsets >> 3]
        return np.where(words < 0, words & _HEAD, offsets)

    def touch(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Stamp the head of a whole extent, of a split one the descriptor of each page."""
        extent = pfn >> 9
        if flags & FREED:
            if count == PAGES_PER_EXTENT:
                self._mark(extent, compound=False)
        elif flags & WHOLE:
            self._mark(extent, compound=True)
            self._stamp_heads(pfn, count, flags, lines)
        else:
            self._mark(extent, compound=False)
            for start, n in self.iter_runs(pfn, count):
                self.stamp_run(start, n, flags, lines)

    def _stamp_heads(self, pfn: int, count: int, flags: int, lines: int) -> None:
        self.stamp(self.find(pfn), flags, lines)

    def _mark(self, extent: int, *, compound: bool) -> None:
        """Store what the descriptors of an extent say of it, if they say otherwise."""
        if compound == (extent in self._compound):
            return
        for start, n in self.iter_runs(extent * PAGES_PER_EXTENT, PAGES_PER_EXTENT):
            if n > 1:
                self._mark_tails(start, n - 1, _TAIL | start if compound else PRESENT)
        if compound:
            self._compound.add(extent)
        else:
            self._compound.remove(extent)

    def _mark_tails(self, head: int, count: int, word: int) -> None:
        first = head + DESCRIPTOR_BYTES
        words = np.frombuffer(self.device.view, "<u8", count * 8, first).reshape(count, -1).copy()
        words[:, 0] = word
        self.device.store(first, words.data.cast("B"))


class Flat(PerPage):
    """A linear array: the descriptor of a page is found by its number."""

    name = "flat"
    what = "64 bytes for each page, in a linear array"
    source = "struct page and vmem_altmap of the Linux kernel"

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return 1/64 of the device."""
        return size_bytes // PAGE_BYTES * DESCRIPTOR_BYTES

    def initialise(self) -> None:
        """Store every descriptor once."""
        super().initialise()
        self.open(self.initial_bytes(self.size_bytes))
        self.device.store_pattern(0, new_descriptor(), self.n_pages)

    def own(self, pfn: int) -> int:
        """Return the offset: arithmetic alone."""
        return pfn * DESCRIPTOR_BYTES

    def own_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets ``(n,) int64``."""
        return pfns * DESCRIPTOR_BYTES

    def iter_runs(self, pfn: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield all as one run."""
        yield pfn * DESCRIPTOR_BYTES, count

    def parts(self) -> dict[str, int]:
        """Return the array."""
        return {"descriptors": self.n_pages * DESCRIPTOR_BYTES}


class Scattered(PerPage):
    """Every 65th page holds the descriptors of the 64 pages before it.

    So no aligned 2 MiB is without a descriptor page in its middle: there can be no whole extent.
    What the others describe once is here a run for each group of 65 that it reaches into, with a
    head for each. A pfn that is a descriptor page stands for the page before it.
    """

    name = "scattered"
    what = "every 65th page holds the 64 descriptors of its neighbours"
    source = "Ingo Molnar, linux-kernel, 7 May 2015"

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return a page for each 65, the last ones included if they are fewer."""
        return -(-(size_bytes // PAGE_BYTES) // _GROUP_PAGES) * PAGE_BYTES

    def initialise(self) -> None:
        """Store one page of descriptors in each group of 65."""
        super().initialise()
        self.groups = -(-self.n_pages // _GROUP_PAGES)
        self.open(-(-self.groups * _GROUP_PAGES // PAGES_PER_EXTENT) * PAGES_PER_EXTENT * 4096)
        page = new_descriptor() * DESCRIPTORS_PER_PAGE
        for group in range(self.groups):
            self.device.store((group * _GROUP_PAGES + DESCRIPTORS_PER_PAGE) * PAGE_BYTES, page)

    def own(self, pfn: int) -> int:
        """Return the offset: round to the group, modulo 65."""
        group, place = divmod(pfn, _GROUP_PAGES)
        place = min(place, DESCRIPTORS_PER_PAGE - 1)
        page = group * _GROUP_PAGES + DESCRIPTORS_PER_PAGE
        return page * PAGE_BYTES + place * DESCRIPTOR_BYTES

    def own_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets ``(n,) int64``."""
        group, place = np.divmod(pfns, _GROUP_PAGES)
        place = np.minimum(place, DESCRIPTORS_PER_PAGE - 1)
        page = group * _GROUP_PAGES + DESCRIPTORS_PER_PAGE
        return page * PAGE_BYTES + place * DESCRIPTOR_BYTES

    def iter_runs(self, pfn: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield a run for each group; descriptor pages have no descriptor themselves."""
        stop = pfn + count
        while pfn < stop:
            place = pfn % _GROUP_PAGES
            n = min(stop - pfn, DESCRIPTORS_PER_PAGE - place)
            if n:
                yield self.own(pfn), n
            pfn += n or 1

    def _stamp_heads(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Stamp the head of each run that the pages lie in, for the share of pages in it."""
        for start, n in self.iter_runs(pfn, count):
            word = self.device.words[start >> 3]
            head = word & _HEAD if word & _TAIL else start
            self.stamp(head, flags, n * per_page(count, flags, lines))

    def parts(self) -> dict[str, int]:
        """Return the descriptor pages."""
        return {"descriptors": self.groups * PAGE_BYTES}


class Hierarchical(Flat):
    """The flat array, initialised lazily by power-of-two groups, as a buddy allocator splits.

    At discovery the device is cut into its largest power-of-two groups, and the first descriptor
    of each says how large the group is. The first touch of a page halves its group until it has
    2 MiB, one descriptor for each half, and initialises the 512 descriptors of these. What lies
    in between is never read, so it need not be zero.
    """

    name = "hierarchical"
    what = "flat, initialised lazily by power-of-two groups down to 2 MiB"
    source = "Ingo Molnar, linux-kernel, 7 and 10 May 2015"
    grows_by: ClassVar[tuple[int, int]] = (_GRANULE_BYTES, _GRANULE_BYTES)
    reads_whole: ClassVar[int] = 2  # tail, and the first of the 2 MiB, which is the head
    reads_split: ClassVar[int] = 2

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return a descriptor for each bit of the number of pages."""
        return (size_bytes // PAGE_BYTES).bit_count() * DESCRIPTOR_BYTES

    def initialise(self) -> None:
        """Store one descriptor for each largest power-of-two group."""
        PerPage.initialise(self)
        self.open(Flat.initial_bytes(self.size_bytes))
        self.granules = 0
        pfn, left = 0, self.n_pages
        while left:
            order = left.bit_length() - 1
            self._store_group(pfn, order)
            pfn += 1 << order
            left -= 1 << order
        self._granule = new_descriptor() * PAGES_PER_EXTENT

    def _store_group(self, pfn: int, order: int) -> None:
        word = _GROUP_MARK | order
        self.device.store(pfn * DESCRIPTOR_BYTES, word.to_bytes(8, "little") + bytes(56))

    def find(self, pfn: int) -> int:
        """Return the offset of the page's descriptor, or of that of the group not yet split."""
        words = self.device.words
        granule = pfn >> _GRANULE_ORDER << _GRANULE_ORDER
        if words[granule << 3] == PRESENT:
            return super().find(pfn)
        for order in range(_GRANULE_ORDER, self.n_pages.bit_length()):
            first = pfn >> order << order
            if words[first << 3] == _GROUP_MARK | order:
                return first * DESCRIPTOR_BYTES
        raise AssertionError(f"no group covers page {pfn}")

    def find_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets ``(n,) int64``, after a look at the first descriptor of the 2 MiB."""
        granules = pfns >> _GRANULE_ORDER << _GRANULE_ORDER
        ready = np.frombuffer(self.device.view, "<u8")[granules << 3] == PRESENT
        if ready.all():
            return super().find_many(pfns)
        return np.array([self.find(pfn) for pfn in pfns.tolist()], np.int64)

    def touch(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Initialise the 2 MiB if nobody has been there, then stamp as flat does."""
        granule = pfn >> _GRANULE_ORDER << _GRANULE_ORDER
        if not flags & FREED and self.device.words[granule << 3] != PRESENT:
            self._split_to(granule)
        super().touch(pfn, count, flags, lines)

    def _split_to(self, granule: int) -> None:
        """Halve the group around a granule down to it, then initialise it."""
        first = self.find(granule) // DESCRIPTOR_BYTES
        order = self.device.words[first << 3] & 0xFF
        while order > _GRANULE_ORDER:
            order -= 1
            self._store_group(first, order)
            self._store_group(first + (1 << order), order)
            first = granule >> order << order
        self.device.store(granule * DESCRIPTOR_BYTES, self._granule)
        self.granules += 1

    @classmethod
    def swept_bytes(cls, size_bytes: int, small: Counts, whole: Counts, run_pages: float) -> Counts:
        """Return the descriptors of what has been used."""
        return (small + whole) * _GRANULE_BYTES

    def parts(self) -> dict[str, int]:
        """Return what is initialised; the array keeps its place for all of it."""
        return {"descriptors": self.granules * _GRANULE_BYTES}
