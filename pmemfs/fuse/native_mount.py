"""Get a mounted /dev/fuse descriptor: by mount(2) when privileged, else from fusermount3.

What root mounts, the kernel is told to trust: by default it lets a FUSE file system have 1 % of
the dirty pages and reads 128 KiB ahead, so that a daemon of anybody's cannot hold up the machine
(Documentation/ABI/testing/sysfs-class-bdi of Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

from pmemfs.errors import PmemfsError
from pmemfs.fuse.mounts import device_of
from pmemfs.fuse.options import MountOptions
from pmemfs.layout.geometry import PAGE_BYTES

_PAGES_LIMIT = Path("/proc/sys/fs/fuse/max_pages_limit")
_DEFAULT_PAGES = 256
_MOST_PAGES = 4096
_READ_AHEAD_KIB = 1024

_libc = ctypes.CDLL(None, use_errno=True)


def mount_native(directory: str, options: MountOptions) -> int:
    """Mount on a directory and return the descriptor to serve; the caller closes it.

    Raises `PmemfsError` with what to do.
    """
    if os.geteuid() == 0:
        fd = _mount_privileged(directory, options)
        _raise_limits(directory)
        return fd
    return _mount_by_fusermount(directory, options)


def max_request_bytes() -> int:
    """Return how large a request the kernel sends at most: 1 MiB, unless the system allows more."""
    try:
        pages = int(_PAGES_LIMIT.read_text())
    except (OSError, ValueError):  # before Linux 6.13
        pages = _DEFAULT_PAGES
    return min(max(pages, 1), _MOST_PAGES) * PAGE_BYTES


def _raise_limits(directory: str) -> None:
    """Let the kernel cache and read ahead as for a disk; it goes without where it cannot."""
    folder = Path("/sys/class/bdi") / (device_of(directory) or "none")
    limits = {"strict_limit": 0, "max_ratio": 100, "read_ahead_kb": _READ_AHEAD_KIB}
    for name, value in limits.items():
        with contextlib.suppress(OSError):
            (folder / name).write_text(f"{value}\n")


def _mount_privileged(directory: str, options: MountOptions) -> int:
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise PmemfsError(
            error.errno or errno.EIO, f"cannot open /dev/fuse: {error.strerror}"
        ) from error
    mode = stat.S_IFMT(os.stat(directory).st_mode)
    data = f"fd={fd},rootmode={mode:o},user_id={os.geteuid()},group_id={os.getegid()}"
    data += ",allow_other" if options.allow_other else ""
    data += ",default_permissions" if options.default_permissions else ""
    source = os.fsencode(options.fsname)
    target = os.fsencode(directory)
    if (
        _libc.mount(source, target, os.fsencode(options.kind), options.mount_flags, data.encode())
        != 0
    ):
        code = ctypes.get_errno()
        os.close(fd)
        raise PmemfsError(code, f"cannot mount on {directory}: {os.strerror(code)}")
    return fd


def _mount_by_fusermount(directory: str, options: MountOptions) -> int:
    program = shutil.which("fusermount3")
    if program is None:
        raise PmemfsError(
            errno.ENOSYS,
            "mounting without being root needs fusermount3: install the package fuse3",
        )
    words = [
        f"fsname={options.escaped_fsname}",
        f"subtype={options.subtype}",
        *options.kernel,
        *(["ro"] if options.read_only else []),
        *(["allow_other"] if options.allow_other else []),
        *(["default_permissions"] if options.default_permissions else []),
    ]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(words), "--", directory],
            env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            message = done.stderr.strip() or "fusermount3 failed"
            raise PmemfsError(errno.EPERM, f"cannot mount on {directory}: {message}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(fds[0], False)
    return fds[0]
