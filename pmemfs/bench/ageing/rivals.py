"""Models of how others place files, for the same trace: pages and who owns them, nothing else.

They are given no metadata at all, so all of their device is for files.

* `FirstFit`: 4 KiB pages, always the lowest free ones. What a file system without any notion of
  2 MiB does.
* `TwoTrees`: free space as aligned extents and as holes, a share of both for each CPU. Pieces of
  2 MiB take whole extents; the rest takes the first holes of the own share, however small, and
  breaks its lowest extent only when there is no hole. When a share is used up the one with most
  free pages helps out. What hugepage-aware file systems for persistent memory do (Kadekodi et al.,
  *WineFS*, SOSP 2021, and its ``balloc.c``).
"""

from __future__ import annotations

import heapq
from itertools import pairwise

import numpy as np

from pmemfs.bench.ageing.store import Sample, measure_owners
from pmemfs.errors import no_space
from pmemfs.layout.geometry import PAGE_SHIFT, PAGES_PER_EXTENT

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
    cpus = 1

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        n_extents = self.n_pages // PAGES_PER_EXTENT
        self.n_pages = self.free_pages = n_extents * PAGES_PER_EXTENT
        self.used = bytearray(b"\2") * self.n_pages
        self.owners = self.owners[: self.n_pages]
        bounds = [n_extents * cpu // self.cpus for cpu in range(self.cpus + 1)]
        self._in_use = [0] * n_extents
        self._cpu_of = [cpu for cpu, (a, b) in enumerate(pairwise(bounds)) for _ in range(a, b)]
        self._aligned = [list(range(a, b)) for a, b in pairwise(bounds)]  # heaps
        self._free = [(b - a) * PAGES_PER_EXTENT for a, b in pairwise(bounds)]
        self._ends = [stop * PAGES_PER_EXTENT for stop in bounds[1:]]
        self._lowest = [start * PAGES_PER_EXTENT for start in bounds[:-1]]  # no hole is below

    def allocate(self, number: int, pages: int) -> Runs:
        """See `Rival.allocate`."""
        cpu, runs = number % self.cpus, []
        while pages:
            if not self._free[cpu]:
                cpu = max(range(self.cpus), key=self._free.__getitem__)
            if pages >= PAGES_PER_EXTENT and self._aligned[cpu]:
                run = heapq.heappop(self._aligned[cpu]) * PAGES_PER_EXTENT, PAGES_PER_EXTENT
            else:
                # more than 2 MiB is never asked for at once
                run = self._take_hole(cpu, min(pages, PAGES_PER_EXTENT))
            self._mark(cpu, *run)
            runs.append(run)
            pages -= run[1]
        return runs

    def _take_hole(self, cpu: int, pages: int) -> tuple[int, int]:
        """Return the first hole of a share, or as much of it as is needed."""
        start = self.used.find(0, self._lowest[cpu], self._ends[cpu])
        if start < 0:
            start = heapq.heappop(self._aligned[cpu]) * PAGES_PER_EXTENT
            self.used[start : start + PAGES_PER_EXTENT] = bytes(PAGES_PER_EXTENT)
        self._lowest[cpu] = start
        window = self.used[start : min(start + pages, self._ends[cpu])]
        return start, len(window) - len(window.lstrip(b"\0"))

    def _mark(self, cpu: int, start: int, pages: int) -> None:
        self.used[start : start + pages] = b"\1" * pages
        self._free[cpu] -= pages
        for first, count in _by_extent(start, pages):
            self._in_use[first // PAGES_PER_EXTENT] += count

    def release(self, start: int, count: int) -> None:
        """See `Rival.release`; an extent that becomes free goes back to the aligned ones."""
        for first, n in _by_extent(start, count):
            extent = first // PAGES_PER_EXTENT
            cpu = self._cpu_of[extent]
            self._in_use[extent] -= n
            self._free[cpu] += n
            if self._in_use[extent]:
                self.used[first : first + n] = bytes(n)
                self._lowest[cpu] = min(self._lowest[cpu], first)
            else:
                base = extent * PAGES_PER_EXTENT
                self.used[base : base + PAGES_PER_EXTENT] = b"\2" * PAGES_PER_EXTENT
                heapq.heappush(self._aligned[cpu], extent)


class TwoTreesOfFour(TwoTrees):
    """The same with four CPUs, which each file in turn comes from."""

    name = "two trees, 4 CPUs"
    cpus = 4


def _by_extent(start: int, count: int) -> Runs:
    runs = []
    while count:
        n = min(count, PAGES_PER_EXTENT - start % PAGES_PER_EXTENT)
        runs.append((start, n))
        start, count = start + n, count - n
    return runs


RIVALS: dict[str, type[Rival]] = {
    "first-fit": FirstFit,
    "two-trees": TwoTrees,
    "two-trees-4": TwoTreesOfFour,
}
