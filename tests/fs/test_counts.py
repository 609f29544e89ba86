"""What each operation costs in stores, flushes and fences: exact, and the same on every machine.

How to read the table. A transaction is the slot, the commit word and twice the sequence word: 4
stores and 2 flushes; each home is a store and a flush more; its 2 fences are those of the commit
point, and it is one publish. The first access in a second stores a stamp in the page descriptors
and one in the head of the extent, neither flushed.

* create: 6 homes (chunk head, both inodes, and name, slot and counts of the leaf);
* unlink of all: 7 homes, and 3 stores to unsplit the extent, which has become empty;
* append of a page: the data, 3 homes (owner word, head, inode), 2 stamps;
* overwrite: the data and 2 stamps; the transaction is for the times, once per tick of the clock;
* punch within a page: a second publish retires the transaction.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from volumes import REGULAR, ManualClock

from pmemfs.device import Counters
from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO

PAGE = 4096
Run = Callable[[Volume, int], object]

COUNTS: dict[str, tuple[Run, int, int, int, int]] = {}


def operation(
    name: str, stores: int, flushes: int, fences: int, publishes: int
) -> Callable[[Run], Run]:
    """Enter a row: an operation on a file of 8 pages, and what it costs from `_start` on."""

    def note(run: Run) -> Run:
        COUNTS[name] = (run, stores, flushes, fences, publishes)
        return run

    return note


@operation("create", 10, 8, 2, 1)
def _create(v: Volume, ino: int) -> None:
    v.create(ROOT_INO, b"new", REGULAR)


@operation("mkdir", 10, 8, 2, 1)
def _mkdir(v: Volume, ino: int) -> None:
    v.mkdir(ROOT_INO, b"new", 0o755)


@operation("unlink of 8 pages", 14, 9, 2, 1)
def _unlink(v: Volume, ino: int) -> None:
    v.unlink(ROOT_INO, b"file")


@operation("unlink of one of two names", 8, 6, 2, 1)
def _unlink_name(v: Volume, ino: int) -> None:
    v.unlink(ROOT_INO, b"second")


@operation("rename", 11, 9, 2, 1)
def _rename(v: Volume, ino: int) -> None:
    v.rename(ROOT_INO, b"file", ROOT_INO, b"moved")


@operation("setattr", 5, 3, 2, 1)
def _setattr(v: Volume, ino: int) -> None:
    v.setattr(ino, mode=0o600, uid=1)


@operation("setxattr", 8, 6, 2, 1)
def _setxattr(v: Volume, ino: int) -> None:
    v.setxattr(ino, b"user.a", b"1")


@operation("append of a page", 10, 6, 2, 1)
def _append(v: Volume, ino: int) -> None:
    v.write(ino, 8 * PAGE, bytes(PAGE))


@operation("append of 100 bytes in a page", 7, 4, 2, 1)
def _append_in_page(v: Volume, ino: int) -> None:
    v.write(ino, 8 * PAGE, b"x" * 100)
    _start(v)
    v.write(ino, 8 * PAGE + 100, b"x" * 100)


@operation("overwrite of a page", 8, 3, 2, 1)
def _overwrite(v: Volume, ino: int) -> None:
    v.write(ino, 0, b"y" * PAGE)


@operation("overwrite of a page, clock still", 2, 0, 0, 0)
def _overwrite_again(v: Volume, ino: int) -> None:
    v.write(ino, 0, b"y" * PAGE)
    _start(v)
    v.write(ino, PAGE, b"z" * PAGE)


@operation("fsync of one dirty page", 1, 1, 1, 0)
def _fsync(v: Volume, ino: int) -> None:
    v.write(ino, 0, b"y" * PAGE)
    _start(v)
    v.fsync(ino)


@operation("fsync of nothing", 0, 0, 1, 0)
def _fsync_nothing(v: Volume, ino: int) -> None:
    v.fsync(ino)


@operation("read of 8 pages", 2, 0, 0, 0)
def _read(v: Volume, ino: int) -> None:
    v.read(ino, 0, 8 * PAGE)


@operation("read again in the same second", 0, 0, 0, 0)
def _read_again(v: Volume, ino: int) -> None:
    v.read(ino, 0, 8 * PAGE)
    _start(v)
    v.read(ino, 0, 8 * PAGE)


@operation("lookup", 0, 0, 0, 0)
def _lookup(v: Volume, ino: int) -> None:
    v.lookup(ROOT_INO, b"file")


@operation("truncate to 4 pages", 8, 5, 2, 1)
def _truncate(v: Volume, ino: int) -> None:
    v.setattr(ino, size=4 * PAGE)


@operation("punch of a page", 8, 5, 2, 1)
def _punch(v: Volume, ino: int) -> None:
    v.fallocate(ino, 3, PAGE, PAGE)


@operation("punch of 10 bytes", 7, 5, 4, 2)
def _punch_in_page(v: Volume, ino: int) -> None:
    v.fallocate(ino, 3, PAGE, 10)


_earlier = {}


def _start(volume: Volume) -> None:
    _earlier[volume] = volume.device.counters.copy()


def count(volume: Volume, clock: ManualClock, run: Run) -> Counters:
    """Return what a row of the table costs on a new volume."""
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.write(ino, 0, b"x" * 8 * PAGE)
    volume.create(ROOT_INO, b"other", REGULAR)
    volume.link(volume.lookup(ROOT_INO, b"other").ino, ROOT_INO, b"second")
    clock.advance(5)
    _start(volume)
    run(volume, ino)
    return volume.device.counters.since(_earlier.pop(volume))


@pytest.mark.parametrize("name", COUNTS)
def test_counts(volume: Volume, clock: ManualClock, name: str) -> None:
    run, *expected = COUNTS[name]
    counted = count(volume, clock, run)
    found = [counted.stores, counted.flushes, counted.fences, counted.publishes]
    assert found == expected, f"{name}: stores, flushes, fences, publishes"
