"""Record the page accesses of a live mount, by way of an attribute of its root that is not there.

The daemon's side, `TraceControl`, answers for ``user.pmemfs.trace`` on the root instead of the
Volume; it is never stored and never listed:

* setting it begins to record, EBUSY if somebody records already;
* getting ``user.pmemfs.trace.N`` returns the records from number N on, and lets the daemon
  forget those before: so an answer that got lost is asked for again;
* removing it ends. So does not asking for `pmemfs.pages.trace.LEASE_S`, if the recorder has died.

The daemon opens no file; who records writes his own.
The client's side is `Recording`. An answer: `TRACE_ANSWER`, then `TRACE_RECORD`s.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.layout.record import Field, Record
from pmemfs.pages import SplitTables
from pmemfs.pages.trace import TRACE_RECORD

TRACE = b"user.pmemfs.trace"
_AT = TRACE + b"."
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
    """Answers for the attribute; `pmemfs.fuse.attributes` lets only whoever runs the daemon ask."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def _tables(self) -> SplitTables:
        if self._volume.tables is None:
            raise PmemfsError(errno.EROFS, "mounted read-only: nothing is kept of accesses")
        return self._volume.tables

    def get(self, argument: bytes) -> bytes:
        """Return the records from the number ``argument`` on; ENODATA if nobody records."""
        trace = self._tables().trace
        if trace is None or not argument.isdigit():
            raise PmemfsError(errno.ENODATA, "nobody records the accesses")
        now_s = self._volume.options.clock.now_s()
        first, records = trace.fetch(int(argument), _MOST, now_s)
        return TRACE_ANSWER.pack(first=first, dropped=trace.dropped) + records

    def set(self) -> None:
        """Begin to record; EBUSY if somebody does."""
        self._tables().start_trace()

    def remove(self) -> None:
        """Record no more; ENODATA if nobody did."""
        tables = self._tables()
        if tables.trace is None:
            raise PmemfsError(errno.ENODATA, "nobody records the accesses")
        tables.stop_trace()


_REASONS = {
    errno.EBUSY: "somebody else records the accesses there",
    errno.EPERM: "only the user who mounted it may record its accesses",
    errno.EROFS: "it is mounted read-only: nothing is kept of accesses",
    errno.EOPNOTSUPP: "it is mounted with noxattr, or by an older pmemfs; mount it again without",
    errno.ENOTCONN: "its daemon has gone",
    errno.ECONNABORTED: "its daemon has ended",
    errno.ENODATA: "its daemon records no more: nobody asked for a while, or it was unmounted",
}


class RecordingLostError(PmemfsError):
    """The daemon records no more; what has been fetched is all there will be."""


class Recording:
    """Recording on one mounted directory, from `start` to the end of its ``with`` statement."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._next = 0
        self.dropped = 0

    @contextlib.contextmanager
    def started(self) -> Iterator[Recording]:
        """Begin, and end whatever happens; raises `PmemfsError` with what is in the way."""
        try:
            os.setxattr(self._directory, TRACE, b"on")
        except OSError as error:
            code, reason = _reason(error)
            raise PmemfsError(code, f"cannot record on {self._directory}: {reason}") from error
        try:
            yield self
        finally:
            with contextlib.suppress(OSError):  # the daemon has gone, or ended it itself
                os.removexattr(self._directory, TRACE)

    def fetch(self) -> Iterator[bytes]:
        """Iterate the records made since the last call; raises `RecordingLostError`."""
        while True:
            try:
                answer = os.getxattr(self._directory, _AT + str(self._next).encode())
            except OSError as error:
                code, reason = _reason(error)
                raise RecordingLostError(
                    code,
                    f"cannot go on recording on {self._directory}: {reason}; what was recorded "
                    "until then is kept",
                ) from error
            self.dropped = TRACE_ANSWER.unpack(answer)["dropped"]
            records = answer[TRACE_ANSWER.size_bytes :]
            if records:
                yield records
            count = len(records) // TRACE_RECORD.size_bytes
            self._next += count
            if count < _MOST:
                return


def _reason(error: OSError) -> tuple[int, str]:
    code = error.errno or errno.EIO
    return code, _REASONS.get(code) or os.strerror(code)
