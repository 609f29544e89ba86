"""Free extents in order of wear, so that what is written most goes round the device.

Wear is counted in overwrites of an extent, whole ones: of those that were overwritten equally often
the lowest is first, so that the extents of a file stay side by side where wear does not speak
against it. A byte for each extent says how much more it was overwritten than the base, so the
next one is found by a search for a byte, from where the last one was. When the byte is too small
for all of them the base moves up.

The wear is that of the heads: a lower bound, and what it says decides about wear only.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from pmemfs.image import Image
from pmemfs.layout.geometry import EXTENT_BYTES

LINE_SHIFT = 6
_OVERWRITE_SHIFT = EXTENT_BYTES.bit_length() - 1 - LINE_SHIFT
_LAST_RANK = 255
_RANKS = [bytes([rank]) for rank in range(_LAST_RANK + 1)]


class FreeExtents:
    """Extents that are free now and have been in use before."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._ranks = mmap.mmap(-1, image.geometry.n_extents)  # 0: not one of them
        self._column = np.frombuffer(self._ranks, np.uint8)
        self._base = 0
        self._rank = 1  # none is below
        self._start = 0  # of that rank none is before

    def load(self, extents: NDArray[np.int64]) -> None:
        """Begin with these, by number."""
        self._column[extents] = 1
        self._move_base()

    def add(self, extent: int) -> None:
        """Add an extent that has become free."""
        above = self.overwrites(extent) - self._base
        if above < 0:
            self._column[extent] = 1
            self._move_base(_LAST_RANK // 2)
            return
        rank = 1 + min(above, _LAST_RANK - 1)
        self._column[extent] = rank
        if rank < self._rank:
            self._rank, self._start = rank, extent
        elif rank == self._rank:
            self._start = min(self._start, extent)

    def discard(self, extent: int) -> None:
        """Take out one that is not free any more, or was not."""
        self._column[extent] = 0

    def least_worn(self) -> int | None:
        """Return the extent to take next, None without any."""
        while self._rank < _LAST_RANK or self._move_base():
            extent = self._ranks.find(_RANKS[self._rank], self._start)
            if extent >= 0:
                self._start = extent
                return extent
            self._rank, self._start = self._rank + 1, 0
        return None

    def overwrites(self, extent: int) -> int:
        """Return how often an extent has been overwritten, by its head."""
        return int(self._image.heads["wear"][extent]) >> _OVERWRITE_SHIFT

    def _move_base(self, room: int = 0) -> bool:
        """Rank from the least worn one on, and ``room`` below it; tell whether there is any."""
        extents = np.flatnonzero(self._column)
        if not len(extents):
            self._rank, self._start = 1, 0
            return False
        overwrites = self._image.heads["wear"][extents] >> np.uint64(_OVERWRITE_SHIFT)
        self._base = max(0, int(overwrites.min()) - room)
        above = np.minimum(overwrites - np.uint64(self._base), np.uint64(_LAST_RANK - 1))
        self._column[extents] = above.astype(np.uint8) + 1
        self._rank, self._start = 1, 0
        return True
