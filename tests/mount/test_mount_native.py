"""What only the native front end carries, on a mount with its default options."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mount_run import (
    MIB,
    NEEDS_MOUNT,
    NEEDS_ROOT,
    Mounted,
    mounted,
    needs_program,
    scratch,
    wait_until,
)

pytestmark = NEEDS_MOUNT

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE = 1, 2, 8, 16
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
libc = ctypes.CDLL(None, use_errno=True)


class NativeMounted(Mounted):
    """As `Mounted`, through the native front end whatever the suite runs with."""

    frontend = "native"


@pytest.fixture(scope="module", params=["writeback", "writethrough", "none"])
def native(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    options = f"idle=1,allow_other,cache={request.param}"
    with scratch() as folder, mounted(folder, options, mounted_class=NativeMounted) as one:
        one.directory.chmod(0o777)
        yield one


@pytest.fixture
def place(native: Mounted, request: pytest.FixtureRequest) -> Path:
    """A fresh directory of the mount, and the working directory."""
    path = native.directory / f"t{abs(hash(request.node.name))}"
    path.mkdir()
    return path


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def call(name: str, *arguments: Any) -> str | None:
    """Call into libc; return the name of the errno, or None."""
    if getattr(libc, name)(*arguments) == 0:
        return None
    return errno.errorcode[ctypes.get_errno()]


def renameat2(old: Path, new: Path, flags: int) -> str | None:
    return call("renameat2", AT_FDCWD, bytes(old), AT_FDCWD, bytes(new), flags)


def fallocate(fd: int, mode: int, offset: int, length: int) -> str | None:
    return call("fallocate", fd, mode, ctypes.c_long(offset), ctypes.c_long(length))


def test_rename_flags(place: Path) -> None:
    one, other = place / "one", place / "other"
    one.write_text("1")
    other.write_text("2")
    assert renameat2(one, other, NOREPLACE) == "EEXIST"
    assert renameat2(one, other, EXCHANGE) is None
    assert (one.read_text(), other.read_text()) == ("2", "1")
    assert renameat2(one, place / "new", WHITEOUT) == "EINVAL"
    assert renameat2(one, place / "new", NOREPLACE) is None


def test_a_file_without_a_name_and_then_with_one(place: Path) -> None:
    with opened(place, os.O_TMPFILE | os.O_RDWR) as fd:
        os.write(fd, b"content")
        assert os.fstat(fd).st_nlink == 0
        source = f"/proc/self/fd/{fd}".encode()
        target = bytes(place / "named")
        assert call("linkat", AT_FDCWD, source, AT_FDCWD, target, AT_SYMLINK_FOLLOW) is None
    assert (place / "named").read_bytes() == b"content"
    assert (place / "named").stat().st_nlink == 1


def test_copy_file_range(place: Path) -> None:
    data = os.urandom(5 * MIB + 12345)
    (place / "from").write_bytes(data)
    with opened(place / "from") as source, opened(place / "to") as target:
        left = len(data)
        while left:
            done = os.copy_file_range(source, target, left)
            assert done
            left -= done
    assert (place / "to").read_bytes() == data


def test_fallocate_in_its_modes(place: Path) -> None:
    with opened(place / "file") as fd:
        assert fallocate(fd, 0, 0, 3 * MIB) is None
        assert os.fstat(fd).st_size == 3 * MIB
        assert os.fstat(fd).st_blocks * 512 >= 3 * MIB
        assert fallocate(fd, KEEP_SIZE, 0, 8 * MIB) is None
        assert os.fstat(fd).st_size == 3 * MIB
        assert os.fstat(fd).st_blocks * 512 >= 8 * MIB
        os.pwrite(fd, b"z" * (3 * MIB), 0)
        os.fsync(fd)
        assert fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 4096, MIB) is None
        assert os.pread(fd, 4096, 4096) == bytes(4096)
        assert os.pread(fd, 1, 0) == b"z"
        assert fallocate(fd, ZERO_RANGE | KEEP_SIZE, 2 * MIB, 5000) is None
        assert os.pread(fd, 5000, 2 * MIB) == bytes(5000)
        assert os.pread(fd, 1, 2 * MIB + 5000) == b"z"
        assert fallocate(fd, COLLAPSE, 0, 4096) in ("EOPNOTSUPP", "ENOTSUP")
        os.ftruncate(fd, 7 * MIB)
        assert os.pread(fd, 3 * MIB, 4 * MIB) == bytes(3 * MIB)


def test_seek_finds_data_and_holes(place: Path) -> None:
    with opened(place / "sparse") as fd:
        os.pwrite(fd, b"d", 10 * MIB)
        os.fsync(fd)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 10 * MIB
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        assert os.lseek(fd, 10 * MIB, os.SEEK_HOLE) == 10 * MIB + 1


@NEEDS_ROOT
@needs_program("chattr")
def test_immutable_and_append_only(place: Path) -> None:
    fixed, log = place / "fixed", place / "log"
    fixed.write_text("x")
    log.write_text("first\n")
    subprocess.run(["chattr", "+i", fixed], check=True)
    subprocess.run(["chattr", "+a", log], check=True)
    try:
        listing = subprocess.run(["lsattr", fixed], check=True, capture_output=True, text=True)
        assert listing.stdout.startswith("----i")
        for forbidden in (
            fixed.unlink,
            lambda: fixed.rename(place / "other"),
            lambda: os.truncate(log, 0),
            log.unlink,
        ):
            with pytest.raises(PermissionError):
                forbidden()
        with log.open("a") as stream:
            stream.write("second\n")
        os.sync()
        assert log.read_text() == "first\nsecond\n"
    finally:
        subprocess.run(["chattr", "-i", fixed], check=True)
        subprocess.run(["chattr", "-a", log], check=True)


NOBODY = 0xFFFFFFFF  # the id of an entry that is about no one in particular


def pack_acl(*entries: tuple[int, int, int]) -> bytes:
    """Return the kernel's form of a list of ``(tag, permissions, id)``."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def full_acl(uid: int) -> bytes:
    """Owner and one user may do everything, the group nothing, others nothing."""
    return pack_acl((1, 7, NOBODY), (2, 7, uid), (4, 0, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY))


def as_user(uid: int, *command: str | Path) -> bool:
    """Run a command as somebody else; tell whether it succeeded."""
    done = subprocess.run(command, capture_output=True, user=uid, group=uid, extra_groups=[])
    return done.returncode == 0


@NEEDS_ROOT
def test_access_control_lists_are_kept_inherited_and_enforced(place: Path) -> None:
    folder = place / "folder"
    folder.mkdir(mode=0o700)
    os.setxattr(folder, "system.posix_acl_access", full_acl(1))
    os.setxattr(folder, "system.posix_acl_default", full_acl(1))
    (folder / "file").write_text("secret")
    assert struct.pack("<HHI", 2, 7, 1) in os.getxattr(folder / "file", "system.posix_acl_access")
    assert as_user(1, "ls", folder)
    assert as_user(1, "cat", folder / "file")
    assert not as_user(2, "ls", folder)
    folder.chmod(0o700)  # the mask goes with the group bits
    assert not as_user(1, "ls", folder)


@NEEDS_ROOT
@pytest.mark.parametrize("options", ["", "allow_other"])
def test_a_default_list_takes_the_place_of_the_umask(options: str) -> None:
    """Also where only root is let in, and nothing is checked."""
    with scratch() as folder, mounted(folder, options, mounted_class=NativeMounted) as one:
        inherits, plain = one.directory / "inherits", one.directory / "plain"
        before = os.umask(0o077)
        try:
            inherits.mkdir()
            os.setxattr(inherits, "system.posix_acl_default", full_acl(1))
            plain.mkdir(mode=0o777)
            (inherits / "file").write_text("x")
            (inherits / "folder").mkdir()
        finally:
            os.umask(before)
        assert plain.stat().st_mode & 0o777 == 0o700
        assert (inherits / "file").stat().st_mode & 0o777 == 0o660
        assert (inherits / "folder").stat().st_mode & 0o777 == 0o770
        assert (inherits / "file").stat().st_mode & 0o777 == 0o660
        os.setxattr(plain, "system.posix_acl_access", full_acl(1))
        assert wait_until(lambda: plain.stat().st_mode & 0o777 == 0o770)
        os.setxattr(plain, "system.posix_acl_access", full_acl(1))


@NEEDS_ROOT
@needs_program("setpriv")
def test_a_write_drops_set_id_bits(place: Path) -> None:
    program = place / "program"
    program.write_text("a")
    os.chown(program, 1000, 1000)
    program.chmod(0o6755)
    as_owner = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c"]
    subprocess.run([*as_owner, f"echo b >> {program}"], check=True)
    assert program.stat().st_mode & 0o7777 == 0o755


def test_birth_time(place: Path) -> None:
    (place / "file").write_text("x")
    said = subprocess.run(["stat", "-c", "%W", place / "file"], capture_output=True, text=True)
    assert int(said.stdout) > 1_700_000_000


def test_shared_mapping(place: Path) -> None:
    with opened(place / "mapped") as fd:
        os.ftruncate(fd, MIB)
        with mmap.mmap(fd, MIB) as mapped_file:
            mapped_file[5000:5005] = b"hello"
            mapped_file.flush()
        assert os.pread(fd, 5, 5000) == b"hello"


def test_an_open_file_without_a_name(place: Path) -> None:
    with opened(place / "file") as fd:
        os.write(fd, b"abc")
        os.unlink(place / "file")
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(place) == []
        os.write(fd, b"def")
        os.fsync(fd)
        assert os.pread(fd, 6, 0) == b"abcdef"


def test_blocks_follow_cached_writes(place: Path) -> None:
    (place / "file").write_bytes(bytes(3 * MIB))
    with opened(place / "file") as fd:
        os.fsync(fd)
    assert wait_until(lambda: (place / "file").stat().st_blocks * 512 >= 3 * MIB)


def test_hard_links_are_one_file(place: Path) -> None:
    (place / "one").write_text("x")
    os.link(place / "one", place / "other")
    with (place / "one").open("a") as stream:
        stream.write("y")
    with (place / "other").open("a") as stream:
        stream.write("z")
    assert (place / "one").read_text() == "xyz"
    assert (place / "one").stat() == (place / "other").stat()
    (place / "one").unlink()
    assert (place / "other").stat().st_nlink == 1


@pytest.mark.parametrize("cache", ["writeback", "writethrough", "none"])
def test_a_write_that_fits_in_part_is_not_called_durable(cache: str) -> None:
    """The kernel ignores how much of cached data was stored; only an error reaches fsync."""
    size = 512 * 1024
    with (
        scratch() as folder,
        mounted(
            folder, f"idle=60,cache={cache}", mounted_class=NativeMounted, size_bytes=64 * MIB
        ) as one,
    ):
        room = one.directory / "room"
        with opened(room) as fd:
            free = os.statvfs(one.directory).f_bavail
            assert fallocate(fd, 0, 0, (free // 512 - 2) * 512 * 4096) is None
        number = 0
        while (free := os.statvfs(one.directory).f_bavail) > 100:  # in pieces that stay small
            with opened(one.directory / f"small{number}") as fd:
                os.write(fd, bytes(min(200, free - 100) * 4096))
                os.fsync(fd)
            number += 1
        data = os.urandom(size)
        stored = 0
        with opened(one.directory / "late") as fd, contextlib.suppress(OSError):
            written = os.write(fd, data)
            os.fsync(fd)
            stored = written
        assert stored < size
        one.remount()
        assert (one.directory / "late").read_bytes()[:stored] == data[:stored]


def test_a_write_across_the_largest_size_is_cut_or_fails(native: Mounted, place: Path) -> None:
    with opened(place / "file") as fd:
        if os.pwrite(fd, b"z" * 8192, (1 << 44) - 4096) == 8192:  # kept back by the kernel
            with pytest.raises(OSError, match="File too large"):
                os.fsync(fd)
        else:
            assert os.fstat(fd).st_size == 1 << 44


def test_a_writer_hears_that_the_device_is_full() -> None:
    """Else a program that only writes would never end: the kernel keeps the error for fsync."""
    with (
        scratch() as folder,
        mounted(folder, mounted_class=NativeMounted, size_bytes=64 * MIB) as one,
        contextlib.suppress(OSError),  # close tells it, too
        opened(one.directory / "file") as fd,
    ):
        for _ in range(80):
            os.write(fd, bytes(MIB))
        os.sync()
        with pytest.raises(OSError, match="No space left"):
            os.write(fd, bytes(MIB))


def test_unmounting_frees_what_was_removed_last() -> None:
    with scratch() as folder, mounted(folder, mounted_class=NativeMounted) as one:
        before = one.usage()["used_bytes"]
        with opened(one.directory / "file") as fd:
            os.write(fd, bytes(8 * MIB))
            os.fsync(fd)
        os.unlink(one.directory / "file")
        one.umount()
        assert one.usage()["used_bytes"] == before
