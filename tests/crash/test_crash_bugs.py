"""Does the bench see? Every seeded bug is caught, and what shows it is sound without it.

And a bug that is none is not: one that changes nothing, one whose patch breaks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import crash_bugs
import pytest
from click.testing import CliRunner
from crash_anatomy import Events, without
from crash_bug import patched
from crash_bugs import BUGS, SAMPLES, Bug, By
from crash_damage import DAMAGED, check_damaged_journal
from crash_names import BY_NAME, recording_of
from crash_oracle import Crasher, Oracle

from pmemfs.fs import Volume
from pmemfs.fs.files import Files

OTHERS = sorted({name for bug in BUGS for name in bug.recordings if name not in BY_NAME})


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_seeded_bug_is_caught(bug: Bug, caplog: pytest.LogCaptureFixture) -> None:
    verdict = bug.verdict()
    caplog.clear()  # the engine may notice the bug, and say so
    print(verdict.how)
    assert verdict.by is bug.by, verdict.how


def test_there_are_enough_of_them() -> None:
    assert sum(bug.by is By.STATE for bug in BUGS) >= 30
    assert len({bug.name for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("name", OTHERS)
def test_without_a_bug_nothing_is_found(name: str) -> None:
    """The cases among them are tested by themselves."""
    if name.startswith(DAMAGED):
        check_damaged_journal(recording_of(name.removeprefix(DAMAGED)))
        return
    oracle = Oracle()
    crasher = Crasher(recording_of(name), oracle, name=name)
    crasher.run(SAMPLES)
    oracle.close()
    assert not crasher.failures


# -- what is no bug -----------------------------------------------------------------------------


def nothing_changed(events: Events) -> Events:
    return list(events)


def a_part_that_is_not_there(events: Events) -> Events:
    return without(events, "slott", "flush")


def more_flushed(events: Events) -> Events:
    """Something changes, and no crash shows it."""
    return [
        event for each in events for event in ([each, each] if each.kind == "flush" else [each])
    ]


def raises(error: type[Exception]) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise error("the patch does not work")

    return call


def patch_without_effect() -> AbstractContextManager[Any]:
    return patched(Files, "fsync", Files.fsync)


def patch_of_a_missing_name() -> AbstractContextManager[Any]:
    return patched(Files, "no_such_method", None)


def patch_that_is_not_callable() -> AbstractContextManager[Any]:
    """Seen when the oracle deletes everything, in every state."""
    return patched(Files, "free_runs", None)


def patch_that_fails_at_once() -> AbstractContextManager[Any]:
    return patched(Volume, "create", raises(OSError))


def patch_that_fails_in_the_oracle() -> AbstractContextManager[Any]:
    return patched(Volume, "unlink", raises(AssertionError))


NO_REWRITES = [nothing_changed, a_part_that_is_not_there, more_flushed]
NO_PATCHES = [
    patch_without_effect,
    patch_of_a_missing_name,
    patch_that_is_not_callable,
    patch_that_fails_at_once,
    patch_that_fails_in_the_oracle,
]
NO_BUGS = [Bug(each.__name__, ("create",), rewrite=each) for each in NO_REWRITES]
NO_BUGS += [Bug(each.__name__, ("create",), patch=each) for each in NO_PATCHES]


@pytest.mark.parametrize("bug", NO_BUGS, ids=lambda bug: bug.name)
def test_what_is_no_bug_is_not_caught(bug: Bug) -> None:
    verdict = bug.verdict()
    print(verdict.how)
    assert verdict.by is None
    assert ("the bug is broken" in verdict.how) == ("states pass" not in verdict.how)


def test_each_recording_of_a_bug_has_to_show_it() -> None:
    def fence_left_out(events: Events) -> Events:
        return without(events, "fence", only=-1)

    good, bad = "overwrite-fsync", "reclaim-unsplit"
    assert Bug("one", (good,), rewrite=fence_left_out).verdict().by is By.STATE
    assert Bug("two", (good, bad), rewrite=fence_left_out).verdict().by is None


@pytest.mark.parametrize("bug", NO_BUGS[:1] + NO_BUGS[-1:], ids=lambda bug: bug.name)
def test_the_score_says_so(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = next(each for each in BUGS if each.name == "fsync-without-fence")
    monkeypatch.setattr(crash_bugs, "BUGS", [sound, bug])
    result = CliRunner().invoke(crash_bugs.main, [])
    assert result.exit_code == 1, result.output
    assert "1 of 2 seeded bugs caught (1 by a crash state)" in result.output
    assert CliRunner().invoke(crash_bugs.main, [sound.name]).exit_code == 0
    assert CliRunner().invoke(crash_bugs.main, ["nothing"]).exit_code == 2
