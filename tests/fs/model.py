"""A file system as plain dicts: what the state machine compares the Volume with.

Every operation says which errnos Linux may give for it (`*_errors`, an empty set when it must
succeed) and, apart from that, does it.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator

from pmemfs.layout.geometry import MAX_FILE_BYTES, NAME_MAX, PAGE_BYTES

ZERO_PAGE = bytes(PAGE_BYTES)
XATTR_ROOM = 4096 - 16


class Node:
    """One inode of the model. ``pages`` of a file hold those that are not all zero."""

    def __init__(self, mode: int, uid: int = 0, gid: int = 0) -> None:
        self.ino = 0
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.rdev = 0
        self.nlink = 2 if stat.S_ISDIR(mode) else 1
        self.holds = 0
        self.xattrs: dict[bytes, bytes] = {}
        self.entries: dict[bytes, Node] = {}
        self.parent: Node = self
        self.target = b""
        self.size = 0
        self.pages: dict[int, bytes] = {}

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    def read(self, offset: int, size: int) -> bytes:
        """Return what a read gives."""
        stop = min(offset + size, self.size)
        if stop <= offset:
            return b""
        first = offset // PAGE_BYTES
        numbers = range(first, -(-stop // PAGE_BYTES))
        data = b"".join(self.pages.get(number, ZERO_PAGE) for number in numbers)
        return data[offset - first * PAGE_BYTES : stop - first * PAGE_BYTES]

    def write(self, offset: int, data: bytes) -> None:
        """Replace bytes, and grow the file to hold them, if there are any."""
        if not data:
            return
        position = 0
        while position < len(data):
            number, start = divmod(offset + position, PAGE_BYTES)
            chunk = data[position : position + PAGE_BYTES - start]
            page = self.pages.get(number, ZERO_PAGE)
            self.pages[number] = page[:start] + chunk + page[start + len(chunk) :]
            position += len(chunk)
        self.size = max(self.size, offset + len(data))

    def zero(self, offset: int, stop: int) -> None:
        """Make bytes zero within the file."""
        stop = min(stop, self.size)
        if stop <= offset:
            return
        for number in [n for n in self.pages if offset < (n + 1) * PAGE_BYTES and n * 4096 < stop]:
            low = max(offset - number * PAGE_BYTES, 0)
            high = min(stop - number * PAGE_BYTES, PAGE_BYTES)
            page = self.pages[number]
            self.pages[number] = page[:low] + bytes(high - low) + page[high:]
            if self.pages[number] == ZERO_PAGE:
                del self.pages[number]

    def truncate(self, size: int) -> None:
        """Change the size; what is added reads as zero."""
        if size < self.size:
            self.zero(size, -(-self.size // PAGE_BYTES) * PAGE_BYTES)
            self.pages = {n: page for n, page in self.pages.items() if n * PAGE_BYTES < size}
        self.size = size


def name_errors(name: bytes) -> set[int]:
    """Return what a name that cannot be an entry gives."""
    if len(name) > NAME_MAX:
        return {errno.ENAMETOOLONG}
    if not name:
        return {errno.ENOENT}
    return {errno.EINVAL} if b"/" in name or b"\0" in name else set()


def find_errors(parent: Node, name: bytes) -> set[int]:
    """Return why a name cannot be found."""
    if not parent.is_dir:
        return {errno.ENOTDIR}
    return name_errors(name) or (set() if name in parent.entries else {errno.ENOENT})


def make_errors(parent: Node, name: bytes) -> set[int]:
    """Return why a name cannot be made."""
    if not parent.is_dir:
        return {errno.ENOTDIR}
    errors = name_errors(name)
    if not errors and (name in (b".", b"..") or name in parent.entries):
        errors = {errno.EEXIST}
    return errors or ({errno.ENOENT} if not parent.nlink else set())


def unlink_errors(parent: Node, name: bytes) -> set[int]:
    """Return why a name cannot be unlinked."""
    errors = find_errors(parent, name)
    if not errors and parent.entries[name].is_dir:
        return {errno.EISDIR}
    return errors


def rmdir_errors(parent: Node, name: bytes) -> set[int]:
    """Return why a directory cannot be removed."""
    errors = find_errors(parent, name)
    if errors:
        return errors
    if not parent.entries[name].is_dir:
        return {errno.ENOTDIR}
    return {errno.ENOTEMPTY} if parent.entries[name].entries else set()


def link_errors(node: Node, parent: Node, name: bytes) -> set[int]:
    """Return why a file cannot get that name."""
    errors = make_errors(parent, name)
    if node.is_dir:
        errors |= {errno.EPERM}
    return errors


def is_inside(directory: Node, ancestor: Node) -> bool:
    """Whether a directory is another, or lies below it."""
    while directory is not ancestor:
        if directory.parent is directory:
            return False
        directory = directory.parent
    return True


def rename_errors(old: Node, name: bytes, new: Node, new_name: bytes, flags: int) -> set[int]:
    """Return why a rename cannot be; more than one where Linux could say either."""
    if flags not in (0, 1, 2):
        return {errno.EINVAL}
    if not old.is_dir or not new.is_dir:
        return {errno.ENOTDIR}
    errors = name_errors(name) | name_errors(new_name)
    if {name, new_name} & {b".", b".."}:
        errors |= {errno.EBUSY}
    if errors:
        return errors
    if name not in old.entries:
        return {errno.ENOENT}
    node, target = old.entries[name], new.entries.get(new_name)
    if flags == 1 and target is not None:
        return {errno.EEXIST}
    if flags == 2 and target is None:
        return {errno.ENOENT}
    if node.is_dir and is_inside(new, node):
        return {errno.EINVAL}
    if flags == 2:
        assert target is not None
        return {errno.EINVAL} if target.is_dir and is_inside(old, target) else set()
    if target is node:
        return set()
    if not new.nlink:
        return {errno.ENOENT}
    if target is None:
        return set()
    if node.is_dir:
        return _replace_errors(target)
    return {errno.EISDIR} if target.is_dir else set()


def _replace_errors(target: Node) -> set[int]:
    if not target.is_dir:
        return {errno.ENOTDIR}
    return {errno.ENOTEMPTY} if target.entries else set()


def add_entry(parent: Node, name: bytes, node: Node) -> None:
    """Enter a name."""
    parent.entries[name] = node
    if node.is_dir:
        node.parent = parent
        parent.nlink += 1


def inherit(parent: Node, node: Node) -> None:
    """Take over what a set-group-id directory gives to what is made in it."""
    if parent.mode & stat.S_ISGID:
        node.gid = parent.gid
        if node.is_dir:
            node.mode |= stat.S_ISGID


def remove_entry(parent: Node, name: bytes) -> Node:
    """Take a name out; return what it stood for."""
    node = parent.entries.pop(name)
    if node.is_dir:
        parent.nlink -= 1
    return node


def drop_link(node: Node) -> None:
    """Count one name less."""
    node.nlink = 0 if node.is_dir else node.nlink - 1


def rename(old: Node, name: bytes, new: Node, new_name: bytes, flags: int) -> None:
    """Rename as renameat2(2)."""
    if old.entries[name] is new.entries.get(new_name):
        return
    node = remove_entry(old, name)
    target = remove_entry(new, new_name) if new_name in new.entries else None
    add_entry(new, new_name, node)
    if target is not None and flags == 2:
        add_entry(old, name, target)
    elif target is not None:
        drop_link(target)


def size_errors(node: Node, end: int) -> set[int]:
    """Return why a file cannot reach that far."""
    if not node.is_file:
        return {errno.EISDIR if node.is_dir else errno.EINVAL}
    return {errno.EFBIG} if end > MAX_FILE_BYTES else set()


def xattr_bytes(xattrs: dict[bytes, bytes]) -> int:
    """Return what the attributes take of their page."""
    return sum(4 + len(name) + len(value) for name, value in xattrs.items())


def walk(node: Node) -> Iterator[Node]:
    """Iterate a tree, each inode once."""
    seen: set[int] = set()
    todo = [node]
    while todo:
        each = todo.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            todo += each.entries.values()
