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

A state is an overlay of pages over what was durable before it, so that making one costs no more
than the lines that it persists, and its digest tells equal states apart from new ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from functools import cached_property

from pmemfs.device.mapped import LINE_BYTES, WORD_BYTES
from pmemfs.device.recording import Event
from pmemfs.device.sparse import PAGE_BYTES, PAGE_SHIFT, SparseImage, digest_pages
from pmemfs.errors import InvariantError

_LINE_SHIFT = 6
_LINES_PER_PAGE_SHIFT = PAGE_SHIFT - _LINE_SHIFT
_WHOLE_LINE = 1 << 62

Line = list[tuple[int, bytes]]
"""What was stored to one line: ``(address, whole words)`` in program order."""


class CrashState:
    """One image that a crash could leave; ``after`` counts the recorded events before it.

    ``overlay`` has the pages in which it differs from the durable image before it; None where
    a discard has landed.
    """

    __slots__ = ("__dict__", "_durable", "_durable_digest", "after", "id", "overlay")

    def __init__(
        self,
        state_id: str,
        after: int,
        durable: SparseImage,
        durable_digest: int,
        overlay: dict[int, bytes | None],
    ) -> None:
        self.id = state_id
        self.after = after
        self.overlay = overlay
        self._durable = durable
        self._durable_digest = durable_digest

    @cached_property
    def image(self) -> SparseImage:
        """The whole content."""
        image = self._durable.copy()
        for number, page in self.overlay.items():
            if page is None:
                image.pages.pop(number, None)
            else:
                image.pages[number] = page
        return image

    def digest(self) -> int:
        """Return the 64-bit digest of the image."""
        before, overlay = self._durable.pages, self.overlay
        gone = digest_pages((n, before[n]) for n in overlay if n in before)
        come = digest_pages((n, page) for n, page in overlay.items() if page is not None)
        return (self._durable_digest - gone + come) & ((1 << 64) - 1)


class _Pending:
    """Stores that a crash may or may not have kept, line by line, and unfenced discards."""

    def __init__(self) -> None:
        self.lines: dict[int, Line] = {}
        self.flushed: dict[int, int] = {}
        self.discards: list[tuple[int, int]] = []

    def store(self, volatile: SparseImage, offset: int, data: bytes) -> None:
        for start, length in self.discards:
            if offset < start + length and offset + len(data) > start:
                raise InvariantError(f"a store at {offset:#x} between a discard and its fence")
        volatile.store(offset, data)
        low = offset & -WORD_BYTES
        stop = (offset + len(data) + WORD_BYTES - 1) & -WORD_BYTES
        while low < stop:
            high = min(stop, (low | (LINE_BYTES - 1)) + 1)
            page, start = volatile.pages[low >> PAGE_SHIFT], low & (PAGE_BYTES - 1)
            line = self.lines.setdefault(low >> _LINE_SHIFT, [])
            line.append((low, page[start : start + high - low]))
            low = high

    def flush(self, offset: int, length: int) -> None:
        for line in range(offset >> _LINE_SHIFT, ((offset + length - 1) >> _LINE_SHIFT) + 1):
            if line in self.lines:
                self.flushed[line] = _words_in(self.lines[line])

    def fence(self, durable: SparseImage) -> None:
        chosen = [(line, self.lines[line], count) for line, count in self.flushed.items()]
        durable.pages.update(_overlay(durable, chosen))
        for line, _, count in chosen:
            rest = _without(self.lines[line], count)
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
        first, last = start >> _LINE_SHIFT, stop >> _LINE_SHIFT
        if last - first < len(self.lines):
            return [line for line in range(first, last) if line in self.lines]
        return [line for line in self.lines if first <= line < last]


def _words_in(line: Line) -> int:
    return sum(len(data) for _, data in line) // WORD_BYTES


def _without(line: Line, count: int) -> Line:
    """Return what is left of a line without its first ``count`` words."""
    rest = []
    for address, data in line:
        skip = min(count * WORD_BYTES, len(data))
        count -= skip // WORD_BYTES
        if skip < len(data):
            rest.append((address + skip, data[skip:]))
    return rest


def _overlay(durable: SparseImage, chosen: Iterable[tuple[int, Line, int]]) -> dict[int, bytes]:
    """Return the pages that change when the first ``count`` words of each line persist."""
    by_page: dict[int, list[tuple[Line, int]]] = {}
    for line, fragments, count in chosen:
        by_page.setdefault(line >> _LINES_PER_PAGE_SHIFT, []).append((fragments, count))
    pages = {number: _page(durable.page(number), lines) for number, lines in by_page.items()}
    return {number: page for number, page in pages.items() if page != durable.page(number)}


def _page(before: bytes, chosen: Iterable[tuple[Line, int]]) -> bytes:
    """Return a page with the first ``count`` words of some of its lines stored to it."""
    page = bytearray(before)
    for fragments, count in chosen:
        left = count * WORD_BYTES
        for address, data in fragments:
            if left < len(data):
                data = data[:left]
            start = address & (PAGE_BYTES - 1)
            page[start : start + len(data)] = data
            left -= len(data)
            if not left:
                break
    return bytes(page)


class _Epoch:
    """What may persist at the end of one epoch, as numbered *places*.

    A place is a pending line, an unfenced discard, or all transient lines together; ``lengths``
    says how much of each there is. A choice is none or all of everything, but for some places.
    """

    def __init__(self, durable: SparseImage, pending: _Pending, noise: set[int]) -> None:
        self.durable = durable
        self.digest = durable.digest()
        self._discards = list(pending.discards)
        lines = sorted(pending.lines.keys() - noise)
        self._first_discard = len(lines)
        self.lengths = [_words_in(pending.lines[line]) for line in lines]
        self.lengths += [1] * (len(self._discards) + bool(noise))
        self._pages_of: list[list[int]] = [[line >> _LINES_PER_PAGE_SHIFT] for line in lines]
        self._pages_of += [[] for _ in self._discards]
        # of each page its lines, each with its place
        self._lines: dict[int, list[tuple[int, Line]]] = {}
        for place, line in enumerate(lines):
            self._add(place, line, pending.lines[line])
        self._noise = len(self._pages_of)  # the place of all transient lines, the last if any
        for line in sorted(noise):
            self._add(self._noise, line, pending.lines[line])
        if noise:
            self._pages_of.append(sorted({line >> _LINES_PER_PAGE_SHIFT for line in noise}))
        self._all: dict[int, bytes] | None = None

    def _add(self, place: int, line: int, fragments: Line) -> None:
        self._lines.setdefault(line >> _LINES_PER_PAGE_SHIFT, []).append((place, fragments))

    def overlay(self, is_all: bool, exceptions: dict[int, int]) -> dict[int, bytes | None]:
        """Return the pages that differ: all or none of every place, but for ``exceptions``."""
        changed = {number for place in exceptions for number in self._pages_of[place]}
        overlay: dict[int, bytes | None] = {}
        if is_all:
            overlay.update(self._all_pages())
        for number in changed:
            page = self._page_with(number, is_all, exceptions)
            if page != self.durable.page(number):
                overlay[number] = page
            else:
                overlay.pop(number, None)
        for place, (offset, length) in enumerate(self._discards, self._first_discard):
            if exceptions.get(place, is_all):
                self._punch(overlay, offset, length)
        return overlay

    def _all_pages(self) -> dict[int, bytes]:
        if self._all is None:
            pages = {number: self._page_with(number, True, {}) for number in self._lines}
            durable = self.durable
            self._all = {n: page for n, page in pages.items() if page != durable.page(n)}
        return self._all

    def _page_with(self, number: int, is_all: bool, counts: dict[int, int]) -> bytes:
        chosen = []
        for place, fragments in self._lines[number]:
            count = counts.get(place)
            if count is None:
                count = self.lengths[place] if is_all else 0
            if count:
                chosen.append((fragments, _WHOLE_LINE if place == self._noise else count))
        return _page(self.durable.page(number), chosen)

    def _punch(self, overlay: dict[int, bytes | None], offset: int, length: int) -> None:
        pages = self.durable.pages
        for number in range(offset >> PAGE_SHIFT, (offset + length) >> PAGE_SHIFT):
            if number in pages or number in overlay:
                overlay[number] = None


class CrashStates:
    """The crash states of one recording on top of one base image.

    ``exhaustive_limit`` is how many combinations an epoch may have to be enumerated whole;
    beyond it ``samples`` seeded ones follow the systematic ones, and at most ``lines_limit``
    lines are taken alone, left out alone, and paired. ``transient`` are ``(start, stop)`` byte
    ranges. Epochs that end before event number ``since`` are passed over: they are those of a
    shorter recording.
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
        since: int = 0,
    ) -> None:
        self.base = base
        self.events = events
        self.transient = list(transient)
        self.exhaustive_limit = exhaustive_limit
        self.samples = samples
        self.lines_limit = lines_limit
        self.seed = seed
        self.since = since

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
                if number >= self.since:
                    yield from self._states(epoch, number, durable.copy(), pending)
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
        whole = _Epoch(durable, pending, noise)
        for name, is_all, exceptions in self._choices(epoch, whole.lengths):
            overlay = whole.overlay(is_all, exceptions)
            yield CrashState(f"{epoch}.{name}", after, durable, whole.digest, overlay)

    def _choices(
        self, epoch: int, lengths: list[int]
    ) -> Iterator[tuple[str, bool, dict[int, int]]]:
        """Iterate ``(name, is_all, exceptions)``, as `_Epoch.overlay` takes them."""
        combinations = 1
        for length in lengths:
            combinations *= length + 1
            if combinations > self.exhaustive_limit:
                break
        if combinations <= self.exhaustive_limit:
            every = itertools.product(*(range(length + 1) for length in lengths))
            for number, counts in enumerate(every):
                yield f"each.{number}", False, {i: n for i, n in enumerate(counts) if n}
            return
        rng = random.Random(f"{self.seed}.{epoch}")
        yield "none.0", False, {}
        yield "all.0", True, {}
        picked = list(range(len(lengths)))
        if len(picked) > self.lines_limit:
            picked = sorted(rng.sample(picked, self.lines_limit))
        for i in picked:
            yield f"alone.{i}", False, {i: lengths[i]}
            yield f"without.{i}", True, {i: 0}
            if lengths[i] > 1:
                yield f"prefix.{i}", True, {i: rng.randrange(1, lengths[i])}
        pairs = list(itertools.combinations(picked, 2))
        for number, (i, j) in enumerate(rng.sample(pairs, min(len(pairs), self.samples))):
            yield f"pair.{number}", False, {i: lengths[i], j: lengths[j]}
        for number in range(self.samples):
            choice = {i: int(rng.random() * (length + 1)) for i, length in enumerate(lengths)}
            yield f"sample.{number}", False, choice
