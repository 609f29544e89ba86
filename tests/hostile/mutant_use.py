"""Use a volume as people do: walk all of it and read everything, then change it.

Each call may be refused with a `PmemfsError`; these are collected. Anything else goes through.
A walk is bounded by what is really there, whatever sizes and maps say.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections import Counter
from collections.abc import Callable, Iterator

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import EXTENT_BYTES, PAGE_BYTES
from pmemfs.reclaim import Policy, Reclaimer

READ_BYTES = 1 << 17
SOME = 12
PUNCH = 3
KEEP_SIZE = 1
EXCHANGE = 2
_CONTROLS = {chr(c) for c in range(32)} | {"\x7f", "\u202e", "\x9b"}


class Refused:
    """What was refused: how often each errno, and the first sentences."""

    def __init__(self) -> None:
        self.by_errno: Counter[int] = Counter()
        self.sentences: list[str] = []
        self.at_open = False

    @property
    def damage(self) -> int:
        return self.by_errno[errno.EUCLEAN]

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a call be refused; any other exception goes through."""
        try:
            yield
        except PmemfsError as error:
            validate_error(error)
            self.by_errno[error.errno or 0] += 1
            if len(self.sentences) < SOME:
                self.sentences.append(str(error))

    def call(self, function: Callable[..., object], *arguments: object, **named: object) -> object:
        with self.allowed():
            return function(*arguments, **named)
        return None


def validate_error(error: PmemfsError) -> None:
    """Assert that an error is one for people: an errno, a sentence, nothing for a terminal."""
    assert error.errno in errno.errorcode, error
    assert str(error), repr(error)
    assert not _CONTROLS & set(str(error)), repr(str(error))


def walk(volume: Volume, refused: Refused) -> list[tuple[int, bytes, int]]:
    """Read everything that the root leads to; return ``(directory, name, inode)`` of all names."""
    names: list[tuple[int, bytes, int]] = []
    directories, seen = [ROOT_INO], {ROOT_INO}
    while directories:
        ino = directories.pop()
        listed: list[tuple[int, bytes, int]] = []
        with refused.allowed():
            for entry in volume.readdir(ino):
                assert b"/" not in entry.name, entry
                assert b"\0" not in entry.name, entry
                assert 0 < len(entry.name) <= 255, entry
                if entry.name not in (b".", b".."):
                    listed.append((ino, entry.name, entry.ino))
        names += listed
        for _, name, child in listed:
            refused.call(volume.lookup, ino, name)
            if child not in seen:
                seen.add(child)
                with refused.allowed():
                    _read(volume, child, refused)
                    if volume.inode(child).is_dir:
                        directories.append(child)
    refused.call(volume.statfs)
    return names


def _read(volume: Volume, ino: int, refused: Refused) -> None:
    inode = volume.inode(ino)
    assert stat.S_IFMT(inode.mode) in _TYPES, oct(inode.mode)
    for name in refused.call(volume.listxattr, ino) or []:  # type: ignore[attr-defined]
        refused.call(volume.getxattr, ino, name)
    if inode.is_symlink:
        target = volume.readlink(ino)
        assert 0 < len(target) < PAGE_BYTES
    if inode.is_file:
        refused.call(_read_data, volume, ino, inode.size)


_TYPES = {
    stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR,
    stat.S_IFBLK,
}  # fmt: skip


def _read_data(volume: Volume, ino: int, size: int) -> None:
    left = volume.geometry.device_bytes  # a file has no more data than the device
    offset = 0
    with contextlib.suppress(_Nothing):
        while offset < size and left > 0:
            offset = _seek(volume, ino, offset, data=True)
            end = _seek(volume, ino, offset, data=False)
            assert offset < end <= size
            while offset < end and left > 0:
                wanted = min(READ_BYTES, end - offset)
                pieces = volume.read(ino, offset, wanted)
                assert sum(map(len, pieces)) == wanted, (ino, offset, wanted)
                offset += wanted
                left -= wanted


class _Nothing(Exception):  # noqa: N818
    """There is no more data."""


def _seek(volume: Volume, ino: int, offset: int, *, data: bool) -> int:
    try:
        return volume.seek(ino, offset, data=data)
    except PmemfsError as error:
        if error.errno == errno.ENXIO:
            raise _Nothing from error
        raise


def change(volume: Volume, names: list[tuple[int, bytes, int]], refused: Refused) -> None:
    """Make, write, cut, move and remove, a little of each, all over the tree."""
    call = refused.call
    places = sorted({directory for directory, _, _ in names} | {ROOT_INO})[:SOME]
    for number, directory in enumerate(places):
        made = call(volume.create, directory, b"made here", 0o100644)
        if made is not None:
            call(volume.write, made.ino, 0, b"m" * 5000)  # type: ignore[attr-defined]
        call(volume.mkdir, directory, b"dir made here", 0o755)
        call(volume.symlink, directory, b"link made here", b"t" * 100 * (1 + number % 2))
    step = max(1, len(names) // SOME)
    for number, (directory, name, ino) in enumerate(names[::step]):
        _change_one(volume, number, directory, name, ino, call)
    for directory in places:
        call(volume.unlink, directory, b"made here")
        call(volume.rmdir, directory, b"dir made here")
    nameless = call(volume.tmpfile, ROOT_INO, 0o600)
    if nameless is not None:
        call(volume.release, nameless.ino)  # type: ignore[attr-defined]
    with refused.allowed():
        reclaimer = Reclaimer(volume, Policy(0.0), now_s=lambda: 2_000_000_000)
        for _ in range(200):
            if reclaimer.step():
                break


def _change_one(
    volume: Volume,
    number: int,
    directory: int,
    name: bytes,
    ino: int,
    call: Callable[..., object],
) -> None:
    size = getattr(call(volume.inode, ino), "size", 0)
    call(volume.write, ino, 0, b"w")
    call(volume.write, ino, size, b"appended" * 1000)
    call(volume.write, ino, EXTENT_BYTES * (number % 5) + 4000, b"far" * 100)
    call(volume.fsync, ino)
    call(volume.fallocate, ino, PUNCH, 100, 3 * PAGE_BYTES)
    call(volume.fallocate, ino, KEEP_SIZE, size, 2 * PAGE_BYTES)
    call(volume.setattr, ino, mode=0o640, mtime_ns=5)
    call(volume.setxattr, ino, b"user.new", b"value")
    call(volume.removexattr, ino, b"user.new")
    call(volume.setattr, ino, size=size // 2)
    call(volume.link, ino, ROOT_INO, b"linked%d" % number)
    call(volume.rename, directory, name, ROOT_INO, b"renamed%d" % number)
    call(volume.rename, ROOT_INO, b"renamed%d" % number, directory, b"made here", EXCHANGE)
    if number % 3 == 0:
        call(volume.unlink, ROOT_INO, b"renamed%d" % number)
        call(volume.unlink, ROOT_INO, b"linked%d" % number)
        call(volume.rmdir, directory, name)
    elif number % 3 == 1:
        call(volume.rename, ROOT_INO, b"renamed%d" % number, directory, name)
