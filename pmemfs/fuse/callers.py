"""What the kernel does not say about who makes a request, read from /proc."""

from __future__ import annotations

from pathlib import Path

_CAP_SYS_ADMIN = 1 << 21


def is_admin(uid: int, pid: int) -> bool:
    """Tell whether a caller has CAP_SYS_ADMIN on this system: root who has not dropped it.

    ``uid`` is as the kernel says it, so root of a user namespace is somebody else. Root whose
    process cannot be looked up (it lives in another pid namespace) is believed.
    """
    if uid:
        return False
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return True
    _, _, effective = status.partition(b"\nCapEff:")
    return bool(int(effective.split(None, 1)[0], 16) & _CAP_SYS_ADMIN) if effective else True
