"""POSIX access control lists: what they mean for modes, and how new files inherit them.

The kernel checks access; a file system keeps the lists, keeps mode and list in agreement, and
applies the default list of a directory. Rules: acl(5) of Linux and the withdrawn POSIX.1e draft
17, section 23. The value of the attributes is the kernel's: a 4-byte version 2, then entries of
tag, permissions (2 bytes each) and id (4 bytes).
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from pmemfs.errors import PmemfsError
from pmemfs.layout.records import XATTR_SYSTEM_NAMES

NAMES = ACCESS, DEFAULT = XATTR_SYSTEM_NAMES

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ONCE = (_USER_OBJ, _GROUP_OBJ, _OTHER)
_SHIFTS = {_USER_OBJ: 6, _GROUP_OBJ: 3, _MASK: 3, _OTHER: 0}
_PERMISSIONS = 0o777


class AclEntry(NamedTuple):
    """One entry: whom it is about, and rwx as 4, 2, 1."""

    tag: int
    permissions: int
    id: int


def parse(value: bytes) -> list[AclEntry]:
    """Return the entries of an attribute's value; raises EINVAL for what is no valid list."""
    bad = PmemfsError(errno.EINVAL, "not a valid access control list")
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise bad
    if _HEADER.unpack_from(value)[0] != _VERSION:
        raise PmemfsError(errno.EOPNOTSUPP, "an access control list of another version")
    acl = [AclEntry(*e) for e in _ENTRY.iter_unpack(value[_HEADER.size :])]
    tags = [entry.tag for entry in acl]
    named = _USER in tags or _GROUP in tags
    known = all(tag in (*_SHIFTS, _USER, _GROUP) for tag in tags)
    if acl and (
        not known
        or any(tags.count(tag) != 1 for tag in _ONCE)
        or tags.count(_MASK) > 1
        or (named and _MASK not in tags)
        or any(entry.permissions & ~7 for entry in acl)
    ):
        raise bad
    return acl


def pack(acl: list[AclEntry]) -> bytes:
    """Return the value of an attribute."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def is_minimal(acl: list[AclEntry]) -> bool:
    """Whether a list says no more than a mode can."""
    return all(entry.tag in _ONCE for entry in acl)


def mode_of(acl: list[AclEntry], mode: int) -> int:
    """Return ``mode`` with the permissions that a list stands for; the mask is the group's."""
    has_mask = any(entry.tag == _MASK for entry in acl)
    mode &= ~_PERMISSIONS
    for tag, permissions, _ in acl:
        if tag in _SHIFTS and not (tag == _GROUP_OBJ and has_mask):
            mode |= permissions << _SHIFTS[tag]
    return mode


def with_mode(acl: list[AclEntry], mode: int) -> list[AclEntry]:
    """Return a list after chmod(2): owner, mask (or group) and others as ``mode`` says."""
    has_mask = any(entry.tag == _MASK for entry in acl)
    return [
        entry._replace(permissions=mode >> _SHIFTS[entry.tag] & 7)
        if entry.tag in _SHIFTS and not (entry.tag == _GROUP_OBJ and has_mask)
        else entry
        for entry in acl
    ]


def inherited(default: list[AclEntry], mode: int) -> list[AclEntry]:
    """Return the list of a new file made with ``mode`` in a directory with that default list."""
    limits = with_mode(default, mode)
    return [
        entry._replace(permissions=entry.permissions & limit.permissions)
        for entry, limit in zip(default, limits)
    ]
