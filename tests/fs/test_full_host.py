"""A real host that is full under the image: every call fails with ENOSPC or works, none is SIGBUS.

`test_full_device` asks the same of an emulated host, call by call. Here the host is a small tmpfs,
so each test runs in a process of its own: a store to what is not backed would kill it.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from small_host import NEEDS_TMPFS, SmallHost, small_host
from test_full_device import (
    MAKE_ROOM,
    NEED_SPACE,
    _may_change,
    content,
    expect_no_space,
    furnish,
    use_up_open_extents,
)
from volumes import REGULAR, ManualClock, idle, remove_tree, validate_empty, validate_image

from pmemfs.device import MappedDevice
from pmemfs.errors import PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.records import Kind, Persist
from pmemfs.units import MIB

pytestmark = [NEEDS_TMPFS, pytest.mark.parametrize("persist", list(Persist))]


@pytest.fixture
def host() -> Iterator[SmallHost]:
    with small_host(80 * MIB) as host:
        yield host


def in_a_process(run: Callable[[], None]) -> None:
    """Run in a child; assert that it ended well, not by a signal."""
    assert status_of(run) == 0


def status_of(run: Callable[[], None]) -> int:
    """Run in a child; return its exit code, negative for a signal."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def new(host: SmallHost, persist: Persist) -> Volume:
    path = host.folder / "disk.img"
    Volume.format(path, 64 * MIB, force=True)
    return open_again(path, persist)


def open_again(path: Path, persist: Persist) -> Volume:
    return Volume.open(path, Options(clock=ManualClock(), threshold_pages=512, persist=persist))


def sparse_copy(host: SmallHost, volume: Volume) -> Path:
    """Put a copy of a closed image, with holes where it is zeros, in its place."""
    copy = host.folder / "copy.img"
    subprocess.run(["cp", "--sparse=always", volume.image.name, copy], check=True)
    os.unlink(volume.image.name)
    return copy


def test_what_needs_space(host: SmallHost, persist: Persist) -> None:
    def run() -> None:
        volume = new(host, persist)
        inodes = furnish(volume)
        use_up_open_extents(volume)
        host.fill()
        for name, call in NEED_SPACE.items():
            before = content(volume)
            expect_no_space(volume, lambda call=call: call(volume, inodes))
            after = content(volume)
            changed = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
            assert all(_may_change(name, path) for path in changed), (name, changed)
        host.make_room()
        for name in ("symlink", "setxattr", "append", "fill a hole", "write far", "fallocate"):
            NEED_SPACE[name](volume, inodes)
        volume.close()
        validate_image(volume.image.name)

    in_a_process(run)


ORDER = (
    *("read", "fsync", "setattr", "overwrite small", "overwrite whole", "remove the xattr"),
    *("punch small", "punch whole", "punch tree", "truncate small", "truncate whole"),
    *("truncate tree", "extend", "exchange", "rename over", "unlink whole", "unlink link", "rmdir"),
)


def test_what_needs_none(host: SmallHost, persist: Persist) -> None:
    """Overwriting, cutting, removing, idle work, closing, mounting and recovery work when full."""

    def run() -> None:
        volume = new(host, persist)
        inodes = furnish(volume)
        host.fill()
        for name in ORDER:
            MAKE_ROOM[name](volume, inodes)
        before = content(volume)
        volume.abandon()
        volume = open_again(volume.image.name, persist)
        assert volume.replay is not None
        assert content(volume) == before
        volume.close()
        validate_image(volume.image.name)
        host.fill()
        volume = open_again(volume.image.name, persist)
        remove_tree(volume)
        host.fill()
        idle(volume)
        validate_empty(volume)
        volume.close()
        validate_image(volume.image.name)

    in_a_process(run)


@pytest.mark.parametrize("crash", [False, True])
def test_a_sparse_copy(host: SmallHost, persist: Persist, crash: bool) -> None:
    """A copy without the host's space cannot be mounted; nothing in it is changed but, maybe, a
    replay done, which needs no page that is not there.
    """

    def run() -> None:
        volume = new(host, persist)
        furnish(volume)
        before = content(volume)
        volume.create(ROOT_INO, b"last", REGULAR)
        (volume.abandon if crash else volume.close)()
        copy = sparse_copy(host, volume)
        data = copy.read_bytes()
        host.fill()
        with pytest.raises(PmemfsError, match="no room under the image") as info:
            open_again(copy, persist)
        assert info.value.errno == errno.ENOSPC
        assert crash or copy.read_bytes() == data
        host.make_room()
        volume = open_again(copy, persist)
        after = content(volume)
        assert after.pop(b"/last")
        assert after == before
        volume.close()
        validate_image(copy)

    in_a_process(run)


def write_on(volume: Volume, ino: int) -> None:
    """Write until that fails."""
    written = 0
    while True:
        assert volume.inode(ino).size == written
        written += volume.write(ino, written, b"%07d\n" % written * 40_000)


@pytest.mark.parametrize("spare_mib", [1, 3, 5, 7, 9])
def test_writing_until_the_host_is_full(host: SmallHost, persist: Persist, spare_mib: int) -> None:
    """A write takes what there is; what it says it has written is there."""

    def run() -> None:
        volume = new(host, persist)
        ino = volume.create(ROOT_INO, b"f", REGULAR).ino
        host.fill(but_bytes=spare_mib * MIB)
        with pytest.raises(PmemfsError) as info:
            write_on(volume, ino)
        assert info.value.errno == errno.ENOSPC
        written = volume.inode(ino).size
        assert bool(written) == (spare_mib > 1)
        data = b"".join(volume.read(ino, 0, 1 << 30))
        volume.abandon()
        volume = open_again(volume.image.name, persist)
        assert b"".join(volume.read(ino, 0, 1 << 30)) == data
        host.make_room()
        volume.write(ino, written, b"more")
        volume.close()
        validate_image(volume.image.name)

    in_a_process(run)


def test_without_backing_it_is_sigbus(
    host: SmallHost, persist: Persist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all of this is about; and that these tests would see it."""
    volume = new(host, persist)
    ino = volume.create(ROOT_INO, b"f", REGULAR).ino
    host.fill()
    monkeypatch.setattr(MappedDevice, "_back_unit", lambda self, *range_: None)

    def run() -> None:
        faulthandler.disable()
        volume.write(ino, 0, b"x")

    assert status_of(run) == -signal.SIGBUS
    volume.abandon()


def test_reading_a_sparse_copy(host: SmallHost, persist: Persist) -> None:
    """Zeros that the copy left out are holes; to read them must not need space."""

    def run() -> None:
        volume = new(host, persist)
        inodes = furnish(volume)
        volume.write(inodes["whole"], 0, bytes(5 * MIB))
        volume.write(inodes["small"], 0, bytes(10_000))
        before = content(volume)
        volume.close()
        copy = sparse_copy(host, volume)
        volume = open_again(copy, persist)
        host.fill()
        assert content(volume) == before
        volume.close()
        validate_image(copy)

    in_a_process(run)


@pytest.mark.parametrize("what", ["grow", "punch", "unlink", "cut"])
def test_a_sparse_copy_whose_host_fills_up(host: SmallHost, persist: Persist, what: str) -> None:
    """The extents in use have holes there: more data is ENOSPC, and freeing needs none of them."""

    def run() -> None:
        volume = new(host, persist)
        small, large = (volume.create(ROOT_INO, n, REGULAR).ino for n in (b"small", b"large"))
        volume.write(small, 0, b"x" * 40_960)
        volume.fallocate(large, 0, 0, 4 * MIB)
        volume.close()
        copy = sparse_copy(host, volume)
        volume = open_again(copy, persist)
        volume.setattr(small, mode=0o600)
        host.fill()
        if what == "grow":
            expect_no_space(volume, lambda: volume.write(small, 40_960, b"y" * 4096))
        elif what == "punch":
            expect_no_space(volume, lambda: volume.fallocate(large, 3, 100, 1000))
        elif what == "cut":
            volume.setattr(small, size=0)
        else:
            volume.unlink(ROOT_INO, b"small")
        assert not volume.is_read_only
        volume.close()
        validate_image(copy)

    in_a_process(run)


def test_moving_pages_of_a_sparse_copy(host: SmallHost, persist: Persist) -> None:
    """Compaction reads holes, too; without space for them the pages stay where they are."""

    def run() -> None:
        volume = new(host, persist)
        for number in range(600):
            ino = volume.create(ROOT_INO, b"%d" % number, REGULAR).ino
            volume.write(ino, 0, bytes(8192))
        for number in range(0, 600, 2):
            volume.unlink(ROOT_INO, b"%d" % number)
        before = content(volume)
        volume.close()
        copy = sparse_copy(host, volume)
        volume = open_again(copy, persist)
        host.fill()
        assert volume.moves is not None
        small = np.flatnonzero(volume.pool.open_column(Kind.SMALL)).tolist()
        assert len(small) > 1
        for extent in small:
            volume.moves.move_out(extent)
        assert content(volume) == before
        volume.close()
        validate_image(copy)

    in_a_process(run)
