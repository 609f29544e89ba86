"""Check the pages of extended attributes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.fsck.acls import acl_problem
from pmemfs.fsck.inodes import Chunk
from pmemfs.fsck.owners import OwnerPages
from pmemfs.fsck.report import Finding, show_name
from pmemfs.layout.geometry import NAME_MAX, PAGE_BYTES, pfn_to_offset
from pmemfs.layout.records import (
    XATTR_ENTRY,
    XATTR_NAMESPACES,
    XATTR_PAGE,
    XATTR_SYSTEM_NAMES,
    Role,
)

_SUMMED_BYTES = XATTR_PAGE.offset_of["checksum"]


def check_xattrs(
    owners: OwnerPages, chunk: Chunk, types: NDArray[np.uint8], records: NDArray[Any]
) -> Iterator[Finding]:
    """Yield findings about the extended attributes of all inodes of one chunk."""
    for place in np.flatnonzero((types != 0) & (records["xattr"] != 0)).tolist():
        ino, pfn = chunk.first_ino + place, int(records["xattr"][place])
        finding = owners.claim_metadata(pfn, ino, Role.XATTR)
        if finding is not None:
            yield finding
            continue
        yield from _check_page(ino, bytes(owners.read_page(pfn)), pfn_to_offset(pfn))


def _check_page(ino: int, page: bytes, offset: int) -> Iterator[Finding]:
    header = XATTR_PAGE.unpack(page)
    used = header["used_bytes"]
    if not XATTR_PAGE.size_bytes <= used <= PAGE_BYTES:
        message = f"the attributes of inode {ino} say that they take {used} bytes"
        yield Finding("xattr-page", message, offset, ino)
        return
    entries = page[XATTR_PAGE.size_bytes : used]
    if zlib.crc32(entries, zlib.crc32(page[:_SUMMED_BYTES])) != header["checksum"]:
        message = f"the attributes of inode {ino} have a wrong checksum"
        yield Finding("xattr-checksum", message, offset, ino)
    if header["ino"] != ino:
        message = f"the attributes of inode {ino} say that they are of inode {header['ino']}"
        yield Finding("xattr-page", message, offset, ino)
    yield from _check_entries(ino, entries, header["count"], offset)


def _check_entries(ino: int, entries: bytes, count: int, offset: int) -> Iterator[Finding]:
    names: set[bytes] = set()
    position = 0
    while position + XATTR_ENTRY.size_bytes <= len(entries) and len(names) < count:
        name_bytes, value_bytes = XATTR_ENTRY.struct.unpack_from(entries, position)
        start = position + XATTR_ENTRY.size_bytes
        name = entries[start : start + name_bytes]
        position = start + name_bytes + value_bytes
        problem = name_problem(name, names)
        if problem is not None:
            message = f"inode {ino} has the attribute {show_name(name)}, {problem}"
            yield Finding("xattr-name", message, offset, ino)
            if name in names:
                return
        names.add(name)
        problem = value_problem(name, entries[start + name_bytes : position])
        if problem is not None:
            message = f"inode {ino} has the attribute {show_name(name)}, {problem}"
            yield Finding("xattr-acl", message, offset, ino)
    if position != len(entries) or len(names) != count:
        message = f"the attributes of inode {ino} are not the {count} entries that are counted"
        yield Finding("xattr-page", message, offset, ino)


def value_problem(name: bytes, value: bytes) -> str | None:
    """Return why an attribute of this name cannot have this value, or None."""
    return acl_problem(value) if name in XATTR_SYSTEM_NAMES else None


def name_problem(name: bytes, names: set[bytes]) -> str | None:
    """Return why an attribute cannot have this name beside others, or None."""
    if name in names:
        return "twice"
    known = name.startswith(XATTR_NAMESPACES) and name not in XATTR_NAMESPACES
    if not known and name not in XATTR_SYSTEM_NAMES:
        return "whose namespace is not known"
    if len(name) > NAME_MAX or b"\0" in name:
        return "which is no possible name"
    return None
