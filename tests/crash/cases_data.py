"""Cases of writing and of sizes."""

from __future__ import annotations

from crash_calls import (
    PIECE,
    A,
    B,
    C,
    allocate,
    both,
    case,
    do,
    fsync,
    held,
    hold,
    ino,
    make,
    one_orphan_step,
    pattern,
    punch,
    rename,
    retire,
    truncate,
    unlink,
    unsplit_all,
    write,
    write_held,
)
from crash_setups import (
    extent_of,
    garbage,
    in_another_extent,
    more_scattered,
    one,
    scattered,
    small,
    thin,
    wholes,
)
from crash_tree import PAGE

from pmemfs.fs.volume import Volume

# -- write --------------------------------------------------------------------------------------

case("write-first", make(b"/f"), write(b"/f", 0, b"hello"))
case("write-new", do(small, make(b"/n")), write(b"/n", 0, pattern(B, 5000)))
case("write-new-with-hole", do(small, make(b"/n")), write(b"/n", 2 * PAGE + 5, b"x"))
case("append-in-page", make(b"/f", b"12345"), write(b"/f", 5, b"678901234"))
case("append-across-page", make(b"/f", pattern(A, 4000)), write(b"/f", 4000, pattern(B, 200)))
case("append-overwrites", small, write(b"/f", 2 * PAGE + 3, pattern(B, 2 * PAGE)))
case("append-behind-garbage", garbage, write(b"/f", 200, b"x"))
case("append-over-garbage", garbage, write(b"/f", 100, b"x"))
case("append-page-behind-garbage", garbage, write(b"/f", 5 * PAGE, b"x"))
case("append-piece-behind-garbage", garbage, write(b"/f", PIECE + 5, b"x"))
case(
    "append-whole-behind-garbage",
    garbage,
    write(b"/f", 2 * PIECE, pattern(B, 2 * PAGE)),
    threshold_pages=2,
)
case(
    "fill-hole",
    do(make(b"/f"), write(b"/f", 3 * PAGE, b"z")),
    write(b"/f", PAGE + 7, pattern(B, PAGE)),
)
case(
    "fill-hole-between",
    do(make(b"/f", b"a"), write(b"/f", 2 * PAGE, pattern(C, PAGE))),
    write(b"/f", 100, pattern(B, 2 * PAGE)),
)
both(
    "write-across-pieces",
    make(b"/f"),
    write(b"/f", PIECE - 6, b"123456"),
    write(b"/f", PIECE, b"789012"),
)
case(
    "write-across-pieces-at-once",
    make(b"/f"),
    write(b"/f", PIECE - 6, b"123456789012"),
    write(b"/f", PIECE - 6, b"123456"),
    write(b"/f", PIECE, b"789012"),
)
case("write-whole-new", make(b"/f"), write(b"/f", 5, pattern(B, PAGE)), threshold_pages=1)
case(
    "write-whole-second",
    do(make(b"/f", b"x"), write(b"/f", PIECE, b"y")),
    write(b"/f", 2 * PIECE + 9, b"z"),
    threshold_pages=1,
)
case(
    "write-wholes-across",
    make(b"/f"),
    write(b"/f", PIECE - 50, pattern(B, 100)),
    write(b"/f", PIECE - 50, pattern(B, 100)[:50]),
    write(b"/f", PIECE, pattern(B, 100)[50:]),
    threshold_pages=1,
)
case("promote", small, write(b"/f", 3 * PAGE, pattern(B, 500)), threshold_pages=4)
case(
    "promote-with-hole",
    do(make(b"/f", b"a"), write(b"/f", 3 * PAGE, b"b")),
    write(b"/f", PAGE, pattern(B, PAGE)),
    threshold_pages=3,
)
case(
    "promote-garbage",
    do(garbage, write(b"/f", PAGE + 5, b"b"), truncate(b"/f", PAGE + 1)),
    write(b"/f", 9 * PAGE, b"c"),
    threshold_pages=3,
)
both(
    "promote-dirty",
    small,
    write(b"/f", 5, pattern(B, PAGE)),
    write(b"/f", 3 * PAGE, pattern(B, 500)),
    threshold_pages=4,
)
case(
    "promote-tree",
    do(make(b"/f"), *(write(b"/f", 2 * i * PAGE, b"x") for i in range(10))),
    write(b"/f", PAGE, pattern(B, PAGE)),
    threshold_pages=11,
)
case("overwrite", small, write(b"/f", 0, pattern(B, 64)), durable=False)
case("overwrite-unaligned", small, write(b"/f", PAGE - 35, pattern(B, 99)), durable=False)
both("overwrite-fsync", small, write(b"/f", PAGE - 35, pattern(B, 99)), fsync(b"/f"))
case(
    "overwrite-whole",
    make(b"/f", pattern(A, 3 * PAGE)),
    write(b"/f", 777, pattern(B, 100)),
    durable=False,
    threshold_pages=1,
)
both(
    "overwrite-whole-fsync",
    make(b"/f", pattern(A, 3 * PAGE)),
    write(b"/f", 777, pattern(B, 100)),
    fsync(b"/f"),
    threshold_pages=1,
)
both(
    "overwrite-two-files-fsync",
    small,
    write(b"/g", 8, pattern(B, 64)),
    write(b"/f", 8, pattern(B, 64)),
    fsync(b"/f"),
    fsync(b"/g"),
)
# within one tick of the clock the second overwrite commits nothing: only fsync makes it durable
both(
    "overwrite-twice-fsync",
    small,
    write(b"/f", 8, pattern(B, 64)),
    write(b"/f", 8, pattern(C, 64)),
    fsync(b"/f"),
)
both("overwrite-unsplit", small, write(b"/f", 8, pattern(B, 64)), unsplit_all)

# -- sizes --------------------------------------------------------------------------------------

case("truncate-in-page", small, truncate(b"/f", 2 * PAGE + 5))
case("truncate-to-page", small, truncate(b"/f", PAGE))
case("truncate-to-zero", small, truncate(b"/f", 0))
case("truncate-whole", wholes, truncate(b"/f", PIECE + 77), **one)
case("truncate-whole-to-piece", wholes, truncate(b"/f", PIECE), **one)
case("truncate-whole-to-zero", wholes, truncate(b"/f", 0), **one)
case(
    "truncate-in-hole",
    do(make(b"/f", b"a"), write(b"/f", 9 * PAGE, b"z")),
    truncate(b"/f", 4 * PAGE + 1),
)
case("truncate-up", small, truncate(b"/f", 3 * PAGE + 5))
case("truncate-up-far", small, truncate(b"/f", 1 << 44))
case("truncate-up-garbage", garbage, truncate(b"/f", 500))
case("truncate-up-garbage-page", garbage, truncate(b"/f", 9 * PAGE + 5))
case(
    "truncate-up-garbage-whole", do(wholes, truncate(b"/f", 100)), truncate(b"/f", 2 * PAGE), **one
)
both(
    "truncate-up-pending-zeros",
    small,
    write(b"/f", 512, bytes(512)),
    truncate(b"/f", 512),
    truncate(b"/f", 1024),
)
both(
    "append-over-pending-zeros",
    small,
    write(b"/f", 0, bytes(PAGE)),
    truncate(b"/f", 1),
    write(b"/f", 3000, b"x"),
    durable=False,
)
both(
    "promote-pending-zeros",
    small,
    write(b"/f", 0, bytes(PAGE)),
    truncate(b"/f", 1),
    write(b"/f", 2 * PIECE + 3000, pattern(B, 2 * PAGE)),
    durable=False,
    threshold_pages=2,
)
both(
    "truncate-dirty-and-back",
    small,
    write(b"/f", 0, pattern(B, PAGE)),
    truncate(b"/f", 9),
    truncate(b"/f", PAGE),
    durable=False,
)

case("truncate-long", scattered, truncate(b"/f", 0), **one)
for name, then in (
    ("grow", truncate(b"/f", PIECE + 5)),
    ("write", write(b"/f", PIECE, b"y")),
    ("punch", punch(b"/f", 0, 3)),
    ("allocate", allocate(b"/f", 0, PIECE)),
):
    case(
        f"truncate-long-and-{name}",
        scattered,
        do(truncate(b"/f", 5), then),
        truncate(b"/f", 5),
        one_orphan_step,
        then,
        **one,
    )
both("truncate-long-and-unlink", scattered, truncate(b"/f", 5), unlink(b"/f"), **one)
case(
    "truncate-long-and-unlink-held",
    do(scattered, hold(b"/f")),
    do(truncate(b"/f", 5), unlink(b"/f")),
    truncate(b"/f", 5),
    one_orphan_step,
    unlink(b"/f"),
    **one,
)
case("unlink-long", scattered, unlink(b"/f"), **one)
case("unlink-long-held", do(scattered, hold(b"/f")), unlink(b"/f"), **one)
case("rename-over-long", do(scattered, make(b"/n")), rename(b"/n", b"/f"), **one)
both(
    "orphan-work-cut",
    do(more_scattered, truncate(b"/f", 5)),
    one_orphan_step,
    one_orphan_step,
    **one,
)
both(
    "orphan-work-unlinked",
    do(more_scattered, unlink(b"/f")),
    one_orphan_step,
    one_orphan_step,
    **one,
)
case(
    "orphan-work-middle",
    do(
        scattered,
        make(b"/g", b"1"),
        make(b"/h", b"2"),
        hold(b"/g"),
        unlink(b"/g"),
        unlink(b"/f"),
        hold(b"/h"),
        unlink(b"/h"),
    ),
    one_orphan_step,
    **one,
)

# -- across pages, pieces and kinds of them -----------------------------------------------------

two_pieces = do(make(b"/f"), write(b"/f", PIECE - 2 * PAGE, pattern(A, 3 * PAGE)))
small_and_whole = do(
    make(b"/f"),
    write(b"/f", PIECE - PAGE, pattern(A, PAGE)),
    write(b"/f", PIECE, pattern(B, 5 * PAGE)),
)
kinds = {"threshold_pages": 4}
case("append-at-page-end", make(b"/f", pattern(A, PAGE)), write(b"/f", PAGE, pattern(B, PAGE)))
case("append-one-byte", small, write(b"/f", 3 * PAGE, b"x"))
case("append-at-piece-end", two_pieces, write(b"/f", PIECE + PAGE, b"x"))
case("append-to-whole", make(b"/f", pattern(A, PAGE)), write(b"/f", PAGE, pattern(B, 70)), **one)
case(
    "append-fills-whole",
    do(make(b"/f"), write(b"/f", PIECE - PAGE, pattern(A, PAGE - 9))),
    write(b"/f", PIECE - 9, b"123456789"),
    **one,
)
case("overwrite-page", small, write(b"/f", PAGE, pattern(B, PAGE)), durable=False)
case("overwrite-across-pieces", two_pieces, write(b"/f", PIECE - 5, b"0123456789"), durable=False)
case(
    "overwrite-small-and-whole",
    small_and_whole,
    write(b"/f", PIECE - 5, b"0123456789"),
    durable=False,
    **kinds,
)
both(
    "overwrite-two-files-sync",
    small,
    write(b"/f", 8, b"f" * 16),
    write(b"/g", 8, b"g" * 16),
    lambda v: v.flush_all(),
)
both(
    "overwrite-small-and-whole-fsync",
    small_and_whole,
    write(b"/f", PIECE - 5, b"01234"),
    write(b"/f", PIECE, b"56789"),
    fsync(b"/f"),
    **kinds,
)
both(
    "overwrite-twice-fsync-between",
    small,
    write(b"/f", 8, pattern(B, 24)),
    fsync(b"/f"),
    write(b"/f", 16, pattern(C, 24)),
    durable=False,
)
both(
    "overwrite-and-rename-over", small, write(b"/f", 8, b"new"), fsync(b"/f"), rename(b"/f", b"/g")
)
both("write-new-and-rename-over", small, make(b"/n"), write(b"/n", 0, b"new"), rename(b"/n", b"/g"))
case(
    "overwrite-and-append",
    small,
    write(b"/f", 3 * PAGE - 8, pattern(B, 99)),
    durable=False,
)
case("promote-second-piece", two_pieces, write(b"/f", PIECE + PAGE, pattern(B, 3 * PAGE)), **kinds)
case(
    "promote-overwrites",
    small,
    write(b"/f", PAGE + 5, pattern(B, 3 * PAGE)),
    threshold_pages=4,
)
case(
    "promote-one-of-two-files",
    do(small, write(b"/g", PAGE, pattern(C, 2 * PAGE))),
    write(b"/f", 3 * PAGE, b"x"),
    threshold_pages=4,
)
case("truncate-at-piece", two_pieces, truncate(b"/f", PIECE))
case("truncate-to-first-piece", two_pieces, truncate(b"/f", PIECE - PAGE - 7))
case("truncate-whole-keeps-small", small_and_whole, truncate(b"/f", PIECE - 77), **kinds)
case("truncate-within-whole", small_and_whole, truncate(b"/f", PIECE + PAGE + 9), **kinds)
case("truncate-small-to-hole", small_and_whole, truncate(b"/f", PAGE), **kinds)
tree_map = do(make(b"/f"), *(write(b"/f", 2 * i * PAGE, pattern(A, 16)) for i in range(10)))
case("truncate-tree-in-page", tree_map, truncate(b"/f", 8 * PAGE + 5))
case("truncate-tree-in-hole", tree_map, truncate(b"/f", 7 * PAGE + 5))
case("truncate-tree-to-zero", tree_map, truncate(b"/f", 0))
case("truncate-tree-up", tree_map, truncate(b"/f", 30 * PAGE))
case("truncate-one-byte-less", small, truncate(b"/f", 3 * PAGE - 1))
case("truncate-to-same-size", small, truncate(b"/f", 3 * PAGE))
case("unlink-tree", tree_map, unlink(b"/f"))
case("unlink-small-and-whole", small_and_whole, unlink(b"/f"), **kinds)
both(
    "truncate-and-write-again",
    small,
    truncate(b"/f", 0),
    write(b"/f", 0, pattern(B, 2 * PAGE)),
    truncate(b"/f", 10),
    write(b"/f", PAGE, b"behind a hole that was data"),
)

# -- pages in more places than one --------------------------------------------------------------

no_promotion = {"threshold_pages": 512}
both(
    "two-extents-fsync",
    do(make(b"/f", pattern(A, PAGE)), in_another_extent(write(b"/f", PAGE, pattern(B, PAGE)))),
    write(b"/f", 8, pattern(C, 64)),
    write(b"/f", PAGE + 8, pattern(C, 64)),
    fsync(b"/f"),
    **no_promotion,
)
both(
    "two-extents-unsplit",
    do(make(b"/f", pattern(A, PAGE)), in_another_extent(write(b"/f", PAGE, pattern(B, PAGE)))),
    write(b"/f", 8, pattern(C, 64)),
    write(b"/f", PAGE + 8, pattern(C, 64)),
    unsplit_all,
    **no_promotion,
)


def only_holes(volume: Volume) -> None:
    """Leave room for small pages in the holes of the extent of ``/full`` alone."""
    make(b"/fill")(volume)
    allocate(b"/fill", 0, volume.pool.free_extents * PIECE)(volume)
    retire(volume)
    volume.pool.own(extent_of(volume, b"/f"))


case(
    "two-runs",
    do(thin, make(b"/n"), only_holes),
    write(b"/n", 0, pattern(C, 5 * PAGE)),
    skip=frozenset([b"/fill", b"/full"]),
    **no_promotion,
)

# -- writes of who caches them, and sets the times himself ----------------------------------------

new = pattern(B, 64)
case("write-unstamped", small, write(b"/f", 0, new, stamp=False), durable=False)
both("write-unstamped-fsync", small, write(b"/f", 0, new, stamp=False), fsync(b"/f"))
case("append-unstamped", small, write(b"/f", 3 * PAGE, new, stamp=False))
case("promote-unstamped", small, write(b"/f", 3 * PAGE, new, stamp=False), threshold_pages=4)
both("write-and-flush", small, write(b"/f", 8, new), lambda v: v.flush(ino(v, b"/f")))

# -- files without a name that somebody holds ----------------------------------------------------

nameless = do(small, hold(b"/f"), unlink(b"/f"))
nameless_long = do(scattered, hold(b"/f"), unlink(b"/f"))
case("truncate-nameless", nameless, lambda v: v.setattr(held(v), size=5))
case("truncate-long-nameless", nameless_long, lambda v: v.setattr(held(v), size=5), **one)
case("grow-nameless", nameless, lambda v: v.setattr(held(v), size=5 * PAGE))
case("punch-nameless", nameless, lambda v: v.fallocate(held(v), 3, 0, 1 << 30))
case("allocate-nameless", nameless, lambda v: v.fallocate(held(v), 0, 0, 5 * PAGE))
case("write-nameless", nameless, write_held(pattern(C, 2 * PAGE), 9 * PAGE))
case("fsync-nameless", do(nameless, write_held(new)), lambda v: v.fsync(held(v)))
case("setattr-nameless", nameless, lambda v: v.setattr(held(v), mode=0o600, uid=3))
case("setxattr-nameless", nameless, lambda v: v.setxattr(held(v), b"user.a", b"1"))
case(
    "release-one-of-two-holds",
    do(small, lambda v: v.hold(ino(v, b"/f"), 3), unlink(b"/f")),
    do(lambda v: v.release(held(v), 2), lambda v: v.release(held(v))),
)
