"""Extended attributes of a mounted volume, and the one that asks the daemon to compact.

``user.pmemfs.compact`` of the root directory is not stored and not listed. Setting it starts
compaction; its value is what `Reclaimer.progress` says, as JSON. Both front ends have it.
"""

from __future__ import annotations

import errno
import json

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.reclaim import Reclaimer

COMPACT = b"user.pmemfs.compact"


class Attributes:
    """What a front end asks for extended attributes; ``reclaimer`` is None for a read-only one."""

    def __init__(self, volume: Volume, reclaimer: Reclaimer | None) -> None:
        self._volume = volume
        self._reclaimer = reclaimer
        self.list = volume.listxattr

    def get(self, ino: int, name: bytes) -> bytes:
        """Return one attribute; raises ENODATA."""
        if name == COMPACT and ino == ROOT_INO and self._reclaimer is not None:
            return json.dumps(self._reclaimer.progress()).encode()
        return self._volume.getxattr(ino, name)

    def set(
        self, ino: int, name: bytes, value: bytes, flags: int = 0, *, drop_set_gid: bool = False
    ) -> None:
        """Set an attribute, as `Volume.setxattr`; or start compaction."""
        if name != COMPACT or ino != ROOT_INO:
            self._volume.setxattr(ino, name, value, flags, drop_set_gid=drop_set_gid)
        elif self._reclaimer is None:
            raise PmemfsError(errno.EROFS, "mounted read-only")
        else:
            self._reclaimer.compact()

    def remove(self, ino: int, name: bytes) -> None:
        """Remove an attribute; raises ENODATA."""
        self._volume.removexattr(ino, name)
