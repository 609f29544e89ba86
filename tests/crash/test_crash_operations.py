"""Every operation of the Volume, crashed at every store. See `crash_oracle` for what is asked;
``make replay ID=...`` brings a failure back.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from crash_case import SAMPLES, Case, record
from crash_cases import CASES
from crash_lint import read_table
from crash_names import BY_NAME
from crash_oracle import Crasher, Oracle

CHANGE_NOTHING = {
    "allocate-existing",
    "preallocate-same-page",
    "rename-same-inode",
    "setattr-nothing",
    "unmount-damaged",
}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.close()


@every_case
def test_crash(case: Case, oracle: Oracle) -> None:
    crash(case, oracle, SAMPLES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_case
def test_crash_more(case: Case, oracle: Oracle) -> None:
    crash(case, oracle, 8 * SAMPLES)


def crash(case: Case, oracle: Oracle, samples: int) -> None:
    recording = record(case)
    assert recording.lint() == read_table().get(case.name), (
        "crash_lint.py --update writes the table"
    )
    crasher = Crasher(recording, oracle)
    crasher.run(samples)
    print(len(crasher.found), "states,", len(crasher.outcomes), "outcomes")
    assert not crasher.failures, "\n".join(["make replay ID=", *crasher.failures])
    assert (len(crasher.found) == 1) == (case.name in CHANGE_NOTHING)


@pytest.mark.parametrize("samples", [1, 2, SAMPLES])
@pytest.mark.parametrize(
    ("name", "kept"),
    [("reuse-inode", 3), ("two-extents-fsync", 3), ("make-and-remove-directory", 4)],
)
def test_what_a_crash_kept_no_later_one_may_lose(
    name: str, kept: int, samples: int, oracle: Oracle
) -> None:
    """Also where few states are taken; the last directory leaves the tree of the beginning."""
    crasher = Crasher(record(BY_NAME[name]), oracle)
    crasher.run(samples)
    assert not crasher.failures
    assert crasher.kept == kept
