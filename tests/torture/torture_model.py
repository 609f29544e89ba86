"""What a tree may hold after its daemon was killed.

`FileModel` knows what an application sees in a file, and what may be found instead: of each page
the contents it had since it was last known to be stored, and the sizes in between. `TreeModel` is
names, each a file, a directory or a symbolic link. `TreeModel.accept` holds what was found
against both, bit by bit, and then believes it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PAGE = 4096
XATTR = "user.torture"


class LostError(AssertionError):
    """Something that had been promised is not there, or something that nobody wrote is."""


def pages_of(size: int) -> int:
    return -(-size // PAGE)


@dataclass
class Found:
    """One name as the mount shows it."""

    kind: str
    mode: int
    nlink: int
    data: bytes = b""
    xattr: bytes | None = None


class FileModel:
    """One file. Without calls that are not ``lasting`` it may be found in one state only."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.mode = 0o644
        self.xattr: bytes | None = None
        self.older: dict[int, list[bytes]] = {}  # page: what it may hold instead
        self.low = 0  # the size that lasts
        self.starts: set[int] = set()  # where requests began that made it longer since
        self.ends: set[int] = {0}

    def page(self, number: int) -> bytes:
        return bytes(self.data[number * PAGE : (number + 1) * PAGE]).ljust(PAGE, b"\0")

    def write(self, offset: int, data: bytes, *, lasting: bool) -> None:
        end = offset + len(data)
        self._keep(offset, end, lasting=lasting)
        if end > len(self.data):
            self.starts.add(offset)
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = data
        self._note_size(lasting=lasting)

    def truncate(self, size: int) -> None:
        """Sizes last at once, in every mode: the kernel keeps none from the daemon."""
        if size < len(self.data):
            self.older = {n: pages for n, pages in self.older.items() if n < pages_of(size)}
            last = size // PAGE
            if last in self.older:
                cut = size % PAGE
                self.older[last] = [page[:cut].ljust(PAGE, b"\0") for page in self.older[last]]
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))
        self._note_size(lasting=True)

    def punch(self, offset: int, length: int, *, lasting: bool) -> None:
        end = min(offset + length, len(self.data))
        if offset < end:
            self._keep(offset, end, lasting=lasting)
            self.data[offset:end] = bytes(end - offset)

    def allocate(self, offset: int, length: int, *, lasting: bool) -> None:
        """The daemon makes the file as long, also where the kernel has it longer already."""
        end = offset + length
        self.starts.add(offset)
        self.ends.add(end)
        if end > len(self.data):
            self.data.extend(bytes(end - len(self.data)))
        if lasting:
            self.low = max(self.low, end)

    def sync(self) -> None:
        """All of it lasts."""
        self.older.clear()
        self._note_size(lasting=True)

    def sync_range(self, start: int, stop: int) -> None:
        """The pages of a range last; so the file reaches as far."""
        for number in range(start // PAGE, pages_of(stop)):
            self.older.pop(number, None)
        self.low = max(self.low, min(len(self.data), pages_of(stop) * PAGE))

    def _keep(self, start: int, stop: int, *, lasting: bool) -> None:
        if not lasting:
            for number in range(start // PAGE, pages_of(stop)):
                self.older.setdefault(number, []).append(self.page(number))

    def _note_size(self, *, lasting: bool) -> None:
        if lasting:
            self.low = len(self.data)
            self.starts.clear()
            self.ends.clear()
        self.ends.add(len(self.data))

    # -- what was found ----------------------------------------------------------------------

    def problem(self, found: Found) -> str | None:
        """Return what is wrong with what was found, or None."""
        if (found.mode, found.xattr) != (self.mode, self.xattr):
            return f"mode or attribute: {found.mode:o} {found.xattr!r}, not {self.mode:o}"
        size = len(found.data)
        if not self._may_be_size(size):
            return f"{size} bytes, not {self.low} to {len(self.data)}"
        if not self.older and found.data == self.data:
            return None
        for number in range(pages_of(size)):
            page = found.data[number * PAGE : (number + 1) * PAGE]
            if not self._may_be_page(number, page):
                return self._describe(number, page)
        return None

    def _may_be_size(self, size: int) -> bool:
        if not self.low <= size <= len(self.data):
            return False
        at = any((size - start) % PAGE == 0 for start in self.starts)
        return size in self.ends or size == self.low or size % PAGE == 0 or at

    def _may_be_page(self, number: int, page: bytes) -> bool:
        """Whole pages, or, where the daemon died in the midst of a store, words of both."""
        versions = [self.page(number), *self.older.get(number, [])]
        cut = len(page)
        if any(version[:cut] == page for version in versions):
            return True
        if len(versions) == 1:
            return False
        got = _words(page)
        good = np.zeros(len(got), bool)
        for version in versions:
            good |= got == _words(version[:cut])
        return bool(good.all())

    def _describe(self, number: int, page: bytes) -> str:
        want = self.page(number)[: len(page)]
        at = next(i for i in range(len(page)) if page[i] != want[i])
        others = len(self.older.get(number, []))
        return (
            f"page {number} differs from byte {number * PAGE + at} on: {page[at : at + 16]!r}, "
            f"not {want[at : at + 16]!r} (nor any of {others} earlier contents); "
            f"{len(self.data)} bytes, {self.low} of them lasting"
        )

    def believe(self, found: Found) -> None:
        self.data = bytearray(found.data)
        self.sync()


def _words(page: bytes) -> np.ndarray:
    return np.frombuffer(page.ljust(-(-len(page) // 8) * 8, b"\0"), "<u8")


Node = FileModel | str | None
"""A file, the target of a symbolic link, or None for a directory."""


@dataclass
class TreeModel:
    """What lies below one directory, by relative path."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def files(self) -> list[str]:
        return [path for path, node in self.nodes.items() if isinstance(node, FileModel)]

    def directories(self) -> list[str]:
        return ["", *(path for path, node in self.nodes.items() if node is None)]

    def file(self, path: str) -> FileModel:
        node = self.nodes[path]
        assert isinstance(node, FileModel)
        return node

    def move(self, old: str, new: str) -> None:
        """Rename, with all that lies below."""
        moved = {p: n for p, n in self.nodes.items() if p == old or p.startswith(old + "/")}
        for path in moved:
            del self.nodes[path]
        self.nodes.pop(new, None)
        self.nodes.update({new + path[len(old) :]: node for path, node in moved.items()})

    def is_empty(self, path: str) -> bool:
        return not any(other.startswith(path + "/") for other in self.nodes)

    def bytes_stored(self) -> int:
        return sum(len(self.file(path).data) for path in self.files())

    def problem(self, found: dict[str, Found]) -> str | None:
        """Return what is wrong with a tree that was found, or None."""
        if found.keys() != self.nodes.keys():
            missing, extra = self.nodes.keys() - found.keys(), found.keys() - self.nodes.keys()
            return f"missing: {sorted(missing)}, not expected: {sorted(extra)}"
        for path, node in self.nodes.items():
            what = self._node_problem(node, found[path])
            if what is not None:
                return f"{path}: {what}"
        return None

    def _node_problem(self, node: Node, found: Found) -> str | None:
        if isinstance(node, FileModel):
            names = sum(other is node for other in self.nodes.values())
            if (found.kind, found.nlink) != ("file", names):
                return f"a {found.kind} with {found.nlink} names, not a file with {names}"
            return node.problem(found)
        if isinstance(node, str):
            same = found.kind == "link" and found.data == node.encode()
            return None if same else f"a {found.kind}: {found.data!r}, not a link to {node}"
        return None if found.kind == "directory" else f"a {found.kind}, not a directory"

    def believe(self, found: dict[str, Found]) -> None:
        for path in self.files():
            self.file(path).believe(found[path])


def observe(root: Path) -> dict[str, Found]:
    """Read everything below a directory."""
    found: dict[str, Found] = {}
    for folder, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = _look(path)
    return found


def _look(path: str) -> Found:
    st = os.lstat(path)
    mode = stat.S_IMODE(st.st_mode)
    if stat.S_ISDIR(st.st_mode):
        return Found("directory", mode, st.st_nlink)
    if stat.S_ISLNK(st.st_mode):
        return Found("link", mode, st.st_nlink, os.readlink(os.fsencode(path)))
    data = Path(path).read_bytes()
    if len(data) != st.st_size:
        raise LostError(f"{path}: stat says {st.st_size} bytes, read {len(data)}")
    names = os.listxattr(path)
    return Found("file", mode, st.st_nlink, data, os.getxattr(path, XATTR) if names else None)
