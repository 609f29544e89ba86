"""``pmemfs fsck``: what it prints, and the exit status of fsck(8)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import fsck_image as fi
import pytest
from click.testing import CliRunner, Result
from fsck_image import HandImage

from pmemfs.cli.fsck import fsck_command, print_each
from pmemfs.cli.helpers import fsck_helper
from pmemfs.fsck import Repair, Risk
from pmemfs.fuse.mounts import wait_until_closed
from pmemfs.image import Image


def fsck(*arguments: str) -> Result:
    return CliRunner().invoke(fsck_command, list(arguments))


def test_clean(image: HandImage) -> None:
    result = fsck(str(image.path))
    assert result.exit_code == 0
    assert result.stdout == (
        f"{image.path}: clean, 4 files, 3 directories, 2 symlinks, 1 other, 1 orphan, "
        "8/32 extents, 1038 pages\n"
    )
    assert result.stderr == ""


def test_errors_left(image: HandImage) -> None:
    image.patch_inode(fi.FILE, pages=9)
    result = fsck(str(image.path))
    assert result.exit_code == 4
    line, summary = result.stdout.splitlines()
    assert line == ("inode-pages: inode 2 counts 9 pages, its map has 3 (device offset 0x400200)")
    assert ": 1 problem found, 4 files" in summary


def test_many_findings_are_counted(image: HandImage) -> None:
    image.poke(fi.pfn_to_offset(fi.extent_to_pfn(fi.SMALL) + 0) + 80, b"\xff" * 2000)
    result = fsck(str(image.path))
    assert result.exit_code == 4
    assert "owner-inode: and 150 more\n" in result.stdout


def test_unclean_says_what_was_replayed(image: HandImage) -> None:
    image.set_transaction(6, [(fi.pfn_to_offset(fi.FREE_META_PFN), b"8 bytes.")])
    result = fsck(str(image.path))
    assert result.exit_code == 0
    first = result.stdout.splitlines()[0]
    assert first == (f"{image.path}: was not closed; replayed transaction 6 (1 change) in memory")


def test_json(image: HandImage) -> None:
    image.patch_inode(fi.FILE, pages=9)
    result = fsck(str(image.path), "--json")
    assert result.exit_code == 4
    report = json.loads(result.stdout)
    assert report["clean"] is False
    assert report["counts"] == {"inode-pages": 1}
    assert report["findings"][0]["offset"] == 0x400200
    assert report["extents"]["total"] == 32


# -- mending -------------------------------------------------------------------------------------


def test_preen_mends_what_is_safe(image: HandImage) -> None:
    image.patch_inode(fi.FILE, pages=9)
    result = fsck("-p", str(image.path))
    assert result.exit_code == 1
    found, mended, summary = result.stdout.splitlines()
    assert found.startswith("inode-pages: inode 2 counts 9 pages")
    assert mended == "mended: inode-pages: count 3 pages in inode 2"
    assert summary.startswith(f"{image.path}: mended, now clean, 4 files, 3 directories")
    assert fsck("-p", str(image.path)).exit_code == 0


def test_preen_leaves_what_may_lose_something(image: HandImage) -> None:
    image.patch_slot(fi.DIR_LEAF, 0, ino=4000)
    image.patch_head(fi.SMALL, used=17)
    result = fsck("-a", str(image.path))
    assert result.exit_code == 4
    assert "mended: owner-count: count 6 pages in use in extent 4\n" in result.stdout
    assert "left: dir-target: build directory 6 anew" in result.stdout
    assert f"not clean; mend it by hand: pmemfs fsck {image.path}" in result.stdout
    assert fsck("-y", str(image.path)).exit_code == 1
    assert fsck("-n", str(image.path)).exit_code == 0


@pytest.mark.parametrize("flags", [["-n"], [], ["--json"]])
def test_without_a_terminal_nothing_is_written(image: HandImage, flags: list[str]) -> None:
    image.patch_inode(fi.FILE, pages=9)
    before = image.path.read_bytes()
    assert fsck(*flags, str(image.path)).exit_code == 4
    assert image.path.read_bytes() == before


def test_closing_an_image_that_was_not_closed_is_a_change(image: HandImage) -> None:
    image.set_transaction(6, [(fi.pfn_to_offset(fi.FREE_META_PFN), b"8 bytes.")])
    result = fsck("-p", str(image.path))
    assert result.exit_code == 1
    assert "mended: journal: replay transaction 6\n" in result.stdout
    assert image.peek(fi.pfn_to_offset(fi.FREE_META_PFN), 8) == b"8 bytes."
    assert fsck("-p", str(image.path)).exit_code == 0


@pytest.mark.parametrize(
    ("answers", "status"), [("y\ny\n", 1), ("y\nn\n", 4), ("n\ny\n", 4), ("n\nn\n", 4)]
)
def test_asks_on_a_terminal(
    image: HandImage, monkeypatch: pytest.MonkeyPatch, answers: str, status: int
) -> None:
    """First about the name that is lost, then before anything is written."""
    monkeypatch.setattr("pmemfs.cli.fsck._on_terminal", lambda: True)
    image.patch_slot(fi.DIR_LEAF, 0, ino=4000)
    image.patch_head(fi.SMALL, used=17)
    before = image.path.read_bytes()
    result = CliRunner().invoke(fsck_command, [str(image.path)], input=answers)
    assert result.exit_code == status, result.output
    assert "this may lose something. Do it? [y/N]" in result.stdout
    assert "to do: owner-count: count 6 pages in use in extent 4" in result.stdout
    assert (image.path.read_bytes() == before) == (answers[2] == "n")
    assert ("nothing was written" in result.stdout) == (answers[2] == "n")


def test_an_image_that_is_only_not_closed_may_stay_so(
    image: HandImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmemfs.cli.fsck._on_terminal", lambda: True)
    image.patch_control(state=1)
    before = image.path.read_bytes()
    assert CliRunner().invoke(fsck_command, [str(image.path)], input="n\n").exit_code == 0
    assert image.path.read_bytes() == before
    assert CliRunner().invoke(fsck_command, [str(image.path)], input="y\n").exit_code == 1


def test_many_repairs_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    print_each("mended", [Repair("link-count", f"number {i}", Risk.SAFE) for i in range(150)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 101
    assert lines[-1] == "mended: link-count: and 50 more"


def test_an_answer_that_does_not_come_is_an_interruption(
    image: HandImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmemfs.cli.fsck._on_terminal", lambda: True)
    image.patch_slot(fi.DIR_LEAF, 0, ino=4000)
    before = image.path.read_bytes()
    assert CliRunner().invoke(fsck_command, [str(image.path)], input="").exit_code == 32
    assert image.path.read_bytes() == before


def test_json_of_a_repair(image: HandImage) -> None:
    image.patch_inode(fi.FILE, pages=9)
    result = fsck("-y", "--json", str(image.path))
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["clean"], report["made"], report["clean_now"]) == (False, True, True)
    assert report["repairs"] == [
        {
            "check": "inode-pages",
            "sentence": "count 3 pages in inode 2",
            "risk": "safe",
            "stored_bytes": 256,
        }
    ]


def test_names_from_the_image_are_printed_escaped(image: HandImage) -> None:
    image.set_page(fi.DIR_LEAF, fi.leaf_page(fi.DIR, [(b"\x1b[2J", 4000, 0o100000)]))
    image.patch_inode(fi.FIFO, nlink=3)
    result = fsck("-y", str(image.path))
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("flags", [["-n", "-p"], ["-p", "-y"], ["-n", "-y"]])
def test_flags_that_exclude_each_other(image: HandImage, flags: list[str]) -> None:
    result = fsck(*flags, str(image.path))
    assert result.exit_code == 16
    assert "exclude each other" in result.output


@pytest.mark.parametrize(("flag", "status"), [("-a", 1), ("-p", 1), ("-y", 1), ("-n", 4)])
def test_the_helper_of_fsck_8(image: HandImage, flag: str, status: int) -> None:
    image.patch_inode(fi.FILE, pages=9)
    result = CliRunner().invoke(fsck_helper, [flag, "-C", "0", "-T", str(image.path)])
    assert result.exit_code == status
    assert fsck(str(image.path)).exit_code == (4 if status == 4 else 0)


def test_an_image_that_may_only_be_read(image: HandImage) -> None:
    image.patch_inode(fi.FILE, pages=9)
    image.patch_superblocks(ro_compat=1 << 40)
    before = image.path.read_bytes()
    result = fsck("-y", str(image.path))
    assert result.exit_code == 8
    assert "only a newer pmemfs may write" in result.stderr
    assert image.path.read_bytes() == before


def test_missing_image(tmp_path: Path) -> None:
    result = fsck(str(tmp_path / "none.img"))
    assert result.exit_code == 8
    assert "there is no image" in result.stderr


def test_no_image_at_all(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"hello" * 20_000_000)
    result = fsck(str(path))
    assert result.exit_code == 8
    assert "no usable pmemfs image" in result.stderr


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A fifo, too, which an open would wait for."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        for flag in ("-n", "-y"):
            result = fsck(flag, str(path))
            assert result.exit_code == 8
            assert "is not a regular file" in result.stderr or "is a directory" in result.stderr


def test_image_in_use(image: HandImage, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = partial(wait_until_closed, timeout_s=0.1)
    monkeypatch.setattr("pmemfs.cli.fsck.wait_until_closed", soon)
    held = Image.open(image.path, lock="exclusive")
    try:
        result = fsck(str(image.path))
    finally:
        held.close()
    assert result.exit_code == 8
    assert "is in use" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("--wrong",), ("a", "b")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert fsck(*arguments).exit_code == 16


def test_help_shows_examples() -> None:
    result = fsck("--help")
    assert result.exit_code == 0
    assert "pmemfs fsck disk.img --json" in result.stdout


# -- an image that is cut short under it ---------------------------------------------------------

CUT_SHORT = """
import os, sys
from pmemfs.cli import fsck

left = int(sys.argv.pop(1))

def cut(bar, name, done, total):
    os.truncate(sys.argv[-1], left)
    fsck._Bar.show = lambda *_: None

fsck._Bar.show = cut
fsck.fsck_command(sys.argv[1:])
"""


@pytest.mark.parametrize("flag", ["-n", "-y"])
@pytest.mark.parametrize("left", [2 << 20, (64 << 20) - 4096], ids=["most", "the end"])
def test_an_image_cut_short_ends_with_a_sentence(image: HandImage, flag: str, left: int) -> None:
    """Where the mapping is gone that is a signal; at the end it would read as zeros."""
    image.patch_inode(fi.FILE, pages=9)
    command = [sys.executable, "-c", CUT_SHORT, str(left), flag, str(image.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 8, done.stderr
    assert f"cut short to {left} of {64 << 20} bytes while in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert image.path.stat().st_size == left
