"""Mounting, recovering and repairing, crashed at every store; and recovering twice."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest
from crash_case import (
    SAMPLES,
    SIZE,
    Clock,
    Recording,
    events_of,
    load,
    materialised,
    needs_replay,
    options_of,
    record,
    record_mount,
    tree_at,
    tree_of,
)
from crash_cases import CASES
from crash_images import IMAGE_CASES, NOBODYS
from crash_oracle import Crasher, Oracle
from crash_scratch import UnbackedDevice
from crash_tree import observe

from pmemfs.device import CrashStates, MappedDevice, SparseImage
from pmemfs.errors import DamagedImageError
from pmemfs.fs.format import format_image
from pmemfs.fs.volume import Volume
from pmemfs.fsck import check
from pmemfs.image import Image
from pmemfs.journal import recover
from pmemfs.journal.journal import COMMITTED_OFFSET

BY_NAME = {case.name: case for case in CASES}
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


def crash_all(name: str, recording: Recording, oracle: Oracle) -> None:
    crasher = Crasher(recording, oracle, name=name)
    crasher.run(SAMPLES)
    print(len(crasher.found), "states,", len(crasher.outcomes), "outcomes")
    assert not crasher.failures, "\n".join(["make replay ID=", *crasher.failures])
    assert len(crasher.found) > 3


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_image(name: str, oracle: Oracle) -> None:
    crash_all(name, IMAGE_CASES[name](), oracle)


def test_mkfs_leaves_no_image_or_a_whole_one() -> None:
    def make(device_class: type[MappedDevice]) -> None:
        with materialised(SparseImage(SIZE)) as path:
            format_image(path, SIZE, force=True, device_class=device_class)

    refused = whole = 0
    for state in CrashStates(SparseImage(SIZE), events_of(make), exhaustive_limit=512):
        with materialised(state.image) as path:
            try:
                Image.open(path, lock="shared").close()
            except DamagedImageError:
                refused += 1
                continue
            image = Image.open(path, lock="shared")
            findings = {finding.check for finding in check(image).findings}
            image.close()
            # until it is done, one of the two superblocks may be missing
            assert findings <= {"superblock-copy"}, state.id
            assert list(tree_at(path, NOBODYS)) == [b"/"], state.id
            whole += 1
    print(refused, "refused,", whole, "whole")
    assert refused > 10 < whole


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
    """Also where the second knows nothing of the first: every byte is the same."""
    for state in itertools.islice(record(BY_NAME[name]).states(), 0, None, 7):
        if not needs_replay(state.image):
            continue
        fd = state.image.materialise()
        try:
            device = MappedDevice(fd, SIZE)
            before = device.words[COMMITTED_OFFSET >> 3]
            recover(device)
            once = load(fd).pages
            device.publish(COMMITTED_OFFSET, before)
            recover(device)
            assert load(fd).pages == once
            assert recover(device) is None
            device.close()
        finally:
            os.close(fd)


def test_mounting_again_and_again_changes_nothing_that_is_seen() -> None:
    case = BY_NAME["orphan-work-middle"]
    recording = record(case)
    for state in itertools.islice(recording.states(), 0, None, 11):
        seen = tree_of(state.image, case)
        with materialised(state.image) as path:
            for _ in range(3):
                Volume.open(path, options_of(case, Clock()), device_class=UnbackedDevice).abandon()
            volume = Volume.open(path, options_of(case, Clock(), read_only=True))
            again = observe(volume)
            volume.close()
        assert again == seen, state.id
