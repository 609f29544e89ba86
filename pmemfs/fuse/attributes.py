"""Extended attributes of a mounted volume, and those by which its daemon is asked for something.

These are attributes of the root directory that are never stored and never listed. Both front ends
have them, and answer them to whoever runs the daemon only:

* ``user.pmemfs.compact``: setting it starts compaction; its value is what `Reclaimer.progress`
  says, as JSON;
* ``user.pmemfs.trace``: recording of accesses, see `pmemfs.fuse.tracing`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from typing import Protocol

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fuse.tracing import TRACE, TraceControl
from pmemfs.layout.geometry import ROOT_INO
from pmemfs.reclaim import Reclaimer

_PREFIX = b"user.pmemfs."
COMPACT = b"user.pmemfs.compact"


class Control(Protocol):
    """What answers for one attribute; ``argument`` is what follows its name and a dot."""

    def get(self, argument: bytes) -> bytes:
        """Return the value; raises ENODATA."""

    def set(self) -> None:
        """Begin; raises EROFS on a read-only mount."""

    def remove(self) -> None:
        """End; raises ENODATA."""


class CompactControl:
    """Compaction on demand; ``reclaimer`` is None for a read-only mount."""

    def __init__(self, reclaimer: Reclaimer | None) -> None:
        self._reclaimer = reclaimer

    def get(self, argument: bytes) -> bytes:
        """Return how far compaction is; raises ENODATA when there cannot be any."""
        if self._reclaimer is None or argument:
            raise PmemfsError(errno.ENODATA, "nothing is compacted here")
        return json.dumps(self._reclaimer.progress()).encode()

    def set(self) -> None:
        """Start compaction."""
        if self._reclaimer is None:
            raise PmemfsError(errno.EROFS, "mounted read-only")
        self._reclaimer.compact()

    def remove(self) -> None:
        """Refuse: it ends by itself."""
        raise PmemfsError(errno.ENODATA, "compaction ends by itself")


class Attributes:
    """What a front end asks for extended attributes; ``uid`` is who wants to know."""

    def __init__(self, volume: Volume, reclaimer: Reclaimer | None) -> None:
        self._volume = volume
        self._controls: dict[bytes, Control] = {
            COMPACT: CompactControl(reclaimer),
            TRACE: TraceControl(volume),
        }

    def _control(self, uid: int, ino: int, name: bytes) -> tuple[Control, bytes] | None:
        """Return the control that a name is of, and its argument; EPERM for who must not."""
        if ino != ROOT_INO or not name.startswith(_PREFIX):
            return None
        key, _, argument = name[len(_PREFIX) :].partition(b".")
        control = self._controls.get(_PREFIX + key)
        if control is None:
            return None
        if uid != os.geteuid():
            raise PmemfsError(errno.EPERM, "only who runs the daemon may ask it for that")
        return control, argument

    def get(self, uid: int, ino: int, name: bytes) -> bytes:
        """Return one attribute; raises ENODATA."""
        found = self._control(uid, ino, name)
        if found is None:
            return self._volume.getxattr(ino, name)
        control, argument = found
        return control.get(argument)

    def list(self, ino: int, is_admin: Callable[[], bool]) -> list[bytes]:
        """Return the names of all attributes that the caller may know of.

        The kernel guards each trusted.* attribute, but not the list.
        """
        return self._volume.listxattr(ino, is_admin)

    def set(
        self,
        uid: int,
        ino: int,
        name: bytes,
        value: bytes,
        flags: int = 0,
        *,
        drop_set_gid: bool = False,
    ) -> None:
        """Set an attribute, as `Volume.setxattr`; or have the daemon begin something."""
        found = self._control(uid, ino, name)
        if found is None:
            self._volume.setxattr(ino, name, value, flags, drop_set_gid=drop_set_gid)
            return
        control, argument = found
        if argument:
            raise PmemfsError(errno.EINVAL, "that is only answered")
        control.set()

    def remove(self, uid: int, ino: int, name: bytes) -> None:
        """Remove an attribute, raises ENODATA; or have the daemon end something."""
        found = self._control(uid, ino, name)
        if found is None:
            self._volume.removexattr(ino, name)
        else:
            found[0].remove()
