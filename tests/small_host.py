"""A host file system that is small, and full when a test says so: a tmpfs with a ballast file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDS_TMPFS = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tmpfs")


class SmallHost:
    """A mounted tmpfs. `fill` leaves no page free on it, `make_room` gives that back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free_bytes(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_bsize

    def fill(self, *, but_bytes: int = 0) -> None:
        with open(self._ballast, "ab") as file:
            more = self.free_bytes - but_bytes
            if more > 0:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, more)
        assert self.free_bytes <= but_bytes

    def make_room(self) -> None:
        self._ballast.unlink()


@contextlib.contextmanager
def small_host(size_bytes: int) -> Iterator[SmallHost]:
    """Mount a tmpfs of that size; unmount it at the end, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="pmemfs-small-host-"))
    try:
        options = f"size={size_bytes},mode=755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "pmemfs-test", folder], check=True)
        try:
            yield SmallHost(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    finally:
        folder.rmdir()
