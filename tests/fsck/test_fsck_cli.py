"""``pmemfs fsck``: what it prints, and the exit status of fsck(8)."""

from __future__ import annotations

import json
from pathlib import Path

import fsck_image as fi
import pytest
from click.testing import CliRunner, Result
from fsck_image import HandImage

from pmemfs.cli.fsck import fsck_command
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


def test_image_in_use(image: HandImage) -> None:
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
