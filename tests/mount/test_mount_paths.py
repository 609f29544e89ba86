"""Every call on every hostile path: the errno that tmpfs gives, and the same tree afterwards."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mount_run import NEEDS_MOUNT, NEEDS_ROOT, ONLY_FUSEPY, Pair, outcome, tree

pytestmark = NEEDS_MOUNT
MOUNT_OPTIONS = "attr_timeout=0"  # hard links are separate inodes to the kernel: see the front end

LONG = "n" * 255
PATHS = [
    "file", "file/", "file/.", "file/..", "file/below", "other", "hard", "dir", "dir/", "dir/.",
    "dir/..", "dir/inner", "dir/none/x", "empty", "empty/", "none", "none/", "none/x", "",
    ".", "..", "link", "link/", "link_dir", "link_dir/", "link_dir/inner", "dangling", "dangling/",
    "loop", "loop/x", "fifo", "fifo/x", LONG, LONG + "n", f"dir/{LONG}n", "d" * 4000,
    "empty/" * 800,
]  # fmt: skip
FEW = [
    "file", "file/", "file/below", "other", "hard", "dir", "dir/", "dir/inner", "dir/inner_dir",
    "dir/new", "empty", "empty/", "empty/new", "none", "none/", "none/x", "link", "link_dir",
    "link_dir/", "dangling", "loop", "fifo", ".", "dir/..", LONG, LONG + "n",
]  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)


def populate(root: Path) -> None:
    for name in os.listdir(root):
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (root / "file").write_bytes(b"contents")
    (root / "other").write_bytes(b"others")
    os.link(root / "file", root / "hard")
    (root / "dir").mkdir()
    (root / "dir/inner").write_bytes(b"inside")
    (root / "dir/inner_dir").mkdir()
    (root / "empty").mkdir()
    os.symlink("file", root / "link")
    os.symlink("dir", root / "link_dir")
    os.symlink("nowhere", root / "dangling")
    os.symlink("loop", root / "loop")
    os.mkfifo(root / "fifo")


def _close(fd: int) -> str:
    try:
        return stat.filemode(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _open(*flags: str) -> Callable[[str], Any]:
    value = os.O_NONBLOCK | os.O_CLOEXEC
    for flag in flags:
        value |= getattr(os, flag)
    return lambda path: _close(os.open(path, value, 0o640))


def _socket(path: str) -> None:
    folder, name = os.path.split(path)
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    finally:
        os.fchdir(here)
        os.close(here)


ON_ONE: dict[str, Callable[[str], Any]] = {
    "stat": lambda p: oct(os.stat(p).st_mode),
    "lstat": lambda p: oct(os.lstat(p).st_mode),
    "access": lambda p: os.access(p, os.W_OK),
    "listdir": lambda p: sorted(os.listdir(p)),
    "readlink": lambda p: os.readlink(p),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "mkdir": lambda p: os.mkdir(p, 0o750),
    "mkfifo": lambda p: os.mkfifo(p, 0o640),
    "mknod_file": lambda p: os.mknod(p, stat.S_IFREG | 0o640),
    "mknod_zero": lambda p: os.mknod(p, 0o640),
    "mknod_dir": lambda p: os.mknod(p, stat.S_IFDIR | 0o640),
    "symlink": lambda p: os.symlink("target", p),
    "symlink_empty": lambda p: os.symlink("", p),
    "truncate": lambda p: os.truncate(p, 5),
    "truncate_longer": lambda p: os.truncate(p, 5000),
    "truncate_negative": lambda p: os.truncate(p, -1),
    "chmod": lambda p: os.chmod(p, 0o640),
    "utime": lambda p: os.utime(p, ns=(5, 7)),
    "utime_nofollow": lambda p: os.utime(p, ns=(5, 7), follow_symlinks=False),
    "listxattr": lambda p: os.listxattr(p),
    "getxattr": lambda p: os.getxattr(p, "user.none"),
    "statvfs": lambda p: os.statvfs(p).f_namemax,
    "chdir": lambda p: _in_child(lambda: os.chdir(p)),
    "bind": _socket,
    "read": _open("O_RDONLY"),
    "write": _open("O_WRONLY"),
    "read_write": _open("O_RDWR"),
    "create": _open("O_WRONLY", "O_CREAT"),
    "exclusive": _open("O_WRONLY", "O_CREAT", "O_EXCL"),
    "create_read": _open("O_RDONLY", "O_CREAT"),
    "trunc": _open("O_WRONLY", "O_TRUNC"),
    "create_trunc": _open("O_RDWR", "O_CREAT", "O_TRUNC"),
    "append": _open("O_WRONLY", "O_APPEND"),
    "nofollow": _open("O_RDONLY", "O_NOFOLLOW"),
    "create_nofollow": _open("O_WRONLY", "O_CREAT", "O_NOFOLLOW"),
    "directory": _open("O_RDONLY", "O_DIRECTORY"),
    "directory_write": _open("O_RDWR", "O_DIRECTORY"),
    "path": _open("O_PATH"),
    "path_nofollow": _open("O_PATH", "O_NOFOLLOW"),
}


def _in_child(change: Callable[[], None]) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        change()
        os.fchdir(here)
    finally:
        os.close(here)


def compare(pair: Pair, call: Callable[[str], Any], names: list[Any]) -> None:
    """Make a call for each name, on a fresh tree after each one that succeeded."""
    wrong = []
    fresh = False
    roots = pair.ours / "top", pair.reference / "top"  # what stands above is part of the test
    for root in roots:
        root.mkdir(exist_ok=True)
    for name in names:
        if not fresh:
            for root in roots:
                populate(root)
            before = tree(roots[1])
        results = [outcome(lambda root, n=name: call(_under(root, n)), root) for root in roots]
        if results[0] != results[1]:
            wrong.append((name, *results))
        fresh = isinstance(results[0], str) and results[0].startswith("E")
        after = (before, before) if fresh else (tree(roots[0]), tree(roots[1]))
        if after[0] != after[1]:
            wrong.append((name, "the trees differ", *after))
        fresh = fresh or after[0] == after[1] == before
    assert fresh is False or tree(roots[0]) == before
    assert not wrong


def _under(root: str, name: Any) -> Any:
    if isinstance(name, tuple):
        return tuple(_under(root, each) for each in name)
    return f"{root}/{name}"


@pytest.mark.parametrize("call", ON_ONE)
def test_a_call_on_hostile_paths(call: str, pair: Pair) -> None:
    compare(pair, ON_ONE[call], PATHS)


@NEEDS_ROOT
def test_chown_of_hostile_paths(pair: Pair) -> None:
    compare(pair, lambda p: os.chown(p, 12, 34), PATHS)
    compare(pair, lambda p: os.lchown(p, 12, 34), PATHS)


ON_TWO: dict[str, Callable[[tuple[str, str]], Any]] = {
    "rename": lambda p: os.rename(*p),
    "link": lambda p: os.link(*p, follow_symlinks=False),
    "link_follow": lambda p: os.link(*p, follow_symlinks=True),
}


@pytest.mark.parametrize("call", ON_TWO)
def test_a_call_on_pairs_of_paths(call: str, pair: Pair) -> None:
    compare(pair, ON_TWO[call], [(a, b) for a in FEW for b in FEW])


def test_across_file_systems(pair: Pair, tmp_path: Path) -> None:
    populate(pair.ours)
    populate(pair.reference)
    for name in ("file", "dir", "link", "fifo"):
        assert (
            outcome(lambda r, n=name: os.rename(f"{r}/{n}", tmp_path / "x"), pair.ours) == "EXDEV"
        )
        assert outcome(lambda r, n=name: os.rename(tmp_path, f"{r}/{n}"), pair.ours) == "EXDEV"
    assert outcome(lambda r: os.link(f"{r}/file", pair.reference / "y"), pair.ours) == "EXDEV"
    pair.same_tree()


NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


@ONLY_FUSEPY
def test_rename_flags_are_refused(pair: Pair) -> None:
    """fusepy's interface cannot carry them; see pmemfs.fuse.fusepy_frontend."""
    populate(pair.ours)
    before = tree(pair.ours)
    root = os.fsencode(pair.ours)
    for flags in (EXCHANGE, WHITEOUT, NOREPLACE | EXCHANGE, 1 << 10):
        assert _libc.renameat2(-100, root + b"/file", -100, root + b"/other", flags) == -1
        assert os.strerror(ctypes.get_errno()) == os.strerror(22)
    assert tree(pair.ours) == before


@NEEDS_ROOT
def test_device_nodes(pair: Pair) -> None:
    for name, mode, device in (
        ("char", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        ("block", stat.S_IFBLK | 0o640, os.makedev(259, 300)),
        ("large", stat.S_IFCHR | 0o600, os.makedev(0xFFF, 0xFFFFF)),
    ):
        pair.same(lambda r, a=(name, mode, device): os.mknod(f"{r}/{a[0]}", *a[1:]))
    pair.same_tree()
