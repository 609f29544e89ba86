"""A million files: what a walk over them costs the daemon in memory, and that it is used again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from mount_run import FRONTEND, NEEDS_MOUNT, NEEDS_ROOT, Mounted, scratch

from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO

pytestmark = [
    *NEEDS_MOUNT,
    NEEDS_ROOT,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(FRONTEND != "native", reason="libfuse keeps a node for each path"),
]
N_DIRECTORIES = 1000
N_FILES = 1000  # in each
MIB = 1 << 20


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process without what it maps of files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (size,) = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(size) * 1024


def walk(root: Path) -> int:
    """Stat every file; return how many there are."""
    count = 0
    with os.scandir(root) as directories:
        for directory in directories:
            with os.scandir(directory.path) as entries:
                for entry in entries:
                    count += stat.S_ISREG(entry.stat().st_mode)
    return count


def test_a_walk_over_a_million_files() -> None:
    with scratch() as folder:
        one = Mounted(folder, 2048 * MIB)
        with Volume.open(one.image) as volume:
            for directory in range(N_DIRECTORIES):
                parent = volume.mkdir(ROOT_INO, b"d%d" % directory, 0o755).ino
                for file in range(N_FILES):
                    volume.create(parent, b"file-%d" % file, stat.S_IFREG | 0o644)
                    volume.lookup(parent, b"file-%d" % file)  # where the cache is trimmed
        try:
            one.mount("idle=1")
            before = memory_bytes(one.pid)
            assert walk(one.directory) == N_DIRECTORIES * N_FILES
            after = memory_bytes(one.pid)
            print(f"before {before / MIB:.0f} MiB, after {after / MIB:.0f} MiB")
            assert after < 400 * 10**6
            Path("/proc/sys/vm/drop_caches").write_text("2\n")  # the kernel forgets
            for _ in range(2):
                walk(one.directory)
                Path("/proc/sys/vm/drop_caches").write_text("2\n")
            assert memory_bytes(one.pid) < after + 10 * MIB, "what is forgotten is used again"
            one.finish()
        finally:
            one.clean_up()
