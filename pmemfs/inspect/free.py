"""The view ``free``: free space by size and 2 MiB alignment, like e2freefrag.

Two kinds of run: free extents side by side, which serve a 2 MiB mapping, and free pages side by
side in small extents, which do not. Cost: the part of the head table that exists, and the owner
page of each small extent that is not full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.inspect.heads import MAX_USED, counted_kinds, runs_of
from pmemfs.inspect.reader import Reader
from pmemfs.layout.geometry import EXTENT_BYTES, PAGE_BYTES, extent_to_pfn
from pmemfs.layout.records import Kind


class _Runs:
    """Runs of a unit, by the power of two below their length."""

    def __init__(self, unit_bytes: int) -> None:
        self.unit_bytes = unit_bytes
        self.runs = np.zeros(64, np.int64)
        self.units = np.zeros(64, np.int64)
        self.largest = 0

    def add(self, lengths: NDArray[np.int64]) -> None:
        if not len(lengths):
            return
        powers = np.frexp(lengths)[1] - 1
        self.runs += np.bincount(powers, minlength=64)
        np.add.at(self.units, powers, lengths)
        self.largest = max(self.largest, int(lengths.max()))

    def summary(self) -> dict[str, Any]:
        runs, units = int(self.runs.sum()), int(self.units.sum())
        return {
            "unit_bytes": self.unit_bytes,
            "runs": runs,
            "free": units,
            "free_bytes": units * self.unit_bytes,
            "largest": self.largest,
            "largest_bytes": self.largest * self.unit_bytes,
            "average_bytes": units * self.unit_bytes // runs if runs else 0,
            "histogram": [self._bucket(power) for power in np.flatnonzero(self.runs).tolist()],
        }

    def _bucket(self, power: int) -> dict[str, int]:
        units = int(self.units[power])
        return {
            "min": 1 << power,
            "max": (2 << power) - 1,
            "min_bytes": (1 << power) * self.unit_bytes,
            "below_bytes": (2 << power) * self.unit_bytes,
            "runs": int(self.runs[power]),
            "free": units,
            "free_bytes": units * self.unit_bytes,
        }


# (first, length) of runs of free extents; neighbours may belong to one run.
def _iter_free_parts(reader: Reader, partial: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    reached = 0
    for first, heads in reader.iter_heads():
        if first > reached:
            yield reached, first - reached
        kinds = counted_kinds(reader, first, heads)
        starts, lengths = runs_of((kinds == Kind.FREE) | (kinds == Kind.RETURNED))
        yield from zip((starts + first).tolist(), lengths.tolist())
        places = np.flatnonzero((kinds == Kind.SMALL) & (heads["used"] < MAX_USED))
        partial += zip((places + first).tolist(), heads["used"][places].tolist())
        reached = first + len(heads)
    if reached < reader.geometry.n_extents:
        yield reached, reader.geometry.n_extents - reached


def _free_extent_lengths(reader: Reader, partial: list[tuple[int, int]]) -> NDArray[np.int64]:
    lengths: list[int] = []
    end = -1
    for first, length in _iter_free_parts(reader, partial):
        if first == end:
            lengths[-1] += length
        else:
            lengths.append(length)
        end = first + length
    return np.array(lengths, np.int64)


def _add_pages(reader: Reader, runs: _Runs, extent: int, used: int) -> None:
    words = reader.words(extent_to_pfn(extent))
    _, lengths = runs_of(words[1:] == 0)
    runs.add(lengths)
    owned = MAX_USED - int(lengths.sum())
    if owned != used:
        reader.remark(f"extent {extent}: the head counts {used} pages, the owner page {owned}")


def free(reader: Reader) -> dict[str, Any]:
    """Return ``extent_runs`` and ``page_runs``: number, largest, average and histogram.

    ``free_bytes`` is the sum of both, ``aligned_bytes`` what lies in free extents. A bucket of
    a histogram holds the runs of ``min`` to ``max`` units.
    """
    partial: list[tuple[int, int]] = []
    extent_runs, page_runs = _Runs(EXTENT_BYTES), _Runs(PAGE_BYTES)
    extent_runs.add(_free_extent_lengths(reader, partial))
    for extent, used in partial:
        _add_pages(reader, page_runs, extent, used)
    extents, pages = extent_runs.summary(), page_runs.summary()
    free_bytes = extents["free_bytes"] + pages["free_bytes"]
    return {
        "device_bytes": reader.geometry.device_bytes,
        "free_bytes": free_bytes,
        "aligned_bytes": extents["free_bytes"],
        "partly_used_extents": len(partial),
        "extent_runs": extents,
        "page_runs": pages,
    }
