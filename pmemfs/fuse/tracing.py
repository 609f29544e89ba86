"""Record the page accesses of a live mount, by way of an attribute of its root that is not there.

The daemon's side, `TraceControl`, answers for ``user.pmemfs.trace`` on the root instead of the
Volume; it is never stored and never listed:

* setting it begins to record, EBUSY if somebody records already;
* getting ``user.pmemfs.trace.N`` returns the records from number N on, and lets the daemon
  forget those before: so an answer that got lost is asked for again;
* removing it ends. So does not asking for `LEASE_S`, if the recorder has died.

Only whoever runs the daemon may do that. The daemon opens no file; who records writes his own.
The client's side is `Recording`. An answer: `TRACE_ANSWER`, then `TRACE_RECORD`s.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.layout.geometry import ROOT_INO
from pmemfs.layout.record import Field, Record
from pmemfs.pages.trace import LEASE_S, TRACE_RECORD

__all__ = ["LEASE_S", "Recording", "TraceControl"]

_NAME = b"user.pmemfs.trace"
_AT = _NAME + b"."
_XATTR_BYTES = 1 << 16

TRACE_ANSWER = Record(
    "TraceAnswer",
    16,
    "start of an answer.",
    [
        Field("first", "u64", "number of the first record that follows"),
        Field("dropped", "u64", "records lost so far"),
    ],
)
_MOST = (_XATTR_BYTES - TRACE_ANSWER.size_bytes) // TRACE_RECORD.size_bytes


class TraceControl:
    """Extended attributes of a volume, with the one of recording before them."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def getxattr(self, uid: int, ino: int, name: bytes) -> bytes:
        """Return an attribute; see `Volume.getxattr`."""
        if ino != ROOT_INO or not name.startswith(_AT):
            return self._volume.getxattr(ino, name)
        tables = self._volume.tables
        number = name[len(_AT) :]
        if tables is None or tables.trace is None or not number.isdigit():
            raise PmemfsError(errno.ENODATA, "nobody records the accesses")
        self._require_owner(uid)
        now_s = self._volume.options.clock.now_s()
        first, records = tables.trace.fetch(int(number), _MOST, now_s)
        return TRACE_ANSWER.pack(first=first, dropped=tables.trace.dropped) + records

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
        """Set an attribute; see `Volume.setxattr`."""
        if ino != ROOT_INO or name != _NAME:
            self._volume.setxattr(ino, name, value, flags, drop_set_gid=drop_set_gid)
            return
        self._require_owner(uid)
        if self._volume.tables is None:
            raise PmemfsError(errno.EROFS, "mounted read-only: nothing is kept of accesses")
        self._volume.tables.start_trace()

    def removexattr(self, uid: int, ino: int, name: bytes) -> None:
        """Remove an attribute; see `Volume.removexattr`."""
        if ino != ROOT_INO or name != _NAME:
            self._volume.removexattr(ino, name)
            return
        self._require_owner(uid)
        if self._volume.tables is None or self._volume.tables.trace is None:
            raise PmemfsError(errno.ENODATA, "nobody records the accesses")
        self._volume.tables.stop_trace()

    @staticmethod
    def _require_owner(uid: int) -> None:
        if uid != os.geteuid():
            raise PmemfsError(errno.EPERM, "only who runs the daemon may record its accesses")


_REASONS = {
    errno.EBUSY: "somebody else records the accesses there",
    errno.EPERM: "only the user who mounted it may record its accesses",
    errno.EROFS: "it is mounted read-only: nothing is kept of accesses",
    errno.EOPNOTSUPP: "it is mounted with noxattr, or by an older pmemfs; mount it again without",
    errno.ENOTCONN: "its daemon has gone",
    errno.ENODATA: "its daemon has stopped recording: nobody asked for a while",
}


class Recording:
    """Recording on one mounted directory, from `start` to the end of its ``with`` statement."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._next = 0
        self.dropped = 0

    @contextlib.contextmanager
    def started(self) -> Iterator[Recording]:
        """Begin, and end whatever happens; raises `PmemfsError` with what is in the way."""
        with self._explained():
            os.setxattr(self._directory, _NAME, b"on")
        try:
            yield self
        finally:
            with contextlib.suppress(OSError):  # the daemon has gone, or ended it itself
                os.removexattr(self._directory, _NAME)

    def fetch(self) -> Iterator[bytes]:
        """Iterate the records made since the last call, in pieces of many."""
        while True:
            with self._explained():
                answer = os.getxattr(self._directory, _AT + str(self._next).encode())
            self.dropped = TRACE_ANSWER.unpack(answer)["dropped"]
            records = answer[TRACE_ANSWER.size_bytes :]
            if records:
                yield records
            count = len(records) // TRACE_RECORD.size_bytes
            self._next += count
            if count < _MOST:
                return

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            code = error.errno or errno.EIO
            reason = _REASONS.get(code, error.strerror)
            raise PmemfsError(code, f"cannot record on {self._directory}: {reason}") from error
