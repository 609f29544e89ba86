"""Does the bench see? Every seeded bug is caught, and what shows it is sound without it."""

from __future__ import annotations

import pytest
from crash_bugs import BUGS, SAMPLES, Bug
from crash_case import Recording
from crash_damage import DAMAGED, check_damaged_journal
from crash_names import BY_NAME, recording_of
from crash_oracle import Crasher, Oracle

OTHERS = sorted({name for bug in BUGS for name in bug.recordings if name not in BY_NAME})


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_seeded_bug_is_caught(bug: Bug, caplog: pytest.LogCaptureFixture) -> None:
    how = bug.caught()
    caplog.clear()  # the engine may notice the bug, and say so
    print(how)
    assert how is not None, f"{bug.name} passes in {bug.recordings}"


def test_there_are_enough_of_them() -> None:
    assert len(BUGS) >= 30
    assert len({bug.name for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("name", OTHERS)
def test_without_a_bug_nothing_is_found(name: str) -> None:
    """The cases among them are tested by themselves."""
    if name.startswith(DAMAGED):
        check_damaged_journal(name.removeprefix(DAMAGED))
        return
    recording: Recording = recording_of(name)
    oracle = Oracle()
    crasher = Crasher(recording, oracle, name=name)
    crasher.run(SAMPLES)
    oracle.close()
    assert not crasher.failures
