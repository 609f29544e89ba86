"""``lost+found``: made when it is missing, passed by when it is none, filled by the thousand."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from fsck_tree import tree_of

from pmemfs.fs import Volume
from pmemfs.fsck import everything, only_safe, repair
from pmemfs.layout.geometry import PAGE_BYTES, ROOT_INO, extent_to_offset
from pmemfs.layout.records import INODE, seal

FILE = stat.S_IFREG | 0o640
FOUND = b"lost+found"


@pytest.fixture
def path(image_dir: Path) -> Path:
    path = image_dir / "disk.img"
    Volume.format(path, 64 << 20, lost_found=True)
    return path


def lose_names(path: Path, n: int) -> list[int]:
    """Make files in a directory, and zero its leaves and its map; return their numbers."""
    with Volume.open(path) as volume:
        home = volume.mkdir(ROOT_INO, b"home", 0o755)
        files = [volume.create(home.ino, b"file %d" % i, FILE).ino for i in range(n)]
        ino, offset = home.ino, home.offset
        behind_fixed = extent_to_offset(volume.geometry.fixed_extents)
    image = bytearray(path.read_bytes())
    fields = INODE.unpack(image, offset) | {"entries": 0, "map": (0,) * 17}
    image[offset : offset + INODE.size_bytes] = seal(INODE, **fields)
    for page in range(behind_fixed, len(image), PAGE_BYTES):
        if image[page : page + 4] == ino.to_bytes(4, "little"):
            image[page : page + PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(image)
    return files


def mend(path: Path) -> dict[bytes, int]:
    """Mend without any loss; return the modes of what is there, by path."""
    plan = repair(path, decide=only_safe)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    assert repair(path, decide=everything).is_empty
    return {name: shown["mode"] for name, shown in tree_of(path).items()}


def test_a_name_tells_the_number_of_the_inode(path: Path) -> None:
    files = lose_names(path, 5)
    modes = mend(path)
    assert modes.pop(b"/home") == stat.S_IFDIR | 0o755
    assert modes.pop(b"/lost+found") == stat.S_IFDIR | 0o700
    assert modes == {b"/lost+found/#%d" % ino: FILE for ino in files}


def test_it_is_made_when_it_is_missing(path: Path) -> None:
    with Volume.open(path) as volume:
        volume.rmdir(ROOT_INO, FOUND)
    files = lose_names(path, 2)
    modes = mend(path)
    assert modes[b"/lost+found"] == stat.S_IFDIR | 0o700
    assert {name for name in modes if b"#" in name} == {b"/lost+found/#%d" % i for i in files}
    with Volume.open(path) as volume:
        made = volume.lookup(ROOT_INO, FOUND)
        assert (made.uid, made.gid) == (0, 0)


def test_a_file_of_that_name_is_left_alone(path: Path) -> None:
    with Volume.open(path) as volume:
        volume.rmdir(ROOT_INO, FOUND)
        ino = volume.create(ROOT_INO, FOUND, FILE).ino
        volume.write(ino, 0, b"mine")
    files = lose_names(path, 2)
    modes = mend(path)
    assert tree_of(path)[b"/lost+found"]["data"] == b"mine"
    assert {name for name in modes if b"#" in name} == {b"/lost+found~1/#%d" % i for i in files}


def test_names_that_are_taken_get_a_number(path: Path) -> None:
    files = lose_names(path, 2)
    with Volume.open(path) as volume:
        home = volume.lookup(ROOT_INO, FOUND).ino
        volume.create(home, b"#%d" % files[0], FILE | 0o007)
    modes = mend(path)
    assert modes[b"/lost+found/#%d" % files[0]] == FILE | 0o007
    assert modes[b"/lost+found/#%d~1" % files[0]] == FILE


def test_thousands_at_once(path: Path) -> None:
    """More than a leaf holds, and more than one transaction; and all can be removed again."""
    files = lose_names(path, 5000)
    modes = mend(path)
    assert {name for name in modes if b"#" in name} == {b"/lost+found/#%d" % i for i in files}
    with Volume.open(path) as volume:
        home = volume.lookup(ROOT_INO, FOUND).ino
        for ino in files:
            volume.unlink(home, b"#%d" % ino)
        volume.rmdir(ROOT_INO, FOUND)
    assert repair(path, decide=everything).is_empty
