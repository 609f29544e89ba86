"""Slots for split tables: 64 of 32 KiB in each descriptor extent, never split themselves.

The reserve extent is there from mkfs on, so there is always room for 64 tables. More extents are
taken while they are free and go back when no table of them is in use. Which slot is used is known
in memory only: after a restart no table is believed.

Slots are taken in turn, not the lowest first: tables are what is written most, so the next split
goes where none has been for longest.
"""

from __future__ import annotations

from pmemfs.errors import DamagedImageError, HostError, PmemfsError
from pmemfs.journal import Journal
from pmemfs.layout.geometry import (
    SPLIT_TABLE_BYTES,
    SPLIT_TABLES_PER_EXTENT,
    extent_to_offset,
    offset_to_extent,
)
from pmemfs.layout.records import HEAD, Kind
from pmemfs.pages.extents import ExtentPool

_ALL_FREE = (1 << SPLIT_TABLES_PER_EXTENT) - 1


class TableSlots:
    """Free slots by descriptor extent, as bit masks; the reserve is used first."""

    def __init__(self, pool: ExtentPool, journal: Journal, generation: int) -> None:
        self._pool = pool
        self._journal = journal
        self._generation = generation
        self._reserve = pool.geometry.reserve_extent
        self._free = {self._reserve: _ALL_FREE}
        self._turn = 0

    def begin(self) -> None:
        """Mark the reserve as of this mount, once its generation is published."""
        self._mark_current(self._reserve)

    @property
    def extents(self) -> list[int]:
        """The descriptor extents, the reserve among them."""
        return list(self._free)

    def allocate(self) -> int | None:
        """Return the byte offset of a free slot, or None when no extent is to be had."""
        for extent, free in self._free.items():
            if free:
                return self._take_slot(extent, free)
        try:
            with self._journal.transaction() as tx:
                extent = self._pool.take(tx, Kind.DESCRIPTOR)
        except (DamagedImageError, HostError):
            raise
        except PmemfsError:  # no extent, or a host that gives none, for whatever reason
            return None
        self._mark_current(extent)
        self._free[extent] = _ALL_FREE
        return self._take_slot(extent, _ALL_FREE)

    def _mark_current(self, extent: int) -> None:
        """Store the mount generation in the head: of any other, the extent counts as returned."""
        offset = self._pool.geometry.head_offset(extent) + HEAD.offset_of["generation"]
        self._pool.device.store(offset, self._generation.to_bytes(8, "little"))

    def _take_slot(self, extent: int, free: int) -> int:
        ahead = free >> self._turn << self._turn
        bit = (ahead or free) & -(ahead or free)
        self._free[extent] = free ^ bit
        slot = bit.bit_length() - 1
        self._turn = (slot + 1) % SPLIT_TABLES_PER_EXTENT
        return extent_to_offset(extent) + slot * SPLIT_TABLE_BYTES

    def release(self, table_offset: int) -> None:
        """Give a slot back, and its extent when it was the last one in use. Allocates nothing."""
        extent = offset_to_extent(table_offset)
        slot = (table_offset - extent_to_offset(extent)) // SPLIT_TABLE_BYTES
        self._free[extent] |= 1 << slot
        if self._free[extent] == _ALL_FREE and extent != self._reserve:
            del self._free[extent]
            with self._journal.transaction() as tx:
                self._pool.release(tx, extent)
