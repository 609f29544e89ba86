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
    link_held,
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
    tmpfile,
    truncate,
    unlink,
    write_held,
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

case("tmpfile", tree, tmpfile(b"/d"))
case(
    "tmpfile-link",
    do(tree, hold(b"/e/h"), unlink(b"/e/h"), tmpfile(b"/d")),
    link_held(b"/d/named"),
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

# -- more kinds of targets ------------------------------------------------------------------------

links = do(tree, symlink(b"/d/s", b"target"), make(b"/d/p", mode=stat.S_IFIFO | 0o600))
case("link-symlink", links, link(b"/d/s", b"/e/l"))
case("link-first-in-directory", do(tree, mkdir(b"/n")), link(b"/d/f", b"/n/l"))
case("unlink-fifo", links, unlink(b"/d/p"))
case("rename-file-over-symlink", links, rename(b"/d/g", b"/d/s"))
case("rename-file-over-fifo", links, rename(b"/d/g", b"/d/p"))
case("rename-fifo-over-file", links, rename(b"/d/p", b"/e/h"))
case(
    "rename-over-symlink-long",
    do(tree, symlink(b"/d/s", b"t" * 999)),
    rename(b"/d/g", b"/d/s"),
)
case(
    "rename-over-with-xattrs",
    do(tree, setxattr(b"/e/h", b"user.a", b"1")),
    rename(b"/d/g", b"/e/h"),
)
case("rename-held-directory-over", do(tree, hold(b"/e/empty")), rename(b"/d/empty", b"/e/empty"))
case(
    "rename-last-out-of-directory", do(tree, mkdir(b"/n"), make(b"/n/x")), rename(b"/n/x", b"/d/x")
)
case("rename-longer-name", tree, rename(b"/d/f", b"/d/" + b"f" * 255))
case("rename-over-one-link-of-itself", do(tree, link(b"/d/f", b"/d/l")), rename(b"/d/g", b"/d/l"))
case("exchange-links-of-one", do(tree, link(b"/d/f", b"/e/l")), rename(b"/d/f", b"/e/h", 2))
case("exchange-symlink-directory", links, rename(b"/d/s", b"/e", 2))
case("exchange-directories-across", tree, rename(b"/d/empty", b"/e/empty", 2))
case("tmpfile-release", do(tree, tmpfile(b"/d")), release_held)
case(
    "tmpfile-link-written",
    do(tree, tmpfile(b"/d"), write_held(b"written before it has a name")),
    link_held(b"/e/named"),
)
case("xattr-create-only", attributes, lambda v: v.setxattr(ino(v, b"/d/f"), b"user.n", b"5", 1))
case("xattr-replace-only", attributes, lambda v: v.setxattr(ino(v, b"/d/f"), b"user.b", b"5", 2))
case("xattr-on-symlink", links, setxattr(b"/d/s", b"trusted.x", b"6"))
case("xattr-fills-page", tree, setxattr(b"/d/f", b"user.a", bytes(range(250)) * 16))
case(
    "xattr-remove-from-directory",
    do(tree, setxattr(b"/d", b"user.a", b"1")),
    removexattr(b"/d", b"user.a"),
)
case("setattr-root", tree, setattr_(b"/", mode=0o700, uid=1))
case(
    "clear-flags",
    do(tree, lambda v: v.set_inode_flags(ino(v, b"/d/f"), 0x10)),
    lambda v: v.set_inode_flags(ino(v, b"/d/f"), 0),
)
case("rmdir-with-xattrs", do(tree, setxattr(b"/d/empty", b"user.a", b"1")), rmdir(b"/d/empty"))
both("create-and-remove", tree, make(b"/d/n"), unlink(b"/d/n"))
both(
    "make-and-remove-directory",
    tree,
    mkdir(b"/d/n"),
    make(b"/d/n/x"),
    unlink(b"/d/n/x"),
    rmdir(b"/d/n"),
)
both(
    "swap-by-three-renames",
    tree,
    rename(b"/d/f", b"/t"),
    rename(b"/d/g", b"/d/f"),
    rename(b"/t", b"/d/g"),
)
