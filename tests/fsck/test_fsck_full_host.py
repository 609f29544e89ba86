"""fsck, the inspector and a read-only mount where the host has no page free: none needs space.

Only a repair may, when it stores to what is a hole: that is one sentence, and nothing has changed.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator

import fsck_image as fi
import pytest
from fsck_image import HandImage, golden
from fsck_tree import tree_of
from small_host import NEEDS_TMPFS, SmallHost, small_host
from test_fsck_crash import inodes_gone, names_gone, owners_gone

from pmemfs.device.crash import SparseImage
from pmemfs.fs import Volume
from pmemfs.layout.geometry import PAGE_BYTES, ROOT_INO, pfn_to_offset
from pmemfs.units import MIB

pytestmark = NEEDS_TMPFS
Damage = Callable[[HandImage], None]


@pytest.fixture
def host() -> Iterator[SmallHost]:
    with small_host(24 * MIB) as host:
        yield host


@pytest.fixture
def image(host: SmallHost) -> Iterator[HandImage]:
    """The golden image, with holes wherever it is zero: 64 MiB on a host of 24."""
    image = golden(host.folder / "disk.img")
    yield image
    image.close()


def pmemfs(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program; its status is negative if a signal ended it."""
    command = [sys.executable, "-m", "pmemfs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def content(image: HandImage) -> dict[int, bytes]:
    with image.path.open("rb") as file:
        pages = SparseImage.load(file.fileno(), image.geometry.device_bytes).pages
    return {number: page for number, page in pages.items() if any(page)}


def nothing(image: HandImage) -> None:
    pass


def transaction_into_a_hole(image: HandImage) -> None:
    image.set_transaction(6, [(pfn_to_offset(fi.FREE_META_PFN), b"8 bytes.")])


def places_that_are_holes(image: HandImage) -> None:
    """A superblock copy, a journal slot, an inode on the orphan list and a map lead to holes."""
    image.poke(image.geometry.backup_superblock_offset, bytes(PAGE_BYTES))
    subprocess.run(["fallocate", "--dig-holes", image.path], check=True)
    image.patch_control(committed=8, state=1)
    image.patch_inode(fi.BIG, xattr=fi.FREE_META_PFN)
    image.patch_inode(fi.ORPHAN, next=4000)
    image.patch_inode(fi.DIR, map=(fi.FREE_META_PFN,))


DAMAGES = [
    (nothing, 0),
    (transaction_into_a_hole, 0),
    (names_gone, 4),
    (inodes_gone, 4),
    (owners_gone, 4),
    (places_that_are_holes, 4),
]


@pytest.mark.parametrize(("damage", "status"), DAMAGES, ids=[d.__name__ for d, _ in DAMAGES])
def test_a_check_needs_no_space(
    host: SmallHost, image: HandImage, damage: Damage, status: int
) -> None:
    damage(image)
    host.fill()
    before = os.stat(image.path).st_blocks
    done = pmemfs("fsck", "-n", image.path)
    assert (done.returncode, done.stderr) == (status, "")
    assert os.stat(image.path).st_blocks == before


@pytest.mark.parametrize("damage", [d for d, _ in DAMAGES[1:]])
def test_a_repair_without_room_changes_nothing(
    host: SmallHost, image: HandImage, damage: Damage
) -> None:
    damage(image)
    before = content(image)
    host.fill()
    done = pmemfs("fsck", "-y", image.path)
    assert (done.returncode, done.stderr) == (
        8,
        f"pmemfs: {image.path} is left as it was: the host file system that it lies on has no room "
        "for what the repair stores; make room there, and run this again\n",
    )
    assert content(image) == before
    host.make_room()
    assert pmemfs("fsck", "-y", image.path).returncode == 1
    assert pmemfs("fsck", "-n", image.path).returncode == 0


def test_room_for_a_part_of_a_repair_is_no_room(host: SmallHost, image: HandImage) -> None:
    inodes_gone(image)
    before, pages = content(image), 1
    host.fill(but_bytes=PAGE_BYTES)
    while (status := pmemfs("fsck", "-y", image.path).returncode) == 8:
        assert content(image) == before
        host.make_room()
        pages += 1
        host.fill(but_bytes=PAGE_BYTES)  # what it has allocated it keeps
    assert status == 1
    assert 2 <= pages <= 8


def test_a_repair_that_needs_no_new_block_works(host: SmallHost) -> None:
    """An image that a mount has used has all that a repair in place stores to."""
    path = host.folder / "used.img"
    Volume.format(path, fi.MIN_DEVICE_BYTES, lost_found=True)
    with Volume.open(path) as volume:
        kept = volume.create(ROOT_INO, b"kept", stat.S_IFREG | 0o644).ino
        volume.write(kept, 0, b"kept" * 5000)
        for number in range(50):
            volume.mkdir(ROOT_INO, b"d%d" % number, 0o755)
    before = tree_of(path)
    image = HandImage(path)
    image.patch_inode(ROOT_INO, nlink=7, entries=3)
    image.patch_inode(kept, nlink=2, pages=1)
    image.patch_head(fi.INODES, used=9)
    host.fill()
    done = pmemfs("fsck", "-y", path)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert pmemfs("fsck", "-n", path).returncode == 0
    assert host.free_bytes == 0
    assert tree_of(path) == before
    image.close()


@pytest.mark.parametrize("damage", [transaction_into_a_hole, places_that_are_holes])
def test_a_read_only_mount_needs_no_space(
    host: SmallHost, image: HandImage, damage: Damage
) -> None:
    damage(image)
    host.fill()
    script = (
        "import sys; from fsck_tree import tree_of; from pmemfs.fs import Options, Volume\n"
        "volume = Volume.open(sys.argv[1], Options(read_only=True))\n"
        "print(volume.readlink(5), sum(map(len, volume.read(2, 0, 1 << 20)))); volume.close()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, image.path]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, f"{fi.LONG_TARGET} 20000\n"), done.stderr


@pytest.mark.parametrize("view", ["usage", "super", "extents", "free", "journal", "map", "wear"])
def test_the_inspector_needs_no_space(host: SmallHost, image: HandImage, view: str) -> None:
    places_that_are_holes(image)
    host.fill()
    before = os.stat(image.path).st_blocks
    done = pmemfs("inspect", view, image.path)
    assert done.returncode == 0, done.stderr
    assert os.stat(image.path).st_blocks == before
