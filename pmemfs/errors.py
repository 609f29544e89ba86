"""The two kinds of error the project raises.

`PmemfsError` is for bad media, bad input and refused requests: it carries an errno that a
front end passes on as it is, and the device offset where there is one. `InvariantError` says
that the program itself is wrong; it names the invariant and is raised under ``-O`` too.
"""

from __future__ import annotations

import errno


class PmemfsError(OSError):
    """A request that cannot be served: ``errno``, a sentence, and maybe a device offset."""

    def __init__(self, code: int, message: str, offset: int | None = None) -> None:
        if offset is not None:
            message = f"{message} (device offset {offset:#x})"
        super().__init__(code, message)
        self.offset = offset

    def __str__(self) -> str:
        return str(self.strerror)


class DamagedImageError(PmemfsError):
    """What the image says cannot be true; ``errno`` is EUCLEAN, "structure needs cleaning"."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(errno.EUCLEAN, message, offset)


class ImageBusyError(PmemfsError):
    """Another process holds the image; ``errno`` is EBUSY."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EBUSY, message)


class HostError(PmemfsError):
    """The host cannot make the image durable; ``errno`` is EIO."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)


class InvariantError(RuntimeError):
    """A broken invariant of the program, never of its input."""


def no_space(what: str = "no free space on the device") -> PmemfsError:
    """Return the ENOSPC error."""
    return PmemfsError(errno.ENOSPC, what)
