"""Read directories: find a name by its hash, walk all pages, resolve a path.

A lookup reads one page for each level. A walk visits no page twice, and only metadata pages
that say they belong to the directory, so that it ends on any image.
"""

from __future__ import annotations

import errno
import hashlib
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.inspect.inodes import Inode, Inodes, read_target
from pmemfs.inspect.reader import Reader
from pmemfs.inspect.text import decode_name, printable
from pmemfs.layout.geometry import NAME_MAX, PAGE_BYTES, ROOT_INO
from pmemfs.layout.records import DIRECTORY_LEAF, DIRECTORY_SLOT, Role
from pmemfs.layout.words import NODE, PFN_MASK

HASH_MASK = (1 << 63) - 256
FIRST_HASH = 1 << 8
NODE_BITS = 9
TOP_SHIFT = 54
MAX_BITS_BELOW = 54


class Entry(NamedTuple):
    """One name of a directory."""

    cookie: int
    ino: int
    name: bytes
    type: int


def name_hash(name: bytes, hash_seed: bytes) -> int:
    """Return the hash of a name: bits 8 to 62 of its cookie, never 0."""
    digest = hashlib.blake2b(name, key=hash_seed, digest_size=8).digest()
    return int.from_bytes(digest, "little") & HASH_MASK or FIRST_HASH


def iter_entries(leaf: bytes, pfn: int) -> Iterator[Entry]:
    """Iterate the entries of a leaf; raises `DamagedImageError` for what points out of it."""
    slots = DIRECTORY_LEAF.unpack(leaf)["slots"]
    if DIRECTORY_LEAF.size_bytes + slots * DIRECTORY_SLOT.size_bytes > PAGE_BYTES:
        raise DamagedImageError(f"directory leaf at pfn {pfn} claims {slots} slots")
    for slot in range(slots):
        place = DIRECTORY_LEAF.size_bytes + slot * DIRECTORY_SLOT.size_bytes
        fields = DIRECTORY_SLOT.unpack(leaf, place)
        if not fields["cookie"]:
            continue
        end = fields["name_offset"] + fields["name_bytes"]
        if end > PAGE_BYTES:
            raise DamagedImageError(f"directory leaf at pfn {pfn}: name {slot} is beyond the page")
        name = leaf[fields["name_offset"] : end]
        yield Entry(fields["cookie"], fields["ino"], name, fields["type"])


def find_leaf(reader: Reader, directory: Inode, hash_: int) -> int:
    """Return the pfn of the leaf where a hash belongs, 0 where there is none."""
    word = directory["map"][0]
    shift = TOP_SHIFT
    while word & NODE:
        if shift < 0:
            raise DamagedImageError(f"directory {directory['ino']} is deeper than its hash")
        pfn = _directory_pfn(directory, word)
        node = reader.metadata_page(pfn, directory["ino"], Role.DIRECTORY_NODE)
        word = int(np.frombuffer(node, "<u8")[hash_ >> shift & 511])
        shift -= NODE_BITS
    return _directory_pfn(directory, word)


def _directory_pfn(directory: Inode, word: int) -> int:
    if word & ~(PFN_MASK | NODE):
        raise DamagedImageError(f"directory {directory['ino']} has the wild word {word:#x}")
    return int(word & PFN_MASK)


def find_name(reader: Reader, directory: Inode, name: bytes) -> int | None:
    """Return the inode number of a name in a directory, or None."""
    hash_ = name_hash(name, reader.image.superblock["hash_seed"])
    pfn = find_leaf(reader, directory, hash_)
    if not pfn:
        return None
    leaf = reader.metadata_page(pfn, directory["ino"], Role.DIRECTORY_LEAF)
    for entry in iter_entries(leaf, pfn):
        if entry.cookie & HASH_MASK == hash_ and entry.name == name:
            return entry.ino
    return None


def resolve(inodes: Inodes, path: bytes) -> Inode:
    """Return the inode of a path that counts from the root; symbolic links are not followed.

    ``<17>`` is inode 17, as in debugfs. Raises `PmemfsError` with ENOENT, ENOTDIR or
    ENAMETOOLONG, naming the part that is at fault.
    """
    if path[:1] == b"<" and path[-1:] == b">" and path[1:-1].isdigit():
        return inodes.read(int(path[1:-1]))
    inode = inodes.read(ROOT_INO)
    done = b""
    for name in path.split(b"/"):
        if name in (b"", b"."):
            continue
        inode = _step(inodes, inode, name, done)
        done += b"/" + name
    return inode


def _step(inodes: Inodes, inode: Inode, name: bytes, done: bytes) -> Inode:
    where = printable(decode_name(done)) or "/"
    if not stat.S_ISDIR(inode["mode"]):
        raise PmemfsError(errno.ENOTDIR, f"{where} {_why_no_directory(inodes, inode)}")
    if name == b"..":
        return inodes.read(inode["parent"] if inode["ino"] != ROOT_INO else ROOT_INO)
    if len(name) > NAME_MAX:
        raise PmemfsError(errno.ENAMETOOLONG, f"a name of {len(name)} bytes in {where}")
    ino = find_name(inodes.reader, inode, name)
    if ino is None:
        shown = printable(decode_name(name))
        raise PmemfsError(
            errno.ENOENT,
            f"there is no '{shown}' in {where} of the image (PATH is a path inside it)",
        )
    return inodes.read(ino)


def _why_no_directory(inodes: Inodes, inode: Inode) -> str:
    if not stat.S_ISLNK(inode["mode"]):
        return "is not a directory"
    target = printable(decode_name(read_target(inodes.reader, inode)))
    return f"is a symbolic link to '{target}', which is not followed here"


class Walk:
    """All pages of one directory: ``pages`` rows, ``entries`` counted; damage is remarked."""

    def __init__(self, reader: Reader, directory: Inode) -> None:
        self.reader = reader
        self.directory = directory
        self.pages: list[dict[str, Any]] = []
        self.entries = 0
        self._seen: set[int] = set()
        self._visit(directory["map"][0], 0)

    def _visit(self, word: int, bits: int) -> None:
        if not word or word & PFN_MASK in self._seen:
            return
        try:
            pfn = _directory_pfn(self.directory, word)
            self._seen.add(pfn)
            if word & NODE:
                self._node(pfn, bits)
            else:
                self._leaf(pfn)
        except DamagedImageError as error:
            self.reader.remark(str(error))

    def _node(self, pfn: int, bits: int) -> None:
        if bits > MAX_BITS_BELOW:
            raise DamagedImageError(f"directory {self.directory['ino']} is deeper than its hash")
        data = self.reader.metadata_page(pfn, self.directory["ino"], Role.DIRECTORY_NODE)
        self.pages.append({"pfn": pfn, "role": "directory_node", "depth": bits, "entries": None})
        for word in dict.fromkeys(np.frombuffer(data, "<u8").tolist()):
            self._visit(word, bits + NODE_BITS)

    def _leaf(self, pfn: int) -> None:
        data = self.reader.metadata_page(pfn, self.directory["ino"], Role.DIRECTORY_LEAF)
        header = DIRECTORY_LEAF.unpack(data)
        live = sum(1 for _ in iter_entries(data, pfn))
        if header["ino"] != self.directory["ino"] or live != header["live"]:
            self.reader.remark(
                f"directory leaf at pfn {pfn}: {live} entries of directory "
                f"{self.directory['ino']}, but it says {header['live']} of {header['ino']}"
            )
        self.entries += live
        self.pages.append(
            {"pfn": pfn, "role": "directory_leaf", "depth": header["depth"], "entries": live}
        )
