"""Repairs of an image without a free page: they rewrite in place, or leave everything as it is."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

import pytest
from fsck_tree import Tree, tree_of

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fsck import everything, repair
from pmemfs.image import Image
from pmemfs.layout.geometry import (
    HEAD_TABLE_OFFSET,
    MIN_DEVICE_BYTES,
    PAGE_BYTES,
    ROOT_INO,
    extent_to_offset,
    extent_to_pfn,
)
from pmemfs.layout.records import DIRECTORY_LEAF, Kind, Role
from pmemfs.layout.words import owner_index, owner_ino

FILE = stat.S_IFREG | 0o644


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Tree]:
    """The bytes of an image that is full to the last page, and what it shows."""
    path = tmp_path_factory.mktemp("full") / "disk.img"
    Volume.format(path, MIN_DEVICE_BYTES, lost_found=True)
    files: list[int] = []
    with Volume.open(path) as volume:
        for number in range(4):
            directory = volume.mkdir(ROOT_INO, b"dir%d" % number, 0o755).ino
            for name in range(300):
                files.append(volume.create(directory, b"a name of some length %d" % name, FILE).ino)
        sparse = volume.create(ROOT_INO, b"sparse", FILE).ino
        for place in range(40):
            volume.write(sparse, place * 16384, b"%d" % place * 1000)
        _fill(volume, volume.create(ROOT_INO, b"large", FILE).ino, 1 << 20)
        _fill(volume, volume.create(ROOT_INO, b"rest", FILE).ino, PAGE_BYTES)
        with contextlib.suppress(PmemfsError):
            for ino in files:
                volume.setxattr(ino, b"user.x", b"y" * 3000)
    return path.read_bytes(), tree_of(path)


def _fill(volume: Volume, ino: int, step: int) -> None:
    position = 0
    with contextlib.suppress(PmemfsError):
        while True:
            volume.write(ino, position, b"full" * (step // 4))
            position += step


class Full:
    """A copy of the full image that is damaged by hand."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = bytearray(data)

    def pages_of(self, role: Role) -> list[tuple[int, int]]:
        """Return ``(offset, inode)`` of all metadata pages of a role."""
        found = []
        for extent in range(MIN_DEVICE_BYTES // extent_to_offset(1)):
            if self.data[HEAD_TABLE_OFFSET + extent * 64] == Kind.METADATA:
                start = extent_to_offset(extent)
                words = memoryview(self.data[start : start + PAGE_BYTES]).cast("Q")
                for slot, word in enumerate(words):
                    if word and owner_index(word) == role:
                        pfn = extent_to_pfn(extent) + slot
                        found.append((pfn * PAGE_BYTES, owner_ino(word)))
        return found

    def mend(self) -> None:
        self.path.write_bytes(self.data)
        plan = repair(self.path, decide=everything)
        assert plan.is_complete, (plan.blocked, [str(f) for f in plan.left.findings])
        assert repair(self.path, decide=everything).is_empty


@pytest.fixture
def image(image_dir: Path, full: tuple[bytes, Tree]) -> Full:
    return Full(image_dir / "disk.img", full[0])


def test_the_image_is_full(image: Full) -> None:
    image.path.write_bytes(image.data)
    opened = Image.open(image.path, lock="shared")
    kinds = opened.heads["kind"].tolist()
    metadata = [e for e, kind in enumerate(kinds) if kind == Kind.METADATA]
    assert Kind.FREE not in kinds
    assert Kind.RETURNED not in kinds
    assert all(opened.heads["used"][extent] == 511 for extent in metadata)
    opened.close()


def test_leaves_are_mended_in_place(image: Full, full: tuple[bytes, Tree]) -> None:
    for offset, _ in image.pages_of(Role.DIRECTORY_LEAF):
        at = offset + DIRECTORY_LEAF.offset_of["garbage"]
        image.data[at : at + 2] = b"\x07\x07"
    image.mend()
    assert tree_of(image.path) == full[1]


def test_a_map_is_rebuilt_in_its_own_nodes(image: Full, full: tuple[bytes, Tree]) -> None:
    nodes = image.pages_of(Role.MAP)
    assert nodes
    for offset, _ in nodes:
        image.data[offset : offset + 256] = b"\xff" * 256
    image.mend()
    assert tree_of(image.path) == full[1]


def test_a_trie_is_rebuilt_in_its_own_pages(image: Full, full: tuple[bytes, Tree]) -> None:
    offset, _ = image.pages_of(Role.DIRECTORY_NODE)[0]
    image.data[offset : offset + PAGE_BYTES] = bytes(PAGE_BYTES)
    image.mend()
    assert tree_of(image.path) == full[1]


def test_what_has_no_room_is_left_as_it_is(image: Full, full: tuple[bytes, Tree]) -> None:
    """lost+found is empty, so a name in it needs a page; there is none."""
    _, ino = image.pages_of(Role.DIRECTORY_NODE)[0]
    for leaf, owner in image.pages_of(Role.DIRECTORY_LEAF):
        if owner == ROOT_INO:
            slot = image.data.index(ino.to_bytes(4, "little"), leaf + DIRECTORY_LEAF.size_bytes)
            image.data[slot - 8 : slot + 8] = bytes(16)
    image.path.write_bytes(image.data)
    plan = repair(image.path, decide=everything)
    assert not plan.is_complete
    assert "no free page" in plan.blocked[0]
    shown = tree_of(image.path)
    gone = {path for path in full[1] if path not in shown}
    assert {path.split(b"/")[1] for path in gone} <= {b"dir0", b"dir1", b"dir2", b"dir3"}
    assert len({path.split(b"/")[1] for path in gone}) == 1
    with Volume.open(image.path) as volume:
        volume.setattr(volume.lookup(ROOT_INO, b"rest").ino, size=0)
        volume.setattr(volume.lookup(ROOT_INO, b"large").ino, size=0)
    plan = repair(image.path, decide=everything)
    assert plan.is_complete, plan.blocked
    assert b"/lost+found/#%d/a name of some length 7" % ino in tree_of(image.path)
