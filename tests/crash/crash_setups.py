"""Trees that several cases start from."""

from __future__ import annotations

from crash_calls import (
    PIECE,
    A,
    B,
    C,
    Run,
    do,
    ino,
    make,
    mkdir,
    pattern,
    truncate,
    unlink,
    write,
)
from crash_tree import PAGE

from pmemfs.fs.volume import Volume
from pmemfs.layout.geometry import pfn_to_extent
from pmemfs.layout.records import Kind

tree = do(
    mkdir(b"/d"),
    mkdir(b"/e"),
    make(b"/d/f", pattern(A, 100)),
    make(b"/d/g", pattern(B, 9000)),
    mkdir(b"/d/empty"),
    mkdir(b"/e/empty"),
    make(b"/e/h", b"h"),
)
small = do(make(b"/f", pattern(A, 3 * PAGE)), make(b"/g", pattern(C, PAGE)))
garbage = do(small, truncate(b"/f", 100))
wholes = do(
    make(b"/f", pattern(A, 2 * PAGE)),
    write(b"/f", PIECE, pattern(A, PAGE)),
    write(b"/f", 2 * PIECE, pattern(B, PAGE)),
)
one = {"threshold_pages": 1}
scattered = do(make(b"/f"), *(write(b"/f", i * PIECE, b"x") for i in range(13)))
more_scattered = do(make(b"/f"), *(write(b"/f", i * PIECE, b"x") for i in range(25)))


# -- small pages where they are wanted ----------------------------------------------------------


def extent_of(volume: Volume, path: bytes, index: int = 0) -> int:
    """Return the extent that a page of a file lies in."""
    pfn, _, _ = volume._maps.lookup(volume.resolve(path), index, 1)
    return pfn_to_extent(pfn)


def in_another_extent(*runs: Run) -> Run:
    """Do something with a data arena that has to take a free extent."""

    def run(volume: Volume) -> None:
        small = [e for e in range(volume.geometry.n_extents) if volume.pool.kind(e) == Kind.SMALL]
        volume.data_arenas.retire()
        for extent in small:
            volume.pool.own(extent)
        do(*runs)(volume)
        volume.data_arenas.retire()
        for extent in small:
            volume.pool.disown(extent)

    return run


# /full leaves holes of 4 pages and, where /hole was, of 1; /f and /g lie thinly in another extent
thin = do(
    make(b"/full", pattern(A, PAGE)),
    make(b"/hole", pattern(B, PAGE)),
    lambda v: v.fallocate(ino(v, b"/full"), 1, PAGE, 505 * PAGE),
    unlink(b"/hole"),
    in_another_extent(make(b"/f", pattern(B, 2 * PAGE)), make(b"/g", pattern(C, 99))),
)
