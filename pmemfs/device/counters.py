"""Exact counts of what passed through the device seam."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class Counters:
    """Monotonic counts since the device was opened; they are the same on every machine."""

    stores: int = 0
    bytes_stored: int = 0
    flushes: int = 0
    lines_flushed: int = 0
    fences: int = 0
    publishes: int = 0
    backs: int = 0
    discards: int = 0
    syncs: int = 0

    def copy(self) -> Counters:
        """Return the counts as they are now."""
        return Counters(**asdict(self))

    def since(self, earlier: Counters) -> Counters:
        """Return what was counted after ``earlier`` was copied."""
        return Counters(
            **{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)}
        )
