"""Descriptors through the mount: they come with small-file I/O and go with the idle time."""

from __future__ import annotations

import mmap
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from mount_run import NEEDS_MOUNT, Mounted, wait_until

pytestmark = NEEDS_MOUNT
MIB = 1 << 20


def write_direct(path: Path, size_bytes: int) -> None:
    data = mmap.mmap(-1, size_bytes)
    data.write(os.urandom(size_bytes))
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o644)
    try:
        assert os.pwrite(fd, memoryview(data), 0) == size_bytes
    finally:
        os.close(fd)


def read_direct(path: Path, size_bytes: int) -> None:
    buffer = mmap.mmap(-1, size_bytes)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        os.preadv(fd, [buffer], 0)
    finally:
        os.close(fd)


def small_files(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"s{i}" for i in range(count)]
    for path in paths:
        write_direct(path, 4096 * (1 + len(path.name) % 3))
    return paths


def no_descriptors(one: Mounted) -> bool:
    usage = one.usage()
    return (
        usage["split_extents"] == usage["page_descriptors"] == usage["page_descriptor_bytes"] == 0
    )


def assert_sums(usage: dict[str, Any]) -> None:
    extents = usage["extents"]
    kinds = ("free", "whole", "small", "descriptor", "metadata")
    assert (
        sum(extents[kind] for kind in kinds)
        == extents["total"]
        == usage["device_bytes"] // (2 * MIB)
    )
    assert usage["head_descriptors"] == extents["total"]
    assert usage["head_descriptor_bytes"] == 64 * extents["total"]
    assert usage["page_descriptor_bytes"] == 32768 * usage["split_extents"]


def test_small_files_split_and_go_idle_without_a_request(own_mount: Mounted) -> None:
    assert no_descriptors(own_mount)
    own_mount.remount("idle=3")
    paths = small_files(own_mount.directory / "small", 400)
    usage = own_mount.usage()
    assert_sums(usage)
    assert usage["split_extents"] >= 1
    assert 0 < usage["page_descriptors"] <= usage["split_extents"] * 511
    assert usage["files"] == 401
    assert wait_until(lambda: no_descriptors(own_mount), 8)  # the inspector asks the daemon nothing
    read_direct(paths[3], 4096)
    usage = own_mount.usage()
    assert usage["split_extents"] == 1
    assert 1 <= usage["page_descriptors"] <= 3
    assert wait_until(lambda: no_descriptors(own_mount), 8)


def test_a_longer_idle_time_keeps_them(own_mount: Mounted) -> None:
    own_mount.remount("idle=60")
    small_files(own_mount.directory / "small", 20)
    time.sleep(2.5)
    usage = own_mount.usage()
    assert usage["split_extents"] == 1
    own_mount.umount()
    assert no_descriptors(own_mount)
    own_mount.mount("idle=60")
    assert no_descriptors(own_mount)


def test_a_killed_daemon_leaves_none_that_count(own_mount: Mounted) -> None:
    own_mount.remount("idle=60")
    small_files(own_mount.directory / "small", 20)
    assert own_mount.usage()["split_extents"] == 1
    own_mount.kill()
    assert no_descriptors(own_mount)
    own_mount.umount()
    own_mount.mount("idle=60")
    assert no_descriptors(own_mount)


def test_large_files_never_split(own_mount: Mounted) -> None:
    write_direct(own_mount.directory / "large", 8 * MIB)
    time.sleep(1.5)
    for _ in range(3):
        read_direct(own_mount.directory / "large", 4096)
    usage = own_mount.usage()
    assert usage["split_extents"] == 0
    assert usage["extents"]["whole"] == 4


def test_a_growing_file_becomes_whole_extents(own_mount: Mounted) -> None:
    path = own_mount.directory / "grows"
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    seen = []
    try:
        for i in range(512):
            page[:] = bytes([i % 251]) * 4096
            os.pwrite(fd, memoryview(page), i * 4096)
            if i in (100, 511):
                seen.append(own_mount.usage()["extents"])
    finally:
        os.close(fd)
    assert (seen[0]["whole"], seen[0]["small"]) == (0, 1)
    assert seen[1]["whole"] == 1
    own_mount.remount()
    assert path.read_bytes() == b"".join(bytes([i % 251]) * 4096 for i in range(512))
    assert own_mount.usage()["extents"]["small"] == 0


@pytest.mark.parametrize(("percent", "whole"), [(10, 1), (100, 0)])
def test_the_threshold_is_an_option(percent: int, whole: int, own_mount: Mounted) -> None:
    own_mount.remount(f"promote={percent}")
    fd = os.open(own_mount.directory / "f", os.O_CREAT | os.O_RDWR)
    try:
        for i in range(300):
            os.pwrite(fd, b"x" * 4096, i * 4096)
    finally:
        os.close(fd)
    assert own_mount.usage()["extents"]["whole"] == whole


def test_host_space_goes_down_after_rm_and_idle(own_mount: Mounted) -> None:
    start = own_mount.usage()
    folder = own_mount.directory / "work"
    small_files(folder, 300)
    for i in range(10):
        (folder / f"large{i}").write_bytes(bytes(5 * MIB))
    (folder / "sub/sub/sub").mkdir(parents=True)
    os.symlink("x" * 3000, folder / "link")
    os.setxattr(folder / "s1", "user.a", b"b" * 500)
    own_mount.remount("idle=1")
    full = own_mount.usage()
    assert full["host_bytes"] - start["host_bytes"] >= 50 * MIB
    (folder / "large0").unlink()
    assert wait_until(lambda: own_mount.usage()["host_bytes"] <= full["host_bytes"] - 4 * MIB, 5)
    shutil.rmtree(folder)
    fixed = start["extents"]["metadata"]

    def is_empty() -> bool:
        usage = own_mount.usage()
        assert_sums(usage)
        extents = usage["extents"]
        return (
            (extents["whole"], extents["small"], extents["metadata"]) == (0, 0, fixed)
            and extents["returned"] == usage["split_extents"] == usage["files"] == 0
            and extents["descriptor"] == 1
            and usage["host_bytes"] <= 12 * MIB
        )

    assert wait_until(is_empty, 8), own_mount.usage()


def test_the_cap_holds_while_files_are_in_use(own_mount: Mounted) -> None:
    own_mount.remount("idle=1000,descriptors=600")
    small_files(own_mount.directory / "work", 600)
    assert own_mount.usage()["extents"]["small"] >= 2
    assert wait_until(lambda: own_mount.usage()["split_extents"] == 1, 10)
