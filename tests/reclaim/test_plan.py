"""The idle policy as a pure function: columns and a situation in, steps or a wait out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pmemfs.layout.records import PageFlag
from pmemfs.reclaim.plan import (
    LEAST_CAP,
    OWNABLE_PAGES,
    Action,
    Columns,
    Policy,
    Situation,
    Step,
    over_cap,
    plan,
    thin_extents,
)

NOW = 1_000_000
SPLIT, REFERENCED = int(PageFlag.SPLIT), int(PageFlag.REFERENCED)


def columns(
    *, split: dict[int, int] | None = None, referenced: tuple[int, ...] = (), **small: Any
) -> Columns:
    """``split``: extent to seconds since its last access. ``used``: extent to pages used."""
    flags, access_s, small_open = (
        np.zeros(20, np.uint8),
        np.zeros(20, np.uint64),
        np.zeros(20, np.uint16),
    )
    for extent, age_s in (split or {}).items():
        flags[extent] = SPLIT
        access_s[extent] = NOW - age_s
    for extent in referenced:
        flags[extent] |= REFERENCED
    for extent, used in small.get("used", {}).items():
        small_open[extent] = used + 1
    return Columns(flags, access_s, small_open)


def situation(**what: Any) -> Situation:
    what.setdefault("quiet_since_s", NOW - 1000)
    return Situation(now_s=NOW, **what)


def split_situation(c: Columns, **what: Any) -> Situation:
    split = np.flatnonzero(c.flags & SPLIT)
    return situation(
        coldest_access_s=int(c.access_s[split].min()), split_extents=len(split), **what
    )


def test_nothing_to_do_waits_for_the_idle_time() -> None:
    assert plan(situation(), columns(), Policy(30)) == 30


def test_orphans_come_first() -> None:
    c = columns(split={3: 99})
    assert plan(split_situation(c, has_orphans=True), c, Policy(30)) == [Step(Action.ORPHAN)]


def test_idle_tables_go_coldest_first() -> None:
    c = columns(split={3: 40, 4: 90, 5: 30, 6: 31})
    assert plan(split_situation(c), c, Policy(30)) == [
        Step(Action.UNSPLIT, 4),
        Step(Action.UNSPLIT, 3),
        Step(Action.UNSPLIT, 6),
    ]


def test_the_wait_ends_when_the_coldest_table_becomes_idle() -> None:
    c = columns(split={3: 10, 4: 25})
    assert plan(split_situation(c), c, Policy(30)) == pytest.approx(5.01)


@pytest.mark.parametrize(
    ("most", "tables"), [(None, None), (LEAST_CAP, 1), (512, 1), (1023, 1), (1024, 2)]
)
def test_the_cap_is_in_descriptors_and_never_exceeded_by_a_table(
    most: int | None, tables: int
) -> None:
    assert Policy(30, most).most_tables == tables


def test_above_the_cap_the_coldest_go_idle_or_not() -> None:
    c = columns(split={3: 2, 4: 9, 5: 1, 6: 5})
    assert plan(split_situation(c), c, Policy(30, 2 * 512)) == [
        Step(Action.UNSPLIT, 4),
        Step(Action.UNSPLIT, 6),
    ]
    assert isinstance(plan(split_situation(c), c, Policy(30, 4 * 512)), float)


def test_referenced_tables_get_a_second_chance() -> None:
    c = columns(split={3: 9, 4: 7, 5: 5, 6: 1}, referenced=(3, 5))
    assert over_cap(c, 1) == [Step(Action.SPARE, 3), Step(Action.UNSPLIT, 4)]
    assert over_cap(c, 2) == [
        Step(Action.SPARE, 3),
        Step(Action.SPARE, 5),
        Step(Action.UNSPLIT, 4),
        Step(Action.UNSPLIT, 6),
    ]


def test_when_all_are_referenced_the_coldest_go() -> None:
    c = columns(split={3: 9, 4: 7, 5: 5}, referenced=(3, 4, 5))
    assert over_cap(c, 2) == [Step(Action.UNSPLIT, 3), Step(Action.UNSPLIT, 4)]


# -- compaction -----------------------------------------------------------------------------------


def test_only_what_fits_into_the_holes_of_others_is_moved() -> None:
    assert thin_extents(columns(used={3: 500, 4: 12}), NOW, 30) == []
    assert thin_extents(columns(used={3: 500, 4: 11}), NOW, 30) == [4]


def test_the_thinnest_go_first_and_no_more_than_have_to() -> None:
    c = columns(used={3: 300, 4: 10, 5: 400, 6: 100, 7: 200})
    assert thin_extents(c, NOW, 30) == [4, 6, 7]


def test_cold_ones_go_before_those_in_use() -> None:
    c = columns(used={3: 100, 4: 120, 5: 200}, split={3: 5})
    assert thin_extents(c, NOW, 30) == [4, 3]
    c = columns(used={3: 100, 4: 250, 5: 100}, split={3: 5})
    assert thin_extents(c, NOW, 30) == [5, 3], "but not at any price"


def test_full_ones_are_emptied_too_where_they_fit() -> None:
    used = dict.fromkeys(range(8), 440)
    assert thin_extents(columns(used=used), NOW, 30) == [0]


def test_the_random_case_converges_to_the_fewest_extents() -> None:
    dice = np.random.default_rng(1)
    for _ in range(200):
        used = dict(enumerate(dice.integers(0, OWNABLE_PAGES, 20).tolist()))
        sources = thin_extents(columns(used=used), NOW, 30)
        moved = sum(used[extent] for extent in sources)
        holes = sum(OWNABLE_PAGES - u for e, u in used.items() if e not in sources)
        assert moved <= holes
        assert len(used) - len(sources) == -(-sum(used.values()) // OWNABLE_PAGES)


THIN = columns(used={3: 10, 4: 20})
COMPACT = [Step(Action.COMPACT, 3)]


def test_compaction_waits_until_nobody_has_asked_for_the_idle_time() -> None:
    s = situation(quiet_since_s=NOW - 29, budget_pages=1000)
    assert isinstance(plan(s, THIN, Policy(30)), float)
    s = situation(quiet_since_s=NOW - 30, budget_pages=1000)
    assert plan(s, THIN, Policy(30)) == COMPACT


def test_short_of_whole_extents_it_does_not_wait() -> None:
    holes = {"budget_pages": 1000, "free_pages": 10_000, "free_small_pages": 992}
    s = situation(quiet_since_s=NOW, device_pages=20_000, **holes)
    assert plan(s, THIN, Policy(30)) == COMPACT
    s = situation(quiet_since_s=NOW, device_pages=19_999, **holes)
    assert isinstance(plan(s, THIN, Policy(30)), float), "not while half of the device is free"


def test_without_a_budget_it_does_nothing_unless_asked() -> None:
    assert isinstance(plan(situation(budget_pages=10), THIN, Policy(30)), float)
    assert plan(situation(budget_pages=10, compacting=True), THIN, Policy(30)) == COMPACT


def test_tails_are_looked_at_when_they_are_due() -> None:
    assert plan(situation(settle_at_s=NOW - 1), columns(), Policy(30)) == [Step(Action.SETTLE)]
    assert plan(situation(settle_at_s=NOW + 5), columns(), Policy(30)) == pytest.approx(5.01)


def test_discards_come_last_and_wait_a_moment() -> None:
    s = situation(quiet_since_s=NOW - 0.5, returned_extents=3)
    assert plan(s, columns(), Policy(30)) == pytest.approx(0.5)
    s = situation(quiet_since_s=NOW - 1, returned_extents=3)
    assert plan(s, columns(), Policy(30)) == [Step(Action.DISCARD)]
    s = situation(quiet_since_s=NOW, returned_extents=65)
    assert plan(s, columns(), Policy(30)) == [Step(Action.DISCARD)]
