"""Sizes in bytes and counts: parse what people type, print what people read."""

from __future__ import annotations

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SUFFIXES = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB, "P": 1 << 50}
_SIZE = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([KMGTP]?)(?:I?B)?\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Parse ``64M``, ``1.5G``, ``8TiB`` or plain bytes into bytes; powers of 1024.

    Raises ``ValueError`` with a sentence for people.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a size: write 64M, 64G or 8T")
    return int(float(match[1]) * _SUFFIXES[match[2].upper()])


def format_size(size_bytes: int) -> str:
    """Format bytes with a binary suffix, exact where it can be: ``64 MiB``, ``1.5 GiB``."""
    for suffix, unit in (("PiB", 1 << 50), ("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(size_bytes) >= unit:
            value = size_bytes / unit
            return f"{value:.0f} {suffix}" if value == int(value) else f"{value:.2f} {suffix}"
    return f"{size_bytes} B"


def count(n: int, one: str, many: str) -> str:
    """Return a number with its noun: ``1 page``, ``2 pages``."""
    return f"{n} {one if n == 1 else many}"
