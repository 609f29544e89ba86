"""A real ext4 on a loop device, given the same trace: create, fallocate, unlink, no data.

Needs root, a free loop device, and mkfs.ext4 and e2freefrag (e2fsprogs). How much of the free
space lies in free aligned 2 MiB is what ``e2freefrag -c 2048`` says.

A record has no directories: files go to 256 in turn, which ext4 spreads over its block groups.
AGEING.md says what difference that makes.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from pmemfs.bench.ageing.store import Sample, samples_due
from pmemfs.bench.ageing.trace import Recorded
from pmemfs.errors import PmemfsError

NAME = "ext4"
MOST_OVERWRITES = 5
_DIRECTORIES = 256
_PROGRAMS = ("mkfs.ext4", "e2freefrag", "mount", "umount")
_CHUNKS = re.compile(r"Free chunks:\s*(\d+)")
_FREE_BLOCKS = re.compile(r"Free blocks:\s*(\d+)")
_BLOCK_BYTES = 4096
_CHUNK_BYTES = 2 << 20


def problem() -> str | None:
    """Return why ext4 cannot be aged here, or None."""
    if os.geteuid() != 0:
        return "mounting it needs root"
    missing = [name for name in _PROGRAMS if _find(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (e2fsprogs, mount)"
    if not os.path.exists("/dev/loop-control"):
        return "there is no /dev/loop-control"
    return None


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run(*arguments: str) -> str:
    program = _find(arguments[0]) or arguments[0]
    done = subprocess.run([program, *arguments[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        text = (done.stderr or done.stdout).strip().splitlines()
        reason = text[-1] if text else f"status {done.returncode}"
        raise PmemfsError(errno.EIO, f"{arguments[0]}: {reason}")
    return done.stdout


class Ext4:
    """A fresh ext4 in an image of its own, mounted; unmounted and removed at the end."""

    def __init__(self, size_bytes: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pmemfs-ageing-ext4-")
        self._image = Path(self._folder.name) / "disk.img"
        self.directory = Path(self._folder.name) / "mnt"
        self.directory.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        options = ("-b", "4096", "-m", "0", "-E", "lazy_itable_init=0")
        _run("mkfs.ext4", "-q", "-F", *options, str(self._image))

    def __enter__(self) -> Ext4:
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", str(self.directory))
        self._folder.cleanup()

    def _mount(self) -> None:
        _run("mount", "-o", "loop,noatime", str(self._image), str(self.directory))

    def sample(self, overwrites: float, files: int) -> Sample:
        """Measure; unmounts for a moment, since e2freefrag finds no chunks in what is mounted."""
        sizes = os.statvfs(self.directory)
        _run("umount", str(self.directory))
        text = _run("e2freefrag", "-c", "2048", str(self._image))
        self._mount()
        chunks, free = _CHUNKS.search(text), _FREE_BLOCKS.search(text)
        if chunks is None or free is None:
            raise PmemfsError(errno.EIO, "e2freefrag says something else than expected")
        return Sample(
            overwrites=overwrites,
            full=1 - sizes.f_bfree / sizes.f_blocks,
            files=files,
            free_whole=int(chunks[1]) * _CHUNK_BYTES / max(1, int(free[1]) * _BLOCK_BYTES),
            file_whole=None,
            pages_per_run=None,
        )


def age(
    recorded: Recorded, size_bytes: int, overwrites: float, watch: Callable[[float], object]
) -> list[Sample]:
    """Replay a trace, up to `MOST_OVERWRITES`; return ten samples. Raises `PmemfsError`."""
    total = round(min(overwrites, MOST_OVERWRITES) * size_bytes)
    samples: list[Sample] = []
    written = 0
    with Ext4(size_bytes) as peer:
        for number in range(_DIRECTORIES):
            (peer.directory / str(number)).mkdir()
        living = 0
        for number, size in recorded.iter_events():
            path = f"{peer.directory}/{number % _DIRECTORIES}/{number:x}"
            if size < 0:
                os.unlink(path)
                living -= 1
                continue
            _create(path, size)
            living += 1
            written += size
            for _ in range(samples_due(written, total, len(samples))):
                samples.append(peer.sample(written / size_bytes, living))
                watch(written / size_bytes)
            if written >= total:
                break
    return samples


def _create(path: str, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)
