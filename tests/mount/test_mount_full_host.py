"""A mount on an image whose host is full: ENOSPC for what needs space, all else works."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mount_run import MIB, NEEDS_MOUNT, Mounted
from small_host import NEEDS_TMPFS, SmallHost, small_host

from pmemfs.fuse.mount import FRONTENDS

pytestmark = [*NEEDS_MOUNT, NEEDS_TMPFS, pytest.mark.parametrize("frontend", FRONTENDS)]
KEPT = b"%07d\n" * 500 % tuple(range(500))


class OnSmallHost(Mounted):
    """An image of 256 MiB on a host that has 24."""

    host: SmallHost


@pytest.fixture
def one(frontend: str) -> Iterator[OnSmallHost]:
    with small_host(24 * MIB) as host:
        one = OnSmallHost(host.folder, 256 * MIB)
        one.frontend, one.host = frontend, host
        try:
            one.mount("idle=1")
            (one.directory / "d").mkdir()
            for name in ("kept", "gone", "d/moved"):
                (one.directory / name).write_bytes(KEPT)
            yield one
            one.finish()
        finally:
            one.clean_up()


def no_space(call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
        call()


def write(path: Path, data: bytes) -> None:
    """Write and sync, which is where a mount that caches writes has to say it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def assert_works(one: OnSmallHost) -> None:
    """Do all that needs no extent."""
    root = one.directory
    assert (root / "kept").read_bytes() == KEPT
    write(root / "kept", KEPT[::-1])
    write(root / "kept", KEPT)
    os.rename(root / "d/moved", root / "d/renamed")
    os.rename(root / "d/renamed", root / "d/moved")
    os.chmod(root / "kept", 0o600)
    os.truncate(root / "d/moved", 100)
    os.truncate(root / "d/moved", 1 << 40)
    os.truncate(root / "d/moved", 100)
    (root / "new").touch()
    os.symlink("target", root / "link")
    for name in ("new", "link"):
        os.unlink(root / name)


def test_a_full_host(one: OnSmallHost) -> None:
    root, host = one.directory, one.host
    host.fill()
    for size in (3 * MIB, 8 * MIB):
        no_space(lambda size=size: write(root / "big", bytes(range(256)) * (size // 256)))
    if one.frontend == "native":
        fd = os.open(root / "kept", os.O_RDWR)
        no_space(lambda: os.posix_fallocate(fd, 0, 8 * MIB))
        os.close(fd)
    assert_works(one)
    one.umount()
    one.fsck()
    host.fill()
    one.mount("idle=1")
    assert_works(one)
    one.kill()
    one.umount()
    one.fsck()
    host.fill()
    assert "was not closed" in one.mount("idle=1")
    assert_works(one)
    os.unlink(root / "gone")
    host.make_room()
    write(root / "big", KEPT * 1000)
    assert (root / "big").read_bytes() == KEPT * 1000
    one.remount()
    assert (root / "big").read_bytes() == KEPT * 1000


def test_what_a_full_write_says_is_there(one: OnSmallHost) -> None:
    """Whole blocks until there is no space: what was acknowledged is there, after a kill too."""
    one.remount("idle=1,cache=writethrough")
    root = one.directory
    fd = os.open(root / "log", os.O_WRONLY | os.O_CREAT)
    written = 0
    try:
        while True:
            written += os.pwrite(fd, b"%07d\n" % written * 8192, written)
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017
    finally:
        os.close(fd)
    assert written > 4 * MIB
    data = (root / "log").read_bytes()
    one.kill()
    one.umount()
    one.fsck()
    one.mount("idle=1")
    again = (root / "log").read_bytes()
    assert again == data
    assert len(again) == written
    os.unlink(root / "log")
    write(root / "log", KEPT * 100)
