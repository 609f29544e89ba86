"""Mounting, recovering and repairing, crashed at every store; and recovering twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from crash_again import require_mounts_change_nothing, require_recovery_twice_is_once
from crash_case import SAMPLES, Recording, needs_replay, record, record_mount
from crash_images import IMAGE_CASES
from crash_names import BY_NAME, recording_of
from crash_oracle import Crasher, Oracle

REPLAYED = [
    "append-over-garbage",
    "create-first",
    "directory-merge-deep",
    "directory-push-down-deep",
    "discard",
    "exchange-file-directory",
    "map-tree-grows-twice",
    "orphan-work-middle",
    "promote",
    "punch-across",
    "punch-unaligned",
    "reclaim-orphan",
    "release-two-held",
    "rename-over-file-other-directory",
    "reuse-inode",
    "tmpfile-link",
    "truncate-long",
    "unlink-long",
    "write-whole-new",
    "xattr-replace",
]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.close()


def crash_all(name: str, recording: Recording, oracle: Oracle) -> Crasher:
    crasher = Crasher(recording, oracle, name=name)
    crasher.run(SAMPLES)
    print(len(crasher.found), "states,", len(crasher.outcomes), "outcomes")
    assert not crasher.failures, "\n".join(["make replay ID=", *crasher.failures])
    assert len(crasher.found) > 3
    return crasher


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_image(name: str, oracle: Oracle) -> None:
    crash_all(name, recording_of(name), oracle)


def test_mkfs_leaves_no_image_or_a_whole_one(oracle: Oracle) -> None:
    crasher = crash_all("mkfs", recording_of("mkfs"), oracle)
    whole = len(crasher.found) - crasher.refused
    print(crasher.refused, "refused,", whole, "whole")
    assert crasher.refused > 10 < whole


@pytest.mark.parametrize("name", REPLAYED)
def test_crash_during_recovery(name: str, oracle: Oracle) -> None:
    """A recovery that crashes, recovers to the same tree; some states of each case."""
    case = BY_NAME[name]
    committed = [s for s in record(case).states() if needs_replay(s.image)]
    assert committed
    for state in committed[:: max(1, len(committed) // SAMPLES)]:
        inner = f"mount:{name}@{SAMPLES}/{state.id}"
        crash_all(inner, record_mount(case, state.image), oracle)


@pytest.mark.parametrize("name", REPLAYED)
def test_recovery_twice_equals_once(name: str) -> None:
    for state in itertools.islice(record(BY_NAME[name]).states(), 0, None, 7):
        with failing_as(f"{name}@{SAMPLES}/{state.id}"):
            require_recovery_twice_is_once(state)


def test_mounting_again_and_again_changes_nothing_that_is_seen() -> None:
    case = BY_NAME["orphan-work-middle"]
    for state in itertools.islice(record(case).states(), 0, None, 11):
        with failing_as(f"{case.name}@{SAMPLES}/{state.id}"):
            require_mounts_change_nothing(state, case)


@contextmanager
def failing_as(state_id: str) -> Iterator[None]:
    """Fail with the id of a state."""
    try:
        yield
    except Exception as error:
        pytest.fail(f"make replay ID={state_id}: {type(error).__name__}: {error}")
