"""The checksums of many heads at once, by the column.

CRC-32 is affine: the sum of some bytes is that of as many zeros, changed by each byte on its
own. So one table look-up for each byte of the durable half serves a whole column of heads.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmemfs.layout.geometry import HEAD_BYTES, HEAD_DURABLE_BYTES
from pmemfs.layout.records import HEAD

_SUMMED_BYTES = HEAD.offset_of["checksum"]


@cache
def _tables() -> tuple[NDArray[np.uint32], int]:
    """Return what each value of each byte does to the sum, ``(28, 256)``, and the sum of zeros."""
    zero = zlib.crc32(bytes(_SUMMED_BYTES))
    tables = np.empty((_SUMMED_BYTES, 256), np.uint32)
    body = bytearray(_SUMMED_BYTES)
    for place in range(_SUMMED_BYTES):
        for value in range(256):
            body[place] = value
            tables[place, value] = zlib.crc32(body) ^ zero
        body[place] = 0
    return tables, zero


def bad_sums(heads: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which heads ``(n,) bool`` have a wrong checksum; 32 bytes of zeros need none."""
    data = np.ascontiguousarray(heads).view(np.uint8).reshape(-1, HEAD_BYTES)
    places = np.flatnonzero(data[:, :HEAD_DURABLE_BYTES].any(axis=1))
    data = data[places]
    tables, zero = _tables()
    sums = np.full(len(places), zero, np.uint32)
    for place in range(_SUMMED_BYTES):
        column = data[:, place]
        if column.any():  # zeros change nothing
            sums ^= tables[place][column]
    bad = np.zeros(len(heads), np.bool_)
    bad[places] = sums != heads["checksum"][places]
    return bad
