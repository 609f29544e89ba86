"""Published file sizes and ages, and seeded draws from them.

Source: Agrawal, Bolosky, Douceur, Lorch, *A Five-Year Study of File-System Metadata*, FAST 2007:
metadata of 63,398 file systems. As buckets and weights of the profile ``agrawal`` of the ageing
tool Geriatrix (Kadekodi, Nagarajan, Ganger, *Geriatrix: Aging what you see and what you don't
see*, USENIX ATC 2018): half of the files have up to 4 KiB, and 2 % of them two thirds of the bytes.

*Sizes.* The profile names upper bounds that are four times apart. ``within`` draws log-uniformly
between two bounds, ``bounds`` takes the bound itself, as the tool does; bounds are powers of two
and leave no tails, which flatters whoever works in 2 MiB.

*Lifetimes.* A snapshot has ages. In a population that neither grows nor shrinks the density of
ages is proportional to the share of files that live longer, so the published ages, made
monotonic, are the survival function that lifetimes are drawn from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pmemfs.layout.geometry import (
    INODE_BYTES,
    PAGE_BYTES,
    PAGE_DESCRIPTOR_BYTES,
    PAGES_PER_EXTENT,
)

SIZE_BOUNDS = (8, 32, 128, 512, 2048, 8192, 32768, 131072, 524288, 2097152, 8388608)
"""Upper bounds of the size buckets, in bytes."""
SIZE_WEIGHTS = (1, 7, 16, 40, 50, 46, 35, 20, 10, 4, 1)
AGE_BOUNDS = (10.74, 31, 85.98, 240, 687.87, 1945.59, 5502.98, 15768, 44023.9, 122640)
"""Upper bounds of the age buckets, in hours."""
AGE_WEIGHTS = (1, 2, 8, 20, 44, 75, 144, 146, 23, 1)
SIZE_MODES = ("within", "bounds")

FILES_PER_DIRECTORY = 32
FILES_IN_A_ROW = 8
WRITERS = 8


def draw_sizes(dice: np.random.Generator, count: int, mode: str) -> NDArray[np.int64]:
    """Draw file sizes, ``(count,)`` in bytes."""
    weights = np.array(SIZE_WEIGHTS, float)
    bucket = dice.choice(len(weights), count, p=weights / weights.sum())
    high = np.array(SIZE_BOUNDS, float)[bucket]
    if mode == "bounds":
        return high.astype(np.int64)
    low = np.array((2, *SIZE_BOUNDS[:-1]), float)[bucket]
    return np.ceil(low * (high / low) ** dice.random(count)).astype(np.int64)


def survival() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(hours, share)``: which share of files lives at least so long; share falls."""
    bounds = np.array((0, *AGE_BOUNDS), float)
    density = np.array(AGE_WEIGHTS, float) / np.diff(bounds)
    widths = np.diff(bounds)
    for last in range(1, len(density)):  # pool what would rise: ages cannot become more frequent
        first = last
        while first and density[first - 1] < density[last]:
            first -= 1
            pooled = np.average(density[first : last + 1], weights=widths[first : last + 1])
            density[first : last + 1] = pooled
    hours = np.array([1.0, *np.sqrt(np.maximum(bounds[:-1], 1.0) * bounds[1:]), bounds[-1]])
    share = np.array([1.0, *(density / density[0]), 0.0])
    return hours, share


def draw_lifetimes(dice: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw lifetimes, ``(count,)`` in hours."""
    hours, share = survival()
    return np.exp(np.interp(dice.random(count), share[::-1], np.log(hours)[::-1]))


def by_arithmetic(threshold_pages: int, mode: str, full: float = 0.75) -> tuple[float, float]:
    """Return ``(space amplification, page descriptors as a share of the device)`` without ageing.

    Of a million drawn sizes, each piece by itself: whole from the threshold on, else in pages. The
    amplification counts inodes and owner pages with the data; the device is full of it to the mark,
    and all small pages have descriptors.
    """
    sizes = draw_sizes(np.random.default_rng(0), 1_000_000, mode)
    pages = -(-sizes // PAGE_BYTES)
    tails = pages % PAGES_PER_EXTENT
    is_whole = tails >= threshold_pages
    whole = (pages // PAGES_PER_EXTENT + is_whole).sum() * PAGES_PER_EXTENT
    small = tails[~is_whole].sum() * PAGES_PER_EXTENT / (PAGES_PER_EXTENT - 1)
    used_bytes = (whole + small) * PAGE_BYTES + len(sizes) * INODE_BYTES
    descriptors = small * PAGE_DESCRIPTOR_BYTES / (used_bytes / full)
    return float(used_bytes / sizes.sum()), float(descriptors)
