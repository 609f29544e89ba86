"""Extended attributes: one metadata page for each inode that has some.

A change writes a new page whole, **commits** the inode that names it together with the free of
the old one, so attributes change all or not at all. Full names with their namespace are stored.
"""

from __future__ import annotations

import errno
import zlib

from pmemfs.device import MappedDevice
from pmemfs.errors import DamagedImageError, PmemfsError, no_space
from pmemfs.fs import acl
from pmemfs.fs.inodes import Inode
from pmemfs.journal import Transaction
from pmemfs.layout.geometry import NAME_MAX, PAGE_BYTES, PAGE_SHIFT
from pmemfs.layout.records import XATTR_ENTRY, XATTR_NAMESPACES, XATTR_PAGE, Kind, Role
from pmemfs.layout.words import owner_word
from pmemfs.pages import Arena, ExtentPool
from pmemfs.pages.arenas import free_metadata

CREATE = 1
REPLACE = 2
VALUE_MAX = 65536
_HEADER_BYTES = XATTR_PAGE.size_bytes


class Xattrs:
    """The extended attributes of all inodes of a volume."""

    def __init__(self, device: MappedDevice, pool: ExtentPool, metadata: Arena) -> None:
        self._device = device
        self._pool = pool
        self._metadata = metadata

    def read(self, inode: Inode, tx: Transaction | None = None) -> dict[bytes, bytes]:
        """Return all attributes by name, in the order they were first set, as ``tx`` sees them."""
        if not inode.xattr:
            return {}
        if tx is not None and inode.xattr in tx.fresh:
            return self._unpack(inode, bytes(tx.fresh[inode.xattr]))
        word = owner_word(inode.ino, Role.XATTR)
        if not self._pool.holds_page(inode.xattr, Kind.METADATA, word):
            raise _damaged(inode)
        start = inode.xattr << PAGE_SHIFT
        return self._unpack(inode, bytes(self._device.view[start : start + PAGE_BYTES]))

    @staticmethod
    def _unpack(inode: Inode, page: bytes) -> dict[bytes, bytes]:
        header = XATTR_PAGE.unpack(page)
        used = header["used_bytes"]
        if not _HEADER_BYTES <= used <= PAGE_BYTES or header["ino"] != inode.ino:
            raise _damaged(inode)
        if zlib.crc32(page[:12] + page[_HEADER_BYTES:used]) != header["checksum"]:
            raise _damaged(inode)
        return _parse(inode, page[:used], header["count"])

    def set(self, tx: Transaction, inode: Inode, name: bytes, value: bytes, flags: int) -> None:
        """Set one attribute; the caller guards and puts the inode.

        Raises EOPNOTSUPP (namespace), ERANGE (name), E2BIG (value), EEXIST and ENODATA (flags),
        ENOSPC when all attributes do not fit in one page together.
        """
        validate(name, value)
        attributes = self.read(inode, tx)
        if flags & CREATE and name in attributes:
            raise PmemfsError(errno.EEXIST, "the attribute exists")
        if flags & REPLACE and name not in attributes:
            raise PmemfsError(errno.ENODATA, "there is no such attribute")
        attributes[name] = value
        self._replace(tx, inode, attributes)

    def replace(self, tx: Transaction, inode: Inode, changes: dict[bytes, bytes | None]) -> None:
        """Set some attributes and remove others (None), all at once, without checks.

        The caller guards and puts the inode; allocates nothing when nothing changes.
        """
        before = self.read(inode, tx)
        after = {name: value for name, value in (before | changes).items() if value is not None}
        if after != before:
            self._replace(tx, inode, after)

    def remove(self, tx: Transaction, inode: Inode, name: bytes) -> None:
        """Remove one attribute, or raise ENODATA; the caller guards and puts the inode."""
        attributes = self.read(inode, tx)
        if attributes.pop(name, None) is None:
            raise PmemfsError(errno.ENODATA, "there is no such attribute")
        self._replace(tx, inode, attributes)

    def _replace(self, tx: Transaction, inode: Inode, attributes: dict[bytes, bytes]) -> None:
        old, inode.xattr = inode.xattr, 0
        if attributes:
            content = _pack(inode.ino, attributes)
            word = owner_word(inode.ino, Role.XATTR)
            ((inode.xattr, _),) = self._metadata.allocate(tx, 1, word, 0)
            tx.fresh_page(inode.xattr)[: len(content)] = content
        if old:
            free_metadata(self._pool, tx, old, owner_word(inode.ino, Role.XATTR))


def _damaged(inode: Inode) -> DamagedImageError:
    return DamagedImageError(
        f"the attributes of inode {inode.ino} are damaged; run pmemfs fsck",
        inode.xattr << PAGE_SHIFT,
    )


def _parse(inode: Inode, page: bytes, count: int) -> dict[bytes, bytes]:
    """Return the entries of a page, which is cut where they end."""
    attributes: dict[bytes, bytes] = {}
    position = _HEADER_BYTES
    while position + XATTR_ENTRY.size_bytes <= len(page):
        name_bytes, value_bytes = XATTR_ENTRY.struct.unpack_from(page, position)
        start = position + XATTR_ENTRY.size_bytes
        name = page[start : start + name_bytes]
        position = start + name_bytes + value_bytes
        if not _is_name(name):
            break
        attributes[name] = page[start + name_bytes : position]
    if position != len(page) or len(attributes) != count:
        raise _damaged(inode)
    return attributes


def _is_name(name: bytes) -> bool:
    if not name.startswith(XATTR_NAMESPACES) and name not in acl.NAMES:
        return False
    return len(name) <= NAME_MAX and name not in XATTR_NAMESPACES and b"\0" not in name


def validate(name: bytes, value: bytes) -> None:
    """Raise what setxattr(2) raises for a name or a value that cannot be."""
    if not name.startswith(XATTR_NAMESPACES) and name not in acl.NAMES:
        raise PmemfsError(
            errno.EOPNOTSUPP,
            "attributes are user.*, trusted.*, security.* and access control lists",
        )
    if len(name) > NAME_MAX:
        raise PmemfsError(errno.ERANGE, "the name of an attribute is at most 255 bytes")
    if name in XATTR_NAMESPACES or b"\0" in name:
        raise PmemfsError(errno.EINVAL, "not an attribute name")
    if len(value) > VALUE_MAX:
        raise PmemfsError(errno.E2BIG, "the value is longer than 64 KiB")


def _pack(ino: int, attributes: dict[bytes, bytes]) -> bytes:
    parts = []
    for name, value in attributes.items():
        parts += [XATTR_ENTRY.struct.pack(len(name), min(len(value), 0xFFFF)), name, value]
    body = b"".join(parts)
    used = _HEADER_BYTES + len(body)
    if used > PAGE_BYTES:
        raise no_space("the attributes of a file do not fit in one page together")
    header = XATTR_PAGE.pack(ino=ino, count=len(attributes), used_bytes=used)[:12]
    return header + zlib.crc32(header + body).to_bytes(4, "little") + body
