"""Map a file copy-on-write: what is stored through the mapping stays in this process.

Invariants:

* The file never changes, and takes no more space on its host than it had.
* Nothing here needs space on the host, so it works where that is full; but see the last sentence.

On a tmpfs a hole that is touched through a mapping of the file is allocated first, for a read and
for a private store as well, and is SIGBUS where there is no room. So there the mapping is memory
of this process, zeros until something is stored, and only what the file holds is mapped over it. A
file in very many pieces is mapped whole from some place on, holes too, as the number of mappings is
limited.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from pmemfs.device.sparse import iter_host_data

_MAP_NORESERVE = 0x4000
_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value
_TMPFS_MAGIC = 0x01021994
_PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE
_MOST_PIECES = 24_000  # a mapping and what is between it and the next: Linux allows 65530 of both

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)


def is_tmpfs(fd: int) -> bool:
    """Tell whether a file lies on a tmpfs, where reading a hole through a mapping takes space."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs; its first field is the type
    done = _libc.fstatfs(fd, buffer)
    return done == 0 and int.from_bytes(buffer.raw[:4], "little") == _TMPFS_MAGIC


def map_private(fd: int, size_bytes: int) -> mmap.mmap:
    """Map ``size_bytes`` of a file copy-on-write; raises OSError, ValueError if it is shorter."""
    if not is_tmpfs(fd):
        flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
        return mmap.mmap(fd, size_bytes, flags=flags, prot=_PROTECTION)
    if os.fstat(fd).st_size < size_bytes:
        raise ValueError("the file is shorter")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    mapping = mmap.mmap(-1, size_bytes, flags=flags, prot=_PROTECTION)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)  # a store takes a page, not 2 MiB
    first = ctypes.c_char.from_buffer(mapping)
    address = ctypes.addressof(first)
    del first
    for number, (low, high) in enumerate(iter_host_data(fd, size_bytes)):
        if number == _MOST_PIECES:
            _map_over(address, fd, low, size_bytes)
            break
        _map_over(address, fd, low, high)
    return mapping


def _map_over(address: int, fd: int, low: int, high: int) -> None:
    """Put pages of a file, copy-on-write, over those at the same place of a mapping."""
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE | _MAP_FIXED
    if _libc.mmap(address + low, high - low, _PROTECTION, flags, fd, low) == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
