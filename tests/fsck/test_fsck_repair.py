"""Every damage is mended: the second run is clean, the image mounts, what was intact is there."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsck_image as fi
import pytest
from fsck_image import HandImage
from fsck_tree import Tree, make, tree_of
from test_fsck_damage import (
    DAMAGES,
    Damage,
    default_list_without_others,
    map_node_that_has_lost_its_words,
)

from pmemfs.device.crash import SparseImage
from pmemfs.errors import ImageBusyError
from pmemfs.fs import Volume
from pmemfs.fsck import Risk, everything, only_safe, repair
from pmemfs.fsck.heads import ExtentTable, check_heads
from pmemfs.fsck.journal import read_transaction
from pmemfs.fsck.passes import Checker
from pmemfs.fsck.superblock import check_superblock
from pmemfs.image import Image
from pmemfs.layout.geometry import CONTROL_OFFSET, EXTENT_BYTES, HEAD_DURABLE_BYTES, PAGE_BYTES
from pmemfs.layout.records import (
    CONTROL,
    INODE,
    JOURNAL_HEADER,
    SUPERBLOCK,
    XATTR_PAGE,
    MountState,
    seal,
)

# What a damage takes with it, by path. All else is there afterwards, byte for byte.
FILE, BIG, TREE = {b"/file", b"/again"}, {b"/big"}, {b"/tree"}
COSTS: dict[str, set[bytes]] = {
    "file_too_large": FILE,  # its size is that of its pages, since nobody knows a better one
    "run_behind_the_device": FILE,
    "run_in_a_free_extent": FILE,
    "pages_behind_the_end": FILE,
    "whole_run_behind_the_device": BIG,
    "two_inodes_map_one_page": BIG,
    "whole_extent_mapped_twice": BIG,
    "whole_extent_behind_the_end": BIG,
    "shared_map_node": TREE,
    "map_node_that_has_lost_its_words": TREE,
    "long_target_with_a_nul": {b"/long"},
    "empty_leaf_with_a_prefix_too_long": {b"/wide/name0"},  # the damage takes it away
    "attribute_changed": FILE,
    "attribute_of_no_system_name": FILE,
    "attributes_of_another": FILE,
    "attributes_miscounted": FILE,
    "attributes_larger_than_a_page": FILE,
    "attribute_of_no_namespace": FILE,
    "attribute_twice": FILE,
    "leaf_names_overlap": {b"/dir/inner"},
    "name_with_a_slash": {b"/dir/inner"},
    "name_dot_dot": {b"/dir/inner"},
    "name_of_no_inode": {b"/dir/inner"},
    "directory_with_two_names": {b"/dir/inner"},
    "name_for_the_root": {b"/dir/inner"},
    "empty_directory_with_a_leaf": {b"/dir/inner"},
    "node_with_words_that_lead_nowhere": {b"/wide/name0"},
    "name_in_the_wrong_leaf": {b"/wide/name2"},
    "directory_word_malformed": {b"/wide/name0"},
    "directory_node_in_a_cycle": {b"/wide/name0"},
}
NOTHING_LEFT = {"root_is_a_file"}  # that damage clears the whole image


@pytest.fixture
def filled(image_dir: Path) -> Iterator[HandImage]:
    image = make(image_dir / "disk.img")
    yield image
    image.close()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """What the image shows before it is damaged."""
    image = make(tmp_path_factory.mktemp("whole") / "disk.img")
    image.close()
    return tree_of(image.path)


def content(image: HandImage) -> dict[int, bytes]:
    """Return all pages that are not zero."""
    with image.path.open("rb") as file:
        pages = SparseImage.load(file.fileno(), image.geometry.device_bytes).pages
    return {number: page for number, page in pages.items() if page.strip(b"\0")}


def every_damage(function: Any) -> Any:
    ids = [f"{check}-{damage.__name__}" for check, damage in DAMAGES]
    return pytest.mark.parametrize(("check", "damage"), DAMAGES, ids=ids)(function)


@every_damage
def test_damage_is_mended(filled: HandImage, before: Tree, check: str, damage: Damage) -> None:
    damage(filled)
    plan = repair(filled.path, decide=everything)
    assert plan.is_made
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    assert check in plan.found.counts
    again = repair(filled.path, decide=everything)
    assert not again.is_made
    assert again.is_empty, [str(finding) for finding in again.found.findings]
    after = tree_of(filled.path)
    cost = set(before) if damage.__name__ in NOTHING_LEFT else COSTS.get(damage.__name__, set())
    changed = {path for path in before if after.get(path) != before[path]}
    assert changed == cost
    assert filled.check().is_clean


@every_damage
def test_safe_repairs_come_first(filled: HandImage, check: str, damage: Damage) -> None:
    """What -p leaves is for -y: together they mend as much as -y alone."""
    damage(filled)
    plan = repair(filled.path, decide=only_safe)
    assert all(made.risk == Risk.SAFE for made in plan.repairs)
    assert plan.is_complete or plan.declined
    assert filled.check().is_clean == plan.is_complete
    if not plan.is_complete:
        state = CONTROL.unpack(filled.peek(CONTROL_OFFSET, CONTROL.size_bytes))["state"]
        assert state == MountState.MOUNTED or not plan.is_made
        rest = repair(filled.path, decide=everything)
        assert rest.is_complete
        assert filled.check().is_clean


@every_damage
def test_nothing_is_written_unless_confirmed(filled: HandImage, check: str, damage: Damage) -> None:
    damage(filled)
    before = content(filled)
    plan = repair(filled.path, decide=everything, confirm=lambda plan: False)
    assert not plan.is_made
    assert content(filled) == before


def test_a_clean_image_is_not_written(image: HandImage) -> None:
    before = content(image)
    plan = repair(image.path, decide=everything)
    assert plan.is_empty
    assert not plan.repairs
    assert content(image) == before


def test_an_image_in_use_is_refused(image: HandImage) -> None:
    held = Image.open(image.path, lock="shared")
    try:
        with pytest.raises(ImageBusyError):
            repair(image.path, decide=everything)
    finally:
        held.close()


def test_the_lock_is_given_back(image: HandImage) -> None:
    image.patch_inode(fi.FILE, pages=9)
    repair(image.path, decide=everything)
    Image.open(image.path, lock="exclusive").close()


# -- what is put where ---------------------------------------------------------------------------


def test_a_nameless_file_is_put_into_lost_and_found(filled: HandImage) -> None:
    filled.set_page(fi.DIR_LEAF, fi.leaf_page(fi.DIR, []))
    filled.patch_inode(fi.DIR, entries=0, map=())
    filled.patch_head(fi.METADATA, used=7)
    filled.set_owner(fi.DIR_LEAF, 0)
    filled.patch_inode(fi.FIFO, nlink=3)
    entries = [("tree", fi.TREE, stat.S_IFREG)]
    page = fi.leaf_page(fi.ROOT, [(name.encode(), ino, mode) for name, ino, mode in entries])
    filled.set_page(fi.ROOT_LEAF, page)
    filled.patch_inode(fi.ROOT, entries=1, nlink=2)
    plan = repair(filled.path, decide=only_safe)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    tree = tree_of(filled.path)
    assert tree[b"/lost+found"]["mode"] == stat.S_IFDIR | 0o700
    names = {path.rpartition(b"/")[2] for path in tree if path.startswith(b"/lost+found/")}
    assert {b"#2", b"#3", b"#4", b"#5", b"#6", b"#12"} <= names
    assert tree[b"/lost+found/#2"]["data"].startswith(b"page 0 ")
    assert tree[b"/lost+found/#2"]["xattrs"] == {b"user.colour": b"red", b"user.empty": b""}
    assert b"/lost+found/#12/name0" in tree


def test_a_zeroed_inode_comes_back_from_its_owner_words(filled: HandImage, before: Tree) -> None:
    filled.poke(fi.inode_offset(fi.INODES, fi.FILE), bytes(256))
    plan = repair(filled.path, decide=everything)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    file = tree_of(filled.path)[b"/file"]
    assert file["mode"] == stat.S_IFREG | 0o600
    assert file["data"][:20000] == before[b"/file"]["data"]


def test_zeroed_inodes_of_directories_come_back_from_their_leaves(
    filled: HandImage, before: Tree
) -> None:
    for ino in (fi.ROOT, fi.DIR, fi.WIDE):
        filled.poke(fi.inode_offset(fi.INODES, ino), bytes(256))
    plan = repair(filled.path, decide=everything)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    after = tree_of(filled.path)
    assert {path for path in after if not path.startswith(b"/lost+found")} == set(before)


@pytest.mark.parametrize("extent", [fi.SMALL, fi.METADATA, fi.WHOLE_A, fi.WHOLE_B, fi.INODES])
@pytest.mark.parametrize("length", [32, 64])
def test_a_zeroed_head_comes_back(
    filled: HandImage, before: Tree, extent: int, length: int
) -> None:
    filled.poke(filled.geometry.head_offset(extent), bytes(length))
    plan = repair(filled.path, decide=everything)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    assert tree_of(filled.path) == before


def test_a_chunk_of_inodes_comes_back_whose_head_is_zeros(filled: HandImage) -> None:
    """The inodes are there, and pages name them, but nothing says where they are."""
    ino, extent = fi.CHUNK_1 + 7, 12
    values = {"mode": stat.S_IFREG | 0o640, "nlink": 1, "size": 5, "pages": 1, "generation": 1}
    record = seal(INODE, **values, map=[fi.run(fi.FREE_SMALL_PFN, 1)])
    filled.poke(fi.inode_offset(extent, ino), record)
    filled.own(fi.FREE_SMALL_PFN, fi.owner_word(ino, 0))
    filled.set_page(fi.FREE_SMALL_PFN, b"there")
    filled.set_page(fi.DIR_LEAF, fi.leaf_page(fi.DIR, [(b"inner", ino, stat.S_IFREG)]))
    filled.patch_inode(fi.FIFO, nlink=3)
    plan = repair(filled.path, decide=only_safe)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    file = tree_of(filled.path)[b"/dir/inner"]
    assert (file["mode"], file["data"]) == (values["mode"], b"there")


@pytest.mark.parametrize("extent", [fi.SMALL, fi.METADATA])
def test_a_zeroed_owner_page_comes_back(filled: HandImage, before: Tree, extent: int) -> None:
    filled.poke(extent * EXTENT_BYTES, bytes(PAGE_BYTES))
    plan = repair(filled.path, decide=everything)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    assert tree_of(filled.path) == before


def test_a_zeroed_node_page_is_rebuilt_from_owner_words(filled: HandImage, before: Tree) -> None:
    filled.set_page(fi.TREE_NODE, bytes(PAGE_BYTES))
    plan = repair(filled.path, decide=only_safe)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    assert tree_of(filled.path) == before


def test_pages_that_an_empty_node_has_lost_are_not_lost_silently(filled: HandImage) -> None:
    """Node and owner words are gone, the inode still counts the pages."""
    filled.set_page(fi.TREE_NODE, bytes(PAGE_BYTES))
    for pfn in (fi.TREE_PFN, fi.TREE_PFN + 1):
        filled.set_owner(pfn, 0)
    plan = repair(filled.path, decide=only_safe)
    assert [str(left) for left in plan.declined] == [
        "map-empty: rebuild the map of inode 8 with 512 pages; 2 that it counts are lost"
    ]
    plan = repair(filled.path, decide=everything)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    validate_tree_file(filled)


def test_a_file_with_an_empty_node_is_of_use_again(filled: HandImage) -> None:
    map_node_that_has_lost_its_words(filled)
    plan = repair(filled.path, decide=everything)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    validate_tree_file(filled)


def validate_tree_file(image: HandImage) -> None:
    """Read, write, cut and remove the file whose map is a tree."""
    with Volume.open(image.path) as volume:
        assert b"".join(volume.read(fi.TREE, 0, PAGE_BYTES)) == bytes(PAGE_BYTES)
        volume.write(fi.TREE, 3 * PAGE_BYTES, b"there")
        assert b"".join(volume.read(fi.TREE, 3 * PAGE_BYTES, 5)) == b"there"
        volume.setattr(fi.TREE, size=EXTENT_BYTES + 1)
        volume.setattr(fi.TREE, size=0)
        volume.unlink(fi.ROOT, b"tree")
        assert not volume.is_read_only
    assert image.check().is_clean


def test_a_broken_map_is_rebuilt_from_owner_words(filled: HandImage, before: Tree) -> None:
    filled.patch_inode(fi.FILE, map=[1 << 63])
    plan = repair(filled.path, decide=only_safe)
    assert plan.is_complete, [str(finding) for finding in plan.left.findings]
    assert tree_of(filled.path) == before


def test_pages_behind_a_size_that_is_in_doubt_are_kept(filled: HandImage, before: Tree) -> None:
    """The checksum says that something of the inode has changed; it may have been the size."""
    at = fi.inode_offset(fi.INODES, fi.FILE) + INODE.offset_of["size"]
    filled.poke(at, (100).to_bytes(8, "little"))
    assert repair(filled.path, decide=everything).is_complete
    file = tree_of(filled.path)[b"/file"]
    assert file["data"][:20000] == before[b"/file"]["data"]


def test_a_page_goes_to_the_file_that_its_owner_word_names(filled: HandImage, before: Tree) -> None:
    """Though only the map of the other has it: that of its owner is broken."""
    filled.patch_inode(fi.TREE, map_kind=fi.MapKind.RUNS, map_height=0, map=[1 << 47])
    whole = fi.run(fi.extent_to_pfn(fi.WHOLE_A), 512, fi.WHOLE)
    words = [fi.run(fi.TREE_PFN, 1), fi.HOLE | 511, whole]
    filled.patch_inode(fi.BIG, map=words, pages=513)
    assert repair(filled.path, decide=everything).is_complete
    after = tree_of(filled.path)
    assert after[b"/tree"] == before[b"/tree"]
    assert after[b"/big"]["data"][:PAGE_BYTES].startswith(b"page 3 ")  # a copy


def test_an_access_list_that_cannot_be_is_dropped_and_told(filled: HandImage) -> None:
    """It was in the way of whoever made a file below."""
    default_list_without_others(filled)
    plan = repair(filled.path, decide=only_safe)
    assert [str(left) for left in plan.declined] == [
        "xattr-acl: keep the 0 attributes of inode 6 that can be read; drop "
        "'system.posix_acl_default', an access control list that does not name all others once"
    ]
    assert repair(filled.path, decide=everything).is_complete
    with Volume.open(filled.path) as volume:
        volume.mkdir(fi.DIR, b"below", 0o755)
    assert filled.check().is_clean


# -- checksums -----------------------------------------------------------------------------------


def summed(image: HandImage) -> Iterator[tuple[str, int, int]]:
    """Iterate ``(check, offset, bytes)`` of all records that carry a checksum."""
    backup = image.geometry.backup_superblock_offset
    yield from (("superblock-copy", at, SUPERBLOCK.size_bytes) for at in (0, backup))
    for extent in range(fi.STALE + 1):
        yield "head-checksum", image.geometry.head_offset(extent), HEAD_DURABLE_BYTES
    for ino in range(fi.ROOT, fi.FRONTIER):
        yield "inode-checksum", fi.inode_offset(fi.INODES, ino), INODE.size_bytes
    slot = fi.journal_slot_offset(6)
    yield "journal-header", slot, JOURNAL_HEADER.size_bytes
    yield "journal-payload", slot + JOURNAL_HEADER.size_bytes, 24
    page = fi.pfn_to_offset(fi.XATTR)
    used = XATTR_PAGE.unpack(image.peek(page, XATTR_PAGE.size_bytes))["used_bytes"]
    yield "xattr-checksum", page, used


def test_every_bit_that_flips_is_seen(filled: HandImage) -> None:
    """In each word of each record with a checksum, one bit after the other, by turns."""
    filled.set_transaction(6, [(fi.pfn_to_offset(fi.FREE_META_PFN), b"8 bytes.")])
    opened = Image.open(filled.path, lock="shared")
    try:
        for check, start, length in summed(filled):
            for number, at in enumerate(range(start, start + length, 8)):
                byte = filled.peek(at + number % 8, 1)[0]
                filled.poke(at + number % 8, bytes([byte ^ 1 << number % 7]))
                assert _is_seen(opened, check), (check, at)
                filled.poke(at + number % 8, bytes([byte]))
    finally:
        opened.close()
    assert filled.check().is_clean


def _is_seen(image: Image, check: str) -> bool:
    """Tell whether the checks of this kind of record find something."""
    extents = ExtentTable(image.geometry)
    if check == "superblock-copy":
        return any(check_superblock(image))
    if check.startswith("journal"):
        return any(finding.check.startswith("journal") for finding in read_transaction(image))
    if check == "head-checksum":
        return any(check_heads(image, extents, lambda done, total: None))
    report = Checker(image).run()
    return any(name.startswith(("inode-", "xattr-")) for name in report.counts)
