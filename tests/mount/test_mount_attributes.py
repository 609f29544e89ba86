"""Attributes through the mount, beside a tmpfs: modes, owners, times, xattrs, permissions, df."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mount_run import (
    NEEDS_MOUNT,
    NEEDS_ROOT,
    Mounted,
    Pair,
    as_user,
    facts,
    outcome,
    wait_until,
)

pytestmark = NEEDS_MOUNT
MOUNT_OPTIONS = "allow_other,suid,attr_timeout=0"

UTIME_NOW = (1 << 30) - 1
NOBODY = 65534
SET_IDS = [0, stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX, stat.S_ISUID | stat.S_ISGID]


# -- modes and owners ------------------------------------------------------------------------


def _make(root: str, name: str, mode: int) -> str:
    path = f"{root}/{name}"
    if stat.S_ISDIR(mode):
        os.mkdir(path)
    elif stat.S_ISFIFO(mode):
        os.mkfifo(path)
    else:
        Path(path).write_bytes(b"data")
    os.chmod(path, stat.S_IMODE(mode))
    return path


@NEEDS_ROOT
@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO])
def test_set_id_bits(kind: int, pair: Pair) -> None:
    def change(root: str) -> list[Any]:
        seen: list[Any] = []
        for bits in SET_IDS:
            for permissions in (0o755, 0o744, 0o666, 0):
                for uid, gid in ((1, 2), (-1, 2), (1, -1), (-1, -1)):
                    path = _make(root, f"f{len(seen)}", kind | bits | permissions)
                    os.chown(path, uid, gid)
                    seen.append(facts(path))
        return seen

    pair.same(change)


@NEEDS_ROOT
def test_writing_clears_set_id_bits_for_others(pair: Pair) -> None:
    # without group execute, set-group-id stays: so the kernel's FUSE, unlike its tmpfs
    def change(root: str) -> list[Any]:
        seen = []
        os.chmod(root, 0o777)
        for mode in (0o4777, 0o2777, 0o6777, 0o4766):
            for call in (
                lambda p: Path(p).write_bytes(b"new"),
                lambda p: os.truncate(p, 1),
                lambda p: _append(p, b"more"),
            ):
                path = _make(root, f"f{len(seen)}", stat.S_IFREG | mode)
                seen.append((as_nobody(lambda p=path, c=call: c(p)), facts(path)))
        return seen

    pair.same(change)


def _overwrite(path: str) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.write(b"x")


def _append(path: str, data: bytes) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(data)


@NEEDS_ROOT
def test_new_files_in_a_set_gid_directory(pair: Pair) -> None:
    def make(root: str) -> list[Any]:
        os.mkdir(f"{root}/d")
        os.chown(f"{root}/d", 0, 77)
        os.chmod(f"{root}/d", 0o2777)
        as_nobody(lambda: os.mkdir(f"{root}/d/theirs"))
        as_nobody(lambda: os.close(os.open(f"{root}/d/file", os.O_CREAT, 0o2755)))
        os.mkdir(f"{root}/d/ours")
        os.mkfifo(f"{root}/d/fifo")
        os.symlink("x", f"{root}/d/link")
        return [facts(f"{root}/d/{name}") for name in ("theirs", "file", "ours", "fifo", "link")]

    pair.same(make)


@pytest.mark.parametrize("mask", [0, 0o22, 0o77, 0o777])
def test_umask(mask: int, pair: Pair) -> None:
    def make(root: str) -> list[Any]:
        old = os.umask(mask)
        try:
            os.mkdir(f"{root}/d", 0o1777)
            os.close(os.open(f"{root}/f", os.O_CREAT, 0o6777))
            os.mkfifo(f"{root}/p", 0o666)
            os.mknod(f"{root}/n", stat.S_IFREG | 0o666)
        finally:
            os.umask(old)
        return [facts(f"{root}/{name}") for name in "dfpn"]

    pair.same(make)


# -- permissions -----------------------------------------------------------------------------


def as_nobody(call: Callable[[], Any]) -> str:
    """Make a call as another user; return "ok" or the errno's name."""
    result = as_user(NOBODY, call)
    return result if result.startswith("E") else "ok"


@NEEDS_ROOT
def test_permissions_of_another_user(pair: Pair) -> None:
    def attempts(root: str) -> list[Any]:
        seen: list[Any] = []
        os.chmod(root, 0o755)
        for number, mode in enumerate((0, 0o444, 0o222, 0o111, 0o755, 0o1777, 0o777, 0o700)):
            top = f"{root}/{number}"
            os.mkdir(top)
            Path(f"{top}/file").write_bytes(b"data")
            os.chmod(f"{top}/file", mode & 0o777)
            os.mkdir(f"{top}/dir")
            os.chmod(top, mode)
            calls = [
                lambda t=top: os.listdir(t),
                lambda t=top: os.stat(f"{t}/file"),
                lambda t=top: os.close(os.open(f"{t}/file", os.O_RDONLY)),
                lambda t=top: os.close(os.open(f"{t}/file", os.O_WRONLY)),
                lambda t=top: os.truncate(f"{t}/file", 2),
                lambda t=top: os.chmod(f"{t}/file", 0o777),
                lambda t=top: os.chown(f"{t}/file", NOBODY, NOBODY),
                lambda t=top: os.utime(f"{t}/file"),
                lambda t=top: os.utime(f"{t}/file", ns=(1, 1)),
                lambda t=top: os.setxattr(f"{t}/file", "user.a", b"x"),
                lambda t=top: os.setxattr(f"{t}/file", "trusted.a", b"x"),
                lambda t=top: os.mkdir(f"{t}/new"),
                lambda t=top: os.mknod(f"{t}/null", stat.S_IFCHR, os.makedev(1, 3)),
                lambda t=top: os.rename(f"{t}/file", f"{t}/renamed"),
                lambda t=top: os.rmdir(f"{t}/dir"),
                lambda t=top: os.unlink(f"{t}/file"),
            ]
            seen.append([as_nobody(call) for call in calls])
        return seen

    pair.same(attempts)


@NEEDS_ROOT
def test_the_caller_owns_what_it_makes(pair: Pair) -> None:
    def make(root: str) -> list[Any]:
        os.chmod(root, 0o777)
        as_nobody(lambda: os.mkdir(f"{root}/d"))
        as_nobody(lambda: Path(f"{root}/f").write_bytes(b"mine"))
        as_nobody(lambda: os.symlink("x", f"{root}/l"))
        as_nobody(lambda: os.mkfifo(f"{root}/p"))
        as_nobody(lambda: os.chmod(f"{root}/f", 0o2755))
        return [facts(f"{root}/{name}") for name in "dflp"]

    pair.same(make)


def test_without_allow_other_nobody_else_gets_in(own_mount: Mounted) -> None:
    assert as_nobody(lambda: os.listdir(own_mount.directory)) == "EACCES"
    own_mount.remount("allow_other")
    assert as_nobody(lambda: os.listdir(own_mount.directory)) == "ok"


# -- times -----------------------------------------------------------------------------------

TIMES = [0, 1, 999_999_999, 10**9, 1_700_000_000_123_456_789, 2**31 * 10**9, 2**33 * 10**9 + 5]


def test_times_in_nanoseconds(pair: Pair) -> None:
    def change(root: str) -> list[Any]:
        seen = []
        Path(f"{root}/f").touch()
        os.mkdir(f"{root}/d")
        os.symlink("f", f"{root}/l")
        for name in "fdl":
            for atime in TIMES:
                for mtime in TIMES:
                    os.utime(f"{root}/{name}", ns=(atime, mtime), follow_symlinks=False)
                    st = os.lstat(f"{root}/{name}")
                    seen.append((st.st_atime_ns, st.st_mtime_ns))
        return seen

    pair.same(change)


def test_times_before_1970(pair: Pair) -> None:
    def change(root: str) -> tuple[int, int]:
        Path(f"{root}/f").touch()
        os.utime(f"{root}/f", ns=(-5 * 10**9, -1_500_000_000))
        st = os.lstat(f"{root}/f")
        return st.st_atime_ns, st.st_mtime_ns

    pair.same(change)


@pytest.mark.parametrize("year", [1, 1600, 2300, 9999])
def test_times_that_cannot_be_stored(year: int, ours: Path) -> None:
    """They become the nearest that can; tar brings such times along, and they are no damage."""
    path = ours / f"of{year}"
    path.touch()
    second = (year - 1970) * 31_556_952
    os.utime(path, (second, second))
    (ours / f"after{year}").write_text("still writable")
    assert path.stat().st_mtime_ns in (second * 10**9, -(1 << 63), (1 << 63) - 1)


@pytest.mark.parametrize(
    ("arguments", "atime_kept", "mtime_kept"),
    [("-a", False, True), ("-m", True, False), ("-am", False, False)],
)
def test_utime_now_and_omit(arguments: str, atime_kept: bool, mtime_kept: bool, pair: Pair) -> None:
    def change(root: str) -> tuple[bool, bool]:
        Path(f"{root}/f").touch()
        os.utime(f"{root}/f", ns=(5, 7))
        subprocess.run(["touch", arguments, f"{root}/f"], check=True)
        st = os.stat(f"{root}/f")
        for now, kept in ((st.st_atime, atime_kept), (st.st_mtime, mtime_kept)):
            assert kept or abs(now - time.time()) < 5
        return st.st_atime_ns == 5, st.st_mtime_ns == 7

    assert pair.same(change) == (atime_kept, mtime_kept)


CHANGES: dict[str, Callable[[str], Any]] = {
    "write": lambda r: Path(f"{r}/f").write_bytes(b"new"),
    "overwrite": lambda r: _overwrite(f"{r}/f"),
    "truncate": lambda r: os.truncate(f"{r}/f", 1),
    "chmod": lambda r: os.chmod(f"{r}/f", 0o700),
    "link": lambda r: os.link(f"{r}/f", f"{r}/g"),
    "rename": lambda r: os.rename(f"{r}/f", f"{r}/d/f"),
    "unlink_inside": lambda r: os.unlink(f"{r}/d/x"),
    "create_inside": lambda r: Path(f"{r}/d/y").touch(),
    "setxattr": lambda r: os.setxattr(f"{r}/f", "user.a", b"b"),
    "read": lambda r: Path(f"{r}/f").read_bytes(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_which_times_a_change_changes(change: str, pair: Pair) -> None:
    def run(root: str) -> list[Any]:
        os.mkdir(f"{root}/d")
        for name in ("f", "d/x"):
            Path(f"{root}/{name}").write_bytes(b"data")
        for name in ("f", "d/x", "d"):
            os.utime(f"{root}/{name}", ns=(5, 7))
        inodes = {name: os.open(f"{root}/{name}", os.O_RDONLY) for name in ("f", "d", ".")}
        before = {name: os.fstat(fd).st_ctime_ns for name, fd in inodes.items()}
        time.sleep(0.02)
        CHANGES[change](root)
        after = {name: os.fstat(fd) for name, fd in inodes.items()}
        for fd in inodes.values():
            os.close(fd)
        return [
            (n, after[n].st_ctime_ns != before[n], after[n].st_mtime_ns == 7) for n in ("f", "d")
        ] + [(".", after["."].st_ctime_ns != before["."])]

    pair.same(run)


def test_access_times_with_relatime(own_mount: Mounted) -> None:
    own_mount.remount("relatime,attr_timeout=0")
    path = own_mount.directory / "f"
    path.write_bytes(b"data")
    os.utime(path, ns=(5, time.time_ns()))
    own_mount.remount("relatime,attr_timeout=0")  # what the kernel has cached nobody sees read
    path.read_bytes()
    assert os.stat(path).st_atime_ns != 5
    os.utime(path, ns=(time.time_ns() + 10**12, 7))
    before = os.stat(path).st_atime_ns
    own_mount.remount("relatime,attr_timeout=0")
    path.read_bytes()
    assert os.stat(path).st_atime_ns == before
    own_mount.remount("attr_timeout=0")
    os.utime(path, ns=(5, time.time_ns()))
    own_mount.remount("attr_timeout=0")
    path.read_bytes()
    assert os.stat(path).st_atime_ns == 5


# -- extended attributes ---------------------------------------------------------------------


def test_extended_attributes(pair: Pair) -> None:
    def change(root: str) -> list[Any]:
        f = f"{root}/f"
        Path(f).touch()
        calls: list[Callable[[], Any]] = [
            lambda: os.setxattr(f, "user.a", b"one"),
            lambda: os.getxattr(f, "user.a"),
            lambda: os.setxattr(f, "user.a", b"two", os.XATTR_CREATE),
            lambda: os.setxattr(f, "user.a", b"three", os.XATTR_REPLACE),
            lambda: os.setxattr(f, "user.b", b"x", os.XATTR_REPLACE),
            lambda: os.setxattr(f, "user.b", b"", os.XATTR_CREATE),
            lambda: os.setxattr(f, "user.b", b"x", 7),
            lambda: os.setxattr(f, "user.c", bytes(range(256)) * 4),
            lambda: os.getxattr(f, "user.a"),
            lambda: os.getxattr(f, "user.b"),
            lambda: os.getxattr(f, "user.c"),
            lambda: os.getxattr(f, "user.none"),
            lambda: sorted(os.listxattr(f)),
            lambda: os.removexattr(f, "user.b"),
            lambda: os.removexattr(f, "user.b"),
            lambda: os.setxattr(f, "user." + "n" * 250, b"long"),
            lambda: os.setxattr(f, "user." + "n" * 251, b"too long"),
            lambda: os.setxattr(f, "user.", b"x"),
            lambda: os.setxattr(f, "nothing.a", b"x"),
            lambda: os.setxattr(f, "plain", b"x"),
            lambda: os.setxattr(f, "user.big", bytes(65537)),
            lambda: os.setxattr(f, b"user.\xff\n", b"odd"),
            lambda: os.getxattr(f, b"user.\xff\n"),
            lambda: os.setxattr(root, "user.dir", b"x"),
            lambda: os.listxattr(root),
            lambda: sorted(os.listxattr(f)),
        ]
        return [outcome(lambda _, c=call: c(), root) for call in calls]

    pair.same(change)


@NEEDS_ROOT
def test_extended_attributes_of_other_namespaces(pair: Pair) -> None:
    def change(root: str) -> list[Any]:
        Path(f"{root}/f").touch()
        os.symlink("f", f"{root}/l")
        os.mkfifo(f"{root}/p")
        seen = []
        for name in "flp":
            for attribute in ("user.a", "trusted.a", "security.a"):
                set_it = lambda r, n=name, a=attribute: os.setxattr(  # noqa: E731
                    f"{r}/{n}", a, b"v", follow_symlinks=False
                )
                seen.append(outcome(set_it, root))
            seen.append(sorted(os.listxattr(f"{root}/{name}", follow_symlinks=False)))
        return seen

    pair.same(change)


def test_sizes_of_extended_attributes_can_be_asked(ours: Path) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(ours / "f")
    Path(os.fsdecode(path)).touch()
    os.setxattr(path, "user.a", b"value")
    os.setxattr(path, "user.b", b"x")
    buffer = ctypes.create_string_buffer(100)
    assert libc.getxattr(path, b"user.a", None, 0) == 5
    assert libc.getxattr(path, b"user.a", buffer, 4) == -1
    assert os.strerror(ctypes.get_errno()) == os.strerror(34)
    assert libc.getxattr(path, b"user.a", buffer, 5) == 5
    assert libc.listxattr(path, None, 0) == 14
    assert libc.listxattr(path, buffer, 13) == -1
    assert libc.listxattr(path, buffer, 14) == 14
    assert buffer.raw[:14] == b"user.a\0user.b\0"


def test_more_attributes_than_fit_are_enospc(ours: Path) -> None:
    (ours / "f").touch()
    os.setxattr(ours / "f", "user.kept", b"kept")
    with pytest.raises(OSError, match=r"\[Errno 28\]"):
        os.setxattr(ours / "f", "user.a", bytes(5000))
    assert os.listxattr(ours / "f") == ["user.kept"]


def test_noxattr_switches_them_off(own_mount: Mounted) -> None:
    own_mount.remount("noxattr")
    (own_mount.directory / "f").touch()
    with pytest.raises(OSError, match=r"\[Errno 95\]"):
        os.setxattr(own_mount.directory / "f", "user.a", b"x")


# -- df --------------------------------------------------------------------------------------


def test_df_says_what_is_there(own_mount: Mounted) -> None:
    root = own_mount.directory
    device = 256 << 20

    def sizes() -> os.statvfs_result:
        return os.statvfs(root)

    start = sizes()
    assert start.f_frsize * start.f_blocks == device
    assert start.f_bavail == start.f_bfree
    assert 0 < (start.f_blocks - start.f_bfree) * 4096 <= 10 << 20  # at most 5 fixed extents
    assert start.f_namemax == 255
    assert start.f_ffree == start.f_favail > 10000
    (root / "f").write_bytes(bytes(40 << 20))
    for i in range(100):
        (root / f"s{i}").write_bytes(b"x" * 5000)
    now = sizes()
    used = (start.f_bfree - now.f_bfree) * 4096
    assert (40 << 20) + 100 * 8192 <= used <= (48 << 20)
    assert (now.f_files - now.f_ffree) - (start.f_files - start.f_ffree) == 101
    total, available = subprocess.run(
        ["df", "-B1", "--output=size,avail", root], capture_output=True, text=True, check=True
    ).stdout.split()[-2:]
    assert (int(total), int(available)) == (device, now.f_bavail * 4096)
    assert (root / "f").stat().st_blocks * 512 == 40 << 20
    assert (root / "s0").stat().st_blocks * 512 == 8192
    for path in root.iterdir():
        path.unlink()
    assert wait_until(
        lambda: start.f_bfree - sizes().f_bfree <= 512
    )  # what is large, goes in steps
    assert start.f_ffree - sizes().f_ffree <= 8192
    own_mount.remount()
    assert sizes().f_bfree == start.f_bfree
