"""What a check found: findings, kept within bounds, and what the image holds.

Invariant: memory is bounded whatever the damage; of each check id the first
`KEPT_PER_CHECK` findings are kept and the others are counted. Only who mends needs all subjects;
then they are kept, a number for each finding, of which no check makes more than the host holds data
for. Names inside messages never carry control characters: they pass through `show_name`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pmemfs.layout.records import Kind

KEPT_PER_CHECK = 100


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a stable ``check`` id, a sentence, and where on the device.

    ``subject`` is what a repair has to look at: the number of the inode, in findings about
    extents (``head-``, ``chunk-``, ``free-``, ``owner-count``, ``owner-word``) of the extent, in
    findings about owner words that no map has, of the page.
    """

    check: str
    message: str
    offset: int | None = None
    subject: int | None = None

    def __str__(self) -> str:
        where = "" if self.offset is None else f" (device offset {self.offset:#x})"
        return f"{self.check}: {self.message}{where}"


@dataclass
class Report:
    """The outcome of one check of one image.

    ``counts`` has the number of findings of each check id, those not kept included.
    ``extents`` counts extents by the name of their kind; descriptor extents other than the
    reserve count as returned. ``pages_used`` are the pages owned by files and metadata.
    ``was_damaged`` tells that the last mount found damage. ``replayed`` is the sequence number
    of the transaction that was replayed in memory.
    ``subjects`` has those of all findings of each check id, also of findings that are not kept; it
    is None where nobody asked for them.
    """

    name: str
    n_extents: int
    was_closed: bool = True
    was_damaged: bool = False
    replayed: int | None = None
    replayed_entries: int = 0
    files: int = 0
    directories: int = 0
    symlinks: int = 0
    others: int = 0
    orphans: int = 0
    pages_used: int = 0
    extents: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    subjects: dict[str, set[int]] | None = None

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.counts

    def add(self, findings: Iterable[Finding]) -> None:
        """Take findings in, keeping the first of each check id and counting the rest."""
        for finding in findings:
            self.counts[finding.check] += 1
            if self.subjects is not None and finding.subject is not None:
                self.subjects.setdefault(finding.check, set()).add(finding.subject)
            if self.counts[finding.check] <= KEPT_PER_CHECK:
                self.findings.append(finding)

    def dropped(self) -> dict[str, int]:
        """Return how many findings of each check id were counted, but not kept."""
        return {name: n - KEPT_PER_CHECK for name, n in self.counts.items() if n > KEPT_PER_CHECK}

    def extents_in_use(self) -> int:
        """Return how many extents are neither free nor returned."""
        idle = (Kind.FREE.name.lower(), Kind.RETURNED.name.lower())
        return sum(count for kind, count in self.extents.items() if kind not in idle)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "image": os.fsencode(self.name).decode("utf-8", "backslashreplace"),
            "clean": self.is_clean,
            "closed": self.was_closed,
            "damaged_while_mounted": self.was_damaged,
            "replayed": self.replayed,
            "replayed_entries": self.replayed_entries,
            "files": self.files,
            "directories": self.directories,
            "symlinks": self.symlinks,
            "others": self.others,
            "orphans": self.orphans,
            "pages_used": self.pages_used,
            "extents": {"total": self.n_extents, **self.extents},
            "counts": dict(self.counts),
            "findings": [
                {"check": f.check, "message": f.message, "offset": f.offset} for f in self.findings
            ],
        }


def show_name(name: bytes) -> str:
    """Return a name from the image in quotes, fit for any terminal."""
    return "'" + "".join(map(_show_character, name.decode("utf-8", "surrogateescape"))) + "'"


def _show_character(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode("ascii")


def kind_name(kind: int) -> str:
    """Return the name of an extent kind in small letters, or its number."""
    try:
        return Kind(kind).name.lower()
    except ValueError:
        return f"unknown kind {kind}"
