"""The word that tells a reader of a live image that things moved while it read.

It is odd between `SequenceWord.enter` and `SequenceWord.leave`, and larger after each. The stores
are transient: nothing depends on them after a crash.
"""

from __future__ import annotations

from pmemfs.device import MappedDevice
from pmemfs.layout.geometry import CONTROL_OFFSET
from pmemfs.layout.records import CONTROL

_OFFSET = CONTROL_OFFSET + CONTROL.offset_of["sequence"]
_MASK = (1 << 64) - 1


class SequenceWord:
    """The seqlock word of one device, written by the one thread that stores."""

    def __init__(self, device: MappedDevice) -> None:
        self._device = device
        self._value = device.words[_OFFSET >> 3] & ~1

    def enter(self) -> None:
        """Say that home stores or descriptors are about to move."""
        self._value = self._value + 1 & _MASK
        self._device.store(_OFFSET, self._value.to_bytes(8, "little"))

    def settle(self) -> None:
        """Leave, if something has failed between `enter` and `leave`."""
        if self._value & 1:
            self.leave()

    def leave(self) -> None:
        """Say that they have moved."""
        self._value = self._value + 1 & _MASK
        self._device.store(_OFFSET, self._value.to_bytes(8, "little"))
