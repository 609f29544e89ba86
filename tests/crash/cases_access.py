"""Cases of access control lists, owners and privileges, and of attributes that callers hand in."""

from __future__ import annotations

import stat

from crash_calls import (
    FILE,
    Run,
    both,
    case,
    do,
    ino,
    make,
    mkdir,
    pattern,
    removexattr,
    setattr_,
    setxattr,
    symlink,
    tmpfile,
    write,
)
from crash_setups import tree

from pmemfs.fs.acl import AclEntry, pack

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
_NOBODY = (1 << 32) - 1


def acl(group: int, mask: int = 7) -> bytes:
    """Return the value of a list: all for the owner, ``group`` for group 1000, and a mask."""
    entries = [(1, 7, _NOBODY), (4, 5, _NOBODY), (8, group, 1000), (16, mask, _NOBODY)]
    return pack([AclEntry(*entry) for entry in [*entries, (32, 1, _NOBODY)]])


MINIMAL = pack([AclEntry(tag, bits, _NOBODY) for tag, bits in ((1, 6), (4, 4), (32, 4))])
F = b"/d/f"


def create(path: bytes, **more: int) -> Run:
    """Make a file with arguments that `make` has no need of."""
    parent, _, name = path.rpartition(b"/")
    return lambda v: v.create(ino(v, parent), name, FILE, **more)


# -- lists ----------------------------------------------------------------------------------------

listed = do(tree, setxattr(F, ACCESS, acl(5)))
inherits = do(tree, setxattr(b"/d", DEFAULT, acl(5)))
case("acl-set", tree, setxattr(F, ACCESS, acl(5)))
case("acl-set-beside-others", do(tree, setxattr(F, b"user.a", b"1")), setxattr(F, ACCESS, acl(5)))
case("acl-set-minimal", listed, setxattr(F, ACCESS, MINIMAL))
case("acl-replace", listed, setxattr(F, ACCESS, acl(7, mask=5)))
case("acl-remove", listed, removexattr(F, ACCESS))
case(
    "acl-set-drops-set-gid",
    do(tree, setattr_(F, mode=0o2775)),
    lambda v: v.setxattr(ino(v, F), ACCESS, acl(5), drop_set_gid=True),
)
case("acl-chmod", listed, setattr_(F, mode=0o600))
case("acl-chown", do(listed, setattr_(F, mode=0o6775)), setattr_(F, uid=3, gid=4))
case("acl-default-set", tree, setxattr(b"/d", DEFAULT, acl(5)))
case("acl-default-set-empty", inherits, setxattr(b"/d", DEFAULT, pack([])))
case("acl-default-remove", inherits, removexattr(b"/d", DEFAULT))
case("acl-inherited-by-file", inherits, create(b"/d/n", umask=0o77))
case("acl-inherited-by-directory", inherits, mkdir(b"/d/n"))
case("acl-inherited-by-nameless", inherits, tmpfile(b"/d"))
case("acl-not-inherited-by-symlink", inherits, symlink(b"/d/n", b"target"))

# -- owners and privileges ------------------------------------------------------------------------

set_id = do(tree, setattr_(F, mode=0o6755))
capable = do(set_id, setxattr(F, b"security.capability", b"c"))
case("create-owned", tree, create(b"/d/n", uid=5, gid=6, umask=0o27))
case(
    "mkdir-owned",
    tree,
    lambda v: v.mkdir(ino(v, b"/d"), b"n", 0o777, uid=5, gid=6, umask=0o27),
)
case("symlink-owned", tree, lambda v: v.symlink(ino(v, b"/d"), b"n", b"target", uid=5, gid=6))
case(
    "tmpfile-owned",
    tree,
    lambda v: v.tmpfile(ino(v, b"/d"), 0o777, uid=5, gid=6, umask=0o27),
)
case("create-socket", tree, make(b"/d/n", mode=stat.S_IFSOCK | 0o600))
case("create-character-device", tree, make(b"/d/n", mode=stat.S_IFCHR | 0o600, rdev=0x103))
case("setattr-drops-privileges", capable, setattr_(F, drop_privileges=True))
case("setattr-mode-drops-privileges", capable, setattr_(F, mode=0o700, drop_privileges=True))
case(
    "setattr-all",
    do(capable, setxattr(F, ACCESS, acl(5))),
    setattr_(F, mode=0o700, uid=9, gid=8, drop_privileges=True, atime_ns=7, mtime_ns=6, ctime_ns=5),
)
case("setattr-times-handed-in", tree, setattr_(F, mtime_ns=7, ctime_ns=8))
case("setattr-nothing", tree, setattr_(F))
case(
    "drop-capability-alone",
    capable,
    lambda v: v.drop_privileges(ino(v, F), set_id=False),
)
both(
    "drop-privileges-and-write",
    capable,
    lambda v: v.drop_privileges(ino(v, F)),
    write(F, 100, pattern(b"B", 99)),
)
case("setattr-of-symlink", do(tree, symlink(b"/s", b"t")), setattr_(b"/s", uid=3, mtime_ns=9))
