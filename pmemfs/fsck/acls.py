"""Say what is wrong with the value of an access control list, an attribute ``system.posix_acl_*``.

The form is the kernel's: a version, then entries of tag, permissions and id. A mount parses it
whenever it makes a file in the directory, or changes the mode: what it cannot parse is in the way.
"""

from __future__ import annotations

import struct

VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_ALL_PERMISSIONS = 0o7
_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHERS = (1 << bit for bit in range(6))
_EXACTLY_ONE = {_OWNER: "the owner", _OWNING_GROUP: "the group", _OTHERS: "all others"}
_TAGS = {*_EXACTLY_ONE, _USER, _GROUP, _MASK}


def acl_problem(value: bytes) -> str | None:
    """Return why a value is no access control list, or None."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        return f"of {len(value)} bytes, which no access control list has"
    (version,) = _HEADER.unpack_from(value)
    if version != VERSION:
        return f"an access control list of version {version}, not {VERSION}"
    entries = list(_ENTRY.iter_unpack(value[_HEADER.size :]))
    if any(tag not in _TAGS or permissions > _ALL_PERMISSIONS for tag, permissions, _ in entries):
        return "an access control list with an entry that cannot be"
    tags = [tag for tag, _, _ in entries]
    for tag, who in _EXACTLY_ONE.items():
        if tags.count(tag) != 1:
            return f"an access control list that does not name {who} once"
    is_extended = _USER in tags or _GROUP in tags
    if tags.count(_MASK) > 1 or (is_extended and _MASK not in tags):
        return "an access control list without the one mask that it needs"
    return None
