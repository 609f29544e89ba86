"""The reclaimer on a volume: it converges, keeps to its budget, and moves nothing twice."""

from __future__ import annotations

import random

import numpy as np
import pytest
from volumes import (
    REGULAR,
    HostDevice,
    ManualClock,
    VolumeBed,
    idle,
    remove_tree,
    validate_empty,
    validate_volume,
)

from pmemfs.fs import Volume
from pmemfs.fs.placement import DEFAULT_THRESHOLD_PAGES
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.records import Kind
from pmemfs.reclaim import Policy, Reclaimer
from pmemfs.reclaim.plan import MOVES_PER_WRITE

PAGE = 4096
PIECE = 512 * PAGE
IDLE_S = 30
THRESHOLD = DEFAULT_THRESHOLD_PAGES


def reclaimer_of(volume: Volume, clock: ManualClock, **policy: int) -> Reclaimer:
    return Reclaimer(volume, Policy(IDLE_S, **policy), now_s=lambda: clock.ns / 1e9)


def rest(reclaimer: Reclaimer, clock: ManualClock, seconds: float = 10 * IDLE_S) -> int:
    """Let time pass without requests; return how many steps were done."""
    steps = 0
    end = clock.ns + seconds * 10**9
    while clock.ns < end:
        wait = reclaimer.step()
        if wait:
            clock.advance(min(wait, 1.0))
        else:
            steps += 1
    return steps


def content_of(ino: int, pages: int) -> bytes:
    return b"".join(b"%08d" % (ino * 10_000 + page) * 512 for page in range(pages))


def scatter(volume: Volume, count: int = 1500, keep: float = 0.1) -> dict[int, bytes]:
    """Fill small extents with small files and remove most: return what the others hold."""
    dice = random.Random(7)
    files = {}
    for number in range(count):
        pages = dice.choice([1, 1, 1, 2, 5])
        ino = volume.create(ROOT_INO, b"%d" % number, REGULAR).ino
        files[number] = ino, content_of(ino, pages)
        volume.write(ino, 0, files[number][1])
    for number in list(files):
        if dice.random() > keep:
            volume.unlink(ROOT_INO, b"%d" % number)
            del files[number]
    volume.data_arenas.retire()
    return dict(files.values())


def require_content(volume: Volume, files: dict[int, bytes]) -> None:
    for ino, data in files.items():
        assert b"".join(volume.read(ino, 0, len(data) + 1)) == data


def test_idle_time_makes_free_space_whole_and_then_does_nothing(
    volume: Volume, clock: ManualClock
) -> None:
    reclaimer = reclaimer_of(volume, clock)
    files = scatter(volume)
    small = volume.pool.counts[Kind.SMALL]
    used = small * 511 - volume.pool.free_small_pages
    assert small > 2 * -(-used // 511)
    assert rest(reclaimer, clock) > 0
    assert volume.pool.counts[Kind.SMALL] == -(-used // 511)
    assert volume.moves.pages_moved <= used
    moved, sequence = volume.moves.pages_moved, volume.journal.sequence
    stores = volume.device.counters.stores
    assert rest(reclaimer, clock, 1000 * IDLE_S) == 0
    assert (volume.moves.pages_moved, volume.journal.sequence) == (moved, sequence)
    assert volume.device.counters.stores == stores
    validate_volume(volume)
    require_content(volume, files)


def test_compaction_splits_nothing(volume: Volume, clock: ManualClock) -> None:
    reclaimer = reclaimer_of(volume, clock)
    scatter(volume)
    rest(reclaimer, clock)
    assert volume.moves.pages_moved
    assert volume.tables.split_extents == 0
    assert volume.tables.resplits == 0


def test_nothing_moves_while_requests_come_and_space_is_whole_enough(
    volume: Volume, clock: ManualClock
) -> None:
    reclaimer = reclaimer_of(volume, clock)
    for number in range(40):
        ino = volume.create(ROOT_INO, b"%d" % number, REGULAR).ino
        volume.write(ino, 0, bytes(20 * PAGE))
        if number % 2:
            volume.unlink(ROOT_INO, b"%d" % (number - 1))
        while not reclaimer.step():
            pass
        clock.advance(1)
    assert volume.moves.pages_moved == 0


def test_short_of_whole_extents_compaction_does_not_wait_for_quiet(
    volume: Volume, clock: ManualClock
) -> None:
    reclaimer = reclaimer_of(volume, clock)
    for piece in range(volume.pool.free_extents - 11):
        ino = volume.create(ROOT_INO, b"big%d" % piece, REGULAR).ino
        volume.write(ino, 0, bytes(PIECE))
    files = scatter(volume)
    assert reclaimer.situation().is_short
    while not reclaimer.step():
        pass
    assert volume.moves.pages_moved
    assert not reclaimer.situation().is_short
    require_content(volume, files)


def test_the_budget_is_half_a_page_for_each_page_written(
    volume: Volume, clock: ManualClock
) -> None:
    reclaimer = reclaimer_of(volume, clock)
    scatter(volume, count=500, keep=0.5)
    for _ in range(20):
        for number in range(100):  # holes at once: every second page goes
            ino = volume.create(ROOT_INO, b"n%d" % number, REGULAR).ino
            volume.write(ino, 0, b"x")
        for number in range(100):
            volume.unlink(ROOT_INO, b"n%d" % number)
        rest(reclaimer, clock, 4 * IDLE_S)
        assert volume.moves.pages_moved <= MOVES_PER_WRITE * volume.pages_written
        assert reclaimer.budget_pages >= 0


def test_compaction_when_asked_goes_to_the_last_extent(volume: Volume, clock: ManualClock) -> None:
    reclaimer = reclaimer_of(volume, clock)
    files = scatter(volume, keep=0.85)
    used = volume.pool.counts[Kind.SMALL] * 511 - volume.pool.free_small_pages
    assert volume.pool.counts[Kind.SMALL] > -(-used // 511)
    reclaimer.compact()
    while reclaimer.is_compacting:
        reclaimer.step()
    assert volume.pool.counts[Kind.SMALL] == -(-used // 511)
    assert reclaimer.budget_pages > 0, "what is asked for does not count"
    require_content(volume, files)


def test_a_remounted_volume_is_compacted_too(bed: VolumeBed, clock: ManualClock) -> None:
    volume = bed.make()
    files = scatter(volume)
    volume = bed.reopen(volume)
    assert rest(reclaimer_of(volume, clock), clock) > 0
    assert volume.pool.counts[Kind.SMALL] == 1
    require_content(volume, files)


def test_all_is_free_after_compaction_and_deleting(volume: Volume, clock: ManualClock) -> None:
    reclaimer = reclaimer_of(volume, clock)
    scatter(volume)
    rest(reclaimer, clock)
    remove_tree(volume)
    rest(reclaimer, clock)
    validate_empty(volume)
    idle(volume)


# -- tails ----------------------------------------------------------------------------------------


def thin_tail(volume: Volume, pages: int = 10) -> int:
    """Make a file of one piece and a tail that is whole: it is larger than a piece already."""
    ino = volume.create(ROOT_INO, b"tail", REGULAR).ino
    volume.write(ino, 0, content_of(ino, 512))
    volume.write(ino, PIECE, content_of(ino, pages))
    assert volume.pool.counts[Kind.WHOLE] == 2
    return ino


def test_a_thin_tail_is_demoted_when_it_is_cold(volume: Volume, clock: ManualClock) -> None:
    reclaimer = reclaimer_of(volume, clock)
    ino = thin_tail(volume)
    rest(reclaimer, clock, IDLE_S - 1)
    assert volume.pool.counts[Kind.WHOLE] == 2
    rest(reclaimer, clock, 3)
    assert volume.pool.counts[Kind.WHOLE] == 1
    assert volume.inode(ino).pages == 512 + 10
    require_content(volume, {ino: content_of(ino, 512) + content_of(ino, 10)})


def test_a_tail_in_use_stays(volume: Volume, clock: ManualClock) -> None:
    reclaimer = reclaimer_of(volume, clock)
    ino = thin_tail(volume)
    for _ in range(10):
        volume.read(ino, PIECE, 100)
        rest(reclaimer, clock, IDLE_S - 1)
    assert volume.pool.counts[Kind.WHOLE] == 2


def test_a_preallocated_tail_stays(volume: Volume, clock: ManualClock) -> None:
    ino = thin_tail(volume)
    volume.fallocate(ino, 1, 0, 2 * PIECE)
    rest(reclaimer_of(volume, clock), clock)
    assert volume.pool.counts[Kind.WHOLE] == 2


def test_a_file_that_was_cut_is_demoted(volume: Volume, clock: ManualClock) -> None:
    reclaimer = reclaimer_of(volume, clock)
    ino = thin_tail(volume, 400)
    rest(reclaimer, clock)
    assert volume.pool.counts[Kind.WHOLE] == 2
    volume.setattr(ino, size=PIECE + 3 * PAGE)
    rest(reclaimer, clock)
    assert volume.pool.counts[Kind.WHOLE] == 1


def test_tails_left_by_another_mount_are_found(bed: VolumeBed, clock: ManualClock) -> None:
    volume = bed.make()
    ino = thin_tail(volume)
    volume = bed.reopen(volume)
    rest(reclaimer_of(volume, clock), clock)
    assert volume.pool.counts[Kind.WHOLE] == 1
    require_content(volume, {ino: content_of(ino, 512) + content_of(ino, 10)})


def test_a_dense_piece_is_promoted_once_an_extent_is_free(
    volume: Volume, clock: ManualClock
) -> None:
    reclaimer = reclaimer_of(volume, clock)
    ino = volume.create(ROOT_INO, b"dense", REGULAR).ino
    volume.write(ino, 0, content_of(ino, 200))
    fillers = 0
    while volume.pool.free_extents:
        filler = volume.create(ROOT_INO, b"filler%d" % fillers, REGULAR).ino
        volume.write(filler, 0, bytes(PIECE))
        fillers += 1
    volume.write(ino, 0, content_of(ino, 300))
    rest(reclaimer, clock)
    assert volume.inode(ino).pages == 300
    volume.unlink(ROOT_INO, b"filler0")
    rest(reclaimer, clock)
    assert volume.inode(ino).pages == 512
    require_content(volume, {ino: content_of(ino, 300)})


@pytest.mark.parametrize("swing_pages", [1, 16, 40, 300])
def test_no_ping_pong_at_the_threshold(
    volume: Volume, clock: ManualClock, swing_pages: int
) -> None:
    """A file that grows and shrinks across the threshold, resting each time as long as it takes.

    Small swings move nothing at all. Large ones are paid for: pages moved in the background stay
    within the budget, and promotions come only with 1/16 of a piece written since the demotion.
    """
    reclaimer = reclaimer_of(volume, clock)
    ino = thin_tail(volume, THRESHOLD)
    low, high = THRESHOLD - swing_pages, THRESHOLD + swing_pages // 2
    changes = 0
    for _ in range(30):
        for pages in (max(low, 1), high):
            before = volume.pool.counts[Kind.WHOLE]
            if pages == high:
                volume.write(ino, PIECE, content_of(ino, high))
            else:
                volume.setattr(ino, size=PIECE + pages * PAGE)
            rest(reclaimer, clock, 2 * IDLE_S)
            changes += volume.pool.counts[Kind.WHOLE] != before
    if swing_pages <= 32:
        assert changes == 0
        assert volume.moves.pages_moved == 0
        assert volume.pages_promoted == 0
    assert volume.moves.pages_moved <= MOVES_PER_WRITE * volume.pages_written
    assert volume.pages_promoted <= volume.moves.pages_moved + THRESHOLD


def test_a_log_that_grows_slowly_is_demoted_once(volume: Volume, clock: ManualClock) -> None:
    reclaimer = reclaimer_of(volume, clock)
    ino = thin_tail(volume, 3)
    for page in range(3, 250):
        rest(reclaimer, clock, 2 * IDLE_S)
        volume.write(ino, PIECE + page * PAGE, b"line")
    assert volume.moves.pages_moved == 3
    assert volume.pool.counts[Kind.WHOLE] == 1


# -- descriptors ----------------------------------------------------------------------------------


def test_the_cap_gives_cold_tables_back_at_once(volume: Volume, clock: ManualClock) -> None:
    reclaimer = reclaimer_of(volume, clock, most_descriptors=2 * 512 + 100)
    inos = []
    for number in range(6):
        inos.append(volume.create(ROOT_INO, b"%d" % number, REGULAR).ino)
        volume.write(inos[-1], 0, content_of(inos[-1], 250))
        volume.data_arenas.retire()
    for number in range(6):  # two fill an extent each
        volume.read(inos[number], 0, 1)
        clock.advance(1)
    assert volume.tables.split_extents == 6 - 3
    while not reclaimer.step():
        pass
    assert volume.tables.split_extents == 2


def test_coming_back_is_counted(volume: Volume, clock: ManualClock) -> None:
    reclaimer = reclaimer_of(volume, clock)
    ino = volume.create(ROOT_INO, b"f", REGULAR).ino
    volume.write(ino, 0, b"x")
    assert (volume.tables.splits, volume.tables.resplits) == (1, 0)
    rest(reclaimer, clock)
    volume.read(ino, 0, 1)
    assert (volume.tables.splits, volume.tables.resplits) == (2, 1)
    assert volume.tables.resplit_stores == 4
    volume.unlink(ROOT_INO, b"f")
    rest(reclaimer, clock)
    ino = volume.create(ROOT_INO, b"g", REGULAR).ino
    volume.write(ino, 0, b"x")
    assert volume.tables.resplits == 1, "another file in the same extent does not come back"


@pytest.mark.parametrize("what", ["move out", "demote", "promote"])
def test_a_full_host_leaves_a_move_undone(bed: VolumeBed, clock: ManualClock, what: str) -> None:
    volume = bed.make(device_class=HostDevice)
    ino = thin_tail(volume)
    small = volume.create(ROOT_INO, b"small", REGULAR).ino
    volume.write(small, 0, content_of(small, 300 if what == "promote" else 20))
    volume.moves._threshold_pages = 200 if what == "promote" else THRESHOLD
    volume.data_arenas.retire()
    HostDevice.full = True
    before = volume.device.counters.copy(), list(volume.pool.counts)
    if what == "move out":
        (extent,) = np.flatnonzero(volume.pool.open_column(Kind.SMALL)).tolist()
        assert volume.moves.move_out(extent) == 0, "there is no other extent with holes"
    elif what == "demote":
        small_extents = np.flatnonzero(volume.pool.open_column(Kind.SMALL)).tolist()
        for extent in small_extents:
            volume.pool.own(extent)
        assert volume.moves.demote(ino) == 0
        for extent in small_extents:
            volume.pool.disown(extent)
    else:
        assert volume.moves.promote(small, 0) == 0
    assert volume.moves.pages_moved == 0
    assert volume.pool.counts[Kind.WHOLE] == before[1][Kind.WHOLE]
    HostDevice.full = False
    require_content(volume, {ino: content_of(ino, 512) + content_of(ino, 10)})
