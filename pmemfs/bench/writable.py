"""Files that are written at the end of long work: whether that can be done is asked before it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from pmemfs.dead_mounts import validate_alive
from pmemfs.errors import PmemfsError


def validate_writable(path: Path) -> None:
    """Raise `PmemfsError` if a file cannot be written; one that is there stays as it is.

    Only opening it tells: whoever may write to a directory may still find it read-only.
    """
    validate_alive(path)
    target = os.path.realpath(path)
    with writing(path):
        is_new = not os.path.exists(target)
        if is_new and not os.path.isdir(os.path.dirname(target)):
            text = f"there is no directory {path.absolute().parent}"
            raise FileNotFoundError(errno.ENOENT, text)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666))
        if is_new:
            os.unlink(target)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing a file into a `PmemfsError` with its name."""
    try:
        yield
    except PmemfsError:
        raise
    except OSError as error:
        code = error.errno or errno.EIO
        raise PmemfsError(code, f"cannot write {path}: {error.strerror}") from error
