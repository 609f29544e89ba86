"""Which image is mounted as which device number, for mounts that are shown under another name.

One small file for each mount, written by its daemon: ``fsname=`` and ``subtype=`` hide from the
kernel's table what unmounting has to know. A file may outlive its daemon, so it counts only for a
mount of the device number, type and source that it was written for.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path


def _path(device: str) -> Path:
    if os.geteuid() == 0:
        return Path("/run/pmemfs") / device
    runtime = os.environ.get("XDG_RUNTIME_DIR") or "~/.local/state"
    return Path(runtime).expanduser() / "pmemfs" / device


def note(device: str, kind: str, source: str, image: str) -> None:
    """Note which image is mounted as device ``major:minor``; where that fails, do without."""
    path = _path(device)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"type": kind, "source": source, "image": image}))


def image_of(device: str, kind: str, source: str) -> str | None:
    """Return the image noted for such a mount, or None."""
    try:
        noted = json.loads(_path(device).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(noted, dict) or (noted.get("type"), noted.get("source")) != (kind, source):
        return None
    return str(noted["image"])


def forget(device: str) -> None:
    """Forget a mount that is gone."""
    with contextlib.suppress(OSError):
        _path(device).unlink()
