"""What a mount does when its image is damaged, or cut short, under it."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import mount_run
import pytest
from mount_run import MIB, NEEDS_MOUNT, Mounted, run, run_here, scratch, wait_until

from pmemfs.fs import Options, Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.fuse import mounts
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
            one.remount("idle=30,cache=none")
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


READS_OR_WRITES: dict[str, Callable[[Path, int], object]] = {
    "read": lambda root, fd: os.pread(fd, 4096, 0),
    "write": lambda root, fd: (os.pwrite(fd, b"x" * 4096, 0), os.fsync(fd)),
    "stat": lambda root, fd: os.stat(root / "bad"),
    "list": lambda root, fd: os.listdir(root),
}


@pytest.mark.parametrize("call", READS_OR_WRITES)
def test_an_image_cut_short_ends_the_daemon(one: Mounted, call: str) -> None:
    """Whatever touches the mapping: the answer of a read, a store, metadata."""
    root, pid = one.directory, one.pid
    fd = os.open(root / "kept", os.O_RDWR)
    os.pread(fd, 4096, 0)  # within this second, another only hands out a piece of the mapping
    os.truncate(one.image, 8192)
    begin = time.monotonic()
    try:
        for each in (call, "read"):  # space for a write is refused, without touching the mapping
            with pytest.raises(OSError, match=r"\[Errno (5|103|107|117)\]"):
                READS_OR_WRITES[each](root, fd)
        assert wait_until(lambda: not mounts.is_running(pid))
        assert_errno(errno.ENOTCONN, os.stat, root)
    finally:
        with suppress(OSError):
            os.close(fd)
    assert time.monotonic() - begin < 60
    text = one.log.read_text()
    (line,) = [line for line in text.splitlines() if " CRITICAL " in line]
    assert "the image has been cut short to 8192 of 67108864 bytes while in use" in line
    assert "the daemon ends" in line
    assert "Current thread" in text
    run_here("umount", root)
    done = run("mount", one.image, root, "--log", one.log, check=False)
    assert "cut short" in done.stderr


def test_a_write_does_not_make_an_image_longer_again(one: Mounted) -> None:
    """Data that would go through the file, into space that is there, behind where it was cut."""
    root, size = one.directory, os.stat(one.image).st_size
    fd = os.open(root / "large", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, b"x" * MIB, 0)
        os.truncate(one.image, size - 1)
        with pytest.raises(OSError, match=r"\[Errno 117\]"):
            os.pwrite(fd, b"y" * (MIB // 2), MIB)
        assert os.stat(one.image).st_size == size - 1
        os.truncate(one.image, size)
        assert_errno(errno.EROFS, os.mkdir, root / "d")
        assert os.pread(fd, MIB, 0) == b"x" * MIB
        with pytest.raises(OSError, match=r"\[Errno (28|30|117)\]"):
            os.pwrite(fd, b"y" * (MIB // 2), MIB)
    finally:
        os.close(fd)
    one.umount()
    assert f"cut short to {size - 1} of {size} bytes" in one.log.read_text()


def test_a_failing_sync_of_the_host_makes_it_read_only(
    one: Mounted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who syncs gets EIO, always from then on; the host tells it once and forgets what it lost."""
    one.umount()
    fails = tmp_path / "fails"
    monkeypatch.setattr(mount_run, "PROGRAM", [sys.executable, "-c", FAILING % str(fails)])
    one.mount("idle=30")
    root = one.directory
    fd = os.open(root / "kept", os.O_RDWR)
    try:
        os.pwrite(fd, b"KEPT", 0)
        os.fsync(fd)
        os.pwrite(fd, b"lost", 0)
        fails.touch()
        assert_errno(errno.EIO, os.fsync, fd)
        assert_errno(errno.EROFS, os.mkdir, root / "d")
        fails.unlink()
        assert_errno(errno.EIO, os.fsync, fd)
        assert_errno(errno.EROFS, os.unlink, root / "other")
        assert (root / "other").read_bytes() == b"other" * 3000
    finally:
        with suppress(OSError):
            os.close(fd)
    one.umount()
    (line,) = [line for line in one.log.read_text().splitlines() if " ERROR " in line]
    assert "the host cannot make the image durable: Input/output error" in line
    assert "read-only from here on" in line
    one.mount("idle=30")
    (root / "other").write_bytes(b"works")
    one.umount()
    one.fsck()


FAILING = """
import errno, os
from pmemfs.cli import main
real = os.fdatasync
def fdatasync(fd):
    if os.path.exists(%r):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    real(fd)
os.fdatasync = fdatasync
main(prog_name="pmemfs")
"""
