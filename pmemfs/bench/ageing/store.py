"""What is measured of a store, whoever it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pmemfs.layout.geometry import PAGES_PER_EXTENT

SAMPLES = 10


@dataclass
class Sample:
    """One look at a store. Shares are from 0 to 1.

    ``free_whole`` of the free space lies in free 2 MiB extents; ``file_whole`` of the pages of
    files in whole extents of one file. ``columns`` are what only some stores have.
    """

    overwrites: float
    full: float
    files: int
    free_whole: float
    file_whole: float | None
    pages_per_run: float | None
    columns: dict[str, float] = field(default_factory=dict)


def samples_due(written: float, total: float, taken: int) -> int:
    """Return how many samples are due after so many bytes, some of `SAMPLES` having been taken.

    More than one, if a file is so large that it has passed several tenths at once.
    """
    return min(SAMPLES, int(written * SAMPLES / total)) - taken


def measure_owners(owners: NDArray[np.uint32]) -> tuple[float, float, float]:
    """Return ``(free_whole, file_whole, pages_per_run)`` of ``(n_pages,)`` owners, 0 for free.

    A run is pages side by side of one file, so an upper bound for how long it is in the file.
    """
    rows = owners[: len(owners) // PAGES_PER_EXTENT * PAGES_PER_EXTENT].reshape(
        -1, PAGES_PER_EXTENT
    )
    first = rows[:, :1]
    is_one = (rows == first).all(axis=1)
    free = int(np.count_nonzero(rows == 0))
    used = rows.size - free
    whole = int(np.count_nonzero(is_one & (first[:, 0] != 0))) * PAGES_PER_EXTENT
    free_whole = int(np.count_nonzero(is_one & (first[:, 0] == 0))) * PAGES_PER_EXTENT
    flat = owners[owners != 0]
    starts = np.flatnonzero(np.diff(owners.astype(np.int64)))
    runs = int(np.count_nonzero(owners[starts + 1])) + int(bool(owners[0]))
    return (
        free_whole / free if free else 1.0,
        whole / used if used else 0.0,
        len(flat) / runs if runs else 0.0,
    )
