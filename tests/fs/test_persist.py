"""Persistence modes: how many ``fdatasync`` each operation costs, and what a failing one does.

With ``persist=disk`` a transaction costs two: before its commit word and behind it. A fence with
nothing to make durable costs none.
"""

from __future__ import annotations

import pytest
from test_counts import COUNTS, count
from volumes import REGULAR, ManualClock, VolumeBed

from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.records import Persist

SYNCS = {
    "create": 2,
    "mkdir": 2,
    "unlink of 8 pages": 2,
    "unlink of one of two names": 2,
    "rename": 2,
    "setattr": 2,
    "setxattr": 2,
    "append of a page": 2,
    "append of 100 bytes in a page": 2,
    "overwrite of a page": 2,
    "overwrite of a page, clock still": 0,
    "fsync of one dirty page": 1,
    "fsync of nothing": 1,  # the homes of the last transaction
    "read of 8 pages": 0,
    "read again in the same second": 0,
    "lookup": 0,
    "truncate to 4 pages": 2,
    "punch of a page": 2,
    "punch of 10 bytes": 4,
}
IN_CACHE = {"fsync of one dirty page": 1, "fsync of nothing": 1}


@pytest.mark.parametrize("name", COUNTS)
def test_syncs(bed: VolumeBed, clock: ManualClock, name: str) -> None:
    run, *expected = COUNTS[name]
    counted = count(bed.make(persist=Persist.DISK), clock, run)
    found = [counted.stores, counted.flushes, counted.fences, counted.publishes]
    assert (found, counted.syncs) == (expected, SYNCS[name]), f"{name}: counts and syncs"


@pytest.mark.parametrize("name", COUNTS)
def test_syncs_in_cache(bed: VolumeBed, clock: ManualClock, name: str) -> None:
    counted = count(bed.make(), clock, COUNTS[name][0])
    assert counted.syncs == IN_CACHE.get(name, 0)


@pytest.mark.parametrize("persist", list(Persist))
def test_syncs_of_a_mount(bed: VolumeBed, persist: Persist) -> None:
    """What was there; mode and boot id; "mounted"; the generation. The same in both modes."""
    volume = bed.make(persist=persist)
    assert volume.device.counters.syncs == 4
    assert volume.image.control()["persist"] == persist
    volume = bed.reopen(volume, crash=True)
    assert volume.device.counters.syncs == 4


@pytest.mark.parametrize(("persist", "syncs"), [(Persist.CACHE, 3), (Persist.DISK, 3)])
def test_syncs_of_closing(bed: VolumeBed, persist: Persist, syncs: int) -> None:
    """All that was stored; nothing to replay; "clean"."""
    volume = bed.make(persist=persist)
    volume.create(ROOT_INO, b"f", REGULAR)
    before, device = volume.device.counters.copy(), volume.device
    volume.close()
    assert device.counters.since(before).syncs == syncs


@pytest.mark.parametrize("persist", list(Persist))
def test_syncs_of_recovery(bed: VolumeBed, persist: Persist) -> None:
    """Two more than a mount: the homes; nothing to replay."""
    volume = bed.make(persist=persist)
    volume.create(ROOT_INO, b"f", REGULAR)
    volume = bed.reopen(volume, crash=True)
    assert volume.replay is not None
    assert volume.device.counters.syncs == 6


def test_a_discard_waits_for_the_host(bed: VolumeBed, clock: ManualClock) -> None:
    volume = bed.make(persist=Persist.DISK)
    ino = volume.create(ROOT_INO, b"f", REGULAR).ino
    volume.write(ino, 0, bytes(4 << 20))
    volume.unlink(ROOT_INO, b"f")
    before = volume.device.counters.copy()
    assert volume.pool.discard_returned(16) == 2
    counted = volume.device.counters.since(before)
    assert (counted.discards, counted.syncs) == (2, 3)  # behind the discards; a transaction


def test_the_mode_is_recorded(bed: VolumeBed) -> None:
    volume = bed.make(persist=Persist.DISK)
    assert volume.image.control()["persist"] == 1
    volume.abandon()
    volume = bed.open(volume.image.name)
    assert volume.image.control()["persist"] == 0
