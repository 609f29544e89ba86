"""What is mounted where: reading the kernel's table, checking a mount point, unmounting."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from pmemfs.dead_mounts import validate_alive
from pmemfs.errors import PmemfsError
from pmemfs.fuse import registry
from pmemfs.fuse.options import SUBTYPE

FILE_SYSTEM_TYPE = f"fuse.{SUBTYPE}"
_OCTAL = re.compile(r"\\([0-7]{3})")
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """One mount of this program; ``device`` is its ``major:minor``."""

    directory: str
    image: str
    device: str


def _unescape(text: str) -> str:
    return (
        _OCTAL.sub(lambda m: chr(int(m[1], 8)), text)
        .encode("latin-1")
        .decode("utf-8", "surrogateescape")
    )


def iter_mounts(table: str = "/proc/self/mountinfo") -> list[Mount]:
    """Return the pmemfs mounts of this mount namespace, the newest last."""
    mounts = []
    for line in Path(table).read_text(encoding="latin-1").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        kind, source = _unescape(rest[0]), _unescape(rest[1])
        image = registry.image_of(fields[2], kind, source) if kind.startswith("fuse") else None
        if image is not None or kind == FILE_SYSTEM_TYPE:
            mounts.append(Mount(_unescape(fields[4]), image or source, fields[2]))
    return mounts


def device_of(directory: str) -> str | None:
    """Return the ``major:minor`` of what is mounted topmost on a directory, given by its real path.

    Never touches the directory: a daemon that does not serve yet asks this about its own mount.
    """
    lines = Path("/proc/self/mountinfo").read_text(encoding="latin-1").splitlines()
    found = [f[2] for f in (line.split(" ") for line in lines) if _unescape(f[4]) == directory]
    return found[-1] if found else None


def find_mount(directory: str) -> Mount | None:
    """Return the topmost pmemfs mount on a directory, also when its daemon is dead."""
    wanted = _real_path(directory)
    found = [mount for mount in iter_mounts() if mount.directory == wanted]
    return found[-1] if found else None


def find_mount_of(path: str) -> Mount | None:
    """Return the topmost pmemfs mount on a directory, or of an image."""
    mount = find_mount(path)
    if mount is None:
        image = os.path.realpath(path)
        mount = next((m for m in reversed(iter_mounts()) if m.image == image), None)
    return mount


def find_directory(path: str) -> str:
    """Return the directory on which a pmemfs is mounted and alive, of that or of its image.

    Raises `PmemfsError` with what to do if there is none.
    """
    mount = find_mount_of(path)
    if mount is None:
        raise PmemfsError(errno.EINVAL, f"no pmemfs is mounted on {path}, nor from it")
    validate_alive(mount.directory)
    return mount.directory


def _real_path(directory: str) -> str:
    """Resolve a path without asking the last component, whose daemon may be dead."""
    path = os.path.abspath(directory)
    if os.path.islink(path):
        path = os.path.abspath(os.path.join(os.path.dirname(path), os.readlink(path)))
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(parent), name) if name else parent


def validate_mount_point(directory: str) -> None:
    """Raise `PmemfsError` with what to do unless a file system can be mounted there."""
    validate_alive(directory)
    try:
        is_directory = os.path.isdir(directory) or not os.stat(directory)
    except FileNotFoundError:
        raise PmemfsError(
            errno.ENOENT, f"there is no directory {directory}: make it first (mkdir {directory})"
        ) from None
    except OSError as error:
        raise PmemfsError(
            error.errno or errno.EIO, f"cannot use {directory}: {error.strerror}"
        ) from error
    if not is_directory:
        raise PmemfsError(errno.ENOTDIR, f"{directory} is not a directory")
    if find_mount(directory) is not None:
        raise PmemfsError(
            errno.EBUSY, f"a pmemfs is mounted on {directory} already: pmemfs umount {directory}"
        )


def unmount(directory: str, *, lazy: bool = False) -> None:
    """Unmount; raises `PmemfsError` with EBUSY and what to do when it is in use."""
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(directory), _MNT_DETACH if lazy else 0) == 0:
            return
        code = ctypes.get_errno()
    else:
        code = _unmount_unprivileged(directory, lazy)
        if not code:
            return
    if code == errno.EBUSY:
        raise PmemfsError(
            code,
            f"{directory} is busy: a program has a file or its working directory there "
            f"(fuser -vm {directory} names it); end it, or use --lazy",
        )
    raise PmemfsError(code, f"cannot unmount {directory}: {os.strerror(code)}")


def sync_directory(directory: str) -> None:
    """Write back what the kernel caches of the file system of a directory (syncfs(2))."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(fd)


def _unmount_unprivileged(directory: str, lazy: bool) -> int:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise PmemfsError(errno.ENOSYS, "fusermount3 is missing: install the package fuse3")
    command = [program, "-u", *(["-z"] if lazy else []), directory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return 0
    return errno.EBUSY if "busy" in done.stderr.lower() else errno.EPERM


def lock_holders(image: str) -> set[int]:
    """Return the processes that hold the lock of an image file, as far as they can be seen."""
    try:
        status = os.stat(image)
        table = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return set()
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    fields = [line.split() for line in table.splitlines()]
    return {int(f[4]) for f in fields if len(f) > 5 and f[1] == "FLOCK" and f[5] == inode}


def wait_until_closed(image: str, timeout_s: float = 10.0) -> None:
    """Wait while a daemon whose mount is gone still closes its image.

    ``umount`` returns before that; what comes right after it need not fail. Returns at once when
    nobody holds the image, and when it is mounted: then its lock will say so.
    """
    deadline = time.monotonic() + timeout_s
    path = os.path.realpath(image)
    while lock_holders(path) and all(mount.image != path for mount in iter_mounts()):
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def wait_for_exit(pids: set[int], timeout_s: float) -> bool:
    """Wait until one of the processes is gone (or there was none); False on a time-out."""
    deadline = time.monotonic() + timeout_s
    while pids and all(is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def is_running(pid: int) -> bool:
    """Tell whether a process is there and has not ended; one that nobody has reaped has."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b") ")[2][:1] not in (b"Z", b"X")
