"""Mounts whose daemon has gone: every call on what lies there fails, until somebody unmounts it.

The kernel's reason, "Transport endpoint is not connected", helps nobody. So what is given a path by
its user asks here first, and says what to run.
"""

from __future__ import annotations

import errno
import os

from pmemfs.errors import PmemfsError

_NO_DAEMON = (errno.ENOTCONN, errno.ECONNABORTED)


def validate_alive(path: str | os.PathLike[str]) -> None:
    """Raise `PmemfsError`, ENOTCONN, if a path lies on a dead mount: which, and what to run.

    Whatever else is wrong with the path is left to whoever opens it.
    """
    if not _is_dead(path):
        return
    mount = os.path.abspath(path)
    while _is_dead(parent := os.path.dirname(mount)):
        mount = parent
    raise PmemfsError(
        errno.ENOTCONN,
        f"a dead mount is in the way on {mount} (its daemon has gone): "
        f"remove it with pmemfs umount {mount} (or fusermount3 -u {mount})",
    )


def _is_dead(path: str | os.PathLike[str]) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in _NO_DAEMON
    except ValueError:  # no path at all
        return False
    return False
