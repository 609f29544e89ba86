"""Turn names of any bytes into text that is safe to print and valid in JSON."""

from __future__ import annotations

import os


def decode_name(name: bytes) -> str:
    r"""Return UTF-8 as it is and every other byte as ``\xNN``; always valid Unicode."""
    return name.decode("utf-8", "backslashreplace")


def decode_path(path: str | os.PathLike[str]) -> str:
    """Return a path of this host as valid Unicode, whatever bytes it has."""
    return decode_name(os.fsencode(path))


def printable(text: str) -> str:
    r"""Return ``text`` with what a terminal would not print as ``\n``, ``\x1b``, ``\u202e``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
