"""What a mount does when its image is damaged, or cut short, under it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount_run import MIB, NEEDS_MOUNT, Mounted, run, scratch

from pmemfs.fs import Options, Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.fuse.mount import FRONTENDS

pytestmark = [*NEEDS_MOUNT, pytest.mark.parametrize("frontend", FRONTENDS)]


@pytest.fixture
def one(frontend: str) -> Iterator[Mounted]:
    """An image with some files, mounted anew, so that nothing of it is cached."""

    class OnFrontend(Mounted):
        pass

    OnFrontend.frontend = frontend
    with scratch() as folder:
        one = OnFrontend(folder, 64 * MIB)
        try:
            one.mount("idle=30")
            for name in ("kept", "other", "bad"):
                (one.directory / name).write_bytes(name.encode() * 3000)
            one.remount("idle=30")
            yield one
        finally:
            one.clean_up()


def offset_of(image: Path, name: bytes) -> int:
    with Volume.open(image, Options(read_only=True)) as volume:
        return volume.lookup(ROOT_INO, name).offset


def swap(image: Path, offset: int, data: bytes) -> bytes:
    """Store into the image; return what was there."""
    fd = os.open(image, os.O_RDWR)
    try:
        before = os.pread(fd, len(data), offset)
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)
    return before


def assert_errno(code: int, call, *arguments) -> None:
    with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
        call(*arguments)


def test_damage_makes_it_read_only(one: Mounted) -> None:
    one.umount()
    offset = offset_of(one.image, b"bad") + 40
    one.mount("idle=30")
    root = one.directory
    (root / "new").write_bytes(b"before the damage")
    before = swap(one.image, offset, b"\xff" * 8)
    for _ in range(2):
        assert_errno(errno.EUCLEAN, os.stat, root / "bad")
    assert_errno(errno.EROFS, os.mkdir, root / "d")
    assert_errno(errno.EROFS, os.unlink, root / "kept")
    assert_errno(errno.EROFS, os.truncate, root / "kept", 1)
    assert (root / "kept").read_bytes() == b"kept" * 3000
    assert (root / "new").read_bytes() == b"before the damage"
    assert sorted(os.listdir(root)) == ["bad", "kept", "new", "other"]
    one.umount()
    errors = [line for line in one.log.read_text().splitlines() if " ERROR " in line]
    assert len(errors) == 1, errors
    assert f"pmemfs fsck {one.image}" in errors[0]
    assert "read-only from here on" in errors[0]
    done = run("mount", one.image, root, "--log", one.log, check=False)
    assert done.returncode
    assert "was found damaged while it was mounted" in done.stderr
    assert f"pmemfs fsck {one.image}" in done.stderr
    swap(one.image, offset, before)  # as a repair would
    assert "was not closed" in one.mount("idle=30")
    assert (root / "bad").read_bytes() == b"bad" * 3000
    (root / "again").write_bytes(b"works")
    one.umount()
    one.fsck()
