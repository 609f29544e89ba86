from __future__ import annotations

import pytest

from pmemfs.bench.ratios import Comparison, Kind, Measure, compare, goal, median

RATE = Measure("rate", "IOPS", Kind.OTHER)
TIME = Measure("time", "ms", Kind.OTHER)


def test_ratio_of_rates_and_times_both_say_how_many_times_faster() -> None:
    assert RATE.speed_ratio(200, 100) == 2.0
    assert TIME.speed_ratio(50, 100) == 2.0


def test_ratio_is_of_medians_and_range_is_of_rounds() -> None:
    ours, theirs = {1: 100.0, 2: 300.0, 3: 200.0}, {1: 100.0, 2: 100.0, 3: 400.0}
    assert compare(RATE, ours, theirs, 1.0) == Comparison(2.0, 0.5, 3.0, 1.0)


def test_only_rounds_that_both_have_count() -> None:
    found = compare(RATE, {1: 10.0, 2: 999.0}, {1: 20.0, 3: 1.0}, None)
    assert (found.ratio, found.lowest, found.highest) == (0.5, 0.5, 0.5)


def test_no_common_round() -> None:
    with pytest.raises(ValueError, match="median of nothing"):
        compare(RATE, {1: 1.0}, {2: 1.0}, None)


@pytest.mark.parametrize(
    ("ratio", "highest", "wanted", "verdict"),
    [
        (1.0, 1.2, 1.0, "met"),
        (0.9, 1.0, 1.0, "close"),
        (0.9, 0.99, 1.0, "not met"),
        (0.1, 0.1, None, None),
    ],
)
def test_verdict(ratio: float, highest: float, wanted: float | None, verdict: str | None) -> None:
    assert Comparison(ratio, 0.0, highest, wanted).verdict == verdict


@pytest.mark.parametrize(
    ("peer", "kind", "wanted"),
    [
        ("passthrough_ll", Kind.LARGE, 2.0),
        ("passthrough_ll", Kind.METADATA, 1.0),
        ("passthrough_ll-s", Kind.LARGE, 2.0),
        ("fuse2fs", Kind.DIRECT_4K, 1.5),
        ("fuse2fs", Kind.CACHED_WRITE_4K, 10.0),
        ("fuse2fs", Kind.STAT, 10.0),
        ("fuse2fs", Kind.OTHER, None),
        ("ext4-loop", Kind.DIRECT_4K, 1.0),
        ("ext4-loop", Kind.CACHED, 0.9),
        ("ext4-loop", Kind.METADATA, 0.5),
        ("fusepy", Kind.CACHED, 1.0),
        ("unknown", Kind.CACHED, None),
    ],
)
def test_goals_of_issue_3(peer: str, kind: Kind, wanted: float | None) -> None:
    assert goal("native", peer, kind) == wanted


def test_only_native_has_goals() -> None:
    assert goal("fusepy", "ext4-loop", Kind.OTHER) is None


def test_median() -> None:
    assert median([3, 1, 2]) == 2
    assert median([1, 2]) == 1.5
