"""Count what a recording flushes and fences too little or too much.

Crash states show what is lost; they cannot show what is done twice, nor what a later fence
happens to make good. A store to a transient range needs no flush. What was pending before the
recording is not known, so the first fence, and a flush of lines not stored to in the recording,
count as needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pmemfs.device.recording import Event

_LINE_SHIFT = 6


class Lint(NamedTuple):
    """Counts of one recording.

    ``never_flushed`` and ``never_fenced`` are lines: stored to and not flushed, flushed and not
    fenced by its end. ``needless_flushes`` are calls that had no store to write back,
    ``needless_fences`` those with nothing flushed, and no discard, since the one before.
    """

    never_flushed: int
    never_fenced: int
    needless_flushes: int
    needless_fences: int


def lint(events: Iterable[Event], transient: Iterable[tuple[int, int]] = ()) -> Lint:
    """Return the counts of a recording; ``transient`` are ``(start, stop)`` byte ranges."""
    ranges = list(transient)
    stored: set[int] = set()
    dirty: set[int] = set()
    flushed: set[int] = set()
    needless_flushes = needless_fences = 0
    owed = True  # by what was before the recording
    for kind, offset, length, _ in events:
        lines = range(offset >> _LINE_SHIFT, ((offset + length - 1) >> _LINE_SHIFT) + 1)
        if kind == "store":
            if not any(low <= offset and offset + length <= high for low, high in ranges):
                dirty.update(lines)
                stored.update(lines)
                flushed.difference_update(lines)
        elif kind == "flush":
            written = dirty.intersection(lines)
            needless_flushes += not written and stored.issuperset(lines)
            dirty -= written
            flushed |= written
            owed |= not stored.issuperset(lines)
        elif kind == "discard":
            dirty.difference_update(lines)
            flushed.difference_update(lines)
            owed = True
        elif kind == "fence":
            needless_fences += not (flushed or owed)
            flushed.clear()
            owed = False
    return Lint(len(dirty), len(flushed), needless_flushes, needless_fences)
