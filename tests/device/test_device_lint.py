"""The lint, on recordings so small that what it has to count is plain."""

from __future__ import annotations

from pmemfs.device import Event
from pmemfs.device.lint import Lint, lint

FENCE = Event("fence")


def store(offset: int, length: int = 8) -> Event:
    return Event("store", offset, length, bytes(length))


def flush(offset: int, length: int = 8) -> Event:
    return Event("flush", offset, length)


def test_what_is_flushed_and_fenced_is_in_order() -> None:
    assert lint([store(0), flush(0), FENCE]) == Lint(0, 0, 0, 0)
    assert lint([store(0), store(8), flush(0), store(64), flush(64), FENCE]) == Lint(0, 0, 0, 0)


def test_lines_never_flushed() -> None:
    assert lint([store(0), store(64, 128), flush(64)]).never_flushed == 2
    assert lint([store(0), flush(0), store(0), FENCE]).never_flushed == 1
    assert lint([store(0), Event("discard", 0, 4096), FENCE]).never_flushed == 0


def test_lines_never_fenced() -> None:
    assert lint([store(0, 128), flush(0, 128)]).never_fenced == 2
    assert lint([store(0), FENCE, flush(0)]).never_fenced == 1


def test_flushes_not_needed() -> None:
    assert lint([store(0), flush(0), flush(0), FENCE]).needless_flushes == 1
    assert lint([store(0), flush(0), FENCE, flush(0), FENCE]).needless_flushes == 1
    # a flush of more than was recorded may be needed by what was before
    assert lint([store(0), flush(0), flush(0, 128), FENCE]).needless_flushes == 0


def test_fences_not_needed() -> None:
    assert lint([FENCE]).needless_fences == 0  # what was before may need it
    assert lint([FENCE, store(0), FENCE, flush(0), FENCE, FENCE]).needless_fences == 2
    assert lint([FENCE, Event("discard", 0, 4096), FENCE]).needless_fences == 0


def test_transient_ranges_need_nothing() -> None:
    events = [store(32, 32), store(4096, 64), FENCE]
    assert lint(events, [(32, 64), (4096, 8192)]) == Lint(0, 0, 0, 0)
    assert lint(events, [(32, 56), (4096, 8192)]).never_flushed == 1
