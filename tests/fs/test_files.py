"""Data of files: sparse to 16 TiB, holes, promotion, and never a byte that was not written."""

from __future__ import annotations

import errno

import pytest
from volumes import REGULAR, ManualClock, VolumeBed, idle, validate_empty, validate_volume

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fs.placement import DEFAULT_THRESHOLD_PAGES
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import EXTENT_BYTES, MAX_FILE_BYTES, PAGE_BYTES
from pmemfs.layout.records import Kind, MapKind
from pmemfs.units import GIB, MIB, TIB

KEEP_SIZE, PUNCH, ZERO = 1, 3, 16
THRESHOLD = DEFAULT_THRESHOLD_PAGES


@pytest.fixture
def ino(volume: Volume) -> int:
    """An empty file."""
    return volume.create(ROOT_INO, b"file", REGULAR).ino


def read(volume: Volume, ino: int, offset: int = 0, size: int = 1 << 30) -> bytes:
    return b"".join(volume.read(ino, offset, size))


def kinds(volume: Volume) -> dict[str, int]:
    return {kind.name: volume.pool.counts[kind] for kind in (Kind.WHOLE, Kind.SMALL)}


def runs(volume: Volume, ino: int) -> list[tuple[int, int, bool]]:
    """What is mapped, as ``(first page, pages, whole)``."""
    inode = volume.inode(ino)
    found = volume._maps.iter_runs(inode, 0, MAX_FILE_BYTES // PAGE_BYTES)
    return [(index, count, whole) for index, count, _, whole in found]


def leave_garbage(volume: Volume) -> None:
    """Fill the free space with 0xEE and give it back, so that what is not zeroed shows."""
    junk = volume.create(ROOT_INO, b"junk", REGULAR).ino
    offset = 0
    while True:
        try:
            offset += volume.write(junk, offset, b"\xee" * EXTENT_BYTES)
        except OSError:
            break
    volume.unlink(ROOT_INO, b"junk")
    while (orphan := volume.orphans.workable()) is not None:
        volume.orphans.work(orphan)


# -- read and write ------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 2 * MIB - 1, 3 * MIB, TIB + 5])
@pytest.mark.parametrize("length", [1, 4096, 5000, 3 * MIB])
def test_write_then_read(volume: Volume, ino: int, offset: int, length: int) -> None:
    leave_garbage(volume)
    data = (b"%07d " % offset * (length // 8 + 1))[:length]
    assert volume.write(ino, offset, data) == length
    assert volume.inode(ino).size == offset + length
    assert read(volume, ino, offset) == data
    around = max(0, offset - 5000)
    assert read(volume, ino, around, offset - around) == bytes(offset - around)


def test_reads_end_with_the_file(volume: Volume, ino: int) -> None:
    volume.write(ino, 0, b"x" * 5000)
    assert volume.read(ino, 5000, 10) == []
    assert volume.read(ino, 1 << 45, 10) == []
    assert read(volume, ino, 4990, 100) == b"x" * 10
    assert volume.read(ino, 0, 0) == []


def test_a_read_returns_pieces_of_the_mapping(volume: Volume, ino: int) -> None:
    volume.write(ino, 0, b"x" * 20_000)
    (piece,) = volume.read(ino, 100, 15_000)
    assert piece.readonly
    assert piece.obj is volume.device.view.obj


def test_holes_read_as_zeros_and_are_not_touched(volume: Volume, ino: int) -> None:
    volume.write(ino, 100 * MIB, b"x")
    host, counters = volume.device.host_bytes, volume.device.counters.copy()
    assert read(volume, ino, 0, 100 * MIB) == bytes(100 * MIB)
    assert volume.device.host_bytes == host
    assert volume.device.counters.since(counters).stores == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda volume, ino: volume.read(ino, 0, 1),
        lambda volume, ino: volume.write(ino, 0, b"x"),
        lambda volume, ino: volume.fallocate(ino, 0, 0, 1),
        lambda volume, ino: volume.seek(ino, 0, data=True),
        lambda volume, ino: volume.setattr(ino, size=0),
    ],
    ids=["read", "write", "fallocate", "seek", "truncate"],
)
def test_only_files_have_data(volume: Volume, call) -> None:
    link = volume.symlink(ROOT_INO, b"link", b"x").ino
    for ino, code in ((ROOT_INO, errno.EISDIR), (link, errno.EINVAL)):
        with pytest.raises(PmemfsError) as caught:
            call(volume, ino)
        assert caught.value.errno == code


# -- 16 TiB --------------------------------------------------------------------------------------


def test_a_sparse_file_of_16_tib(bed: VolumeBed, volume: Volume, ino: int) -> None:
    places = [0, GIB, 17 * GIB - 1, TIB, 9 * TIB - 3, MAX_FILE_BYTES - 6]
    for place in places:
        volume.write(ino, place, b"%06d" % (place % 999983))
    volume = bed.reopen(volume)
    inode = volume.inode(ino)
    assert inode.size == MAX_FILE_BYTES
    assert inode.pages <= len(places) + 2
    for place in places:
        assert read(volume, ino, place, 6) == b"%06d" % (place % 999983)
    assert sum(count for _, count, _ in runs(volume, ino)) == inode.pages
    volume.unlink(ROOT_INO, b"file")
    idle(volume)
    validate_empty(volume)


def test_the_largest_file(volume: Volume, ino: int) -> None:
    assert volume.write(ino, MAX_FILE_BYTES - 2, b"abc") == 2
    for call in (
        lambda: volume.write(ino, MAX_FILE_BYTES, b"x"),
        lambda: volume.setattr(ino, size=MAX_FILE_BYTES + 1),
        lambda: volume.fallocate(ino, 0, MAX_FILE_BYTES - 1, 2),
        lambda: volume.fallocate(ino, PUNCH, MAX_FILE_BYTES - 1, 2),
    ):
        with pytest.raises(PmemfsError) as caught:
            call()
        assert caught.value.errno == errno.EFBIG
    volume.setattr(ino, size=MAX_FILE_BYTES)
    assert read(volume, ino, MAX_FILE_BYTES - 3) == b"\0ab"


def test_a_map_of_many_fragments_is_a_tree_and_a_list_again(
    bed: VolumeBed, volume: Volume, ino: int
) -> None:
    for number in range(100):
        volume.write(ino, number * 2 * PAGE_BYTES, b"%d" % number)
    assert volume.inode(ino).map_kind == MapKind.TREE
    far = (4 * MIB, 2 * GIB, TIB, 15 * TIB)
    for offset in far:
        volume.write(ino, offset, b"far")
    assert volume.inode(ino).map_height == 4
    volume = bed.reopen(volume)
    for number in range(100):
        assert read(volume, ino, number * 2 * PAGE_BYTES, 2).strip(b"\0") == b"%d" % number
    for offset in far:
        assert read(volume, ino, offset, 3) == b"far"
    volume.setattr(ino, size=0)
    assert volume.inode(ino).map_kind == MapKind.RUNS
    assert volume.pool.counts[Kind.METADATA] == 1  # its owner page and the root's leaf
    validate_volume(volume)


# -- never another's bytes -----------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1, 512], ids=["whole", "small"])
@pytest.mark.parametrize("grow", ["truncate", "write", "fallocate", "write far", "allocate far"])
@pytest.mark.parametrize("size", [1, 4096, 5000, 2 * MIB - 1, 2 * MIB + 1])
def test_what_was_cut_off_never_comes_back(
    bed: VolumeBed, threshold: int, grow: str, size: int
) -> None:
    """A file made longer in any way reads as zeros from its old end on."""
    volume = bed.make(threshold_pages=threshold)
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.write(ino, 0, b"\xee" * 5 * MIB)
    volume.setattr(ino, size=size)
    end = 6 * MIB
    if grow == "truncate":
        volume.setattr(ino, size=end)
    elif grow == "write":
        volume.write(ino, size + 10, b"x")
        end = size + 10
    elif grow == "write far":
        volume.write(ino, end, b"x")
    elif grow == "fallocate":
        volume.fallocate(ino, 0, 0, end)
    else:
        volume.fallocate(ino, 0, end, 1)
    assert read(volume, ino, 0, end) == b"\xee" * size + bytes(end - size)


def test_a_long_unlinked_file_cut_and_grown_reads_zeros(volume: Volume, ino: int) -> None:
    """More than one transaction can free, without a name: the rest must not come back."""
    volume.write(ino, 0, b"\xee" * 40 * MIB)
    volume.hold(ino)
    volume.unlink(ROOT_INO, b"file")
    volume.setattr(ino, size=0)
    volume.setattr(ino, size=40 * MIB)
    assert not read(volume, ino).strip(b"\0")
    volume.write(ino, 39 * MIB, b"x")
    assert not read(volume, ino, 0, 39 * MIB).strip(b"\0")
    volume.release(ino)
    idle(volume)
    validate_empty(volume)


def test_a_long_file_cut_then_unlinked_while_held(volume: Volume, ino: int) -> None:
    volume.write(ino, 0, b"\xee" * 40 * MIB)
    volume.hold(ino)
    volume.setattr(ino, size=PAGE_BYTES)
    volume.unlink(ROOT_INO, b"file")
    volume.setattr(ino, size=40 * MIB)
    assert not read(volume, ino, PAGE_BYTES).strip(b"\0")
    volume.release(ino)
    idle(volume)
    validate_empty(volume)


@pytest.mark.parametrize("threshold", [1, 64, 512])
def test_reused_space_shows_nothing_of_its_last_owner(bed: VolumeBed, threshold: int) -> None:
    volume = bed.make(threshold_pages=threshold)
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    leave_garbage(volume)
    for offset in range(100, 8 * MIB, 300_000):
        volume.write(ino, offset, b"x")
    volume.fallocate(ino, 0, 9 * MIB, MIB)
    volume.setattr(ino, size=20 * MIB)
    assert set(read(volume, ino)) == {0, ord("x")}


# -- whole and small -----------------------------------------------------------------------------


def test_a_piece_is_promoted_at_the_threshold(volume: Volume, ino: int) -> None:
    for number in range(THRESHOLD - 1):
        volume.write(ino, number * PAGE_BYTES, b"%04d" % number)
    assert kinds(volume) == {"WHOLE": 0, "SMALL": 1}
    volume.write(ino, (THRESHOLD - 1) * PAGE_BYTES, b"last")
    assert kinds(volume)["WHOLE"] == 1
    assert runs(volume, ino) == [(0, 512, True)]
    assert volume.inode(ino).pages == 512
    for number in range(THRESHOLD - 1):
        assert read(volume, ino, number * PAGE_BYTES, 4) == b"%04d" % number
    idle(volume)
    assert kinds(volume) == {"WHOLE": 1, "SMALL": 0}, "the pages it had are free"
    assert volume.tables is not None
    assert volume.tables.split_extents == 0


def test_promotion_of_fragments_in_a_tree(volume: Volume, ino: int) -> None:
    other = volume.create(ROOT_INO, b"other", REGULAR).ino
    for number in range(THRESHOLD):
        volume.write(ino, number * 7 // 4 * PAGE_BYTES, b"%04d" % number)
        volume.write(other, number * PAGE_BYTES * 512, b"other")
    assert volume.inode(ino).pages == 512
    assert volume.inode(other).map_kind == MapKind.TREE
    for number in range(THRESHOLD):
        assert read(volume, ino, number * 7 // 4 * PAGE_BYTES, 4) == b"%04d" % number
    validate_volume(volume)


def test_a_large_write_takes_whole_extents_at_once(volume: Volume, ino: int) -> None:
    before = volume.device.counters.copy()
    volume.write(ino, 0, bytes(8 * MIB))
    used = volume.device.counters.since(before)
    assert runs(volume, ino) == [(0, 2048, True)]
    assert used.publishes == 4, "one transaction for each extent"
    assert used.bytes_stored < 8 * MIB + 16 * 1024, "data is stored once"
    assert volume.tables is not None
    assert volume.tables.split_extents == 0


def test_a_large_file_never_causes_a_split(volume: Volume, ino: int) -> None:
    volume.write(ino, 0, bytes(16 * MIB))
    for offset in range(0, 16 * MIB, 333 * 1024):
        volume.write(ino, offset, b"x" * 4096)
        volume.read(ino, offset + 8192, 4096)
    assert volume.tables is not None
    assert volume.tables.splits == 0


def test_a_file_larger_than_a_piece_grows_by_whole_extents(volume: Volume, ino: int) -> None:
    volume.write(ino, 0, bytes(4 * MIB))
    volume.write(ino, 4 * MIB, b"x")
    assert runs(volume, ino) == [(0, 1536, True)]


def test_scattered_pages_of_a_sparse_file_stay_small(volume: Volume, ino: int) -> None:
    for number in range(600):
        volume.write(ino, number * 64 * MIB, b"x")
    assert kinds(volume) == {"WHOLE": 0, "SMALL": 2}


def test_small_files_share_an_extent(volume: Volume) -> None:
    for number in range(100):
        ino = volume.create(ROOT_INO, b"%d" % number, REGULAR).ino
        volume.write(ino, 0, b"x" * 10_000)
    assert kinds(volume) == {"WHOLE": 0, "SMALL": 1}


# -- truncate, punch, fallocate, seek ------------------------------------------------------------


def test_truncate_gives_pages_back(volume: Volume, ino: int) -> None:
    free = volume.pool.free_pages
    volume.write(ino, 0, b"x" * 100 * PAGE_BYTES)
    volume.setattr(ino, size=50 * PAGE_BYTES + 1)
    assert volume.inode(ino).pages == 51
    volume.setattr(ino, size=0)
    idle(volume)
    assert volume.pool.free_pages == free


def test_a_long_truncation_is_finished_in_idle_time(volume: Volume, ino: int) -> None:
    volume.write(ino, 0, bytes(50 * MIB))
    before = volume.device.counters.copy()
    volume.setattr(ino, size=0)
    assert volume.device.counters.since(before).publishes == 1, "one bounded transaction"
    inode = volume.inode(ino)
    assert inode in volume.orphans
    assert inode.size == 0
    steps = 0
    while (orphan := volume.orphans.workable()) is not None:
        volume.orphans.work(orphan)
        steps += 1
    assert 1 <= steps < 6
    assert inode.pages == 0
    volume.write(ino, 0, b"again")
    assert read(volume, ino) == b"again"


def test_punch_makes_holes(volume: Volume, ino: int) -> None:
    data = bytes(range(1, 256)) * 400
    volume.write(ino, 0, data)
    volume.fallocate(ino, PUNCH, 5000, 20_000)
    expected = data[:5000] + bytes(20_000) + data[25_000:]
    assert read(volume, ino) == expected
    assert volume.inode(ino).size == len(data)
    assert volume.inode(ino).pages == 25 - 4
    volume.fallocate(ino, PUNCH, 0, TIB)
    assert volume.inode(ino).pages == 0
    assert read(volume, ino) == bytes(len(data))


def test_punch_of_whole_extents(volume: Volume, ino: int) -> None:
    volume.write(ino, 0, b"x" * 8 * MIB)
    volume.fallocate(ino, PUNCH, MIB, 5 * MIB)
    assert read(volume, ino) == b"x" * MIB + bytes(5 * MIB) + b"x" * 2 * MIB
    assert runs(volume, ino) == [(0, 512, True), (1536, 512, True)]


def test_punch_costs_by_what_is_mapped(volume: Volume, ino: int) -> None:
    """A hole of a TiB is one transaction, for the times; each piece with pages is one more."""
    volume.setattr(ino, size=TIB)
    volume.write(ino, 0, b"x" * PAGE_BYTES)
    volume.write(ino, TIB // 2, b"y" * 3 * MIB)
    volume.write(ino, TIB - 5, b"z" * 5)
    for first, pieces in ((MIB, 4), (0, 1)):
        before, mtime = volume.journal.sequence, volume.inode(ino).mtime_ns
        volume.fallocate(ino, PUNCH, first, TIB)
        assert volume.journal.sequence - before == pieces
        assert volume.inode(ino).mtime_ns >= mtime
    assert volume.inode(ino).pages == 0
    with pytest.raises(PmemfsError, match="no data"):
        volume.seek(ino, 0, data=True)


def test_punch_of_a_full_list_of_runs_zeroes_instead(volume: Volume, ino: int) -> None:
    """Allocates nothing: a hole that would need a node page is made of zeros."""
    for number in range(8):
        volume.write(ino, number * 8 * PAGE_BYTES, b"x" * 3 * PAGE_BYTES)
    assert volume.inode(ino).map_kind == MapKind.RUNS
    for number in range(8):
        volume.fallocate(ino, PUNCH, (number * 8 + 1) * PAGE_BYTES, PAGE_BYTES)
    assert volume.inode(ino).map_kind == MapKind.RUNS
    for number in range(8):
        base = number * 8 * PAGE_BYTES
        page = b"x" * PAGE_BYTES
        assert read(volume, ino, base, 3 * PAGE_BYTES) == page + bytes(PAGE_BYTES) + page


@pytest.mark.parametrize("mode", [0, KEEP_SIZE])
def test_fallocate_allocates_zeros(volume: Volume, ino: int, mode: int) -> None:
    leave_garbage(volume)
    volume.write(ino, 5000, b"x" * 10)
    volume.fallocate(ino, mode, 100, 3 * MIB)
    inode = volume.inode(ino)
    assert inode.size == (5010 if mode else 100 + 3 * MIB)
    assert inode.pages >= 769
    free = volume.pool.free_pages
    volume.write(ino, 8192, b"y" * 2 * MIB)
    assert volume.pool.free_pages == free, "it had been allocated"
    volume.setattr(ino, size=3 * MIB)
    expected = bytes(5000) + b"x" * 10 + bytes(3182) + b"y" * 2 * MIB
    assert read(volume, ino) == expected.ljust(3 * MIB, b"\0")


def test_pages_behind_the_end_go_with_truncation(volume: Volume, ino: int) -> None:
    volume.fallocate(ino, KEEP_SIZE, 0, 10 * MIB)
    assert volume.inode(ino).pages == 5 * 512
    volume.setattr(ino, size=0)
    assert volume.inode(ino).pages == 0


@pytest.mark.parametrize("mode", [ZERO, ZERO | KEEP_SIZE])
def test_zero_range(volume: Volume, ino: int, mode: int) -> None:
    volume.write(ino, 0, b"x" * 50_000)
    volume.fallocate(ino, mode, 10_000, 90_000)
    assert volume.inode(ino).size == (50_000 if mode & KEEP_SIZE else 100_000)
    assert read(volume, ino, 0, 50_000) == b"x" * 10_000 + bytes(40_000)


@pytest.mark.parametrize(
    ("mode", "offset", "length", "code"),
    [
        (0, 0, 0, errno.EINVAL),
        (0, -1, 5, errno.EINVAL),
        (0, 0, -5, errno.EINVAL),
        (PUNCH, 0, 0, errno.EINVAL),
        (2, 0, 5, errno.EOPNOTSUPP),
        (8, 0, 4096, errno.EOPNOTSUPP),
        (32, 0, 4096, errno.EOPNOTSUPP),
        (64, 0, 4096, errno.EOPNOTSUPP),
    ],
)
def test_fallocate_errors(
    volume: Volume, ino: int, mode: int, offset: int, length: int, code: int
) -> None:
    with pytest.raises(PmemfsError) as caught:
        volume.fallocate(ino, mode, offset, length)
    assert caught.value.errno == code


def test_seek_data_and_hole(volume: Volume, ino: int) -> None:
    with pytest.raises(PmemfsError) as caught:
        volume.seek(ino, 0, data=True)
    assert caught.value.errno == errno.ENXIO
    volume.write(ino, 10 * PAGE_BYTES, b"x" * PAGE_BYTES)
    volume.write(ino, 5 * GIB, b"x")
    volume.setattr(ino, size=TIB)
    page = PAGE_BYTES
    for offset, data, hole in [
        (0, 10 * page, 0),
        (5, 10 * page, 5),
        (10 * page, 10 * page, 11 * page),
        (10 * page + 7, 10 * page + 7, 11 * page),
        (11 * page, 5 * GIB, 11 * page),
        (5 * GIB, 5 * GIB, 5 * GIB + page),
        (5 * GIB + page, None, 5 * GIB + page),
        (TIB - 1, None, TIB - 1),
        (TIB, None, None),
        (TIB + 1, None, None),
        (-1, None, None),
    ]:
        for want, expected in ((True, data), (False, hole)):
            if expected is not None:
                assert volume.seek(ino, offset, data=want) == expected
                continue
            with pytest.raises(PmemfsError) as caught:
                volume.seek(ino, offset, data=want)
            assert caught.value.errno == errno.ENXIO


def test_the_end_of_data_is_a_hole(volume: Volume, ino: int) -> None:
    volume.write(ino, 0, b"x" * 5000)
    assert volume.seek(ino, 0, data=False) == 5000


# -- fsync and dirty pages -----------------------------------------------------------------------


def test_fsync_flushes_what_was_overwritten(volume: Volume, ino: int) -> None:
    volume.write(ino, 0, b"x" * 20 * PAGE_BYTES)
    volume.fsync(ino)
    before = volume.device.counters.copy()
    volume.write(ino, PAGE_BYTES, b"y" * 3 * PAGE_BYTES)
    assert volume.device.counters.since(before).lines_flushed == 0, "in place: only marked dirty"
    volume.fsync(ino)
    used = volume.device.counters.since(before)
    assert used.lines_flushed == 3 * 64
    assert (used.fences, used.syncs) == (1, 1)
    volume.fsync(ino)
    assert volume.device.counters.since(before).lines_flushed == 3 * 64


def test_overwriting_within_a_tick_commits_nothing(
    volume: Volume, ino: int, clock: ManualClock
) -> None:
    volume.write(ino, 0, b"x" * 20 * PAGE_BYTES)
    before = volume.device.counters.copy()
    for number in range(20):
        volume.write(ino, number * PAGE_BYTES, b"y" * PAGE_BYTES)
    assert volume.device.counters.since(before).publishes == 0
    clock.advance(0.01)
    volume.write(ino, 0, b"z")
    assert volume.device.counters.since(before).publishes == 1


# -- copying -------------------------------------------------------------------------------------


def test_copy_range(volume: Volume, ino: int) -> None:
    other = volume.create(ROOT_INO, b"other", REGULAR).ino
    data = bytes(range(256)) * 20_000
    volume.write(ino, 0, data)
    volume.setattr(ino, size=7 * MIB)
    done = 0
    while n := volume.copy_range(ino, 1000 + done, other, 77 + done, 1 << 30):
        done += n
    assert done == 7 * MIB - 1000
    assert read(volume, other) == bytes(77) + data[1000:] + bytes(7 * MIB - len(data))
