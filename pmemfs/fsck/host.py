"""Read what exists on the host file, and zeros where it has holes.

A hole that is read through the mapping takes a page of memory for its zeros, and a damaged image
may point anywhere; so the checker asks the host first. This module does not know what the bytes
mean.
"""

from __future__ import annotations

from collections.abc import Iterator

from pmemfs.device import MappedDevice

ZERO_STRIDE_BYTES = 1 << 20
_ZEROS = bytes(ZERO_STRIDE_BYTES)


def read_present(device: MappedDevice, offset: int, length: int) -> memoryview:
    """Return ``length`` bytes at ``offset``; holes are zeros and are not touched."""
    ranges = list(device.iter_data(offset, offset + length))
    if ranges == [(offset, offset + length)]:
        return device.view[offset : offset + length]
    data = bytearray(length)
    for low, high in ranges:
        data[low - offset : high - offset] = device.view[low:high]
    return memoryview(data)


def is_present(device: MappedDevice, offset: int, length: int) -> bool:
    """Tell whether any byte of the range may hold data."""
    return next(device.iter_data(offset, offset + length), None) is not None


def iter_nonzero(device: MappedDevice, start: int, stop: int) -> Iterator[int]:
    """Iterate offsets of pieces of up to 1 MiB that are not zero throughout."""
    for low, high in device.iter_data(start, stop):
        for piece in range(low, high, ZERO_STRIDE_BYTES):
            end = min(piece + ZERO_STRIDE_BYTES, high)
            if device.view[piece:end] != _ZEROS[: end - piece]:
                yield piece
