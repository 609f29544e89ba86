"""Time, handed in so that tests own it."""

from __future__ import annotations

import sys
import time
from typing import Protocol

# Linux's CLOCK_REALTIME_COARSE (linux/time.h), which the time module does not name
_STAMP_CLOCK = 5 if sys.platform == "linux" else time.CLOCK_REALTIME


class Clock(Protocol):
    """What the file system asks of time."""

    def now_ns(self) -> int:
        """Wall-clock time in ns since 1970, for time stamps; may advance in coarse steps."""
        ...

    def now_s(self) -> int:
        """Wall-clock time in whole s since 1970, for access stamps and idle times."""
        ...


class HostClock:
    """The host's clock: the coarse one that kernels stamp files with."""

    def now_ns(self) -> int:
        """See `Clock.now_ns`; advances with the kernel's tick, 1 to 10 ms."""
        return time.clock_gettime_ns(_STAMP_CLOCK)

    def now_s(self) -> int:
        """See `Clock.now_s`."""
        return int(time.time())
