"""The command line: every view as text and as JSON, errors as one sentence, help."""

import json
import os
import stat
import subprocess
import sys

import pytest
from click.testing import CliRunner
from hand_built import daemon

from pmemfs.cli import COMMANDS, main
from pmemfs.layout.records import EntryKind, Kind, MountState, PageFlag
from pmemfs.layout.words import owner_word

META = 4 * 512
TABLE_PFN = 3 * 512 + 8


@pytest.fixture
def full(built):
    """An image with something in every view."""
    name = b"\x1b[31mred\n\xff"
    built.root({b"f": 2, name: 3, b"l": 4})
    built.small(
        5, {1: (2, 0), 2: (2, 1)}, generation=7, table=TABLE_PFN << 8 | PageFlag.SPLIT, access_s=60
    )
    built.descriptor(TABLE_PFN, 1, owner=owner_word(2, 0), state=1 << 60, wear=9)
    built.head(6, Kind.WHOLE, owner=2, index=1, wear=1 << 63)
    words = [5 * 512 + 1 | 2 << 48, 510 | 1 << 41, 6 * 512 | 1 << 40 | 512 << 48]
    built.inode(2, stat.S_IFREG | 0o644, map=words, pages=514, mtime_ns=-(1 << 63))
    built.inode(3, stat.S_IFREG)
    built.inode(4, stat.S_IFLNK, map=[0x1B], map_kind=2, size=1)
    built.transaction(2, [(2 << 20, 8, EntryKind.STORE, b"12345678")])
    built.control(state=MountState.MOUNTED, committed=2, generation=7)
    return built


def run(*arguments):
    return CliRunner().invoke(main, [os.fspath(a) for a in arguments], prog_name="pmemfs")


VIEWS = [
    ("usage",),
    ("super",),
    ("extents",),
    ("extents", "--all", "--sort", "wear"),
    ("extent", "4"),
    ("extent", "5"),
    ("extent", "2"),
    ("extent", "3"),
    ("extent", "0"),
    ("extent", "0x6"),
    ("page", "2561"),
    ("page", "0xa02"),
    ("page", "0"),
    ("file", "/f"),
    ("file", "/"),
    ("file", "/l"),
    ("file", "<3>"),
    ("free",),
    ("journal",),
    ("map",),
    ("map", "--cells", "7"),
    ("wear",),
    ("wear", "--top", "0"),
]


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
@pytest.mark.parametrize("alive", [False, True])
def test_every_view_as_text_and_json(full, view, alive):
    name, *rest = view
    arguments = ("inspect", name, full.path, *rest)
    if alive:
        with daemon(full.path):
            text, data = run(*arguments), run(*arguments, "--json")
    else:
        text, data = run(*arguments), run(*arguments, "--json")
    assert (text.exit_code, data.exit_code) == (0, 0)
    assert text.output.replace("\n", "").isprintable()
    assert "…" not in text.output
    parsed = json.loads(data.output)
    assert parsed["live"] is alive
    assert {"image", "clean", "journal_replayed", "consistent", "remarks"} <= set(parsed)
    assert ("journal is not replayed" in text.output) is not alive


def test_json_has_raw_integers(full):
    data = json.loads(run("inspect", "file", full.path, "/f", "--json").output)
    assert data["inode"]["mtime_ns"] == -(1 << 63)
    data = json.loads(run("inspect", "extents", full.path, "--json").output)
    assert max(row["wear"] for row in data["extents"]) == 1 << 63


def test_usage_text_has_every_line(full):
    with daemon(full.path):
        output = run("inspect", "usage", full.path).output
    lines = ("returned", "small", "reserve", "owner pages", "split extents", "head descriptors")
    for line in (*lines, "page descriptors touched", "on the host", "(mounted)"):
        assert line in output


def test_hostile_names_are_escaped(full):
    result = run("inspect", "file", full.path, "/\x1b[31mno\nway")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        r"pmemfs: there is no '\x1b[31mno\nway' in / of the image (PATH is a path inside it)"
        "\n"
    )


def test_wide_output_is_not_cut(full):
    output = run("inspect", "super", full.path).output
    assert "features that an older program must refuse" in output
    assert not any(line != line.rstrip() for line in output.splitlines())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("usage", "/nowhere/disk.img"), "there is no image /nowhere/disk.img"),
        (("usage", "/"), "not a regular file"),
        (("usage", "/dev/null"), "not a regular file"),
        (("usage", __file__), "is no pmemfs image"),
    ],
)
def test_errors_are_one_sentence(arguments, sentence):
    result = run("inspect", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("pmemfs: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("extent", "x"), ("page", ""), ("extents", "--kind", "none"), ("nothing",)]
)
def test_wrong_arguments_are_usage_errors(built, arguments):
    name, *rest = arguments
    result = run("inspect", name, built.path, *rest)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_help_lists_commands_without_loading_them(monkeypatch):
    monkeypatch.setitem(COMMANDS, "mkfs", ("pmemfs.cli.nowhere:command", "Make an image."))
    output = run("--help").output
    for name, (_, summary) in COMMANDS.items():
        assert name in output
        assert summary in output
    result = run("mkfs", "--help")
    assert result.exit_code == 1
    assert result.stderr.startswith("pmemfs: cannot load the command mkfs")


@pytest.mark.parametrize(
    "name",
    [*("usage", "super", "extents", "extent"), *("page", "file", "free", "map", "wear", "top")],
)
def test_help_shows_examples(name):
    result = run("inspect", name, "--help")
    lines = [line.strip() for line in result.output.splitlines()]
    assert any(line.startswith(f"pmemfs inspect {name} disk.img") for line in lines)


def test_version_and_unknown_command():
    assert run("--version").output.startswith("pmemfs, version ")
    assert run("nothing").exit_code == 2


def test_inspect_loads_no_engine_and_no_fuse(built):
    code = (
        "import sys; from pmemfs.cli import main\n"
        f"main(['inspect', 'usage', {os.fspath(built.path)!r}], standalone_mode=False)\n"
        "bad = [m for m in sys.modules if m.split('.')[0] == 'fuse' or m.startswith("
        "('pmemfs.journal', 'pmemfs.pages', 'pmemfs.fs', 'pmemfs.reclaim', 'pmemfs.fuse'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_interrupt_is_quiet(monkeypatch, built):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pmemfs.inspect.Reader", interrupt)
    result = run("inspect", "usage", built.path)
    assert (result.exit_code, result.output) == (130, "")


def test_broken_pipe_is_quiet(built):
    command = [sys.executable, "-m", "pmemfs", "inspect", "extents", os.fspath(built.path), "--all"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.stderr == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_locale_cannot_print(full, encoding):
    command = [sys.executable, "-m", "pmemfs", "inspect", "file", os.fspath(full.path), "ж"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    full.root({"ж".encode(): 2})
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.stderr == b""
    assert done.returncode == 0
    assert b": file, inode 2" in done.stdout
