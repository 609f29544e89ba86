"""Page descriptors: split an extent when its pages are touched, unsplit it when it is idle.

All stores here are transient and unfenced: tables and the second half of heads are believed only
under the current mount generation, so no order between them matters after a crash. A live reader
is warned by the sequence word around split and unsplit.

* `SplitTables.touch` splits on the first access: a slot is zeroed, the head gets generation, table
  and flag. Then it fills the descriptors of the pages touched, from the owner page. Stamps are
  stored at most once per second and page.
* ``DIRTY`` means stored since last flushed. `flush_dirty` flushes these pages and clears it;
  the caller fences.
* `unsplit` makes dirty pages durable, folds the wear of the pages into the head and gives the
  table back.
* A split never fails: when no slot and no extent is left, the coldest table of another extent is
  taken. One that was used again after its first second gets a second chance.

``flag_column`` and ``access_column`` say for each extent what the transient half of its head does:
``(n_extents,)`` arrays that the idle policy plans over. The operating system allocates of them
only what is used.

Coming back is counted: a split of an extent that this mount has split before is a re-split, and
``resplit_stores`` are the stores that such splits made (4 each: the sequence word twice, the
table with its 32 KiB of zeros, the head; and one more for a table in an extent just taken).

Invariant 2: the flag with the current generation is set in a head exactly while ``_tables`` has
the extent. Heads of whole extents carry access and wear only.
"""

from __future__ import annotations

import errno
import struct
from collections import OrderedDict

import numpy as np

from pmemfs.device import MappedDevice
from pmemfs.errors import InvariantError, PmemfsError
from pmemfs.journal import Journal, SequenceWord
from pmemfs.layout.geometry import (
    EXTENT_PAGE_SHIFT,
    HEAD_DURABLE_BYTES,
    PAGE_BYTES,
    PAGE_DESCRIPTOR_BYTES,
    PAGES_PER_EXTENT,
    SPLIT_TABLE_BYTES,
    extent_to_pfn,
    pfn_to_offset,
)
from pmemfs.layout.records import PageFlag
from pmemfs.pages.clock import Clock
from pmemfs.pages.extents import ExtentPool
from pmemfs.pages.tables import TableSlots
from pmemfs.pages.trace import AccessFlag, AccessLog

LINES_PER_PAGE = PAGE_BYTES // 64
_DESCRIPTOR_SHIFT = 6
_DESCRIPTOR_WORDS = PAGE_DESCRIPTOR_BYTES // 8
_SLOT_MASK = PAGES_PER_EXTENT - 1
_WHOLE_CACHE = 1024
_RECORDED = ("touch", "touch_whole", "forget", "forget_extent")

_SPLIT = int(PageFlag.SPLIT)
_REFERENCED = int(PageFlag.REFERENCED)
_DIRTY = int(PageFlag.DIRTY)

_MOST_WEAR = (1 << 64) - 1
_CAME_BACK = 0x80  # in the column only: was split in this mount and is not now

_TRANSIENT = struct.Struct("<QQQQ")
_THREE_WORDS = struct.Struct("<QQQ")
_EMPTY_TABLE = bytes(SPLIT_TABLE_BYTES)


class SplitTable:
    """What memory keeps of one split extent."""

    __slots__ = ("access_s", "dirty", "offset", "referenced")

    def __init__(self, offset: int, access_s: int) -> None:
        self.offset = offset
        self.access_s = access_s
        self.referenced = False
        self.dirty = False


class SplitTables:
    """The split extents of one mount, the least recently used first."""

    def __init__(
        self,
        pool: ExtentPool,
        journal: Journal,
        live: SequenceWord,
        generation: int,
        clock: Clock,
    ) -> None:
        self._device: MappedDevice = pool.device
        self._geometry = pool.geometry
        self._live = live
        self._generation = generation
        self._clock = clock
        self._slots = TableSlots(pool, journal, generation)
        self._tables: OrderedDict[int, SplitTable] = OrderedDict()
        self._whole: OrderedDict[int, list[int]] = OrderedDict()  # extent: [access_s, lines]
        self.trace: AccessLog | None = None
        n = pool.geometry.n_extents
        self.flag_column = np.zeros(n, np.uint8)
        self.access_column = np.zeros(n, np.uint64)
        self._flags = self.flag_column.data
        self._access_s = self.access_column.data
        self.splits = 0
        self.resplits = 0
        self.resplit_stores = 0
        self.unsplits = 0
        self.stolen = 0

    def begin(self) -> None:
        """Begin to split; the mount generation is published."""
        self._slots.begin()

    # -- recording ---------------------------------------------------------------------------

    def start_trace(self) -> AccessLog:
        """Record every access from here on, until `stop_trace`; EBUSY if somebody records.

        The recording methods take the place of the others while they are wanted, so that an
        access costs nothing more when nobody records.
        """
        if self.trace is not None:
            raise PmemfsError(errno.EBUSY, "somebody else records the accesses of this mount")
        self.trace = AccessLog(self._clock.now_s())
        for method in _RECORDED:
            setattr(self, method, getattr(self, f"_traced_{method}"))
        return self.trace

    def stop_trace(self) -> None:
        """Record no more."""
        if self.trace is not None:
            self.trace = None
            for method in _RECORDED:
                delattr(self, method)

    def _log(self, pfn: int, count: int, flags: int, lines: int) -> None:
        assert self.trace is not None
        if not self.trace.add(self._clock.now_s(), pfn, count, flags, lines):
            self.stop_trace()

    def _traced_touch(self, pfn: int, count: int, flags: int = 0, lines: int = 0) -> None:
        written = AccessFlag.WRITE if flags or lines else 0
        self._log(pfn, count, written | (AccessFlag.DIRTY if flags & _DIRTY else 0), lines)
        SplitTables.touch(self, pfn, count, flags, lines)

    def _traced_touch_whole(self, pfn: int, count: int, lines: int = 0) -> None:
        self._log(pfn, count, AccessFlag.WHOLE | (AccessFlag.WRITE if lines else 0), lines)
        SplitTables.touch_whole(self, pfn, count, lines)

    def _traced_forget(self, pfn: int, count: int) -> None:
        self._log(pfn, count, AccessFlag.FREED, 0)
        SplitTables.forget(self, pfn, count)

    def _traced_forget_extent(self, extent: int) -> None:
        self._log(extent_to_pfn(extent), PAGES_PER_EXTENT, AccessFlag.FREED, 0)
        SplitTables.forget_extent(self, extent)

    # -- access ------------------------------------------------------------------------------

    def touch(self, pfn: int, count: int, flags: int = 0, lines: int = 0) -> None:
        """Note an access to pages of one small extent; split it if it is not.

        ``flags`` may hold DIRTY; ``lines`` is how many lines of each page were flushed.
        """
        extent = pfn >> EXTENT_PAGE_SHIFT
        now = self._clock.now_s()
        table = self._tables.get(extent)
        if table is None:
            table = self._split(extent, now)
        elif table.access_s != now:
            table.access_s = now
            table.referenced = True
            self._tables.move_to_end(extent)
            self._store_head(extent, table)
        if flags:
            table.dirty = True
        start = table.offset + ((pfn & _SLOT_MASK) << _DESCRIPTOR_SHIFT)
        if count == 1:
            self._touch_one(pfn, start, now, flags, lines)
        else:
            self._touch_run(pfn, count, start, now, flags, lines)

    def _touch_one(self, pfn: int, start: int, now: int, flags: int, lines: int) -> None:
        words = self._device.words
        index = start >> 3
        owner, state = words[index], words[index + 1]
        if not owner:
            owner = words[(pfn & ~_SLOT_MASK) * 512 + (pfn & _SLOT_MASK)]
            self._device.store(start, _THREE_WORDS.pack(owner, now << 8 | flags, lines))
            return
        fresh = now << 8 | (state & 0xFF) | flags
        if fresh >> 8 != state >> 8:
            fresh |= _REFERENCED
        if lines:
            wear = words[index + 2] + lines
            self._device.store(start, _THREE_WORDS.pack(owner, fresh, wear))
        elif fresh != state:
            self._device.store(start + 8, fresh.to_bytes(8, "little"))

    def _touch_run(
        self, pfn: int, count: int, start: int, now: int, flags: int, lines: int
    ) -> None:
        view = self._device.view
        n_words = count * _DESCRIPTOR_WORDS
        before = np.frombuffer(view, "<u8", n_words, start).reshape(count, -1)
        after = before.copy()
        known = after[:, 0] != 0
        slot = pfn & _SLOT_MASK
        owners = np.frombuffer(view, "<u8", count, pfn_to_offset(pfn - slot) + slot * 8)
        after[:, 0] = owners
        stale = known & (after[:, 1] >> 8 != now)
        after[:, 1] = (after[:, 1] & np.uint64(0xFF)) | np.uint64(now << 8 | flags)
        after[stale, 1] |= np.uint64(_REFERENCED)
        if lines:
            after[:, 2] += np.uint64(lines)
        if not np.array_equal(before, after):
            self._device.store(start, after.data.cast("B"))

    def touch_whole(self, pfn: int, count: int, lines: int = 0) -> None:
        """Note an access to pages of a whole extent: access stamp and wear, once per second.

        ``lines`` is how many lines of all these pages together were flushed.
        """
        extent = pfn >> EXTENT_PAGE_SHIFT
        now = self._clock.now_s()
        entry = self._whole.get(extent)
        if entry is None:
            entry = self._whole[extent] = [0, 0]
            if len(self._whole) > _WHOLE_CACHE:
                oldest, (access_s, pending) = self._whole.popitem(last=False)
                self._store_transient(oldest, 0, access_s, pending)
        entry[1] += lines
        if entry[0] != now:
            entry[0] = now
            self._store_transient(extent, 0, now, entry[1])
            entry[1] = 0

    def forget(self, pfn: int, count: int) -> None:
        """Clear the descriptors of pages that have been freed."""
        table = self._tables.get(pfn >> EXTENT_PAGE_SHIFT)
        if table is not None:
            start = table.offset + ((pfn & _SLOT_MASK) << _DESCRIPTOR_SHIFT)
            self._device.store(start, _EMPTY_TABLE[: count << _DESCRIPTOR_SHIFT])

    def forget_extent(self, extent: int) -> None:
        """Drop what is known of an extent that has been released; its wear is kept."""
        if extent in self._tables:
            self._drop(extent)
        entry = self._whole.pop(extent, None)
        if entry is not None and entry[1]:
            self._store_transient(extent, 0, entry[0], entry[1])
        self._flags[extent] = 0

    # -- split and unsplit -------------------------------------------------------------------

    def _split(self, extent: int, now: int) -> SplitTable:
        came_back = self._flags[extent] & _CAME_BACK
        stores = self._device.counters.stores
        table = self._make_table(extent, now)
        if came_back:
            self.resplits += 1
            self.resplit_stores += self._device.counters.stores - stores
        return table

    def _make_table(self, extent: int, now: int) -> SplitTable:
        offset = self._slots.allocate()
        if offset is None:
            self._steal(extent)
            offset = self._slots.allocate()
            if offset is None:
                raise InvariantError("a split failed: the reserve has no slot left")
        self._device.back(offset, SPLIT_TABLE_BYTES)
        table = SplitTable(offset, now)
        self._live.enter()
        self._device.store(offset, _EMPTY_TABLE)
        self._tables[extent] = table
        self._store_head(extent, table)
        self._live.leave()
        self.splits += 1
        return table

    def _steal(self, but_not: int) -> None:
        """Unsplit the coldest extent; those used again get one second chance each."""
        for extent in list(self._tables):
            if extent == but_not:
                continue
            if not self._tables[extent].referenced:
                break
            self.spare(extent)
        else:
            extent = next(e for e in self._tables if e != but_not)
        self.stolen += 1
        self.unsplit(extent)

    def spare(self, extent: int) -> None:
        """Give a split extent its second chance: clear REFERENCED, and let all others go first."""
        table = self._tables[extent]
        table.referenced = False
        self._tables.move_to_end(extent)
        self._store_head(extent, table)

    def unsplit(self, extent: int) -> None:
        """Flush and fence dirty pages, fold wear into the head, give the table back."""
        if self._tables[extent].dirty:
            self.flush_dirty(extent)
            self._device.fence()
        self._drop(extent)

    def _drop(self, extent: int) -> None:
        table = self._tables.pop(extent)
        wear = int(self._read_table(table)[:, 2].sum())
        self._live.enter()
        self._store_transient(extent, 0, table.access_s, wear)
        self._live.leave()
        self.unsplits += 1
        self._slots.release(table.offset)

    def flush_dirty(self, extent: int) -> bool:
        """Flush the dirty pages of a split extent; tell whether a fence is owed."""
        table = self._tables.get(extent)
        if table is None or not table.dirty:
            return False
        descriptors = self._read_table(table)
        first = extent_to_pfn(extent)
        for slot in np.flatnonzero(descriptors[:, 1] & np.uint64(_DIRTY)).tolist():
            self._device.flush(pfn_to_offset(first + slot), PAGE_BYTES)
            state = int(descriptors[slot, 1]) & ~_DIRTY
            wear = int(descriptors[slot, 2]) + LINES_PER_PAGE
            start = table.offset + (slot << _DESCRIPTOR_SHIFT) + 8
            self._device.store(start, struct.pack("<QQ", state, wear))
        table.dirty = False
        return True

    def flush_all_dirty(self) -> None:
        """Flush the dirty pages of all split extents; a fence is owed."""
        for extent in self._tables:
            self.flush_dirty(extent)

    def note_copy(self, extent: int, lines: int) -> None:
        """Add lines flushed by a move to the wear of an extent: no access, so nothing splits."""
        start = self._geometry.head_offset(extent) + HEAD_DURABLE_BYTES + 24
        self._device.store(start, self._worn(start >> 3, lines).to_bytes(8, "little"))

    def _worn(self, index: int, lines: int) -> int:
        """Return a wear counter, a word of the device, after so many lines more; it stays at its
        end, where an image may have it.
        """
        return min(self._device.words[index] + lines, _MOST_WEAR)

    def is_dirty(self, extent: int) -> bool:
        """Whether a split extent has pages stored since they were last flushed."""
        table = self._tables.get(extent)
        return table is not None and table.dirty

    # -- questions of the idle policy --------------------------------------------------------

    @property
    def split_extents(self) -> int:
        """How many extents are split now."""
        return len(self._tables)

    def is_split(self, extent: int) -> bool:
        """Whether an extent is split now."""
        return extent in self._tables

    def coldest(self) -> tuple[int, int] | None:
        """Return ``(extent, last access in s)`` of the least recently used split extent."""
        for extent, table in self._tables.items():
            return extent, table.access_s
        return None

    def close(self) -> None:
        """Unsplit everything and store the wear not yet stored."""
        while self._tables:
            self.unsplit(next(iter(self._tables)))
        for extent, (access_s, lines) in self._whole.items():
            if lines:
                self._store_transient(extent, 0, access_s, lines)
        self._whole.clear()

    # -- stores ------------------------------------------------------------------------------

    def _read_table(self, table: SplitTable) -> np.ndarray:
        count = SPLIT_TABLE_BYTES // 8
        words = np.frombuffer(self._device.view, "<u8", count, table.offset)
        return words.reshape(PAGES_PER_EXTENT, _DESCRIPTOR_WORDS)

    def _store_head(self, extent: int, table: SplitTable) -> None:
        pfn_and_flags = (table.offset >> 12) << 8 | _SPLIT
        if table.referenced:
            pfn_and_flags |= _REFERENCED
        self._store_transient(extent, pfn_and_flags, table.access_s, 0)

    def _store_transient(self, extent: int, table: int, access_s: int, more_wear: int) -> None:
        start = self._geometry.head_offset(extent) + HEAD_DURABLE_BYTES
        wear = self._worn((start >> 3) + 3, more_wear)
        self._access_s[extent] = access_s
        was_split = self._flags[extent] & (_SPLIT | _CAME_BACK)
        self._flags[extent] = table & 0xFF or (_CAME_BACK if was_split else 0)
        self._device.store(start, _TRANSIENT.pack(self._generation, table, access_s, wear))
