"""Records: sizes, alignment, packing."""

from __future__ import annotations

import numpy as np
import pytest

from pmemfs.errors import InvariantError
from pmemfs.layout import records
from pmemfs.layout.geometry import (
    HEAD_BYTES,
    HEAD_DURABLE_BYTES,
    INODE_BYTES,
    PAGE_DESCRIPTOR_BYTES,
)
from pmemfs.layout.record import Field, Record
from pmemfs.layout.records import CONTROL, HEAD, INODE, PAGE_DESCRIPTOR, SUPERBLOCK


def test_a_field_must_be_aligned() -> None:
    with pytest.raises(InvariantError, match=r"Bad\.wide is not aligned at offset 4"):
        Record("Bad", 12, "", [Field("narrow", "u32", ""), Field("wide", "u64", "")])


def test_the_size_must_be_the_sum_of_the_fields() -> None:
    with pytest.raises(InvariantError, match="Bad has 4 bytes of fields, not 8"):
        Record("Bad", 8, "", [Field("only", "u32", "")])


def test_sizes_are_what_the_geometry_says() -> None:
    assert HEAD.size_bytes == HEAD_BYTES
    assert INODE.size_bytes == INODE_BYTES
    assert PAGE_DESCRIPTOR.size_bytes == PAGE_DESCRIPTOR_BYTES
    assert HEAD.offset_of["generation"] == HEAD_DURABLE_BYTES
    assert HEAD.offset_of["checksum"] == HEAD_DURABLE_BYTES - 4
    assert HEAD.size_bytes == 64, "exactly 64 bytes for each 2 MiB"


@pytest.mark.parametrize("record", records.RECORDS, ids=lambda record: record.name)
def test_struct_and_dtype_agree(record: Record) -> None:
    """What is packed field by field is what numpy reads at the same names."""
    values = {}
    for number, field in enumerate(record.fields, 1):
        if field.type.startswith("bytes:"):
            values[field.name] = bytes([number]) * field.size_bytes
        elif field.count > 1:
            values[field.name] = tuple(range(number, number + field.count))
        else:
            values[field.name] = number
    packed = record.pack(**values)
    assert len(packed) == record.size_bytes
    assert record.unpack(packed) == values
    (row,) = np.frombuffer(packed, record.dtype)
    for field in record.fields:
        assert record.dtype.fields[field.name][1] == record.offset_of[field.name]
        assert record.offset_of[field.name] % field.alignment == 0
        if field.count > 1:
            assert tuple(row[field.name]) == values[field.name]
        elif not field.type.startswith("bytes:"):
            assert row[field.name] == values[field.name]


def test_fields_not_named_are_zero() -> None:
    assert HEAD.pack() == bytes(64)
    assert INODE.pack(map=[7])[112:128] == (7).to_bytes(16, "little")


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="HeadDescriptor has no field colour"):
        HEAD.pack(colour=1)


def test_words_that_are_published_lie_alone() -> None:
    """A word that commits is aligned, outside every sum, and shares its line with no other's."""
    lines = {}
    for name in ("committed", "sequence", "generation", "orphan_first"):
        offset = CONTROL.offset_of[name]
        assert offset % 8 == 0
        lines[name] = offset // 64
    assert len(set(lines.values())) == 4
    assert "checksum" not in CONTROL.offset_of


def test_a_sum_is_over_all_before_it() -> None:
    sealed = records.seal(SUPERBLOCK, magic=records.MAGIC, label=b"here")
    assert records.is_sealed(SUPERBLOCK, sealed)
    for place in (0, 100, 507, 508, 511):
        broken = bytearray(sealed)
        broken[place] ^= 1
        assert not records.is_sealed(SUPERBLOCK, broken)


def test_times_reach_beyond_2038() -> None:
    for field in INODE.fields:
        if field.name.endswith("_ns"):
            assert field.type == "i64"
