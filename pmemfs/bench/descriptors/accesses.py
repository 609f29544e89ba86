"""The accesses that every scheme is driven by: made up from a seed, or recorded on a mount.

Both are arrays of `TRACE_RECORD`. Made up: a working set of small files and of large ones, with
a Zipf distribution of how often each page is accessed, that moves on every 40 seconds, so that
extents fall idle behind it. Half of the accesses go to small extents, three in ten write.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.layout.geometry import EXTENT_BYTES, PAGES_PER_EXTENT
from pmemfs.pages.trace import PAGE_SHIFT, TRACE_RECORD, AccessFlag, Trace, read_trace

SPARE_EXTENTS = 8
WORKING_SETS_S = 40
_ZIPF = 1.1
_WRITES = 0.3
_FIRST_S = 10


@dataclass(frozen=True)
class Accesses:
    """Records in order, and the device they are for.

    ``small`` and ``whole`` are the extents that hold files before the first record, ``(n,)
    int64``; of a recorded trace they are empty: what an extent is, each record says.
    """

    origin: str
    size_bytes: int
    records: Trace
    small: NDArray[np.int64]
    whole: NDArray[np.int64]

    @property
    def pages(self) -> int:
        """How many pages all accesses touch together."""
        return int(self.records["count"].sum())


def usable_extents(size_bytes: int) -> int:
    """Return how many extents files use on a device in full use.

    A few are left for what a file system keeps for itself, and one for the split tables of 64.
    """
    return max(2, (size_bytes // EXTENT_BYTES - SPARE_EXTENTS) * 64 // 65)


def extents_in_use(size_bytes: int, split_share: float) -> tuple[NDArray[np.int64], ...]:
    """Return which of the `usable_extents` are small and which whole."""
    usable = usable_extents(size_bytes)
    order = np.random.default_rng(usable).permutation(usable).astype(np.int64)
    n_small = round(usable * split_share)
    return np.sort(order[:n_small]), np.sort(order[n_small:])


def synthetic(
    size_bytes: int, split_share: float, seconds: int, per_second: int, seed: int
) -> Accesses:
    """Make accesses up; the same arguments give the same ones."""
    rng = np.random.default_rng(seed)
    small, whole = extents_in_use(size_bytes, split_share)
    parts = [
        _one_working_set(rng, small, whole, start, min(WORKING_SETS_S, seconds - start), per_second)
        for start in range(0, seconds, WORKING_SETS_S)
    ]
    return Accesses("synthetic", size_bytes, np.concatenate(parts), small, whole)


def _one_working_set(
    rng: np.random.Generator,
    small: NDArray[np.int64],
    whole: NDArray[np.int64],
    start_s: int,
    seconds: int,
    per_second: int,
) -> Trace:
    n = seconds * per_second
    records = np.zeros(n, TRACE_RECORD.dtype)
    records["second"] = _FIRST_S + start_s + np.repeat(np.arange(seconds), per_second)
    to_small = (rng.random(n) < 0.5) & bool(len(small)) | (not len(whole))
    writes = rng.random(n) < _WRITES
    synced = rng.random(n) < 0.5
    page = np.empty(n, np.int64)
    count = np.empty(n, np.int64)
    for mask, extents, most in ((to_small, small, 8), (~to_small, whole, 32)):
        k = int(mask.sum())
        if k:
            page[mask] = _zipf_pages(rng, _quarter(rng, extents), k)
            count[mask] = 1 + rng.integers(0, most, k)
    count = np.minimum(count, PAGES_PER_EXTENT - page % PAGES_PER_EXTENT)
    flags = np.where(writes, int(AccessFlag.WRITE), 0)
    flags |= np.where(to_small, 0, int(AccessFlag.WHOLE))
    flags |= np.where(writes & to_small & ~synced, int(AccessFlag.DIRTY), 0)
    lines = np.where(to_small, np.where(synced, 64, 0), 64 * count)
    records["page"] = page << PAGE_SHIFT | flags
    records["count"] = count
    records["lines"] = np.where(writes, lines, 0)
    return records


def _quarter(rng: np.random.Generator, extents: NDArray[np.int64]) -> NDArray[np.int64]:
    return rng.permutation(extents)[: max(1, len(extents) // 4)]


def _zipf_pages(
    rng: np.random.Generator, extents: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return pages of these extents; page 0 of an extent is never one, the owner page is there."""
    n = len(extents) * (PAGES_PER_EXTENT - 1)
    weights = np.cumsum(1.0 / np.arange(1, n + 1) ** _ZIPF)
    rank = np.searchsorted(weights, rng.random(count) * weights[-1])
    which, slot = np.divmod(rng.permutation(n)[np.minimum(rank, n - 1)], PAGES_PER_EXTENT - 1)
    return extents[which] * PAGES_PER_EXTENT + 1 + slot


def recorded(path: Path) -> Accesses:
    """Read a recorded trace; raises `PmemfsError` for what is none."""
    header, records = read_trace(path)
    none = np.empty(0, np.int64)
    return Accesses(str(path), header["n_extents"] * EXTENT_BYTES, records, none, none)


def summary(n_extents: int, dropped: int, records: Trace) -> dict[str, Any]:
    """Return what a trace has in it, as a JSON-ready dict."""
    page = records["page"]
    flags = (page & np.uint64(0xFF)).astype(np.int64)
    pfn = (page >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    freed = flags & int(AccessFlag.FREED) != 0
    whole = flags & int(AccessFlag.WHOLE) != 0
    writes = flags & int(AccessFlag.WRITE) != 0
    count = records["count"].astype(np.int64)
    seconds = records["second"]
    return {
        "device_bytes": n_extents * EXTENT_BYTES,
        "records": len(records),
        "dropped": dropped,
        "first_second": int(seconds[0]) if len(records) else None,
        "seconds": int(seconds[-1] - seconds[0]) + 1 if len(records) else 0,
        "reads": _share_of(~freed & ~writes, count),
        "writes": _share_of(~freed & writes, count),
        "frees": _share_of(freed, count),
        "small": _share_of(~freed & ~whole, count)
        | {"extents": len(np.unique(pfn[~freed & ~whole] >> 9))},
        "whole": _share_of(~freed & whole, count)
        | {"extents": len(np.unique(pfn[~freed & whole] >> 9))},
        "hottest": _hottest(pfn[~freed] >> 9, count[~freed]),
    }


def _share_of(mask: NDArray[np.bool_], count: NDArray[np.int64]) -> dict[str, int]:
    return {"records": int(mask.sum()), "pages": int(count[mask].sum())}


def _hottest(extents: NDArray[np.int64], count: NDArray[np.int64]) -> list[dict[str, int]]:
    found, place, records = np.unique(extents, return_inverse=True, return_counts=True)
    pages = np.zeros(len(found), np.int64)
    np.add.at(pages, place, count)
    order = np.argsort(records, kind="stable")[::-1][:10]
    return [
        {"extent": int(found[i]), "records": int(records[i]), "pages": int(pages[i])}
        for i in order.tolist()
    ]
