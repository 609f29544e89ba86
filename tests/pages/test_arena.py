"""Arenas: fullest extent first, contiguous pages, nothing leaked by an abort."""

from __future__ import annotations

import errno

import pytest
from page_layer import STEP, PageLayer

from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.layout.geometry import pfn_to_extent, pfn_to_slot
from pmemfs.layout.records import Kind
from pmemfs.layout.words import owner_word
from pmemfs.pages import Arena
from pmemfs.pages.arenas import free_pages


def free(layer: PageLayer, pfn: int, count: int = 1) -> None:
    word = layer.owner_words(pfn_to_extent(pfn))[pfn_to_slot(pfn)]
    with layer.journal.transaction() as tx:
        free_pages(layer.pool, tx, pfn, count, word, STEP)


def free_twice(layer: PageLayer, pfn: int, word: int) -> None:
    with layer.journal.transaction() as tx:
        for _ in range(2):
            free_pages(layer.pool, tx, pfn, 1, word, STEP)


def test_pages_of_one_request_are_contiguous(layer: PageLayer) -> None:
    ((pfn, count),) = layer.allocate(100)
    assert count == 100
    assert pfn_to_slot(pfn) == 1, "page 0 is the owner page"
    ((more, _),) = layer.allocate(50, index=100)
    assert more == pfn + 100, "and so are those of the next"


def test_owner_words_say_who_and_which_page(layer: PageLayer) -> None:
    ((pfn, _),) = layer.allocate(3, ino=9, index=70)
    words = layer.owner_words(pfn_to_extent(pfn))
    assert words[:5] == [0, *(owner_word(9, index) for index in (70, 71, 72)), 0]
    assert layer.head(pfn_to_extent(pfn))["used"] == 3


def test_an_allocation_costs_one_owner_store_for_each_run(layer: PageLayer) -> None:
    layer.allocate(1)
    before = layer.device.counters.copy()
    layer.allocate(200)
    used = layer.device.counters.since(before)
    # journal slot, commit word, head, owner words, sequence word twice
    assert used.stores == 6
    assert used.backs == 0


def test_the_arena_stays_in_its_extent_until_it_is_full(layer: PageLayer) -> None:
    ((pfn, _),) = layer.allocate(1)
    mine = pfn_to_extent(pfn)
    for number in range(510):
        ((pfn, _),) = layer.allocate(1, index=number)
        assert pfn_to_extent(pfn) == mine
    ((pfn, _),) = layer.allocate(1)
    assert pfn_to_extent(pfn) != mine


def test_the_fullest_extent_comes_before_a_free_one(layer: PageLayer) -> None:
    """The gap that WineFS leaves: an aligned free extent is broken last."""
    low, full, middle = layer.small_extents(3)
    layer.arena.retire()
    free(layer, (low << 9) + 1, 500)
    free(layer, (middle << 9) + 100, 10)
    free(layer, (full << 9) + 100, 1)
    free_extents = layer.pool.free_extents
    taken = [pfn_to_extent(layer.allocate(1)[0][0]) for _ in range(511)]
    assert taken == [full] * 1 + [middle] * 10 + [low] * 500
    assert layer.pool.free_extents == free_extents
    layer.allocate(1)
    assert layer.pool.free_extents == free_extents - 1


def test_an_arena_takes_nothing_that_another_owns(layer: PageLayer) -> None:
    ((pfn, _),) = layer.allocate(1)
    other = Arena(layer.pool, Kind.SMALL)
    with layer.journal.transaction() as tx:
        ((theirs, _),) = other.allocate(tx, 1, owner_word(6, 0), STEP)
    assert pfn_to_extent(theirs) != pfn_to_extent(pfn)
    other.retire()
    layer.arena.retire()
    layer.reopen()
    found = {pfn_to_extent(layer.allocate(510)[0][0]) for _ in range(2)}
    assert found == {pfn_to_extent(theirs), pfn_to_extent(pfn)}


def test_small_and_metadata_pages_never_share_an_extent(layer: PageLayer) -> None:
    metadata = Arena(layer.pool, Kind.METADATA)
    ((pfn, _),) = layer.allocate(1)
    with layer.journal.transaction() as tx:
        ((theirs, _),) = metadata.allocate(tx, 1, owner_word(6, 1), 0)
    assert layer.pool.kind(pfn_to_extent(theirs)) == Kind.METADATA
    assert pfn_to_extent(theirs) != pfn_to_extent(pfn)


def test_holes_are_filled_again(layer: PageLayer) -> None:
    (extent,) = layer.small_extents(1)
    base = extent << 9
    free(layer, base + 10, 3)
    free(layer, base + 300)
    assert layer.allocate(1) == [(base + 300, 1)], "the best fitting one"
    assert layer.allocate(3) == [(base + 10, 3)]


def test_a_request_goes_to_a_hole_that_is_large_enough(layer: PageLayer) -> None:
    full, thin = layer.small_extents(2)
    free(layer, (full << 9) + 10, 3)
    free(layer, (full << 9) + 20, 3)
    free(layer, (thin << 9) + 100, 60)
    assert layer.allocate(5) == [((thin << 9) + 100, 5)], "not cut, though an extent is fuller"
    assert layer.allocate(2) == [((thin << 9) + 105, 2)], "the arena has moved there"
    layer.arena.retire()
    assert layer.allocate(2) == [((full << 9) + 10, 2)]


def test_a_free_extent_is_broken_rather_than_a_request_cut(layer: PageLayer) -> None:
    (full,) = layer.small_extents(1)
    free(layer, (full << 9) + 10, 3)
    free(layer, (full << 9) + 20, 3)
    ((pfn, count),) = layer.allocate(5)
    assert count == 5
    assert pfn_to_extent(pfn) != full


def test_with_many_holes_a_request_is_cut_to_fill_them(layer: PageLayer) -> None:
    (full,) = layer.small_extents(1)
    layer.arena.retire()
    while layer.pool.free_extents > 1:
        layer.take()
    for slot in range(1, 511, 2):
        free(layer, (full << 9) + slot)
    assert layer.pool.has_many_holes
    assert [count for _, count in layer.allocate(5)] == [1] * 5
    assert layer.pool.free_extents == 1


def test_an_arena_that_fills_holes_breaks_nothing(layer: PageLayer) -> None:
    holes = Arena(layer.pool, Kind.SMALL, breaks=False)
    (extent,) = layer.small_extents(1)
    layer.arena.retire()
    free(layer, (extent << 9) + 10, 3)
    with layer.journal.transaction() as tx:
        assert holes.allocate(tx, 3, owner_word(6, 0), STEP) == [((extent << 9) + 10, 3)]
    with pytest.raises(PmemfsError, match="no small extent"), layer.journal.transaction() as tx:
        holes.allocate(tx, 1, owner_word(6, 3), STEP)
    assert not holes.owns_extent


def test_arenas_of_a_group_prefer_their_own_extents(layer: PageLayer) -> None:
    one, two = (Arena(layer.pool, Kind.SMALL, group=group) for group in (1, 2))
    with layer.journal.transaction() as tx:
        ((mine, _),) = one.allocate(tx, 400, owner_word(6, 0), STEP)
    with layer.journal.transaction() as tx:
        ((other, _),) = two.allocate(tx, 450, owner_word(7, 0), STEP)
    one.retire()
    two.retire()
    with layer.journal.transaction() as tx:
        assert one.allocate(tx, 1, owner_word(6, 400), STEP) == [(mine + 400, 1)]
    one.retire()
    with layer.journal.transaction() as tx:
        assert layer.arena.allocate(tx, 1, owner_word(8, 0), STEP) == [(other + 450, 1)]


def test_a_large_request_goes_over_several_extents(layer: PageLayer) -> None:
    runs = layer.allocate(1200)
    assert [count for _, count in runs] == [511, 511, 178]


def test_pages_freed_by_a_transaction_are_not_allocated_in_it(layer: PageLayer) -> None:
    (extent,) = layer.small_extents(1)
    page = (extent << 9) + 7
    with layer.journal.transaction() as tx:
        free_pages(layer.pool, tx, page, 1, owner_word(5, 6), STEP)
        ((pfn, _),) = layer.arena.allocate(tx, 1, owner_word(9, 0), STEP)
    assert pfn != page
    assert layer.allocate(1) != [(page, 1)]  # the arena has moved on ...
    layer.arena.retire()
    assert layer.allocate(1) == [(page, 1)]  # ... and finds it when it looks again


def test_an_empty_extent_is_released_unless_an_arena_owns_it(layer: PageLayer) -> None:
    ((pfn, _),) = layer.allocate(2)
    free(layer, pfn, 2)
    assert layer.pool.kind(pfn_to_extent(pfn)) == Kind.SMALL
    assert layer.arena.is_idle_empty
    layer.arena.retire()
    assert layer.pool.empty_open() == pfn_to_extent(pfn)
    ((pfn, _),) = layer.allocate(2)
    layer.arena.retire()
    free(layer, pfn, 2)
    assert layer.pool.kind(pfn_to_extent(pfn)) == Kind.RETURNED


def test_an_abort_leaves_what_was(layer: PageLayer) -> None:
    layer.allocate(500)
    before = layer.pool.free_pages
    with pytest.raises(ZeroDivisionError), layer.journal.transaction() as tx:  # noqa: PT012
        layer.arena.allocate(tx, 700, owner_word(9, 0), STEP)
        raise ZeroDivisionError
    assert layer.pool.free_pages == before
    assert layer.allocate(11) == [((4 << 9) + 501, 11)]
    layer.validate()


def test_no_space_half_way_leaves_what_was(layer: PageLayer) -> None:
    for _ in range(27):
        layer.take()
    layer.allocate(500)
    with pytest.raises(PmemfsError) as caught:
        layer.allocate(12)
    assert caught.value.errno == errno.ENOSPC
    assert layer.pool.free_pages == 11
    assert len(layer.allocate(11)) == 1
    assert layer.pool.free_pages == 0


def test_the_owner_page_itself_cannot_be_freed(layer: PageLayer) -> None:
    ((pfn, _),) = layer.allocate(2)
    with pytest.raises(DamagedImageError, match="does not agree"):
        free(layer, pfn - 1, 2)
    with pytest.raises(DamagedImageError, match="does not agree"):
        free(layer, pfn + 510, 2)


def test_more_pages_than_are_used_cannot_be_freed(layer: PageLayer) -> None:
    ((pfn, _),) = layer.allocate(2)
    with pytest.raises(DamagedImageError, match="does not agree"):
        free(layer, pfn, 3)


def test_pages_are_freed_for_their_owner_only_and_once(layer: PageLayer) -> None:
    ((pfn, _),) = layer.allocate(2, ino=9, index=4)
    for word in (owner_word(8, 4), owner_word(9, 5)):
        with (
            pytest.raises(DamagedImageError, match="does not agree"),
            layer.journal.transaction() as tx,
        ):
            free_pages(layer.pool, tx, pfn, 1, word, STEP)
    with pytest.raises(DamagedImageError, match="does not agree"):
        free_twice(layer, pfn, owner_word(9, 4))
    assert layer.owner_words(pfn_to_extent(pfn))[1:3] == [owner_word(9, 4), owner_word(9, 5)]
