"""Cases of what moves file data that nobody writes to: compaction, demotion, promotion."""

from __future__ import annotations

from crash_calls import (
    PIECE,
    A,
    B,
    C,
    Run,
    allocate,
    both,
    case,
    do,
    fsync,
    hold,
    ino,
    make,
    pattern,
    punch,
    truncate,
    unlink,
    unsplit_all,
    write,
)
from crash_setups import extent_of, in_another_extent, thin
from crash_tree import PAGE

from pmemfs.fs.volume import Volume


def move_out(path: bytes, pages: int = 64, index: int = 0) -> Run:
    """Take one step of moving pages out of the extent that a page of the file lies in."""

    def run(volume: Volume) -> None:
        assert volume.moves.move_out(extent_of(volume, path, index), pages)

    return run


def demote(path: bytes) -> Run:
    return lambda v: v.moves.demote(ino(v, path))


def promote(path: bytes, piece: int = 0) -> Run:
    return lambda v: v.moves.promote(ino(v, path), piece)


keeps = {"threshold_pages": 512}

case("move-out", thin, move_out(b"/f"), **keeps)
case("move-out-one-page", thin, move_out(b"/f", 1), **keeps)
both(
    "move-out-in-steps",
    thin,
    move_out(b"/f", 1),
    move_out(b"/f", 1, 1),
    move_out(b"/g", 1),
    **keeps,
)
both("move-out-dirty", thin, write(b"/f", 8, pattern(A, 200)), move_out(b"/f"), **keeps)
both(
    "move-out-then-overwrite",
    thin,
    move_out(b"/f"),
    write(b"/f", 8, pattern(A, 200)),
    fsync(b"/f"),
    **keeps,
)
both(
    "move-out-then-reuse",
    thin,
    move_out(b"/f", 1),
    make(b"/n"),
    in_another_extent(write(b"/n", 5, b"n")),
    **keeps,
)
case("move-out-unsplit", do(thin, unsplit_all), move_out(b"/f"), **keeps)
case(
    "move-out-of-held",
    do(thin, hold(b"/g"), unlink(b"/g")),
    move_out(b"/f"),
    skip=frozenset([b"/full"]),
    **keeps,
)
sparse = [write(b"/t", 2 * i * PAGE, b"%d" % i) for i in range(7)]
case(
    "move-out-makes-tree",
    do(
        thin,
        in_another_extent(
            make(b"/t", b"t"), *sparse, write(b"/t", 14 * PAGE, pattern(A, 5 * PAGE))
        ),
    ),
    move_out(b"/t", index=14),
    **keeps,
)
case(
    "move-out-of-tree",
    do(
        thin,
        in_another_extent(
            make(b"/t", b"t"), *(write(b"/t", 2 * i * PAGE, b"%d" % i) for i in range(12))
        ),
        punch(b"/t", 0, 20 * PAGE),
        truncate(b"/t", 30 * PAGE),
    ),
    move_out(b"/t", index=20),
    **keeps,
)

# -- tails and dense pieces ---------------------------------------------------------------------

grown = do(
    make(b"/f", pattern(A, 7 * PAGE)),
    write(b"/f", 7 * PAGE, pattern(B, 2 * PAGE)),
    truncate(b"/f", 2 * PAGE + 9),
)
few = {"threshold_pages": 8}
case("demote", grown, demote(b"/f"), **few)
case(
    "demote-second-piece",
    do(
        make(b"/f", pattern(A, PAGE)),
        allocate(b"/f", PIECE, 8 * PAGE),
        write(b"/f", PIECE, pattern(B, 2 * PAGE)),
        truncate(b"/f", PIECE + PAGE + 9),
    ),
    demote(b"/f"),
    **few,
)
case(
    "demote-in-tree",
    do(
        make(b"/f", b"x"),
        *(write(b"/f", 2 * i * PAGE, b"x") for i in range(1, 10)),
        allocate(b"/f", PIECE, 20 * PAGE),
        write(b"/f", PIECE, pattern(B, 2 * PAGE)),
        truncate(b"/f", PIECE + PAGE + 9),
    ),
    demote(b"/f"),
    threshold_pages=16,
)
both(
    "demote-then-grow",
    grown,
    demote(b"/f"),
    write(b"/f", 3 * PAGE + 50, pattern(C, 100)),
    **few,
)
both(
    "demote-then-promote", grown, demote(b"/f"), write(b"/f", 2 * PAGE, pattern(C, 6 * PAGE)), **few
)


def lower_threshold(volume: Volume) -> None:
    volume.moves._threshold_pages = 8


dense = do(make(b"/f", pattern(A, 9 * PAGE + 30)), make(b"/g", pattern(B, 99)), lower_threshold)
case("promote-dense", dense, promote(b"/f"))
both("promote-dense-dirty", dense, write(b"/f", 8, pattern(C, 200)), promote(b"/f"))
