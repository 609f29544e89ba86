"""Schemes with a descriptor of 64 bytes for every page, always: flat, scattered, hierarchical."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pmemfs.bench.descriptors.scheme import (
    DESCRIPTOR_BYTES,
    DESCRIPTORS_PER_PAGE,
    PRESENT,
    Scheme,
    new_descriptor,
    per_page,
)
from pmemfs.layout.geometry import PAGE_BYTES, PAGES_PER_EXTENT

_FREED = 8
_GROUP_PAGES = DESCRIPTORS_PER_PAGE + 1
_GRANULE_ORDER = 9
_GROUP_MARK = 2 << 32


class Flat(Scheme):
    """A linear array: the descriptor of a page is found by its number."""

    name = "flat"
    what = "64 bytes for each page, in a linear array"
    source = "struct page and vmem_altmap of the Linux kernel"
    reads_whole: ClassVar[int] = 1
    reads_split: ClassVar[int] = 1

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return 1/64 of the device."""
        return size_bytes // PAGE_BYTES * DESCRIPTOR_BYTES

    def initialise(self) -> None:
        """Store every descriptor once."""
        self.open(self.initial_bytes(self.size_bytes))
        self.device.store_pattern(0, new_descriptor(), self.n_pages)

    def find(self, pfn: int) -> int:
        """Return the offset: arithmetic alone."""
        return pfn * DESCRIPTOR_BYTES

    def find_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets ``(n,) int64``."""
        return pfns * DESCRIPTOR_BYTES

    def touch(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Stamp the descriptor of each page, whole extent or not."""
        if not flags & _FREED:
            lines = per_page(count, flags, lines)
            self.stamp_run(pfn * DESCRIPTOR_BYTES, count, flags, lines)

    def parts(self) -> dict[str, int]:
        """Return the array."""
        return {"descriptors": self.n_pages * DESCRIPTOR_BYTES}


class Scattered(Scheme):
    """Every 65th page holds the descriptors of the 64 pages before it.

    So no aligned 2 MiB is without a descriptor page in its middle: there can be no whole extent.
    A pfn that is a descriptor page stands for the page before it.
    """

    name = "scattered"
    what = "every 65th page holds the 64 descriptors of its neighbours"
    source = "Ingo Molnar, linux-kernel, 7 May 2015"
    reads_whole: ClassVar[int] = 1
    reads_split: ClassVar[int] = 1

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return a page for each 65, the last ones included if they are fewer."""
        return -(-(size_bytes // PAGE_BYTES) // _GROUP_PAGES) * PAGE_BYTES

    def initialise(self) -> None:
        """Store one page of descriptors in each group of 65."""
        self.groups = -(-self.n_pages // _GROUP_PAGES)
        self.open(-(-self.groups * _GROUP_PAGES // PAGES_PER_EXTENT) * PAGES_PER_EXTENT * 4096)
        page = new_descriptor() * DESCRIPTORS_PER_PAGE
        for group in range(self.groups):
            self.device.store((group * _GROUP_PAGES + DESCRIPTORS_PER_PAGE) * PAGE_BYTES, page)

    def find(self, pfn: int) -> int:
        """Return the offset: round to the group, modulo 65."""
        group, place = divmod(pfn, _GROUP_PAGES)
        place = min(place, DESCRIPTORS_PER_PAGE - 1)
        page = group * _GROUP_PAGES + DESCRIPTORS_PER_PAGE
        return page * PAGE_BYTES + place * DESCRIPTOR_BYTES

    def find_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets ``(n,) int64``."""
        group, place = np.divmod(pfns, _GROUP_PAGES)
        place = np.minimum(place, DESCRIPTORS_PER_PAGE - 1)
        page = group * _GROUP_PAGES + DESCRIPTORS_PER_PAGE
        return page * PAGE_BYTES + place * DESCRIPTOR_BYTES

    def touch(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Stamp the descriptors of each group that the pages lie in."""
        if flags & _FREED:
            return
        lines = per_page(count, flags, lines)
        while count:
            place = min(pfn % _GROUP_PAGES, DESCRIPTORS_PER_PAGE - 1)
            n = min(count, DESCRIPTORS_PER_PAGE - place)
            self.stamp_run(self.find(pfn), n, flags, lines)
            pfn += n
            count -= n

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
    reads_whole: ClassVar[int] = 2
    reads_split: ClassVar[int] = 2

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return a descriptor for each bit of the number of pages."""
        return (size_bytes // PAGE_BYTES).bit_count() * DESCRIPTOR_BYTES

    def initialise(self) -> None:
        """Store one descriptor for each largest power-of-two group."""
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
            return pfn * DESCRIPTOR_BYTES
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
            return pfns * DESCRIPTOR_BYTES
        return np.array([self.find(pfn) for pfn in pfns.tolist()], np.int64)

    def touch(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Initialise the 2 MiB if nobody has been there, then stamp as flat does."""
        granule = pfn >> _GRANULE_ORDER << _GRANULE_ORDER
        if not flags & _FREED and self.device.words[granule << 3] != PRESENT:
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

    def parts(self) -> dict[str, int]:
        """Return what is initialised; the array keeps its place for all of it."""
        return {"descriptors": self.granules * PAGES_PER_EXTENT * DESCRIPTOR_BYTES}
