"""Files that come and go: a seeded stream, the same for every store.

A file is made by one of several writers, who work in one directory for a while. It is removed
when its lifetime is over, as soon as the store is full to the mark: then time passes until
enough files have died. The store that leads says how full it is; what it was made to do is
recorded, and the others get the same.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pmemfs.bench.ageing import profile

_BATCH = 8192


class File(NamedTuple):
    """A file to be made: its number, bytes, directory and writer."""

    number: int
    size: int
    directory: int
    writer: int


class Recorded:
    """What a leading store was made to do: numbers of files, removals as negative ones."""

    def __init__(self) -> None:
        self.events = array("q")
        self.sizes = array("q")

    def iter_events(self) -> Iterator[tuple[int, int]]:
        """Iterate ``(number, size)``, the size -1 for a removal."""
        sizes = self.sizes
        for event in self.events:
            yield (event, sizes[event]) if event >= 0 else (~event, -1)


def iter_files(seed: int, mode: str, directories: int) -> Iterator[tuple[File, float]]:
    """Iterate files and their lifetimes in hours, without an end."""
    dice = np.random.default_rng(seed)
    number = 0
    where = dice.integers(0, directories, profile.WRITERS).tolist()
    while True:
        sizes = profile.draw_sizes(dice, _BATCH, mode).tolist()
        lives = profile.draw_lifetimes(dice, _BATCH).tolist()
        writers = dice.integers(0, profile.WRITERS, _BATCH).tolist()
        moves = (dice.random(_BATCH) * profile.FILES_IN_A_ROW < 1).tolist()
        targets = dice.integers(0, directories, _BATCH).tolist()
        for size, life, writer, moves_on, target in zip(sizes, lives, writers, moves, targets):
            if moves_on:
                where[writer] = target
            yield File(number, size, where[writer], writer), life
            number += 1


class Trace:
    """Drives the leading store: `step` makes one file, after removing what has to go."""

    def __init__(self, seed: int, mode: str, directories: int) -> None:
        self._files = iter_files(seed, mode, directories)
        self._deaths: list[tuple[float, int]] = []
        self._now_h = 0.0
        self.recorded = Recorded()
        self.bytes_written = 0

    def step(
        self,
        is_full: Callable[[int], bool],
        create: Callable[[File], None],
        remove: Callable[[int], None],
    ) -> None:
        """Make one file; ``is_full(size)`` asks for removals first."""
        file, life_h = next(self._files)
        while is_full(file.size) and self._deaths:
            death, number = heapq.heappop(self._deaths)
            self._now_h = max(self._now_h, death)
            remove(number)
            self.recorded.events.append(~number)
        create(file)
        self.recorded.events.append(file.number)
        self.recorded.sizes.append(file.size)
        self.bytes_written += file.size
        heapq.heappush(self._deaths, (self._now_h + life_h, file.number))

    def iter_living(self) -> Iterator[int]:
        """Iterate the numbers of the files that are there."""
        for _, number in self._deaths:
            yield number
