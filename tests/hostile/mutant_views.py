"""Every view of the inspector, taken as people take it: by ``pmemfs inspect``, as text and as JSON.

The views are those that the program has registered, with each choice and each switch of their
options, so a new one is taken without a word here. Only an argument of a new kind needs values in
`VALUES`; a test says so.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import click
from mutant_use import validate_error

from pmemfs.cli.inspect import inspect_command
from pmemfs.errors import PmemfsError
from pmemfs.layout.geometry import MIN_DEVICE_BYTES

_EXTENTS = range(min(MIN_DEVICE_BYTES >> 21, 12))
_PATHS = [b"/", b"/folder", b"/wide", b"/wide/other1", b"/small4", b"/whole", b"/short link"]
_PATHS += [b"/tree%d" % number for number in range(4)] + [b"/folder/long link", b"/empty/.."]
_PATHS += [b"<%d>" % ino for ino in (2, 9, 21, 60)]

VALUES = {
    "number": [str(number) for number in _EXTENTS],
    "pfn": [str(number * 512 + page) for number in _EXTENTS for page in (1, 9)],
    "path": [os.fsdecode(path) for path in _PATHS],
}
"""What each argument of a view but the image is given."""


class BrokenRuleError(AssertionError):
    """A rule of `mutant_run` does not hold."""


def views() -> Iterator[list[str]]:
    """Iterate the arguments behind ``pmemfs inspect`` that make up all views, with ``{}`` for the
    image. Raises `KeyError` for an argument that `VALUES` does not have.
    """
    for name, command in inspect_command.commands.items():
        wanted = [
            parameter.name or ""
            for parameter in command.params
            if isinstance(parameter, click.Argument) and parameter.name != "image"
        ]
        rows: list[list[str]] = [[]]
        for argument in wanted:
            rows = [[*row, value] for row in rows for value in VALUES[argument]]
        yield from ([name, "{}", "--", *row] for row in rows)
        yield from ([name, "{}", *option, "--", *rows[0]] for option in _options(command))


def _options(command: click.Command) -> Iterator[list[str]]:
    for option in command.params:
        if not isinstance(option, click.Option) or option.name == "as_json":
            continue
        flag = max(option.opts, key=len)
        if option.is_flag:
            yield [flag]
        elif isinstance(option.type, click.Choice):
            yield from ([flag, str(choice)] for choice in option.type.choices)


def take_all(image: Path, turn: int) -> None:
    """Take every view; any exception but `PmemfsError` goes through.

    Each is taken as text and as JSON, and with each of its arguments as one of them by turns.
    """
    seen = set()
    with mock.patch("time.sleep"):
        for place, arguments in enumerate(views()):
            filled = [str(image) if argument == "{}" else argument for argument in arguments]
            is_first = filled[0] not in seen
            seen.add(filled[0])
            if is_first or (place + turn) % 2:
                take(filled)
            if is_first or not (place + turn) % 2:
                _validate_json(take([filled[0], "--json", *filled[1:]]))


def _validate_json(text: str) -> None:
    """Raise unless a text is one document, or one on each line."""
    for document in [text] if text.startswith("{\n") else text.splitlines():
        json.loads(document)


def take(arguments: list[str]) -> str:
    """Return what a view prints, nothing if it is refused."""
    with validated_text() as out:
        try:
            inspect_command.main(arguments, "pmemfs inspect", standalone_mode=False)
        except PmemfsError as error:
            validate_error(error)
    return out.getvalue()


_out = io.StringIO()  # one for all: click keeps every stdout that it has written to


@contextlib.contextmanager
def validated_text() -> Iterator[io.StringIO]:
    """Take what the block prints; nothing of it may be for a terminal."""
    _out.seek(0)
    _out.truncate()
    with contextlib.redirect_stdout(_out):
        yield _out
    text = _out.getvalue().replace("\n", " ")
    if not text.isprintable():
        wild = {c for c in text if not c.isprintable()}
        raise BrokenRuleError(f"rule 3: {wild} in {text!r}")
