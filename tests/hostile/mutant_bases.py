"""The real images that mutants are made of: made by the engine, the same on every run.

Seed, UUID and clock are fixed, so that a number names the same mutant everywhere. Between them
they hold every record of the format, and every shape that one can have: lists of runs and trees
of each height, tries of two levels, whole extents, chains of free inodes, an orphan list, split
tables, and in `KILLED` a transaction to replay.
"""

from __future__ import annotations

import random
import stat
from pathlib import Path

from volumes import REGULAR, ManualClock

from pmemfs.fs import Options, Volume
from pmemfs.fs.format import format_image
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import MIN_DEVICE_BYTES, PAGE_BYTES
from pmemfs.units import GIB, MIB, TIB

CLOSED = "closed"
KILLED = "killed"
BASES = (CLOSED, KILLED)

PUNCH = 3
KEEP_SIZE = 1
_LONG_NAME = "long-\u00e9-".encode() * 25
HOSTILE_NAMES = (
    b"esc\x1b[2J\x1b]0;title\x07",
    b"new\nline\rreturn\ttab",
    b"not utf-8 \xff\xfe\xed\xa0\x80",
    "bidi \u202egpj.exe\u2066".encode(),
    b"[red]markup[bold] [link=x]y",
    b"%s%n{0.__class__}{}",
    b"-rf",
)


def build_base(name: str, path: Path) -> None:
    """Make one of `BASES`."""
    dice = random.Random(name)
    clock = ManualClock()
    format_image(path, MIN_DEVICE_BYTES, label=name, entropy=dice.randbytes, now_ns=clock.now_ns)
    volume = Volume.open(path, Options(clock=clock))
    _add_files(volume, dice)
    _add_names(volume)
    _add_trie(volume)
    _free_inodes(volume)
    if name == CLOSED:
        volume.close()
        return
    _add_orphans(volume)
    for entry in list(volume.readdir(ROOT_INO)):
        if volume.inode(entry.ino).is_file:
            volume.read(entry.ino, 0, MIB)  # so that small extents are split
    volume.mkdir(ROOT_INO, b"last", 0o755)  # the transaction to replay
    volume.abandon()


def _add_files(volume: Volume, dice: random.Random) -> None:
    for number, size in enumerate((0, 1, 5000, 100_000, 600_000)):
        _file(volume, b"small%d" % number, 0, dice.randbytes(size))
    whole = _file(volume, b"whole", 0, dice.randbytes(5 * MIB))
    volume.write(whole, 9 * MIB, b"behind a hole")
    for number, base in enumerate((0, 40 * MIB, 20 * GIB, 9 * TIB)):
        ino = _file(volume, b"tree%d" % number, base, b"first page of a tree")
        for page in range(1, 20):
            volume.write(ino, base + page * 2 * PAGE_BYTES, b"page %d" % page)
    volume.write(ino, 0, dice.randbytes(2 * MIB))  # a whole extent in the highest tree
    ahead = _file(volume, b"preallocated", 0, b"short")
    volume.fallocate(ahead, KEEP_SIZE, 0, 3 * PAGE_BYTES)
    for attribute in range(3):
        volume.setxattr(whole, b"user.a%d" % attribute, b"v" * 100 * attribute)
    volume.setxattr(ahead, b"security.capability", b"\1\0\0\2" + bytes(16))


def _file(volume: Volume, name: bytes, offset: int, data: bytes) -> int:
    ino = volume.create(ROOT_INO, name, REGULAR).ino
    volume.write(ino, offset, data)
    return ino


def _add_names(volume: Volume) -> None:
    folder = volume.mkdir(ROOT_INO, b"folder", 0o755).ino
    below = volume.mkdir(folder, b"below", 0o2775).ino
    volume.mkdir(below, b"deepest", 0o1777)
    volume.mkdir(ROOT_INO, b"empty", 0o700)
    volume.symlink(ROOT_INO, b"short link", b"folder/below")
    volume.symlink(folder, b"long link", b"../folder/" * 40)
    for number, kind in enumerate((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)):
        volume.create(below, b"special%d" % number, kind | 0o600, rdev=(259 << 8) | number)
    volume.link(volume.lookup(ROOT_INO, b"small2").ino, below, b"second name")
    volume.create(folder, _LONG_NAME, REGULAR)
    for name in HOSTILE_NAMES:
        volume.create(folder, name, REGULAR)
        volume.symlink(below, name, name)
    acl = bytes.fromhex("02000000 01000700ffffffff 02000500e8030000 04000500ffffffff")
    acl += bytes.fromhex("10000500ffffffff 20000500ffffffff")
    volume.setxattr(below, b"system.posix_acl_default", acl)


def _add_trie(volume: Volume) -> None:
    """A directory whose names share their first 9 bits of hash, so that it has two levels."""
    wide = volume.mkdir(ROOT_INO, b"wide", 0o755).ino
    target = volume.lookup(ROOT_INO, b"small1").ino
    made = 0
    number = 0
    while made < 200:
        name = b"%08d-with-a-tail" % number
        number += 1
        if volume._directories.hash(name) >> 54 == 5:
            volume.link(target, wide, name)
            made += 1
    for number in range(40):
        volume.create(wide, b"other%d" % number, REGULAR)


def _free_inodes(volume: Volume) -> None:
    """Leave a chain of free inodes, and a returned extent."""
    wide = volume.lookup(ROOT_INO, b"wide").ino
    for number in range(0, 40, 3):
        volume.unlink(wide, b"other%d" % number)
    _file(volume, b"gone", 0, b"g" * 2 * MIB)
    volume.unlink(ROOT_INO, b"gone")


def _add_orphans(volume: Volume) -> None:
    for number in range(4):
        ino = _file(volume, b"orphan%d" % number, 0, b"o" * 9000 * number)
        volume.hold(ino)
        volume.unlink(ROOT_INO, b"orphan%d" % number)
    volume.tmpfile(ROOT_INO, 0o600)
