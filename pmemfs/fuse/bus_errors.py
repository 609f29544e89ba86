"""Say why the daemon dies of SIGBUS, which it cannot survive.

The kernel sends it when a page of the mapping cannot be had: somebody has cut the image short, or
the host has failed. A handler that returns would fault again, for ever. So this one is called by
the kernel directly (not at the interpreter's next convenience, which never comes), lets the signal
kill next time, logs one sentence and where it happened, and sends the signal once more. The
descriptor of /dev/fuse is closed with the process, so callers get ENOTCONN.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal

log = logging.getLogger("pmemfs")

_DEFAULT = ctypes.c_void_p(0)
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_libc = ctypes.CDLL(None)
_installed: list[object] = []  # what the kernel calls must not be collected


def log_bus_errors(image: str, size_bytes: int) -> None:
    """Log a sentence about the image when this process is about to die of SIGBUS."""

    def tell(number: int) -> None:
        _libc.signal(signal.SIGBUS, _DEFAULT)
        try:
            log.critical("%s: %s; the daemon ends", image, _reason(image, size_bytes))
            faulthandler.dump_traceback()
        finally:
            os.kill(os.getpid(), signal.SIGBUS)

    handler = _Handler(tell)
    _installed[:] = [handler]
    _libc.signal(signal.SIGBUS, handler)


def _reason(image: str, size_bytes: int) -> str:
    try:
        found = os.stat(image).st_size
    except OSError as error:
        return f"the image cannot be reached: {error.strerror}"
    if found < size_bytes:
        return f"the image has been cut short to {found} of {size_bytes} bytes while mounted"
    return "the host could not give a page of the image: it is full, or its disk fails"
