"""The log of accesses: what is noted, what a fetch forgets, when it ends; the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from page_layer import PageLayer
from volumes import START_S

from pmemfs.errors import PmemfsError
from pmemfs.layout.geometry import extent_to_pfn
from pmemfs.layout.records import Kind, PageFlag
from pmemfs.pages import trace as module
from pmemfs.pages.trace import (
    LEASE_S,
    TRACE_HEADER,
    TRACE_RECORD,
    AccessFlag,
    AccessLog,
    read_trace,
    write_header,
)

WRITE, WHOLE, DIRTY, FREED = AccessFlag.WRITE, AccessFlag.WHOLE, AccessFlag.DIRTY, AccessFlag.FREED


def rows(data: bytes) -> list[tuple[int, int, int, int, int]]:
    """Records as ``(second, pfn, count, flags, lines)``."""
    fields = [TRACE_RECORD.unpack(data, at) for at in range(0, len(data), 16)]
    return [(f["second"], f["page"] >> 8, f["count"], f["page"] & 0xFF, f["lines"]) for f in fields]


def test_every_access_is_noted(layer: PageLayer) -> None:
    tables = layer.tables
    small = extent_to_pfn(layer.small_extents(1)[0])
    whole = extent_to_pfn(layer.take(Kind.WHOLE))
    log = tables.start_trace()
    tables.touch(small + 3, 1)
    tables.touch(small + 4, 2, PageFlag.DIRTY)
    tables.touch(small + 4, 2, 0, 64)
    layer.clock.advance(1)
    tables.touch_whole(whole + 5, 3, 100)
    tables.touch_whole(whole, 1)
    tables.forget(small + 3, 1)
    tables.forget_extent(whole >> 9)
    assert rows(log.fetch(0, 100, START_S)[1]) == [
        (START_S, small + 3, 1, 0, 0),
        (START_S, small + 4, 2, WRITE | DIRTY, 0),
        (START_S, small + 4, 2, WRITE, 64),
        (START_S + 1, whole + 5, 3, WHOLE | WRITE, 100),
        (START_S + 1, whole, 1, WHOLE, 0),
        (START_S + 1, small + 3, 1, FREED, 0),
        (START_S + 1, whole, 512, FREED, 0),
    ]


def test_accesses_count_as_without_a_log(layer: PageLayer) -> None:
    pfn = extent_to_pfn(layer.small_extents(1)[0]) + 3
    layer.tables.start_trace()
    layer.tables.touch(pfn, 1, PageFlag.DIRTY, 7)
    assert layer.descriptors(pfn >> 9)[3].tolist()[1:] == [START_S << 8 | PageFlag.DIRTY, 7]


def test_nothing_is_in_the_way_when_nobody_records(layer: PageLayer) -> None:
    tables = layer.tables
    before = set(vars(tables))
    log = tables.start_trace()
    with pytest.raises(PmemfsError, match="somebody else"):
        tables.start_trace()
    tables.stop_trace()
    tables.stop_trace()  # once more does no harm
    assert set(vars(tables)) == before
    assert tables.trace is None
    tables.touch(extent_to_pfn(layer.small_extents(1)[0]) + 3, 1)
    assert log.fetch(0, 100, START_S) == (0, b"")
    assert tables.start_trace() is not log


def test_a_recorder_that_has_died_is_left(layer: PageLayer) -> None:
    tables = layer.tables
    pfn = extent_to_pfn(layer.small_extents(1)[0]) + 3
    log = tables.start_trace()
    layer.clock.advance(LEASE_S - 1)
    log.fetch(0, 100, START_S + LEASE_S - 1)
    layer.clock.advance(LEASE_S - 1)
    tables.touch(pfn, 1)
    assert tables.trace is log
    layer.clock.advance(1)
    tables.touch(pfn, 1)
    assert tables.trace is None
    assert tables.split_extents == 1


def test_a_fetch_forgets_what_came_before() -> None:
    log = AccessLog(0)
    for pfn in range(10):
        log.add(0, pfn, 1, 0, 0)
    first, data = log.fetch(0, 4, 1)
    assert (first, [row[1] for row in rows(data)]) == (0, [0, 1, 2, 3])
    assert log.fetch(0, 4, 1)[1] == data  # the answer got lost: once more
    first, data = log.fetch(4, 100, 1)
    assert (first, [row[1] for row in rows(data)]) == (4, [4, 5, 6, 7, 8, 9])
    assert log.fetch(2, 100, 1) == (4, data)  # 2 and 3 are gone
    assert log.fetch(99, 100, 1) == (10, b"")


def test_a_full_log_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 32)
    log = AccessLog(0)
    for pfn in range(5):
        log.add(0, pfn, 1, 0, 0)
    assert [row[1] for row in rows(log.fetch(0, 100, 0)[1])] == [0, 1]
    assert log.dropped == 3


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "t.trace"
    record = TRACE_RECORD.pack(page=1025 << 8 | WRITE, second=7, count=2, lines=64)
    path.write_bytes(write_header(32, 5) + record + record[:9])  # the last one is cut short
    header, records = read_trace(path)
    assert (header["n_extents"], header["dropped"], len(records)) == (32, 5, 1)
    assert int(records["page"][0]) == 1025 << 8 | WRITE


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"count": 0}, "record 1 is not within one extent"),
        ({"page": (1025 << 8), "count": 512}, "record 1 is not within one extent"),
        ({"page": (32 * 512) << 8}, "record 1 is not within one extent"),
        ({"second": 6}, "time goes backwards"),
    ],
)
def test_damaged_file(tmp_path: Path, damage: dict[str, int], sentence: str) -> None:
    path = tmp_path / "t.trace"
    good = {"page": 1025 << 8, "second": 7, "count": 2}
    records = TRACE_RECORD.pack(**good) + TRACE_RECORD.pack(**good | damage)
    path.write_bytes(write_header(32) + records)
    with pytest.raises(PmemfsError, match=sentence):
        read_trace(path)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is no trace"),
        (bytes(64), "is no trace"),
        (TRACE_HEADER.pack(magic=module.TRACE_MAGIC), "a device of 0 extents"),
    ],
)
def test_no_trace(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "t.trace"
    path.write_bytes(data)
    with pytest.raises(PmemfsError, match=sentence):
        read_trace(path)


def test_vectors_and_records_agree() -> None:
    data = TRACE_RECORD.pack(page=3 << 8 | 2, second=9, count=4, lines=5)
    (row,) = np.frombuffer(data, TRACE_RECORD.dtype)
    assert (int(row["page"]), int(row["second"]), int(row["count"]), int(row["lines"])) == (
        *(3 << 8 | 2, 9, 4, 5),
    )
