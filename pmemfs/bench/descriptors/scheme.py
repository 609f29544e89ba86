"""What every scheme can do: initialise, find and touch a page, let time pass, describe itself.

One rule holds for all, so that they differ in *where* descriptors lie and not in what is kept:
an access is stamped at most once per second and page; a write adds the lines it flushed to the
wear of the page at once. These are the rules of `pmemfs.pages.descriptors`.

A device of ``size_bytes`` has ``size_bytes / 4096`` pages. The descriptors lie on it, as all the
schemes want that; only the page number counts here, so what lies under them is not told apart.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pmemfs.bench.descriptors.device import LineRanges, TallyDevice, open_scratch
from pmemfs.layout.geometry import EXTENT_BYTES, PAGE_BYTES
from pmemfs.pages.trace import AccessFlag

Counts = NDArray[np.int64]

DESCRIPTOR_BYTES = 64
DESCRIPTORS_PER_PAGE = PAGE_BYTES // DESCRIPTOR_BYTES
STATE_WORD, WEAR_WORD = 1, 2
REFERENCED = 2

WRITE, WHOLE = int(AccessFlag.WRITE), int(AccessFlag.WHOLE)
DIRTY, FREED = int(AccessFlag.DIRTY), int(AccessFlag.FREED)

# pages of a small file that lie side by side, the mean, as `pmemfs bench ageing` measures it
RUN_PAGES = 3.2

# a new descriptor: flags, and the reference count of 1 that the kernel gives a page
PRESENT = 0x1_0000_0001
_TWO_WORDS = struct.Struct("<QQ")


class Scheme(ABC):
    """Descriptors of one device, in one way. Call `initialise` first and `close` last."""

    name: ClassVar[str]
    what: ClassVar[str]
    source: ClassVar[str]
    reads_whole: ClassVar[int]  # dependent reads to reach a descriptor, the descriptor's included
    reads_split: ClassVar[int]
    # bytes that are stored at most when an extent is first used: by 4 KiB, whole
    grows_by: ClassVar[tuple[int, int]] = (0, 0)

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.n_pages = size_bytes // PAGE_BYTES
        self.n_extents = size_bytes // EXTENT_BYTES
        self.now_s = 0
        self.run_pages = RUN_PAGES
        self.ranges: LineRanges | None = None  # hears what `initialise` stores
        self.device: TallyDevice

    @classmethod
    @abstractmethod
    def initial_bytes(cls, size_bytes: int) -> int:
        """Return how many bytes `initialise` stores for a device of that size."""

    @classmethod
    def swept_bytes(cls, size_bytes: int, small: Counts, whole: Counts, run_pages: float) -> Counts:
        """Return what `parts` are together once so many extents have been used, ``(n,) int64``.

        Every page of the small ones has been accessed; all of that within the idle time.
        """
        return np.full(len(small), cls.initial_bytes(size_bytes))

    @abstractmethod
    def initialise(self) -> None:
        """Make the device ready: store all that must be there before the first access."""

    @abstractmethod
    def find(self, pfn: int) -> int:
        """Return the byte offset of the descriptor that speaks for a page, reading what it must."""

    @abstractmethod
    def find_many(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what `find` does for each page, ``(n,) int64``, by vectors."""

    @abstractmethod
    def touch(self, pfn: int, count: int, flags: int, lines: int) -> None:
        """Note an access to neighbouring pages of one extent (`AccessFlag` bits).

        ``lines`` were flushed of each page, in a whole extent of all together. FREED: the pages
        belong to nobody any more.
        """

    @abstractmethod
    def parts(self) -> dict[str, int]:
        """Return what the device gives up for descriptors now, in bytes by part, by arithmetic."""

    def in_use_bytes(self) -> int:
        """Return how many bytes of `parts` hold something: all, unless space is kept in reserve."""
        return sum(self.parts().values())

    def prepare(self, small: NDArray[np.int64], whole: NDArray[np.int64]) -> None:  # noqa: B027
        """Learn which extents will hold small pages, which belong whole to a file.

        Not tallied or timed: it is what a file system does when it allocates.
        """

    def pass_time(self, now_s: int) -> None:
        """Let the clock show ``now_s``, and do what the scheme does about idle descriptors."""
        self.now_s = now_s

    def translate(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pages ``(n,) int64`` to `find` for those of the accesses."""
        return pfns

    def place_of(self, line: int) -> str:
        """Return the name of the part that a line of the device belongs to."""
        return "descriptors"

    def open(self, size_bytes: int) -> None:
        """Make the scratch device."""
        self.device = open_scratch(self.path, size_bytes)
        self.device.ranges = self.ranges

    def close(self) -> None:
        """Let go of the device."""
        if hasattr(self, "device"):
            self.device.close()

    # -- stamping ----------------------------------------------------------------------------

    def stamp(self, start: int, flags: int, lines: int) -> None:
        """Store access and wear in the descriptor at a byte offset, if they change."""
        index = start >> 3
        words = self.device.words
        state = words[index + STATE_WORD]
        fresh = self.now_s << 8 | (state & 0xFF) | (flags & DIRTY)
        if state and fresh >> 8 != state >> 8:
            fresh |= REFERENCED
        if lines:
            wear = words[index + WEAR_WORD] + lines
            self.device.store(start + 8, _TWO_WORDS.pack(fresh, wear))
        elif fresh != state:
            self.device.store(start + 8, fresh.to_bytes(8, "little"))

    def stamp_run(self, start: int, count: int, flags: int, lines: int) -> None:
        """Stamp ``count`` descriptors of 64 bytes side by side, by one store."""
        if count == 1:
            self.stamp(start, flags, lines)
            return
        n_words = count * DESCRIPTOR_BYTES // 8
        before = np.frombuffer(self.device.view, "<u8", n_words, start).reshape(count, -1)
        after = before.copy()
        state = before[:, STATE_WORD]
        fresh = state & np.uint64(0xFF) | np.uint64(self.now_s << 8 | (flags & DIRTY))
        later = (state != 0) & (fresh >> np.uint64(8) != state >> np.uint64(8))
        after[:, STATE_WORD] = np.where(later, fresh | np.uint64(REFERENCED), fresh)
        after[:, WEAR_WORD] += np.uint64(lines)
        if not np.array_equal(before, after):
            self.device.store(start, after.data.cast("B"))


def per_page(count: int, flags: int, lines: int) -> int:
    """Return the lines that each page of an access counts."""
    return -(-lines // count) if flags & WHOLE else lines


def new_descriptor() -> bytes:
    """Return a descriptor as it is initialised."""
    return PRESENT.to_bytes(8, "little") + bytes(DESCRIPTOR_BYTES - 8)
