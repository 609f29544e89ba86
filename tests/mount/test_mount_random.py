"""Seeded random calls, made on the mount and on a tmpfs: each result, and the trees, are equal."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from mount_run import NEEDS_MOUNT, Mounted, Pair, outcome, scratch, tree

pytestmark = NEEDS_MOUNT
MOUNT_OPTIONS = "idle=1,attr_timeout=0"
# Through fusepy, two names of one file are two files to the kernel's cache: see the front end. So
# calls that make hard links are drawn where nothing is cached.
LINK_OPTIONS = MOUNT_OPTIONS + ",cache=none"

N_CALLS = 400
Call = Callable[[str], Any]


class RandomCalls:
    """Draws calls over a few names, some of them open; each can be made on any tree."""

    def __init__(self, seed: int, links: bool) -> None:
        self.links = links
        self.rng = random.Random(seed)
        self.open_files: dict[str, dict[int, int]] = {}
        self.n_opened = 0

    def _path(self) -> str:
        depth = self.rng.choice((1, 1, 1, 2, 2, 3))
        return "/".join(self.rng.choice("abcd") for _ in range(depth))

    def _extent(self) -> tuple[int, int]:
        offset = self.rng.choice((0, 1, 4095, 4096, 70000, 2 << 20, (2 << 20) - 5, 5 << 20))
        return offset + self.rng.randrange(3), self.rng.choice((0, 1, 100, 4096, 9000, 200000))

    def draw(self) -> tuple[str, Call]:
        """Return a name for the log and a call."""
        kinds = [name for name in dir(self) if name.startswith("call_")]
        name = self.rng.choice(kinds)
        return name, getattr(self, name)()

    def call_mkdir(self) -> Call:
        path = self._path()
        return lambda r: os.mkdir(f"{r}/{path}", 0o755)

    call_mkdir_too = call_mkdir

    def call_rmdir(self) -> Call:
        path = self._path()
        return lambda r: os.rmdir(f"{r}/{path}")

    def call_rmtree(self) -> Call:
        path = self._path()
        if self.rng.random() < 0.7:
            return lambda r: sorted(os.listdir(f"{r}/{path}"))
        return lambda r: shutil.rmtree(f"{r}/{path}")

    def call_unlink(self) -> Call:
        path = self._path()
        return lambda r: os.unlink(f"{r}/{path}")

    def call_rename(self) -> Call:
        old, new = self._path(), self._path()
        return lambda r: os.rename(f"{r}/{old}", f"{r}/{new}")

    call_rename_too = call_rename

    def call_link(self) -> Call:
        old, new = self._path(), self._path()
        if not self.links:
            return lambda r: os.path.exists(f"{r}/{old}")
        return lambda r: os.link(f"{r}/{old}", f"{r}/{new}", follow_symlinks=False)

    def call_symlink(self) -> Call:
        target, path = self._path(), self._path()
        return lambda r: os.symlink(target, f"{r}/{path}")

    def call_truncate(self) -> Call:
        path, size = self._path(), sum(self._extent())
        return lambda r: os.truncate(f"{r}/{path}", size)

    def call_chmod(self) -> Call:
        path, mode = self._path(), self.rng.choice((0o644, 0o600, 0o755, 0o4711))
        return lambda r: os.chmod(f"{r}/{path}", mode)

    def call_setxattr(self) -> Call:
        path, value = self._path(), self.rng.randbytes(self.rng.randrange(200))
        name = "user." + self.rng.choice("abc")
        return lambda r: os.setxattr(f"{r}/{path}", name, value)

    def call_xattrs(self) -> Call:
        path = self._path()
        return lambda r: {
            name: os.getxattr(f"{r}/{path}", name) for name in sorted(os.listxattr(f"{r}/{path}"))
        }

    def call_open(self) -> Call:
        path, number = self._path(), self.n_opened
        flags = os.O_RDWR | self.rng.choice((0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL))
        flags |= self.rng.choice((0, 0, os.O_TRUNC, os.O_APPEND))
        self.n_opened += 1

        def run(root: str) -> None:
            fd = os.open(f"{root}/{path}", flags, 0o644)
            self.open_files.setdefault(root, {})[number] = fd

        return run

    call_open_too = call_open
    call_open_three = call_open

    def _on_file(self, use: Callable[[int], Any]) -> Call:
        pick = self.rng.random()

        def run(root: str) -> Any:
            files = self.open_files.get(root)
            if not files:
                return "nothing open"
            return use(sorted(files.items())[int(pick * len(files))][1])

        return run

    def call_pwrite(self) -> Call:
        (offset, size), seed = self._extent(), self.rng.random()
        return self._on_file(lambda fd: os.pwrite(fd, random.Random(seed).randbytes(size), offset))

    call_pwrite_too = call_pwrite
    call_pwrite_three = call_pwrite

    def call_pread(self) -> Call:
        offset, size = self._extent()
        return self._on_file(lambda fd: os.pread(fd, size, offset))

    call_pread_too = call_pread

    def call_ftruncate(self) -> Call:
        size = sum(self._extent())
        return self._on_file(lambda fd: os.ftruncate(fd, size))

    def call_fstat(self) -> Call:
        return self._on_file(_size_and_links)

    def call_fsync(self) -> Call:
        return self._on_file(os.fsync)

    def call_close(self) -> Call:
        pick = self.rng.random()

        def run(root: str) -> Any:
            files = self.open_files.get(root)
            if not files:
                return "nothing open"
            number = sorted(files)[int(pick * len(files))]
            return os.close(files.pop(number))

        return run

    def close_all(self) -> None:
        for files in self.open_files.values():
            for fd in files.values():
                os.close(fd)
        self.open_files.clear()


def _size_and_links(fd: int) -> Any:
    if os.readlink(f"/proc/self/fd/{fd}").endswith("(deleted)"):
        return "gone"  # and maybe its directory, too: then libfuse has no path to ask by
    return os.fstat(fd).st_size, os.fstat(fd).st_nlink


def one_run(seed: int, n_calls: int, ours: str, reference: str, links: bool) -> None:
    calls = RandomCalls(seed, links)
    try:
        for number in range(n_calls):
            name, call = calls.draw()
            results = outcome(call, ours), outcome(call, reference)
            assert results[0] == results[1] or "gone" in results, f"seed {seed}, {number}, {name}"
            if number % 100 == 99:
                assert tree(ours) == tree(reference), f"seed {seed}, call {number}"
    finally:
        calls.close_all()
    assert tree(ours) == tree(reference), f"seed {seed}, at the end"


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_do_the_same(seed: int, pair: Pair) -> None:
    one_run(seed, N_CALLS, str(pair.ours), str(pair.reference), links=False)


@pytest.mark.parametrize("seed", range(4, 6))
def test_random_calls_with_hard_links_do_the_same(seed: int, own_mount: Mounted) -> None:
    own_mount.remount(LINK_OPTIONS)
    with scratch("pmemfs-reference-") as reference:
        one_run(seed, N_CALLS, str(own_mount.directory), str(reference), links=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_more_random_calls_do_the_same(seed: int, own_mount: Mounted) -> None:
    links = seed % 2 == 1
    options = LINK_OPTIONS if links else MOUNT_OPTIONS
    own_mount.remount(options)
    with scratch("pmemfs-reference-") as reference:
        one_run(seed, 2000, str(own_mount.directory), str(reference), links)
        own_mount.remount(options)
        assert tree(own_mount.directory) == tree(reference)
