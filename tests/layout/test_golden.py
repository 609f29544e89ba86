"""A golden image: what version 1 puts on the device, byte by byte.

If one of these digests changes, the format has changed: old images would be misread. Then raise
the version or a feature word, keep reading what was, and only then change the digest. Where
something lies is not format, so the records of files are compared without their map words.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from volumes import ManualClock

from pmemfs.fs import Options, Volume
from pmemfs.fs.format import format_image
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    HEAD_TABLE_OFFSET,
    INODE_BYTES,
    MIN_DEVICE_BYTES,
    PAGE_BYTES,
    ROOT_INO,
    extent_to_offset,
    inode_offset,
    pfn_to_offset,
)
from pmemfs.layout.records import HEAD, INODE, Kind
from pmemfs.layout.words import NODE, PFN_MASK

NOW_NS = 1_800_000_000_123_456_789


def digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@pytest.fixture
def path(image_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fresh(image_dir / "golden.img", monkeypatch)


def fresh(path: Path, monkeypatch: pytest.MonkeyPatch, *, lost_found: bool = False) -> Path:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 100)
    format_image(
        path,
        MIN_DEVICE_BYTES,
        label="golden",
        lost_found=lost_found,
        entropy=lambda n: bytes(range(n)),
        now_ns=lambda: NOW_NS,
    )
    return path


def test_a_fresh_image(path: Path) -> None:
    data = path.read_bytes()
    fixed = {
        "superblock": data[:PAGE_BYTES],
        "control": data[CONTROL_OFFSET : CONTROL_OFFSET + PAGE_BYTES],
        "heads": data[HEAD_TABLE_OFFSET : HEAD_TABLE_OFFSET + PAGE_BYTES],
        "inodes": data[extent_to_offset(2) : extent_to_offset(2) + PAGE_BYTES],
    }
    assert {name: digest(page) for name, page in fixed.items()} == FRESH
    backup = extent_to_offset(2) - PAGE_BYTES
    assert data[backup : backup + PAGE_BYTES] == fixed["superblock"]
    rest = data.replace(fixed["superblock"], b"")
    for page in fixed.values():
        rest = rest.replace(page, b"", 1)
    assert not rest.strip(b"\0")


@pytest.fixture
def volume(path: Path) -> Volume:
    return Volume.open(path, Options(clock=ManualClock(NOW_NS)))


def record(volume: Volume, ino: int) -> bytes:
    """An inode as it is on the device, without its map words, generation and checksum."""
    offset = inode_offset(volume.geometry.first_inode_extent, ino)
    fields = INODE.unpack(volume.device.view, offset)
    if fields["map_kind"] != 2:
        fields["map"] = ()
    return INODE.pack(**fields | {"generation": 0, "checksum": 0, "xattr": 0})


def page(volume: Volume, pfn: int) -> bytes:
    start = pfn_to_offset(pfn & PFN_MASK)
    return bytes(volume.device.view[start : start + PAGE_BYTES])


def test_what_is_made_in_it(volume: Volume) -> None:
    """One of each kind of inode and metadata page."""
    file = volume.create(ROOT_INO, b"file", 0o100644, 1, 2)
    volume.write(file.ino, 5, b"content")
    volume.setxattr(file.ino, b"user.colour", b"blue")
    link = volume.symlink(ROOT_INO, b"link", b"file", 3, 4)
    far = volume.symlink(ROOT_INO, b"far", b"x" * 137)
    node = volume.create(ROOT_INO, b"null", 0o020666, rdev=0x103)
    tree = volume.create(ROOT_INO, b"tree", 0o100600)
    for number in range(20):
        volume.write(tree.ino, number << 13, b"t")
    volume.write(tree.ino, 1 << 40, b"far")
    many = volume.mkdir(ROOT_INO, b"dir", 0o2755)
    for number in range(20):
        volume.create(many.ino, b"%03d" % number * 80, 0o100600)

    leaf = volume.inode(ROOT_INO).words[0]
    trie = volume.inode(many.ino).words[0]
    assert not leaf & NODE
    assert trie & NODE
    owners = page(volume, volume.inode(file.ino).runs[0][2] & ~511)
    found = {
        "inode of a file": digest(record(volume, file.ino)),
        "inode of a link": digest(record(volume, link.ino)),
        "inode of a node": digest(record(volume, node.ino)),
        "inode of a directory": digest(record(volume, many.ino)),
        "inode of a tree": digest(record(volume, tree.ino)),
        "leaf": digest(page(volume, leaf)),
        "attributes": digest(page(volume, volume.inode(file.ino).xattr)),
        "target": digest(page(volume, volume.inode(far.ino).words[0])),
        "owner page": digest(owners),
    }
    volume.close()
    assert found == MADE


def test_the_head_of_a_small_extent(volume: Volume) -> None:
    file = volume.create(ROOT_INO, b"file", 0o100644)
    volume.write(file.ino, 0, b"1234" * 2048)
    extent = volume.inode(file.ino).runs[0][2] >> 9
    offset = volume.geometry.head_offset(extent)
    durable = bytes(volume.device.view[offset : offset + 32])
    volume.close()
    assert HEAD.unpack(durable + bytes(32))["kind"] == Kind.SMALL
    assert durable.hex() == SMALL_HEAD


def test_a_file_of_runs_is_read_back_from_its_record(volume: Volume) -> None:
    """A list of runs: hole of 3, run of 2; decoded here by the letter of FORMAT.md."""
    file = volume.create(ROOT_INO, b"file", 0o100644)
    volume.write(file.ino, 3 * PAGE_BYTES, b"x" * 2 * PAGE_BYTES)
    pfn = volume.inode(file.ino).runs[0][2]
    offset = volume.inode(file.ino).offset
    words = INODE.unpack(bytes(volume.device.view[offset : offset + INODE_BYTES]))["map"]
    volume.close()
    assert words == (1 << 41 | 3, 2 << 48 | pfn, *[0] * 15)


def test_a_fresh_image_with_lost_and_found(
    image_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fresh(image_dir / "golden.img", monkeypatch, lost_found=True)
    data = path.read_bytes()
    places = {
        "superblock": 0,
        "control": CONTROL_OFFSET,
        "heads": HEAD_TABLE_OFFSET,
        "inodes": extent_to_offset(2),
        "owner page": extent_to_offset(4),
        "leaf": extent_to_offset(4) + PAGE_BYTES,
    }
    pages = {name: data[at : at + PAGE_BYTES] for name, at in places.items()}
    assert {name: digest(page) for name, page in pages.items()} == FRESH | WITH_LOST_AND_FOUND
    with Volume.open(path) as volume:
        found = volume.lookup(ROOT_INO, b"lost+found")
        assert (found.ino, found.mode, found.nlink) == (2, stat.S_IFDIR | 0o700, 2)
        volume.rmdir(ROOT_INO, b"lost+found")
        assert not volume.inode(ROOT_INO).entries


def test_the_image_opens_and_is_clean(path: Path) -> None:
    with Volume.open(path) as volume:
        assert volume.was_clean
        assert volume.geometry.fixed_extents == 4
    image = Image.open(path, lock="shared")
    assert image.superblock["label"].rstrip(b"\0") == b"golden"
    assert image.superblock["created_ns"] == NOW_NS
    image.close()


FRESH = {
    "superblock": "6dc53bd0e34583e5",
    "control": "dfd5eb86f1956603",
    "heads": "3985ff6290fc0382",
    "inodes": "d930cd8cf8399460",
}
WITH_LOST_AND_FOUND = {
    "heads": "aa46c2dbf9b6fb87",
    "inodes": "739a2d3090166bab",
    "owner page": "c0ebc46a609d953d",
    "leaf": "5741569d96544d84",
}
MADE = {
    "inode of a file": "ef50583873702ca9",
    "inode of a link": "41c8a4c378f3bc9e",
    "inode of a node": "dbf4cdd24d22b290",
    "inode of a directory": "8fb15cf59fab8b70",
    "inode of a tree": "125b5214196e14a9",
    "leaf": "9d0653d4c832c3dc",
    "attributes": "59734585bbc23c26",
    "target": "92e555175b8cd158",
    "owner page": "861f7a243e537ab3",
}
SMALL_HEAD = "03000200000000000000000000000000000000000000000000000000a13be497"
