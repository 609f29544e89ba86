"""From which share of split extents a rival takes less than `inverted`: by arithmetic, exactly.

The shares that are measured lie far apart, and in between `inverted` grows by a whole extent for
each 64 tables. A line drawn from one to the next would say where they lie, not where the schemes
cross. So `Scheme.swept_bytes` is asked for every number of split extents; tests hold what it says
against what is measured.

On a small device the steps make the two change places several times. On `LARGE_BYTES` they are too
small to be seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pmemfs.bench.descriptors.accesses import usable_extents
from pmemfs.bench.descriptors.inverted import Inverted
from pmemfs.bench.descriptors.scheme import Scheme
from pmemfs.units import TIB, format_size

LARGE_BYTES = TIB
_NEVER = "at no share of split extents"


class Crossing(NamedTuple):
    """Shares, 0 to 1, of the extents that files use.

    Up to ``wins_to`` inverted never takes more, None if it does with none split; from
    ``loses_from`` on it always does, None if not even with all split.
    """

    wins_to: float | None
    loses_from: float | None


def crossing(rival: type[Scheme], size_bytes: int, run_pages: float) -> Crossing:
    """Return where inverted and a rival change places on a device in full use."""
    n = usable_extents(size_bytes)
    small = np.arange(n + 1)
    ours, theirs = (
        scheme.swept_bytes(size_bytes, small, n - small, run_pages) for scheme in (Inverted, rival)
    )
    more, less = np.flatnonzero(ours > theirs), np.flatnonzero(ours <= theirs)
    last_win = int(more[0]) - 1 if len(more) else n
    first_loss = int(less[-1]) + 1 if len(less) else 0
    return Crossing(
        last_win / n if last_win >= 0 else None,
        first_loss / n if first_loss <= n else None,
    )


def crossing_note(rival: type[Scheme], size_bytes: int, run_pages: float) -> str:
    """Return who takes more: on a large device, and on one of ``size_bytes`` if that differs."""
    large, small = (_words(rival, size, run_pages) for size in (LARGE_BYTES, size_bytes))
    if large == small == _NEVER:
        return f"inverted takes no more than {rival.name} at any share of split extents"
    begin = f"inverted takes more than {rival.name} {large}"
    if large == small:
        return begin
    return f"{begin} on {format_size(LARGE_BYTES)}, {small} on {format_size(size_bytes)}"


def _words(rival: type[Scheme], size_bytes: int, run_pages: float) -> str:
    wins_to, loses_from = crossing(rival, size_bytes, run_pages)
    if wins_to == 1.0:
        return _NEVER
    if loses_from == 0.0:
        return "at any share of split extents"
    low, high = f"{wins_to or 0:.1%}", f"{1.0 if loses_from is None else loses_from:.1%}"
    is_one = loses_from == _next(wins_to, size_bytes) or low == high
    return (
        f"above {low} split"
        if is_one
        else f"above {low} to {high} split, by steps of an extent of tables,"
    )


def _next(share: float | None, size_bytes: int) -> float:
    n = usable_extents(size_bytes)
    return (0 if share is None else round(share * n) + 1) / n
