"""Say why a process dies of SIGBUS, which it cannot survive.

The kernel sends it when a page of the mapping cannot be had: somebody has cut the image short, or
the host has failed. A handler that returns would fault again, for ever. So this one is called by
the kernel directly (not at the interpreter's next convenience, which never comes), lets the signal
kill next time, tells the reason, and sends the signal once more, unless who is told has ended the
process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_libc = ctypes.CDLL(None)
_libc.signal.restype = ctypes.c_void_p
_libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_DEFAULT = None


@contextlib.contextmanager
def telling_bus_errors(image: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Call ``tell`` with a sentence about an image when this process is about to die of SIGBUS."""
    size_bytes = _size(image)

    def handle(number: int) -> None:
        _libc.signal(signal.SIGBUS, _DEFAULT)
        try:
            tell(_reason(image, size_bytes))
        finally:
            os.kill(os.getpid(), signal.SIGBUS)

    handler = _Handler(handle)  # what the kernel calls must not be collected
    before = _libc.signal(signal.SIGBUS, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        _libc.signal(signal.SIGBUS, before)


def _size(image: str) -> int:
    try:
        return os.stat(image).st_size
    except OSError:
        return 0


def _reason(image: str, size_bytes: int) -> str:
    try:
        found = os.stat(image).st_size
    except OSError as error:
        return f"{image}: the image cannot be reached: {error.strerror}"
    if found < size_bytes:
        return (
            f"{image}: the image has been cut short to {found} of {size_bytes} bytes while in use"
        )
    return f"{image}: the host could not give a page of the image: it is full, or its disk fails"
