"""Measure the schemes one after the other, all by the same accesses.

Counts (stores, bytes, lines) are exact and the same on every machine. Times are CPU times of this
process, page faults included, so that a busy host matters little; they depend on the host and on
Python, so compare them with each other only. What would store more than the budget allows
is not done: its bytes follow from arithmetic, its time from the largest size that was measured,
and it is marked ``extrapolated``.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.bench.descriptors.accesses import Accesses, extents_in_use
from pmemfs.bench.descriptors.compound import Memdesc, MemdescRuns, VmemmapDedup
from pmemfs.bench.descriptors.device import (
    LINE_BYTES,
    LineRanges,
    host_room_bytes,
    scratch_file,
)
from pmemfs.bench.descriptors.inverted import IDLE_S, Inverted
from pmemfs.bench.descriptors.linear import Flat, Hierarchical, Scattered
from pmemfs.bench.descriptors.scheme import FREED, RUN_PAGES, WHOLE, Scheme
from pmemfs.errors import PmemfsError
from pmemfs.fs.format import host_limit
from pmemfs.layout.geometry import PAGES_PER_EXTENT
from pmemfs.pages.trace import PAGE_SHIFT
from pmemfs.units import GIB, TIB, format_size

SCHEMES: dict[str, type[Scheme]] = {
    scheme.name: scheme
    for scheme in (Flat, Scattered, Hierarchical, Inverted, VmemmapDedup, Memdesc, MemdescRuns)
}
INITIAL_SIZES = (16 * GIB, 128 * GIB, 1 * TIB)
LARGEST_BYTES = 16 * TIB
SHARES = (0.0, 0.1, 0.15, 0.25, 0.5, 0.75, 0.9, 1.0)
_START_S = 1
_CURVE_POINTS = 60
_TRIES = 3
_SHORT_S = 0.25

Document = dict[str, Any]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    ``most_bytes`` may be stored for the descriptors of one device; ``run_pages`` is `RUN_PAGES`.
    """

    accesses: Accesses
    directory: Path
    schemes: tuple[str, ...] = tuple(SCHEMES)
    initial_sizes: tuple[int, ...] = INITIAL_SIZES
    with_largest: bool = True
    most_bytes: int = 2 * GIB
    budget_s: float = 60.0
    sweep_bytes: int = 2 * GIB
    shares: tuple[float, ...] = SHARES
    lookups: int = 100_000
    batch: int = 2_000_000
    seed: int = 1
    run_pages: float = RUN_PAGES


def measure(plan: Plan, report: Report = lambda text: None) -> Document:
    """Return an object with a key for each scheme; ``report`` hears what is being done.

    Raises `PmemfsError` before anything is stored if a scheme would store more than it may.
    """
    for name in plan.schemes:
        _validate_room(SCHEMES[name], plan)
    sizes = list(plan.initial_sizes)
    if plan.with_largest:
        sizes.append(largest_device(plan.directory))
    sizes = sorted({plan.accesses.size_bytes, *sizes})
    return {name: _measure_one(SCHEMES[name], plan, sizes, report) for name in plan.schemes}


def _measure_one(cls: type[Scheme], plan: Plan, sizes: list[int], report: Report) -> Document:
    report(f"{cls.name}: initialise")
    document: Document = {
        "what": cls.what,
        "source": cls.source,
        "device_bytes": plan.accesses.size_bytes,
        "accesses_from": plan.accesses.origin,
        "run_pages": plan.run_pages,
        "initialise": _initialise_all(cls, plan, sizes),
    }
    report(f"{cls.name}: lookups, accesses, wear on {format_size(plan.accesses.size_bytes)}")
    document |= _use(cls, plan)
    report(f"{cls.name}: share of split extents from 0 to 100 %")
    document["sweep"] = [_sweep_point(cls, plan, share) for share in plan.shares]
    return document


def _validate_room(cls: type[Scheme], plan: Plan) -> None:
    """Refuse a device on which a scheme would store more than the plan and the host allow."""
    accesses = plan.accesses
    need = cls.initial_bytes(accesses.size_bytes)
    for extents, grows_by in zip(_extents_used(accesses), cls.grows_by):
        need += len(extents) * grows_by
    most = _most_bytes(plan)
    if need > most:
        raise PmemfsError(
            errno.ENOSPC,
            f"{cls.name} stores {format_size(need)} for a device of "
            f"{format_size(accesses.size_bytes)}, and {format_size(most)} may be: the least of "
            f"--most and half of what is free in {plan.directory}; give a smaller --size, "
            f"a larger --most, or --only schemes that store less",
        )


def _most_bytes(plan: Plan) -> int:
    return min(plan.most_bytes, host_room_bytes(plan.directory) // 2)


@contextmanager
def _opened(cls: type[Scheme], plan: Plan, size_bytes: int) -> Iterator[Scheme]:
    with scratch_file(plan.directory) as path:
        scheme = cls(path, size_bytes)
        scheme.run_pages = plan.run_pages
        try:
            yield scheme
        finally:
            scheme.close()


def largest_device(directory: Path) -> int:
    """Return the largest file, up to 16 TiB, that the host allows and maps."""
    with scratch_file(directory) as path:
        fd = os.open(path, os.O_RDWR)
        try:
            return host_limit(fd, LARGEST_BYTES + (2 << 20))
        finally:
            os.close(fd)


# -- initialise ------------------------------------------------------------------------------


def _initialise_all(cls: type[Scheme], plan: Plan, sizes: list[int]) -> list[Document]:
    done: list[Document] = []
    spent_s = 0.0
    for size_bytes in sizes:
        known = done[-1] if done else None
        expected_s = known["seconds"] * size_bytes / known["device_bytes"] if known else 0.0
        fits = cls.initial_bytes(size_bytes) <= _most_bytes(plan)
        if fits and (not known or spent_s + 2 * expected_s <= plan.budget_s):
            start = time.process_time()
            done.append(_initialise(cls, plan, size_bytes))
            spent_s += time.process_time() - start
        elif known:
            measured = max((row for row in done if not row["extrapolated"]), key=_size)
            done.append(_extrapolate(cls, measured, size_bytes))
        else:
            raise PmemfsError(errno.ENOSPC, f"no room to initialise {format_size(size_bytes)}")
    return done


def _size(row: Document) -> int:
    return int(row["device_bytes"])


def _initialise(cls: type[Scheme], plan: Plan, size_bytes: int) -> Document:
    """Count the stores in one run, which warms up, and time others: the least of 3 short ones."""
    ranges = LineRanges()
    with _opened(cls, plan, size_bytes) as scheme:
        scheme.ranges = ranges
        seconds = _timed_initialise(scheme)
        counters = scheme.device.counters
        document = {
            "device_bytes": size_bytes,
            "stores": counters.stores,
            "bytes_stored": counters.bytes_stored,
            "lines_stored": ranges.stored,
            "lines_touched": ranges.touched,
            "host_bytes": scheme.device.host_bytes,
            "extrapolated": False,
        }
    times = []
    for _ in range(_TRIES if seconds < _SHORT_S else 1):
        with _opened(cls, plan, size_bytes) as scheme:
            times.append(_timed_initialise(scheme))
    return document | {"seconds": min(times)}


def _timed_initialise(scheme: Scheme) -> float:
    start = time.process_time()
    scheme.initialise()
    return time.process_time() - start


def _extrapolate(cls: type[Scheme], measured: Document, size_bytes: int) -> Document:
    stored = cls.initial_bytes(size_bytes)
    ratio = stored / cls.initial_bytes(measured["device_bytes"])
    lines = -(-stored // LINE_BYTES)
    return {
        "device_bytes": size_bytes,
        "seconds": measured["seconds"] * ratio,
        "stores": round(measured["stores"] * ratio),
        "bytes_stored": stored,
        "lines_stored": lines,
        "lines_touched": lines,
        "host_bytes": None,
        "extrapolated": True,
    }


# -- use -------------------------------------------------------------------------------------


def _use(cls: type[Scheme], plan: Plan) -> Document:
    accesses = plan.accesses
    with _opened(cls, plan, accesses.size_bytes) as scheme:
        scheme.initialise()
        document: Document = {"bytes": {"fresh": _space(scheme)}}
        scheme.prepare(accesses.small, accesses.whole)
        scheme.pass_time(_START_S)
        touch_all(scheme, accesses.small, accesses.whole)
        peak = _space(scheme)
        prepared = len(accesses.small) + len(accesses.whole) > 0
        document["lookups"] = _lookups(scheme, plan) if prepared else {}
        scheme.device.start_tally()
        before = scheme.device.counters.copy()
        seconds, most = replay(scheme, accesses)
        counted = scheme.device.counters.since(before)
        document["bytes"]["peak"] = max(peak, most, key=_rank)
        if not prepared:
            document["lookups"] = _lookups(scheme, plan)
        document["accesses"] = {
            "records": len(accesses.records),
            "pages": accesses.pages,
            "seconds": seconds,
            "records_per_s": len(accesses.records) / seconds if seconds else 0.0,
            "stores": counted.stores,
            "bytes_stored": counted.bytes_stored,
        }
        document["wear"] = _wear(scheme)
        scheme.pass_time(scheme.now_s + 3 * int(IDLE_S))
        document["bytes"]["rest"] = _space(scheme)
        return document


def touch_all(scheme: Scheme, small: NDArray[np.int64], whole: NDArray[np.int64]) -> None:
    """Read once every page of small extents, but the owner page, and a page of each whole one."""
    for extent in small.tolist():
        scheme.touch(extent * PAGES_PER_EXTENT + 1, PAGES_PER_EXTENT - 1, 0, 0)
    for extent in whole.tolist():
        scheme.touch(extent * PAGES_PER_EXTENT, 1, WHOLE, 0)


def replay(scheme: Scheme, accesses: Accesses) -> tuple[float, Document]:
    """Drive a scheme by accesses; return the seconds it took, and its largest `_space`."""
    pages = accesses.records["page"].tolist()
    rest = (accesses.records[name].tolist() for name in ("second", "count", "lines"))
    now, seconds = 0, 0.0
    most = _space(scheme)
    start = time.process_time()
    for page, second, count, lines in zip(pages, *rest):
        if second != now:
            seconds += time.process_time() - start
            if (sum(scheme.parts().values()), scheme.in_use_bytes()) > _rank(most):
                most = _space(scheme)
            now = second
            start = time.process_time()
            scheme.pass_time(now)
        scheme.touch(page >> PAGE_SHIFT, count, page & 0xFF, lines)
    seconds += time.process_time() - start
    last = _space(scheme)
    return seconds, max(most, last, key=_rank)


def _rank(space: Document) -> tuple[int, int]:
    return space["total_bytes"], space["in_use_bytes"]


def _space(scheme: Scheme) -> Document:
    parts = scheme.parts()
    total = sum(parts.values())
    return {
        "total_bytes": total,
        "share_of_device": total / scheme.size_bytes,
        "parts": parts,
        "in_use_bytes": scheme.in_use_bytes(),
        "host_bytes": scheme.device.host_bytes,
    }


# -- lookups ---------------------------------------------------------------------------------


def _lookups(scheme: Scheme, plan: Plan) -> Document:
    """Measure whole and split on as many extents, so that caches favour neither."""
    small, whole = _extents_used(plan.accesses)
    n = min(len(small), len(whole)) or max(len(small), len(whole))
    rng = np.random.default_rng(plan.seed)
    found = {}
    for kind, extents, reads in (
        ("whole", whole, scheme.reads_whole),
        ("split", small, scheme.reads_split),
    ):
        if len(extents):
            chosen = rng.permutation(extents)[:n]
            found[kind] = {"reads": reads, "extents": n} | _lookup_rates(scheme, chosen, plan)
    return found


def _extents_used(accesses: Accesses) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the extents that are used by 4 KiB, and those used whole."""
    if len(accesses.small) + len(accesses.whole):
        return accesses.small, accesses.whole
    pages = accesses.records["page"]
    flags = pages & np.uint64(0xFF)
    extents = (pages >> np.uint64(PAGE_SHIFT + 9)).astype(np.int64)
    used = flags & np.uint64(FREED) == 0
    is_whole = flags & np.uint64(WHOLE) != 0
    return np.unique(extents[used & ~is_whole]), np.unique(extents[used & is_whole])


def _lookup_rates(scheme: Scheme, extents: NDArray[np.int64], plan: Plan) -> Document:
    rng = np.random.default_rng(plan.seed)
    slots = rng.integers(1, PAGES_PER_EXTENT, plan.batch)
    pfns = scheme.translate(rng.choice(extents, plan.batch) * PAGES_PER_EXTENT + slots)
    one_by_one = pfns[: plan.lookups].tolist()
    single_s = min(_timed_singles(scheme, one_by_one) for _ in range(_TRIES))
    column = np.frombuffer(scheme.device.view, "<u8")
    batch_s = min(_timed_batch(scheme, column, pfns) for _ in range(_TRIES))
    return {
        "one_by_one_per_s": len(one_by_one) / single_s,
        "batch_per_s": len(pfns) / batch_s,
    }


def _timed_singles(scheme: Scheme, pfns: list[int]) -> float:
    words, find = scheme.device.words, scheme.find
    start = time.process_time()
    for pfn in pfns:
        words[find(pfn) >> 3]
    return time.process_time() - start


def _timed_batch(scheme: Scheme, column: NDArray[np.uint64], pfns: NDArray[np.int64]) -> float:
    start = time.process_time()
    column[scheme.find_many(pfns) >> 3].sum()
    return time.process_time() - start


# -- wear ------------------------------------------------------------------------------------


def _wear(scheme: Scheme) -> Document:
    """Return how the stores since `start_tally` are spread over the lines they went to."""
    lines, counts = scheme.device.tally()
    if not len(lines):
        return {"lines_stored": 0, "lines": 0, "hottest": 0, "hottest_in": None}
    order = np.argsort(counts, kind="stable")[::-1]
    ranked = counts[order]
    hottest_1_percent = ranked[: -(-len(ranked) // 100)]
    return {
        "lines_stored": int(counts.sum()),
        "lines": len(lines),
        "hottest": int(ranked[0]),
        "hottest_in": scheme.place_of(int(lines[order[0]])),
        "hottest_1_percent_share": float(hottest_1_percent.sum() / counts.sum()),
        "by_part": _wear_by_part(scheme, lines, counts),
        "curve": _curve(ranked),
    }


def _wear_by_part(
    scheme: Scheme, lines: NDArray[np.int64], counts: NDArray[np.int64]
) -> dict[str, Document]:
    parts: dict[str, Document] = {}
    for line, count in zip(lines.tolist(), counts.tolist()):
        part = parts.setdefault(
            scheme.place_of(line), {"lines_stored": 0, "lines": 0, "hottest": 0}
        )
        part["lines_stored"] += count
        part["lines"] += 1
        part["hottest"] = max(part["hottest"], count)
    return parts


def _curve(ranked: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return ``(rank, stores)`` of the lines, the hottest first, at ranks that grow evenly."""
    ranks = np.unique(np.geomspace(1, len(ranked), _CURVE_POINTS).astype(np.int64))
    return [(int(rank), int(ranked[rank - 1])) for rank in ranks]


# -- the share of split extents --------------------------------------------------------------


def _sweep_point(cls: type[Scheme], plan: Plan, share: float) -> Document:
    small, whole = extents_in_use(plan.sweep_bytes, share)
    with _opened(cls, plan, plan.sweep_bytes) as scheme:
        scheme.initialise()
        scheme.prepare(small, whole)
        scheme.pass_time(_START_S)
        before = scheme.device.counters.copy()
        touch_all(scheme, small, whole)
        counted = scheme.device.counters.since(before)
        return {
            "split_share": share,
            "device_bytes": plan.sweep_bytes,
            "bytes_stored": counted.bytes_stored,
            **_space(scheme),
        }
