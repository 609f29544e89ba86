"""The idle policy as a pure function: a situation in, the next action or a waiting time out.

Most useful first: space that is waiting to be freed, page descriptors of extents that are idle,
extents that nothing uses any more, and last the host space of free extents, which is kept for a
moment because taking a discarded extent again costs more. Demotion and compaction will stand
between unsplit and discard.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DISCARD_AFTER_S = 1
DISCARD_BACKLOG = 64


class Action(Enum):
    """One kind of bounded step."""

    ORPHAN = "free a part of an inode on the orphan list"
    UNSPLIT = "give the split table of an idle extent back"
    RELEASE = "release an extent that only an arena or an inode chunk keeps"
    DISCARD = "discard the host space of returned extents"


@dataclass(frozen=True)
class Situation:
    """What the policy looks at; times in s.

    ``coldest_access_s`` is the last access to the least recently used split extent, None without
    one; ``quiet_since_s`` when the last transaction of a request was committed.
    """

    now_s: float
    quiet_since_s: float
    coldest_access_s: int | None
    has_orphans: bool
    has_idle_extents: bool
    returned_extents: int


def plan(situation: Situation, idle_s: float) -> Action | float:
    """Return what to do now, or how many seconds nothing will be due, at most ``idle_s``.

    An access in the same second as the clock is younger than a second, so an extent is idle
    when its stamp is *more* than ``idle_s`` old.
    """
    s = situation
    if s.has_orphans:
        return Action.ORPHAN
    waits = [max(idle_s, 1.0)]
    if s.coldest_access_s is not None:
        if s.now_s - s.coldest_access_s > idle_s:
            return Action.UNSPLIT
        waits.append(s.coldest_access_s + idle_s - s.now_s + 0.01)
    quiet_s = s.now_s - s.quiet_since_s
    if s.has_idle_extents:
        if quiet_s >= idle_s:
            return Action.RELEASE
        waits.append(idle_s - quiet_s)
    if s.returned_extents:
        if quiet_s >= DISCARD_AFTER_S or s.returned_extents > DISCARD_BACKLOG:
            return Action.DISCARD
        waits.append(DISCARD_AFTER_S - quiet_s)
    return max(0.01, min(waits))
