"""Every view of images with random damage: a result or a `PmemfsError`, soon, and no trace."""

import os
import random
from contextlib import suppress
from functools import partial

import pytest
from hand_built import HandBuilt, daemon

from pmemfs.errors import PmemfsError
from pmemfs.inspect import (
    Reader,
    collect,
    device_map,
    extent,
    extents,
    file,
    free,
    journal,
    page,
    superblock,
    usage,
    wear,
)
from pmemfs.inspect.activity import activity
from pmemfs.layout.records import EntryKind, Kind, MapKind, PageFlag, Role
from pmemfs.layout.words import NODE, owner_word

META = 4 * 512
TABLE_PFN = 3 * 512 + 8

VIEWS = [
    usage,
    superblock,
    extents,
    partial(extents, all_rows=True, sort="access"),
    free,
    journal,
    device_map,
    partial(device_map, most_cells=3),
    wear,
    partial(activity, now_s=60),
    *(partial(extent, number=number) for number in range(8)),
    *(partial(page, pfn=pfn) for pfn in (1, 513, 1025, TABLE_PFN, META + 2, 2561, 2562, 3100)),
    *(partial(file, path=path) for path in (b"/", b"/f", b"/d", b"/d/x", b"/l", b"<2>", b"<5>")),
]
PLACES = [
    4096,
    65536,
    2 << 20,
    (4 << 20) + 256,
    META * 4096,
    (META + 1) * 4096,
    (META + 2) * 4096,
    (META + 3) * 4096,
    (META + 4) * 4096,
    5 << 21,
    TABLE_PFN * 4096,
]


@pytest.fixture
def rich_image(built):
    built.root({b"f": 2, b"d": 3, b"l": 4})
    for slot, (ino, role) in enumerate(
        [(2, Role.MAP), (3, Role.DIRECTORY_NODE), (3, Role.DIRECTORY_LEAF), (4, Role.SYMLINK)], 2
    ):
        built.own_metadata(META + slot, ino, role)
    built.small(
        5, {1: (2, 0), 2: (2, 1)}, generation=7, table=TABLE_PFN << 8 | PageFlag.SPLIT, access_s=60
    )
    built.descriptor(TABLE_PFN, 1, owner=owner_word(2, 0))
    built.head(6, Kind.WHOLE, owner=2, index=1)
    built.words(META + 2, {0: 5 * 512 + 1, 1: 5 * 512 + 2})
    built.words(META + 3, dict.fromkeys(range(512), META + 4))
    built.leaf(META + 4, 3, {b"x": 5})
    built.inode(2, 0o100644, map=[META + 2], map_kind=MapKind.TREE, map_height=1, pages=2, size=1)
    built.directory(3, META + 3 | NODE, 1)
    built.inode(4, 0o120777, map=[META + 5], size=400)
    built.inode(5, 0o100644)
    built.transaction(2, [(2 << 20, 8, EntryKind.STORE, b"12345678")])
    return built


def damage(image, dice):
    place = dice.choice(PLACES) + dice.choice((0, dice.randrange(0, 1024))) // 8 * 8
    value = dice.choice((0, 1, 0xFF, dice.getrandbits(64), (1 << 64) - 1, dice.getrandbits(41)))
    size = dice.choice((1, 4, 8))
    image.store(place, (value & (1 << 8 * size) - 1).to_bytes(size, "little") * dice.choice((1, 9)))


def take_all(path):
    taken = 0
    with Reader(path) as reader:
        for view in VIEWS:
            with suppress(PmemfsError):
                collect(reader, view, sleep=lambda _: None)
                taken += 1
    return taken


def take_all_without_a_trace(path):
    before = os.stat(path)
    take_all(path)
    after = os.stat(path)
    assert (before.st_blocks, before.st_mtime_ns) == (after.st_blocks, after.st_mtime_ns)


def test_the_undamaged_image_has_no_remarks(rich_image):
    with daemon(rich_image.path), Reader(rich_image.path) as reader:
        for view in VIEWS:
            assert collect(reader, view)["remarks"] == []


@pytest.mark.parametrize("seed", range(40))
def test_random_damage(rich_image, seed):
    dice = random.Random(seed)
    for _ in range(dice.choice((1, 3, 40))):
        damage(rich_image, dice)
    take_all_without_a_trace(rich_image.path)
    with daemon(rich_image.path):
        take_all_without_a_trace(rich_image.path)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a tmpfs")
def test_no_view_fills_a_hole_of_a_tmpfs():
    path = f"/dev/shm/pmemfs-inspect-{os.getpid()}.img"
    image = HandBuilt(path)
    try:
        image.root({b"f": 2})
        image.head(6, Kind.SMALL, used=5)
        image.head(7, Kind.METADATA, used=5)
        image.inode(2, 0o100644, map=[7 * 512 + 1], map_kind=MapKind.TREE, map_height=1)
        before = os.stat(path).st_blocks
        assert take_all(path)
        assert os.stat(path).st_blocks == before
    finally:
        image.close()
        os.unlink(path)
