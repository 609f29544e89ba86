"""Page descriptors: split on the first touch, filled as touched, gone when idle."""

from __future__ import annotations

import errno

import pytest
from page_layer import PageLayer
from volumes import START_S, HostDevice

from pmemfs.errors import PmemfsError
from pmemfs.layout.geometry import SPLIT_TABLE_BYTES, extent_to_offset, extent_to_pfn
from pmemfs.layout.records import HEAD, Kind, PageFlag
from pmemfs.layout.words import owner_word

SPLIT, REFERENCED, DIRTY = PageFlag.SPLIT, PageFlag.REFERENCED, PageFlag.DIRTY


@pytest.fixture
def extent(layer: PageLayer) -> int:
    """A full small extent of inode 5."""
    return layer.small_extents(1)[0]


def table_of(layer: PageLayer, extent: int) -> int | None:
    """What a reader of the device finds: the byte offset of the split table, or None."""
    head = layer.head(extent)
    if head["generation"] != layer.generation or not head["table"] & SPLIT:
        return None
    return (head["table"] >> 8) * 4096


def test_nothing_is_split_before_it_is_touched(layer: PageLayer, extent: int) -> None:
    assert table_of(layer, extent) is None
    assert layer.tables.split_extents == 0
    assert layer.tables.coldest() is None


def test_the_first_touch_splits(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 1)
    offset = table_of(layer, extent)
    reserve = layer.pool.geometry.reserve_extent
    assert offset == extent_to_offset(reserve), "the reserve is used first"
    assert offset % SPLIT_TABLE_BYTES == 0
    assert layer.head(extent)["access_s"] == START_S
    assert (layer.tables.splits, layer.tables.split_extents) == (1, 1)


def test_descriptors_are_filled_as_touched(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 1)
    layer.tables.touch((extent << 9) + 10, 4, DIRTY, 2)
    rows = layer.descriptors(extent)
    assert rows[:, 0].nonzero()[0].tolist() == [3, 10, 11, 12, 13]
    assert rows[3].tolist() == [owner_word(5, 2), START_S << 8, 0]
    assert rows[12].tolist() == [owner_word(5, 11), START_S << 8 | DIRTY, 2]


def test_a_table_starts_empty_whatever_was_there(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 200, DIRTY, 9)
    layer.tables.unsplit(extent)
    layer.tables.touch((extent << 9) + 7, 1)
    assert layer.descriptors(extent)[:, 0].nonzero()[0].tolist() == [7]


@pytest.mark.parametrize("count", [1, 5])
def test_at_most_one_stamp_per_second_and_page(layer: PageLayer, extent: int, count: int) -> None:
    first = (extent << 9) + 3
    layer.tables.touch(first, count)
    before = layer.device.counters.copy()
    for _ in range(100):
        layer.tables.touch(first, count)
    assert layer.device.counters.since(before).stores == 0
    layer.clock.advance(1)
    layer.tables.touch(first, count)
    used = layer.device.counters.since(before)
    assert used.stores == 2  # the head and the run of descriptors
    assert used.fences == used.flushes == 0, "stamps are not ordered"
    rows = layer.descriptors(extent)[3 : 3 + count]
    assert (rows[:, 1] == (START_S + 1) << 8 | REFERENCED).all()


def test_one_touch_beside_others_marks_only_its_own_pages(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 1)
    layer.clock.advance(5)
    layer.tables.touch((extent << 9) + 3, 3)
    states = layer.descriptors(extent)[3:6, 1].tolist()
    assert states == [(START_S + 5) << 8 | REFERENCED, (START_S + 5) << 8, (START_S + 5) << 8]


def test_the_head_has_the_last_access(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 1)
    layer.clock.advance(7)
    layer.tables.touch((extent << 9) + 4, 1)
    assert layer.head(extent)["access_s"] == START_S + 7
    assert layer.head(extent)["table"] & REFERENCED
    assert layer.tables.coldest() == (extent, START_S + 7)


def test_unsplit_gives_the_table_back(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 1)
    layer.tables.unsplit(extent)
    assert table_of(layer, extent) is None
    assert layer.tables.split_extents == 0
    assert layer.tables.unsplits == 1
    assert layer.head(extent)["access_s"] == START_S


def test_unsplit_flushes_and_fences_dirty_pages_only(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 4, DIRTY)
    layer.tables.touch((extent << 9) + 100, 50)
    before = layer.device.counters.copy()
    layer.tables.unsplit(extent)
    used = layer.device.counters.since(before)
    assert (used.flushes, used.lines_flushed, used.fences) == (4, 256, 1)
    assert layer.head(extent)["wear"] == 256


def test_unsplit_of_clean_pages_orders_nothing(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 4)
    before = layer.device.counters.copy()
    layer.tables.unsplit(extent)
    used = layer.device.counters.since(before)
    assert (used.flushes, used.fences) == (0, 0)


def test_wear_is_folded_into_the_head(layer: PageLayer, extent: int) -> None:
    for _ in range(3):
        layer.tables.touch((extent << 9) + 3, 2, 0, 64)
        layer.tables.touch((extent << 9) + 3, 1, 0, 1)
        layer.tables.unsplit(extent)
    assert layer.head(extent)["wear"] == 3 * 129


def test_wear_stays_at_its_end(layer: PageLayer, extent: int) -> None:
    """No device wears that much; a damaged image says so, and that must stop nobody."""
    at_its_end = (1 << 64) - 1
    offset = layer.pool.geometry.head_offset(extent) + HEAD.offset_of["wear"]
    layer.device.store(offset, at_its_end.to_bytes(8, "little"))
    layer.tables.touch((extent << 9) + 3, 1, 0, 64)
    layer.tables.unsplit(extent)
    layer.tables.note_copy(extent, 64)
    assert layer.head(extent)["wear"] == at_its_end


def test_flush_dirty_cleans_the_pages(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 2, DIRTY)
    assert layer.tables.is_dirty(extent)
    assert layer.tables.flush_dirty(extent)
    assert not layer.tables.is_dirty(extent)
    assert not layer.tables.flush_dirty(extent)
    rows = layer.descriptors(extent)[3:5]
    assert (rows[:, 1] == START_S << 8).all()
    assert (rows[:, 2] == 64).all()
    layer.tables.touch((extent << 9) + 4, 1, DIRTY)
    before = layer.device.counters.copy()
    assert layer.tables.flush_dirty(extent)
    assert layer.device.counters.since(before).lines_flushed == 64


def test_sequence_word_moves_around_split_and_unsplit(layer: PageLayer, extent: int) -> None:
    before = layer.image.control()["sequence"]
    layer.tables.touch((extent << 9) + 3, 1)
    after = layer.image.control()["sequence"]
    assert after > before
    assert after % 2 == 0
    layer.tables.unsplit(extent)
    assert layer.image.control()["sequence"] > after


def test_freed_pages_lose_their_descriptors(layer: PageLayer, extent: int) -> None:
    layer.tables.touch((extent << 9) + 3, 4)
    layer.tables.forget((extent << 9) + 4, 2)
    assert layer.descriptors(extent)[:, 0].nonzero()[0].tolist() == [3, 6]
    layer.tables.forget_extent(extent)
    assert layer.tables.split_extents == 0
    layer.tables.forget((extent << 9) + 4, 2)
    layer.tables.forget_extent(extent)


# -- where tables live ---------------------------------------------------------------------------


def split_many(image_dir, clock, n_splits: int, size_bytes: int = 256 << 20) -> PageLayer:
    layer = PageLayer(image_dir / "many.img", clock, size_bytes)
    for extent in layer.small_extents(n_splits):
        layer.tables.touch((extent << 9) + 1, 1)
    return layer


def descriptor_extents(layer: PageLayer) -> list[int]:
    n = layer.pool.geometry.n_extents
    return [extent for extent in range(n) if layer.pool.kind(extent) == Kind.DESCRIPTOR]


def test_slots_are_taken_in_turn(layer: PageLayer, extent: int) -> None:
    """One extent that is split again and again wears all slots of the reserve alike."""
    slots = []
    for _ in range(66):
        layer.tables.touch((extent << 9) + 3, 1)
        slots.append(table_of(layer, extent))
        layer.tables.unsplit(extent)
    start = extent_to_offset(layer.pool.geometry.reserve_extent)
    assert slots[:64] == [start + slot * SPLIT_TABLE_BYTES for slot in range(64)]
    assert slots[64:] == slots[:2]


def test_more_tables_take_an_extent_and_give_it_back(image_dir, clock) -> None:
    layer = split_many(image_dir, clock, 64)
    reserve = layer.pool.geometry.reserve_extent
    assert descriptor_extents(layer) == [reserve]
    ((pfn, _),) = layer.allocate(1)
    layer.tables.touch(pfn, 1)
    (extra,) = set(descriptor_extents(layer)) - {reserve}
    assert table_of(layer, pfn >> 9) == extent_to_offset(extra)
    assert layer.head(extra)["kind"] == Kind.DESCRIPTOR
    layer.tables.unsplit(pfn >> 9)
    assert descriptor_extents(layer) == [reserve]
    assert layer.pool.kind(extra) == Kind.RETURNED
    layer.validate()
    layer.close()


def test_every_split_extent_has_a_table_of_its_own(image_dir, clock) -> None:
    layer = split_many(image_dir, clock, 100)
    offsets = [table_of(layer, extent) for extent in layer.tables._tables]
    assert len(set(offsets)) == 100
    layer.tables.close()
    assert layer.tables.split_extents == 0
    assert descriptor_extents(layer) == [layer.pool.geometry.reserve_extent]
    layer.validate()
    layer.close()


def full_and_split(image_dir, clock) -> tuple[PageLayer, int]:
    """64 split extents, every other extent taken, and one more small extent, not split."""
    layer = split_many(image_dir, clock, 64)
    ((pfn, _),) = layer.allocate(1)
    layer.fill()
    assert not layer.pool.free_extents
    return layer, pfn


def test_a_split_on_a_full_device_takes_the_coldest_table(image_dir, clock) -> None:
    layer, pfn = full_and_split(image_dir, clock)
    coldest = layer.tables.coldest()[0]
    layer.tables.touch(pfn, 1)
    assert layer.tables.stolen == 1
    assert table_of(layer, coldest) is None
    assert table_of(layer, pfn >> 9) is not None
    assert layer.tables.split_extents == 64
    layer.close()


def test_stealing_makes_dirty_pages_durable(image_dir, clock) -> None:
    layer, pfn = full_and_split(image_dir, clock)
    coldest = layer.tables.coldest()[0]
    layer.tables.touch((coldest << 9) + 1, 1, DIRTY)
    before = layer.device.counters.copy()
    layer.tables.touch(pfn, 1)
    used = layer.device.counters.since(before)
    assert (used.lines_flushed, used.fences) == (64, 1)
    assert table_of(layer, coldest) is None
    layer.close()


def test_one_that_was_used_again_gets_a_second_chance(image_dir, clock) -> None:
    layer, pfn = full_and_split(image_dir, clock)
    extents = list(layer.tables._tables)
    clock.advance(1)
    for extent in extents[:3]:
        layer.tables.touch((extent << 9) + 1, 1)
    layer.tables.touch(pfn, 1)
    assert [e for e in extents if table_of(layer, e) is None] == [extents[3]]
    layer.close()


def test_all_used_again_and_still_a_split_never_fails(image_dir, clock) -> None:
    layer, pfn = full_and_split(image_dir, clock)
    clock.advance(1)
    for extent in list(layer.tables._tables):
        layer.tables.touch((extent << 9) + 1, 1)
    layer.tables.touch(pfn, 1)
    assert layer.tables.split_extents == 64
    assert table_of(layer, pfn >> 9) is not None
    layer.close()


def test_a_full_host_is_like_a_full_device(image_dir, clock, monkeypatch) -> None:
    layer = split_many(image_dir, clock, 64)
    ((pfn, _),) = layer.allocate(1)
    monkeypatch.setattr(HostDevice, "full", True)
    assert layer.pool.free_extents
    layer.tables.touch(pfn, 1)
    assert layer.tables.stolen == 1
    layer.validate()
    layer.close()


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_a_host_that_refuses_an_extent_is_like_a_full_one(
    image_dir, clock, monkeypatch, code
) -> None:
    def refuse(*arguments: object) -> None:
        raise PmemfsError(code, "a test says so")

    layer = split_many(image_dir, clock, 64)
    ((pfn, _),) = layer.allocate(1)
    monkeypatch.setattr(layer.pool, "take", refuse)
    layer.tables.touch(pfn, 1)
    assert layer.tables.stolen == 1
    layer.validate()
    layer.close()


def test_unsplit_needs_no_space(image_dir, clock, monkeypatch) -> None:
    layer, pfn = full_and_split(image_dir, clock)
    layer.tables.touch(pfn, 1, DIRTY)
    monkeypatch.setattr(HostDevice, "full", True)
    layer.tables.close()
    assert layer.tables.split_extents == 0
    layer.validate()
    layer.close()


def test_a_new_generation_voids_everything_without_a_scan(image_dir, clock) -> None:
    layer = split_many(image_dir, clock, 70)
    extents = list(layer.tables._tables)
    (extra,) = set(descriptor_extents(layer)) - {layer.pool.geometry.reserve_extent}
    layer.reopen()
    assert all(layer.head(extent)["table"] & SPLIT for extent in extents), "nothing was rewritten"
    assert all(table_of(layer, extent) is None for extent in extents)
    assert layer.pool.kind(extra) == Kind.RETURNED
    assert layer.tables.split_extents == 0
    layer.tables.touch((extents[0] << 9) + 5, 1)
    assert layer.descriptors(extents[0])[:, 0].nonzero()[0].tolist() == [5]
    layer.validate()
    layer.close()


# -- whole extents -------------------------------------------------------------------------------


def test_whole_extents_are_never_split(layer: PageLayer) -> None:
    whole = layer.take(Kind.WHOLE)
    layer.tables.touch_whole(extent_to_pfn(whole), 1, 3)
    assert layer.tables.split_extents == 0
    head = layer.head(whole)
    assert (head["table"], head["access_s"], head["wear"]) == (0, START_S, 3)


def test_a_whole_extent_is_stamped_once_per_second(layer: PageLayer) -> None:
    whole = layer.take(Kind.WHOLE)
    layer.tables.touch_whole(extent_to_pfn(whole), 1, 1)
    before = layer.device.counters.copy()
    for _ in range(50):
        layer.tables.touch_whole(extent_to_pfn(whole), 1, 1)
    assert layer.device.counters.since(before).stores == 0
    layer.clock.advance(1)
    layer.tables.touch_whole(extent_to_pfn(whole), 1, 1)
    assert layer.device.counters.since(before).stores == 1
    assert layer.head(whole)["wear"] == 52


def test_close_stores_the_wear_not_yet_stored(layer: PageLayer) -> None:
    whole = layer.take(Kind.WHOLE)
    for _ in range(10):
        layer.tables.touch_whole(extent_to_pfn(whole), 1, 7)
    layer.tables.close()
    assert layer.head(whole)["wear"] == 70


def test_memory_for_whole_extents_is_bounded(layer: PageLayer, monkeypatch) -> None:
    monkeypatch.setattr("pmemfs.pages.descriptors._WHOLE_CACHE", 4)
    wholes = layer.fill()
    for _ in range(2):
        for extent in wholes:
            layer.tables.touch_whole(extent_to_pfn(extent), 1, 5)
    assert len(layer.tables._whole) == 4
    layer.tables.close()
    assert [layer.head(extent)["wear"] for extent in wholes] == [10] * 28
