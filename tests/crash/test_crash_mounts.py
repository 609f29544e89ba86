"""Mounting, recovering and unmounting, crashed at every store; and recovering twice."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from crash_calls import do, hold, setxattr, unlink, write
from crash_cases import CASES
from crash_run import (
    SAMPLES,
    SIZE,
    Case,
    Clock,
    Crasher,
    Recording,
    RecordingFromStart,
    UnbackedDevice,
    load,
    materialised,
    options_of,
    path_of,
    prepared,
    record,
    tree_of,
)
from crash_setups import garbage, scattered, tree
from crash_tree import Allowed, observe

from pmemfs.device import Event, MappedDevice
from pmemfs.device.crash import SparseImage
from pmemfs.fs.volume import Volume
from pmemfs.journal import recover
from pmemfs.journal.journal import COMMITTED_OFFSET
from pmemfs.layout.records import NOTHING_TO_REPLAY

BY_NAME = {case.name: case for case in CASES}
REPLAYED = [
    "create-first",
    "directory-push-down-deep",
    "orphan-work-middle",
    "promote",
    "punch-unaligned",
    "rename-over-file-other-directory",
    "unlink-long",
    "xattr-replace",
]


def mount_case(name: str, setup: Callable[[Volume], None] = tree, **more: int) -> Case:
    return Case(name, setup, lambda volume: None, **more)


@contextmanager
def opened(image: SparseImage, case: Case) -> Iterator[tuple[int, Volume]]:
    """Give ``(fd, volume)`` of an image that is being recorded since before its mount."""
    fd = image.materialise()
    volume = None
    try:
        options = options_of(case, Clock())
        volume = Volume.open(path_of(fd), options, device_class=RecordingFromStart)
        yield fd, volume
    finally:
        if volume is not None:
            volume.abandon()
        os.close(fd)


def unchanged(case: Case, base: SparseImage, events: list[Event]) -> Recording:
    """A recording that must not change what is seen."""
    return Recording(case, base, list(events), Allowed([tree_of(base, case)]))


def crash_all(recording: Recording) -> None:
    crasher = Crasher(recording)
    crasher.run()
    print(crasher.checked, "states")
    assert not crasher.failures, "\n".join(crasher.failures)
    assert crasher.checked > 3


def left_by(case: Case, leave: Callable[[Volume], None]) -> SparseImage:
    with prepared(case) as (fd, volume):
        leave(volume)
        return load(fd)


@pytest.mark.parametrize("leave", [Volume.close, Volume.abandon], ids=["clean", "unclean"])
def test_mount(leave: Callable[[Volume], None]) -> None:
    case = mount_case(f"mount-{leave.__name__}")
    base = left_by(case, leave)
    with opened(base, case) as (_, volume):
        events = volume.device.stop()
    crash_all(unchanged(case, base, events))


@pytest.mark.parametrize(
    "case",
    [
        mount_case("unmount"),
        mount_case("unmount-dirty", do(tree, write(b"/d/g", 8, b"dirty"))),
        mount_case("unmount-orphans", do(scattered, unlink(b"/f")), threshold_pages=1),
        mount_case("unmount-held", do(tree, hold(b"/d/g"), unlink(b"/d/g"))),
        mount_case("unmount-empty", do(garbage, unlink(b"/f"), unlink(b"/g"))),
        mount_case("unmount-xattrs", do(tree, setxattr(b"/d/f", b"user.a", b"1"))),
    ],
    ids=lambda case: case.name,
)
def test_unmount(case: Case) -> None:
    with prepared(case) as (fd, volume):
        base = load(fd)
        volume.device.start()
        device = volume.device
        volume.close()
        events = device.stop()
    crash_all(unchanged(case, base, events))


@pytest.mark.parametrize("name", REPLAYED)
def test_crash_during_recovery(name: str) -> None:
    """A recovery that crashes, recovers to the same tree; some states of each case."""
    case = BY_NAME[name]
    committed = [s for s in record(case).states() if needs_replay(s.image)]
    assert committed
    for state in committed[:: max(1, len(committed) // SAMPLES)]:
        with opened(state.image, case) as (_, volume):
            assert volume.replay is not None
            events = volume.device.stop()
        inner = replace(case, name=f"{name}/{state.id}/recovery")
        crash_all(unchanged(inner, state.image, events))


def needs_replay(image: SparseImage) -> bool:
    return not int.from_bytes(image.word(COMMITTED_OFFSET), "little") & NOTHING_TO_REPLAY


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
