"""Models of how others place files, for the same trace: pages and who owns them, nothing else.

They are given no metadata at all, so all of their device is for files.

* `FirstFit`: 4 KiB pages, always the lowest free ones. What a file system without any notion of
  2 MiB does.
* `TwoTrees`: free space as aligned extents and as holes, a share of both for each CPU. Large
  requests take whole extents, the rest goes to the first hole that is large enough: of the own
  share first, then an own extent is broken, then the holes of others are used. What hugepage-aware
  file systems for persistent memory do (Kadekodi et al., *WineFS*, SOSP 2021).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from pmemfs.bench.ageing.store import Sample, measure_owners
from pmemfs.errors import no_space
from pmemfs.layout.geometry import PAGE_SHIFT, PAGES_PER_EXTENT

CPUS = 4
_FREE_RUN = [bytes(n) for n in range(PAGES_PER_EXTENT + 1)]
_USED_RUN = [b"\1" * n for n in range(PAGES_PER_EXTENT + 1)]
_ASIDE_RUN = b"\2" * PAGES_PER_EXTENT

Runs = list[tuple[int, int]]


def pages_of(size: int) -> int:
    """Return how many pages ``size`` bytes take."""
    return (size + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT


class Rival:
    """A device of pages: ``used`` a byte for each, ``owners`` the file plus 1, 0 for free."""

    name = ""

    def __init__(self, size_bytes: int) -> None:
        self.n_pages = size_bytes >> PAGE_SHIFT
        self.used = bytearray(self.n_pages)
        self.owners = np.zeros(self.n_pages, np.uint32)
        self.free_pages = self.n_pages
        self._files: dict[int, Runs] = {}

    def create(self, number: int, size: int) -> None:
        """Place a file; raises `PmemfsError` with ENOSPC."""
        pages = pages_of(size)
        if pages > self.free_pages:
            raise no_space(f"{self.name} has no room for the trace")
        runs = self.allocate(number, pages)
        self._files[number] = runs
        self.free_pages -= pages
        for start, count in runs:
            self.owners[start : start + count] = number + 1

    def remove(self, number: int) -> None:
        """Free the pages of a file."""
        for start, count in self._files.pop(number):
            self.owners[start : start + count] = 0
            self.free_pages += count
            self.release(start, count)

    def allocate(self, number: int, pages: int) -> Runs:
        """Return the runs for so many pages, marked as used."""
        raise NotImplementedError

    def release(self, start: int, count: int) -> None:
        """Take pages of one run back."""
        raise NotImplementedError

    def sample(self, overwrites: float) -> Sample:
        """Measure."""
        free_whole, file_whole, pages_per_run = measure_owners(self.owners)
        full = 1 - self.free_pages / self.n_pages
        return Sample(overwrites, full, len(self._files), free_whole, file_whole, pages_per_run)


class FirstFit(Rival):
    """The lowest free pages, whatever their number."""

    name = "4 KiB first fit"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self._lowest = 0  # no page below is free

    def allocate(self, number: int, pages: int) -> Runs:
        """See `Rival.allocate`."""
        used, runs, start = self.used, [], self._lowest
        while pages:
            start = used.find(0, start)
            stop = used.find(1, start, start + pages)
            count = pages if stop < 0 else stop - start
            used[start : start + count] = b"\1" * count
            runs.append((start, count))
            pages -= count
            start += count
        self._lowest = start
        return runs

    def release(self, start: int, count: int) -> None:
        """See `Rival.release`."""
        self.used[start : start + count] = bytes(count)
        self._lowest = min(self._lowest, start)


class TwoTrees(Rival):
    """Aligned extents and holes, a share of the device for each CPU.

    ``used`` is 2 in free aligned extents, so that a search for holes does not see them.
    """

    name = "two trees"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        n_extents = self.n_pages // PAGES_PER_EXTENT
        self.n_pages = n_extents * PAGES_PER_EXTENT
        self.used[:] = b"\2" * len(self.used)
        self._in_use = [0] * n_extents
        bounds = [n_extents * cpu // CPUS for cpu in range(CPUS + 1)]
        self._shares = list(pairwise(bounds))
        self._aligned = [list(range(stop - 1, start - 1, -1)) for start, stop in self._shares]
        self._cpu_of = [cpu for cpu, (a, b) in enumerate(self._shares) for _ in range(a, b)]
        # by CPU and power of two: there is no hole of that size before this page
        self._hints = [[a * PAGES_PER_EXTENT] * 10 for a, _ in self._shares]

    def allocate(self, number: int, pages: int) -> Runs:
        """See `Rival.allocate`."""
        cpu, runs = number % CPUS, []
        while pages >= PAGES_PER_EXTENT:
            extent = self._take_aligned(cpu)
            if extent is None:
                break
            self._in_use[extent] = PAGES_PER_EXTENT
            start = extent * PAGES_PER_EXTENT
            self.used[start : start + PAGES_PER_EXTENT] = _USED_RUN[PAGES_PER_EXTENT]
            runs.append((start, PAGES_PER_EXTENT))
            pages -= PAGES_PER_EXTENT
        while pages:
            part = min(pages, PAGES_PER_EXTENT - 1)
            runs += self._fill(cpu, part)
            pages -= part
        return runs

    def _take_aligned(self, cpu: int) -> int | None:
        """Take an aligned extent: an own one, else of the CPU that has most."""
        if not self._aligned[cpu]:
            cpu = max(range(CPUS), key=lambda other: len(self._aligned[other]))
        return self._aligned[cpu].pop() if self._aligned[cpu] else None

    def _fill(self, cpu: int, pages: int) -> Runs:
        """Find a hole of the own share, break an own extent, or go to others; at last, any."""
        start = self._find_hole(cpu, pages)
        if start is None and self._aligned[cpu]:
            start = self._break(self._aligned[cpu].pop())
        if start is None:
            for other in range(CPUS):
                start = self._find_hole(other, pages)
                if start is not None:
                    break
        if start is None:
            extent = self._take_aligned(cpu)
            start = self._break(extent) if extent is not None else None
        if start is not None:
            return [self._mark(start, pages)]
        half = pages // 2
        return self._fill(cpu, pages - half) + self._fill(cpu, half)

    def _find_hole(self, cpu: int, pages: int) -> int | None:
        stop = self._shares[cpu][1]
        size_class = pages.bit_length() - 1
        hint = self._hints[cpu][size_class]
        start = self.used.find(_FREE_RUN[pages], hint, stop * PAGES_PER_EXTENT)
        if pages == 1 << size_class:
            self._hints[cpu][size_class] = start if start >= 0 else stop * PAGES_PER_EXTENT
        return start if start >= 0 else None

    def _break(self, extent: int) -> int:
        start = extent * PAGES_PER_EXTENT
        self.used[start : start + PAGES_PER_EXTENT] = _FREE_RUN[PAGES_PER_EXTENT]
        self._lower_hints(extent, start)
        return start

    def _lower_hints(self, extent: int, start: int) -> None:
        hints = self._hints[self._cpu_of[extent]]
        for size_class, hint in enumerate(hints):
            # a hole may begin before what has just become free
            hints[size_class] = min(hint, max(0, start - (1 << size_class + 1)))

    def _mark(self, start: int, pages: int) -> tuple[int, int]:
        self.used[start : start + pages] = _USED_RUN[pages]
        for first, count in _by_extent(start, pages):
            self._in_use[first // PAGES_PER_EXTENT] += count
        return start, pages

    def release(self, start: int, count: int) -> None:
        """See `Rival.release`; an extent that becomes free goes back to the aligned ones."""
        for first, n in _by_extent(start, count):
            extent = first // PAGES_PER_EXTENT
            self._in_use[extent] -= n
            if self._in_use[extent]:
                self.used[first : first + n] = _FREE_RUN[n]
                self._lower_hints(extent, first)
            else:
                base = extent * PAGES_PER_EXTENT
                self.used[base : base + PAGES_PER_EXTENT] = _ASIDE_RUN
                self._aligned[self._cpu_of[extent]].append(extent)


def _by_extent(start: int, count: int) -> Runs:
    runs = []
    while count:
        n = min(count, PAGES_PER_EXTENT - start % PAGES_PER_EXTENT)
        runs.append((start, n))
        start, count = start + n, count - n
    return runs


RIVALS: dict[str, type[Rival]] = {"first-fit": FirstFit, "two-trees": TwoTrees}
