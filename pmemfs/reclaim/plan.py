"""The idle policy as a pure function: head columns and a situation in, steps or a wait out.

Most useful first: space that is waiting to be freed; page descriptors above the cap, then those
of extents that are idle; files that lie in the wrong kind of extent; extents that nothing uses
any more; thinly used small extents; and last the host space of free extents, which is kept for a
moment because taking a discarded extent again costs more.

*Second chance.* Above the cap the coldest table goes first, but one that was used again after its
first second (REFERENCED) is spared once: its flag is cleared, and those without one go before it.

*Compaction* is due when at least one small extent could be emptied into the holes of the others
(`thin_extents`), and either nobody has asked for anything for the idle time, or the device is half
full and more than `SHORT_SHARE` of the free space is not whole extents. It takes the thinnest
first, where a page of an extent that is in use counts as two. Moves have a budget: half a page for
each page written, so compaction at most makes half as many stores again as those who write. When it
has been asked for, neither limit holds: it goes on until the holes left are fewer than one extent.

Cost of coming back: a table given back too early is split again for 4 stores, 32 KiB of zeros
among them (`SplitTables.resplit_stores` counts), and then a store for each run of pages touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pmemfs.fs.moves import STEP_PAGES
from pmemfs.layout.geometry import PAGES_PER_EXTENT
from pmemfs.layout.records import PageFlag

DISCARD_AFTER_S = 1
DISCARD_BACKLOG = 64
SHORT_SHARE = 0.01
MOVES_PER_WRITE = 0.5
OWNABLE_PAGES = PAGES_PER_EXTENT - 1
LEAST_CAP = PAGES_PER_EXTENT
_BATCH = 64
_SPLIT = int(PageFlag.SPLIT)
_REFERENCED = int(PageFlag.REFERENCED)


class Action(Enum):
    """One kind of bounded step."""

    ORPHAN = "free a part of an inode on the orphan list"
    SPARE = "give a split table its second chance"
    UNSPLIT = "give the split table of an extent back"
    SETTLE = "move a thin tail or a dense piece to the kind of extent it should lie in"
    RELEASE = "release an extent that only an arena or an inode chunk keeps"
    COMPACT = "move pages out of a thinly used small extent"
    DISCARD = "discard the host space of returned extents"


class Step(NamedTuple):
    """What to do; ``extent`` for SPARE, UNSPLIT and COMPACT, else 0."""

    action: Action
    extent: int = 0


@dataclass(frozen=True)
class Columns:
    """What the heads say, each ``(n_extents,)``, up to the last extent that is not free.

    ``flags`` and ``access_s`` are those of the transient half, 0 where this mount has stored
    none. ``small_open`` is one more than the pages used of a small extent that has free pages and
    that no arena owns, else 0.
    """

    flags: NDArray[np.uint8]
    access_s: NDArray[np.uint64]
    small_open: NDArray[np.uint16]


@dataclass(frozen=True)
class Situation:
    """What the policy looks at beside the columns; times in s.

    ``quiet_since_s`` is when the last transaction of a request was committed; ``settle_at_s``
    when the next file that may lie in the wrong kind of extent should be looked at;
    ``budget_pages`` how many pages may be moved; ``compacting`` says that somebody asks for
    compaction; ``is_compact`` that nothing has changed since it found no room.
    """

    now_s: float
    quiet_since_s: float
    coldest_access_s: int | None = None
    split_extents: int = 0
    has_orphans: bool = False
    settle_at_s: float | None = None
    has_idle_extents: bool = False
    returned_extents: int = 0
    device_pages: int = 0
    free_pages: int = 0
    free_small_pages: int = 0
    budget_pages: float = 0.0
    compacting: bool = False
    is_compact: bool = False

    @property
    def quiet_s(self) -> float:
        """For how long no request has changed anything."""
        return self.now_s - self.quiet_since_s

    @property
    def is_short(self) -> bool:
        """Whether the device is half full, and too much of the free space is not whole extents."""
        holes = self.free_small_pages
        return 2 * self.free_pages <= self.device_pages and holes > max(
            SHORT_SHARE * self.free_pages, OWNABLE_PAGES
        )


@dataclass(frozen=True)
class Policy:
    """What people choose: the idle time in s, and the most page descriptors, None for any.

    These are at least `LEAST_CAP`, one split table: a split never fails.
    """

    idle_s: float = 30.0
    most_descriptors: int | None = None

    @property
    def most_tables(self) -> int | None:
        """The most split tables that together are no more page descriptors than may be."""
        if self.most_descriptors is None:
            return None
        return self.most_descriptors // PAGES_PER_EXTENT


def plan(situation: Situation, columns: Columns, policy: Policy) -> list[Step] | float:
    """Return the steps to do now, or how many seconds nothing will be due, at most the idle time.

    An access in the same second as the clock is younger than a second, so an extent is idle
    when its stamp is *more* than the idle time old.
    """
    s, idle_s = situation, policy.idle_s
    if s.has_orphans:
        return [Step(Action.ORPHAN)]
    waits = [max(idle_s, 1.0)]
    if policy.most_tables is not None and s.split_extents > policy.most_tables:
        return over_cap(columns, s.split_extents - policy.most_tables)
    if s.coldest_access_s is not None:
        if s.now_s - s.coldest_access_s > idle_s:
            return [
                Step(Action.UNSPLIT, extent) for extent in idle_tables(columns, s.now_s, idle_s)
            ]
        waits.append(s.coldest_access_s + idle_s - s.now_s + 0.01)
    is_quiet = s.quiet_s >= idle_s
    if s.settle_at_s is not None:
        if s.compacting or s.now_s > s.settle_at_s:
            return [Step(Action.SETTLE)]
        waits.append(s.settle_at_s - s.now_s + 0.01)
    if s.has_idle_extents:
        if is_quiet or s.compacting:
            return [Step(Action.RELEASE)]
        waits.append(idle_s - s.quiet_s)
    if not s.is_compact:
        if steps := _compaction(s, columns, idle_s):
            return steps
        if s.budget_pages >= STEP_PAGES and s.free_small_pages >= OWNABLE_PAGES:
            waits.append(idle_s - s.quiet_s if s.quiet_s < idle_s else idle_s)
    if s.returned_extents:
        if s.quiet_s >= DISCARD_AFTER_S or s.returned_extents > DISCARD_BACKLOG:
            return [Step(Action.DISCARD)]
        waits.append(DISCARD_AFTER_S - s.quiet_s)
    return max(0.01, float(min(waits)))


def _compaction(s: Situation, columns: Columns, idle_s: float) -> list[Step]:
    may_move = s.budget_pages >= STEP_PAGES and (s.is_short or s.quiet_s >= idle_s)
    if not s.compacting and not may_move:
        return []
    return [Step(Action.COMPACT, extent) for extent in thin_extents(columns, s.now_s, idle_s)]


def split_extents(columns: Columns) -> NDArray[np.int64]:
    """Return the numbers of the extents that are split, the least recently used first."""
    split = np.flatnonzero(columns.flags & _SPLIT)
    return split[np.argsort(columns.access_s[split], kind="stable")]


def idle_tables(columns: Columns, now_s: float, idle_s: float) -> list[int]:
    """Return split extents last accessed more than the idle time ago, the coldest first."""
    split = split_extents(columns)
    return split[now_s - columns.access_s[split] > idle_s][:_BATCH].tolist()


def over_cap(columns: Columns, surplus: int) -> list[Step]:
    """Return the steps that give ``surplus`` tables back: cold ones, referenced ones last.

    Referenced tables that are colder than one that goes are spared once.
    """
    split = split_extents(columns)
    referenced = (columns.flags[split] & _REFERENCED) != 0
    order = np.concatenate([np.flatnonzero(~referenced), np.flatnonzero(referenced)])
    goes = order[:surplus]
    spared = referenced.copy()
    spared[goes] = False
    spared[goes.max(initial=-1) + 1 :] = False
    steps = [Step(Action.SPARE, extent) for extent in split[spared].tolist()]
    return steps + [Step(Action.UNSPLIT, extent) for extent in split[goes].tolist()]


def thin_extents(columns: Columns, now_s: float, idle_s: float) -> list[int]:
    """Return small extents whose pages all fit into the holes of the others, the best first.

    As many as can be emptied: what is left then has fewer free pages than one extent. Cold ones go
    first among those that are equally thin, and a page of one that was accessed within the idle
    time counts as two.
    """
    is_open = np.flatnonzero(columns.small_open)
    used = columns.small_open[is_open].astype(np.int64) - 1
    surplus = len(is_open) - -(-int(used.sum()) // OWNABLE_PAGES)
    if surplus <= 0:
        return []
    is_hot = now_s - columns.access_s[is_open] <= idle_s
    order = np.argsort(np.where(is_hot, 2 * used, used), kind="stable")[:surplus]
    return is_open[order].tolist()
