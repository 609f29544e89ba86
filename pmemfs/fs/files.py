"""The data of files: read, write, truncate, punch, allocate.

A request is worked off piece by piece (2 MiB, one extent at a time), each in at most one
transaction, so a crash leaves a prefix of a write.

Order of the stores of a write to one piece:

1. data to pages that the file has already: in place. To new pages, or a new whole extent: data and
   zeros around it, which no committed state refers to. Bytes between the old end of the file and
   the write, in pages it has: zeros. Flush (in place in small extents: mark DIRTY instead).
2. if pages were added, or size or times change: **commit** of owner words, heads, map and inode.
   The publish fences what 1 flushed before it.

So an overwrite in place is durable when fsync returns; anything that adds pages or size, when
write returns. Promotion is the same with the old pages copied first, and freed in the commit.

Bytes behind the end of a file, in its last page or extent, are undefined on the device; whoever
makes a file longer zeroes what becomes visible, in step 1.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from pmemfs.device import MappedDevice
from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.fs.filemap import FileMaps, piece_of
from pmemfs.fs.inodes import Inode, InodeTable, Run
from pmemfs.fs.placement import Candidates, DataArenas, takes_whole
from pmemfs.journal import Journal, Transaction
from pmemfs.journal.journal import store_zeros
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    EXTENT_PAGE_SHIFT,
    EXTENT_SHIFT,
    MAX_FILE_BYTES,
    PAGE_BYTES,
    PAGE_SHIFT,
    PAGES_PER_EXTENT,
    extent_to_offset,
    pfn_to_extent,
    pfn_to_offset,
)
from pmemfs.layout.records import InodeFlag, Kind, PageFlag
from pmemfs.layout.words import owner_word
from pmemfs.pages import ExtentPool, SplitTables
from pmemfs.pages.arenas import free_pages
from pmemfs.pages.clock import Clock
from pmemfs.pages.descriptors import LINES_PER_PAGE

_DIRTY = int(PageFlag.DIRTY)
_PREALLOCATED = int(InodeFlag.PREALLOCATED)
_ZEROS = memoryview(bytes(EXTENT_BYTES))
_PAGE_MASK = PAGE_BYTES - 1
_SLOT_MASK = PAGES_PER_EXTENT - 1
_BULK_BYTES = 64 * 1024  # from here on a page fault for each page costs more than a system call
OWNER_STEP = 1 << 32
"""From the owner word of a page to that of the next page of a file."""

FREE_BUDGET_BYTES = 96 * 1024
"""Journal bytes that one transaction spends on freeing, about; far below the journal slot."""

Buffer = bytes | bytearray | memoryview


def pages_of(size: int) -> int:
    """Return how many pages ``size`` bytes reach into."""
    return (size + _PAGE_MASK) >> PAGE_SHIFT


class Files:
    """Data of all files of a volume. Methods take an `Inode` that is a regular file."""

    def __init__(
        self,
        *,
        device: MappedDevice,
        journal: Journal,
        pool: ExtentPool,
        arenas: DataArenas,
        tables: SplitTables | None,
        inodes: InodeTable,
        maps: FileMaps,
        clock: Clock,
        threshold_pages: int,
    ) -> None:
        self._device = device
        self._journal = journal
        self._pool = pool
        self._arenas = arenas
        self._tables = tables
        self._inodes = inodes
        self._maps = maps
        self._clock = clock
        self._threshold_pages = threshold_pages
        self.candidates = Candidates()
        self.pages_written = 0
        self.pages_promoted = 0
        # of the running call: what it stamps, if it does, and whether it leaves the size alone
        self._now_ns: int | None = None
        self._keeps_size = False

    def stop_noting(self) -> None:
        """Note no access any more, so that reading stores nothing."""
        self._tables = None

    # -- read --------------------------------------------------------------------------------

    def read(self, inode: Inode, offset: int, size: int) -> list[memoryview]:
        """Return the bytes as read-only pieces of the mapping, holes as pieces of zeros.

        Fewer than ``size`` bytes at the end of the file, none behind it. The pieces show later
        writes; use or copy them before the next call.
        """
        stop = offset + size
        if stop > inode.size:
            stop = inode.size
        pieces: list[memoryview] = []
        view, solid = self._device.view, self._device.solid
        while offset < stop:
            index = offset >> PAGE_SHIFT
            pfn, count, whole = self._maps.lookup(inode, index, pages_of(stop) - index)
            length = min(stop, (index + count) << PAGE_SHIFT) - offset
            if not pfn:
                length = min(length, EXTENT_BYTES)
                pieces.append(_ZEROS[:length])
            else:
                start = (pfn << PAGE_SHIFT) + (offset & _PAGE_MASK)
                is_solid = solid is None or (
                    solid[start >> EXTENT_SHIFT]
                    and solid[(start + length - 1) >> EXTENT_SHIFT]
                    and length <= EXTENT_BYTES
                )
                if not is_solid and self._device.may_have_holes(start, length):
                    pieces += self._device.pieces(start, length)
                else:
                    pieces.append(view[start : start + length])
                self._note_read(pfn, pages_of((offset & _PAGE_MASK) + length), whole)
            offset += length
        return pieces

    def _note_read(self, pfn: int, count: int, whole: bool) -> None:
        tables = self._tables
        if tables is None:
            return
        touch = tables.touch_whole if whole else tables.touch
        if (pfn & _SLOT_MASK) + count <= PAGES_PER_EXTENT:
            touch(pfn, count)
        else:
            for first, n in by_extent(pfn, count):
                touch(first, n)

    # -- write -------------------------------------------------------------------------------

    def write(self, inode: Inode, offset: int, data: Buffer, *, stamp: bool = True) -> int:
        """Write at ``offset``; return how many bytes were written.

        Fewer than all only when space ran out or the largest size is reached. Raises ENOSPC or
        EFBIG when nothing could be written. Durable as this module's opening says.
        """
        view = memoryview(data).cast("B")
        self._now_ns = self._clock.now_ns() if stamp else None
        if offset + len(view) > MAX_FILE_BYTES:
            if offset >= MAX_FILE_BYTES:
                raise PmemfsError(errno.EFBIG, "a file cannot be larger than 16 TiB")
            view = view[: MAX_FILE_BYTES - offset]
        written = 0
        while written < len(view):
            position = offset + written
            room = EXTENT_BYTES - (position & (EXTENT_BYTES - 1))
            part = view[written : written + room]
            try:
                self._write_piece(inode, position, part)
            except PmemfsError as error:
                if error.errno != errno.ENOSPC:
                    raise
                written += self._write_what_fits(inode, position, part)
                if not written:
                    raise
                return written
            written += len(part)
        return written

    def _write_what_fits(self, inode: Inode, offset: int, data: memoryview) -> int:
        """Write the longest page-wise prefix there is room for, by halving; return its bytes."""
        if (offset & _PAGE_MASK) + len(data) <= PAGE_BYTES:
            return 0
        middle = ((offset + len(data) // 2) & ~_PAGE_MASK) - offset
        half = middle if middle > 0 else PAGE_BYTES - (offset & _PAGE_MASK)
        done = 0
        for part in (data[:half], data[half:]):
            try:
                self._write_piece(inode, offset + done, part)
            except PmemfsError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return done + self._write_what_fits(inode, offset + done, part)
            done += len(part)
        return done

    def _write_piece(self, inode: Inode, offset: int, data: memoryview) -> None:
        """Write within one piece, whole or not at all (ENOSPC)."""
        end = offset + len(data)
        index = offset >> PAGE_SHIFT
        stop = pages_of(end)
        self.pages_written += stop - index
        if end <= inode.size:
            pfn, count, whole = self._maps.lookup(inode, index, stop - index)
            if pfn and count == stop - index:
                self._store_in_place(inode, pfn, offset, data, whole)
                self._stamp(inode)
                return
        runs = list(self._maps.iter_runs(inode, index, stop))
        mapped = sum(count for _, count, _, _ in runs)
        if mapped == stop - index:
            self._write_mapped(inode, offset, data, runs)
            return
        piece = piece_of(index)
        populated = self._maps.mapped_pages(inode, piece) + stop - index - mapped
        end_page = max(pages_of(inode.size), stop)
        wants_whole = takes_whole(
            populated, stop - index - mapped, inode.pages, end_page, self._threshold_pages
        )
        if wants_whole and (self._pool.free_extents or not self._pool.free_small_pages):
            self._write_whole(inode, offset, data, piece)
            self.candidates.note_tail(inode.ino)
        else:
            self._write_small(inode, offset, data, runs)
            if wants_whole:
                self.candidates.note_dense(inode.ino, piece)

    def _stamp(self, inode: Inode) -> None:
        """Stamp an overwrite; nothing is stored while the coarse clock stands still."""
        now = self._now_ns
        if now is not None and (inode.mtime_ns != now or inode.ctime_ns != now):
            with self._journal.transaction() as tx:
                self._inodes.guard(tx, inode)
                inode.mtime_ns = inode.ctime_ns = now
                self._inodes.put(tx, inode)

    def _store_in_place(
        self,
        inode: Inode,
        pfn: int,
        offset: int,
        data: memoryview,
        whole: bool,
        *,
        flush: bool = False,
    ) -> None:
        """Store to contiguous pages the file has, from byte ``offset`` of the file on.

        Pages of small extents become DIRTY, unless ``flush`` says that a commit will follow.
        """
        start = pfn_to_offset(pfn) + (offset & _PAGE_MASK)
        length = len(data)
        self._device.back(start, length)
        if flush:
            self._store_added(start, data)
        else:
            self._device.store(start, data)
        count = pages_of((offset & _PAGE_MASK) + length)
        extent = pfn_to_extent(pfn)
        assert self._tables is not None
        if whole:
            self._device.flush(start, length)
            self._tables.touch_whole(pfn, count, (length + 63) >> 6)
        elif flush:
            self._device.flush(start, length)
            self._tables.touch(pfn, count, 0, min(LINES_PER_PAGE, (length + 63) >> 6))
        else:
            self._tables.touch(pfn, count, _DIRTY)
            inode.dirty.add(extent)

    def _store_added(self, start: int, data: memoryview) -> None:
        """Store data that makes a file longer or fills pages it did not have."""
        if len(data) >= _BULK_BYTES:
            self._device.store_fresh(start, data)
        else:
            self._device.store(start, data)

    def _store_runs(
        self, inode: Inode, offset: int, data: memoryview, runs: list[Run], *, flush: bool
    ) -> None:
        """Store the parts of ``data`` that fall into these runs of one piece, in place."""
        end = offset + len(data)
        for index, count, pfn, whole in runs:
            low = max(offset, index << PAGE_SHIFT)
            high = min(end, (index + count) << PAGE_SHIFT)
            part = data[low - offset : high - offset]
            self._store_in_place(inode, pfn, low, part, whole, flush=flush)

    def _write_mapped(self, inode: Inode, offset: int, data: memoryview, runs: list[Run]) -> None:
        """Write where all pages are there; the file may grow within them."""
        end = offset + len(data)
        grows = end > inode.size
        self._expose(inode, offset)
        self._store_runs(inode, offset, data, runs, flush=grows)
        if not grows:
            self._stamp(inode)
            return
        with self._journal.transaction() as tx:
            self._change_size(tx, inode, end)

    def _change_size(self, tx: Transaction, inode: Inode, size: int) -> None:
        self._inodes.guard(tx, inode)
        if self._keeps_size and size > inode.size:
            inode.flags |= _PREALLOCATED
        else:
            inode.size = size
        if self._now_ns is not None:
            inode.mtime_ns = inode.ctime_ns = self._now_ns
        self._inodes.put(tx, inode)

    def _expose(self, inode: Inode, new_end: int) -> None:
        """Zero what lies between the end of the file and ``new_end`` in pages it has; flush."""
        size = inode.size
        if new_end <= size or self._keeps_size:
            return
        stop = pages_of(new_end)
        if not inode.flags & _PREALLOCATED:  # nothing is mapped behind the last piece
            stop = min(stop, ((size >> PAGE_SHIFT) | (PAGES_PER_EXTENT - 1)) + 1)
        for index, count, pfn, whole in self._maps.iter_runs(inode, size >> PAGE_SHIFT, stop):
            for first, n in by_extent(pfn, count):
                base = (index + first - pfn) << PAGE_SHIFT
                low, high = max(size, base), min(new_end, base + (n << PAGE_SHIFT))
                if low < high:
                    self._clear(pfn_to_offset(first) + low - base, high - low, whole)

    def _clear(self, start: int, length: int, whole: bool) -> None:
        """Make device bytes of one extent zero and flushed, storing only if they are not zero."""
        self._device.back(start, length)
        if self._device.view[start : start + length] != _ZEROS[:length]:
            store_zeros(self._device, start, length)
        elif not whole:
            # zeros that were written while the file was longer, and perhaps never flushed
            self._device.flush(start, length)

    def _write_small(self, inode: Inode, offset: int, data: memoryview, runs: list[Run]) -> None:
        """Write a piece with pages missing: they come from the arena."""
        new_runs: list[Run] = []
        index = offset >> PAGE_SHIFT
        stop = pages_of(offset + len(data))
        self._expose(inode, offset)  # by the map as it is on the device
        with self._journal.transaction() as tx:
            self._inodes.guard(tx, inode)
            for first, count in _gaps(runs, index, stop):
                word = owner_word(inode.ino, first)
                arena = self._arenas.of(inode, count)
                for pfn, n in arena.allocate(tx, count, word, OWNER_STEP):
                    run = (first, n, pfn, False)
                    self._maps.assign(tx, inode, run)
                    new_runs.append(run)
                    first += n
            for run in new_runs:
                self._store_new(run, offset, data)
            self._store_runs(inode, offset, data, runs, flush=True)
            inode.pages += sum(n for _, n, _, _ in new_runs)
            self._change_size(tx, inode, max(inode.size, offset + len(data)))
        assert self._tables is not None
        for _, count, pfn, _ in new_runs:
            for first, n in by_extent(pfn, count):
                self._tables.touch(first, n, 0, LINES_PER_PAGE)

    def _store_new(self, run: Run, offset: int, data: memoryview) -> None:
        """Fill newly allocated pages: the data that falls into them, zeros around it; flush."""
        index, count, pfn, _ = run
        base = index << PAGE_SHIFT
        low = max(offset, base)
        high = min(offset + len(data), base + (count << PAGE_SHIFT))
        start = pfn_to_offset(pfn)
        device = self._device
        device.back(start, count << PAGE_SHIFT)
        if low > base:
            device.store(start, _ZEROS[: low - base])
        self._store_added(start + low - base, data[low - offset : high - offset])
        rest = base + (count << PAGE_SHIFT) - high
        if rest:
            device.store(start + high - base, _ZEROS[:rest])
        device.flush(start, count << PAGE_SHIFT)

    def _write_whole(self, inode: Inode, offset: int, data: memoryview, piece: int) -> None:
        """Write into a new whole extent; pages the piece has are copied first and then freed."""
        first = piece << EXTENT_PAGE_SHIFT
        old = list(self._maps.iter_runs(inode, first, first + PAGES_PER_EXTENT))
        with self._journal.transaction() as tx:
            self._inodes.guard(tx, inode)
            extent = self._pool.take(tx, Kind.WHOLE, inode.ino, piece)
            base = extent_to_offset(extent)
            self._expose(inode, min(offset, first << PAGE_SHIFT))
            lines = self.copy_into(inode, base, first, old)
            start = base + (offset & (EXTENT_BYTES - 1))
            if old or data.obj is not _ZEROS.obj:  # a new extent reads as zeros already
                self._store_added(start, data)
                self._device.flush(start, len(data))
            for index, count, _, _ in old:
                self._maps.clear(tx, inode, index, index + count)
            pfn = extent << EXTENT_PAGE_SHIFT
            self._maps.assign(tx, inode, (first, PAGES_PER_EXTENT, pfn, True))
            self.free_runs(tx, inode, old)
            old_pages = sum(count for _, count, _, _ in old)
            inode.pages += PAGES_PER_EXTENT - old_pages
            self._change_size(tx, inode, max(inode.size, offset + len(data)))
        self.pages_promoted += old_pages
        assert self._tables is not None
        self._tables.touch_whole(pfn, PAGES_PER_EXTENT, lines + (len(data) + 63 >> 6))

    def copy_into(self, inode: Inode, base: int, first: int, runs: list[Run]) -> int:
        """Copy runs of a piece to an extent of zeros, up to the end of the file; return lines."""
        lines = 0
        for index, count, pfn, _ in runs:
            # bytes behind the end of the file stay behind: the new extent has zeros there
            length = min(count << PAGE_SHIFT, inode.size - (index << PAGE_SHIFT))
            if length > 0:
                source = pfn_to_offset(pfn)
                self._device.back(source, length)
                target = base + (index - first << PAGE_SHIFT)
                self._device.store(target, self._device.view[source : source + length])
                self._device.flush(target, length)
                lines += (length + 63) >> 6
        return lines

    # -- fsync -------------------------------------------------------------------------------

    def fsync(self, inode: Inode) -> None:
        """Make all stores to the file durable: flush its dirty pages, fence."""
        for extent in inode.dirty:
            assert self._tables is not None
            self._tables.flush_dirty(extent)
        inode.dirty.clear()
        self._device.fence()

    def sync(self) -> None:
        """Make all stores to all files durable: flush every dirty page, fence."""
        assert self._tables is not None
        self._tables.flush_all_dirty()
        self._device.fence()

    # -- free --------------------------------------------------------------------------------

    def free_from(self, tx: Transaction, inode: Inode, first_page: int) -> bool:
        """Free pages from ``first_page`` on, from the end of the file; tell whether all are gone.

        A whole extent that begins before ``first_page`` is kept. Bounded by
        `FREE_BUDGET_BYTES`; allocates nothing. The caller guards and puts the inode.
        """
        budget = FREE_BUDGET_BYTES
        while budget > 0:
            run = self._maps.last_run(tx, inode)
            if run is None:
                return True
            index, count, pfn, whole = run
            if whole and index < first_page:
                self.candidates.note_tail(inode.ino)
                return True
            if index + count <= first_page:
                return True
            skip = max(0, first_page - index)
            freed = (index + skip, count - skip, pfn + skip, whole)
            self._maps.clear(tx, inode, freed[0], freed[0] + freed[1])
            self.free_runs(tx, inode, [freed])
            inode.pages -= freed[1]
            budget -= 16 * freed[1] + 128  # owner words, map words, a head, their headers
        return False

    def free_runs(self, tx: Transaction, inode: Inode, runs: list[Run]) -> None:
        """Free pages or extents of an inode that no map refers to any more."""
        for index, count, pfn, whole in runs:
            for first, n in by_extent(pfn, count):
                if whole:
                    self._release_piece(tx, inode, first, piece_of(index + first - pfn))
                    self._forget_after(tx, first, None)
                else:
                    word = owner_word(inode.ino, index + first - pfn)
                    free_pages(self._pool, tx, first, n, word, OWNER_STEP)
                    self._forget_after(tx, first, n)

    def _release_piece(self, tx: Transaction, inode: Inode, pfn: int, piece: int) -> None:
        if not self._pool.holds_piece(pfn, inode.ino, piece):
            raise DamagedImageError(
                f"extent {pfn_to_extent(pfn)} is not piece {piece} of inode {inode.ino}, which has "
                "it in its map; run pmemfs fsck",
                self._pool.geometry.head_offset(pfn_to_extent(pfn)),
            )
        self._pool.release(tx, pfn_to_extent(pfn))

    def _forget_after(self, tx: Transaction, pfn: int, count: int | None) -> None:
        tables = self._tables
        if tables is None:
            return
        if count is None or self._pool.used(pfn_to_extent(pfn)) == 0:
            tx.after.append(lambda: tables.forget_extent(pfn_to_extent(pfn)))
        else:
            tx.after.append(lambda: tables.forget(pfn, count))

    # -- size --------------------------------------------------------------------------------

    def grow(self, inode: Inode, size: int) -> None:
        """Make a file longer; what is added reads as zeros. Durable on return."""
        self._now_ns = self._clock.now_ns()
        self._expose(inode, size)
        with self._journal.transaction() as tx:
            self._change_size(tx, inode, size)

    # -- fallocate ---------------------------------------------------------------------------

    def allocate(self, inode: Inode, offset: int, length: int, *, keep_size: bool) -> None:
        """Allocate what is a hole of the range, as zeros, and grow the file to its end.

        With ``keep_size`` the file does not grow and pages behind its end wait for it. Piece by
        piece; raises ENOSPC with the pieces done so far in place and in the size.
        """
        self._now_ns = self._clock.now_ns()
        self._keeps_size = keep_size
        try:
            self._allocate_pieces(inode, offset, length)
        finally:
            self._keeps_size = False

    def _allocate_pieces(self, inode: Inode, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            stop = min(end, (offset | (EXTENT_BYTES - 1)) + 1)
            self._allocate_piece(inode, offset, stop)
            offset = stop

    def _allocate_piece(self, inode: Inode, offset: int, end: int) -> None:
        index, stop = offset >> PAGE_SHIFT, pages_of(end)
        runs = list(self._maps.iter_runs(inode, index, stop))
        # the pages missing are whole ones: write zeros to the first of each gap onwards
        for first, count in _gaps(runs, index, stop):
            low = max(first << PAGE_SHIFT, offset)
            high = min((first + count) << PAGE_SHIFT, end)
            self._write_piece(inode, low, _ZEROS[: high - low])
        if self._keeps_size:
            self._note_preallocation(inode, end)
        elif end > inode.size:
            self.grow(inode, end)

    def _note_preallocation(self, inode: Inode, end: int) -> None:
        """Say so where whole extents had the pages behind the end already: they are to stay."""
        if pages_of(end) > pages_of(inode.size) and not inode.flags & _PREALLOCATED:
            with self._journal.transaction() as tx:
                self._change_size(tx, inode, end)

    def punch(self, inode: Inode, offset: int, length: int) -> None:
        """Make a range within the file read as zeros and give back the pages it covers.

        Piece by piece, each durable when the next begins: the first, for the times of the file,
        and those that have pages. Allocates nothing: where the map could not lose pages without
        a new node, they are zeroed and kept.
        """
        end = min(offset + length, inode.size)
        while offset < end:
            stop = min(end, (offset | (EXTENT_BYTES - 1)) + 1)
            self._punch_piece(inode, offset, stop)
            offset = self._next(inode, pages_of(stop), pages_of(end), data=True) << PAGE_SHIFT

    def _punch_piece(self, inode: Inode, offset: int, end: int) -> None:
        full_end = pages_of(inode.size) << PAGE_SHIFT if end == inode.size else end
        with self._journal.transaction() as tx:
            self._inodes.guard(tx, inode)
            first, stop = offset >> PAGE_SHIFT, pages_of(end)
            for index, count, pfn, whole in list(self._maps.iter_runs(inode, first, stop)):
                self._punch_run(tx, inode, (index, count, pfn, whole), offset, full_end)
            inode.mtime_ns = inode.ctime_ns = self._clock.now_ns()
            self._inodes.put(tx, inode)

    def _punch_run(self, tx: Transaction, inode: Inode, run: Run, offset: int, end: int) -> None:
        index, count, pfn, whole = run
        low, high = pages_of(offset), end >> PAGE_SHIFT
        first, stop = max(index, low), min(index + count, high)
        covered = first < stop and (not whole or stop - first == PAGES_PER_EXTENT)
        if covered and self._maps.can_clear(inode, first, stop):
            self._maps.clear(tx, inode, first, stop)
            freed = (first, stop - first, pfn + first - index, whole)
            self.free_runs(tx, inode, [freed])
            inode.pages -= stop - first
            self._zero_run(tx, (index, first - index, pfn, whole), offset, end)
            rest = pfn + stop - index
            self._zero_run(tx, (stop, index + count - stop, rest, whole), offset, end)
        else:
            self._zero_run(tx, run, offset, end)

    @staticmethod
    def _zero_run(tx: Transaction, run: Run, offset: int, end: int) -> None:
        index, count, pfn, _ = run
        low = max(offset, index << PAGE_SHIFT)
        high = min(end, (index + count) << PAGE_SHIFT)
        if low < high:
            tx.zero(pfn_to_offset(pfn) + low - (index << PAGE_SHIFT), high - low)

    # -- seek --------------------------------------------------------------------------------

    def seek(self, inode: Inode, offset: int, *, data: bool) -> int:
        """Return the next offset from ``offset`` on that is data (or a hole), as lseek(2) does.

        Raises ENXIO behind the end, and where there is no more data.
        """
        if not 0 <= offset < inode.size:
            raise PmemfsError(errno.ENXIO, "offset is behind the end of the file")
        index = self._next(inode, offset >> PAGE_SHIFT, pages_of(inode.size), data=data)
        if data and index == pages_of(inode.size):
            raise PmemfsError(errno.ENXIO, "there is no data behind this offset")
        return min(max(offset, index << PAGE_SHIFT), inode.size)

    def _next(self, inode: Inode, index: int, stop: int, *, data: bool) -> int:
        """Return the first page from ``index`` on that is data (or a hole), or ``stop``."""
        while index < stop:
            pfn, count, _ = self._maps.lookup(inode, index, stop - index)
            if bool(pfn) == data:
                break
            index += count
        return index


def by_extent(pfn: int, count: int) -> Iterator[tuple[int, int]]:
    """Cut a run of pages at extent boundaries."""
    while count:
        n = min(count, PAGES_PER_EXTENT - (pfn & (PAGES_PER_EXTENT - 1)))
        yield pfn, n
        pfn += n
        count -= n


def _gaps(runs: list[Run], first: int, stop: int) -> list[tuple[int, int]]:
    """Return ``(index, pages)`` of what lies between runs."""
    gaps = []
    for index, count, _, _ in [*runs, (stop, 0, 0, False)]:
        if index > first:
            gaps.append((first, index - first))
        first = max(first, index + count)
    return gaps
