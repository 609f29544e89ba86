"""The arithmetic of places, checked against itself and against the format document."""

from __future__ import annotations

import errno

import pytest

from pmemfs.errors import PmemfsError
from pmemfs.layout import geometry as g
from pmemfs.layout.geometry import Geometry
from pmemfs.layout.words import owner_index, owner_ino, owner_word
from pmemfs.units import GIB, MIB, TIB

SIZES = [64 * MIB, 66 * MIB, GIB, 63 * GIB, 64 * GIB, 65 * GIB, TIB, 16 * TIB, (1 << 52) - 1]


@pytest.mark.parametrize("size_bytes", SIZES)
def test_areas_follow_each_other_and_hold_what_they_must(size_bytes: int) -> None:
    geometry = Geometry.of_size(size_bytes)
    assert geometry.n_extents == size_bytes >> 21
    assert geometry.device_bytes <= size_bytes < geometry.device_bytes + g.EXTENT_BYTES
    heads_stop = g.HEAD_TABLE_OFFSET + geometry.head_table_bytes
    assert geometry.head_table_bytes == 64 * geometry.n_extents
    assert heads_stop <= geometry.backup_superblock_offset
    inodes = g.extent_to_offset(geometry.first_inode_extent)
    assert geometry.backup_superblock_offset + g.PAGE_BYTES == inodes
    assert inodes - heads_stop < g.EXTENT_BYTES + g.PAGE_BYTES
    assert geometry.reserve_extent == geometry.first_inode_extent + 1
    assert geometry.fixed_extents == geometry.reserve_extent + 1
    last = geometry.n_extents - 1
    assert geometry.head_offset(last) + g.HEAD_BYTES == heads_stop


def test_the_smallest_image_has_at_most_five_fixed_extents() -> None:
    geometry = Geometry.of_size(g.MIN_DEVICE_BYTES)
    assert geometry.n_extents == 32
    assert geometry.fixed_extents <= 5


def test_head_descriptors_take_32_mib_for_each_tib() -> None:
    assert Geometry.of_size(TIB).head_table_bytes == 32 * MIB


def test_fixed_areas_of_extent_0_do_not_overlap() -> None:
    slots = [g.journal_slot_offset(sequence) for sequence in range(4)]
    assert slots[:2] == slots[2:]
    assert g.SUPERBLOCK_OFFSET + g.PAGE_BYTES == g.CONTROL_OFFSET
    assert g.CONTROL_OFFSET + g.PAGE_BYTES <= g.JOURNAL_OFFSET == min(slots)
    assert max(slots) + g.JOURNAL_SLOT_BYTES <= g.HEAD_TABLE_OFFSET


@pytest.mark.parametrize("size_bytes", [0, 1, 64 * MIB - 1])
def test_too_small_names_the_least(size_bytes: int) -> None:
    with pytest.raises(PmemfsError, match="at least 64 MiB") as caught:
        Geometry.of_size(size_bytes)
    assert caught.value.errno == errno.EINVAL


def test_too_large_for_a_pfn() -> None:
    with pytest.raises(PmemfsError, match="beyond the format") as caught:
        Geometry.of_size(1 << 52)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("pfn", [0, 1, 511, 512, 513, (1 << 40) - 1])
def test_conversions_agree(pfn: int) -> None:
    extent, slot = g.pfn_to_extent(pfn), g.pfn_to_slot(pfn)
    assert g.extent_to_pfn(extent) + slot == pfn
    assert g.offset_to_pfn(g.pfn_to_offset(pfn)) == pfn
    assert g.offset_to_extent(g.pfn_to_offset(pfn)) == extent
    assert g.extent_to_offset(extent) + slot * g.PAGE_BYTES == g.pfn_to_offset(pfn)


def test_inodes_are_found_by_arithmetic() -> None:
    assert g.INODES_PER_EXTENT == 8192
    assert g.ino_to_chunk(8191) == 0
    assert g.ino_to_chunk(8192) == 1
    assert g.inode_offset(7, 1) == 7 * g.EXTENT_BYTES + 256
    assert g.inode_offset(7, 8192 + 1) == 7 * g.EXTENT_BYTES + 256
    assert g.inode_offset(7, 8191) + 256 == 8 * g.EXTENT_BYTES


def test_an_extent_holds_64_split_tables_of_32_kib() -> None:
    assert g.SPLIT_TABLE_BYTES == 32 * 1024
    assert g.SPLIT_TABLES_PER_EXTENT == 64


def test_owner_words() -> None:
    word = owner_word(0xFFFF_FFFF, 0xFFFF_FFFE)
    assert word == 0xFFFF_FFFE_FFFF_FFFF
    assert owner_ino(word) == 0xFFFF_FFFF
    assert owner_index(word) == 0xFFFF_FFFE
    assert owner_index(owner_word(1, g.MAX_FILE_PAGES - 1)) == g.MAX_FILE_PAGES - 1
