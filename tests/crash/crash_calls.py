"""Cases, and the calls they are made of: a `Run` does one call, by path, when it is given a volume.

Calls that change the data of a file note it in a `FileModel` too.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable
from typing import Any

from crash_case import Case
from crash_tree import MODELS, FileModel

from pmemfs.fs.volume import Volume
from pmemfs.reclaim import Policy, Reclaimer

PIECE = 2 << 20
FILE = stat.S_IFREG | 0o644
PUNCH = 3
ZERO_RANGE = 16
A, B, C = b"A", b"B", b"C"
_FAR_S = 1_700_001_000
CASES: list[Case] = []

Run = Callable[[Volume], Any]


def case(name: str, setup: Run, operation: Run, *steps: Run, **more: Any) -> None:
    CASES.append(Case(name, setup, operation, steps, **more))


def do(*operations: Run) -> Run:
    """One after the other."""

    def run(volume: Volume) -> None:
        for operation in operations:
            operation(volume)

    return run


def both(name: str, setup: Run, *steps: Run, **more: Any) -> None:
    """An operation that is these steps, each of them atomic."""
    case(name, setup, do(*steps), *steps, **more)


def _split(volume: Volume, path: bytes) -> tuple[int, bytes]:
    parent, _, name = path.rpartition(b"/")
    return volume.resolve(parent).ino, name


def ino(volume: Volume, path: bytes) -> int:
    return volume.resolve(path).ino


def nothing(volume: Volume) -> None:
    pass


def make(path: bytes, data: bytes = b"", mode: int = FILE, **more: int) -> Run:
    def run(volume: Volume) -> None:
        made = volume.create(*_split(volume, path), mode, **more)
        MODELS.setdefault(volume, {})[made.ino] = FileModel()
        if data:
            write(path, 0, data)(volume)

    return run


def mkdir(path: bytes, mode: int = 0o755) -> Run:
    return lambda v: v.mkdir(*_split(v, path), mode)


def symlink(path: bytes, target: bytes) -> Run:
    return lambda v: v.symlink(*_split(v, path), target)


def link(old: bytes, new: bytes) -> Run:
    return lambda v: v.link(ino(v, old), *_split(v, new))


def unlink(path: bytes) -> Run:
    return lambda v: v.unlink(*_split(v, path))


def rmdir(path: bytes) -> Run:
    return lambda v: v.rmdir(*_split(v, path))


def rename(old: bytes, new: bytes, flags: int = 0) -> Run:
    return lambda v: v.rename(*_split(v, old), *_split(v, new), flags)


def model(volume: Volume, path: bytes) -> FileModel:
    return MODELS.setdefault(volume, {}).setdefault(ino(volume, path), FileModel())


def write(path: bytes, offset: int, data: bytes, *, stamp: bool = True) -> Run:
    def run(volume: Volume) -> None:
        assert volume.write(ino(volume, path), offset, data, stamp=stamp) == len(data)
        model(volume, path).write(offset, data)

    return run


def fsync(path: bytes) -> Run:
    return lambda v: v.fsync(ino(v, path))


def setattr_(path: bytes, **what: int) -> Run:
    return lambda v: v.setattr(ino(v, path), **what)


def truncate(path: bytes, size: int) -> Run:
    return do(setattr_(path, size=size), lambda v: model(v, path).truncate(size))


def punch(path: bytes, offset: int, length: int) -> Run:
    return do(
        lambda v: v.fallocate(ino(v, path), PUNCH, offset, length),
        lambda v: model(v, path).punch(offset, length),
    )


def allocate(path: bytes, offset: int, length: int) -> Run:
    return do(
        lambda v: v.fallocate(ino(v, path), 0, offset, length),
        lambda v: model(v, path).allocate(offset, length),
    )


def zero(path: bytes, offset: int, length: int) -> Run:
    return do(
        lambda v: v.fallocate(ino(v, path), ZERO_RANGE, offset, length),
        lambda v: model(v, path).punch(offset, length),
        lambda v: model(v, path).allocate(offset, length),
    )


def copy(path: bytes, offset: int, to: bytes, to_offset: int, length: int) -> Run:
    def run(volume: Volume) -> None:
        data = model(volume, path).read(offset, length)
        done = volume.copy_range(ino(volume, path), offset, ino(volume, to), to_offset, length)
        assert done == len(data)
        model(volume, to).write(to_offset, data)

    return run


def tmpfile(path: bytes) -> Run:
    def run(volume: Volume) -> None:
        made = volume.tmpfile(ino(volume, path), 0o600)
        MODELS.setdefault(volume, {})[made.ino] = FileModel()

    return run


def held(volume: Volume) -> int:
    """Return the newest inode that is held."""
    return max(volume.inodes.holds)


def write_held(data: bytes, offset: int = 0) -> Run:
    """Write to the newest file that is held."""

    def run(volume: Volume) -> None:
        volume.write(held(volume), offset, data)
        MODELS[volume][held(volume)].write(offset, data)

    return run


def link_held(path: bytes) -> Run:
    """Give the newest file that is held a name."""
    return lambda v: v.link(held(v), *_split(v, path))


def preallocate(path: bytes, offset: int, length: int) -> Run:
    return lambda v: v.fallocate(ino(v, path), 1, offset, length)


def setxattr(path: bytes, name: bytes, value: bytes) -> Run:
    return lambda v: v.setxattr(ino(v, path), name, value)


def removexattr(path: bytes, name: bytes) -> Run:
    return lambda v: v.removexattr(ino(v, path), name)


def read(path: bytes, offset: int = 0, size: int = 1 << 22) -> Run:
    return lambda v: v.read(ino(v, path), offset, size)


def hold(path: bytes) -> Run:
    return lambda v: v.hold(ino(v, path))


def release_held(volume: Volume) -> None:
    held = list(volume.inodes.holds)
    for number in held:
        volume.release(number)


def one_orphan_step(volume: Volume) -> None:
    orphan = volume.orphans.workable()
    assert orphan is not None
    volume.orphans.work(orphan)


def unsplit_all(volume: Volume) -> None:
    while (coldest := volume.tables.coldest()) is not None:
        volume.tables.unsplit(coldest[0])


def release_idle(volume: Volume) -> None:
    while volume.release_idle():
        pass


def discard(volume: Volume) -> None:
    volume.pool.discard_returned(16)


def retire(volume: Volume) -> None:
    """Let the arenas look for free pages anew, as after a mount: freed ones are used again."""
    volume.data_arenas.retire()
    volume.metadata_arena.retire()


def idle(volume: Volume) -> None:
    """Let the reclaimer take steps until one changes the device, long after the last request."""
    counters = volume.device.counters
    reclaimer = Reclaimer(volume, Policy(0.0), itertools.count(_FAR_S, 100).__next__)
    before = counters.stores + counters.discards
    while counters.stores + counters.discards == before and not reclaimer.step():
        pass


def close(volume: Volume) -> None:
    volume.close()


def pattern(letter: bytes, size: int) -> bytes:
    """Bytes that differ from word to word."""
    return b"".join(b"%s%07d" % (letter, i) for i in range(-(-size // 8)))[:size]
