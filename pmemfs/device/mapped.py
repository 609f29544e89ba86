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
order and count. This module does not know what the bytes mean.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import errno
import itertools
import mmap
import os
from collections.abc import Iterator

import numpy as np

from pmemfs.device.counters import Counters
from pmemfs.errors import PmemfsError

LINE_BYTES = 64
WORD_BYTES = 8

_PAGE_SHIFT = 12
_UNIT_SHIFT = 21
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_MAP_NORESERVE = 0x4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class MappedDevice:
    """``size_bytes`` of an open file as byte-addressable persistent memory.

    ``private=True`` maps copy-on-write: stores are seen through the views, the file never
    changes, and backing and discarding are done in memory. The file descriptor is duplicated;
    the caller keeps its own.
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
        flags = mmap.MAP_PRIVATE | _MAP_NORESERVE if private else mmap.MAP_SHARED
        try:
            self._map = mmap.mmap(
                self._fd, size_bytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )
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

    # -- the seam ----------------------------------------------------------------------------

    def store(self, offset: int, data: bytes | bytearray | memoryview) -> None:
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

    def fence(self) -> None:
        """Make everything flushed so far durable, and every issued discard land."""
        self.counters.fences += 1

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
        it is discarded, so it may stand before every store. Raises `PmemfsError` with ENOSPC
        when the host is full; nothing changed then.
        """
        backed = self._backed
        for unit in range(offset >> _UNIT_SHIFT, (offset + length - 1 >> _UNIT_SHIFT) + 1):
            if not backed[unit]:
                self._back_unit(unit)

    def _back_unit(self, unit: int) -> None:
        self.counters.backs += 1
        start = unit << _UNIT_SHIFT
        if not self.private:
            try:
                os.posix_fallocate(self._fd, start, min(1 << _UNIT_SHIFT, self.size_bytes - start))
            except OSError as error:
                raise PmemfsError(
                    error.errno or errno.ENOSPC,
                    f"the host file system has no room under the image: {error.strerror}",
                    start,
                ) from error
        self._backed[unit] = 1

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
        """Make the image durable on its host file system (``fdatasync``)."""
        self.counters.syncs += 1
        if not self.private:
            os.fdatasync(self._fd)

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
            start = min(os.lseek(self._fd, low, os.SEEK_HOLE), stop)
            yield low, start

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

    def _store_private(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        MappedDevice.store(self, offset, data)
        last = offset + len(data) - 1
        self._private_pages.update(range(offset >> _PAGE_SHIFT, (last >> _PAGE_SHIFT) + 1))
