"""Trees that several cases start from."""

from __future__ import annotations

from crash_calls import (
    PIECE,
    A,
    B,
    C,
    do,
    make,
    mkdir,
    pattern,
    truncate,
    write,
)
from crash_tree import PAGE

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
