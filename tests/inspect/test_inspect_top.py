"""The view activity and the command top: one sample, rates between two, what is drawn."""

import io
import json
import re
import sys
import time

import click
import pytest
from click.testing import CliRunner
from hand_built import daemon
from rich.cells import cell_len

from pmemfs.cli import inspect_top, main
from pmemfs.inspect import Reader
from pmemfs.inspect.activity import KINDS, activity, rates
from pmemfs.layout.geometry import ACTIVITY_OFFSET
from pmemfs.layout.records import ACTIVITY, Kind, PageFlag, RequestKind

TABLE_PFN = 3 * 512 + 8
NOW_S = 1000
SECOND = 10**9


def requests(**counts):
    return [counts.get(kind.name.lower(), 0) for kind in RequestKind]


def store_activity(built, **fields):
    built.store(ACTIVITY_OFFSET, ACTIVITY.pack(**{"generation": 7} | fields))


@pytest.fixture
def busy(built):
    """Extent 5 split and just accessed, 6 split and idle, 7 whole and just accessed."""
    flag = TABLE_PFN << 8 | PageFlag.SPLIT
    built.small(5, {1: (2, 0), 2: (2, 1)}, generation=7, table=flag, access_s=NOW_S, wear=100)
    built.descriptor(TABLE_PFN, 1, owner=2, state=NOW_S << 8, wear=20)
    built.descriptor(TABLE_PFN, 2, owner=2, state=(NOW_S - 9) << 8 | PageFlag.DIRTY, wear=3)
    built.small(6, {1: (2, 9)}, generation=7, table=flag + (8 << 8), access_s=NOW_S - 9)
    built.head(7, Kind.WHOLE, owner=4, generation=7, access_s=NOW_S - 1, wear=5)
    store_activity(built, stored_ns=5 * SECOND, splits=3, requests=requests(read=10, write=2))
    return built


def test_a_sample(busy, look):
    with daemon(busy.path):
        data = look(activity, now_s=NOW_S)
    assert data["stored_ns"] == 5 * SECOND
    assert data["counters"]["splits"] == 3
    assert list(data["requests"]) == list(KINDS)
    assert (data["requests"]["read"], data["requests"]["write"]) == (10, 2)
    assert (data["extents"]["split"], data["extents"]["whole"]) == (2, 1)
    recent = {entry["extent"]: entry for entry in data["recent"]}
    assert sorted(recent) == [5, 7]
    assert (recent[5]["kind"], recent[5]["pages"], recent[5]["lines"]) == ("split", 1, 123)
    assert (recent[7]["kind"], recent[7]["pages"], recent[7]["owner"]) == ("whole", None, 4)
    assert (recent[5]["dirty"], recent[7]["dirty"]) == (1, None)


def test_what_is_overwritten_is_hotter_than_what_is_read(busy, look):
    with daemon(busy.path):
        busy.descriptor(TABLE_PFN, 1, owner=2, state=NOW_S << 8, wear=20)
        busy.descriptor(TABLE_PFN + 8, 1, owner=2, state=NOW_S << 8 | PageFlag.DIRTY)
        flag = (TABLE_PFN + 8) << 8 | PageFlag.SPLIT
        busy.small(6, {1: (2, 9)}, generation=7, table=flag, access_s=NOW_S - 1)
        sample = look(activity, now_s=NOW_S)
    hottest = rates(sample, sample, 1.0)["hottest"]
    assert [(e["extent"], e["dirty"]) for e in hottest] == [(5, 1), (6, 1), (7, None)]


def test_without_a_daemon_nothing_counts(busy, look):
    data = look(activity, now_s=NOW_S)
    assert data["stored_ns"] is None
    assert set(data["requests"].values()) == {0}
    assert data["recent"] == []


def test_counters_of_another_mount_do_not_count(busy, look):
    store_activity(busy, generation=6, stored_ns=5, splits=3)
    with daemon(busy.path):
        data = look(activity, now_s=NOW_S)
    assert (data["stored_ns"], data["counters"]["splits"]) == (None, 0)


def test_rates_are_over_the_time_between_two_stores(busy, look):
    with daemon(busy.path):
        before = look(activity, now_s=NOW_S)
        busy.descriptor(TABLE_PFN, 1, owner=2, state=NOW_S << 8, wear=60)
        more = requests(read=30, write=2, create=4)
        store_activity(busy, stored_ns=7 * SECOND, splits=13, unsplits=1, requests=more)
        after = look(activity, now_s=NOW_S)
    found = rates(before, after, 4.0)
    assert found["counters"]["splits"] == 5.0
    assert found["counters"]["unsplits"] == 0.5
    assert (found["requests"]["read"], found["requests"]["write"]) == (10.0, 0.0)
    assert found["requests"]["create"] == 2.0
    assert [(e["extent"], e["lines_per_s"]) for e in found["hottest"]] == [(5, 10.0), (7, 0.0)]
    assert rates(before, after, 4.0, hottest=1)["hottest"][0]["extent"] == 5


def test_a_daemon_that_stored_nothing_did_nothing(busy, look):
    with daemon(busy.path):
        sample = look(activity, now_s=NOW_S)
    found = rates(sample, sample, 1.0)
    assert set(found["requests"].values()) == {0.0}
    assert found["transactions"] == 0.0


def test_a_new_mount_between_two_samples_is_no_negative_rate(busy, look):
    with daemon(busy.path):
        before = look(activity, now_s=NOW_S)
        store_activity(busy, stored_ns=9 * SECOND, splits=1)
        after = look(activity, now_s=NOW_S)
    assert rates(before, after, 1.0)["counters"]["splits"] == 0


def top(*arguments):
    words = ["inspect", "top", *map(str, arguments), "--interval", "0.1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_sample_in_a_pipe(busy):
    with daemon(busy.path):
        output = top(busy.path)
    lines = output.splitlines()
    assert lines[0].startswith(f"{busy.path}: mounted, ")
    assert output.count("requests/s") == 1
    assert [line.split()[:3] for line in lines if line.startswith("  read ")] == [
        ["read", "0.0", "10"]
    ]
    assert "S split 2" in output
    assert "\x1b" not in output


def test_not_mounted(busy):
    output = top(busy.path)
    assert "not mounted: nothing happens" in output
    assert "no extent has been accessed just now" in output


def test_json_is_an_object_on_a_line_for_each_sample(busy):
    with daemon(busy.path):
        lines = top(busy.path, "--json", "--count", "3").splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 3
    assert all(sample["requests"]["read"] == 10 for sample in samples)
    assert set(samples[0]["rates"]) == {
        *("seconds", "counters", "requests", "transactions", "hottest"),
    }


class Terminal(io.StringIO):
    def isatty(self):
        return True


def frames(monkeypatch, image, columns, rows, hottest=10, count=2):
    """Return what is drawn on a terminal until Ctrl-C, frame by frame."""
    pauses = iter([*[None] * count, KeyboardInterrupt()])

    def sleep(_seconds):
        pause = next(pauses)
        if pause is not None:
            raise pause

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("LINES", str(rows))
    monkeypatch.setenv("COLUMNS", str(columns))
    inspect_top.run(str(image), interval_s=1.0, count=None, hottest=hottest, as_json=False)
    output = sys.stdout.getvalue()
    assert output.startswith("\x1b[?1049h\x1b[?25l")
    assert output.endswith("\x1b[?25h\x1b[?1049l")
    return output.removesuffix("\x1b[?25h\x1b[?1049l").split("\x1b[H")[1:]


def test_a_terminal_is_redrawn_and_left_as_it_was(monkeypatch, busy):
    assert len(frames(monkeypatch, busy.path, 80, 12)) == 2


@pytest.fixture
def crowded(monkeypatch, busy):
    """Much of everything: long numbers, every kind of request, 40 hot extents."""
    counts = requests(**{name: 10**9 + n for n, name in enumerate(KINDS)})
    numbers = dict.fromkeys(("stores", "bytes_stored", "lines_flushed", "fences"), 123_456_789)
    for extent in range(8, 28):
        busy.head(extent, Kind.WHOLE, owner=4, generation=7, access_s=NOW_S, wear=extent)
    store_activity(busy, stored_ns=5 * SECOND, requests=counts, **numbers)
    monkeypatch.setattr(time, "time", lambda: float(NOW_S))
    monkeypatch.setattr(
        inspect_top, "rates", lambda before, after, seconds, hottest: rates(
            before | {"stored_ns": 4 * SECOND, "requests": dict.fromkeys(KINDS, 0),
                      "counters": dict.fromkeys(before["counters"], 0)},
            after, 1.0, hottest=hottest,
        ),
    )  # fmt: skip
    return busy


@pytest.mark.parametrize(
    ("columns", "rows"), [(80, 24), (40, 12), (120, 40), (63, 20), (20, 6), (9, 2), (300, 100)]
)
@pytest.mark.parametrize("colour", [True, False])
def test_no_frame_is_larger_than_the_terminal(monkeypatch, crowded, columns, rows, colour):
    monkeypatch.setenv("NO_COLOR", "" if colour else "1")
    with daemon(crowded.path):
        drawn = frames(monkeypatch, crowded.path, columns, rows)
    assert len(drawn) == 2
    for frame in drawn:
        assert frame.endswith("\n\x1b[J")
        lines = click.unstyle(frame).splitlines()
        assert max(map(cell_len, lines)) <= columns
        assert frame.count("\n") < rows  # the last newline leaves the cursor in one more


def test_what_fits_is_there_and_the_hottest_extents_go_first(monkeypatch, crowded):
    def shown(rows):
        with monkeypatch.context() as patch, daemon(crowded.path):
            lines = click.unstyle(frames(patch, crowded.path, 80, rows)[-1]).splitlines()
        words = [[*line.split(), "", ""] for line in lines]
        kinds = sum(word[0] in KINDS for word in words)
        return lines, kinds, sum(word[1] in ("whole", "split") for word in words)

    lines, kinds, hot = shown(60)
    assert (kinds, hot) == (len(KINDS), 10)
    assert sum("transactions" in line for line in lines) == 1
    assert sum("metadata" in line for line in lines) == 1
    drawn = len(lines)
    assert shown(drawn + 1)[1:] == (len(KINDS), 10)
    assert shown(drawn - 3)[1:] == (len(KINDS), 6)
    assert shown(24)[2] == 3
    assert shown(24)[1] >= 3


def test_a_narrow_terminal_has_whole_columns(monkeypatch, crowded):
    with daemon(crowded.path):
        text = click.unstyle(frames(monkeypatch, crowded.path, 50, 60)[-1])
    assert "     extent kind          lines/s  dirty\n" in text
    assert re.search(r"^\.\.\..*/disk\.img: mounted, ", text)


def test_the_bar_has_every_class_that_is_there():
    totals = {"free": 1000, "whole": 1, "small": 1, "metadata": 1}
    bar = click.unstyle(inspect_top._bar(totals, 44))
    assert bar == "  WsM" + 37 * "."


def test_every_reader_is_closed(monkeypatch, busy):
    closed = []
    monkeypatch.setattr(Reader, "close", lambda self: closed.append(self))
    top(busy.path)
    assert len(closed) == 1


def test_counters_that_are_late_are_waited_for_and_then_kept(monkeypatch, busy):
    now = [100.0]
    stored = iter([101, 101, 103, 104])  # what the daemon has stored by then, or not yet

    def sleep(seconds):
        now[0] += seconds
        second = next(stored)
        counts = requests(read=10 * second)
        store_activity(busy, stored_ns=second * SECOND, requests=counts)

    store_activity(busy, stored_ns=101 * SECOND, requests=requests(read=1010))
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "time", lambda: now[0])
    with daemon(busy.path), Reader(busy.path) as reader:
        top = inspect_top.Top(reader, 1.0, 5)
        first = top.next()  # 101, 101, then 103: 20 reads in 2 s
        assert first["rates"]["requests"]["read"] == 10.0
        stored = iter([103])
        assert top.next()["rates"]["requests"]["read"] == 10.0  # not stored yet: as before
        now[0] += 60
        stored = iter([103])
        assert top.next()["rates"]["requests"]["read"] == 0.0  # so long that it is idle
