"""The verdicts of `bench ageing`: made-up results just on both sides of each goal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from pmemfs.bench.ageing import report
from pmemfs.bench.ageing.rivals import FirstFit
from pmemfs.bench.ageing.run import OURS, AgeingOptions, Result
from pmemfs.bench.ageing.store import Sample
from pmemfs.cli import main

MET = {
    "descriptors_active": 0.0064,
    "descriptors_now": 0.0,
    "amplification": 1.1,
    "moved_per_written": 0.4,
}
WHOLE = "free space in free 2 MiB extents"
THEIRS = "more of it than"
ACTIVE = "page descriptors, everything active"
IDLE = "page descriptors after the idle time"
AMPLIFICATION = "space amplification"
MOVED = "pages moved in the background"
LEFT = "all free after the last file"


def sample(overwrites: float, free_whole: float, **columns: float) -> Sample:
    return Sample(overwrites, 0.75, 1000, free_whole, 0.5, 2.0, MET | columns)


def made_up(
    *,
    full: float = 0.75,
    free_whole: float = 0.95,
    theirs: float = 0.5,
    last: dict[str, float] | None = None,
    idle: float = 0.0,
    active: float = 0.0,
    left: dict[str, int] | None = None,
    overwrites: float = 20.0,
) -> Result:
    """Return a result that meets all goals but for what is given; the goals ask the last sample."""
    wrong = {"descriptors_active": 1.0, "amplification": 9.0, "moved_per_written": 9.0}
    return Result(
        AgeingOptions(full=full),
        {
            OURS: [sample(5, 0.6, **wrong), sample(overwrites, free_whole, **(last or {}))],
            FirstFit.name: [sample(5, 0.99), sample(5, theirs)],
        },
        idle=sample(overwrites, free_whole, descriptors_now=idle),
        active=sample(overwrites, free_whole, descriptors_now=active),
        left={"extents_not_free": 0, "split_extents": 0, "inodes": 0} | (left or {}),
    )


def verdicts(result: Result) -> dict[str, bool]:
    return {goal.text: goal.met for goal in report.goals(result)}


def test_the_goals_that_there_are() -> None:
    found = report.goals(made_up())
    begins = [WHOLE, THEIRS, ACTIVE, IDLE, AMPLIFICATION, MOVED, LEFT]
    assert [begin for goal, begin in zip(found, begins) if goal.text.startswith(begin)] == begins
    assert len(found) == len(begins)
    assert all(goal.met for goal in found)
    assert found[0] == (f"{WHOLE} at least 90% (75% full)", "95.0%", True)
    theirs = f"more of it than {FirstFit.name} after 5 overwrites"
    assert found[1] == (theirs, "60.0% against 50.0%", True)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"free_whole": 0.9}, None),
        ({"free_whole": 0.8999}, WHOLE),
        ({"full": 0.8, "free_whole": 0.8999}, WHOLE),
        ({"full": 0.9, "free_whole": 0.7}, None),
        ({"full": 0.9, "free_whole": 0.6999}, WHOLE),
        ({"theirs": 0.5999}, None),
        ({"theirs": 0.6}, THEIRS),
        ({"last": {"descriptors_active": 0.0065}}, None),
        ({"last": {"descriptors_active": 0.0066}}, ACTIVE),
        ({"active": 0.0065}, None),
        ({"active": 0.0066}, ACTIVE),
        ({"idle": 0.00001}, IDLE),
        ({"last": {"amplification": 1.15}}, None),
        ({"last": {"amplification": 1.1501}}, AMPLIFICATION),
        ({"last": {"moved_per_written": 0.5}}, None),
        ({"last": {"moved_per_written": 0.5001}}, MOVED),
        ({"left": {"extents_not_free": 1}}, LEFT),
        ({"left": {"split_extents": 1}}, LEFT),
        ({"left": {"inodes": 1}}, LEFT),
    ],
)
def test_a_goal_is_missed_by_the_least_that_is_too_much(
    changed: dict[str, Any], missed: str | None
) -> None:
    found = verdicts(made_up(**changed))
    not_met = [text for text, met in found.items() if not met]
    assert len(not_met) == (missed is not None), not_met
    assert not missed or not_met[0].startswith(missed)


def test_a_fuller_device_has_other_goals() -> None:
    texts = verdicts(made_up(full=0.9, last={"descriptors_active": 0.02}))
    assert f"{WHOLE} at least 70% (90% full)" in texts
    assert not any(text.startswith(ACTIVE) for text in texts)
    assert any(text.startswith(ACTIVE) for text in verdicts(made_up(full=0.8)))


def test_a_run_that_ended_early_is_judged_once_the_device_was_overwritten() -> None:
    assert report.goals(made_up(overwrites=0.99)) == []
    assert report.goals(made_up(overwrites=1.0)) != []
    short = made_up(overwrites=0.5)
    short.options = replace(short.options, overwrites=0.5)
    assert report.goals(short) != [], "it was as long as it was asked for"


def test_the_table_says_which_is_not_met() -> None:
    columns, rows = report.goal_table(made_up(last={"amplification": 1.2}))
    assert columns == ["goal", ">measured", ""]
    assert [row for row in rows if row[2] != "met"] == [
        ("space amplification at most 1.15", "1.200", "NOT MET")
    ]


@pytest.mark.parametrize(("amplification", "status"), [(1.15, 0), (1.16, 1)])
def test_the_exit_status_tells(
    monkeypatch: pytest.MonkeyPatch, amplification: float, status: int
) -> None:
    result = made_up(last={"amplification": amplification})
    monkeypatch.setattr("pmemfs.cli.bench_ageing.run", lambda *_: result)
    assert CliRunner().invoke(main, ["bench", "ageing", "--json"]).exit_code == status
