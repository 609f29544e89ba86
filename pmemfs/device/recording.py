"""A device that writes down everything that passes through its seam, in order.

The record is what `pmemfs.device.crash` enumerates crashes from, and what a test counts.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pmemfs.device.mapped import MappedDevice


class Event(NamedTuple):
    """One call of the seam. ``data`` is empty for all kinds but ``store``."""

    kind: Literal["store", "flush", "fence", "back", "discard", "sync"]
    offset: int = 0
    length: int = 0
    data: bytes = b""


class RecordingDevice(MappedDevice):
    """A `MappedDevice` whose calls are kept in ``events`` while ``recording`` is true."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        super().__init__(fd, size_bytes)
        self.events: list[Event] = []
        self.recording = False
        self.store_all = self._store_each  # type: ignore[method-assign]

    def start(self) -> None:
        """Forget what was recorded and record from here."""
        self.events = []
        self.recording = True

    def stop(self) -> list[Event]:
        """Stop recording and return the events since `start`."""
        self.recording = False
        return self.events

    def store(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store and record; see `MappedDevice.store`."""
        if self.recording:
            self.events.append(Event("store", offset, len(data), bytes(data)))
        super().store(offset, data)

    def store_fresh(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store and record; see `MappedDevice.store_fresh`."""
        if self.recording:
            self.events.append(Event("store", offset, len(data), bytes(data)))
        super().store_fresh(offset, data)

    def flush(self, offset: int, length: int) -> None:
        """Flush and record; see `MappedDevice.flush`."""
        if self.recording:
            self.events.append(Event("flush", offset, length))
        super().flush(offset, length)

    def fence(self) -> None:
        """Fence and record; see `MappedDevice.fence`."""
        if self.recording:
            self.events.append(Event("fence"))
        super().fence()

    def _back_unit(self, unit: int, low: int, high: int) -> None:
        if self.recording:
            self.events.append(Event("back", unit << 21, 1 << 21))
        super()._back_unit(unit, low, high)

    def discard(self, offset: int, length: int) -> None:
        """Discard and record; see `MappedDevice.discard`."""
        if self.recording:
            self.events.append(Event("discard", offset, length))
        super().discard(offset, length)

    def _sync_host(self) -> None:
        if self.recording:
            self.events.append(Event("sync"))
        super()._sync_host()
