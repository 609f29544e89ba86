"""One image in memory that becomes each state in turn, by the pages in which they differ.

Writing down a whole image for every state would cost more than asking the oracle about it.
Invariant: ``_held`` has the object that each page of the file was last written from, and
``_UNKNOWN`` for pages that an engine may have changed since; all others are holes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable

from crash_case import SIZE, path_of

from pmemfs.device import MappedDevice, SparseImage
from pmemfs.device.sparse import PAGE_BYTES, PAGE_SHIFT, iter_host_data

_UNKNOWN = b"unknown"
_PUNCH_KEEP = 3
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class UnbackedDevice(MappedDevice):
    """Does not ask the host for space in advance: ten times faster in memory."""

    def _back_unit(self, unit: int, low: int, high: int) -> None:
        self._backed[unit] = 1


class Scratch:
    """A file of ``SIZE`` bytes in memory; ``path`` opens it, ``view`` reads it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("pmemfs-crash-scratch")
        os.ftruncate(self.fd, SIZE)
        self.path = path_of(self.fd)
        self._map = mmap.mmap(self.fd, SIZE)
        self.view = memoryview(self._map)
        self._held: dict[int, bytes] = {}

    def become(self, image: SparseImage) -> None:
        """Make the file equal to an image, holes included."""
        held, pages, store = self._held, image.pages, self._map
        for number in held.keys() - pages.keys():
            _libc.fallocate(self.fd, _PUNCH_KEEP, number << PAGE_SHIFT, PAGE_BYTES)
        for number, page in pages.items():
            if held.get(number) is not page:
                start = number << PAGE_SHIFT
                store[start : start + PAGE_BYTES] = page
        self._held = dict(pages)

    def forget(self, numbers: Iterable[int]) -> None:
        """Say that these pages have been stored to."""
        self._held.update((number, _UNKNOWN) for number in numbers)

    def forget_all(self) -> None:
        """Say that any page may have changed, been discarded, or been read into being."""
        self._held = {}
        for low, high in iter_host_data(self.fd, SIZE):
            numbers = range(low >> PAGE_SHIFT, -(-high >> PAGE_SHIFT))
            self._held.update((number, _UNKNOWN) for number in numbers)

    def close(self) -> None:
        """Unmap and close."""
        self.view.release()
        self._map.close()
        os.close(self.fd)


class TrackedDevice(UnbackedDevice):
    """Keeps the numbers of the pages stored to in ``touched``."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        super().__init__(fd, size_bytes)
        self.touched: set[int] = set()

    def store(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        last = (offset + len(data) - 1) >> PAGE_SHIFT
        self.touched.update(range(offset >> PAGE_SHIFT, last + 1))
        super().store(offset, data)
