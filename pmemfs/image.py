"""Open an image, validate its superblock, and read it as typed tables.

What the engine, the checker and the inspector share stands here: the lock, the mapping, and
read-only views. Nothing here stores. An image is opened in one of three ways:

* ``exclusive``: for the one daemon (or mkfs) that writes; keeps everyone else out;
* ``shared``: read-only mounts and fsck; keeps writers out;
* ``none``: the inspector, at any time, beside a live daemon.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pmemfs.dead_mounts import validate_alive
from pmemfs.device import MappedDevice
from pmemfs.errors import DamagedImageError, ImageBusyError, PmemfsError
from pmemfs.layout import records
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    HEAD_BYTES,
    HEAD_TABLE_OFFSET,
    MAX_DEVICE_BYTES,
    MIN_DEVICE_BYTES,
    PAGE_BYTES,
    SUPERBLOCK_OFFSET,
    Geometry,
)
from pmemfs.layout.records import (
    CONTROL,
    HEAD,
    NOTHING_TO_REPLAY,
    SUPERBLOCK,
    Kind,
    MountState,
)

_LOCK_TRIES = 4
_LOCK_PAUSE_S = 0.01

Lock = Literal["exclusive", "shared", "none"]


def lock_image(fd: int, lock: Lock, name: str) -> None:
    """Take the image lock without waiting; raises `ImageBusyError` when it is held."""
    if lock == "none":
        return
    operation = (fcntl.LOCK_EX if lock == "exclusive" else fcntl.LOCK_SH) | fcntl.LOCK_NB
    try:
        for _ in range(_LOCK_TRIES):  # an inspector's probe may hold it for microseconds
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(fd, operation)
            time.sleep(_LOCK_PAUSE_S)
        fcntl.flock(fd, operation)
    except BlockingIOError:
        raise ImageBusyError(
            f"{name} is in use: it is mounted, or another pmemfs command works on it; "
            "unmount it first (pmemfs umount DIR)"
        ) from None


def unlock_image(fd: int) -> None:
    """Give the image lock back, for all that share it: mappings keep a descriptor of their own."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def open_file(path: str | os.PathLike[str], *, writable: bool) -> int:
    """Open an image file; raises `PmemfsError` with a sentence for people."""
    name = os.fspath(path)
    validate_alive(name)
    try:
        # O_NONBLOCK: a fifo is refused below, and not waited for
        how = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(name, how)
    except OSError as error:
        code = error.errno or errno.EIO
        reason = {
            errno.ENOENT: f"there is no image {name}: make one with pmemfs mkfs",
            errno.EISDIR: f"{name} is a directory, not an image",
            errno.EACCES: f"permission denied: {name} is not yours to "
            + ("write" if writable else "read"),
            errno.EROFS: f"{name} cannot be written: the file system it lies on is read-only",
        }.get(code, f"cannot open {name}: {error.strerror}")
        raise PmemfsError(code, reason) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise PmemfsError(errno.EINVAL, f"{name} is not a regular file, so not an image")
    return fd


def host_boot_id() -> bytes:
    """Return the 16-byte boot id of this host, zeros where it has none."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return bytes(16)
    return bytes.fromhex(text.strip().replace("-", ""))


class Image:
    """An open image: ``device``, ``geometry``, ``superblock`` and read-only tables.

    ``superblock_problems`` lists damage of one copy that the other made good; ``passed_over``
    what a read-only mount goes on without.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        *,
        private: bool = False,
        device_class: type[MappedDevice] = MappedDevice,
    ) -> None:
        """Take over ``fd``; raises `DamagedImageError` when neither superblock is good.

        ``fd`` is closed then, as it is by `close`.
        """
        self.fd = fd
        self.name = name
        self.superblock_problems: list[str] = []
        self.passed_over: list[str] = []
        try:
            self.superblock = self._read_superblock()
            self.geometry = Geometry.of_size(self.superblock["device_bytes"])
            if private:
                self.device = MappedDevice(fd, self.geometry.device_bytes, private=True)
            else:
                self.device = device_class(fd, self.geometry.device_bytes)
        except BaseException:
            os.close(fd)
            raise
        self.heads: NDArray[Any] = np.frombuffer(
            self.device.view, HEAD.dtype, self.geometry.n_extents, HEAD_TABLE_OFFSET
        )

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        lock: Lock,
        private: bool = False,
        device_class: type[MappedDevice] = MappedDevice,
    ) -> Image:
        """Open an image by path. Only ``exclusive`` without ``private`` can be stored to.

        Views are read-only in any case; a ``shared`` or ``none`` image is mapped copy-on-write.
        """
        writable = lock == "exclusive" and not private
        fd = open_file(path, writable=writable)
        try:
            lock_image(fd, lock, os.fspath(path))
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, os.fspath(path), private=not writable, device_class=device_class)

    def close(self, *, unlock: bool = True) -> None:
        """Unmap, unlock and close; without ``unlock`` whoever shares the lock keeps it."""
        if self.fd < 0:
            return
        self.heads = np.empty(0, HEAD.dtype)
        self.device.close()
        if unlock:
            unlock_image(self.fd)
        os.close(self.fd)
        self.fd = -1

    def refuse(self, error: DamagedImageError) -> None:
        """Raise the error; but note it in ``passed_over`` if the image can only be read.

        So nothing damaged is ever written to, and what can be read of it still can.
        """
        if not self.device.private:
            raise error
        self.passed_over.append(str(error))

    # -- superblock --------------------------------------------------------------------------

    def _read_superblock(self) -> dict[str, Any]:
        file_bytes = os.fstat(self.fd).st_size
        if file_bytes < MIN_DEVICE_BYTES:
            raise DamagedImageError(
                f"{self.name} is no pmemfs image, or cut short: {file_bytes} bytes are too few"
            )
        found = None
        backup = Geometry.of_size(file_bytes).backup_superblock_offset
        for label, offset in (("superblock", SUPERBLOCK_OFFSET), ("backup superblock", backup)):
            data = os.pread(self.fd, SUPERBLOCK.size_bytes, offset)
            problem = self._superblock_problem(data, file_bytes)
            if problem is None:
                found = found or SUPERBLOCK.unpack(data)
            else:
                self.superblock_problems.append(f"{label}: {problem} (device offset {offset:#x})")
        if found is None:
            raise DamagedImageError(
                f"{self.name} is no usable pmemfs image; " + "; ".join(self.superblock_problems)
            )
        return found

    @staticmethod
    def _superblock_problem(data: bytes, file_bytes: int) -> str | None:
        fields = SUPERBLOCK.unpack(data)
        if fields["magic"] != records.MAGIC:
            return "no pmemfs magic"
        if not records.is_sealed(SUPERBLOCK, data):
            return "wrong checksum"
        if fields["version"] != records.VERSION:
            return f"version {fields['version']}; this program knows {records.VERSION}"
        unknown = fields["incompat"] & ~records.INCOMPAT_FEATURES
        if unknown:
            return f"features this program does not know ({unknown:#x}); use a newer pmemfs"
        if fields["page_bytes"] != PAGE_BYTES:
            return f"pages of {fields['page_bytes']} bytes"
        device_bytes = fields["device_bytes"]
        if not MIN_DEVICE_BYTES <= device_bytes < MAX_DEVICE_BYTES or device_bytes % EXTENT_BYTES:
            return f"impossible device size {device_bytes}"
        geometry = Geometry.of_size(device_bytes)
        if geometry.n_extents != fields["n_extents"]:
            return f"{fields['n_extents']} extents do not make {fields['device_bytes']} bytes"
        if fields["device_bytes"] > file_bytes:
            return (
                f"the file is cut short: {file_bytes} of {fields['device_bytes']} bytes are there"
            )
        return None

    @property
    def is_read_only_format(self) -> bool:
        """Whether a read-only-compat feature forbids this program to write."""
        return bool(self.superblock["ro_compat"] & ~records.RO_COMPAT_FEATURES)

    # -- control page ------------------------------------------------------------------------

    def control(self) -> dict[str, Any]:
        """Return the control page as it is now."""
        return CONTROL.unpack(self.device.view, CONTROL_OFFSET)

    @property
    def is_clean(self) -> bool:
        """Whether the last that wrote closed it, and nothing is left to replay."""
        control = self.control()
        return control["state"] == MountState.CLEAN and bool(
            control["committed"] & NOTHING_TO_REPLAY
        )

    # -- heads -------------------------------------------------------------------------------

    def iter_head_ranges(self) -> Iterator[tuple[int, int]]:
        """Iterate ``(first, stop)`` extents whose heads exist in the sparse file."""
        stop = HEAD_TABLE_OFFSET + self.geometry.head_table_bytes
        for low, high in self.device.iter_data(HEAD_TABLE_OFFSET, stop):
            first = (low - HEAD_TABLE_OFFSET) // HEAD_BYTES
            last = -(-(high - HEAD_TABLE_OFFSET) // HEAD_BYTES)
            yield first, min(last, self.geometry.n_extents)

    def chunk_extents(self) -> dict[int, int]:
        """Return the map from inode chunk to the extent that holds it, read from the heads."""
        chunks: dict[int, int] = {}
        for first, stop in self.iter_head_ranges():
            heads = self.heads[first:stop]
            for place in np.flatnonzero(heads["kind"] == Kind.INODES).tolist():
                chunks.setdefault(int(heads["index"][place]), first + place)
        return chunks
