"""Every operation of a volume with ``persist=disk``, through every power loss of the host.

The states are those of `PowerStates`: the pages of the image as the host may have written them.
The oracle is that of `crash_oracle`, unchanged: what an operation promised to be durable is on the
disk. ``make replay ID=disk:...`` brings a failure back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from crash_calls import Run, do, fsync, make, pattern, rename, unlink, write
from crash_case import (
    SAMPLES,
    Case,
    Clock,
    Recording,
    events_of,
    load,
    materialised,
    options_of,
    path_of,
    prepared,
    record,
    tree_at,
    tree_of,
)
from crash_cases import CASES
from crash_names import recording_of
from crash_oracle import Crasher, Oracle, require_clean
from crash_sequences import STEPS
from crash_setups import small, tree
from crash_tree import Allowed, Tree

from pmemfs.device import Event, MappedDevice, PowerStates, SparseImage
from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.image import Image
from pmemfs.journal.journal import COMMITTED_OFFSET
from pmemfs.layout.records import Persist

QUICK = max(1, SAMPLES // 8)
NAMES = [f"disk:{case.name}" for case in CASES]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.close()


def crash(name: str, recording: Recording, oracle: Oracle, samples: int) -> Crasher:
    crasher = Crasher(recording, oracle, name=name)
    crasher.run(samples)
    print(len(crasher.found), "states,", len(crasher.outcomes), "outcomes")
    return crasher


def assert_survives(name: str, oracle: Oracle, samples: int) -> None:
    crasher = crash(name, recording_of(name), oracle, samples)
    assert not crasher.failures, "\n".join(["make replay ID=", *crasher.failures])


@pytest.mark.parametrize("name", NAMES)
def test_power_loss(name: str, oracle: Oracle) -> None:
    assert_survives(name, oracle, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_power_loss_more(name: str, oracle: Oracle) -> None:
    assert_survives(name, oracle, 4 * SAMPLES)


# -- several operations in a row: what one leaves pending meets the next ------------------------


@pytest.mark.parametrize("seed", range(12))
def test_power_loss_in_a_row_of_operations(seed: int, oracle: Oracle) -> None:
    assert_survives(f"disk:random:{seed}.power", oracle, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", [step.name for step in STEPS])
def test_power_loss_in_pairs(first: str, oracle: Oracle) -> None:
    for second in STEPS:
        name = f"disk:pair:{first}+{second.name}"
        try:
            recording = recording_of(name)
        except KeyError:  # not possible behind the first
            continue
        crasher = crash(name, recording, oracle, QUICK)
        assert not crasher.failures, "\n".join(["make replay ID=", *crasher.failures])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 200))
def test_power_loss_in_more_rows_of_operations(seed: int, oracle: Oracle) -> None:
    assert_survives(f"disk:random:{seed}.power", oracle, SAMPLES)


# -- does it see? -------------------------------------------------------------------------------


def _is_commit(event: Event) -> bool:
    return event.kind == "store" and event.offset == COMMITTED_OFFSET


def without_syncs_before_commits(events: list[Event]) -> list[Event]:
    following = [*events[1:], Event("fence")]
    return [e for e, f in zip(events, following) if not (e.kind == "sync" and _is_commit(f))]


def without_syncs_behind_commits(events: list[Event]) -> list[Event]:
    kept: list[Event] = []
    behind = False
    for event in events:
        behind = behind or _is_commit(event)
        if event.kind == "sync" and behind:
            behind = False
        else:
            kept.append(event)
    return kept


def without_the_last_sync(events: list[Event]) -> list[Event]:
    last = max(n for n, event in enumerate(events) if event.kind == "sync")
    return events[:last] + events[last + 1 :]


# within one tick of the clock the second overwrite commits nothing: only fsync makes it durable
TWICE = (write(b"/f", 8, pattern(b"D", 64)), write(b"/f", 8, pattern(b"E", 64)), fsync(b"/f"))
OVERWRITE_TWICE = Case("overwrite-twice-fsync", small, do(*TWICE), TWICE, persist=Persist.DISK)


@pytest.mark.parametrize(
    ("leave_out", "name"),
    [
        (without_syncs_before_commits, "create-first"),
        (without_syncs_before_commits, "write-new"),
        (without_syncs_before_commits, "promote"),
        (without_syncs_behind_commits, "create-first"),
        (without_syncs_behind_commits, "unlink-long"),
        (without_syncs_behind_commits, "rename-over-file-other-directory"),
        (without_the_last_sync, "overwrite-twice-fsync"),
    ],
)
def test_a_sync_left_out_is_seen(
    leave_out: Callable[[list[Event]], list[Event]], name: str, oracle: Oracle
) -> None:
    case = {c.name: c for c in [*CASES, OVERWRITE_TWICE]}[name]
    recording = record(replace(case, persist=Persist.DISK))
    if case is OVERWRITE_TWICE:
        assert not crash(name, recording, oracle, SAMPLES).failures
    fewer = leave_out(recording.events)
    left_out = len(recording.events) - len(fewer)
    assert left_out
    recording.events = fewer
    allowed = recording.allowed
    allowed.returned = [0] + [len(fewer)] * (len(allowed.trees) - 1)
    assert crash(name, recording, oracle, SAMPLES).failures


# -- mounts: what the image says of itself is so ------------------------------------------------


_NEVER = 1 << 60
LIFE = Case("life", tree, lambda volume: None)
NEW = b"/e/new"
WORK = (make(NEW), write(NEW, 0, pattern(b"N", 5000)), rename(b"/d/f", b"/e/f"))
MORE = (write(b"/e/h", 0, pattern(b"H", 9000)), unlink(b"/e/f"))


@dataclass
class Life:
    """Mounts of one image in a row, recorded as one: what was stored, and the trees it made.

    ``returned`` says from which event on a tree may not be lost: never, with ``persist=cache``.
    """

    fd: int
    base: SparseImage
    events: list[Event] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    returned: list[int] = field(default_factory=lambda: [0])

    def mount(self, persist: Persist, end: Callable[[Volume], None], *steps: Run) -> None:
        options = replace(options_of(LIFE, Clock()), persist=persist)

        def use(device_class: type[MappedDevice]) -> None:
            volume = Volume.open(path_of(self.fd), options, device_class=device_class)
            for step in steps:
                step(volume)
                self.trees.append(tree_of(load(self.fd), LIFE))
                events = len(self.events) + len(volume.device.events)  # type: ignore[attr-defined]
                self.returned.append(events if persist == Persist.DISK else _NEVER)
            end(volume)

        self.events += events_of(use)


@contextmanager
def new_life() -> Iterator[Life]:
    """A new image, closed and durable."""
    with prepared(LIFE) as (fd, volume, _):
        volume.close()
        base = load(fd)
        yield Life(fd, base, trees=[tree_of(base, LIFE)])


def is_trusted(path: str) -> bool:
    """Tell whether a mount on a host that lost power would believe the image without a check."""
    image = Image.open(path, lock="shared")
    try:
        return image.is_clean or image.control()["persist"] == Persist.DISK
    finally:
        image.close()


def crash_life(life: Life) -> int:
    """Hold every state that is trusted against the trees there were; return how many."""
    allowed = Allowed(life.trees, life.returned, durable=False)
    trusted = kept = 0
    for state in PowerStates(life.base, life.events, exhaustive_limit=32, samples=8):
        with materialised(state.image) as path:
            if not is_trusted(path):
                continue
            trusted += 1
            require_clean(path, f"fsck of {state.id}")
            step = allowed.match(tree_at(path, LIFE), state.after, kept)
            if state.id.endswith((".none.0", ".each.0")):
                kept = max(kept, step)
    return trusted


@pytest.mark.parametrize("second", list(Persist))
@pytest.mark.parametrize("end", [Volume.close, Volume.abandon])
@pytest.mark.parametrize("first", list(Persist))
def test_a_trusted_image_can_be_trusted(
    first: Persist, end: Callable[[Volume], None], second: Persist
) -> None:
    with new_life() as life:
        life.mount(first, end, *WORK)
        life.mount(second, Volume.close, *MORE)
        assert crash_life(life) > (20 if Persist.DISK in (first, second) else 3)


def test_saying_clean_too_early_is_seen() -> None:
    with new_life() as life:
        life.mount(Persist.CACHE, Volume.close, *MORE[:1])
        life.events = [event for event in life.events if event.kind != "sync"]
        with pytest.raises(AssertionError, match=r"fsck|no allowed tree|recovery"):
            crash_life(life)


def test_saying_disk_too_early_is_seen() -> None:
    with new_life() as life:
        life.mount(Persist.CACHE, Volume.abandon, *WORK)
        before = len(life.events)
        life.mount(Persist.DISK, Volume.close)
        after = [event for event in life.events[before:] if event.kind != "sync"]
        life.events[before:] = after
        with pytest.raises((AssertionError, PmemfsError)):
            crash_life(life)
