"""A file mapped once as persistent memory, changed through a seam of few verbs.

Invariants:

* Nothing else writes: `MappedDevice.view` and `MappedDevice.words` are read-only.
* A store is *pending* until its 64-byte lines are flushed and then fenced. Lines persist in any
  order, the 8-byte words of one line in program order; an aligned word is never torn.
* ``publish`` is the only ordered store: all that was flushed before is durable before it, and it
  is durable on return.
* A discard may land at any moment between its issue and the next fence.
* `back` precedes the first store to host space that may be a hole, so that a full host is
  ENOSPC here and never SIGBUS in a store.

With ``persist=cache`` the page cache of the file is the persistence domain: flush and fence only
order and count.

With ``persist=disk``, from `MappedDevice.persist_on_disk` on, it is the host's disk:

* *What the host does.* It writes the file in pages of 4 KiB, each at any moment between a store to
  it and the next ``fdatasync``, in any order. So after a power loss a page holds what it held at
  the last ``fdatasync`` or in any moment since, whatever the others hold; a discard has landed in
  it, or not.
* *What is done.* A fence is an ``fdatasync``. It covers all that was stored before, flushed or
  not, since a store through the mapping is in the file's page cache at once.
* *Why that is enough.* A page that holds what it held at one moment is one choice for each of its
  lines, so the host's states are among those of the lines: an order of stores that is right for
  them is right here. `pmemfs.device.power` enumerates the host's states.
* *What is grouped.* A fence owes nothing to the host if nothing was flushed or discarded since an
  ``fdatasync`` began: then it calls none. So two publishes in a row cost three, and an fsync behind
  its fence none. The two of one publish stay: the first keeps the word behind what it refers to,
  the second keeps behind the word what is stored next.

This module does not know what the bytes mean.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from pmemfs.device.counters import Counters
from pmemfs.device.private import is_tmpfs, map_private
from pmemfs.errors import DamagedImageError, HostError, PmemfsError

LINE_BYTES = 64
WORD_BYTES = 8

_PAGE_SHIFT = 12
_UNIT_SHIFT = 21
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_ZEROS = memoryview(bytes(1 << _UNIT_SHIFT))

Buffer = bytes | bytearray | memoryview

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _map_shared(fd: int, size_bytes: int) -> mmap.mmap:
    return mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


class MappedDevice:
    """``size_bytes`` of an open file as byte-addressable persistent memory.

    ``private=True`` maps copy-on-write (see `pmemfs.device.private`): stores are seen through the
    views, the file never changes, and backing and discarding are done in memory. The file
    descriptor is duplicated; the caller keeps its own.
    """

    def __init__(self, fd: int, size_bytes: int, *, private: bool = False) -> None:
        self.size_bytes = size_bytes
        self.counters = Counters()
        self.private = private
        self._fd = os.dup(fd)
        # zeros that the operating system allocates only where they are written
        self._backed = np.zeros((size_bytes >> _UNIT_SHIFT) + 1, np.uint8).data
        self._private_pages: set[int] = set()
        self._private_sorted: list[int] = []
        self.solid = self._backed if is_tmpfs(fd) and not private else None
        """Of each 2 MiB unit, whether it has no hole; None where reading a hole takes no space."""
        self._on_disk = False
        self._synced = 0  # what `_owed` was when the last fdatasync began
        self._host_failure: str | None = None
        self._syncing = threading.Lock()
        try:
            self._map = (map_private if private else _map_shared)(self._fd, size_bytes)
        except (OSError, ValueError) as error:
            os.close(self._fd)
            raise PmemfsError(
                getattr(error, "errno", None) or errno.EINVAL,
                f"cannot map {size_bytes} bytes of the image: {error}",
            ) from error
        self.view = memoryview(self._map).toreadonly()
        self.words = self.view.cast("Q")
        self.find = self._map.find
        if private:
            self.store = self._store_private  # type: ignore[method-assign]
            self.store_fresh = self._store_private  # type: ignore[method-assign]
            self.store_all = self._store_each  # type: ignore[method-assign]

    # -- the seam ----------------------------------------------------------------------------

    def store(self, offset: int, data: Buffer) -> None:
        """Store bytes at ``offset``; unordered, pending until flushed and fenced."""
        length = len(data)
        self._map[offset : offset + length] = data
        counters = self.counters
        counters.stores += 1
        counters.bytes_stored += length

    def flush(self, offset: int, length: int) -> None:
        """Start to write back the lines of the range; durable after the next fence."""
        counters = self.counters
        counters.flushes += 1
        counters.lines_flushed += ((offset + length - 1) >> 6) - (offset >> 6) + 1

    def store_fresh(self, offset: int, data: Buffer) -> None:
        """`store` many bytes where the mapping has not been touched yet, as far as one can tell.

        Writes to the file, which its mapping shows at once: that spares a page fault for every
        4 KiB. Raises `PmemfsError` when the host fails; a part may be stored then. Raises
        `DamagedImageError` when the image has been cut short.
        """
        self.validate_length()
        length = len(data)
        done = 0
        try:
            while done < length:
                done += os.pwrite(self._fd, data[done:] if done else data, offset + done)
        except OSError as error:
            code = error.errno or errno.EIO
            raise PmemfsError(
                code, f"cannot store to the image: {os.strerror(code)}", offset
            ) from error
        counters = self.counters
        counters.stores += 1
        counters.bytes_stored += length

    def store_all(self, ranges: Iterable[tuple[int, Buffer]]) -> None:
        """Store and flush each ``(offset, data)``: `store` and `flush` of many in one call."""
        mapping = self._map
        stores = bytes_stored = lines = 0
        for offset, data in ranges:
            end = offset + len(data)
            mapping[offset:end] = data
            stores += 1
            bytes_stored += end - offset
            lines += ((end - 1) >> 6) - (offset >> 6) + 1
        counters = self.counters
        counters.stores += stores
        counters.bytes_stored += bytes_stored
        counters.flushes += stores
        counters.lines_flushed += lines

    def fence(self) -> None:
        """Make everything flushed so far durable, and every issued discard land.

        Raises `HostError` when the host fails to, with ``persist=disk`` only.
        """
        self.counters.fences += 1
        if self._on_disk:
            self.sync()

    def publish(self, offset: int, value: int) -> None:
        """Store one aligned 8-byte word as a commit point.

        All that was flushed is durable before the word; the word is durable on return.
        """
        self.fence()
        self.store(offset, value.to_bytes(8, "little"))
        self.flush(offset, WORD_BYTES)
        self.fence()
        self.counters.publishes += 1

    def back(self, offset: int, length: int) -> None:
        """Allocate host space for the aligned 2 MiB units that a range touches.

        What a unit holds is kept, its holes read as zero. Asks the host once for each unit until
        it is discarded, so it may stand before every store. On a full host the pages of the range
        will do: what is there already needs no room. Raises `PmemfsError` with ENOSPC without
        them, `DamagedImageError` when the image has been cut short; nothing changed then.
        """
        backed, stop = self._backed, offset + length
        for unit in range(offset >> _UNIT_SHIFT, (stop - 1 >> _UNIT_SHIFT) + 1):
            if not backed[unit]:
                start = unit << _UNIT_SHIFT
                self._back_unit(unit, max(offset, start), min(stop, start + (1 << _UNIT_SHIFT)))

    def back_all(self, ranges: Iterable[tuple[int, Buffer]]) -> None:
        """Do for each ``(offset, data)`` what `back` does for a range."""
        backed = self._backed
        for offset, data in ranges:
            unit = offset >> _UNIT_SHIFT
            if not backed[unit] or unit != (offset + len(data) - 1) >> _UNIT_SHIFT:
                self.back(offset, len(data))

    def _back_unit(self, unit: int, low: int, high: int) -> None:
        """Allocate a unit, or at least the pages of a range in it."""
        self.counters.backs += 1
        start = unit << _UNIT_SHIFT
        if not self.private:
            self.validate_length()
            try:
                os.posix_fallocate(self._fd, start, min(1 << _UNIT_SHIFT, self.size_bytes - start))
            except OSError:
                self._back_pages(low >> _PAGE_SHIFT, (high - 1 >> _PAGE_SHIFT) + 1)
                return
        self._backed[unit] = 1

    def _back_pages(self, first: int, stop: int) -> None:
        start, length = first << _PAGE_SHIFT, stop - first << _PAGE_SHIFT
        try:
            os.posix_fallocate(self._fd, start, length)
        except OSError as error:
            code = errno.ENOSPC if error.errno == errno.EDQUOT else error.errno or errno.EIO
            text = f"the host file system has no room under the image: {error.strerror}"
            raise PmemfsError(code, text, start) from error

    def validate_length(self) -> None:
        """Raise `DamagedImageError` if the image has been cut short.

        To allocate, or to write to the file, would make it longer again, and what is gone would
        read as zeros.
        """
        found = os.fstat(self._fd).st_size
        if found < self.size_bytes:
            raise DamagedImageError(
                f"the image has been cut short to {found} of {self.size_bytes} bytes while in use"
            )

    def discard(self, offset: int, length: int) -> None:
        """Give host space of a range back; it reads as zero once the discard has landed.

        The free of the range must be durable before. Hosts that cannot punch holes get zeros
        stored instead.
        """
        self.counters.discards += 1
        for unit in range(offset >> _UNIT_SHIFT, (offset + length - 1 >> _UNIT_SHIFT) + 1):
            self._backed[unit] = 0
        if not self.private:
            mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
            if _libc.fallocate(self._fd, mode, offset, length) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise PmemfsError(code, f"cannot discard: {os.strerror(code)}", offset)
        self._map[offset : offset + length] = bytes(length)

    def sync(self) -> None:
        """Make the image durable on its host file system (``fdatasync``).

        With ``persist=disk``, only if anything was flushed or discarded since the last. Raises
        `HostError` when the host fails, and from then on always: what it has lost cannot be
        known, and the host tells it only once. Raises `DamagedImageError` when the image has been
        cut short: what is gone is not durable. May be called from another thread.
        """
        owed = self._owed()
        if self._on_disk and owed == self._synced:
            return
        self._sync_host()
        self._synced = max(self._synced, owed)

    def _owed(self) -> int:
        return self.counters.flushes + self.counters.discards

    def _sync_host(self) -> None:
        self.counters.syncs += 1
        if self.private:
            return
        self.validate_length()
        with self._syncing:  # the host tells an error once: nobody must overtake who is told
            try:
                if self._host_failure is None:
                    os.fdatasync(self._fd)
            except OSError as error:
                self._host_failure = f"the host cannot make the image durable: {error.strerror}"
        if self._host_failure is not None:
            raise HostError(self._host_failure)

    def persist_on_disk(self) -> None:
        """Make every fence durable on the host from here on, and all that was stored before."""
        self._on_disk = False
        self.sync()
        self._on_disk = True

    def persist_in_cache(self) -> None:
        """Let fences order and count only, from here on."""
        self._on_disk = False

    # -- reading -----------------------------------------------------------------------------

    def iter_data(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Iterate ``(start, stop)`` byte ranges that may hold data; the rest are host holes."""
        ranges = list(self._iter_host_data(start, stop))
        if self.private:
            ranges += self._iter_private_data(start, stop)
            ranges.sort()
        reached = start
        for low, high in ranges:
            low = max(low, reached)
            if low < high:
                yield low, high
                reached = high

    def _iter_private_data(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        if len(self._private_sorted) != len(self._private_pages):
            self._private_sorted = sorted(self._private_pages)
        pages = self._private_sorted
        first = bisect.bisect_left(pages, start >> _PAGE_SHIFT)
        for page in itertools.islice(pages, first, None):
            if page << _PAGE_SHIFT >= stop:
                return
            yield max(page << _PAGE_SHIFT, start), min(page + 1 << _PAGE_SHIFT, stop)

    def _iter_host_data(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        while start < stop:
            try:
                low = os.lseek(self._fd, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                yield start, stop
                return
            if low >= stop:
                return
            # on a tmpfs SEEK_HOLE looks at each page up to the hole, which may be gigabytes away
            is_last = low >> _PAGE_SHIFT == stop - 1 >> _PAGE_SHIFT
            end = stop if is_last else min(os.lseek(self._fd, low, os.SEEK_HOLE), stop)
            yield low, end
            start = end

    def may_have_holes(self, offset: int, length: int) -> bool:
        """Tell whether a range must be read by `pieces`, not through the mapping.

        On a tmpfs, reading a hole through a shared mapping takes host space, and is SIGBUS without.
        Each 2 MiB unit is asked about once, unless it has holes. `solid` says what is known.
        """
        solid = self.solid
        if solid is None:
            return False
        for unit in range(offset >> _UNIT_SHIFT, (offset + length - 1 >> _UNIT_SHIFT) + 1):
            if not solid[unit]:
                start = unit << _UNIT_SHIFT
                stop = min(start + (1 << _UNIT_SHIFT), self.size_bytes)
                try:
                    if os.lseek(self._fd, start, os.SEEK_HOLE) < stop:
                        return True
                except OSError:  # cut short; the mapping will say so
                    return False
                solid[unit] = 1
        return False

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        """Iterate a range as pieces of the mapping, and of zeros where the host has holes."""
        reached, stop = offset, offset + length
        for low, high in [*self.iter_data(offset, stop), (stop, stop)]:
            while reached < low:
                zeros = _ZEROS[: low - reached]
                yield zeros
                reached += len(zeros)
            if low < high:
                yield self.view[low:high]
                reached = high

    @property
    def host_bytes(self) -> int:
        """What the sparse file occupies on its host, in bytes."""
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        """Unmap. Views handed out keep the mapping alive until they are dropped."""
        if self._fd < 0:
            return
        with contextlib.suppress(BufferError):  # a numpy view, or a piece still in a reply
            self.words.release()
            self.view.release()
            self._map.close()
        os.close(self._fd)
        self._fd = -1

    def _store_each(self, ranges: Iterable[tuple[int, Buffer]]) -> None:
        """`store_all` for devices that look at each store."""
        for offset, data in ranges:
            self.store(offset, data)
            self.flush(offset, len(data))

    def _store_private(self, offset: int, data: Buffer) -> None:
        MappedDevice.store(self, offset, data)
        last = offset + len(data) - 1
        self._private_pages.update(range(offset >> _PAGE_SHIFT, (last >> _PAGE_SHIFT) + 1))
