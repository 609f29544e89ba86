"""Tables: nothing is broken on a terminal, nothing folded or split in a pipe."""

from __future__ import annotations

import io
import sys

import click
import pytest

from pmemfs.cli import table

COLUMNS = ["scheme", ">stores", ">lines stored", ">descriptors", "lies in", ">hottest 1 % takes"]
ROWS = [
    ("two-level lazily", "4,294,967,296", "123,456,789,012", 17, "the head table", "0.049%"),
    ("flat", "1", "1.5 GiB", None, "one page after the other, all over the device", "100.000%"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(
    patch: pytest.MonkeyPatch, width: int, columns: list[str], rows: list[tuple[object, ...]]
) -> list[str]:
    """Return the lines of a table on a terminal of that width."""
    with patch.context() as within:
        within.setenv("COLUMNS", str(width))
        within.setenv("TERM", "xterm")
        within.setattr("sys.stdout", Terminal())
        table.table(columns, rows)
        return click.unstyle(sys.stdout.getvalue()).splitlines()


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_no_number_and_no_word_is_broken(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = written(monkeypatch, width, COLUMNS, ROWS)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for text in (*(name.lstrip(">") for name in COLUMNS), *ROWS[0], *ROWS[1]):
        for word in str("-" if text is None else text).split():
            assert word in words
    assert any("1.5 GiB" in line for line in lines)


def test_a_table_that_is_too_wide_is_written_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    def titles(width: int) -> list[int]:
        lines = written(monkeypatch, width, COLUMNS, ROWS)
        return [place for place, line in enumerate(lines) if "───" in line]

    assert len(titles(200)) == 1
    assert len(titles(100)) == 1  # prose is wrapped before
    assert len(titles(60)) == 2
    lines = written(monkeypatch, 60, COLUMNS, ROWS)
    assert sum("two-level lazily" in line for line in lines) == 2
    assert sum(line.startswith(" flat") for line in lines) == 2


def test_text_is_no_markup_and_is_wrapped_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[object, ...]] = [("[red]x\x1b", 5), ("long " * 20, None)]
    lines = written(monkeypatch, 60, ["name", ">size"], rows)
    assert any("[red]x\\x1b" in line for line in lines)
    assert " ".join(lines).split().count("long") == 20


@pytest.mark.parametrize("width", [4, 20])
def test_a_word_that_is_wider_than_the_terminal_is_folded(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines = written(monkeypatch, width, ["name", ">size"], [("x" * 50, 5)])
    assert "".join(lines).count("x") == 50
    assert max(map(len, lines)) == 20


def test_a_table_without_rows_has_its_heading(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any("name" in line for line in written(monkeypatch, 80, ["name", ">size"], []))


def test_in_a_pipe_a_table_is_one_whatever_its_width(capsys: pytest.CaptureFixture[str]) -> None:
    table.table(COLUMNS * 5, [row * 5 for row in ROWS])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].count("one page after") == 0
    assert lines[2].count("one page after the other, all over the device") == 5
