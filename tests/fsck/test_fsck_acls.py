"""fsck and the engine agree on what is an access control list, though they share no code."""

from __future__ import annotations

import itertools
import struct

import pytest

from pmemfs.errors import PmemfsError
from pmemfs.fs import acl
from pmemfs.fsck.acls import acl_problem

NOBODY = 0xFFFFFFFF
OWNER, USER, GROUP_OBJ, GROUP, MASK, OTHER, UNKNOWN = 1, 2, 4, 8, 16, 32, 64
TAGS = (OWNER, USER, GROUP_OBJ, GROUP, MASK, OTHER, UNKNOWN)


def pack(tags: tuple[int, ...], permissions: int = 5, version: int = 2) -> bytes:
    entries = (struct.pack("<HHI", tag, permissions, NOBODY) for tag in tags)
    return struct.pack("<I", version) + b"".join(entries)


def engine_takes(value: bytes) -> bool:
    """Tell whether a mount can use a list; it never stores an empty one."""
    try:
        return bool(acl.parse(value))
    except PmemfsError:
        return False


@pytest.mark.parametrize("length", range(6))
def test_both_take_the_same_tags(length: int) -> None:
    values = [pack(tags) for tags in itertools.combinations_with_replacement(TAGS, length)]
    assert [acl_problem(value) is None for value in values] == list(map(engine_takes, values))
    assert any(map(engine_takes, values)) == (length >= 3)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x02\0\0",
        pack(()),
        pack((OWNER, GROUP_OBJ, OTHER), version=9),
        pack((OWNER, GROUP_OBJ, OTHER), permissions=8),
        pack((OWNER, GROUP_OBJ, OTHER))[:-1],
    ],
)
def test_neither_takes_what_is_none(value: bytes) -> None:
    assert acl_problem(value) is not None
    assert not engine_takes(value)
