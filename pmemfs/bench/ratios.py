"""Medians, ratios, and the goals they are held against.

A ratio says how many times faster the first file system is, whatever the unit: 2.0 is twice as
fast. It is taken of the medians over all rounds. A goal that the ratio misses, but that at least
one round reached, is *close*: the run cannot tell.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["IOPS", "MiB/s", "/s", "ms"]
Verdict = Literal["met", "close", "not met"]


class Kind(enum.Enum):
    """What a figure measures, as far as the goals tell figures apart."""

    DIRECT_4K = "4 KiB direct I/O"
    CACHED_WRITE_4K = "buffered 4 KiB writes"
    CACHED = "answered by the page cache"
    STAT = "stat"
    LARGE = "1 MiB I/O"
    METADATA = "metadata"
    OTHER = "other"


@dataclass(frozen=True)
class Measure:
    """One figure: its name, its unit, and its kind."""

    name: str
    unit: Unit
    kind: Kind

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the unit is faster."""
        return self.unit != "ms"

    def speed_ratio(self, ours: float, theirs: float) -> float:
        """Return how many times faster ``ours`` is than ``theirs``."""
        return ours / theirs if self.higher_is_better else theirs / ours


GOALS_OF = "native"

# What it is to reach against each peer, by kind; None asks for nothing. The default is last.
GOALS: dict[str, tuple[dict[Kind, float], float | None]] = {
    "fusepy": ({}, 1.0),
    "passthrough_ll": ({Kind.LARGE: 2.0}, 1.0),
    "passthrough_ll-s": ({Kind.LARGE: 2.0}, 1.0),
    "fuse2fs": (
        {
            Kind.DIRECT_4K: 1.5,
            Kind.LARGE: 2.0,
            Kind.METADATA: 2.0,
            Kind.CACHED_WRITE_4K: 10.0,
            Kind.STAT: 10.0,
            Kind.CACHED: 1.0,
        },
        None,
    ),
    "ext4-loop": (
        {
            Kind.DIRECT_4K: 1.0,
            Kind.CACHED: 0.9,
            Kind.CACHED_WRITE_4K: 0.9,
            Kind.STAT: 0.9,
        },
        0.5,
    ),
}


def goal(ours: str, peer: str, kind: Kind) -> float | None:
    """Return the ratio that ``ours`` is to reach against a peer, or None if no goal is set."""
    if ours != GOALS_OF:
        return None
    by_kind, default = GOALS.get(peer, ({}, None))
    return by_kind.get(kind, default)


@dataclass(frozen=True)
class Comparison:
    """Our figure against a peer's: the ratio of medians, and the range of the rounds' ratios."""

    ratio: float
    lowest: float
    highest: float
    goal: float | None

    @property
    def verdict(self) -> Verdict | None:
        """Whether the goal is met, or None without a goal."""
        if self.goal is None:
            return None
        if self.ratio >= self.goal:
            return "met"
        return "close" if self.highest >= self.goal else "not met"


def median(values: Sequence[float]) -> float:
    """Return the median; raises ``ValueError`` of no values."""
    if not values:
        raise ValueError("the median of nothing")
    return statistics.median(values)


Rounds = Mapping[int, float]


def compare(measure: Measure, ours: Rounds, theirs: Rounds, wanted: float | None) -> Comparison:
    """Compare figures by round; raises ``ValueError`` if no round has both."""
    both = sorted(ours.keys() & theirs.keys())
    ratio = measure.speed_ratio(
        median([ours[number] for number in both]), median([theirs[number] for number in both])
    )
    pairs = [measure.speed_ratio(ours[number], theirs[number]) for number in both]
    return Comparison(ratio, min(pairs), max(pairs), wanted)
