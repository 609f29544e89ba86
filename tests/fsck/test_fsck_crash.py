"""A repair that is killed at any store: the next run mends the rest, and nothing is lost by it."""

from __future__ import annotations

import random
from pathlib import Path

import fsck_image as fi
import pytest
from fsck_crash import record_damage, record_repair
from fsck_image import HandImage, leaf_page, run
from fsck_tree import make
from test_fsck_damage import DAMAGES, Damage

from pmemfs.device.crash import CrashStates
from pmemfs.image import Image, host_boot_id
from pmemfs.journal.recovery import recover
from pmemfs.layout.geometry import PAGE_BYTES, ROOT_INO, inode_offset, pfn_to_offset
from pmemfs.layout.records import MapKind


def names_gone(image: HandImage) -> None:
    """The root is empty, and there is no lost+found: all must be found and named."""
    image.patch_inode(ROOT_INO, map=(), entries=0, nlink=2)
    image.set_page(fi.ROOT_LEAF, leaf_page(ROOT_INO, []))


def inodes_gone(image: HandImage) -> None:
    """A file and three directories are zeros, and a freed inode has a wrong checksum."""
    for ino in (fi.FILE, fi.DIR, fi.WIDE, ROOT_INO, fi.FREED_A):
        image.poke(inode_offset(fi.INODES, ino), bytes(256))


def heads_gone(image: HandImage) -> None:
    for extent in (fi.SMALL, fi.METADATA, fi.WHOLE_A, fi.WHOLE_B):
        image.poke(image.geometry.head_offset(extent), bytes(64))


def owners_gone(image: HandImage) -> None:
    for extent in (fi.SMALL, fi.METADATA):
        image.poke(extent * fi.EXTENT_BYTES, bytes(PAGE_BYTES))


def maps_broken(image: HandImage) -> None:
    """Maps that only owner words can restore, and a page with two owners."""
    image.patch_inode(fi.FILE, map=[1 << 47])
    image.set_page(fi.TREE_NODE, bytes(PAGE_BYTES))
    whole = run(fi.extent_to_pfn(fi.WHOLE_A), 512, fi.WHOLE)
    image.patch_inode(fi.BIG, map=[run(fi.ORPHAN_PFN, 1), fi.HOLE | 511, whole], pages=513)
    image.patch_inode(fi.LONG_LINK, map_kind=MapKind.DIRECTORY)


def words_of_mount(image: HandImage) -> None:
    """One superblock copy lost, reserved bytes set, a transaction left, a chain cut."""
    image.poke(image.geometry.backup_superblock_offset, bytes(512))
    data = image.peek(inode_offset(fi.INODES, fi.FILE), 256)
    image.set_transaction(6, [(inode_offset(fi.INODES, fi.FILE), data)])
    image.poke(inode_offset(fi.INODES, fi.FILE), bytes(200))
    image.patch_control(reserved3=b"\x01", orphan_first=0)
    image.patch_inode(fi.FREED_B, next=0)
    image.poke(fi.extent_to_pfn(20) * PAGE_BYTES, b"left by a crash")


CASES: list[tuple[Damage, set[bytes]]] = [
    (names_gone, set()),
    (inodes_gone, set()),
    (heads_gone, set()),
    (owners_gone, set()),
    (maps_broken, {b"/big"}),
    (words_of_mount, set()),
]


@pytest.mark.parametrize(("damage", "cost"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_killed_repair_is_repaired(image_dir: Path, damage: Damage, cost: set[bytes]) -> None:
    mended = record_damage(image_dir / "disk.img", damage, cost)
    n = 0
    for state in mended.states(1):
        mended.validate(state, 1)
        n += 1
    assert n > 20


def crash_repair(path: Path, damage: Damage, most: int | None = None) -> None:
    """Repair a damage, crash that everywhere, or at ``most`` places, and repair it again."""
    mended = record_damage(path, damage)
    states = list({state.digest(): state for state in mended.states(4)}.values())
    if most is not None:
        states = random.Random(damage.__name__).sample(states, min(most, len(states)))
    for state in states:
        mended.validate(state, 4)


every_damage = pytest.mark.parametrize("damage", [damage for _, damage in DAMAGES])


@every_damage
def test_the_repair_of_any_damage_may_be_killed(image_dir: Path, damage: Damage) -> None:
    crash_repair(image_dir / "disk.img", damage, most=2)


@pytest.mark.slow
@every_damage
def test_the_repair_of_any_damage_may_be_killed_anywhere(image_dir: Path, damage: Damage) -> None:
    crash_repair(image_dir / "disk.img", damage)


def test_an_interrupted_repair_is_checked_before_a_mount(image_dir: Path) -> None:
    """Its boot id is that of no host, so that a mount does not take it for its own crash."""
    image = make(image_dir / "disk.img")
    maps_broken(image)
    image.patch_control(state=1, boot_id=host_boot_id())
    base, events = record_repair(image)
    image.close()
    for state in CrashStates(base, events, exhaustive_limit=1, samples=0, lines_limit=0):
        changed = state.image.pages != base.pages
        fd = state.image.materialise()
        opened = Image(fd, "crashed", private=True)
        control = opened.control()
        assert opened.is_clean or not changed or control["boot_id"] != host_boot_id(), state.id
        opened.close()


def test_the_engine_replays_what_fsck_has_logged(image_dir: Path) -> None:
    """Its transactions are those of FORMAT.md, so a mount after a kill recovers them as its own."""
    image = make(image_dir / "disk.img")
    owners_gone(image)
    base, events = record_repair(image)
    image.close()
    replayed = 0
    for state in CrashStates(base, events, exhaustive_limit=4, samples=1, lines_limit=1):
        fd = state.image.materialise()
        opened = Image(fd, "crashed")
        replayed += recover(opened.device) is not None
        assert recover(opened.device) is None, state.id
        opened.close()
    assert replayed > 5


def test_all_space_is_backed_before_the_first_store(image_dir: Path) -> None:
    image = make(image_dir / "disk.img")
    inodes_gone(image)
    _, events = record_repair(image)
    image.close()
    kinds = [event.kind for event in events]
    assert "back" not in kinds[kinds.index("store") :]


def test_fresh_pages_are_stored_to_free_pages_only(image_dir: Path) -> None:
    """Nothing that the damaged image refers to is overwritten outside a transaction."""
    image = make(image_dir / "disk.img")
    names_gone(image)
    _, events = record_repair(image)
    stores = [event.offset for event in events if event.kind == "store"]
    image.close()
    for pfn in (fi.DIR_LEAF, fi.WIDE_LOW, fi.WIDE_HIGH, fi.WIDE_NODE, fi.LINK_PAGE, fi.XATTR):
        assert pfn_to_offset(pfn) not in stores
