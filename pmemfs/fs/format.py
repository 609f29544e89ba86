"""Make an image: a sparse file with two superblocks, a few heads, a root directory, lost+found.

Order of the stores: everything but the superblocks; flush, fence; the copy; the superblock at
offset 0; flush, fence. So a file with a superblock is a whole image. Writes tens of KiB whatever
the size: heads of zeros are free extents.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator

from pmemfs.dead_mounts import validate_alive
from pmemfs.device import MappedDevice
from pmemfs.errors import PmemfsError
from pmemfs.fs import leaf
from pmemfs.fs.inodes import Inode
from pmemfs.image import lock_image
from pmemfs.layout import records
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    HEAD_BYTES,
    HEAD_DURABLE_BYTES,
    HEAD_TABLE_OFFSET,
    PAGE_BYTES,
    ROOT_INO,
    SUPERBLOCK_OFFSET,
    WORD_BYTES,
    Geometry,
    extent_to_offset,
    extent_to_pfn,
    inode_offset,
    pfn_to_offset,
)
from pmemfs.layout.records import CONTROL, NOTHING_TO_REPLAY, SUPERBLOCK, Kind, MapKind, Role
from pmemfs.layout.words import owner_word
from pmemfs.pages.extents import pack_head
from pmemfs.units import format_size

LABEL_BYTES = 64
LOST_AND_FOUND = b"lost+found"
LOST_AND_FOUND_INO = ROOT_INO + 1


def format_image(
    path: str | os.PathLike[str],
    size_bytes: int,
    *,
    label: str = "",
    force: bool = False,
    lost_found: bool = False,
    entropy: Callable[[int], bytes] = os.urandom,
    now_ns: Callable[[], int] = time.time_ns,
    device_class: type[MappedDevice] = MappedDevice,
) -> Geometry:
    """Make an image at ``path``, mode 0600; return its geometry. Durable on return.

    With ``lost_found`` the root has a directory ``lost+found``, mode 0700, as any other: fsck puts
    there what has no name. It takes the first extent behind the fixed ones, for metadata.
    Raises `PmemfsError`: EEXIST when the file is there and ``force`` is not given, EBUSY when it is
    in use, EFBIG with the host's limit, EINVAL for a size or label that cannot be.
    """
    geometry = Geometry.of_size(size_bytes)
    if len(label.encode()) > LABEL_BYTES:
        raise PmemfsError(errno.EINVAL, f"a label is at most {LABEL_BYTES} bytes of UTF-8")
    fd, is_new = _open_new(os.fspath(path), force)
    try:
        _set_size(fd, os.fspath(path), geometry, lost_found)
        device = device_class(fd, geometry.device_bytes)
        _fill(device, geometry, label, lost_found, entropy, now_ns())
        os.fsync(fd)
        if is_new:
            _sync_folder(os.fspath(path))
    except BaseException:
        if is_new:
            os.unlink(path)
        raise
    finally:
        os.close(fd)
    return geometry


def _open_new(path: str, force: bool) -> tuple[int, bool]:
    validate_alive(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_EXCL, 0o600), True
    except FileExistsError:
        pass
    except OSError as error:
        code = error.errno or errno.EIO
        raise PmemfsError(code, f"cannot make {path}: {error.strerror}") from error
    if os.path.isdir(path):
        raise PmemfsError(errno.EISDIR, f"{path} is a directory; name a file in it")
    if not force:
        raise PmemfsError(errno.EEXIST, f"{path} exists; --force overwrites it")
    try:
        fd = os.open(path, flags)
    except OSError as error:
        code = error.errno or errno.EIO
        raise PmemfsError(code, f"cannot overwrite {path}: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise PmemfsError(errno.EINVAL, f"{path} is not a regular file")
        lock_image(fd, "exclusive", path)
    except BaseException:
        os.close(fd)
        raise
    return fd, False


def _sync_folder(path: str) -> None:
    """Make the name of a new file durable, where the host can."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(folder)


def _set_size(fd: int, path: str, geometry: Geometry, lost_found: bool) -> None:
    """Make the file empty and as long as the device; what is there is kept if that is refused."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    size_bytes = geometry.device_bytes
    if not _host_allows(fd, size_bytes):
        limit = host_limit(fd, size_bytes)
        raise PmemfsError(
            errno.EFBIG,
            f"the host refuses a file of {format_size(size_bytes)}, or to map it; the largest "
            f"image it allows here is {limit // EXTENT_BYTES * 2}M ({format_size(limit)})",
        )
    try:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size_bytes)
        for offset in _used_pages(geometry, lost_found):
            os.posix_fallocate(fd, offset, PAGE_BYTES)
    except OSError as error:
        code = error.errno or errno.EIO
        raise PmemfsError(code, f"cannot make {path}: {error.strerror}") from error


def host_limit(fd: int, refused_bytes: int) -> int:
    """Return the largest size in whole extents that the host allows, by bisection."""
    low, high = 0, refused_bytes // EXTENT_BYTES
    while high - low > 1:
        middle = (low + high) // 2
        if _host_allows(fd, middle * EXTENT_BYTES):
            low = middle
        else:
            high = middle
    return low * EXTENT_BYTES


def _host_allows(fd: int, size_bytes: int) -> bool:
    """Tell whether a file can have this size and be mapped; it keeps what it holds."""
    before = os.fstat(fd).st_size
    if size_bytes <= before:
        return True
    try:
        os.ftruncate(fd, size_bytes)
        MappedDevice(fd, size_bytes).close()
    except (OSError, OverflowError, MemoryError):
        return False
    finally:
        os.ftruncate(fd, before)
    return True


def _used_pages(geometry: Geometry, lost_found: bool) -> list[int]:
    heads_stop = HEAD_TABLE_OFFSET + (geometry.fixed_extents + lost_found) * HEAD_BYTES
    leaf_pages = extent_to_offset(geometry.fixed_extents)
    return [
        SUPERBLOCK_OFFSET,
        CONTROL_OFFSET,
        *range(HEAD_TABLE_OFFSET, heads_stop, PAGE_BYTES),
        extent_to_offset(geometry.first_inode_extent),
        geometry.backup_superblock_offset,
        *((leaf_pages, leaf_pages + PAGE_BYTES) if lost_found else ()),
    ]


def _fill(
    device: MappedDevice,
    geometry: Geometry,
    label: str,
    lost_found: bool,
    entropy: Callable[[int], bytes],
    now_ns: int,
) -> None:
    try:

        def put(offset: int, data: bytes) -> None:
            device.store(offset, data)
            device.flush(offset, len(data))

        identity, seed = uuid.UUID(bytes=entropy(16), version=4), entropy(16)
        root = _directory(geometry, ROOT_INO, 0o755, now_ns)
        if lost_found:
            for offset, data in _lost_and_found(geometry, root, seed, now_ns):
                put(offset, data)
        put(HEAD_TABLE_OFFSET, _fixed_heads(geometry, root.entries))
        put(root.offset, root.encode())
        put(CONTROL_OFFSET, CONTROL.pack(committed=NOTHING_TO_REPLAY))
        device.fence()
        superblock = records.seal(
            SUPERBLOCK,
            magic=records.MAGIC,
            version=records.VERSION,
            page_bytes=PAGE_BYTES,
            device_bytes=geometry.device_bytes,
            n_extents=geometry.n_extents,
            created_ns=now_ns,
            uuid=identity.bytes,
            hash_seed=seed,
            label=label.encode(),
        )
        put(geometry.backup_superblock_offset, superblock)
        device.fence()
        put(SUPERBLOCK_OFFSET, superblock)
        device.fence()
    finally:
        device.close()


def _fixed_heads(geometry: Geometry, entries: int) -> bytes:
    """Return the heads up to the reserve, and that of the root's leaf if it has one."""
    transient = bytes(HEAD_BYTES - HEAD_DURABLE_BYTES)
    fixed = pack_head(Kind.FIXED) + transient
    used = 1 + entries
    inodes = pack_head(Kind.INODES, used=used, frontier=ROOT_INO + used) + transient
    reserve = pack_head(Kind.DESCRIPTOR) + transient
    metadata = (pack_head(Kind.METADATA, used=1) + transient) * entries
    return fixed * geometry.first_inode_extent + inodes + reserve + metadata


def _directory(geometry: Geometry, ino: int, permissions: int, now_ns: int) -> Inode:
    """Return an empty directory in the root, which may be the root itself."""
    directory = Inode(ino, inode_offset(geometry.first_inode_extent, ino))
    directory.clear()
    directory.mode = stat.S_IFDIR | permissions
    directory.nlink = 2
    directory.uid, directory.gid = os.geteuid(), os.getegid()
    directory.parent = ROOT_INO
    directory.map_kind = MapKind.DIRECTORY
    stamps = ("atime_ns", "mtime_ns", "ctime_ns", "btime_ns")
    for name in stamps:
        setattr(directory, name, now_ns)
    return directory


def _lost_and_found(
    geometry: Geometry, root: Inode, seed: bytes, now_ns: int
) -> Iterator[tuple[int, bytes]]:
    """Name a directory in the root; iterate what is to be stored for it, with the root's leaf."""
    child = _directory(geometry, LOST_AND_FOUND_INO, 0o700, now_ns)
    digest = hashlib.blake2b(LOST_AND_FOUND, key=seed, digest_size=8).digest()
    cookie = int.from_bytes(digest, "little") & ((1 << 63) - 1) & ~0xFF  # FORMAT.md, Directories
    entry = leaf.Entry(cookie, child.ino, stat.S_IFDIR >> 12, LOST_AND_FOUND)
    pfn = extent_to_pfn(geometry.fixed_extents) + 1
    root.nlink, root.entries, root.words[0] = 3, 1, pfn
    word = owner_word(ROOT_INO, Role.DIRECTORY_LEAF)
    yield child.offset, child.encode()
    yield extent_to_offset(geometry.fixed_extents) + WORD_BYTES, word.to_bytes(8, "little")
    yield pfn_to_offset(pfn), bytes(leaf.build(ROOT_INO, 0, 0, [entry]))
