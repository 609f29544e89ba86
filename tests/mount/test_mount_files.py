"""The data of files through the mount, beside a tmpfs: offsets, holes, flags, mmap, removal."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import multiprocessing
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mount_run import NEEDS_MOUNT, ONLY_FUSEPY, Mounted, Pair, outcome

pytestmark = NEEDS_MOUNT

MIB = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def opened(path: str, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


# -- offsets, sizes, holes -------------------------------------------------------------------

OFFSETS = [0, 1, 511, 4095, 4096, 4097, 131071, 2 * MIB - 3, 2 * MIB, 2 * MIB + 5, 5 * MIB + 123]
LENGTHS = [0, 1, 3, 4096, 4099, 131072, 131075, 300001]


@pytest.mark.parametrize("length", LENGTHS)
def test_writes_at_odd_offsets(length: int, pair: Pair) -> None:
    def write(root: str) -> list[Any]:
        results: list[Any] = []
        for offset in OFFSETS:
            with opened(f"{root}/f{offset}") as fd:
                results.append(os.pwrite(fd, content(length, offset), offset))
                results.append(os.pwrite(fd, b"over", max(0, offset - 2)))
                results.append(os.fstat(fd).st_size)
                results += [
                    os.pread(fd, length + 9, place) for place in (0, offset - 2 if offset else 1)
                ]
        return results

    pair.same(write)
    pair.same_tree()


def test_sizes_that_are_refused(pair: Pair) -> None:
    def truncate(root: str, size: int) -> Any:
        with opened(f"{root}/file") as fd:
            try:
                os.ftruncate(fd, size)
            finally:
                os.ftruncate(fd, 0)

    for size in (-1, -(2**63), 0, 1, 1 << 40):
        pair.same(lambda r, s=size: truncate(r, s))
    limit = 1 << 44
    assert outcome(lambda r: truncate(r, limit), pair.ours) is None
    assert outcome(lambda r: truncate(r, limit + 1), pair.ours) == "EFBIG"
    pair.same(lambda r: outcome(lambda root: os.pwrite(7777, b"x", 0), r))


@ONLY_FUSEPY
def test_writes_at_the_largest_size(ours: Path) -> None:
    """What a kernel that caches writes makes of them is tested with the native front end."""
    limit = 1 << 44
    with opened(f"{ours}/file") as fd:
        assert os.pwrite(fd, b"abcdef", limit - 3) == 3
        with pytest.raises(OSError, match=r"\[Errno 27\]"):
            os.pwrite(fd, b"x", limit)
        assert os.pread(fd, 10, limit - 5) == b"\0\0abc"
        assert os.fstat(fd).st_blocks <= 4096


def test_sparse_files(pair: Pair) -> None:
    def build(root: str) -> list[Any]:
        results = []
        with opened(f"{root}/sparse") as fd:
            for offset in (0, 1 << 20, 3 << 20, 100 << 20, (1 << 32) + 7):
                os.pwrite(fd, b"island", offset)
            results.append(os.fstat(fd).st_size)
            for place in (0, 4000, (1 << 20) - 10, (2 << 20) - 10, (100 << 20) - 3, 1 << 31):
                results.append(os.pread(fd, 5000, place))
            os.ftruncate(fd, (3 << 20) + 3)
            os.ftruncate(fd, 4 << 20)
            results.append(os.pread(fd, 20, 3 << 20))
            os.ftruncate(fd, 9)
            os.ftruncate(fd, 5000)
            results.append(os.pread(fd, 6000, 0))
        return results

    pair.same(build)
    pair.same_tree()
    assert os.stat(pair.ours / "sparse").st_blocks == 8


@ONLY_FUSEPY
def test_seek_data_falls_back_to_the_end(ours: Path) -> None:
    """fusepy's interface cannot ask; the kernel's answer is that all is data."""
    with opened(f"{ours}/f") as fd:
        os.pwrite(fd, b"x", 3 * MIB)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 3 * MIB + 1
        with pytest.raises(OSError, match=r"\[Errno 6\]"):
            os.lseek(fd, 3 * MIB + 1, os.SEEK_DATA)


@ONLY_FUSEPY
@pytest.mark.parametrize("mode", [0, 1, 2 | 1, 0x10, 8, 0x20])
def test_fallocate_is_refused(mode: int, ours: Path) -> None:
    """fusepy's interface cannot carry it: clearly refused, and nothing changes."""
    with opened(f"{ours}/f") as fd:
        os.write(fd, b"there")
        args = ctypes.c_int(mode), ctypes.c_long(0), ctypes.c_long(8192)
        assert _libc.fallocate(fd, *args) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        assert os.pread(fd, 100, 0) == b"there"


def test_posix_fallocate_falls_back_to_writing(pair: Pair) -> None:
    def allocate(root: str) -> bytes:
        with opened(f"{root}/f") as fd:
            os.write(fd, b"there")
            os.posix_fallocate(fd, 0, 10000)
            return os.pread(fd, 20000, 0)

    pair.same(allocate)


# -- flags -----------------------------------------------------------------------------------


def test_append_ignores_the_offset(pair: Pair) -> None:
    def append(root: str) -> bytes:
        with opened(f"{root}/f", os.O_RDWR | os.O_CREAT | os.O_APPEND) as fd:
            for text in (b"one", b"two"):
                os.lseek(fd, 0, os.SEEK_SET)
                os.write(fd, text)
            os.pwrite(fd, b"three", 0)
            fcntl.fcntl(fd, fcntl.F_SETFL, 0)
            os.pwrite(fd, b"O", 0)
            return os.pread(fd, 100, 0)

    pair.same(append)


def _append_lines(path: str, name: int) -> None:
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        for i in range(150):
            os.write(fd, b"%d %d %s\n" % (name, i, b"x" * (i % 50)))


def test_append_from_several_writers(ours: Path) -> None:
    path = f"{ours}/log"
    Path(path).touch()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_lines, args=(path, n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = Path(path).read_bytes().splitlines()
    for n in range(4):
        mine = [line for line in lines if line.startswith(b"%d " % n)]
        assert mine == [b"%d %d %s" % (n, i, b"x" * (i % 50)) for i in range(150)]
    assert len(lines) == 600


@pytest.mark.parametrize("options", ["", "cache=none"])
def test_direct_io(options: str, own_mount: Mounted) -> None:
    own_mount.remount(f"idle=1,{options}" if options else "idle=1")
    path = f"{own_mount.directory}/direct"
    data = mmap.mmap(-1, 3 * MIB)
    data[:] = content(3 * MIB)
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
        assert os.pwrite(fd, memoryview(data), 0) == 3 * MIB
        assert os.pwrite(fd, memoryview(data)[:4096], 4 * MIB) == 4096
        back = mmap.mmap(-1, 5 * MIB)
        assert os.preadv(fd, [back], 0) == 4 * MIB + 4096
        expected = data[:] + bytes(MIB) + data[:4096]
        assert back[: len(expected)] == expected
    assert Path(path).read_bytes() == expected
    with opened(path) as buffered, opened(path, os.O_RDWR | os.O_DIRECT) as direct:
        os.pwrite(buffered, b"B" * 5000, 100)
        assert os.preadv(direct, [back], 0) > 5000
        assert back[100:5100] == b"B" * 5000
        back[:4096] = b"D" * 4096
        os.pwrite(direct, memoryview(back)[:4096], 0)
        assert os.pread(buffered, 5100, 0) == b"D" * 4096 + b"B" * 1004


def test_trunc_on_open_frees_and_zeroes(pair: Pair) -> None:
    def reopen(root: str) -> bytes:
        Path(f"{root}/f").write_bytes(b"old" * 5000)
        with opened(f"{root}/f", os.O_RDWR | os.O_TRUNC) as fd:
            assert os.fstat(fd).st_size == 0
            os.pwrite(fd, b"new", 9000)
            return os.pread(fd, 20000, 0)

    pair.same(reopen)


def test_a_read_only_descriptor_does_not_write(pair: Pair) -> None:
    def attempts(root: str) -> list[Any]:
        with opened(f"{root}/f"):
            pass
        with opened(f"{root}/f", os.O_RDONLY) as fd:
            calls = (lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 3), lambda: os.fsync(fd))
            return [outcome(lambda _, c=call: c(), root) for call in calls]

    assert pair.same(attempts) == ["EBADF", "EINVAL", None]


def test_advisory_locks(pair: Pair) -> None:
    def lock(root: str) -> list[Any]:
        with opened(f"{root}/f") as one, opened(f"{root}/f") as other:
            fcntl.flock(one, fcntl.LOCK_EX)
            busy = outcome(lambda _: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB), root)
            fcntl.flock(one, fcntl.LOCK_UN)
            return [
                busy,
                outcome(lambda _: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB), root),
            ]

    assert pair.same(lock) == ["EAGAIN", None]


# -- mmap ------------------------------------------------------------------------------------


def test_mmap_shared_and_private(pair: Pair) -> None:
    def mapped(root: str) -> list[bytes]:
        seen = []
        with opened(f"{root}/f") as fd:
            os.write(fd, content(10000))
            with mmap.mmap(fd, 10000) as shared:
                seen.append(shared[:])
                shared[5000:5003] = b"abc"
                os.pwrite(fd, b"written", 100)
                seen.append(shared[90:120])
                shared.flush()
                seen.append(os.pread(fd, 20000, 0))
            with mmap.mmap(fd, 10000, mmap.MAP_PRIVATE) as private:
                private[:3] = b"own"
                seen += [private[:10], os.pread(fd, 10, 0)]
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as reading:
                seen.append(reading[-10:])
        return seen

    pair.same(mapped)
    pair.same_tree()


def test_stores_to_a_shared_mapping_are_there_after_a_remount(own_mount: Mounted) -> None:
    path = f"{own_mount.directory}/mapped"
    data = content(5 * MIB + 77)
    with opened(path) as fd:
        os.ftruncate(fd, len(data))
        with mmap.mmap(fd, len(data)) as shared:
            shared[:] = data
            shared.flush()
            shared[1:3] = b"zz"
    own_mount.remount()
    assert Path(path).read_bytes() == data[:1] + b"zz" + data[3:]


def test_what_is_stored_behind_the_end_is_not_kept(ours: Path) -> None:
    with opened(f"{ours}/f") as fd:
        os.write(fd, b"short")
        with mmap.mmap(fd, 5) as shared:
            start = ctypes.c_char.from_buffer(shared)
            ctypes.memmove(ctypes.addressof(start) + 100, b"behind", 6)
            del start
            shared.flush()
        os.ftruncate(fd, 4096)
        assert os.pread(fd, 4096, 0) == b"short" + bytes(4091)


# -- removed while open ----------------------------------------------------------------------


def test_a_removed_file_lives_while_it_is_open(pair: Pair) -> None:
    def use(root: str) -> list[Any]:
        with opened(f"{root}/f") as fd:
            os.write(fd, b"before")
            os.unlink(f"{root}/f")
            results: list[Any] = [os.listdir(root), os.fstat(fd).st_nlink]
            os.pwrite(fd, content(300000), 3)
            results += [os.fstat(fd).st_size, os.pread(fd, 400000, 0)]
            os.ftruncate(fd, 1000)
            os.ftruncate(fd, 2000)
            results += [os.fstat(fd).st_size, os.pread(fd, 4000, 0)]
            os.fchmod(fd, 0o600)
            os.utime(fd, ns=(1, 2))
            os.fsync(fd)
            st = os.fstat(fd)
            results += [st.st_mode, st.st_mtime_ns, st.st_nlink]
            Path(f"{root}/f").write_bytes(b"another")
            results += [os.pread(fd, 3, 0), Path(f"{root}/f").read_bytes()]
        return [*results, os.listdir(root)]

    pair.same(use)
    pair.same_tree()


def test_a_file_that_was_replaced_lives_while_it_is_open(pair: Pair) -> None:
    def use(root: str) -> list[Any]:
        Path(f"{root}/old").write_bytes(b"old")
        Path(f"{root}/new").write_bytes(b"new")
        with opened(f"{root}/old") as fd:
            os.rename(f"{root}/new", f"{root}/old")
            os.pwrite(fd, b"more", 3)
            return [os.pread(fd, 9, 0), os.fstat(fd).st_nlink, os.listdir(root)]

    pair.same(use)
    pair.same_tree()


def test_the_directory_of_a_removed_open_file_can_go(pair: Pair) -> None:
    def use(root: str) -> list[Any]:
        os.mkdir(f"{root}/d")
        with opened(f"{root}/d/f") as fd:
            os.write(fd, b"before")
            os.unlink(f"{root}/d/f")
            results = [os.listdir(f"{root}/d"), os.rmdir(f"{root}/d")]
            os.pwrite(fd, b"after", 6)
            return [*results, os.pread(fd, 20, 0), os.listdir(root)]

    pair.same(use)


def test_many_removed_open_files_in_removed_directories(ours: Path) -> None:
    for i in range(200):
        os.mkdir(ours / "d")
        with opened(f"{ours}/d/f") as fd:
            os.write(fd, b"%d" % i)
            os.unlink(ours / "d/f")
            os.rmdir(ours / "d")
            assert os.pread(fd, 9, 0) == b"%d" % i


def test_a_removed_name_is_free_for_a_directory(pair: Pair) -> None:
    def use(root: str) -> list[Any]:
        with opened(f"{root}/x") as fd:
            os.unlink(f"{root}/x")
            os.mkdir(f"{root}/x")
            Path(f"{root}/x/y").write_bytes(b"inside")
            os.write(fd, b"removed")
            return [os.pread(fd, 9, 0), os.listdir(f"{root}/x")]

    pair.same(use)


@ONLY_FUSEPY
def test_a_removed_working_directory(ours: Path) -> None:
    """On tmpfs it can still be listed; to fusepy's interface, a path that is gone is gone."""
    os.mkdir(f"{ours}/d")
    here = os.open(".", os.O_RDONLY)
    os.chdir(f"{ours}/d")
    try:
        os.rmdir(f"{ours}/d")
        for call in (os.listdir, lambda p: os.mkdir(f"{p}/x"), lambda p: Path(p, "f").touch()):
            assert outcome(call, ".") == "ENOENT"
    finally:
        os.fchdir(here)
        os.close(here)


def test_the_space_of_a_removed_file_comes_back_with_its_last_close(own_mount: Mounted) -> None:
    def free() -> int:
        return os.statvfs(own_mount.directory).f_bfree

    before = free()
    path = f"{own_mount.directory}/large"
    with opened(path) as fd:
        os.write(fd, bytes(20 * MIB))
        os.fsync(fd)
        os.unlink(path)
        time.sleep(1.2)
        assert free() <= before - 20 * MIB // 4096
        assert os.pread(fd, 1, 19 * MIB) == b"\0"
    deadline = time.monotonic() + 10
    while free() < before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert free() == before


# -- hard links ------------------------------------------------------------------------------


def test_what_one_name_writes_the_other_reads_when_opened(ours: Path) -> None:
    """Also at once: the two names are two inodes to the kernel, each with a cache of its own."""
    one, other = ours / "one", ours / "other"
    one.write_bytes(b"0" * 10)
    os.link(one, other)
    for i in range(1, 10):
        assert other.read_bytes() == b"%d" % (i - 1) * 10
        with opened(str(one), os.O_WRONLY) as fd:
            os.write(fd, b"%d" % i * 10)
    os.unlink(one)
    assert other.read_bytes() == b"9" * 10


def test_what_a_removed_name_wrote_the_other_reads(ours: Path) -> None:
    one, other = ours / "one", ours / "other"
    one.write_bytes(b"old")
    os.link(one, other)
    assert other.read_bytes() == b"old"
    with opened(str(one), os.O_WRONLY) as fd:
        os.write(fd, b"new")
    os.unlink(one)
    assert other.read_bytes() == b"new"


def test_what_a_removed_or_replaced_open_name_wrote_the_other_reads(ours: Path) -> None:
    for name in ("removed", "replaced"):
        one, other = ours / f"{name}-one", ours / f"{name}-other"
        one.write_bytes(b"old")
        os.link(one, other)
        assert other.read_bytes() == b"old"
        with opened(str(one), os.O_WRONLY) as fd:
            os.write(fd, b"new")
            if name == "removed":
                os.unlink(one)
            else:
                (ours / "third").touch()
                os.rename(ours / "third", one)
        assert other.read_bytes() == b"new"


# -- full ------------------------------------------------------------------------------------


def test_a_full_device_is_enospc_and_nothing_is_lost(own_mount: Mounted) -> None:
    root = own_mount.directory
    keep = content(3 * MIB + 5)
    (root / "keep").write_bytes(keep)

    def fill() -> None:
        with opened(f"{root}/fill") as fd:
            while True:
                os.write(fd, bytes(4 * MIB))

    def fill_with_small_files() -> None:
        for i in range(100000):
            (root / f"s{i}").write_bytes(b"x" * 4096)

    assert outcome(lambda _: fill(), root) == "ENOSPC"
    assert outcome(lambda _: fill_with_small_files(), root) == "ENOSPC"
    assert os.statvfs(root).f_bfree < 600
    assert (root / "keep").read_bytes() == keep
    done = subprocess.run(
        ["dd", "if=/dev/zero", f"of={root}/dd", "bs=1M"], capture_output=True, check=False
    )
    assert b"No space left" in done.stderr
    os.unlink(root / "fill")
    (root / "again").write_bytes(keep)
    own_mount.remount()
    assert (root / "keep").read_bytes() == keep
    assert (root / "again").read_bytes() == keep
