"""The view wear: what heads and live split tables say, summed, ranked and drawn."""

import io
import sys

import click
import pytest
from click.testing import CliRunner
from hand_built import daemon

from pmemfs.cli import inspect_device, main
from pmemfs.inspect import wear
from pmemfs.layout.records import Kind, PageFlag

TABLE_PFN = 3 * 512 + 8


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def worn(built):
    built.small(
        5,
        {1: (2, 0), 2: (2, 1)},
        generation=7,
        table=TABLE_PFN << 8 | PageFlag.SPLIT,
        wear=100,
    )
    built.descriptor(TABLE_PFN, 1, owner=2, wear=20)
    built.descriptor(TABLE_PFN, 2, owner=2, wear=8)
    built.head(7, Kind.WHOLE, owner=2, wear=32768)
    built.head(9, Kind.FREE, wear=3)
    return built


def test_nothing_yet(look):
    data = look(wear)
    assert (data["lines"], data["worn_extents"], data["hottest"]) == (0, 0, [])
    assert data["histogram"] == []


def test_sums_and_ranks(worn, look):
    data = look(wear, hottest=2)
    assert (data["lines"], data["worn_extents"]) == (100 + 32768 + 3, 3)
    assert [(h["extent"], h["kind"], h["lines"]) for h in data["hottest"]] == [
        (7, "whole", 32768),
        (5, "small", 100),
    ]
    assert data["hottest"][0]["turns"] == 1.0
    assert data["turns"] == data["lines"] / 32768 / 32
    assert data["hottest_1_percent_extents"] == 1
    assert data["hottest_1_percent_share"] == 32768 / data["lines"]
    assert data["by_kind"]["free"] == {"extents": 1, "lines": 3}
    assert data["cells"][5:10] == [100, 0, 32768, 0, 3]


def test_live_tables_are_added(worn, look):
    with daemon(worn.path):
        data = look(wear)
    assert data["cells"][5] == 128


def test_histogram_by_powers_of_two(worn, look):
    buckets = look(wear)["histogram"]
    assert buckets[0] == {"min_lines": 2, "below_lines": 4, "extents": 1, "lines": 3}
    assert buckets[-1] == {"min_lines": 32768, "below_lines": 65536, "extents": 1, "lines": 32768}
    assert sum(bucket["extents"] for bucket in buckets) == 3
    assert len(buckets) == 15


def test_groups_keep_the_hottest(worn, look):
    data = look(wear, most_cells=8)
    assert (data["group_extents"], data["cells"][1]) == (4, 32768)


def test_wild_wear_is_remarked_and_capped(worn, look):
    worn.head(10, Kind.WHOLE, owner=2, wear=(1 << 64) - 1)
    data = look(wear)
    assert data["cells"][10] == 1 << 48
    assert "extent 10: its wear cannot be" in data["remarks"][0]


def test_text(worn):
    result = CliRunner().invoke(main, ["inspect", "wear", str(worn.path)])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    where = next(i for i, line in enumerate(lines) if line.startswith("Where"))
    assert lines[where + 1] == "        0       = @ :"
    assert "  hottest        1 extent (33.3% of those) took 99.7%" in lines
    assert lines[where + 2] == "           nothing behind"
    assert lines[where + 3].startswith("  lines, from: . 1  : 2  - 8  ")
    assert lines[where + 3].endswith("@ 32,768  to 32,768")
    assert "  not flushed    0 pages of small files, overwritten" in lines
    assert "counts\nonce it is made durable (fsync, idle time, unmounting)" in result.stdout


@pytest.mark.parametrize("most", [1, 2, 3, 9, 1000, 32768, 10**9, 1 << 48])
def test_each_mark_on_the_map_stands_in_the_legend(most):
    (text, *more) = inspect_device._heat_legend(most, letters=True)
    text = " ".join([text, *more])
    entries = text.removeprefix("  lines, from: ").split("  ")
    marks = [entry[0] for entry in entries if entry.strip() and not entry.startswith("to ")]
    least = [int(e.split(" ")[1].replace(",", "")) for e in entries if e[1:2] == " "]
    assert entries[-1] == f"to {most:,}"
    assert least == sorted(least)
    some = (1, 2, 3, 7, 100, 5000, most // 2, most - 1, most)
    for lines in (n for n in some if 1 <= n <= most):
        mark = inspect_device._heat(lines, most, letters=True)
        begin = least[marks.index(mark)]
        assert begin <= lines
        assert mark == inspect_device._heat(begin, most, letters=True)


def test_colours_have_a_legend(worn, look, monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    inspect_device.render_wear(look(wear), letters=False)
    lines = sys.stdout.getvalue().splitlines()
    place = next(place for place, line in enumerate(lines) if "lines, from:" in line)
    legend = " ".join(lines[place : place + 2])  # wrapped at 80 columns
    hottest = inspect_device._heat(32768, 32768, letters=False)
    assert f"{hottest} 32,768" in legend
    assert "· 0" in click.unstyle(legend)
    assert "@" not in click.unstyle("".join(lines))


def test_dirty_pages_are_told_and_not_counted(worn, look):
    worn.descriptor(TABLE_PFN, 3, owner=2, state=PageFlag.DIRTY)
    with daemon(worn.path):
        data = look(wear)
    assert (data["unflushed_pages"], data["cells"][5]) == (1, 128)
    assert look(wear)["unflushed_pages"] == 0
