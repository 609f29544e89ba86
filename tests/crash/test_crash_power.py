"""Every operation of a volume with ``persist=disk``, through every power loss of the host.

The states are those of `PowerStates`: the pages of the image as the host may have written them.
The oracle is that of `crash_run`, unchanged: what the operation promised to be durable is on the
disk. To replay a failure: ``PMEMFS_CRASH_REPLAY=disk-CASE/STATE pytest tests/crash -k power``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from crash_calls import (
    Run,
    discard,
    do,
    fsync,
    link,
    make,
    pattern,
    punch,
    rename,
    setxattr,
    truncate,
    unlink,
    unsplit_all,
    write,
)
from crash_cases import CASES as LINE_CASES
from crash_run import (
    REPLAY,
    SAMPLES,
    Case,
    Clock,
    Crasher,
    Recording,
    RecordingFromStart,
    load,
    materialised,
    options_of,
    path_of,
    prepared,
    record,
    require_clean,
    tree_at,
    tree_of,
)
from crash_setups import small, tree
from crash_tree import PAGE, Allowed, Tree

from pmemfs.device import Event, PowerStates
from pmemfs.device.crash import SparseImage
from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.image import Image
from pmemfs.journal.journal import COMMITTED_OFFSET
from pmemfs.layout.records import Persist

# within one tick of the clock the second overwrite commits nothing: only the fsync makes it durable
TWICE = (write(b"/f", 8, pattern(b"D", 64)), write(b"/f", 8, pattern(b"E", 64)), fsync(b"/f"))
CASES = [*LINE_CASES, Case("overwrite-twice-fsync", small, do(*TWICE), TWICE)]
BY_NAME = {case.name: case for case in CASES}
QUICK = max(1, SAMPLES // 2)


class PowerRecording(Recording):
    """A recording whose crashes are power losses."""

    def states(self, samples: int = SAMPLES) -> PowerStates:
        lines = super().states(samples)
        return PowerStates(
            lines.base,
            lines.events,
            exhaustive_limit=lines.exhaustive_limit,
            samples=lines.samples,
            lines_limit=lines.lines_limit,
            transient=lines.transient,
        )


def on_disk(case: Case) -> Case:
    return replace(case, name=f"disk-{case.name}", persist=Persist.DISK)


def crash(recording: Recording, samples: int = QUICK) -> Crasher:
    crasher = Crasher(PowerRecording(**vars(recording)))
    crasher.run(samples)
    print(crasher.checked, "states")
    return crasher


def crash_case(case: Case, samples: int) -> None:
    if REPLAY and REPLAY.partition("/")[0] != case.name:
        pytest.skip("another case is replayed")
    crasher = crash(record(case), samples)
    assert not crasher.failures, "\n".join(crasher.failures)


every_case = pytest.mark.parametrize("case", [on_disk(c) for c in CASES], ids=lambda c: c.name)


@every_case
def test_power_loss(case: Case) -> None:
    crash_case(case, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_case
def test_power_loss_more(case: Case) -> None:
    crash_case(case, 8 * SAMPLES)


# -- several operations in a row: what one leaves pending meets the next ------------------------


def program(seed: int, length: int = 5) -> Case:
    """A case of operations drawn by a seed, each of them an atomic step."""
    rng = random.Random(seed)
    names = [b"/d/f", b"/d/g", b"/e/h"]
    steps = [_draw(rng, names, number) for number in range(length)]
    case = Case(f"program-{seed}", tree, do(*steps), tuple(steps), durable=False)
    return on_disk(case)


def _draw(rng: random.Random, names: list[bytes], number: int) -> Run:
    """Return one call on one of the names, and keep the list of them right."""
    path = rng.choice(names)
    new = rng.choice((b"/d", b"/e", b"")) + b"/n%d" % number
    data = pattern(b"PQRSTUVW"[number : number + 1], rng.choice((5, 700, PAGE, 3 * PAGE)))
    offset = rng.choice((0, 8, 4000, PAGE, 5 * PAGE))
    size = rng.choice((0, 50, 5000, 20000))
    kind = rng.choice(("data", "data", "size", "new", "move", "replace", "unlink", "idle"))
    if kind == "data":
        return rng.choice((write(path, offset, data), write(path, 0, data[:16]), fsync(path)))
    if kind == "size":
        return rng.choice((truncate(path, size), punch(path, offset, len(data))))
    if kind == "idle":
        return rng.choice((unsplit_all, discard, setxattr(path, b"user.a", data[:50])))
    if kind == "new":
        names.append(new)
        return rng.choice((make(new), link(path, new)))
    if kind == "move":
        names[names.index(path)] = new
        return rename(path, new)
    if len(names) < 2:
        return fsync(path)
    names.remove(path)
    return rename(path, rng.choice(names)) if kind == "replace" else unlink(path)


@pytest.mark.parametrize("seed", range(16))
def test_power_loss_in_a_row_of_operations(seed: int) -> None:
    crash_case(program(seed), QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_power_loss_in_more_rows_of_operations(seed: int) -> None:
    crash_case(program(seed, 8), 4 * SAMPLES)


# -- does it see? -------------------------------------------------------------------------------


def _is_commit(event: Event) -> bool:
    return event.kind == "store" and event.offset == COMMITTED_OFFSET


def without_syncs_before_commits(events: list[Event]) -> list[Event]:
    return [e for e, after in zip(events, [*events[1:], Event("fence")])
            if not (e.kind == "sync" and _is_commit(after))]  # fmt: skip


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
    leave_out: Callable[[list[Event]], list[Event]], name: str
) -> None:
    recording = record(on_disk(BY_NAME[name]))
    fewer = leave_out(recording.events)
    assert len(fewer) < len(recording.events)
    recording.events = fewer
    assert crash(recording, 8 * SAMPLES).failures


# -- mounts: what the image says of itself is so ------------------------------------------------


@dataclass
class Life:
    """Mounts of one image in a row, recorded as one: what was stored, and the trees it made."""

    fd: int
    base: SparseImage
    events: list[Event] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)

    def mount(self, persist: Persist, end: Callable[[Volume], None], *steps: Run) -> None:
        options = replace(options_of(LIFE, Clock()), persist=persist)
        volume = Volume.open(path_of(self.fd), options, device_class=RecordingFromStart)
        device = volume.device
        for step in steps:
            step(volume)
            self.trees.append(tree_of(load(self.fd), LIFE))
        end(volume)
        self.events += device.stop()


LIFE = Case("life", tree, lambda volume: None)


@contextmanager
def new_life() -> Iterator[Life]:
    """A new image, closed and durable."""
    with prepared(LIFE) as (fd, volume):
        volume.close()
        life = Life(fd, load(fd))
        life.trees.append(tree_of(life.base, LIFE))
        yield life


def is_trusted(path: str) -> bool:
    """Tell whether a mount on a host that lost power would believe the image without a check."""
    image = Image.open(path, lock="shared")
    try:
        return image.is_clean or image.control()["persist"] == Persist.DISK
    finally:
        image.close()


def crash_life(life: Life) -> int:
    """Hold every state that is trusted against the trees there were; return how many."""
    allowed = Allowed(life.trees)
    trusted = 0
    states = PowerStates(life.base, life.events, exhaustive_limit=32, samples=8)
    for state in states:
        with materialised(state.image) as path:
            if not is_trusted(path):
                continue
            trusted += 1
            require_clean(path, f"fsck of {state.id}")
            step = allowed.match(tree_at(path, LIFE), words=True)
            if state.id.endswith(("none.0", "each.0")):
                allowed.floor = max(allowed.floor, step)
    return trusted


NEW = b"/e/new"
WORK = (make(NEW), write(NEW, 0, pattern(b"N", 5000)), rename(b"/d/f", b"/e/f"))
MORE = (write(b"/e/h", 0, pattern(b"H", 9000)), unlink(b"/e/f"))


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
