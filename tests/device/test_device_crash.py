"""The crash model, on recordings so small that the exact set of states is known."""

from __future__ import annotations

import os

import pytest

from pmemfs.device import CrashStates, Event
from pmemfs.device.sparse import SparseImage
from pmemfs.errors import InvariantError

SIZE = 1 << 16
ONE, TWO = b"11111111", b"22222222"
OLD = b"\0" * 8
FENCE = Event("fence")


def store(offset: int, data: bytes) -> Event:
    return Event("store", offset, len(data), data)


def flush(offset: int, length: int = 8) -> Event:
    return Event("flush", offset, length)


def words_of(events: list[Event], *addresses: int, **more) -> list[tuple[int, ...]]:
    """Return, by epoch, the set of what the words at these addresses may be."""
    epochs: dict[int, set[tuple[bytes, ...]]] = {}
    for state in CrashStates(SparseImage(SIZE), events, **more):
        epoch = int(state.id.split(".")[0])
        epochs.setdefault(epoch, set()).add(tuple(state.image.word(a) for a in addresses))
    return [epochs[epoch] for epoch in sorted(epochs)]


def test_a_flushed_store_is_durable_after_the_fence_only() -> None:
    events = [store(0, ONE), flush(0), FENCE]
    assert words_of(events, 0) == [{(OLD,), (ONE,)}, {(ONE,)}]


def test_a_store_not_flushed_stays_pending_over_fences() -> None:
    events = [store(0, ONE), FENCE, FENCE]
    assert words_of(events, 0) == [{(OLD,), (ONE,)}] * 3


def test_a_flush_before_the_store_does_not_count() -> None:
    assert words_of([flush(0), store(0, ONE), FENCE], 0)[-1] == {(OLD,), (ONE,)}


def test_words_of_one_line_persist_in_program_order() -> None:
    events = [store(8, ONE), store(0, TWO)]
    assert words_of(events, 8, 0) == [{(OLD, OLD), (ONE, OLD), (ONE, TWO)}]
    assert words_of([store(0, ONE + TWO)], 0, 8) == [{(OLD, OLD), (ONE, OLD), (ONE, TWO)}]


def test_lines_persist_in_any_order() -> None:
    events = [store(0, ONE), store(64, TWO)]
    assert words_of(events, 0, 64) == [{(OLD, OLD), (ONE, OLD), (OLD, TWO), (ONE, TWO)}]


def test_a_word_stored_twice_goes_through_both_values() -> None:
    assert words_of([store(0, ONE), store(0, TWO)], 0) == [{(OLD,), (ONE,), (TWO,)}]
    # flushed between the two: the first is durable, the second may be
    events = [store(0, ONE), flush(0), store(0, TWO), FENCE]
    assert words_of(events, 0)[-1] == {(ONE,), (TWO,)}


def test_a_word_is_never_torn() -> None:
    events = [store(0, ONE), flush(0), FENCE, store(3, b"abc")]
    assert words_of(events, 0)[-1] == {(ONE,), (b"111abc11",)}


def test_a_discard_may_land_until_the_fence_and_has_then() -> None:
    base = SparseImage(SIZE)
    base.store(4096, ONE)
    events = [Event("discard", 4096, 4096), FENCE]
    found = [(s.id[0], s.image.word(4096)) for s in CrashStates(base, events)]
    assert found == [("0", ONE), ("0", OLD), ("1", OLD)]


def test_a_fenced_discard_takes_pending_stores_along() -> None:
    events = [store(4096, ONE), Event("discard", 4096, 4096), FENCE]
    assert words_of(events, 4096) == [{(OLD,), (ONE,)}, {(OLD,)}]
    # of its own range only
    events = [store(0, ONE), store(4096, ONE), Event("discard", 4096, 4096), FENCE]
    assert words_of(events, 0)[-1] == {(OLD,), (ONE,)}


def test_a_store_between_a_discard_and_its_fence_is_refused() -> None:
    events = [Event("discard", 4096, 4096), store(4100, ONE)]
    with pytest.raises(InvariantError, match="between a discard and its fence"):
        list(CrashStates(SparseImage(SIZE), events))


def test_publish_orders() -> None:
    """What a journal builds on: the word at 128 implies the one at 0."""
    events = [store(0, ONE), flush(0), FENCE, store(128, TWO), flush(128), FENCE]
    for epoch in words_of(events, 0, 128):
        assert (OLD, TWO) not in epoch
    assert words_of(events, 0, 128)[-1] == {(ONE, TWO)}


def test_transient_ranges_persist_together() -> None:
    events = [store(0, ONE), store(4096, ONE), store(4160, TWO)]
    found = words_of(events, 4096, 4160, transient=[(4096, 8192)])
    assert found == [{(OLD, OLD), (ONE, TWO)}]
    assert len(words_of(events, 0, 4096, transient=[(4096, 8192)])[0]) == 4


def test_after_says_how_much_of_the_recording_had_happened() -> None:
    events = [store(0, ONE), flush(0), FENCE]
    after = {state.id: state.after for state in CrashStates(SparseImage(SIZE), events)}
    assert after == {"0.each.0": 2, "0.each.1": 2, "1.each.0": 3}


def test_large_epochs_are_sampled_by_strategy_and_seed() -> None:
    events = [store(64 * i, ONE + TWO) for i in range(40)]
    states = CrashStates(
        SparseImage(SIZE), events, exhaustive_limit=8, samples=5, lines_limit=4, seed=1
    )
    ids = [state.id for state in states]
    kinds = [name.split(".")[1] for name in ids]
    assert len(ids) == len(set(ids))
    assert {k: kinds.count(k) for k in set(kinds)} == {
        "none": 1, "all": 1, "alone": 4, "without": 4, "prefix": 4, "pair": 5, "sample": 5,
    }  # fmt: skip
    again = CrashStates(
        SparseImage(SIZE), events, exhaustive_limit=8, samples=5, lines_limit=4, seed=1
    )
    assert again.replay(ids[-1]).image.pages == next(
        state.image.pages for state in states if state.id == ids[-1]
    )
    with pytest.raises(KeyError):
        again.replay("7.none.0")


def test_sparse_image_loads_and_materialises() -> None:
    fd = os.memfd_create("sparse")
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, b"across" * 2, 8190)
    image = SparseImage.load(fd, SIZE)
    assert sorted(image.pages) == [1, 2]
    copy = image.copy()
    copy.store(0, b"x")
    copy.punch(4096, 4096)
    assert sorted(image.pages) == [1, 2]
    other = copy.materialise()
    assert os.pread(other, 1, 0) == b"x"
    assert os.pread(other, 12, 8190) == b"\0\0" + (b"across" * 2)[2:]
    assert os.fstat(other).st_size == SIZE
    os.close(fd)
    os.close(other)


def test_epochs_of_a_shorter_recording_are_passed_over() -> None:
    events = [store(0, ONE), flush(0), FENCE, store(64, ONE), flush(64), FENCE, store(128, TWO)]
    every = [state.id for state in CrashStates(SparseImage(SIZE), events)]
    later = [state.id for state in CrashStates(SparseImage(SIZE), events, since=3)]
    assert later == [name for name in every if not name.startswith("0.")]
    last = CrashStates(SparseImage(SIZE), events, since=6)
    assert {state.id[0] for state in last} == {"2"}


def test_digests_tell_states_apart() -> None:
    base = SparseImage(SIZE)
    base.store(8192, ONE)
    events = [store(0, ONE + TWO), store(64, TWO), Event("discard", 8192, 4096), FENCE]
    states = list(CrashStates(base, events))
    contents = {frozenset(state.image.pages.items()) for state in states}
    assert len({state.digest() for state in states}) == len(contents) == 12
    for state in states:
        assert state.digest() == state.image.digest()
    same = SparseImage(SIZE, dict(reversed(states[-1].image.pages.items())))
    assert same.digest() == states[-1].digest()
    swapped = SparseImage(SIZE, {0: base.pages[2]})
    assert swapped.digest() != base.digest()  # the same page elsewhere


def test_an_overlay_has_what_differs_from_the_durable_image() -> None:
    base = SparseImage(SIZE)
    base.store(4096, ONE)
    events = [store(0, ONE), store(4096, ONE), Event("discard", 4096, 4096)]
    overlays = {tuple(sorted(s.overlay.items())) for s in CrashStates(base, events)}
    page = ONE + bytes(4088)
    assert overlays == {(), ((0, page),), ((1, None),), ((0, page), (1, None))}
