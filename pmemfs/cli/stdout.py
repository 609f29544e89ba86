"""A stdout that says what is wrong when it takes no more: its reader is gone, its device full.

From then on it leads nowhere, so that nothing fails again when Python ends and writes what is
buffered.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from pmemfs.errors import PmemfsError

EXIT_CLOSED = 141  # as a shell shows a program that SIGPIPE has ended


def forces_colour() -> bool:
    """Tell whether colour is wanted where stdout is no terminal, as for ``less -R``."""
    return bool(os.environ.get("FORCE_COLOR")) and not os.environ.get("NO_COLOR")


class StdoutClosedError(BrokenPipeError):
    """Nobody reads what is written: the program ends, and says nothing."""


class _Descriptor(io.FileIO):
    """The lowest layer of stdout; `PmemfsError` and `StdoutClosedError` come from here."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError as error:
            self._lead_nowhere()
            raise StdoutClosedError(*error.args) from error
        except OSError as error:
            self._lead_nowhere()
            raise PmemfsError(
                error.errno or 0, f"cannot write the output: {error.strerror}"
            ) from error

    def _lead_nowhere(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def prepare_stdout() -> None:
    """Let the stdout of this program fail in a defined way, and print what its locale cannot.

    One that was closed leads nowhere, so that no image gets its descriptor. What is not the
    program's own (in tests) stays as it is.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if type(sys.stdout) is io.TextIOWrapper and sys.stdout is sys.__stdout__:
        descriptor = _Descriptor(sys.stdout.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(descriptor),
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
            line_buffering=sys.stdout.line_buffering,
        )
