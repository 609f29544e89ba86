"""The volume that is aged: the real engine on a device that skips the content of files.

What is skipped is the copying and nothing else: every store is counted, and all metadata, owner
pages, maps, directories, journal and split tables are really there, in a sparse file. So the
image is clean for fsck at the end, and its files read as zeros.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pmemfs.bench.ageing.store import Sample
from pmemfs.bench.ageing.trace import File
from pmemfs.device import MappedDevice
from pmemfs.errors import PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import (
    EXTENT_BYTES,
    HEAD_BYTES,
    INODE_BYTES,
    PAGE_BYTES,
    PAGES_PER_EXTENT,
    SPLIT_TABLE_BYTES,
    extent_to_offset,
)
from pmemfs.layout.records import Kind
from pmemfs.reclaim import Policy, Reclaimer

WRITE_BYTES = 1 << 20
"""The largest write, as through FUSE."""
FILES_PER_SECOND = 100
STEP_EVERY_FILES = 16
_DIRECTORY_FANOUT = 64
_CONTENT = memoryview(bytes(WRITE_BYTES))
_OWNABLE = PAGES_PER_EXTENT - 1


def _nothing(offset: int, length: int) -> None:
    pass


class ContentlessDevice(MappedDevice):
    """Counts stores of file data without making them; asks nothing of the host.

    Flushes are not counted: the content of the device is what is measured here.
    """

    def __init__(self, fd: int, size_bytes: int, **options: Any) -> None:
        super().__init__(fd, size_bytes, **options)
        self.flush = self.back = _nothing  # type: ignore[method-assign]

    def store(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store metadata; only count file data, which comes from a caller or from the device."""
        length = len(data)
        self.counters.stores += 1
        self.counters.bytes_stored += length
        if type(data) is memoryview and (data.obj is _CONTENT.obj or data.obj is self._map):
            return
        self._map[offset : offset + length] = data

    def store_fresh(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store as `store` does."""
        self.store(offset, data)


class AgeingClock:
    """A clock that goes on with the number of files made."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000 * 10**9

    def now_ns(self) -> int:
        """Wall-clock time in ns."""
        return self.ns

    def now_s(self) -> int:
        """Wall-clock time in s."""
        return self.ns // 10**9


class AgedVolume:
    """One volume under a trace, with its reclaimer."""

    def __init__(
        self,
        size_bytes: int,
        full: float,
        *,
        directories: int,
        threshold_pages: int | None = None,
        placement: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pmemfs-ageing-", dir=folder)
        self.path = Path(self._folder.name) / "aged.img"
        Volume.format(self.path, size_bytes)
        self.clock = AgeingClock()
        chosen = {"threshold_pages": threshold_pages, "placement": placement}
        options = Options(clock=self.clock, **{k: v for k, v in chosen.items() if v is not None})  # type: ignore[arg-type]
        self.volume = Volume.open(self.path, options, device_class=ContentlessDevice)
        self.reclaimer = Reclaimer(self.volume, Policy(), now_s=lambda: self.clock.ns / 1e9)
        self.file_bytes = 0
        self._most_used = int(full * self.volume.geometry.n_pages)
        self._n_pages = self.volume.geometry.n_pages
        self._files: dict[int, tuple[int, bytes, int]] = {}
        self._directories = [self._make_directory(n) for n in range(directories)]

    def _make_directory(self, number: int) -> int:
        name = b"d%d" % (number // _DIRECTORY_FANOUT)
        try:
            parent = self.volume.lookup(ROOT_INO, name).ino
        except PmemfsError:
            parent = self.volume.mkdir(ROOT_INO, name, 0o755).ino
        return self.volume.mkdir(parent, b"d%d" % number, 0o755).ino

    # -- the trace ---------------------------------------------------------------------------

    def is_full(self, more_bytes: int) -> bool:
        """Whether so many bytes more would go beyond the mark, by what df says."""
        pages = -(-more_bytes // PAGE_BYTES)
        return self._n_pages - self.volume.pool.free_pages + pages > self._most_used

    def create(self, file: File) -> None:
        """Make and write a file, as a program would through FUSE."""
        volume = self.volume
        parent, name, size = self._directories[file.directory], b"%x" % file.number, file.size
        inode = volume.create(parent, name, stat.S_IFREG | 0o644, 1000 + file.writer)
        for offset in range(0, size, WRITE_BYTES):
            volume.write(inode.ino, offset, _CONTENT[: min(WRITE_BYTES, size - offset)])
        self._files[file.number] = parent, name, size
        self.file_bytes += size
        self.clock.ns += 10**9 // FILES_PER_SECOND
        if not file.number % STEP_EVERY_FILES:
            self.rest()

    def remove(self, number: int) -> None:
        """Remove a file."""
        parent, name, size = self._files.pop(number)
        self.volume.unlink(parent, name)
        self.file_bytes -= size

    def rest(self) -> None:
        """Let the reclaimer do what is due between requests."""
        while not self.reclaimer.step():
            pass
        self.volume.lookup(ROOT_INO, b"d0")  # what is not used leaves the cache of inodes

    # -- measuring ---------------------------------------------------------------------------

    def sample(self, overwrites: float) -> Sample:
        """Measure. Overheads are shares of the device, see ARCHITECTURE.md for each."""
        pool, tables, moves = self.volume.pool, self.volume.tables, self.volume.moves
        assert tables is not None
        assert moves is not None
        device_bytes = self.volume.geometry.device_bytes
        small = pool.counts[Kind.SMALL]
        in_small = small * _OWNABLE - pool.free_small_pages
        content = sum(-(-size // PAGE_BYTES) for _, _, size in self._files.values())
        data_bytes = (pool.counts[Kind.WHOLE] * PAGES_PER_EXTENT + in_small) * PAGE_BYTES
        owned_bytes = data_bytes + small * PAGE_BYTES + len(self._files) * INODE_BYTES
        used_pages = self._n_pages - pool.free_pages
        written = self.volume.pages_written
        return Sample(
            overwrites=overwrites,
            full=used_pages / self._n_pages,
            files=len(self._files),
            free_whole=pool.free_extents * PAGES_PER_EXTENT / max(1, pool.free_pages),
            file_whole=1 - in_small / max(1, content),
            pages_per_run=in_small / max(1, self._count_runs()),
            columns={
                "split_extents": tables.split_extents,
                "small_extents": small,
                "whole_extents": pool.counts[Kind.WHOLE],
                "metadata_extents": pool.counts[Kind.METADATA],
                "descriptors_active": small * SPLIT_TABLE_BYTES / device_bytes,
                "descriptors_now": tables.split_extents * SPLIT_TABLE_BYTES / device_bytes,
                "heads": HEAD_BYTES / EXTENT_BYTES,
                "reserve": EXTENT_BYTES / device_bytes,
                "owner_pages": small * PAGE_BYTES / device_bytes,
                "amplification": owned_bytes / max(1, self.file_bytes),
                "amplification_all": used_pages * PAGE_BYTES / max(1, self.file_bytes),
                "moved_per_written": moves.pages_moved / max(1, written),
                "promoted_per_written": self.volume.pages_promoted / max(1, written),
                "resplits": tables.resplits,
                "resplit_stores": tables.resplit_stores,
            },
        )

    def _count_runs(self) -> int:
        """Count the runs of pages in small extents that continue each other in one file."""
        pool, view = self.volume.pool, self.volume.device.view
        runs = 0
        for extent in np.flatnonzero(pool.kind_column[: pool.frontier] == Kind.SMALL).tolist():
            words = np.frombuffer(view, "<u8", PAGES_PER_EXTENT, extent_to_offset(extent))
            continues = words[1:] == words[:-1] + np.uint64(1 << 32)
            runs += int(np.count_nonzero((words[1:] != 0) & ~continues))
        return runs

    # -- the end -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Let time pass until the reclaimer has nothing left to do."""
        for _ in range(200):
            self.rest()
            self.clock.ns += 10**9

    def touch_all(self) -> None:
        """Read the last piece of every file, which splits every small extent."""
        for parent, name, size in self._files.values():
            if size:
                first = (size - 1) // EXTENT_BYTES * EXTENT_BYTES
                self.volume.read(self.volume.lookup(parent, name).ino, first, size - first)

    def remove_all(self) -> dict[str, int]:
        """Remove every file and directory, rest, and return what is left; all 0 if all is well."""
        volume = self.volume
        for number in list(self._files):
            self.remove(number)
        for entry in list(volume.readdir(ROOT_INO))[2:]:
            for below in list(volume.readdir(entry.ino))[2:]:
                volume.rmdir(entry.ino, below.name)
            volume.rmdir(ROOT_INO, entry.name)
        for _ in range(200):
            while not self.reclaimer.step():
                pass
            self.clock.ns += 10**9
        assert volume.tables is not None
        free = volume.geometry.n_extents - volume.geometry.fixed_extents
        return {
            "extents_not_free": free - volume.pool.counts[Kind.FREE],
            "split_extents": volume.tables.split_extents,
            "inodes": volume.inodes.in_use - 1,
        }

    def close(self) -> None:
        """Close the volume and remove its image."""
        self.volume.close()
        self._folder.cleanup()

    def __enter__(self) -> AgedVolume:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def directories_for(size_bytes: int, full: float, mean_bytes: float, per_directory: int) -> int:
    """Return how many directories a device of that size has when it is full to the mark."""
    return max(1, int(size_bytes * full / mean_bytes / per_directory))


def image_folder() -> Path | None:
    """Return where images are made: in memory where there is room, else the usual place."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
