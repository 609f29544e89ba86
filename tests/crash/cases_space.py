"""Cases of allocating and giving back: pages, map nodes, extents, tables, inode chunks."""

from __future__ import annotations

from unittest import mock

from crash_calls import (
    FILE,
    PIECE,
    A,
    B,
    C,
    allocate,
    both,
    case,
    close,
    copy,
    discard,
    do,
    fsync,
    hold,
    idle,
    ino,
    make,
    mkdir,
    pattern,
    preallocate,
    punch,
    read,
    release_idle,
    removexattr,
    retire,
    rmdir,
    setxattr,
    symlink,
    truncate,
    unlink,
    unsplit_all,
    write,
    zero,
)
from crash_setups import (
    garbage,
    one,
    scattered,
    small,
    tree,
    wholes,
)
from crash_tree import PAGE

from pmemfs.errors import DamagedImageError, no_space
from pmemfs.fs import damage
from pmemfs.fs.volume import ROOT_INO, Volume

# -- allocate and punch -------------------------------------------------------------------------

case(
    "allocate-small",
    make(b"/f", b"abc"),
    allocate(b"/f", PAGE + 5, 2 * PAGE),
    allocate(b"/f", PAGE + 5, PAGE - 5 + PAGE + 5),
    threshold_pages=256,
)
both("allocate-existing", small, allocate(b"/f", 0, PAGE), allocate(b"/f", PAGE, 2 * PAGE))
case("allocate-beyond-garbage", garbage, allocate(b"/f", 50, 500))
case("allocate-whole", make(b"/f"), allocate(b"/f", 0, 3 * PAGE), **one)
case(
    "allocate-pieces",
    make(b"/f"),
    allocate(b"/f", PIECE - PAGE, 2 * PAGE),
    allocate(b"/f", PIECE - PAGE, PAGE),
    allocate(b"/f", PIECE, PAGE),
    **one,
)
case("preallocate", make(b"/f", b"abc"), preallocate(b"/f", PAGE + 5, 2 * PAGE))
case("preallocate-same-page", garbage, preallocate(b"/f", 0, PAGE))
case("preallocate-whole", garbage, preallocate(b"/f", PAGE, 3 * PAGE), threshold_pages=4)
prealloc = do(
    make(b"/f", pattern(A, PAGE)),
    truncate(b"/f", 9),
    preallocate(b"/f", 0, 5 * PAGE),
    preallocate(b"/f", PIECE, 2 * PAGE),
)
case("write-preallocated", prealloc, write(b"/f", 3 * PAGE + 5, pattern(B, 99)))
case("write-preallocated-next-piece", prealloc, write(b"/f", PIECE + 5, pattern(B, 99)))
case("truncate-up-preallocated", prealloc, truncate(b"/f", PIECE + 500))
case("truncate-preallocated", prealloc, truncate(b"/f", 5))
case("promote-preallocated", prealloc, write(b"/f", 5 * PAGE, b"x"), threshold_pages=6)
both(
    "preallocated-dirty-tail",
    prealloc,
    write(b"/f", 3 * PAGE + 5, pattern(B, 99)),
    truncate(b"/f", 9),
    preallocate(b"/f", 0, 5 * PAGE),
    truncate(b"/f", 4 * PAGE),
)
both("zero-range", small, punch(b"/f", 100, PAGE), allocate(b"/f", 100, PAGE))
case(
    "zero-range-at-once",
    small,
    lambda v: v.fallocate(ino(v, b"/f"), 0x10, 100, 2 * PAGE),
    lambda v: v.fallocate(ino(v, b"/f"), 3, 100, 2 * PAGE),
    lambda v: v.fallocate(ino(v, b"/f"), 0, 100, 2 * PAGE),
    modelled=False,
)
case(
    "copy-range",
    small,
    lambda v: v.copy_range(ino(v, b"/f"), 9, ino(v, b"/g"), PAGE + 1, 5000),
    modelled=False,
    durable=False,
)
case(
    "copy-range-of-hole-promotes",
    do(small, make(b"/n"), truncate(b"/n", 8 * PAGE)),
    lambda v: v.copy_range(ino(v, b"/n"), 0, ino(v, b"/f"), PAGE + 1, 4 * PAGE),
    modelled=False,
    durable=False,
    threshold_pages=5,
)
case("punch-in-page", small, punch(b"/f", 100, 200), atomic=True)
both(
    "punch-then-overwrite",
    small,
    punch(b"/f", 96, 208),
    write(b"/f", 104, pattern(B, 160)),
    fsync(b"/f"),
)
case("punch-unaligned", small, punch(b"/f", 100, 2 * PAGE), atomic=True)
case("punch-page", small, punch(b"/f", PAGE, PAGE), atomic=True)
case(
    "punch-tail", do(small, truncate(b"/f", 2 * PAGE + 9)), punch(b"/f", PAGE, 1 << 40), atomic=True
)
case("punch-all", small, punch(b"/f", 0, 1 << 40), atomic=True)
both("punch-dirty", small, write(b"/f", 0, pattern(B, PAGE)), punch(b"/f", 16, 100), durable=False)
case(
    "punch-in-whole",
    wholes,
    punch(b"/f", 100, 6000),
    **one,
    atomic=True,
)
case(
    "punch-covers-whole",
    wholes,
    punch(b"/f", PIECE, PIECE),
    **one,
    atomic=True,
)
case(
    "punch-across",
    wholes,
    punch(b"/f", PIECE - 100, PIECE + 200),
    punch(b"/f", PIECE - 100, 100),
    punch(b"/f", PIECE, PIECE),
    punch(b"/f", 2 * PIECE, 100),
    **one,
)
case(
    "punch-tree",
    do(make(b"/f"), *(write(b"/f", 2 * i * PAGE, b"x") for i in range(10))),
    punch(b"/f", 4 * PAGE, 5 * PAGE),
    atomic=True,
)
case(
    "punch-full-runs",
    do(make(b"/f", pattern(A, 3 * PAGE)), *(write(b"/f", 2 * i * PAGE, b"x") for i in range(2, 9))),
    punch(b"/f", PAGE, PAGE),
    atomic=True,
)

# -- maps ---------------------------------------------------------------------------------------

full_runs = do(make(b"/f", b"x"), *(write(b"/f", 2 * i * PAGE, b"x") for i in range(1, 9)))
case("map-becomes-tree", full_runs, write(b"/f", 18 * PAGE, b"y"))
case("map-becomes-tree-whole", scattered, write(b"/f", 20 * PIECE, b"y"), **one)
case(
    "map-tree-grows",
    do(full_runs, write(b"/f", 18 * PAGE, b"y")),
    write(b"/f", 17 * PIECE + 5, b"z"),
)
case(
    "map-tree-grows-twice",
    do(full_runs, write(b"/f", 18 * PAGE, b"y")),
    write(b"/f", 17 * 512 * PIECE + 5, b"z"),
)
case("map-tree-grows-most", make(b"/f", b"a"), write(b"/f", (1 << 44) - 5, b"z"))
case("map-tree-new-node", do(full_runs, write(b"/f", 18 * PAGE, b"y")), write(b"/f", PIECE, b"z"))
case(
    "map-tree-becomes-runs",
    do(full_runs, write(b"/f", 18 * PAGE, b"y"), write(b"/f", 17 * PIECE, b"z")),
    truncate(b"/f", 0),
)
case(
    "map-tree-loses-node",
    do(full_runs, write(b"/f", 18 * PAGE, b"y"), write(b"/f", 17 * 512 * PIECE + 5, b"z")),
    punch(b"/f", 17 * 512 * PIECE, PAGE),
)
case(
    "map-tree-promotes",
    do(full_runs, write(b"/f", 18 * PAGE, b"y")),
    write(b"/f", 19 * PAGE, b"z"),
    threshold_pages=11,
)

# -- extents ------------------------------------------------------------------------------------


def no_slots(volume: Volume) -> None:
    """Leave the reserve without a free slot, as with 64 split extents."""
    slots = volume.tables._slots
    slots._free[slots._reserve] = 0


def no_extents(volume: Volume) -> None:
    """Let no extent be found, as on a full device."""

    def find() -> int:
        raise no_space()

    volume.pool._find_free = find


def one_slot(volume: Volume) -> None:
    slots = volume.tables._slots
    slots._free[slots._reserve] = 1 << 63


def fill_device(volume: Volume) -> None:
    """Take every free extent: three for one file, the others for another."""
    volume.create(ROOT_INO, b"full", FILE)
    make(b"/f", b"0")(volume)
    for piece in range(1, 3):
        write(b"/f", piece * PIECE, b"f")(volume)
    for piece in range(volume.pool.free_extents):
        write(b"/full", piece * PIECE, b"full")(volume)
    assert not volume.pool.free_extents


full = {"threshold_pages": 1, "skip": frozenset([b"/full"])}
two_extents = do(make(b"/f", pattern(A, 511 * PAGE)), make(b"/g", pattern(B, 50)), unsplit_all)
case("split", do(small, unsplit_all), read(b"/f"))
case("unsplit", small, unsplit_all)
case("split-takes-extent", do(small, unsplit_all, no_slots), read(b"/f"))
case("unsplit-gives-extent-back", do(small, unsplit_all, no_slots, read(b"/f")), unsplit_all)
both(
    "split-steals-table",
    do(two_extents, one_slot, no_extents, read(b"/g")),
    write(b"/g", 8, pattern(C, 16)),
    read(b"/f", 0, 100),
    fsync(b"/g"),
    threshold_pages=512,
)
case("free-orphans", do(scattered, unlink(b"/f")), lambda v: v.free_orphans(), **one)
case("discard", do(wholes, unlink(b"/f")), discard, **one)
case("release-idle", do(small, unlink(b"/f"), unlink(b"/g")), release_idle)
both(
    "take-returned",
    do(fill_device, punch(b"/f", 0, 2 * PIECE)),
    write(b"/f", PIECE + 100, pattern(B, 100)),
    **full,
)
both(
    "reuse-extent",
    do(fill_device, punch(b"/f", 0, PIECE)),
    punch(b"/f", PIECE, PIECE),
    write(b"/f", PIECE + 100, pattern(B, 100)),
    **full,
)
both("reuse-discarded", wholes, unlink(b"/f"), discard, make(b"/n"), write(b"/n", 5, b"n"), **one)
both(
    "reuse-dirty-pages",
    do(small, make(b"/n")),
    write(b"/f", 0, pattern(B, 3 * PAGE)),
    unlink(b"/f"),
    write(b"/n", 0, b"n"),
    write(b"/n", PAGE + 3, b"m"),
)
both(
    "reuse-dirty-extent",
    do(two_extents, make(b"/n")),
    write(b"/g", 0, pattern(C, 50)),
    unlink(b"/f"),
    unlink(b"/g"),
    release_idle,
    discard,
    write(b"/n", 0, bytes(400 * PAGE)),
    truncate(b"/n", 401 * PAGE),
    threshold_pages=300,
)
both(
    "reuse-metadata-page",
    do(tree, setxattr(b"/d/f", b"user.a", b"1" * 50)),
    removexattr(b"/d/f", b"user.a"),
    symlink(b"/s", b"t" * 500),
    mkdir(b"/m"),
    make(b"/m/x"),
)
freed = do(small, make(b"/n"), unlink(b"/f"), retire)
case("write-to-freed-page", freed, write(b"/n", 5, b"n"))
case("write-to-freed-pages-with-hole", freed, write(b"/n", PAGE + 5, pattern(C, PAGE)))
case("append-to-freed-page", freed, write(b"/g", PAGE, b"x"))
case("allocate-freed-pages", freed, allocate(b"/n", 5, 2 * PAGE))
both("free-and-write", do(small, make(b"/n")), unlink(b"/f"), retire, write(b"/n", 5, b"n"))
both(
    "free-and-name",
    do(tree, setxattr(b"/d/f", b"user.a", b"1" * 999)),
    removexattr(b"/d/f", b"user.a"),
    retire,
    mkdir(b"/m"),
    make(b"/m/x"),
    symlink(b"/m/s", b"t" * 300),
)
both("reuse-inode", tree, unlink(b"/d/f"), make(b"/e/f"), make(b"/e/g"))

# -- inode chunks -------------------------------------------------------------------------------


def fill_chunk(volume: Volume) -> None:
    """Use all inodes of chunk 0 but the last."""
    many = volume.mkdir(ROOT_INO, b"many", 0o755).ino
    for number in range(8192 - 2 - 2):
        volume.create(many, b"%d" % number, FILE)
    volume.create(ROOT_INO, b"f", FILE)


many = {"skip": frozenset([b"/many"]), "keep": True}
both("inode-chunk", fill_chunk, make(b"/last"), make(b"/next"), **many)
case(
    "inode-chunk-release",
    do(fill_chunk, make(b"/last"), make(b"/next"), unlink(b"/last"), unlink(b"/next")),
    release_idle,
    **many,
)

# -- unmounting ---------------------------------------------------------------------------------

case("unmount", tree, close)
case("unmount-dirty", do(tree, write(b"/d/g", 8, b"dirty")), close)
case("unmount-orphans", do(scattered, unlink(b"/f")), close, **one)
case("unmount-held", do(tree, hold(b"/d/g"), unlink(b"/d/g")), close)
case("unmount-empty", do(garbage, unlink(b"/f"), unlink(b"/g")), close)
case("unmount-xattrs", do(tree, setxattr(b"/d/f", b"user.a", b"1")), close)
case("unmount-returned", do(wholes, unlink(b"/f")), close, **one)

# -- more of fallocate --------------------------------------------------------------------------

case("allocate-in-hole", do(make(b"/f"), write(b"/f", 5 * PAGE, b"z")), allocate(b"/f", PAGE, PAGE))
case("allocate-beyond", small, allocate(b"/f", 3 * PAGE, 2 * PAGE))
case("allocate-promotes", small, allocate(b"/f", 3 * PAGE, 3 * PAGE), threshold_pages=6)
case("preallocate-behind-end", small, preallocate(b"/f", 3 * PAGE, PAGE))
case("preallocate-next-piece", small, preallocate(b"/f", PIECE, PAGE))
both(
    "preallocate-and-append",
    small,
    preallocate(b"/f", 3 * PAGE, PAGE),
    write(b"/f", 3 * PAGE, b"x"),
)
case("zero-range-in-page", small, zero(b"/f", 100, 200), atomic=True)
case(
    "zero-range-keep-size",
    small,
    lambda v: v.fallocate(ino(v, b"/f"), 0x11, 2 * PAGE, 2 * PAGE),
    punch(b"/f", 2 * PAGE, 2 * PAGE),
    preallocate(b"/f", 2 * PAGE, 2 * PAGE),
    modelled=False,
)
case("zero-range-of-whole", wholes, zero(b"/f", 100, PAGE), atomic=True, **one)
both(
    "punch-cuts-dirty-words",
    small,
    write(b"/f", 40, pattern(B, 24)),
    punch(b"/f", 50, PAGE - 42),
    durable=False,
)
case("punch-hole", do(make(b"/f"), write(b"/f", 5 * PAGE, b"z")), punch(b"/f", PAGE, PAGE))
case("punch-last-byte", small, punch(b"/f", 3 * PAGE - 1, 1), atomic=True)
case("copy-range-appends", small, copy(b"/g", 0, b"/f", 3 * PAGE, 100))
case("copy-range-to-new", do(small, make(b"/n")), copy(b"/f", PAGE + 5, b"/n", 0, PAGE))

# -- background steps -----------------------------------------------------------------------------

case("reclaim-orphan", do(scattered, unlink(b"/f")), idle, **one)
case("reclaim-unsplit", do(small, write(b"/f", 8, b"dirty")), idle)
case("reclaim-release", do(small, unlink(b"/f"), unlink(b"/g"), unsplit_all), idle)
case("reclaim-discard", do(wholes, unlink(b"/f"), unsplit_all), idle, **one)
both(
    "reclaim-all",
    do(small, write(b"/g", PIECE, pattern(C, PAGE)), unlink(b"/f"), unlink(b"/g")),
    *[idle] * 5,
)
both(
    "reclaim-between-writes",
    small,
    write(b"/f", 8, b"dirty"),
    idle,
    write(b"/f", 24, b"again"),
    idle,
)
both(
    "discard-and-take",
    do(wholes, unlink(b"/f")),
    discard,
    make(b"/n"),
    write(b"/n", 9, b"n"),
    **one,
)
case(
    "discard-many",
    do(
        wholes,
        make(b"/g"),
        *(write(b"/g", i * PIECE, b"g") for i in range(5)),
        unlink(b"/f"),
        unlink(b"/g"),
    ),
    discard,
    **one,
)
case("unsplit-dirty", do(small, write(b"/f", 8, pattern(B, 64))), unsplit_all)
case("unsplit-two", do(two_extents, read(b"/f"), read(b"/g")), unsplit_all, threshold_pages=512)
case(
    "release-idle-metadata",
    do(mkdir(b"/d"), make(b"/d/f"), unlink(b"/d/f"), rmdir(b"/d")),
    release_idle,
)

# -- damage ---------------------------------------------------------------------------------------


def find_damage(volume: Volume) -> None:
    """Turn read-only, as a call does that meets damage."""
    with mock.patch.object(damage, "log"):
        assert volume.note_error(DamagedImageError("made up"))


case("find-damage", do(tree, write(b"/d/g", 8, b"dirty")), find_damage, durable=False)
case("unmount-damaged", do(tree, write(b"/d/g", 8, b"dirty"), find_damage), close)
