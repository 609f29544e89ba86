"""The view usage: sums, live and stale descriptors, wild heads."""

import os

from hand_built import MIB, HandBuilt, daemon

from pmemfs.inspect import Reader, collect, usage
from pmemfs.layout.records import NOTHING_TO_REPLAY, Kind, MountState, PageFlag
from pmemfs.layout.words import owner_word

CURRENT = 7
TABLE_PFN = 3 * 512 + 8
SPLIT = TABLE_PFN << 8 | PageFlag.SPLIT


def check_sum(data):
    extents = data["extents"]
    parts = ("free", "whole", "small", "descriptor", "metadata")
    assert extents["total"] == sum(extents[part] for part in parts)
    assert data["used_bytes"] + data["free_bytes"] == data["device_bytes"]


def split_extent(built, extent=5, table=SPLIT):
    built.small(extent, {1: (9, 0), 2: (9, 1)}, generation=CURRENT, table=table)
    built.descriptor(TABLE_PFN, 1, owner=owner_word(9, 0))


def test_fresh_image(built, look):
    data = look(usage)
    check_sum(data)
    assert data["extents"] == {
        "total": 32,
        "free": 28,
        "returned": 0,
        "whole": 0,
        "small": 0,
        "descriptor": 1,
        "metadata": 3,
    }
    assert data["device_bytes"] == 64 * MIB
    assert data["used_bytes"] == 8 * MIB
    assert data["host_bytes"] == os.stat(built.path).st_blocks * 512
    assert data["head_descriptors"] == 32
    assert data["head_descriptor_bytes"] == 2048
    assert data["reserve_bytes"] == 2 * MIB
    assert data["clean"] is data["consistent"] is data["journal_replayed"] is True
    assert data["live"] is False
    assert data["remarks"] == []


def test_files_are_inodes_without_the_root(built, look):
    built.root({b"a": 2})
    built.inode(2, 0o100644)
    data = look(usage)
    assert data["inodes"] == 2
    assert data["files"] == 1
    assert data["metadata_owner_page_bytes"] == 4096


def test_free_counts_pages_of_small_extents_and_returned_extents(built, look):
    built.small(5, {slot: (2, slot) for slot in range(1, 12)})
    built.head(6, Kind.RETURNED)
    built.head(7, Kind.WHOLE, owner=2)
    data = look(usage)
    check_sum(data)
    assert data["extents"]["returned"] == 1
    assert data["extents"]["free"] == 26
    assert data["free_bytes"] == 26 * 2 * MIB + 500 * 4096
    assert data["small_pages"] == 11
    assert data["owner_page_bytes"] == 4096


def test_split_counts_only_while_a_daemon_lives(built, look):
    split_extent(built)
    built.control(generation=CURRENT, state=MountState.MOUNTED)
    without = look(usage)
    assert without["split_extents"] == without["page_descriptors"] == 0
    assert without["page_descriptor_bytes"] == 0
    with daemon(built.path):
        data = look(usage)
    assert data["live"] is True
    assert data["split_extents"] == 1
    assert data["page_descriptors"] == 1
    assert data["page_descriptor_bytes"] == 32768
    assert data["remarks"] == []


def test_split_of_another_generation_is_void(built, look):
    split_extent(built)
    built.control(generation=CURRENT + 1)
    with daemon(built.path):
        assert look(usage)["split_extents"] == 0


def test_descriptor_extent_of_another_mount_is_returned(built, look):
    built.head(6, Kind.DESCRIPTOR, generation=CURRENT)
    built.head(7, Kind.DESCRIPTOR, generation=CURRENT - 1)
    with daemon(built.path):
        live = look(usage)
    stale = look(usage)
    check_sum(live)
    check_sum(stale)
    assert (live["extents"]["descriptor"], live["extents"]["returned"]) == (2, 1)
    assert (stale["extents"]["descriptor"], stale["extents"]["returned"]) == (1, 2)
    assert live["descriptor_extent_bytes"] == 4 * MIB


def test_a_wild_table_is_remarked_and_not_read(built, look):
    for extent, pfn in ((5, 1 << 39), (6, 9), (7, 20 * 512)):
        split_extent(built, extent, pfn << 8 | PageFlag.SPLIT)
    with daemon(built.path):
        data = look(usage)
    assert data["split_extents"] == 3
    assert data["page_descriptors"] == 0
    assert [remark.split(" is ")[1] for remark in data["remarks"]] == [
        "beyond the device",
        "not at a multiple of 32 KiB",
        "not in a descriptor extent",
    ]


def test_a_table_named_twice_is_read_once(built, look):
    split_extent(built, 5)
    split_extent(built, 6)
    with daemon(built.path):
        data = look(usage)
    assert data["page_descriptors"] == 1
    assert data["remarks"] == [f"extents 5 and 6 name one split table, pfn {TABLE_PFN}"]


def test_wild_heads_keep_the_sum(built, look):
    built.head(5, 200)
    built.head(6, Kind.SMALL, used=60000)
    built.store(built.geometry.head_offset(7), b"\x02" + bytes(27) + b"\1\2\3\4" + bytes(32))
    data = look(usage)
    check_sum(data)
    assert data["extents"]["metadata"] == 4
    assert data["remarks"] == [
        "extents 7 have a head with a wrong checksum",
        "extents 5 are of an unknown kind; counted as metadata",
        "extents 6 use more than 511 pages",
    ]


def test_a_freed_head_keeps_its_wear_and_needs_no_checksum(built, look):
    built.head(9, Kind.FREE, wear=55, access_s=4, generation=3)
    assert look(usage)["remarks"] == []


def test_unclean_image_says_whether_there_is_something_to_replay(built, look):
    built.control(state=MountState.MOUNTED, committed=5)
    data = look(usage)
    assert (data["clean"], data["journal_replayed"]) == (False, False)
    built.control(state=MountState.MOUNTED, committed=5 | NOTHING_TO_REPLAY)
    data = look(usage)
    assert (data["clean"], data["journal_replayed"]) == (False, True)
    with daemon(built.path):
        built.control(state=MountState.MOUNTED, committed=5)
        assert look(usage)["journal_replayed"] is True


def test_terabytes_cost_what_was_used_of_them(tmp_path):
    built = HandBuilt(tmp_path / "big.img", 8 << 40)
    built.head(4_000_000, Kind.WHOLE, owner=5)
    before = os.stat(built.path).st_blocks
    with Reader(built.path) as reader:
        data = collect(reader, usage)
        heads = sum(len(heads) for _, heads in reader.iter_heads())
    built.close()
    check_sum(data)
    assert data["extents"]["whole"] == 1
    assert data["head_descriptor_bytes"] == 64 * (4 << 20)
    assert heads <= 2 * 4096 // 64 + 4096
    assert os.stat(built.path).st_blocks == before


def test_a_bad_superblock_copy_is_remarked(built, look):
    built.store(0, bytes(512))
    assert look(usage)["remarks"] == ["superblock: no pmemfs magic (device offset 0x0)"]
