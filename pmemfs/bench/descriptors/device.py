"""Scratch devices: sparse files behind the seam, with a tally of every line that is stored.

A `TallyDevice` is a `MappedDevice`, so whatever stores through it, the engine included, is
counted as it is. It asks the host for space only where `back_bulk` says so: data extents, which
nobody stores to here, stay holes, and ``host_bytes`` is what the descriptors really took.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmemfs.device import MappedDevice
from pmemfs.device.mapped import LINE_BYTES
from pmemfs.errors import PmemfsError
from pmemfs.layout.geometry import PAGE_BYTES
from pmemfs.units import MIB, format_size

_FOLD_AT = 1 << 20
BULK_BYTES = 2 * MIB
ROOM_LEFT = 512 * MIB


class LineRanges:
    """The ranges of lines that were stored to, to count the different ones among them."""

    def __init__(self) -> None:
        self._log = array("q")

    def note(self, first: int, count: int) -> None:
        """Note a store to ``count`` lines from ``first`` on."""
        self._log.append(first)
        self._log.append(count)

    @property
    def stored(self) -> int:
        """How many lines all stores touched together."""
        return int(self._pairs()[:, 1].sum())

    @property
    def touched(self) -> int:
        """How many different lines that were."""
        pairs = self._pairs()
        firsts, counts = pairs[np.argsort(pairs[:, 0], kind="stable")].T
        reached = np.maximum.accumulate(firsts + counts)
        before = np.concatenate((firsts[:1], reached[:-1]))
        return int((reached - np.maximum(firsts, before)).clip(0).sum())

    def _pairs(self) -> NDArray[np.int64]:
        return np.frombuffer(self._log, np.int64).reshape(-1, 2)


class TallyDevice(MappedDevice):
    """A device that knows how often each of its 64-byte lines was stored to."""

    ranges: LineRanges | None = None
    """Hears of every store, if it is set."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        super().__init__(fd, size_bytes)
        self.store_all = self._store_each  # type: ignore[method-assign]
        self.tallying = False
        self._log = array("q")
        self._lines = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)

    def store(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store and tally; see `MappedDevice.store`."""
        super().store(offset, data)
        self._note(offset, len(data))

    def store_fresh(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store and tally; see `MappedDevice.store_fresh`."""
        super().store_fresh(offset, data)
        self._note(offset, len(data))

    def _note(self, offset: int, length: int) -> None:
        if not self.tallying and self.ranges is None:
            return
        first = offset // LINE_BYTES
        count = (offset + length - 1) // LINE_BYTES - first + 1
        if self.ranges is not None:
            self.ranges.note(first, count)
        if self.tallying:
            self._log.append(first)
            self._log.append(count)
            if len(self._log) >= _FOLD_AT:
                self._fold()

    def start_tally(self) -> None:
        """Forget what was tallied and tally from here."""
        self.tallying = True
        self._log = array("q")
        self._lines = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)

    def tally(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the lines stored to, ascending, and how often each was, ``(n,) int64``."""
        self._fold()
        return self._lines, self._counts

    def _fold(self) -> None:
        pairs = np.frombuffer(self._log, np.int64).reshape(-1, 2)
        firsts, lengths = pairs[:, 0], pairs[:, 1]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        lines, counts = np.unique(np.repeat(firsts, lengths) + within, return_counts=True)
        every = np.concatenate((self._lines, lines))
        weights = np.concatenate((self._counts, counts))
        self._lines, place = np.unique(every, return_inverse=True)
        self._counts = np.zeros(len(self._lines), np.int64)
        np.add.at(self._counts, place, weights)
        self._log = array("q")

    def back_bulk(self, offset: int, length: int) -> None:
        """Ask the host for the pages of a range that will be stored in bulk."""
        start = offset & ~(PAGE_BYTES - 1)
        try:
            os.posix_fallocate(self._fd, start, offset + length - start)
        except OSError as error:
            raise PmemfsError(
                error.errno or errno.ENOSPC, f"no room for the descriptors: {error.strerror}"
            ) from error

    def _back_unit(self, unit: int, low: int, high: int) -> None:
        self.counters.backs += 1
        self._backed[unit] = 1

    def store_pattern(self, offset: int, pattern: bytes, count: int) -> None:
        """Store ``count`` copies of a pattern side by side, 2 MiB at a time, as fast as it goes."""
        at_once = max(1, BULK_BYTES // len(pattern))
        chunk = memoryview(pattern * min(at_once, count))
        stop = offset + count * len(pattern)
        while offset < stop:
            part = chunk[: stop - offset]
            self.back_bulk(offset, len(part))
            self.store(offset, part)
            offset += len(part)


@contextlib.contextmanager
def scratch_file(directory: Path) -> Iterator[Path]:
    """Give the path of an empty file in ``directory``; it is removed at the end."""
    try:
        fd, name = tempfile.mkstemp(prefix="pmemfs-descriptors-", suffix=".img", dir=directory)
    except OSError as error:
        raise PmemfsError(
            error.errno or errno.EIO, f"cannot make a file in {directory}: {error.strerror}"
        ) from error
    os.close(fd)
    try:
        yield Path(name)
    finally:
        os.unlink(name)


def open_scratch(path: Path, size_bytes: int) -> TallyDevice:
    """Make a file this large, all hole, and map it; raises `PmemfsError` if the host refuses."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size_bytes)
        return TallyDevice(fd, size_bytes)
    except (OSError, OverflowError, MemoryError) as error:
        raise PmemfsError(
            errno.EFBIG, f"the host refuses a file of {format_size(size_bytes)}: {error}"
        ) from error
    finally:
        os.close(fd)


def host_room_bytes(directory: Path) -> int:
    """Return what may be stored in ``directory`` without getting in the way of others.

    No more than the memory that is available: there the stores go first, on a disk too.
    """
    host = os.statvfs(directory)
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    memory = int(fields["MemAvailable"].split()[0]) * 1024
    return max(0, min(host.f_bavail * host.f_frsize, memory) - ROOM_LEFT)


def scratch_directory() -> Path:
    """Return where to make files if nobody says: in memory, where there is a file system for it."""
    memory = Path("/dev/shm")
    is_usable = memory.is_dir() and os.access(memory, os.W_OK)
    return memory if is_usable else Path(tempfile.gettempdir())
