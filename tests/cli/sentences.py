"""What an error of the program must look like."""

from __future__ import annotations

import ctypes
import subprocess
from typing import Any

_PR_CAPBSET_DROP = 24
_libc = ctypes.CDLL(None, use_errno=True)


def assert_sentence(done: subprocess.CompletedProcess[str], *parts: str, status: int = 1) -> None:
    """Assert one line on stderr that holds all the parts, the status, and no traceback."""
    assert done.returncode == status, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("pmemfs: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def without_capabilities() -> dict[str, Any]:
    """Return options that run a process as root without root's rights over others' files."""

    def drop() -> None:
        for number in range(41):
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)

    return {"preexec_fn": drop}
