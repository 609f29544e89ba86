"""Extended attributes of a mounted volume, and the one that asks the daemon to compact.

``user.pmemfs.compact`` of the root directory is not stored and not listed. Setting it starts
compaction; its value is what `Reclaimer.progress` says, as JSON. Everything else goes to
`TraceControl`, which has an attribute like that too, and from there to the Volume. Both front ends
have it.
"""

from __future__ import annotations

import errno
import json

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fuse.tracing import TraceControl
from pmemfs.layout.geometry import ROOT_INO
from pmemfs.reclaim import Reclaimer

COMPACT = b"user.pmemfs.compact"


class Attributes(TraceControl):
    """What a front end asks for extended attributes; ``reclaimer`` is None for a read-only one."""

    def __init__(self, volume: Volume, reclaimer: Reclaimer | None) -> None:
        super().__init__(volume)
        self._reclaimer = reclaimer

    def getxattr(self, uid: int, ino: int, name: bytes) -> bytes:
        """Return an attribute, or how far compaction is; see `Volume.getxattr`."""
        if name == COMPACT and ino == ROOT_INO and self._reclaimer is not None:
            return json.dumps(self._reclaimer.progress()).encode()
        return super().getxattr(uid, ino, name)

    def setxattr(
        self,
        uid: int,
        ino: int,
        name: bytes,
        value: bytes,
        flags: int,
        *,
        drop_set_gid: bool = False,
    ) -> None:
        """Set an attribute, or start compaction; see `Volume.setxattr`."""
        if name != COMPACT or ino != ROOT_INO:
            super().setxattr(uid, ino, name, value, flags, drop_set_gid=drop_set_gid)
        elif self._reclaimer is None or self._volume.is_read_only:
            raise PmemfsError(errno.EROFS, "mounted read-only, or so since damage was found")
        else:
            self._reclaimer.compact()
