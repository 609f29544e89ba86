"""Damage an image by a number: the same number, the same damage.

Two kinds of mutant take turns. The *sweep* goes through every field of every record and sets it
to each of its extremes, once with the sum left wrong and once with it made right. The *random*
ones flip bits, store words, overwrite and swap pages and records, cut the file, and put
plausible values into fields: those of their neighbours, numbers of inodes and pages that exist,
their own; so that chains run in circles and two things claim one page.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from mutant_sites import (
    DIRECTORY_WORD,
    MAP_WORD,
    NODE_WORD,
    OWNER_WORD,
    ImageFile,
    Site,
    Sites,
)

from pmemfs.layout.geometry import MAX_FILE_BYTES, PAGE_BYTES, PAGES_PER_EXTENT
from pmemfs.layout.record import Field, Record
from pmemfs.layout.records import RECORDS, SUPERBLOCK
from pmemfs.layout.words import COUNT_SHIFT, HOLE, NODE, WHOLE

ALL_RECORDS = (*RECORDS, OWNER_WORD, MAP_WORD, NODE_WORD, DIRECTORY_WORD)
_INO_FIELDS = {"ino", "owner", "parent", "next", "free_first", "orphan_first"}
_PFN_FIELDS = {"xattr", "word", "table", "index"}
_HOSTILE_BYTES = b"\x1b[31m\n%s\xff"

Apply = Callable[[ImageFile], str]


def field_bits(field: Field) -> int:
    return 0 if field.type.startswith("bytes:") else int(field.type[1:])


def extremes(field: Field, sites: Sites, before: int) -> list[bytes]:
    """Return the values a field is set to, packed; as many for all sites of the field."""
    size = field.size_bytes // field.count
    if not field_bits(field):
        return [bytes(size), b"\xff" * size, (_HOSTILE_BYTES * size)[:size]]
    geometry, top = sites.geometry, 1 << field_bits(field)
    values = [0, 1, 2, top - 1, top - 2, top // 2, top // 2 - 1, before + 1, before - 1]
    values += [before * 2, PAGES_PER_EXTENT - 1, PAGES_PER_EXTENT, PAGE_BYTES, PAGE_BYTES + 1]
    if field_bits(field) >= 32:
        values += [geometry.n_extents, geometry.n_extents - 1, geometry.n_pages, 8192]
    if field_bits(field) == 64:
        pfn = before & ((1 << 40) - 1)
        values += [geometry.device_bytes, MAX_FILE_BYTES, MAX_FILE_BYTES + 1]
        values += [pfn | WHOLE, pfn | HOLE, pfn | NODE | HOLE, pfn | 0xFFFF << COUNT_SHIFT]
        values += [HOLE | (1 << 40) - 1, before ^ 1 << 63, before ^ 1 << 44]
    return [(value % top).to_bytes(size, "little") for value in values]


def sweep_length(sites: Sites) -> int:
    """Return how many mutants the sweep has."""
    return len(_sweep_plan(sites))


def _sweep_plan(sites: Sites) -> list[tuple[Record, Field, int, bool]]:
    return [
        (record, field, extreme, sealed)
        for record in ALL_RECORDS
        if record.name in sites.by_name
        for field in record.fields
        for extreme in range(len(extremes(field, sites, 0)))
        for sealed in (False, True)
    ]


class Mutator:
    """Makes mutants of one base image."""

    def __init__(self, sites: Sites) -> None:
        self._sites = sites
        self._plan = _sweep_plan(sites)
        order = random.Random(0)
        order.shuffle(self._plan)  # so that a part of the sweep is a sample of all of it
        self._kinds: list[Callable[[random.Random, ImageFile], str]] = [
            self._plausible,
            self._plausible,
            self._extreme,
            self._bits,
            self._word,
            self._copy_record,
            self._swap_records,
            self._overwrite_page,
            self._swap_pages,
            self._resize,
        ]

    def mutate(self, file: ImageFile, seed: int, number: int) -> str:
        """Damage the image as the number says; return in words how."""
        dice = random.Random(f"{seed}.{number}")
        if number % 2 == 0:
            record, field, extreme, sealed = self._plan[number // 2 % len(self._plan)]
            site = dice.choice(self._sites.by_name[record.name])
            return self._set_extreme(file, dice, site, field, extreme, sealed)
        times = dice.choice((1, 1, 1, 1, 2, 3))
        return "; ".join(dice.choice(self._kinds)(dice, file) for _ in range(times))

    # -- fields ------------------------------------------------------------------------------

    def _any_site(self, dice: random.Random) -> Site:
        return dice.choice(self._sites.by_name[dice.choice(list(self._sites.by_name))])

    def _element(self, dice: random.Random, site: Site, field: Field) -> tuple[int, int]:
        """Return ``(offset, size)`` of one element of a field."""
        size = field.size_bytes // field.count
        place = dice.randrange(field.count)
        return site.offset + site.record.offset_of[field.name] + place * size, size

    def _store(
        self, file: ImageFile, site: Site, field: Field, offset: int, data: bytes, sealed: bool
    ) -> str:
        file.write(offset, data)
        if sealed:
            site.reseal(file)
        shown = f"{int.from_bytes(data, 'little'):#x}" if len(data) <= 8 else repr(data[:20])
        return (
            f"{site.record.name} at {site.offset:#x}: {field.name} = {shown}"
            f"{', sealed' if sealed and site.summed else ''}"
        )

    def _set_extreme(
        self,
        file: ImageFile,
        dice: random.Random,
        site: Site,
        field: Field,
        extreme: int,
        sealed: bool,
    ) -> str:
        offset, size = self._element(dice, site, field)
        before = int.from_bytes(file.read(offset, size), "little")
        data = extremes(field, self._sites, before)[extreme]
        if site.record is SUPERBLOCK and dice.random() < 0.7:  # else the other copy makes it good
            for copy in self._sites.by_name[SUPERBLOCK.name]:
                place = copy.offset + offset - site.offset
                self._store(file, copy, field, place, data, sealed)
        return self._store(file, site, field, offset, data, sealed)

    def _extreme(self, dice: random.Random, file: ImageFile) -> str:
        site = self._any_site(dice)
        field = dice.choice(site.record.fields)
        extreme = dice.randrange(len(extremes(field, self._sites, 0)))
        return self._set_extreme(file, dice, site, field, extreme, dice.random() < 0.7)

    def _plausible(self, dice: random.Random, file: ImageFile) -> str:
        """Put a value into a field that another of its kind could have."""
        site = self._any_site(dice)
        numbers = [f for f in site.record.fields if f.name in _INO_FIELDS | _PFN_FIELDS]
        field = dice.choice(numbers or site.record.fields)
        offset, size = self._element(dice, site, field)
        sibling = dice.choice(self._sites.by_name[site.record.name])
        other, _ = self._element(dice, sibling, field)
        data = file.read(other, size)
        if field.name in _INO_FIELDS and dice.random() < 0.5:
            data = dice.randrange(1, 130).to_bytes(size, "little")
        elif field.name in _PFN_FIELDS and dice.random() < 0.5:
            data = self._some_pfn(dice, site, size)
        return self._store(file, site, field, offset, data, dice.random() < 0.8)

    def _some_pfn(self, dice: random.Random, site: Site, size: int) -> bytes:
        own = site.offset // PAGE_BYTES
        pfn = dice.choice([own, dice.choice(self._sites.pages)])
        flags: Any = dice.choice((0, NODE, WHOLE, dice.randrange(1, 9) << COUNT_SHIFT))
        return ((pfn | flags) % (1 << 8 * size)).to_bytes(size, "little")

    # -- bytes -------------------------------------------------------------------------------

    def _bits(self, dice: random.Random, file: ImageFile) -> str:
        site = self._any_site(dice)
        flipped = []
        for _ in range(dice.choice((1, 1, 2, 8))):
            bit = dice.randrange(site.record.size_bytes * 8)
            offset = site.offset + bit // 8
            file.write(offset, bytes([file.read(offset, 1)[0] ^ 1 << bit % 8]))
            flipped.append(bit)
        if dice.random() < 0.5:
            site.reseal(file)
        return f"{site.record.name} at {site.offset:#x}: bits {flipped} flipped"

    def _word(self, dice: random.Random, file: ImageFile) -> str:
        offset = dice.choice(self._sites.pages) * PAGE_BYTES + dice.randrange(512) * 8
        data = dice.randbytes(8)
        file.write(offset, data)
        return f"word at {offset:#x} = {int.from_bytes(data, 'little'):#x}"

    def _pair(self, dice: random.Random) -> tuple[Site, Site]:
        siblings = self._sites.by_name[dice.choice(list(self._sites.by_name))]
        return dice.choice(siblings), dice.choice(siblings)

    def _copy_record(self, dice: random.Random, file: ImageFile) -> str:
        source, target = self._pair(dice)
        file.write(target.offset, file.read(source.offset, source.record.size_bytes))
        target.reseal(file)
        return f"{target.record.name} at {target.offset:#x} = that at {source.offset:#x}"

    def _swap_records(self, dice: random.Random, file: ImageFile) -> str:
        first, second = self._pair(dice)
        size = first.record.size_bytes
        a, b = file.read(first.offset, size), file.read(second.offset, size)
        file.write(first.offset, b)
        file.write(second.offset, a)
        first.reseal(file)
        second.reseal(file)
        return f"{first.record.name} at {first.offset:#x} and {second.offset:#x} swapped"

    def _overwrite_page(self, dice: random.Random, file: ImageFile) -> str:
        pfn = dice.choice(self._sites.pages)
        source = dice.choice(self._sites.pages)
        data = dice.choice(
            (
                bytes(PAGE_BYTES),
                b"\xff" * PAGE_BYTES,
                dice.randbytes(PAGE_BYTES),
                file.read(source * PAGE_BYTES, PAGE_BYTES),
                pfn.to_bytes(8, "little") * 512,
                (pfn | NODE).to_bytes(8, "little") * 512,
            )
        )
        file.write(pfn * PAGE_BYTES, data)
        return f"page {pfn} overwritten by {data[:8].hex()}... (or page {source})"

    def _swap_pages(self, dice: random.Random, file: ImageFile) -> str:
        a, b = dice.choice(self._sites.pages), dice.choice(self._sites.pages)
        first, second = file.read(a * PAGE_BYTES, PAGE_BYTES), file.read(b * PAGE_BYTES, PAGE_BYTES)
        file.write(a * PAGE_BYTES, second)
        file.write(b * PAGE_BYTES, first)
        return f"pages {a} and {b} swapped"

    def _resize(self, dice: random.Random, file: ImageFile) -> str:
        full = self._sites.geometry.device_bytes
        length = dice.choice(
            (0, 1, 511, 4096, full // 2, full - 4096, full - 1, full + 1, full * 2, 1 << 40)
        )
        file.resize(length)
        return f"file of {length} bytes"
