"""The view ``activity``: one sample of what a live mount is doing, and the rates between two.

Counted is what the daemon shows in its activity page, once per second. Which extents are hot
stands in the descriptors: the pages of a split extent that were accessed within the last seconds
or are dirty, and the wear of each extent, to which a dirty page is added when it is flushed.

Cost: the part of the head table that exists, 32 KiB for each split extent that was accessed
within the last seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pmemfs.inspect.heads import TABLE_SHIFT, counted_kinds, kind_name, read_table, split_mask
from pmemfs.inspect.map import device_map
from pmemfs.inspect.reader import Reader
from pmemfs.inspect.wear import dirty_pages
from pmemfs.layout.geometry import ACTIVITY_OFFSET
from pmemfs.layout.records import ACTIVITY, PAGE_DESCRIPTOR, RequestKind

RECENT_S = 3
MOST_RECENT = 2000
_NS = 10**9
COUNTERS = (
    "splits",
    "unsplits",
    "stolen",
    "stores",
    "bytes_stored",
    "lines_flushed",
    "fences",
)
KINDS = tuple(kind.name.lower() for kind in RequestKind)

Sample = dict[str, Any]


def activity(reader: Reader, *, now_s: int) -> Sample:
    """Return counters, requests, extents by class, and the extents accessed since ``now_s`` - 3.

    ``stored_ns`` is null when no daemon lives, or none of this version: then nothing is counted.
    """
    record = ACTIVITY.unpack(reader.read(ACTIVITY_OFFSET, ACTIVITY.size_bytes))
    counts = reader.live and record["generation"] == reader.generation
    return {
        "stored_ns": record["stored_ns"] if counts else None,
        "committed": reader.control["committed"] & ((1 << 63) - 1),
        "counters": {name: record[name] if counts else 0 for name in COUNTERS},
        "requests": dict(zip(KINDS, record["requests"] if counts else [0] * len(KINDS))),
        "extents": device_map(reader, most_cells=1)["totals"],
        "recent": _recent(reader, now_s - RECENT_S) if reader.live else [],
    }


def _recent(reader: Reader, since_s: int) -> list[dict[str, Any]]:
    """Return the extents accessed since then, at most `MOST_RECENT`, with wear and pages."""
    found: list[dict[str, Any]] = []
    for first, heads in reader.iter_heads():
        current = heads["generation"] == reader.generation
        places = np.flatnonzero(current & (heads["access_s"] >= since_s))
        split = split_mask(reader, heads)
        kinds = counted_kinds(reader, first, heads)
        for place in places[: MOST_RECENT - len(found)].tolist():
            pages, dirty, lines = None, None, 0
            if split[place]:
                table = int(heads["table"][place]) >> TABLE_SHIFT
                pages, dirty, lines = _of_table(reader, first + place, table, since_s)
            found.append(
                {
                    "extent": first + place,
                    "kind": "split" if split[place] else kind_name(int(kinds[place])),
                    "owner": int(heads["owner"][place]) or None,
                    "pages": pages,
                    "dirty": dirty,
                    "lines": int(heads["wear"][place]) + lines,
                    "access_s": int(heads["access_s"][place]),
                }
            )
    return found


def _of_table(reader: Reader, extent: int, table_pfn: int, since_s: int) -> tuple[int, int, int]:
    """Return how many pages were accessed since then, how many are dirty, and the wear of all."""
    data = read_table(reader, extent, table_pfn)
    if data is None:
        return 0, 0, 0
    table = np.frombuffer(data, PAGE_DESCRIPTOR.dtype)
    accessed = (table["owner"] != 0) & (table["state"] >> np.uint64(8) >= since_s)
    lines = int(table["wear"].astype(np.float64).sum())
    return int(accessed.sum()), dirty_pages(table), lines


def rates(before: Sample, after: Sample, seconds: float, *, hottest: int = 10) -> Sample:
    """Return what happened between two samples, per second.

    The daemon stores its counters once per second, so these are taken over the time between two
    of its stores; if it has not stored meanwhile, nothing has happened.
    """
    counted_s = 0.0
    if before["stored_ns"] is not None and after["stored_ns"] is not None:
        counted_s = (after["stored_ns"] - before["stored_ns"]) / _NS
    return {
        "seconds": seconds,
        "counters": _per_second(before["counters"], after["counters"], counted_s),
        "requests": _per_second(before["requests"], after["requests"], counted_s),
        "transactions": max(0, after["committed"] - before["committed"]) / seconds,
        "hottest": _hottest(before["recent"], after["recent"], seconds)[:hottest],
    }


def _per_second(before: dict[str, int], after: dict[str, int], seconds: float) -> dict[str, float]:
    if seconds <= 0:
        return dict.fromkeys(after, 0.0)
    return {name: max(0, after[name] - before[name]) / seconds for name in after}


def _hottest(
    before: list[dict[str, Any]], after: list[dict[str, Any]], seconds: float
) -> list[dict[str, Any]]:
    """Return the extents of the later sample: those written most first, then those read most."""
    lines = {entry["extent"]: entry["lines"] for entry in before}
    found = [
        entry
        | {
            "lines_per_s": max(0, entry["lines"] - lines.get(entry["extent"], entry["lines"]))
            / seconds
        }
        for entry in after
    ]
    return sorted(
        found,
        key=lambda e: (e["lines_per_s"], e["dirty"] or 0, e["pages"] or 0, e["access_s"]),
        reverse=True,
    )
