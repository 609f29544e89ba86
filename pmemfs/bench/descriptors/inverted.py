"""Our scheme, by the code that the file system runs: a `Volume`, its split tables, its idle work.

Nothing of the engine is copied here. ``initialise`` is mkfs and mount, ``touch`` is what a read
or write of the file system calls, ``pass_time`` runs the reclaimer. Only `find` is written for
this: the lookup of a reader who has nothing but the device, as the inspector does it.

Extents of the accesses are given to the engine as the file system would: a small one is filled by
an arena, a whole one is taken from the pool. Which extent it becomes is the pool's choice, so
`Inverted` keeps a translation.
"""

from __future__ import annotations

import errno
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pmemfs.bench.descriptors.device import TallyDevice
from pmemfs.bench.descriptors.scheme import (
    DESCRIPTOR_BYTES,
    DIRTY,
    FREED,
    WHOLE,
    Counts,
    Scheme,
)
from pmemfs.errors import PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fs.format import format_image
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    HEAD_BYTES,
    HEAD_TABLE_OFFSET,
    JOURNAL_OFFSET,
    JOURNAL_SLOT_BYTES,
    JOURNAL_SLOTS,
    PAGE_BYTES,
    PAGES_PER_EXTENT,
    SPLIT_TABLE_BYTES,
    Geometry,
    extent_to_pfn,
)
from pmemfs.layout.records import HEAD, Kind, PageFlag
from pmemfs.layout.words import owner_word
from pmemfs.pages import Arena
from pmemfs.reclaim import Policy, Reclaimer

IDLE_S = 30.0
TABLES_PER_EXTENT = EXTENT_BYTES // SPLIT_TABLE_BYTES
_INO = 2
_GENERATION = HEAD.offset_of["generation"] >> 3
_TABLE = HEAD.offset_of["table"] >> 3
_OWNABLE = PAGES_PER_EXTENT - 1
_SPLIT = int(PageFlag.SPLIT)


class _Clock:
    """The scheme's clock in the shape that the engine wants."""

    def __init__(self) -> None:
        self.second = 0

    def now_s(self) -> int:
        return self.second

    def now_ns(self) -> int:
        return self.second * 10**9


class Inverted(Scheme):
    """A head descriptor for each extent; 512 page descriptors while it is split."""

    name = "inverted"
    what = "64 bytes for each 2 MiB; 512 page descriptors only while it is split"
    source = "Rik van Riel, linux-kernel, 8 May 2015; the engine of pmemfs"
    reads_whole: ClassVar[int] = 1
    reads_split: ClassVar[int] = 2
    grows_by: ClassVar[tuple[int, int]] = (SPLIT_TABLE_BYTES + PAGE_BYTES, 0)

    @classmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return what mkfs stores: the fixed heads, root inode, control page, superblocks."""
        geometry = Geometry.of_size(size_bytes)
        return geometry.fixed_extents * HEAD_BYTES + 256 + 3 * 512

    def initialise(self) -> None:
        """Make the file system and mount it."""
        self._clock = _Clock()
        formatted = []

        class CountedDevice(TallyDevice):
            ranges = self.ranges

        class FormattedDevice(CountedDevice):
            def close(self) -> None:
                formatted.append(self.counters)
                super().close()

        format_image(self.path, self.size_bytes, force=True, device_class=FormattedDevice)
        self.volume = Volume.open(self.path, Options(clock=self._clock), device_class=CountedDevice)
        assert isinstance(self.volume.device, TallyDevice)
        self.device = self.volume.device
        self.device.counters.stores += formatted[0].stores
        self.device.counters.bytes_stored += formatted[0].bytes_stored
        assert self.volume.tables is not None
        self.tables = self.volume.tables
        self._generation = self.volume.image.control()["generation"]
        self._heads = HEAD_TABLE_OFFSET >> 3
        self._arena = Arena(self.volume.pool, Kind.SMALL)
        self._reclaimer = Reclaimer(self.volume, Policy(IDLE_S), lambda: float(self._clock.second))
        self._place: dict[int, int] = {}
        self._kinds: dict[int, Kind] = {}

    def close(self) -> None:
        """Let go of the image as it is; nobody will open it again."""
        if hasattr(self, "volume"):
            self.volume.abandon()

    # -- extents -----------------------------------------------------------------------------

    def prepare(self, small: NDArray[np.int64], whole: NDArray[np.int64]) -> None:
        """Fill the small extents with pages and take the whole ones."""
        for extent in small.tolist():
            self._adopt(extent, Kind.SMALL)
        for extent in whole.tolist():
            self._adopt(extent, Kind.WHOLE)

    def _adopt(self, extent: int, kind: Kind) -> int:
        """Return the engine's extent that stands for one of the accesses."""
        if self._kinds.get(extent) == kind:
            return self._place[extent]
        tallying, self.device.tallying = self.device.tallying, False
        if extent in self._place:
            self._release(extent)
        with self.volume.journal.transaction() as tx:
            if kind == Kind.SMALL:
                runs = self._arena.allocate(tx, _OWNABLE, owner_word(_INO, 0), 1 << 32)
                place = runs[0][0] // PAGES_PER_EXTENT
                if len(runs) > 1:
                    raise PmemfsError(errno.ENOSPC, "the extents of the accesses do not fit")
            else:
                place = self.volume.pool.take(tx, kind, _INO, extent)
        self._arena.retire()
        self._place[extent], self._kinds[extent] = place, kind
        self.device.tallying = tallying
        return place

    def _release(self, extent: int) -> None:
        place = self._place.pop(extent)
        del self._kinds[extent]
        self.tables.forget_extent(place)
        with self.volume.journal.transaction() as tx:
            self.volume.pool.release(tx, place)

    # -- the scheme --------------------------------------------------------------------------

    def find(self, pfn: int) -> int:
        """Return the offset: the head of the extent first; its split table if it says so."""
        words = self.device.words
        head = self._heads + (pfn >> 9 << 3)
        table = words[head + _TABLE]
        if table & _SPLIT and words[head + _GENERATION] == self._generation:
            return (table >> 8) * PAGE_BYTES + (pfn & 511) * DESCRIPTOR_BYTES
        return head << 3

    def translate(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pages that the engine gave for those of the accesses."""
        places = np.arange(self.n_extents, dtype=np.int64)
        places[list(self._place)] = list(self._place.values())
        return places[pfns >> 9] << 9 | pfns & 511

    def find_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the offsets ``(n,) int64``."""
        words = np.frombuffer(self.device.view, "<i8")
        heads = self._heads + (pfns >> 9 << 3)
        tables = words[heads + _TABLE]
        split = (tables & _SPLIT != 0) & (words[heads + _GENERATION] == self._generation)
        in_table = ((tables >> 8) << 12) + ((pfns & 511) << 6)
        return np.where(split, in_table, heads << 3)

    def touch(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Call what the file system calls after a read or a write."""
        extent, slot = pfn >> 9, pfn & 511
        if flags & FREED:
            self._free(extent, slot, count)
        elif flags & WHOLE:
            place = self._adopt(extent, Kind.WHOLE)
            self.tables.touch_whole(extent_to_pfn(place) + slot, count, lines)
        else:
            place = self._adopt(extent, Kind.SMALL)
            if slot == 0:  # a page of the accesses; the engine's page 0 is the owner page
                slot, count = 1, max(1, count - 1)
            self.tables.touch(extent_to_pfn(place) + slot, count, flags & DIRTY, lines)

    def _free(self, extent: int, slot: int, count: int) -> None:
        if extent not in self._place:
            return
        if count == PAGES_PER_EXTENT:
            self._release(extent)
        else:
            self.tables.forget(extent_to_pfn(self._place[extent]) + slot, count)

    def pass_time(self, now_s: int) -> None:
        """Let the engine do its idle work, second by second, as a mount does."""
        if now_s - self._clock.second > 2 * IDLE_S:
            self._clock.second = now_s
        while self._clock.second < now_s:
            self._clock.second += 1
            self._work()
        self._work()
        self.now_s = now_s

    def _work(self) -> None:
        while self._reclaimer.step() == 0.0:
            pass

    @classmethod
    def swept_bytes(cls, size_bytes: int, small: Counts, whole: Counts, run_pages: float) -> Counts:
        """Return heads, an extent for each 64 tables, the reserve at least, and owner pages."""
        tables = np.maximum(1, -(-small // TABLES_PER_EXTENT)) * EXTENT_BYTES
        return Geometry.of_size(size_bytes).head_table_bytes + tables + small * PAGE_BYTES

    def parts(self) -> dict[str, int]:
        """Return heads, extents for split tables, and owner pages, which tables are inflated from.

        The reserve is one such extent that is there always; others are taken and given back as
        they are, with room for 64 tables each.
        """
        more = np.count_nonzero(self.volume.pool.kind_column == Kind.DESCRIPTOR) - 1
        return {
            "heads": self.volume.geometry.head_table_bytes,
            "reserve": EXTENT_BYTES,
            "descriptor extents": int(more) * EXTENT_BYTES,
            "owner pages": self._owner_page_bytes(),
        }

    def in_use_bytes(self) -> int:
        """Return heads, split tables of 32 KiB, and owner pages."""
        tables = self.tables.split_extents * SPLIT_TABLE_BYTES
        return self.volume.geometry.head_table_bytes + tables + self._owner_page_bytes()

    def _owner_page_bytes(self) -> int:
        return sum(kind == Kind.SMALL for kind in self._kinds.values()) * PAGE_BYTES

    def place_of(self, line: int) -> str:
        """Return what part of the image a line belongs to."""
        offset = line * 64
        geometry = self.volume.geometry
        if HEAD_TABLE_OFFSET <= offset < HEAD_TABLE_OFFSET + geometry.head_table_bytes:
            return "heads"
        if JOURNAL_OFFSET <= offset < JOURNAL_OFFSET + JOURNAL_SLOTS * JOURNAL_SLOT_BYTES:
            return "journal"
        if CONTROL_OFFSET <= offset < CONTROL_OFFSET + PAGE_BYTES:
            return "control page"
        kind = self.volume.pool.kind(offset // EXTENT_BYTES)
        # a descriptor extent that went back is returned or free by now
        return "owner pages" if kind == Kind.SMALL else "split tables"
