"""An image opened at the layer of pages, with the few calls that its tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from volumes import SMALLEST_BYTES, HostDevice, ManualClock

from pmemfs.fs.format import format_image
from pmemfs.image import Image
from pmemfs.journal import Journal, SequenceWord
from pmemfs.layout.geometry import CONTROL_OFFSET, extent_to_offset, pfn_to_extent
from pmemfs.layout.records import CONTROL, HEAD, Kind
from pmemfs.layout.words import owner_word
from pmemfs.pages import Arena, ExtentPool, SplitTables

STEP = 1 << 32
_GENERATION = CONTROL_OFFSET + CONTROL.offset_of["generation"]


class PageLayer:
    """``pool``, ``arena``, ``tables`` on one image; `reopen` is a new mount."""

    def __init__(self, path: Path, clock: ManualClock, size_bytes: int = SMALLEST_BYTES) -> None:
        format_image(path, size_bytes)
        self.path = path
        self.clock = clock
        self._open()

    def _open(self) -> None:
        self.image = Image.open(self.path, lock="exclusive", device_class=HostDevice)
        self.device = self.image.device
        self.device.back(0, 4 << 21)
        self.generation = self.image.control()["generation"] + 1
        self.device.publish(_GENERATION, self.generation)
        live = SequenceWord(self.device)
        self.journal = Journal(self.device, live)
        self.pool = ExtentPool(self.image, self.journal)
        self.arena = Arena(self.pool, Kind.SMALL)
        self.tables = SplitTables(self.pool, self.journal, live, self.generation, self.clock)

    def reopen(self) -> None:
        """Drop all that memory knows, as a killed daemon does, and open again."""
        self.close()
        self._open()

    def close(self) -> None:
        """Let go of the image."""
        self.image.close()

    def take(self, kind: Kind = Kind.WHOLE, owner: int = 5, index: int = 0) -> int:
        """Take one extent in a transaction of its own."""
        with self.journal.transaction() as tx:
            return self.pool.take(tx, kind, owner, index)

    def release(self, *extents: int) -> None:
        """Release extents in one transaction."""
        with self.journal.transaction() as tx:
            for extent in extents:
                self.pool.release(tx, extent)

    def fill(self) -> list[int]:
        """Take every extent that is free."""
        return [self.take(index=i) for i in range(self.pool.free_extents)]

    def allocate(self, count: int, ino: int = 5, index: int = 0) -> list[tuple[int, int]]:
        """Allocate small pages of one file in a transaction of its own."""
        with self.journal.transaction() as tx:
            return self.arena.allocate(tx, count, owner_word(ino, index), STEP)

    def small_extents(self, count: int) -> list[int]:
        """Return that many full small extents."""
        return [pfn_to_extent(self.allocate(511, ino)[0][0]) for ino in range(5, 5 + count)]

    def head(self, extent: int) -> dict[str, Any]:
        """The head descriptor of an extent on the device."""
        return HEAD.unpack(self.device.view, self.pool.geometry.head_offset(extent))

    def owner_words(self, extent: int) -> list[int]:
        """The 512 words of an owner page."""
        start = extent_to_offset(extent)
        return memoryview(bytes(self.device.view[start : start + 4096])).cast("Q").tolist()

    def descriptors(self, extent: int) -> np.ndarray:
        """The split table of an extent: rows of owner, state, wear."""
        table = self.tables._tables[extent]
        return self.tables._read_table(table)[:, :3].copy()

    def validate(self) -> None:
        """Invariant 3, and heads that say what memory says."""
        assert sum(self.pool.counts) == self.pool.geometry.n_extents
        for extent in range(self.pool.geometry.n_extents):
            kind, head = self.pool.kind(extent), self.head(extent)
            stale = (Kind.RETURNED, Kind.FREE, Kind.DESCRIPTOR)
            assert head["kind"] == kind or (kind == Kind.RETURNED and head["kind"] in stale)
            assert head["used"] == self.pool.used(extent)
