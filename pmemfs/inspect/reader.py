"""Read one image for the views: beside a live daemon, and without trusting a byte of it.

Invariants:

* Every read is a ``pread``: it sees what a daemon stores to a hole meanwhile, and a file cut short
  is an error and not SIGBUS.
* `control`, `live` and what follows from them are those of the last `refresh`.
* A pfn, extent or inode number out of range is a `DamagedImageError`.

It never writes. The only lock it asks for is the probe of `is_locked`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    HEAD_BYTES,
    PAGE_BYTES,
    WORD_BYTES,
    extent_to_pfn,
    pfn_to_extent,
    pfn_to_offset,
    pfn_to_slot,
)
from pmemfs.layout.records import CONTROL, HEAD, NOTHING_TO_REPLAY, Kind, MountState, Role
from pmemfs.layout.words import owner_index, owner_ino

HEADS_PER_SLICE = 1 << 16
MAX_REMARKS = 50

Heads = NDArray[Any]


class Stamp(NamedTuple):
    """What tells one state of the image from another."""

    live: bool
    state: int
    generation: int
    sequence: int
    committed: int

    @property
    def is_moving(self) -> bool:
        """Whether a living daemon is just now changing what a view reads."""
        return self.live and bool(self.sequence & 1)


def is_locked(fd: int) -> bool:
    """Tell whether another open file of this image has the exclusive lock of a daemon.

    Takes a shared lock for an instant to find out; ``fd`` must hold no lock itself.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


class Reader:
    """An image as the views read it; use it in a ``with`` statement.

    ``remarks`` collects sentences about what cannot be true, at most `MAX_REMARKS` of them.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the image without a lock; raises `PmemfsError` as `Image.open` does."""
        self.image = Image.open(path, lock="none")
        self.geometry = self.image.geometry
        self.refresh()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the image."""
        self.image.close()

    # -- the state of the image --------------------------------------------------------------

    def refresh(self) -> Stamp:
        """Read the control page, look for a daemon, forget the remarks."""
        self.remarks: list[str] = list(self.image.superblock_problems)
        self._remarks_dropped = 0
        self._kinds: dict[int, int] = {}
        stamp = self.stamp()
        self.live = stamp.live
        return stamp

    def stamp(self) -> Stamp:
        """Return the stamp of now; also updates ``control``.

        Raises `DamagedImageError` when the image has been cut short: what is gone reads as holes.
        A daemon publishes "mounted" before it does anything else, so a clean image is not probed:
        the probe could be in the way of a mount that just begins.
        """
        self.image.device.validate_length()
        self.control = CONTROL.unpack(self.read(CONTROL_OFFSET, CONTROL.size_bytes))
        live = self.control["state"] != MountState.CLEAN and is_locked(self.image.fd)
        fields = ("state", "generation", "sequence", "committed")
        return Stamp(live, *(self.control[name] for name in fields))

    @property
    def generation(self) -> int:
        """The current mount generation."""
        return int(self.control["generation"])

    @property
    def is_clean(self) -> bool:
        """Whether the last that wrote closed the image and nothing is left to replay."""
        return self.control["state"] == MountState.CLEAN and not self.has_replay

    @property
    def has_replay(self) -> bool:
        """Whether the control page names a transaction to replay (a mount's normal state)."""
        return not self.control["committed"] & NOTHING_TO_REPLAY

    def remark(self, sentence: str) -> None:
        """Note something that cannot be true; beyond `MAX_REMARKS` only counted."""
        if len(self.remarks) < MAX_REMARKS:
            self.remarks.append(sentence)
        else:
            self._remarks_dropped += 1

    def all_remarks(self) -> list[str]:
        """Return the remarks, with a last line that counts those not kept."""
        dropped = self._remarks_dropped
        return self.remarks + ([f"and {dropped} more remarks"] if dropped else [])

    # -- bytes and words ---------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the device; raises `DamagedImageError` for a range outside of it."""
        if offset < 0 or offset + length > self.geometry.device_bytes:
            raise DamagedImageError("beyond the device", offset)
        try:
            data = os.pread(self.image.fd, length, offset)
        except OSError as error:
            code = error.errno or errno.EIO
            raise PmemfsError(code, f"cannot read: {error.strerror}", offset) from error
        if len(data) != length:
            raise DamagedImageError("the image file has been cut short", offset)
        return data

    def page(self, pfn: int) -> bytes:
        """Return one page; raises `DamagedImageError` for a pfn beyond the device."""
        if pfn >= self.geometry.n_pages:
            raise DamagedImageError(f"pfn {pfn} is beyond the device")
        return self.read(pfn_to_offset(pfn), PAGE_BYTES)

    def words(self, pfn: int) -> NDArray[np.uint64]:
        """Return the words of a page, ``(512,) uint64``."""
        return np.frombuffer(self.page(pfn), "<u8")

    def word(self, pfn: int, slot: int) -> int:
        """Return one word of a page."""
        data = self.read(pfn_to_offset(pfn) + slot * WORD_BYTES, WORD_BYTES)
        return int.from_bytes(data, "little")

    # -- heads -------------------------------------------------------------------------------

    def head(self, extent: int) -> dict[str, Any]:
        """Return a head descriptor; raises `DamagedImageError` for an extent beyond the device."""
        if not 0 <= extent < self.geometry.n_extents:
            raise DamagedImageError(f"extent {extent} is beyond the device")
        return HEAD.unpack(self.read(self.geometry.head_offset(extent), HEAD_BYTES))

    def kind(self, extent: int) -> int:
        """Return the stored kind of an extent, read once per `refresh`."""
        if extent not in self._kinds:
            self._kinds[extent] = self.head(extent)["kind"]
        return self._kinds[extent]

    def iter_heads(self) -> Iterator[tuple[int, Heads]]:
        """Iterate ``(first extent, heads)`` in order, only where the head table has data.

        A slice is at most `HEADS_PER_SLICE` long; an extent that no slice covers is free.
        """
        for low, high in self.image.iter_head_ranges():
            for first in range(low, high, HEADS_PER_SLICE):
                count = min(HEADS_PER_SLICE, high - first)
                data = self.read(self.geometry.head_offset(first), count * HEAD_BYTES)
                yield first, np.frombuffer(data, HEAD.dtype)

    def metadata_page(self, pfn: int, ino: int, role: Role) -> bytes:
        """Return a metadata page that belongs to ``ino`` in this role.

        Raises `DamagedImageError` when its head or its owner word says something else.
        """
        extent, slot = pfn_to_extent(pfn), pfn_to_slot(pfn)
        what = f"pfn {pfn}, meant to be a {role.name} page of inode {ino},"
        if extent >= self.geometry.n_extents:
            raise DamagedImageError(f"{what} is beyond the device")
        if self.kind(extent) != Kind.METADATA:
            raise DamagedImageError(f"{what} is not in a metadata extent", pfn_to_offset(pfn))
        word = self.word(extent_to_pfn(extent), slot)
        if slot == 0 or owner_ino(word) != ino or owner_index(word) != role:
            raise DamagedImageError(f"{what} has owner word {word:#x}", pfn_to_offset(pfn))
        return self.page(pfn)
