"""Taking and releasing extents: counts, heads, host space, aborts."""

from __future__ import annotations

import errno
import random

import pytest
from page_layer import PageLayer
from volumes import HostDevice

from pmemfs.errors import InvariantError, PmemfsError
from pmemfs.layout.geometry import EXTENT_BYTES, PAGES_PER_EXTENT, extent_to_offset, extent_to_pfn
from pmemfs.layout.records import HEAD, Kind
from pmemfs.pages.extents import FRESH_AFTER, pack_head


def store_in(layer: PageLayer, extent: int) -> None:
    layer.device.store(extent_to_offset(extent) + 100, b"old content")


def content(layer: PageLayer, extent: int) -> bytes:
    start = extent_to_offset(extent)
    return bytes(layer.device.view[start : start + EXTENT_BYTES])


def test_a_fresh_image_is_free_but_for_the_fixed_extents(layer: PageLayer) -> None:
    counts = layer.pool.counts
    assert counts[Kind.FREE] == 28
    assert (counts[Kind.FIXED], counts[Kind.INODES], counts[Kind.DESCRIPTOR]) == (2, 1, 1)
    assert layer.pool.free_pages == 28 * PAGES_PER_EXTENT


def test_a_free_head_is_all_zeros() -> None:
    assert pack_head(Kind.FREE) == bytes(32)


def test_take_backs_the_extent_and_stores_one_head(layer: PageLayer) -> None:
    before = layer.device.counters.copy()
    extent = layer.take(Kind.WHOLE, owner=7, index=3)
    used = layer.device.counters.since(before)
    assert used.backs == 1
    head = layer.head(extent)
    assert (head["kind"], head["owner"], head["index"]) == (Kind.WHOLE, 7, 3)
    # header and entry in the journal, the commit word, the head, the sequence word twice
    assert used.stores == 5
    assert used.fences == 2


def test_the_lowest_free_extent_is_taken(layer: PageLayer) -> None:
    first, second = layer.take(), layer.take()
    assert (first, second) == (4, 5)
    layer.release(first)
    assert layer.pool.discard_returned(8) == 1
    assert layer.take() == first


def free(layer: PageLayer, *extents: int) -> None:
    layer.release(*extents)
    assert layer.pool.discard_returned(100) == len(extents)


def wear_out(layer: PageLayer, extent: int, overwrites: float) -> None:
    """Let the head say that so many overwrites more were flushed."""
    start = layer.pool.geometry.head_offset(extent) + HEAD.offset_of["wear"]
    before = int.from_bytes(layer.device.view[start : start + 8], "little")
    wear = before + int(overwrites * EXTENT_BYTES // 64)
    layer.device.store(start, wear.to_bytes(8, "little"))


def test_the_least_worn_free_extent_is_taken(layer: PageLayer) -> None:
    taken = [layer.take() for _ in range(5)]
    assert taken == [4, 5, 6, 7, 8]
    for extent, overwrites in zip(taken, (3, 1.9, 0.5, 1.1, 2)):
        wear_out(layer, extent, overwrites)
    free(layer, *taken)
    # by whole overwrites, the lowest first among equals; then those never used
    assert [layer.take() for _ in range(6)] == [6, 5, 7, 8, 4, 9]


def test_the_order_of_wear_is_there_after_a_mount(layer: PageLayer) -> None:
    taken = [layer.take() for _ in range(3)]
    for extent, overwrites in zip(taken, (2, 10_000, 1)):
        wear_out(layer, extent, overwrites)
    free(layer, *taken[1:])
    layer.reopen()
    free(layer, taken[0])
    assert [layer.take() for _ in range(3)] == [6, 4, 7], "5 is worn out"
    assert layer.take() == 8


def test_an_extent_in_use_all_the_time_goes_round_the_device(layer: PageLayer) -> None:
    for _ in range(20 * 28):
        extent = layer.take()
        wear_out(layer, extent, 1)
        free(layer, extent)
    wear = layer.image.heads["wear"][4:] // (EXTENT_BYTES // 64)
    assert wear.sum() == 20 * 28
    assert wear.max() - wear.min() <= FRESH_AFTER


@pytest.mark.parametrize("apart", [1, 300])
def test_wear_in_any_order_and_however_far_apart(layer: PageLayer, apart: int) -> None:
    order = layer.fill()
    random.Random(7).shuffle(order)
    for place, extent in enumerate(order):
        wear_out(layer, extent, 5 + place * apart)
    free(layer, *order)
    assert layer.pool.counts[Kind.FREE] == 28
    taken = layer.fill()
    assert taken[0] == order[0]
    if apart == 1:
        assert taken == order
    with pytest.raises(PmemfsError):
        layer.take()
    free(layer, *taken)
    assert layer.take() == order[0]


def test_a_released_extent_is_returned_then_free(layer: PageLayer) -> None:
    extent = layer.take()
    store_in(layer, extent)
    layer.release(extent)
    assert layer.pool.kind(extent) == Kind.RETURNED
    assert layer.head(extent)["kind"] == Kind.RETURNED
    assert layer.pool.discard_returned(8) == 1
    assert layer.pool.kind(extent) == Kind.FREE
    assert layer.head(extent)["kind"] == Kind.FREE
    assert content(layer, extent) == bytes(EXTENT_BYTES)


def test_discards_come_in_batches(layer: PageLayer) -> None:
    layer.release(*[layer.take() for _ in range(5)])
    assert layer.pool.discard_returned(2) == 2
    assert layer.pool.counts[Kind.RETURNED] == 3
    before = layer.device.counters.copy()
    assert layer.pool.discard_returned(100) == 3
    used = layer.device.counters.since(before)
    assert (used.discards, used.publishes) == (3, 1)
    assert layer.pool.discard_returned(100) == 0


def test_wear_survives_release_and_discard(layer: PageLayer) -> None:
    extent = layer.take()
    layer.tables.touch_whole(extent_to_pfn(extent), 1, 1000)
    layer.release(extent)
    layer.tables.forget_extent(extent)
    layer.pool.discard_returned(8)
    assert layer.head(extent)["wear"] == 1000


def test_within_a_transaction_what_it_released_cannot_be_taken(layer: PageLayer) -> None:
    extents = layer.fill()
    with (  # noqa: PT012
        pytest.raises(PmemfsError) as caught,
        layer.journal.transaction() as tx,
    ):
        layer.pool.release(tx, extents[0])
        layer.pool.take(tx, Kind.WHOLE, 1)
    assert caught.value.errno == errno.ENOSPC
    assert layer.pool.kind(extents[0]) == Kind.WHOLE  # the release was aborted with it


def test_a_returned_extent_is_discarded_before_it_is_used_again(layer: PageLayer) -> None:
    extents = layer.fill()
    store_in(layer, extents[3])
    layer.release(extents[3])
    before = layer.device.counters.copy()
    assert layer.take() == extents[3]
    assert layer.device.counters.since(before).discards == 1
    assert content(layer, extents[3]) == bytes(EXTENT_BYTES)


def test_an_aborted_take_may_have_stored(layer: PageLayer) -> None:
    """What an aborted operation stored is never another file's: the extent becomes RETURNED."""
    with pytest.raises(ZeroDivisionError), layer.journal.transaction() as tx:  # noqa: PT012
        extent = layer.pool.take(tx, Kind.WHOLE, 5)
        store_in(layer, extent)
        raise ZeroDivisionError
    assert layer.pool.kind(extent) == Kind.RETURNED
    assert layer.head(extent)["kind"] == Kind.FREE
    layer.fill()
    assert content(layer, extent) == bytes(EXTENT_BYTES)


def test_a_full_device(layer: PageLayer) -> None:
    extents = layer.fill()
    assert len(extents) == 28
    with pytest.raises(PmemfsError) as caught:
        layer.take()
    assert caught.value.errno == errno.ENOSPC
    assert layer.pool.counts[Kind.WHOLE] == 28


def test_a_full_host_changes_nothing(layer: PageLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    layer.take()
    counts = list(layer.pool.counts)
    monkeypatch.setattr(HostDevice, "full", True)
    for _ in range(3):
        with pytest.raises(PmemfsError) as caught:
            layer.take()
        assert caught.value.errno == errno.ENOSPC
    assert layer.pool.counts == counts
    monkeypatch.setattr(HostDevice, "full", False)
    assert layer.take() == 5


def test_fixed_extents_cannot_be_released(layer: PageLayer) -> None:
    for extent in range(layer.pool.geometry.fixed_extents):
        with pytest.raises(InvariantError, match="is fixed"):
            layer.release(extent)


def test_a_new_mount_reads_what_was_committed(layer: PageLayer) -> None:
    whole = layer.take(Kind.WHOLE)
    returned = layer.take()
    layer.release(returned)
    ((pfn, _),) = layer.allocate(9)
    layer.reopen()
    assert layer.pool.kind(whole) == Kind.WHOLE
    assert layer.pool.kind(returned) == Kind.RETURNED
    assert layer.pool.kind(pfn >> 9) == Kind.SMALL
    assert layer.pool.used(pfn >> 9) == 9
    assert layer.pool.free_small_pages == 511 - 9
    assert layer.pool.fullest_open(Kind.SMALL) == pfn >> 9


def test_free_extents_with_data_are_suspect_after_a_crash(layer: PageLayer) -> None:
    layer.device.back(extent_to_offset(20), EXTENT_BYTES)
    store_in(layer, 20)
    layer.reopen()
    assert layer.pool.kind(20) == Kind.FREE
    layer.pool.suspect_free_data()
    assert layer.pool.kind(20) == Kind.RETURNED
    layer.fill()
    assert content(layer, 20) == bytes(EXTENT_BYTES)


def test_a_mount_reads_no_heads_but_those_that_exist(layer: PageLayer) -> None:
    layer.take()
    ranges = list(layer.image.iter_head_ranges())
    assert sum(stop - first for first, stop in ranges) <= layer.pool.geometry.n_extents
    assert ranges[0][0] == 0
