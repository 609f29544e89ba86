"""The view map: classes of extents, groups of them, and how they are drawn."""

import io
import json
import sys

import click
import pytest
from click.testing import CliRunner
from hand_built import MIB, HandBuilt, daemon
from rich.cells import cell_len

from pmemfs.bench.picture import load_matplotlib
from pmemfs.cli import inspect_device, main
from pmemfs.inspect import Reader, device_map, wear
from pmemfs.inspect.map import CLASSES, group_for
from pmemfs.layout.records import Kind, PageFlag, Role

TABLE_PFN = 3 * 512 + 8


@pytest.fixture
def used(built):
    """Extents 4 to 9: metadata, small, split, whole, returned, a stale descriptor extent."""
    built.metadata(4, {1: (1, Role.DIRECTORY_LEAF)})
    built.small(5, {slot: (2, slot) for slot in range(1, 256)})
    built.small(
        6,
        {slot: (2, 300 + slot) for slot in range(1, 512)},
        generation=7,
        table=TABLE_PFN << 8 | PageFlag.SPLIT,
    )
    built.head(7, Kind.WHOLE, owner=2)
    built.head(8, Kind.RETURNED)
    built.head(9, Kind.DESCRIPTOR, generation=6)
    return built


def shows(data):
    return [cell["shows"] for cell in data["cells"]]


def test_a_cell_for_each_extent(used, look):
    with daemon(used.path):
        data = look(device_map)
    assert data["group_extents"] == 1
    assert shows(data)[:11] == [
        *("metadata", "metadata", "metadata", "descriptor"),
        *("metadata", "small", "split", "whole", "returned", "returned", "free"),
    ]
    assert [cell["extent"] for cell in data["cells"]] == list(range(32))
    assert data["totals"] == {
        "free": 22,
        "returned": 2,
        "whole": 1,
        "small": 1,
        "split": 1,
        "descriptor": 1,
        "metadata": 4,
    }
    fill = [cell["fill"] for cell in data["cells"]]
    assert (fill[5], fill[6], fill[7], fill[8]) == (0.5, 1.0, 1.0, 0.0)


def test_without_a_daemon_nothing_is_split(used, look):
    assert look(device_map)["totals"]["split"] == 0
    assert look(device_map)["totals"]["small"] == 2


def test_groups_show_what_most_of_the_used_are(used, look):
    data = look(device_map, most_cells=8)
    assert data["group_extents"] == 4
    assert shows(data) == ["metadata", "small", "returned", *["free"] * 5]
    second = data["cells"][1]
    assert (second["extent"], second["small"], second["whole"], second["metadata"]) == (4, 2, 1, 1)
    assert second["fill"] == pytest.approx((2 + 256 + 512 + 512) / 2048, abs=1e-4)
    assert sum(data["totals"].values()) == data["n_extents"]


def test_the_last_group_may_be_smaller(tmp_path):
    image = HandBuilt(tmp_path / "odd.img", 74 * MIB)
    with Reader(image.path) as reader:
        data = device_map(reader, most_cells=10)
    image.close()
    assert (data["n_extents"], data["group_extents"]) == (37, 4)
    assert data["cells"][-1] == {"extent": 36, "shows": "free", "fill": 0.0, "free": 1}


@pytest.mark.parametrize(
    ("n", "most", "group"), [(32, 32, 1), (33, 32, 2), (1 << 23, 1000, 16384), (5, 1, 8)]
)
def test_group_is_the_smallest_power_of_two(n, most, group):
    assert group_for(n, most) == group


def draw(*arguments):
    result = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_letters_in_a_pipe(used):
    with daemon(used.path):
        lines = draw("map", used.path).splitlines()
    assert lines[1].endswith("disk.img: 64 MiB (mounted), a cell is an extent of 2 MiB")
    assert lines[2] == "        0  MMMDMsSW--......................"
    legend = {line.split()[1]: line.split() for line in lines[4:11]}
    assert list(legend) == list(CLASSES)
    assert legend["split"][:4] == ["S", "split", "1", "3.1%"]
    assert "\x1b" not in "".join(lines)


def test_few_cells_say_how_large_they_are(used):
    output = draw("map", used.path, "--cells", "8")
    assert "a cell is 4 extents, 8 MiB" in output
    assert "        0  Ms-.....\n" in output
    assert "A cell shows what most of its used extents are." in output


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("columns", "cells"), [(80, 64), (120, 96), (20, 16), (500, 480)])
def test_rows_fit_the_terminal(monkeypatch, columns, cells):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout", Terminal())
    per_row, _ = inspect_device.canvas()
    assert per_row == cells
    assert per_row + 11 <= columns or columns < 27


def test_colours_on_a_terminal(monkeypatch, used, look):
    monkeypatch.delenv("NO_COLOR", raising=False)
    with daemon(used.path):
        data = look(device_map)
    monkeypatch.setattr("sys.stdout", Terminal())
    assert inspect_device.uses_colour()
    inspect_device.render_map(data, letters=False)
    output = sys.stdout.getvalue()
    red, green, blue = inspect_device.COLOURS["small"]
    assert f"\x1b[38;2;{red};{green};{blue}m▒" in output  # half full
    monkeypatch.setenv("NO_COLOR", "1")
    assert not inspect_device.uses_colour()


@pytest.mark.parametrize("view", ["map", "wear"])
def test_colour_in_a_pipe_when_it_is_forced(monkeypatch, used, view):
    """As for less -R; COLUMNS says how wide that is."""
    used.head(11, Kind.WHOLE, owner=2, wear=9)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    text = draw(view, used.path)
    assert "\x1b[38;2;" in text
    assert "█" in text
    cells = next(x for x in click.unstyle(text).splitlines() if x.startswith("        0  "))
    assert cell_len(cells) <= 60
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[38" not in draw(view, used.path)


@pytest.mark.parametrize("columns", [40, 80, 140])
@pytest.mark.parametrize("name", ["map", "wear"])
def test_no_line_is_wider_than_the_terminal(monkeypatch, used, look, name, columns):
    used.head(11, Kind.WHOLE, owner=2, wear=1 << 40)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout", Terminal())
    view = {"map": device_map, "wear": wear}[name]
    data = look(view, most_cells=16)
    data["image"] = "disk.img"
    getattr(inspect_device, f"render_{name}")(data, letters=False)
    lines = click.unstyle(sys.stdout.getvalue()).splitlines()
    assert max(map(cell_len, lines)) <= columns
    if name == "map":
        assert ("pages of many files" in "".join(lines)) == (columns >= 80)
        assert any("descriptor" in line and "%" in line for line in lines)


@pytest.mark.filterwarnings("default")  # matplotlib's own
@pytest.mark.parametrize("view", ["map", "wear"])
def test_pictures(used, tmp_path, view):
    path = tmp_path / "picture.png"
    assert draw(view, used.path, "--png", path) == f"{path}\n"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("default")  # matplotlib's own
@pytest.mark.parametrize("view", ["map", "wear"])
def test_a_picture_and_json(used, tmp_path, view):
    path = tmp_path / "picture.png"
    words = ["inspect", view, str(used.path), "--png", str(path), "--json"]
    result = CliRunner().invoke(main, words)
    assert json.loads(result.stdout)["n_extents"] == 32
    assert result.stderr == f"{path}\n"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("view", ["map", "wear"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none/x.png", "there is no directory"),
        ("x.docx", "'.docx' is no kind of picture; let it end with .png"),
        ("x", "its name has no suffix; let it end with .png"),
    ],
)
def test_picture_that_cannot_be_written(used, monkeypatch, tmp_path, view, name, sentence):
    monkeypatch.setattr("pmemfs.inspect.Reader", None)  # it is said before the work
    words = ["inspect", view, str(used.path), "--png", str(tmp_path / name)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"pmemfs: cannot write {tmp_path / name}: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.filterwarnings("default")  # matplotlib's own
def test_picture_on_a_full_device(used, tmp_path):
    path = tmp_path / "x.png"
    path.symlink_to("/dev/full")
    result = CliRunner().invoke(main, ["inspect", "map", str(used.path), "--png", str(path)])
    assert result.exit_code == 1
    assert result.stderr == f"pmemfs: cannot write {path}: No space left on device\n"


@pytest.mark.filterwarnings("default")  # matplotlib's own
def test_both_panels_of_wear_say_what_they_show(used, look, monkeypatch, tmp_path):
    pyplot = load_matplotlib()
    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    CliRunner().invoke(main, ["inspect", "wear", str(used.path), "--png", str(tmp_path / "x.png")])
    places, ranks = pyplot.gcf().axes
    monkeypatch.undo()
    pyplot.close("all")
    assert (places.get_ylabel(), ranks.get_ylabel()) == ("lines flushed", "lines flushed")
    assert ranks.get_title().startswith("the hottest ")
    assert "of those) took" in ranks.get_title()


def test_the_legend_fits_80_columns(used):
    assert max(map(len, draw("map", used.path).splitlines()[4:])) <= 80


def test_no_matplotlib(used, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["inspect", "map", str(used.path), "--png", str(tmp_path / "x.png")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "pip install 'pmemfs[plot]'" in result.stderr
