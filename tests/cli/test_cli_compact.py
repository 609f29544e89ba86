"""``pmemfs compact``: of an image, of a mount, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from mount_run import MIB, NEEDS_MOUNT, Mounted, assert_clean, mounted, run_here, wait_until
from sentences import assert_sentence

from pmemfs.cli.compact import describe
from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.records import Kind

FILES = 1200
NATIVE_ATTRIBUTE = "user.pmemfs.compact"


def content(number: int) -> bytes:
    return b"%08d" % number * 512


def fill_thinly(directory: Path) -> None:
    """Leave one page in twenty of three small extents."""
    for number in range(FILES):
        (directory / str(number)).write_bytes(content(number))
    for number in range(FILES):
        if number % 20:
            (directory / str(number)).unlink()


def require_content(directory: Path) -> None:
    for number in range(0, FILES, 20):
        assert (directory / str(number)).read_bytes() == content(number)


@pytest.fixture
def image(folder: Path) -> Path:
    path = folder / "disk.img"
    Volume.format(path, 64 * MIB)
    with Volume.open(path) as volume:
        inos = []
        for number in range(FILES):
            inos.append(volume.create(ROOT_INO, b"%d" % number, 0o100644).ino)
            volume.write(inos[-1], 0, content(number))
        for number in range(FILES):
            if number % 20:
                volume.unlink(ROOT_INO, b"%d" % number)
        assert volume.pool.counts[Kind.SMALL] == 3
    return path


def test_an_image(image: Path) -> None:
    text = run_here("compact", image).stdout
    assert "2 extents gained" in text
    with Volume.open(image) as volume:
        assert volume.pool.counts[Kind.SMALL] == 1
        for number in range(0, FILES, 20):
            ino = volume.resolve(b"/%d" % number).ino
            assert b"".join(volume.read(ino, 0, 9999)) == content(number)
    assert_clean(image)
    assert "0 pages moved, 0 extents gained" in run_here("compact", image).stdout


def test_one_is_not_many() -> None:
    before = {"pages_moved": 0, "free_extents": 0, "free_small_pages": 0, "free_pages": 512}
    after = {"pages_moved": 1, "free_extents": 1, "free_small_pages": 0, "free_pages": 512}
    assert describe(before, after).startswith(
        "1 page moved, 1 extent gained; 1 extent of 2 MiB is free (2 MiB)"
    )


def test_json(image: Path) -> None:
    document = json.loads(run_here("compact", image, "--json").stdout)
    assert document["before"]["small_extents"] == 3
    assert document["after"]["small_extents"] == 1
    assert document["after"]["running"] is False


def test_refusals(folder: Path) -> None:
    assert_sentence(run_here("compact", folder, check=False), "no pmemfs is mounted")
    assert_sentence(run_here("compact", folder / "none", check=False), "none")
    (folder / "text").write_text("no image")
    assert_sentence(run_here("compact", folder / "text", check=False), "text")


class TestMounted:
    pytestmark = NEEDS_MOUNT

    @pytest.mark.parametrize("frontend", ["fusepy", "native"])
    def test_a_mount(self, folder: Path, frontend: str) -> None:
        class Chosen(Mounted):
            pass

        Chosen.frontend = frontend
        with mounted(folder, "", Chosen) as one:
            fill_thinly(one.directory)
            assert one.usage()["extents"]["small"] == 3
            text = run_here("compact", one.directory).stdout
            assert re.search(r"extents? gained", text)
            assert one.usage()["extents"]["small"] <= 2
            require_content(one.directory)
            assert NATIVE_ATTRIBUTE not in os.listxattr(one.directory)
            assert re.search(r"extents? gained", run_here("compact", one.image).stdout)
            one.remount()
            require_content(one.directory)

    def test_idle_time_does_it_unasked(self, folder: Path) -> None:
        with mounted(folder, "idle=1") as one:
            fill_thinly(one.directory)
            assert wait_until(lambda: one.usage()["extents"]["small"] == 1)
            require_content(one.directory)

    def test_without_attributes_it_says_so(self, folder: Path) -> None:
        with mounted(folder, "noxattr") as one:
            assert_sentence(run_here("compact", one.directory, check=False), "noxattr")

    def test_read_only_it_says_so(self, folder: Path) -> None:
        with mounted(folder, "ro") as one:
            assert_sentence(run_here("compact", one.directory, check=False), "read-only")
