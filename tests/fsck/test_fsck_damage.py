"""One damaged image for each check: exactly that check finds it, and nothing else does."""

from __future__ import annotations

import ast
import re
import stat
from collections.abc import Callable
from pathlib import Path

import fsck_image as fi
import pytest
from fsck_image import HandImage, leaf_page, run, xattr_page

from pmemfs import fsck
from pmemfs.fsck.mend import MENDERS
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    INODES_PER_EXTENT,
    MAX_FILE_BYTES,
    PAGE_BYTES,
    extent_to_offset,
    extent_to_pfn,
    inode_offset,
    journal_slot_offset,
    pfn_to_offset,
)
from pmemfs.layout.records import (
    HEAD,
    INODE,
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    SUPERBLOCK,
    Kind,
    MapKind,
    Role,
)
from pmemfs.layout.words import COUNT_SHIFT, HOLE, NODE, WHOLE, owner_word

Damage = Callable[[HandImage], None]
DAMAGES: list[tuple[str, Damage]] = []
ALSO_FOUND = {"directory_node_in_a_cycle": "dir-node"}  # by what else the damage breaks


def damages(check: str) -> Callable[[Damage], Damage]:
    """Register a function that causes exactly the findings of one check id."""

    def register(damage: Damage) -> Damage:
        DAMAGES.append((check, damage))
        return damage

    return register


@pytest.mark.usefixtures("image")
def test_golden_is_clean(image: HandImage) -> None:
    report = image.check()
    assert [str(finding) for finding in report.findings] == []
    assert report.is_clean
    counts = (report.files, report.directories, report.symlinks, report.others, report.orphans)
    assert counts == (4, 3, 2, 1, 1)
    assert report.pages_used == 2 * 512 + 6 + 8
    assert report.extents["returned"] == 2
    assert report.extents["descriptor"] == 1


# -- superblock and control ----------------------------------------------------------------------


@damages("control-fields")
def generation_beyond_all_mounts(image: HandImage) -> None:
    image.patch_control(generation=(1 << 64) - 1)


@damages("superblock-copy")
def backup_lost(image: HandImage) -> None:
    image.poke(image.geometry.backup_superblock_offset, bytes(512))


@damages("superblock-copy")
def primary_with_wrong_checksum(image: HandImage) -> None:
    image.poke_field(SUPERBLOCK, 0, "uuid", b"other")


@damages("superblock-copy")
def copies_differ(image: HandImage) -> None:
    image.patch(SUPERBLOCK, 0, sealed=True, uuid=b"v" * 16)


@damages("superblock-fields")
def label_not_utf8(image: HandImage) -> None:
    image.patch_superblocks(label=b"\xff\xfe")


@damages("superblock-fields")
def superblock_reserved(image: HandImage) -> None:
    image.patch_superblocks(reserved=b"\x01")


@damages("control-state")
def unknown_state(image: HandImage) -> None:
    image.patch_control(state=7)


@damages("control-committed")
def clean_with_a_transaction(image: HandImage) -> None:
    image.set_transaction(6, [])
    image.patch_control(state=0)


@damages("control-fields")
def unknown_persist_mode(image: HandImage) -> None:
    image.patch_control(persist=2)


@damages("control-fields")
def control_reserved(image: HandImage) -> None:
    image.patch_control(reserved3=b"\x01")


@damages("control-sequence")
def transaction_that_no_image_reaches(image: HandImage) -> None:
    image.patch_control(committed=(1 << 64) - 5)


# -- journal -------------------------------------------------------------------------------------


@damages("journal-header")
def journal_slot_empty(image: HandImage) -> None:
    image.patch_control(committed=8, state=1)


@damages("journal-header")
def journal_slot_of_another(image: HandImage) -> None:
    image.set_transaction(6, [])
    image.patch_control(committed=8)


@damages("journal-header")
def journal_too_long(image: HandImage) -> None:
    image.set_transaction(6, [], payload_bytes=1 << 40)


@damages("journal-payload")
def journal_torn(image: HandImage) -> None:
    image.set_transaction(6, [(pfn_to_offset(fi.FREE_SMALL_PFN), b"12345678")])
    at = journal_slot_offset(6) + JOURNAL_HEADER.size_bytes + JOURNAL_ENTRY.size_bytes
    image.poke(at, b"x")


@damages("journal-entry")
def journal_counts_more(image: HandImage) -> None:
    image.set_transaction(6, [(pfn_to_offset(fi.FREE_SMALL_PFN), b"12345678")], entries=2)


@damages("journal-entry")
def journal_counts_fewer(image: HandImage) -> None:
    changes: list[tuple[int, bytes | int]] = [(pfn_to_offset(fi.FREE_SMALL_PFN), b"8 bytes.")] * 2
    image.set_transaction(6, changes, entries=1)


@damages("journal-entry")
def journal_zeroes_everything(image: HandImage) -> None:
    image.set_transaction(6, [(extent_to_offset(4), 20 * EXTENT_BYTES)] * 9)


@damages("journal-home")
def journal_outside(image: HandImage) -> None:
    image.set_transaction(6, [(image.geometry.device_bytes - 4, b"12345678")])


@damages("journal-home")
def journal_into_itself(image: HandImage) -> None:
    image.set_transaction(6, [(CONTROL_OFFSET, b"12345678")])


# -- heads ---------------------------------------------------------------------------------------


@damages("head-kind")
def unknown_kind(image: HandImage) -> None:
    image.set_head(12, 99)


@damages("head-checksum")
def head_checksum(image: HandImage) -> None:
    image.poke_field(HEAD, image.geometry.head_offset(fi.SMALL), "checksum", b"oops")


@damages("head-free")
def free_head_with_a_checksum(image: HandImage) -> None:
    image.poke_field(HEAD, image.geometry.head_offset(12), "checksum", b"oops")


@damages("head-fields")
def head_reserved(image: HandImage) -> None:
    image.patch_head(fi.SMALL, reserved1=1)


@damages("head-fields")
def small_extent_with_an_owner(image: HandImage) -> None:
    image.patch_head(fi.SMALL, owner=2)


@damages("head-fixed")
def fixed_extent_is_free(image: HandImage) -> None:
    image.set_head(1, Kind.FREE)


@damages("head-fixed")
def reserve_is_returned(image: HandImage) -> None:
    image.set_head(fi.RESERVE, Kind.RETURNED)


@damages("head-fixed")
def fixed_extent_elsewhere(image: HandImage) -> None:
    image.set_head(12, Kind.FIXED)


@damages("head-generation")
def split_table_of_a_mount_to_come(image: HandImage) -> None:
    offset = image.geometry.head_offset(fi.SMALL)
    image.poke_field(HEAD, offset, "generation", (4).to_bytes(8, "little"))


@damages("head-beyond")
def head_behind_the_device(image: HandImage) -> None:
    image.set_head(image.geometry.n_extents + 3, Kind.RETURNED)


@damages("free-data")
def free_extent_with_data(image: HandImage) -> None:
    image.poke(extent_to_offset(30) + 12345, b"data")


# -- chunks and inodes ---------------------------------------------------------------------------


@damages("chunk-index")
def chunk_twice(image: HandImage) -> None:
    image.set_head(12, Kind.INODES, index=0)


@damages("chunk-index")
def chunk_number_too_large(image: HandImage) -> None:
    image.set_head(12, Kind.INODES, index=1 << 20)


@damages("chunk-frontier")
def inode_behind_the_frontier(image: HandImage) -> None:
    image.poke(inode_offset(fi.INODES, 4000) + 100, b"x")


@damages("chunk-zeros")
def frontier_behind_what_was_used(image: HandImage) -> None:
    image.patch_head(fi.INODES, frontier=INODES_PER_EXTENT)


@damages("chunk-zeros")
def chunk_that_is_a_hole(image: HandImage) -> None:
    image.set_head(12, Kind.INODES, index=1, frontier=INODES_PER_EXTENT)


@damages("chunk-zeros")
def freed_inode_of_zeros(image: HandImage) -> None:
    image.poke(inode_offset(fi.INODES, fi.FREED_A), bytes(256))


@damages("chunk-used")
def inodes_miscounted(image: HandImage) -> None:
    image.patch_head(fi.INODES, used=11)


@damages("chunk-chain")
def chain_incomplete(image: HandImage) -> None:
    image.patch_inode(fi.FREED_B, next=0)


@damages("chunk-chain")
def chain_into_a_used_inode(image: HandImage) -> None:
    image.patch_inode(fi.FREED_A, next=fi.FILE)


@damages("chunk-chain")
def chain_in_a_cycle(image: HandImage) -> None:
    image.patch_inode(fi.FREED_A, next=fi.FREED_B)


@damages("chunk-chain")
def chain_out_of_the_chunk(image: HandImage) -> None:
    image.patch_inode(fi.FREED_A, next=INODES_PER_EXTENT + 1)


@damages("inode-zero")
def inode_zero_set(image: HandImage) -> None:
    image.poke(inode_offset(fi.INODES, 0), b"x")


@damages("inode-checksum")
def inode_checksum(image: HandImage) -> None:
    image.poke_field(INODE, inode_offset(fi.INODES, fi.FILE), "atime_ns", b"x")


@damages("inode-checksum")
def freed_inode_checksum(image: HandImage) -> None:
    image.poke_field(INODE, inode_offset(fi.INODES, fi.FREED_A), "checksum", b"\xff\xff")


@damages("inode-fields")
def freed_inode_with_fields(image: HandImage) -> None:
    image.patch_inode(fi.FREED_B, size=7, generation=1 << 40)


@damages("inode-type")
def unknown_type(image: HandImage) -> None:
    image.patch_inode(fi.FIFO, mode=0o170644)


@damages("inode-map-kind")
def fifo_with_a_tree(image: HandImage) -> None:
    image.patch_inode(fi.FIFO, map_kind=MapKind.TREE)


@damages("inode-map-kind")
def list_of_runs_with_a_height(image: HandImage) -> None:
    image.patch_inode(fi.FILE, map_height=1)


@damages("inode-size")
def file_too_large(image: HandImage) -> None:
    image.patch_inode(fi.FILE, size=MAX_FILE_BYTES + 1)


@damages("inode-size")
def directory_with_a_size(image: HandImage) -> None:
    image.patch_inode(fi.DIR, size=4096)


@damages("inode-fields")
def fifo_with_a_device_number(image: HandImage) -> None:
    image.patch_inode(fi.FIFO, rdev=5)


@damages("inode-fields")
def unknown_inode_flag(image: HandImage) -> None:
    image.patch_inode(fi.FILE, flags=1)


@damages("inode-fields")
def directory_that_is_preallocated(image: HandImage) -> None:
    image.patch_inode(fi.DIR, flags=0x10000)


@damages("inode-fields")
def used_inode_with_next(image: HandImage) -> None:
    image.patch_inode(fi.FILE, next=fi.BIG)


@damages("inode-fields")
def inode_of_a_future_transaction(image: HandImage) -> None:
    image.patch_inode(fi.FILE, generation=6)


@damages("inode-pages")
def symlink_with_pages(image: HandImage) -> None:
    image.patch_inode(fi.LONG_LINK, pages=1)


@damages("inode-pages")
def pages_miscounted(image: HandImage) -> None:
    image.patch_inode(fi.FILE, pages=4)


@damages("inode-pages")
def tree_pages_miscounted(image: HandImage) -> None:
    image.patch_inode(fi.TREE, pages=513)


@damages("orphan-list")
def orphan_list_in_a_cycle(image: HandImage) -> None:
    image.patch_inode(fi.ORPHAN, next=fi.ORPHAN)


@damages("orphan-list")
def orphan_list_to_nowhere(image: HandImage) -> None:
    image.patch_inode(fi.ORPHAN, next=77)


@damages("orphan-list")
def orphan_list_with_a_directory(image: HandImage) -> None:
    image.patch_inode(fi.ORPHAN, next=fi.DIR)


@damages("orphan-list")
def orphan_list_beyond_all_inodes(image: HandImage) -> None:
    image.patch_control(orphan_first=fi.ORPHAN | 1 << 40)
    image.patch_inode(fi.ORPHAN, mode=0, nlink=0, pages=0, generation=0, map=())
    image.patch_inode(fi.FREED_A, next=fi.ORPHAN)
    image.patch_head(fi.INODES, used=9)
    image.set_owner(fi.ORPHAN_PFN, 0)
    image.patch_head(fi.SMALL, used=5)


# -- maps ----------------------------------------------------------------------------------------


@damages("map-word")
def word_behind_the_end(image: HandImage) -> None:
    image.patch_inode(fi.FILE, map=[run(fi.FILE_PFN, 2), HOLE | 2, run(fi.FILE_PFN + 2, 1), 0, 1])


@damages("map-word")
def empty_run(image: HandImage) -> None:
    image.patch_inode(
        fi.BIG, map=[HOLE | 512, run(extent_to_pfn(fi.WHOLE_A), 512, WHOLE), fi.FREE_SMALL_PFN]
    )


@damages("map-word")
def hole_beyond_the_largest_file(image: HandImage) -> None:
    words = [HOLE | 512, run(extent_to_pfn(fi.WHOLE_A), 512, WHOLE), HOLE | (1 << 40) - 1]
    image.patch_inode(fi.BIG, map=words)


@damages("map-word")
def tree_word_malformed(image: HandImage) -> None:
    image.set_word(fi.TREE_NODE, 9, 1 << COUNT_SHIFT | fi.FREE_SMALL_PFN)


@damages("map-range")
def run_behind_the_device(image: HandImage) -> None:
    words = [run(fi.FILE_PFN, 2), HOLE | 2, run(fi.FILE_PFN + 2, 1), run(1 << 39, 9)]
    image.patch_inode(fi.FILE, map=words, pages=12, size=20000 + 9 * PAGE_BYTES)


@damages("map-range")
def whole_run_behind_the_device(image: HandImage) -> None:
    whole = run(extent_to_pfn(fi.WHOLE_A), 512, WHOLE)
    words = [HOLE | 512, whole, run(extent_to_pfn(1 << 30), 512, WHOLE)]
    image.patch_inode(fi.BIG, map=words, pages=1024, size=3 * EXTENT_BYTES)


@damages("map-range")
def xattr_behind_the_device(image: HandImage) -> None:
    image.patch_inode(fi.BIG, xattr=(1 << 64) - 1)


@damages("map-extent")
def run_in_a_free_extent(image: HandImage) -> None:
    words = [run(fi.FILE_PFN, 2), HOLE | 2, run(fi.FILE_PFN + 2, 1), run(extent_to_pfn(20), 1)]
    image.patch_inode(fi.FILE, map=words, pages=4, size=21000)


@damages("map-extent")
def node_in_a_small_extent(image: HandImage) -> None:
    words = [fi.TREE_NODE, extent_to_pfn(fi.WHOLE_B) | WHOLE, fi.FREE_SMALL_PFN]
    image.patch_inode(fi.TREE, map=words)


@damages("map-owner")
def two_inodes_map_one_page(image: HandImage) -> None:
    image.patch_inode(fi.BIG, map=[run(fi.FILE_PFN, 1), HOLE | 511, *_big_run()], pages=513)


def _big_run() -> list[int]:
    return [run(extent_to_pfn(fi.WHOLE_A), 512, WHOLE)]


@damages("map-owner")
def owner_page_mapped(image: HandImage) -> None:
    words = [run(extent_to_pfn(fi.SMALL), 1), HOLE | 511, *_big_run()]
    image.patch_inode(fi.BIG, map=words, pages=513)


@damages("map-owner")
def owner_with_another_index(image: HandImage) -> None:
    image.patch_inode(fi.BIG, map=[run(fi.FREE_SMALL_PFN, 1), HOLE | 511, *_big_run()], pages=513)


@damages("map-owner")
def tree_maps_a_free_page(image: HandImage) -> None:
    image.set_word(fi.TREE_NODE, 6, fi.FREE_SMALL_PFN)
    image.patch_inode(fi.TREE, pages=515)


@damages("map-owner")
def xattr_page_of_another(image: HandImage) -> None:
    image.patch_inode(fi.BIG, xattr=fi.XATTR)


@damages("map-whole")
def whole_extent_mapped_twice(image: HandImage) -> None:
    words = [HOLE | 512, *_big_run(), run(extent_to_pfn(fi.WHOLE_A), 512, WHOLE)]
    image.patch_inode(fi.BIG, map=words, pages=1024, size=3 * EXTENT_BYTES)


@damages("map-beyond-size")
def pages_behind_the_end(image: HandImage) -> None:
    image.patch_inode(fi.FILE, size=4 * PAGE_BYTES)


@damages("map-beyond-size")
def whole_extent_behind_the_end(image: HandImage) -> None:
    image.patch_inode(fi.BIG, size=EXTENT_BYTES)


@damages("map-empty")
def map_node_that_has_lost_its_words(image: HandImage) -> None:
    """With the owner words of its pages; all counts agree, so that nothing else is wrong."""
    image.set_page(fi.TREE_NODE, bytes(PAGE_BYTES))
    for pfn in (fi.TREE_PFN, fi.TREE_PFN + 1):
        image.set_owner(pfn, 0)
    image.patch_head(fi.SMALL, used=4)
    image.patch_inode(fi.TREE, pages=512)


@damages("map-empty")
def empty_map_node_beside_others(image: HandImage) -> None:
    words = [fi.TREE_NODE, extent_to_pfn(fi.WHOLE_B) | WHOLE, fi.FREE_META_PFN]
    image.patch_inode(fi.TREE, map=words)
    image.own(fi.FREE_META_PFN, owner_word(fi.TREE, Role.MAP))


@damages("map-empty")
def empty_map_node_below_another(image: HandImage) -> None:
    image.patch_inode(fi.ORPHAN, map_kind=MapKind.TREE, map_height=2, map=[fi.FREE_META_PFN])
    for pfn in (fi.FREE_META_PFN, fi.FREE_META_PFN + 1):
        image.own(pfn, owner_word(fi.ORPHAN, Role.MAP))
    image.set_word(fi.FREE_META_PFN, 3, fi.FREE_META_PFN + 1)
    image.patch_inode(fi.ORPHAN, pages=0)
    image.set_owner(fi.ORPHAN_PFN, 0)
    image.patch_head(fi.SMALL, used=5)


@damages("page-twice")
def shared_map_node(image: HandImage) -> None:
    words = [fi.TREE_NODE, extent_to_pfn(fi.WHOLE_B) | WHOLE, fi.TREE_NODE]
    image.patch_inode(fi.TREE, map=words, size=3 * EXTENT_BYTES)


@damages("page-twice")
def map_node_in_a_cycle(image: HandImage) -> None:
    image.patch_inode(fi.ORPHAN, map_kind=MapKind.TREE, map_height=4, map=[fi.FREE_META_PFN])
    image.own(fi.FREE_META_PFN, owner_word(fi.ORPHAN, Role.MAP))
    image.set_word(fi.FREE_META_PFN, 3, fi.FREE_META_PFN)
    image.set_owner(fi.ORPHAN_PFN, 0)
    image.patch_head(fi.SMALL, used=5)


# -- owner pages ---------------------------------------------------------------------------------


@damages("owner-count")
def pages_of_an_extent_miscounted(image: HandImage) -> None:
    image.patch_head(fi.SMALL, used=17)


@damages("owner-word")
def owner_word_of_inode_zero(image: HandImage) -> None:
    image.own(fi.FREE_SMALL_PFN, 5 << 32)


@damages("owner-word")
def owner_page_owns_itself(image: HandImage) -> None:
    image.own(extent_to_pfn(fi.SMALL), owner_word(fi.FILE, 9))


@damages("owner-inode")
def page_of_no_inode(image: HandImage) -> None:
    image.own(fi.FREE_SMALL_PFN, owner_word(4000, 0))


@damages("owner-inode")
def whole_extent_of_no_inode(image: HandImage) -> None:
    image.set_head(12, Kind.WHOLE, owner=fi.FREED_A, index=0)


@damages("owner-unmapped")
def page_that_no_map_has(image: HandImage) -> None:
    image.own(fi.FREE_SMALL_PFN, owner_word(fi.FILE, 2))


@damages("owner-unmapped")
def metadata_page_that_nothing_has(image: HandImage) -> None:
    image.own(fi.FREE_META_PFN, owner_word(fi.BIG, Role.XATTR))


@damages("owner-unmapped")
def whole_extent_that_no_map_has(image: HandImage) -> None:
    image.set_head(12, Kind.WHOLE, owner=fi.BIG, index=0)


# -- symlinks and attributes ---------------------------------------------------------------------


@damages("symlink-target")
def short_target_with_another_length(image: HandImage) -> None:
    image.patch_inode(fi.SHORT_LINK, size=7)


@damages("symlink-target")
def long_target_with_a_nul(image: HandImage) -> None:
    image.poke(pfn_to_offset(fi.LINK_PAGE) + 5, b"\0")


@damages("xattr-checksum")
def attribute_changed(image: HandImage) -> None:
    page = image.peek(pfn_to_offset(fi.XATTR), PAGE_BYTES)
    image.poke(pfn_to_offset(fi.XATTR) + page.index(b"red"), b"RED")


@damages("xattr-page")
def attributes_of_another(image: HandImage) -> None:
    image.set_page(fi.XATTR, xattr_page(fi.BIG, [(b"user.a", b"b")]))


@damages("xattr-page")
def attributes_miscounted(image: HandImage) -> None:
    image.set_page(fi.XATTR, xattr_page(fi.FILE, [(b"user.a", b"b")], count=2))


@damages("xattr-page")
def attributes_larger_than_a_page(image: HandImage) -> None:
    image.set_page(fi.XATTR, xattr_page(fi.FILE, [], used_bytes=70000))


@damages("xattr-name")
def attribute_of_no_namespace(image: HandImage) -> None:
    image.set_page(fi.XATTR, xattr_page(fi.FILE, [(b"a\x1b[2J", b"b")]))


@damages("xattr-name")
def attribute_of_no_system_name(image: HandImage) -> None:
    image.set_page(fi.XATTR, xattr_page(fi.FILE, [(b"system.posix_acl_def", b"b")]))


@damages("xattr-name")
def attribute_twice(image: HandImage) -> None:
    image.set_page(fi.XATTR, xattr_page(fi.FILE, [(b"user.a", b"b")] * 2))


WHOLE_ATTRIBUTES = [(b"user.colour", b"red"), (b"user.empty", b"")]
ACL = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000500ffffffff")


@damages("xattr-acl")
def access_list_of_another_version(image: HandImage) -> None:
    page = xattr_page(fi.FILE, [*WHOLE_ATTRIBUTES, (b"system.posix_acl_access", b"\x09" + ACL[1:])])
    image.set_page(fi.XATTR, page)


@damages("xattr-acl")
def default_list_without_others(image: HandImage) -> None:
    """The only attribute of a directory: the page goes with it."""
    image.own(fi.FREE_META_PFN, owner_word(fi.DIR, Role.XATTR))
    page = xattr_page(fi.DIR, [(b"system.posix_acl_default", ACL[:-8])])
    image.set_page(fi.FREE_META_PFN, page)
    image.patch_inode(fi.DIR, xattr=fi.FREE_META_PFN)


# -- directories ---------------------------------------------------------------------------------


@damages("dir-leaf")
def leaf_of_another_directory(image: HandImage) -> None:
    image.patch_leaf(fi.DIR_LEAF, ino=fi.WIDE)


@damages("dir-leaf")
def leaf_garbage_miscounted(image: HandImage) -> None:
    image.patch_leaf(fi.DIR_LEAF, garbage=1)


@damages("dir-leaf")
def leaf_names_overlap(image: HandImage) -> None:
    entries = [(b"big", fi.BIG, stat.S_IFREG), (b"bi", fi.FIFO, stat.S_IFIFO)]
    image.set_page(fi.DIR_LEAF, leaf_page(fi.DIR, entries))
    image.patch_slot(fi.DIR_LEAF, 1, name_offset=PAGE_BYTES - 3)
    image.patch_inode(fi.BIG, nlink=2)
    image.patch_inode(fi.DIR, entries=2)


@damages("dir-leaf")
def leaf_with_too_many_slots(image: HandImage) -> None:
    """Nothing of such a leaf is believed, so its only entry must not be missed elsewhere."""
    image.patch_leaf(fi.DIR_LEAF, slots=300)
    image.patch_inode(fi.FIFO, nlink=3)


@damages("dir-leaf")
def empty_leaf_with_a_prefix_too_long(image: HandImage) -> None:
    image.set_page(fi.WIDE_LOW, leaf_page(fi.WIDE, [], depth=1, prefix=1))
    image.patch_inode(fi.WIDE, entries=1)
    image.patch_inode(fi.FIFO, nlink=3)


@damages("dir-name")
def name_with_a_slash(image: HandImage) -> None:
    image.set_page(fi.DIR_LEAF, leaf_page(fi.DIR, [(b"in/er", fi.FIFO, stat.S_IFIFO)]))


@damages("dir-name")
def name_dot_dot(image: HandImage) -> None:
    image.set_page(fi.DIR_LEAF, leaf_page(fi.DIR, [(b"..", fi.FIFO, stat.S_IFIFO)]))


@damages("dir-cookie")
def cookie_of_another_name(image: HandImage) -> None:
    image.patch_slot(fi.DIR_LEAF, 0, cookie=fi.name_hash(b"outer"))


@damages("dir-duplicate")
def name_twice(image: HandImage) -> None:
    entries = [(b"inner", fi.FIFO, stat.S_IFIFO)] * 2
    image.set_page(fi.DIR_LEAF, leaf_page(fi.DIR, entries))
    image.patch_slot(fi.DIR_LEAF, 1, cookie=fi.name_hash(b"inner") + 1)
    image.patch_inode(fi.DIR, entries=2)
    image.patch_inode(fi.FIFO, nlink=5)


@damages("dir-place")
def name_in_the_wrong_leaf(image: HandImage) -> None:
    page = image.peek(pfn_to_offset(fi.WIDE_LOW), PAGE_BYTES)
    image.set_page(fi.WIDE_HIGH, page)
    image.patch_leaf(fi.WIDE_HIGH, prefix=fi.HIGH_BIT)


@damages("dir-node")
def leaf_in_too_few_words(image: HandImage) -> None:
    image.set_word(fi.WIDE_NODE, 300, 0, 212)
    image.set_word(fi.WIDE_NODE, 256, fi.WIDE_HIGH, 44)
    image.patch_inode(fi.FIFO, nlink=3)
    image.set_owner(fi.WIDE_HIGH, 0)
    image.patch_head(fi.METADATA, used=7)


@damages("dir-node")
def node_with_words_that_lead_nowhere(image: HandImage) -> None:
    image.set_word(fi.WIDE_NODE, 0, 0, 256)
    image.patch_inode(fi.WIDE, entries=1)
    image.patch_inode(fi.FIFO, nlink=3)
    image.set_owner(fi.WIDE_LOW, 0)
    image.patch_head(fi.METADATA, used=7)


@damages("dir-node")
def leaf_of_another_depth(image: HandImage) -> None:
    image.patch_leaf(fi.WIDE_LOW, depth=2)
    if _wide_low_hash() >> 61 & 1:
        image.patch_leaf(fi.WIDE_LOW, prefix=1 << 61)


def _wide_low_hash() -> int:
    names = (f"name{i}".encode() for i in range(20))
    return next(h for h in map(fi.name_hash, names) if not h & fi.HIGH_BIT)


@damages("dir-node")
def directory_word_malformed(image: HandImage) -> None:
    image.set_word(fi.WIDE_NODE, 0, 1 << 45, 256)
    image.patch_inode(fi.FIFO, nlink=3)
    image.set_owner(fi.WIDE_LOW, 0)
    image.patch_head(fi.METADATA, used=7)


@damages("page-twice")
def directory_node_in_a_cycle(image: HandImage) -> None:
    image.set_word(fi.WIDE_NODE, 0, fi.WIDE_NODE | NODE)
    image.set_word(fi.WIDE_NODE, 1, 0, 255)
    image.patch_inode(fi.FIFO, nlink=3)
    image.set_owner(fi.WIDE_LOW, 0)
    image.patch_head(fi.METADATA, used=7)


@damages("dir-entries")
def entries_miscounted(image: HandImage) -> None:
    image.patch_inode(fi.DIR, entries=2)


@damages("dir-entries")
def empty_directory_with_a_leaf(image: HandImage) -> None:
    image.set_page(fi.DIR_LEAF, leaf_page(fi.DIR, []))
    image.patch_inode(fi.DIR, entries=0)
    image.patch_inode(fi.FIFO, nlink=3)


@damages("dir-entries")
def removed_directory_with_an_entry(image: HandImage) -> None:
    fields = {"map_kind": MapKind.DIRECTORY, "nlink": 0, "entries": 1, "parent": fi.ROOT}
    image.add_inode(fi.FREED_B, stat.S_IFDIR, **fields, map=[fi.FREE_META_PFN])
    image.patch_head(fi.INODES, used=11, free_first=fi.FREED_A)
    image.patch_inode(fi.ORPHAN, next=fi.FREED_B)
    image.own(fi.FREE_META_PFN, owner_word(fi.FREED_B, Role.DIRECTORY_LEAF))
    image.set_page(fi.FREE_META_PFN, leaf_page(fi.FREED_B, [(b"f", fi.FIFO, stat.S_IFIFO)]))
    image.patch_inode(fi.FIFO, nlink=5)


@damages("dir-target")
def name_of_no_inode(image: HandImage) -> None:
    image.patch_slot(fi.DIR_LEAF, 0, ino=4000)
    image.patch_inode(fi.FIFO, nlink=3)


@damages("dir-type")
def name_of_another_type(image: HandImage) -> None:
    image.patch_slot(fi.DIR_LEAF, 0, type=stat.S_IFREG >> 12)


@damages("dir-twice")
def directory_with_two_names(image: HandImage) -> None:
    image.set_page(fi.DIR_LEAF, leaf_page(fi.DIR, [(b"inner", fi.WIDE, stat.S_IFDIR)]))
    image.patch_inode(fi.FIFO, nlink=3)


@damages("dir-twice")
def name_for_the_root(image: HandImage) -> None:
    image.set_page(fi.DIR_LEAF, leaf_page(fi.DIR, [(b"inner", fi.ROOT, stat.S_IFDIR)]))
    image.patch_inode(fi.FIFO, nlink=3)


@damages("dir-nlink")
def directory_link_count(image: HandImage) -> None:
    image.patch_inode(fi.ROOT, nlink=3)


@damages("dir-nlink")
def root_with_one_link(image: HandImage) -> None:
    image.patch_inode(fi.ROOT, nlink=1)


@damages("dir-parent")
def directory_with_another_parent(image: HandImage) -> None:
    image.patch_inode(fi.DIR, parent=fi.WIDE)


@damages("dir-parent")
def root_with_a_parent(image: HandImage) -> None:
    image.patch_inode(fi.ROOT, parent=fi.WIDE)


# -- links ---------------------------------------------------------------------------------------


@damages("link-count")
def link_count(image: HandImage) -> None:
    image.patch_inode(fi.FILE, nlink=1)


@damages("inode-unreachable")
def file_without_a_name(image: HandImage) -> None:
    image.add_inode(fi.FREED_B, stat.S_IFREG)
    image.patch_head(fi.INODES, used=11, free_first=fi.FREED_A)


@damages("inode-unreachable")
def orphan_not_listed(image: HandImage) -> None:
    image.patch_control(orphan_first=0)


@damages("inode-unreachable")
def directory_that_names_itself(image: HandImage) -> None:
    fields = {"map_kind": MapKind.DIRECTORY, "nlink": 3, "entries": 1, "parent": fi.FREED_B}
    image.add_inode(fi.FREED_B, stat.S_IFDIR, **fields, map=[fi.FREE_META_PFN])
    image.patch_head(fi.INODES, used=11, free_first=fi.FREED_A)
    image.own(fi.FREE_META_PFN, owner_word(fi.FREED_B, Role.DIRECTORY_LEAF))
    image.set_page(fi.FREE_META_PFN, leaf_page(fi.FREED_B, [(b"me", fi.FREED_B, stat.S_IFDIR)]))


@damages("root-missing")
def root_is_a_file(image: HandImage) -> None:
    """An image with nothing but a root that is none."""
    for extent in (fi.SMALL, fi.METADATA, fi.WHOLE_A, fi.WHOLE_B):
        image.set_head(extent, Kind.RETURNED)
    image.poke(extent_to_offset(fi.INODES), bytes(fi.FRONTIER * 256))
    image.set_head(fi.INODES, Kind.INODES, used=0, free_first=0, frontier=1)
    image.patch_control(orphan_first=0)


@pytest.mark.parametrize(
    ("check", "damage"), DAMAGES, ids=[f"{check}-{damage.__name__}" for check, damage in DAMAGES]
)
def test_damage_is_found_by_its_check_alone(image: HandImage, check: str, damage: Damage) -> None:
    damage(image)
    report = image.check()
    found = set(report.counts) - {ALSO_FOUND.get(damage.__name__)}
    assert found == {check}, [str(finding) for finding in report.findings]


def _checks_that_exist() -> set[str]:
    """Return the ids of all checks: each word of the form ``what-wrong`` in the modules of fsck."""
    found: set[str] = set()
    for module in Path(fsck.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"\A[a-z]+(?:-[a-z]+)+\Z", node.value))
    return found


def test_every_check_has_a_damage() -> None:
    assert _checks_that_exist() == {check for check, _ in DAMAGES}


def test_every_check_that_may_be_mended_has_a_mender() -> None:
    """The words of the journal are mended by every repair, before all others."""
    mended = {check for checks, _ in MENDERS for check in checks}
    settled = {check for check in _checks_that_exist() if check.startswith("journal-")}
    settled |= {"control-state", "control-committed"}
    assert mended | settled == _checks_that_exist()
    assert not mended & settled
