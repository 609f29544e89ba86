"""What an open volume does when it meets damage: turn read-only, as ext4 with errors=remount-ro.

Damage is

* what the image says and cannot be true: `DamagedImageError`;
* a broken invariant of the program: `InvariantError`;
* a host that cannot make the image durable: `HostError`;
* a commit that failed after its commit word was stored, whatever the reason: then memory and image
  may disagree (`Journal.failure`).

From then on no transaction begins and no access is noted, so nothing is stored; changes are EROFS
and reads go on. The state "damaged" is published in the control page, so that the next mount
checks the image before it trusts it, and closing does not call it clean. What was committed is
there. The log gets one line with the reason and what to do, then each further reason once.

With ``errors="continue"`` the volume goes on, but not after a failed commit.
"""

from __future__ import annotations

import logging
from typing import Literal

from pmemfs.errors import DamagedImageError, HostError, InvariantError

log = logging.getLogger("pmemfs.fs")

Errors = Literal["remount-ro", "continue"]
ERRORS: tuple[Errors, ...] = ("remount-ro", "continue")
_DAMAGE = (DamagedImageError, InvariantError, HostError)
_MOST_REASONS = 50


class DamageLog:
    """What damage a volume has met, each reason logged once. ``name`` is that of its image."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reasons: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def note(self, reason: str, then: str) -> None:
        """Log a reason, and what happens then, unless it is known."""
        if reason in self._reasons or len(self._reasons) >= _MOST_REASONS:
            return
        if not self._reasons:
            reason_and_then = f"{reason}; {then}. Unmount it and run: pmemfs fsck {self._name}"
        else:
            reason_and_then = reason
        self._reasons.add(reason)
        log.error("%s is damaged: %s", self._name, reason_and_then)


def is_damage(error: Exception) -> bool:
    """Tell whether an error says by itself that image or program are wrong."""
    return isinstance(error, _DAMAGE)
