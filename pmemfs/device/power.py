"""Every image that a power loss of the host could leave behind, from a recording.

The model stands in `pmemfs.device.mapped`: the host writes pages of 4 KiB, each at any moment
between a store to it and the next ``fdatasync``. So a page that was stored to since the last one
has *versions*: what it held then, what it held after each store, after a discard (a hole), and,
where a store changes more than one word, once in the midst of it. A power loss leaves each page in
one of them, whatever the others are in.

An *epoch* here is what lies between two ``fdatasync``, flushes and fences mean nothing. As with
lines, the states at its end include those of every earlier moment. How many combinations are taken
of an epoch, and their ids, are as in `pmemfs.device.crash`. Pages of ``transient`` ranges are
written all or none.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from pmemfs.device.crash import CrashState, CrashStates
from pmemfs.device.mapped import WORD_BYTES
from pmemfs.device.sparse import PAGE_BYTES, SparseImage


class _Versions:
    """The pages stored to since the last ``fdatasync``, each with its versions in order."""

    def __init__(self, durable: SparseImage, rng: random.Random) -> None:
        self.pages: dict[int, list[bytes | None]] = {}
        self._now = durable.copy()
        self._rng = rng

    def store(self, offset: int, data: bytes) -> None:
        position = 0
        while position < len(data):
            start = offset + position
            length = min(len(data) - position, PAGE_BYTES - start % PAGE_BYTES)
            part = data[position : position + length]
            words = (start % WORD_BYTES + length + WORD_BYTES - 1) // WORD_BYTES
            if words > 1:
                cut = self._rng.randrange(1, words) * WORD_BYTES - start % WORD_BYTES
                self._change(start, part[:cut])
                self._change(start + cut, part[cut:])
            else:
                self._change(start, part)
            position += length

    def discard(self, offset: int, length: int) -> None:
        first, stop = offset // PAGE_BYTES, (offset + length) // PAGE_BYTES
        numbers = [n for n in self._now.pages if first <= n < stop]
        self._now.punch(offset, length)
        for number in numbers:
            self.pages.setdefault(number, []).append(None)

    def durable(self) -> SparseImage:
        """Forget the versions; return the image that an ``fdatasync`` makes of the last ones."""
        self.pages.clear()
        return self._now.copy()

    def _change(self, offset: int, data: bytes) -> None:
        number = offset // PAGE_BYTES
        before = self._now.pages.get(number)
        self._now.store(offset, data)
        if self._now.pages[number] != before:
            self.pages.setdefault(number, []).append(self._now.pages[number])


class PowerStates(CrashStates):
    """The states that the host's power loss may leave of one recording on top of a durable base.

    The parameters are those of `CrashStates`.
    """

    def __iter__(self) -> Iterator[CrashState]:
        durable = self.base.copy()
        versions = _Versions(durable, random.Random(self.seed))
        epoch = 0
        for number, event in enumerate(self.events):
            if event.kind == "store":
                versions.store(event.offset, event.data)
            elif event.kind == "discard":
                versions.discard(event.offset, event.length)
            elif event.kind == "sync":
                if number >= self.since:
                    yield from self._page_states(epoch, number, durable, versions.pages)
                durable = versions.durable()
                epoch += 1
        yield from self._page_states(epoch, len(self.events), durable, versions.pages)

    def _page_states(
        self, epoch: int, after: int, durable: SparseImage, pages: dict[int, list[bytes | None]]
    ) -> Iterator[CrashState]:
        noise = [n for n in pages if self._is_transient(n)]
        numbers = sorted(pages.keys() - set(noise))
        lengths = [len(pages[number]) for number in numbers] + [1] * bool(noise)
        digest = durable.digest()
        for name, is_all, exceptions in self._choices(epoch, lengths):
            chosen = [exceptions.get(i, n if is_all else 0) for i, n in enumerate(lengths)]
            overlay = {n: pages[n][count - 1] for n, count in zip(numbers, chosen) if count}
            if noise and chosen[-1]:
                overlay.update((number, pages[number][-1]) for number in noise)
            yield CrashState(f"{epoch}.{name}", after, durable, digest, overlay)

    def _is_transient(self, number: int) -> bool:
        start = number * PAGE_BYTES
        return any(low <= start and start + PAGE_BYTES <= high for low, high in self.transient)
