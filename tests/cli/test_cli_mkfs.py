"""``pmemfs mkfs``: what it makes, what it refuses, and that it says why."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from mount_run import MIB, NEEDS_ROOT, assert_clean, run, run_here
from sentences import assert_sentence, without_capabilities

from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.image import Image


@pytest.mark.parametrize("size", ["64M", "65M", "1G", "1.5GiB", "67108864", "8T"])
def test_makes_an_image(size: str, folder: Path) -> None:
    image = folder / "disk.img"
    done = run_here("mkfs", image, "--size", size, "--label", "näme")
    assert "extents of 2 MiB" in done.stdout
    assert image.stat().st_mode & 0o777 == 0o600
    assert image.stat().st_blocks * 512 <= 128 << 10
    assert_clean(image)
    opened = Image.open(image, lock="none")
    assert opened.superblock["label"].rstrip(b"\0") == "näme".encode()
    opened.close()


def test_the_root_has_lost_and_found(folder: Path) -> None:
    image = folder / "disk.img"
    run_here("mkfs", image, "--size", "64M")
    with Volume.open(image) as volume:
        found = volume.lookup(ROOT_INO, b"lost+found")
        assert (found.mode, found.uid, found.entries) == (stat.S_IFDIR | 0o700, os.geteuid(), 0)


def test_never_overwrites_without_force(folder: Path) -> None:
    image = folder / "disk.img"
    image.write_bytes(b"precious")
    assert_sentence(run_here("mkfs", image, "--size", "64M", check=False), "exists", "--force")
    assert image.read_bytes() == b"precious"
    run_here("mkfs", image, "--size", "64M", "--force")
    assert_clean(image)


@pytest.mark.parametrize("size", ["0", "1M", "63M"])
def test_a_size_that_is_too_small(size: str, folder: Path) -> None:
    assert_sentence(run_here("mkfs", folder / "disk.img", "--size", size, check=False), "64 MiB")
    assert not (folder / "disk.img").exists()


def test_a_size_that_the_host_refuses_names_its_limit(folder: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (128 * MIB, 128 * MIB))

    done = run("mkfs", folder / "disk.img", "--size", "1G", check=False, preexec_fn=limit)
    assert_sentence(done, "128 MiB", "128M")
    assert not (folder / "disk.img").exists()
    run("mkfs", folder / "disk.img", "--size", "128M", preexec_fn=limit)
    kept = (folder / "disk.img").read_bytes()
    done = run(
        "mkfs", folder / "disk.img", "--size", "1G", "--force", check=False, preexec_fn=limit
    )
    assert_sentence(done, "128 MiB")
    assert (folder / "disk.img").read_bytes() == kept


def test_sixteen_tebibytes_on_ext4() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, check=True)
        if kind.stdout.strip() != b"ext2/ext3":
            pytest.skip("/var/tmp is not ext4")
        image = Path(folder) / "disk.img"
        done = run_here("mkfs", image, "--size", "16T", check=False)
        assert_sentence(done, "16777214M")
        assert not image.exists()
        run_here("mkfs", image, "--size", "16777214M")
        assert image.stat().st_blocks * 512 <= 128 << 10


def test_a_size_that_the_host_cannot_map_names_its_limit(folder: Path) -> None:
    """A process can map 128 TiB at most; tmpfs lets a file have 8 EiB."""
    done = run_here("mkfs", folder / "disk.img", "--size", "200T", check=False)
    assert_sentence(done, "the largest image")
    assert not (folder / "disk.img").exists()


@pytest.mark.parametrize("size", ["9000000T", "99999999999999P"])
def test_a_size_beyond_all_hosts(size: str, folder: Path) -> None:
    assert_sentence(run_here("mkfs", folder / "disk.img", "--size", size, check=False))
    assert not (folder / "disk.img").exists()


def test_warns_when_the_host_has_less_room(folder: Path) -> None:
    done = run_here("mkfs", folder / "disk.img", "--size", "60T")
    assert "warning" in done.stderr
    assert "ENOSPC" in done.stderr
    assert run_here("mkfs", folder / "small.img", "--size", "64M").stderr == ""


def test_places_where_nothing_can_be_made(folder: Path) -> None:
    assert_sentence(
        run_here("mkfs", folder / "none/disk.img", "--size", "64M", check=False), "none/disk.img"
    )
    assert_sentence(run_here("mkfs", folder, "--size", "64M", check=False), "is a directory")
    assert_sentence(run_here("mkfs", folder, "--size", "64M", "--force", check=False), str(folder))
    assert_sentence(
        run_here("mkfs", "/dev/null", "--size", "64M", "--force", check=False), "/dev/null"
    )
    long_label = run_here("mkfs", folder / "i", "--size", "64M", "--label", "x" * 65, check=False)
    assert_sentence(long_label, "label", "64 bytes")
    assert not (folder / "i").exists()


@NEEDS_ROOT
def test_permission_denied(folder: Path) -> None:
    theirs = folder / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 1, 1)
    done = run("mkfs", theirs / "disk.img", "--size", "64M", check=False, **without_capabilities())
    assert_sentence(done, "Permission denied")
