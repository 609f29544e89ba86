"""Cases of names, directories, attributes and links."""

from __future__ import annotations

import stat

from crash_calls import (
    FILE,
    Run,
    both,
    case,
    do,
    hold,
    ino,
    link,
    make,
    mkdir,
    nothing,
    read,
    release_held,
    removexattr,
    rename,
    rmdir,
    setattr_,
    setxattr,
    symlink,
    truncate,
    unlink,
)
from crash_setups import (
    tree,
)

from pmemfs.fs.volume import Volume

case("create-first", nothing, make(b"/a"))
case("create", tree, make(b"/d/new"))
case("create-reuse", do(tree, unlink(b"/d/f")), make(b"/d/new"))
case("create-fifo", tree, make(b"/d/p", mode=stat.S_IFIFO | 0o600))
case("create-device", tree, make(b"/d/p", mode=stat.S_IFBLK | 0o600, rdev=0x801, uid=5, gid=6))
case("create-setgid", do(tree, setattr_(b"/d", mode=0o2775, gid=7)), mkdir(b"/d/new"))
case("mkdir", tree, mkdir(b"/d/new"))
case("symlink-inline", tree, symlink(b"/d/s", b"t" * 136))
case("symlink-long", tree, symlink(b"/d/s", b"t" * 137))
case("symlink-longest", tree, symlink(b"/d/s", b"t" * 4095))
case("link", tree, link(b"/d/f", b"/e/l"))
case("unlink-empty", do(tree, make(b"/n")), unlink(b"/n"))
case("unlink-small", tree, unlink(b"/d/g"))
case("unlink-one-of-two", do(tree, link(b"/d/f", b"/e/l")), unlink(b"/d/f"))
case(
    "unlink-last-in-directory",
    do(tree, unlink(b"/e/h"), rmdir(b"/e/empty"), make(b"/e/x")),
    unlink(b"/e/x"),
)
case(
    "unlink-symlink-xattr",
    do(tree, symlink(b"/d/s", b"t" * 999), setxattr(b"/d/s", b"user.a", b"1")),
    unlink(b"/d/s"),
)
case("unlink-held", do(tree, hold(b"/d/g")), unlink(b"/d/g"))
case("unlink-two-held", do(tree, hold(b"/d/g"), hold(b"/d/f"), unlink(b"/d/f")), unlink(b"/d/g"))
case("release-held", do(tree, hold(b"/d/g"), unlink(b"/d/g")), release_held)
case(
    "release-two-held",
    do(
        tree,
        hold(b"/d/g"),
        hold(b"/d/f"),
        hold(b"/e/h"),
        unlink(b"/d/f"),
        unlink(b"/d/g"),
        unlink(b"/e/h"),
    ),
    release_held,
)
case("rmdir", tree, rmdir(b"/d/empty"))
case("rmdir-held", do(tree, hold(b"/d/empty")), rmdir(b"/d/empty"))
case("rename-absent", tree, rename(b"/d/f", b"/d/new"))
case("rename-other-directory", tree, rename(b"/d/f", b"/e/f"))
case("rename-over-file", tree, rename(b"/d/f", b"/d/g"))
case("rename-over-file-other-directory", tree, rename(b"/d/g", b"/e/h"))
case("rename-over-held", do(tree, hold(b"/e/h")), rename(b"/d/g", b"/e/h"))
case("rename-over-one-of-two", do(tree, link(b"/e/h", b"/e/l")), rename(b"/d/g", b"/e/h"))
case("rename-same-inode", do(tree, link(b"/d/f", b"/e/l")), rename(b"/d/f", b"/e/l"))
case("rename-directory-over-empty", tree, rename(b"/d/empty", b"/e/empty"))
case("rename-directory-over-sibling", do(tree, mkdir(b"/d/two")), rename(b"/d/two", b"/d/empty"))
case("rename-directory-moves", tree, rename(b"/d", b"/e/d"))
case("rename-directory-in-place", tree, rename(b"/d", b"/new"))
case("rename-noreplace", tree, rename(b"/d/f", b"/e/new", 1))
case("rename-symlink-over-file", do(tree, symlink(b"/s", b"x")), rename(b"/s", b"/d/g"))
case("exchange-files", tree, rename(b"/d/f", b"/d/g", 2))
case("exchange-file-directory", tree, rename(b"/d/f", b"/e/empty", 2))
case("exchange-directories", tree, rename(b"/d/empty", b"/e", 2))

case("tmpfile", tree, lambda v: v.tmpfile(ino(v, b"/d"), 0o600))
case(
    "tmpfile-link",
    do(tree, lambda v: v.tmpfile(ino(v, b"/d"), 0o600), hold(b"/e/h"), unlink(b"/e/h")),
    lambda v: v.link(max(v.inodes.holds), ino(v, b"/d"), b"named"),
)

# -- directories --------------------------------------------------------------------------------


def names(volume: Volume, count: int, bits: int = 0, prefix: int = 0) -> list[bytes]:
    """Return long names, 15 of which fill a leaf, whose hashes share the first ``bits``."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        name = b"%0240d" % number
        if volume._directories.hash(name) >> (63 - bits) == prefix:
            found.append(name)
        number += 1
    return found


def fill(count: int, bits: int = 0, prefix: int = 0, *, skip: int = 0) -> Run:
    def run(volume: Volume) -> None:
        parent = ino(volume, b"/d")
        for name in names(volume, count, bits, prefix)[skip:]:
            volume.create(parent, name, FILE)

    return run


def empty_out(count: int, bits: int = 0, prefix: int = 0, *, skip: int = 0) -> Run:
    def run(volume: Volume) -> None:
        parent = ino(volume, b"/d")
        for name in names(volume, count, bits, prefix)[skip:]:
            volume.unlink(parent, name)

    return run


directory = mkdir(b"/d")
case("directory-leaf-split-root", do(directory, fill(15)), fill(16, skip=15))
case("directory-leaf-split", do(directory, fill(15, 1, 0), fill(15, 1, 1)), fill(16, 1, 0, skip=15))
case("directory-push-down-deep", do(directory, fill(15, 9, 5)), fill(16, 9, 5, skip=15))
case(
    "directory-push-down-below-node",
    do(directory, fill(17, 3, 1), fill(15, 9, 300)),
    fill(16, 9, 300, skip=15),
)
case("directory-pack", do(directory, fill(15), empty_out(8, skip=0)), make(b"/d/" + b"x" * 250))
case(
    "directory-rename-splits",
    do(directory, fill(15), make(b"/n")),
    rename(b"/n", b"/d/" + b"y" * 200),
)
case(
    "directory-merge",
    do(directory, fill(8, 1, 0), fill(8, 1, 1), empty_out(8, 1, 1, skip=1)),
    empty_out(1, 1, 1),
)
case(
    "directory-merge-collapses",
    do(directory, fill(16, 9, 5), empty_out(16, 9, 5, skip=1)),
    empty_out(1, 9, 5),
)
case(
    "directory-merge-deep",
    do(directory, fill(17, 3, 1), fill(16, 9, 300), empty_out(16, 9, 300, skip=1)),
    empty_out(1, 9, 300),
)

# -- attributes ---------------------------------------------------------------------------------

attributes = do(tree, setxattr(b"/d/f", b"user.a", b"1" * 50), setxattr(b"/d/f", b"user.b", b"2"))
case("xattr-first", tree, setxattr(b"/d/f", b"user.a", b"1"))
case("xattr-on-directory", tree, setxattr(b"/d", b"security.x", bytes(300)))
case("xattr-second", attributes, setxattr(b"/d/f", b"user.c", b"3"))
case("xattr-replace", attributes, setxattr(b"/d/f", b"user.a", b"4" * 3000))
case("xattr-remove", attributes, removexattr(b"/d/f", b"user.a"))
case(
    "xattr-remove-last",
    do(attributes, removexattr(b"/d/f", b"user.a")),
    removexattr(b"/d/f", b"user.b"),
)
case("setattr-mode", tree, setattr_(b"/d/f", mode=0o600))
case("setattr-owner", do(tree, setattr_(b"/d/f", mode=0o6755)), setattr_(b"/d/f", uid=3, gid=4))
case(
    "setattr-owner-capability",
    do(tree, setxattr(b"/d/f", b"security.capability", b"c"), setxattr(b"/d/f", b"user.a", b"1")),
    setattr_(b"/d/f", uid=3),
)
case(
    "drop-privileges",
    do(tree, setattr_(b"/d/f", mode=0o6755)),
    lambda v: v.drop_privileges(ino(v, b"/d/f")),
)
case("set-flags", tree, lambda v: v.set_inode_flags(ino(v, b"/d/f"), 0x20))
case("setattr-times", tree, setattr_(b"/d", atime_ns=-5, mtime_ns=1 << 62))
both("setattr-size-and-mode", tree, truncate(b"/d/g", 50), setattr_(b"/d/g", mode=0o400))
case("read-relatime", tree, read(b"/d/f"), atime="relatime")
