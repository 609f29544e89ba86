"""What a mount shows of an image, and the golden image with data in its files."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import fsck_image as fi
from fsck_image import HandImage, golden

from pmemfs.fs import Volume
from pmemfs.layout.geometry import EXTENT_BYTES, ROOT_INO

DATA_PAGES = (fi.FILE_PFN, fi.FILE_PFN + 1, fi.FILE_PFN + 2, fi.TREE_PFN, fi.TREE_PFN + 1)

Tree = dict[bytes, dict[str, Any]]


def make(path: Path) -> HandImage:
    """Make the golden image with data in the pages of its files."""
    image = golden(path)
    for number, pfn in enumerate(DATA_PAGES):
        image.set_page(pfn, b"page %d " % number * 512)
    return image


def tree_of(path: Path) -> Tree:
    """Return what a mount shows of each file: all but times and link counts."""
    found: Tree = {}
    with Volume.open(path) as volume:
        _walk(volume, ROOT_INO, b"", found)
    return found


def _walk(volume: Volume, ino: int, where: bytes, found: Tree) -> None:
    for entry in list(volume.readdir(ino)):
        if entry.name in (b".", b".."):
            continue
        path, inode = where + b"/" + entry.name, volume.inode(entry.ino)
        names = volume.listxattr(entry.ino)
        shown: dict[str, Any] = {"mode": inode.mode, "size": inode.size}
        shown["xattrs"] = {name: volume.getxattr(entry.ino, name) for name in names}
        if stat.S_ISREG(inode.mode):
            size = min(inode.size, 4 * EXTENT_BYTES)
            shown["data"] = b"".join(volume.read(entry.ino, 0, size))
        elif stat.S_ISLNK(inode.mode):
            shown["data"] = volume.readlink(entry.ino)
        found[path] = shown
        if stat.S_ISDIR(inode.mode):
            _walk(volume, entry.ino, path, found)
