"""A mounted image that is full to the last page: what frees works, also after a kill."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from mount_run import MIB, NEEDS_MOUNT, Mounted, mounted, scratch, wait_until

from pmemfs.fuse.mount import FRONTENDS

pytestmark = [*NEEDS_MOUNT, pytest.mark.parametrize("frontend", FRONTENDS)]

PAGE = 4096
PUNCH = 3


@pytest.fixture
def one(frontend: str) -> Iterator[Mounted]:
    """A full mount: ``whole`` and ``cut`` in extents, the others in pages, ``filler`` the rest."""
    kind = type("Full", (Mounted,), {"frontend": frontend})
    with (
        scratch() as folder,
        mounted(folder, "idle=1,cache=writethrough", kind, size_bytes=64 * MIB) as one,
    ):
        for name in ("whole", "cut"):
            (one.directory / name).write_bytes(content(5 * MIB))
        for number in range(8):
            (one.directory / f"small{number}").write_bytes(content(50_000))
        fill(one.directory / "filler")
        yield one


def content(size: int) -> bytes:
    return (b"%07d\n" * (size // 8 + 1) % tuple(range(size // 8 + 1)))[:size]


def fill(path: Path) -> None:
    """Write until not one page is left."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (MIB, PAGE):
            while True:
                try:
                    os.write(fd, bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017
                    break
    finally:
        os.close(fd)
    assert os.statvfs(path.parent).f_bfree == 0


def test_kill_mount_and_free(one: Mounted) -> None:
    root = one.directory
    (root / "small7").rename(root / "renamed")  # a transaction to replay
    one.kill()
    one.umount()
    assert "was not closed" in one.mount("idle=1,cache=writethrough")
    for number in range(7):  # splits their extents
        assert (root / f"small{number}").read_bytes() == content(50_000)
    assert wait_until(lambda: one.usage()["split_extents"] == 0), "and are unsplit when idle"
    assert os.statvfs(root).f_bfree == 0
    with open(root / "whole", "r+b") as file:
        file.write(b"w" * 10)  # overwriting takes nothing
    if one.frontend == "native":
        with open(root / "whole", "r+b") as file:
            punch(file.fileno(), 2 * MIB, 2 * MIB)
        assert os.statvfs(root).f_bfree == 512
    os.truncate(root / "cut", 100)
    assert (root / "cut").read_bytes() == content(100)
    (root / "renamed").unlink()
    kept = os.open(root / "small0", os.O_RDONLY)
    (root / "small0").unlink()
    one.kill()  # an orphan is left to the next mount
    os.close(kept)
    one.umount()
    one.mount("idle=1,cache=writethrough")
    for path in root.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    assert wait_until(lambda: is_empty(one)), one.usage()


def is_empty(one: Mounted) -> bool:
    extents = one.usage()["extents"]
    return extents["small"] == extents["whole"] == 0


def punch(fd: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    assert libc.fallocate(fd, PUNCH, offset, length) == 0, os.strerror(ctypes.get_errno())


def test_what_is_being_freed_is_waited_for(one: Mounted) -> None:
    """The kernel may hand over a write before the FORGET that it queued earlier."""
    root = one.directory
    fd = os.open(root / "small0", os.O_WRONLY)
    os.pwrite(fd, b"s", 0)
    path_only = os.open(root / "whole", os.O_PATH)
    (root / "whole").unlink()
    os.kill(one.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as pool:
            os.close(path_only)
            writes = [pool.submit(os.pwrite, fd, b"w" * MIB, at * MIB) for at in range(1, 4)]
            assert not wait(writes, 0.2).done
            os.kill(one.pid, signal.SIGCONT)
    finally:
        os.kill(one.pid, signal.SIGCONT)
    assert [write.result() for write in writes] == [MIB] * 3
    os.close(fd)
    with pytest.raises(OSError, match="No space left"):
        (root / "too much").write_bytes(bytes(4 * MIB))
    assert (root / "small0").read_bytes()[MIB:] == b"w" * (3 * MIB)
