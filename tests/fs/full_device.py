"""Volumes with one of everything, full ones, and all that can be read of them."""

from __future__ import annotations

import errno
import zlib

from volumes import REGULAR

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import EXTENT_BYTES, PAGE_BYTES
from pmemfs.layout.records import Kind
from pmemfs.units import MIB

Snapshot = dict[bytes, object]


def content(volume: Volume, ino: int = ROOT_INO, path: bytes = b"") -> Snapshot:
    """Everything that can be read of a tree, by path."""
    out: Snapshot = {}
    for entry in volume.readdir(ino):
        if entry.cookie <= 2:
            continue
        inode = volume.inode(entry.ino)
        name = path + b"/" + entry.name
        xattrs = {key: volume.getxattr(inode.ino, key) for key in volume.listxattr(inode.ino)}
        data: object = None
        if inode.is_file:
            data = _data(volume, inode.ino, inode.size)
        elif inode.is_symlink:
            data = volume.readlink(inode.ino)
        out[name] = (inode.ino, inode.mode, inode.nlink, inode.size, inode.pages, xattrs, data)
        if inode.is_dir:
            out |= content(volume, inode.ino, name)
    return out


def _data(volume: Volume, ino: int, size: int) -> int:
    """Return a sum of all file data; zeros that are there count like holes."""
    total = offset = 0
    while offset < size:
        try:
            offset = volume.seek(ino, offset, data=True)
        except PmemfsError:
            break
        piece = offset // EXTENT_BYTES
        data = b"".join(volume.read(ino, piece * EXTENT_BYTES, EXTENT_BYTES)).rstrip(b"\0")
        total = zlib.crc32(data, total ^ piece) if data else total
        offset = (piece + 1) * EXTENT_BYTES
    return total


def furnish(volume: Volume) -> dict[str, int]:
    """Make one of everything; return inode numbers by name."""
    volume.mkdir(ROOT_INO, b"dir", 0o755)
    sub = volume.lookup(ROOT_INO, b"dir").ino
    for number in range(16):  # so that one more name of 250 bytes needs a page
        volume.create(sub, b"%02d" % number + b"n" * 220, REGULAR)
    volume.mkdir(ROOT_INO, b"empty", 0o755)
    volume.symlink(ROOT_INO, b"link", b"t" * 1000)
    files = {b"small": 10_000, b"whole": 5 * MIB, b"tree": 0, b"victim": 3 * PAGE_BYTES}
    for name, size in files.items():
        ino = volume.create(ROOT_INO, name, REGULAR).ino
        volume.write(ino, 0, b"s" * size)
    tree = volume.lookup(ROOT_INO, b"tree").ino
    for number in range(40):
        volume.write(tree, number * 2 * PAGE_BYTES, b"fragment %d" % number)
    volume.setxattr(tree, b"user.a", b"x" * 1000)
    return {
        entry.name.decode(): entry.ino for entry in volume.readdir(ROOT_INO) if entry.cookie > 2
    }


def fill(volume: Volume, name: bytes = b"filler") -> int:
    """Use up every page and every metadata page; return the inode of the file that did."""
    ino = volume.create(ROOT_INO, name, REGULAR).ino
    for chunk in (EXTENT_BYTES, 32 * PAGE_BYTES, PAGE_BYTES):
        while True:
            try:
                volume.write(ino, volume.inode(ino).size, b"f" * chunk)
            except PmemfsError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017
                break
    links = 0
    try:
        while True:
            volume.symlink(ROOT_INO, b"fill%d" % links, b"l" * 200)
            links += 1
    except PmemfsError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017
    assert volume.pool.free_pages == 0
    return ino


def use_up_open_extents(volume: Volume) -> None:
    """Use all pages of small and metadata extents, so that the next one takes an extent."""
    use_up_small_pages(volume, b"before")
    while _metadata_left(volume):
        volume.symlink(ROOT_INO, b"open%d" % volume.inode(ROOT_INO).entries, b"l" * 200)
    use_up_small_pages(volume, b"after")


def use_up_small_pages(volume: Volume, name: bytes) -> None:
    if volume.pool.free_small_pages:
        ino = volume.create(ROOT_INO, name, REGULAR).ino
        volume.write(ino, 0, b"o" * volume.pool.free_small_pages * PAGE_BYTES)
    assert not volume.pool.free_small_pages


def _metadata_left(volume: Volume) -> bool:
    extents = range(volume.geometry.n_extents)
    return any(
        volume.pool.kind(extent) == Kind.METADATA and volume.pool.used(extent) < 511
        for extent in extents
    )
