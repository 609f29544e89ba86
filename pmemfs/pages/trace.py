"""Page accesses as a trace: what one record says, the file, and the log a daemon keeps.

A trace file is a `TRACE_HEADER` and then `TRACE_RECORD`s in the order of the accesses, nothing
else. It says where pages were accessed, never what they hold or whose they are. Files are
declared here and not in FORMAT.md: they are no part of an image.

`AccessLog` is filled by `SplitTables` while somebody records. It holds a bounded number of
records: what nobody fetches is dropped and counted, and a log that nobody asks for any more ends
by itself.
"""

from __future__ import annotations

import errno
import os
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.dead_mounts import validate_alive
from pmemfs.errors import PmemfsError
from pmemfs.layout.record import Field, Record

TRACE_MAGIC = int.from_bytes(b"pmemtrc\x01", "little")
PAGE_SHIFT = 8
MOST_BYTES = 64 << 20
LEASE_S = 30

Trace = NDArray[Any]


class AccessFlag(IntFlag):
    """What a record says, in bits 0 to 7 of ``page``."""

    WRITE = 1
    WHOLE = 2
    DIRTY = 4
    FREED = 8


TRACE_HEADER = Record(
    "TraceHeader",
    64,
    "start of a trace file.",
    [
        Field("magic", "u64", "the bytes `pmemtrc`, 1", "once"),
        Field("n_extents", "u64", "extents of the device that was recorded", "once"),
        Field("dropped", "u64", "records lost because nobody fetched them in time", "once"),
        Field("reserved", "bytes:40", "zero", "once"),
    ],
)

TRACE_RECORD = Record(
    "TraceRecord",
    16,
    "one access to neighbouring pages of one extent.",
    [
        Field("page", "u64", "pfn << 8 | AccessFlag bits"),
        Field("second", "u32", "s since 1970"),
        Field("count", "u16", "pages accessed, from pfn on"),
        Field("lines", "u16", "lines flushed: of each page (small), of all together (whole)"),
    ],
)


class AccessLog:
    """Records that wait to be fetched, numbered from 0; records fetched once are forgotten."""

    def __init__(self, now_s: int) -> None:
        self.dropped = 0
        self._first = 0
        self._data = bytearray()
        self._asked_s = now_s
        self._pack = TRACE_RECORD.struct.pack

    def add(self, now_s: int, pfn: int, count: int, flags: int, lines: int) -> bool:
        """Append one access; False when nobody has asked for a while and the log should end."""
        if len(self._data) >= MOST_BYTES:
            self.dropped += 1
        else:
            self._data += self._pack(pfn << PAGE_SHIFT | flags, now_s, count, lines)
        return now_s - self._asked_s < LEASE_S

    def fetch(self, first: int, most: int, now_s: int) -> tuple[int, bytes]:
        """Return up to ``most`` records from number ``first`` on; forget those before it.

        Also returns the number of the first of them, which is not ``first`` if that is gone.
        """
        self._asked_s = now_s
        size = TRACE_RECORD.size_bytes
        known = max(0, min(first - self._first, len(self._data) // size))
        del self._data[: known * size]
        self._first += known
        return self._first, bytes(self._data[: most * size])


def write_header(n_extents: int, dropped: int = 0) -> bytes:
    """Return the header of a trace file."""
    return TRACE_HEADER.pack(magic=TRACE_MAGIC, n_extents=n_extents, dropped=dropped)


def read_trace(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Trace]:
    """Return the header and the records ``(n,)`` of a trace file.

    A last record that was cut short is left out. Raises `PmemfsError` for what is no trace.
    """
    name = os.fspath(path)
    validate_alive(name)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        code = error.errno or errno.EIO
        raise PmemfsError(code, f"cannot read {name}: {error.strerror}") from error
    start = TRACE_HEADER.size_bytes
    header = TRACE_HEADER.unpack(data[:start]) if len(data) >= start else {"magic": 0}
    if header["magic"] != TRACE_MAGIC:
        raise PmemfsError(
            errno.EINVAL, f"{name} is no trace: make one with pmemfs trace record DIR -o FILE"
        )
    count = (len(data) - start) // TRACE_RECORD.size_bytes
    trace = np.frombuffer(data, TRACE_RECORD.dtype, count, start)
    problem = _problem(header, trace)
    if problem:
        raise PmemfsError(errno.EINVAL, f"{name} is damaged: {problem}")
    return header, trace


def _problem(header: dict[str, Any], trace: Trace) -> str | None:
    if not 0 < header["n_extents"] < 1 << 31:
        return f"a device of {header['n_extents']} extents"
    pfns = trace["page"] >> np.uint64(PAGE_SHIFT)
    counts = trace["count"].astype(np.uint64)
    outside = (counts == 0) | ((pfns & np.uint64(511)) + counts > 512)
    outside |= pfns >> np.uint64(9) >= header["n_extents"]
    if outside.any():
        return f"record {int(np.flatnonzero(outside)[0])} is not within one extent of the device"
    if (trace["second"][1:] < trace["second"][:-1]).any():
        return "time goes backwards"
    return None
