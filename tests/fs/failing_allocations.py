"""Refuse the n-th thing that a volume allocates: an extent, pages, or host space under the image.

An allocation is asked for at four places: `ExtentPool.take`, `Arena.allocate` and its refill, and
the device's `back` of host space that is not there yet. They are counted in the order in which
they are asked for, so "the n-th" means the same on every run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pmemfs.device import MappedDevice
from pmemfs.errors import no_space
from pmemfs.fs import Volume
from pmemfs.layout.geometry import EXTENT_BYTES, ROOT_INO


class Allocations:
    """Counts allocations; ``refuse`` makes the n-th (from 0) fail, and those behind if ``all``."""

    def __init__(self) -> None:
        self.count = 0
        self.refused = 0
        self.kinds: list[str] = []
        self._n: int | None = None
        self._all = False

    def refuse(self, n: int, *, all_behind: bool) -> None:
        self._n, self._all = n, all_behind

    def stop(self) -> None:
        self._n = None

    def note(self, kind: str) -> None:
        """Count one; raises ENOSPC if it is to be refused."""
        number = self.count
        self.count += 1
        self.kinds.append(kind)
        if self._n is not None and (number == self._n or (self._all and number > self._n)):
            self.refused += 1
            raise no_space(f"the test refuses allocation {number}, {kind}")


class CountedDevice(MappedDevice):
    """A device that asks ``allocations`` before it backs a unit that the host does not have."""

    allocations: Allocations | None = None

    def __init__(self, fd: int, size_bytes: int, **options: Any) -> None:
        super().__init__(fd, size_bytes, **options)
        self._on_host = {
            unit
            for low, high in self.iter_data(0, size_bytes)
            for unit in range(low // EXTENT_BYTES, -(-high // EXTENT_BYTES))
        }

    def _back_unit(self, unit: int, low: int, high: int) -> None:
        if self.allocations is not None and unit not in self._on_host:
            self.allocations.note("host space")
        self._on_host.add(unit)
        self._backed[unit] = 1  # the host is only asked when a page is touched: much faster

    def discard(self, offset: int, length: int) -> None:
        super().discard(offset, length)
        last = (offset + length - 1) // EXTENT_BYTES
        self._on_host.difference_update(range(offset // EXTENT_BYTES, last + 1))


def count_allocations(volume: Volume) -> Allocations:
    """Let a volume on a `CountedDevice` ask before each allocation from now on."""
    allocations = Allocations()
    assert isinstance(volume.device, CountedDevice)
    volume.device.allocations = allocations

    def asking(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **named: Any) -> Any:
            allocations.note(kind)
            return function(*arguments, **named)

        return ask

    pool: Any = volume.pool
    pool.take = asking("extent", pool.take)
    data = volume.data_arenas.of(volume.inode(ROOT_INO), 1)
    arenas: list[Any] = [data, volume.moves.holes, volume.metadata_arena]
    for arena in arenas:
        arena.allocate = asking("pages", arena.allocate)
        arena._refill = asking("extent of an arena", arena._refill)
    return allocations
