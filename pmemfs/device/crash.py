"""Every image a crash could leave behind, from a recording.

The model: a store is pending until its 64-byte line is flushed and then fenced. Pending lines
persist independently of each other, each as a prefix of its 8-byte words in program order. A
discard that is not yet fenced may have landed, after any store, or not; once fenced it has, and
what was pending in its range is gone with the host space. Nothing may be stored to a range
between its discard and the next fence; a recording that does is refused.

A crash can come anywhere, but since every pending line may persist as any prefix, the states
before a fence include those of every earlier moment of its epoch. So each *epoch* (what lies
between two fences) is enumerated once, at its end: all combinations where there are few, else
none, all, each line alone, all but one, pairs, and seeded samples. Every state has an id
``EPOCH.STRATEGY.NUMBER`` that names it again in the same recording. Lines of ranges that are
declared ``transient``, because nothing after a crash reads them, persist all together or not at
all, so that they do not crowd out the others.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pmemfs.device.mapped import LINE_BYTES, WORD_BYTES
from pmemfs.device.recording import Event
from pmemfs.errors import InvariantError

_PAGE_BYTES = 4096


class SparseImage:
    """The content of a sparse file as a dict of pages; absent pages are holes."""

    def __init__(self, size_bytes: int, pages: dict[int, bytes] | None = None) -> None:
        self.size_bytes = size_bytes
        self.pages = {} if pages is None else dict(pages)

    @classmethod
    def load(cls, fd: int, size_bytes: int) -> SparseImage:
        """Read the data pages of a file, skipping its holes."""
        image = cls(size_bytes)
        position = 0
        while position < size_bytes:
            try:
                low = os.lseek(fd, position, os.SEEK_DATA)
            except OSError:  # ENXIO: no data behind this position
                break
            high = position = os.lseek(fd, low, os.SEEK_HOLE)
            data = os.pread(fd, high - low, low)
            for start in range(0, high - low, _PAGE_BYTES):
                image.pages[(low + start) // _PAGE_BYTES] = data[start : start + _PAGE_BYTES]
        return image

    def copy(self) -> SparseImage:
        """Return a copy; pages are shared, they are replaced and never changed in place."""
        return SparseImage(self.size_bytes, self.pages)

    def word(self, address: int) -> bytes:
        """Return the aligned 8-byte word at a byte address."""
        page = self.pages.get(address // _PAGE_BYTES)
        start = address % _PAGE_BYTES
        return page[start : start + WORD_BYTES] if page else bytes(WORD_BYTES)

    def store(self, offset: int, data: bytes) -> None:
        """Replace bytes; the range may cross pages."""
        position = 0
        while position < len(data):
            number, start = divmod(offset + position, _PAGE_BYTES)
            chunk = data[position : position + _PAGE_BYTES - start]
            page = self.pages.get(number, bytes(_PAGE_BYTES))
            self.pages[number] = page[:start] + chunk + page[start + len(chunk) :]
            position += len(chunk)

    def punch(self, offset: int, length: int) -> None:
        """Turn whole pages into holes."""
        for number in range(offset // _PAGE_BYTES, (offset + length) // _PAGE_BYTES):
            self.pages.pop(number, None)

    def materialise(self) -> int:
        """Return the descriptor of an anonymous file with this content; the caller closes it."""
        fd = os.memfd_create("pmemfs-crash")
        os.ftruncate(fd, self.size_bytes)
        for number, page in self.pages.items():
            os.pwrite(fd, page, number * _PAGE_BYTES)
        return fd


@dataclass(slots=True)
class CrashState:
    """One image that a crash could leave; ``after`` counts the recorded events before it."""

    id: str
    after: int
    image: SparseImage


class _Pending:
    """Stores that a crash may or may not have kept, line by line, and unfenced discards."""

    def __init__(self) -> None:
        self.lines: dict[int, list[tuple[int, bytes]]] = {}
        self.flushed: dict[int, int] = {}
        self.discards: list[tuple[int, int]] = []

    def store(self, volatile: SparseImage, offset: int, data: bytes) -> None:
        for start, length in self.discards:
            if offset < start + length and offset + len(data) > start:
                raise InvariantError(f"a store at {offset:#x} between a discard and its fence")
        volatile.store(offset, data)
        first = offset & ~(WORD_BYTES - 1)
        for address in range(first, offset + len(data), WORD_BYTES):
            line = self.lines.setdefault(address // LINE_BYTES, [])
            line.append((address, volatile.word(address)))

    def flush(self, offset: int, length: int) -> None:
        for line in range(offset // LINE_BYTES, (offset + length - 1) // LINE_BYTES + 1):
            if line in self.lines:
                self.flushed[line] = len(self.lines[line])

    def fence(self, durable: SparseImage) -> None:
        for line, count in self.flushed.items():
            _apply(durable, self.lines[line][:count])
            rest = self.lines[line][count:]
            if rest:
                self.lines[line] = rest
            else:
                del self.lines[line]
        self.flushed.clear()
        for offset, length in self.discards:
            durable.punch(offset, length)
            for line in self.lines_within(offset, offset + length):
                del self.lines[line]
        self.discards.clear()

    def lines_within(self, start: int, stop: int) -> list[int]:
        """Return the pending lines of a range of bytes that is a multiple of lines."""
        first, last = start // LINE_BYTES, stop // LINE_BYTES
        if last - first < len(self.lines):
            return [line for line in range(first, last) if line in self.lines]
        return [line for line in self.lines if first <= line < last]


def _apply(image: SparseImage, words: Iterable[tuple[int, bytes]]) -> None:
    last = dict(words)  # a later word of the same address replaces the earlier one
    for address, word in last.items():
        if image.word(address) != word:
            image.store(address, word)


class CrashStates:
    """The crash states of one recording on top of one base image.

    ``exhaustive_limit`` is how many combinations an epoch may have to be enumerated whole;
    beyond it ``samples`` seeded ones follow the systematic ones, and at most ``lines_limit``
    lines are taken alone, left out alone, and paired. ``transient`` are ``(start, stop)`` byte
    ranges.
    """

    def __init__(
        self,
        base: SparseImage,
        events: list[Event],
        *,
        exhaustive_limit: int = 64,
        samples: int = 16,
        lines_limit: int = 24,
        seed: int = 0,
        transient: Iterable[tuple[int, int]] = (),
    ) -> None:
        self.base = base
        self.events = events
        self.transient = list(transient)
        self.exhaustive_limit = exhaustive_limit
        self.samples = samples
        self.lines_limit = lines_limit
        self.seed = seed

    def __iter__(self) -> Iterator[CrashState]:
        durable, volatile, pending = self.base.copy(), self.base.copy(), _Pending()
        epoch = 0
        for number, event in enumerate(self.events):
            if event.kind == "store":
                pending.store(volatile, event.offset, event.data)
            elif event.kind == "flush":
                pending.flush(event.offset, event.length)
            elif event.kind == "discard":
                volatile.punch(event.offset, event.length)
                pending.discards.append((event.offset, event.length))
            elif event.kind == "fence":
                yield from self._states(epoch, number, durable, pending)
                pending.fence(durable)
                epoch += 1
        yield from self._states(epoch, len(self.events), durable, pending)

    def replay(self, state_id: str) -> CrashState:
        """Return the state of that id; raises ``KeyError`` when the recording has none."""
        for state in self:
            if state.id == state_id:
                return state
        raise KeyError(state_id)

    def _states(
        self, epoch: int, after: int, durable: SparseImage, pending: _Pending
    ) -> Iterator[CrashState]:
        noise = {k for a, b in self.transient for k in pending.lines_within(a, b)}
        lines = sorted(pending.lines.keys() - noise)
        lengths = [len(pending.lines[line]) for line in lines]
        lengths += [1] * (len(pending.discards) + bool(noise))
        seen: set[tuple[int, ...]] = set()
        for name, choice in self._choices(epoch, lengths):
            if choice in seen:
                continue
            seen.add(choice)
            image = durable.copy()
            for line, count in zip(lines, choice):
                _apply(image, pending.lines[line][:count])
            if noise and choice[-1]:
                for line in noise:
                    _apply(image, pending.lines[line])
            for (offset, length), landed in zip(pending.discards, choice[len(lines) :]):
                if landed:
                    image.punch(offset, length)
            yield CrashState(f"{epoch}.{name}", after, image)

    def _choices(self, epoch: int, lengths: list[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
        combinations = 1
        for length in lengths:
            combinations *= length + 1
            if combinations > self.exhaustive_limit:
                break
        if combinations <= self.exhaustive_limit:
            every = itertools.product(*(range(length + 1) for length in lengths))
            yield from ((f"each.{number}", choice) for number, choice in enumerate(every))
            return
        rng = random.Random(f"{self.seed}.{epoch}")
        none, full = (0,) * len(lengths), tuple(lengths)
        yield "none.0", none
        yield "all.0", full
        picked = list(range(len(lengths)))
        if len(picked) > self.lines_limit:
            picked = sorted(rng.sample(picked, self.lines_limit))
        for i in picked:
            yield f"alone.{i}", (*none[:i], full[i], *none[i + 1 :])
            yield f"without.{i}", (*full[:i], 0, *full[i + 1 :])
            if full[i] > 1:
                part = rng.randrange(1, full[i])
                yield f"prefix.{i}", (*full[:i], part, *full[i + 1 :])
        pairs = list(itertools.combinations(picked, 2))
        for number, (i, j) in enumerate(rng.sample(pairs, min(len(pairs), self.samples))):
            yield f"pair.{number}", tuple(full[k] if k in (i, j) else 0 for k in range(len(full)))
        for number in range(self.samples):
            yield f"sample.{number}", tuple(rng.randint(0, length) for length in lengths)
