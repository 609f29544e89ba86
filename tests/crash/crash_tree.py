"""What a Volume shows of itself, and whether a crash may have left it so (design, invariant 5).

`observe` reads a tree through the public calls only. `Allowed` holds the trees before, between and
after the atomic steps of an operation, and matches an observed tree with one of them: attributes,
names, sizes and mappings exactly; data exactly, but for words that a step overwrote in place,
which are old or new.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from pmemfs.fs.volume import ROOT_INO, Volume

PAGE = 4096
_ZERO_PAGE = bytes(PAGE)


Identity = tuple[int, int]


@dataclass(frozen=True)
class Node:
    """One inode as its callers see it.

    ``identity`` tells it from those that had its number before. ``mapped`` has the ranges of
    bytes that are data, ``pages`` those pages that are not all zero, padded with zeros at the end
    of the file.
    """

    attributes: tuple[int | bytes, ...]
    xattrs: tuple[tuple[bytes, bytes], ...]
    size: int
    mapped: tuple[tuple[int, int], ...] = ()
    pages: dict[int, bytes] = field(compare=False, default_factory=dict)
    identity: Identity = field(compare=False, default=(0, 0))


Tree = dict[bytes, Node]


def observe(volume: Volume, skip: frozenset[bytes] = frozenset()) -> Tree:
    """Return all that can be seen, by path; what is in directories and files ``skip`` is not."""
    tree: Tree = {}
    _walk(volume, ROOT_INO, b"", tree, skip)
    return tree


def _walk(volume: Volume, ino: int, path: bytes, tree: Tree, skip: frozenset[bytes]) -> None:
    tree[path or b"/"] = _node(volume, ino, path in skip)
    if not stat.S_ISDIR(volume.inode(ino).mode) or path in skip:
        return
    for entry in list(volume.readdir(ino)):
        if entry.name == b"..":
            assert entry.ino == volume.inode(ino).parent
        elif entry.name != b".":
            child = volume.lookup(ino, entry.name)
            assert (child.ino, child.mode >> 12) == (entry.ino, entry.type), entry
            _walk(volume, entry.ino, path + b"/" + entry.name, tree, skip)


def _node(volume: Volume, ino: int, unread: bool) -> Node:
    i = volume.inode(ino)
    target = volume.readlink(ino) if i.is_symlink else b""
    mapped, pages = _data(volume, ino, i.size) if i.is_file and not unread else ((), {})
    # pages of a file on the orphan list are still being freed; they are not seen through it
    blocks = 0 if i in volume.orphans else i.pages
    attributes = (ino, i.mode, i.nlink, i.uid, i.gid, i.size, i.rdev, i.entries, blocks, i.flags)
    times = (i.atime_ns, i.mtime_ns, i.ctime_ns, i.btime_ns)
    names = volume.listxattr(ino)
    xattrs = tuple((name, volume.getxattr(ino, name)) for name in names)
    identity = (ino, i.generation)
    return Node((*attributes, *times, target), xattrs, i.size, mapped, pages, identity)


def _data(
    volume: Volume, ino: int, size: int
) -> tuple[tuple[tuple[int, int], ...], dict[int, bytes]]:
    mapped: list[tuple[int, int]] = []
    pages: dict[int, bytes] = {}
    position = 0
    while position < size:
        try:
            start = volume.seek(ino, position, data=True)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        position = volume.seek(ino, start, data=False)
        mapped.append((start, position))
        for piece in volume.read(ino, start, position - start):
            for offset in range(0, len(piece), PAGE):
                page = bytes(piece[offset : offset + PAGE]).ljust(PAGE, b"\0")
                if page != _ZERO_PAGE:
                    pages[(start + offset) // PAGE] = page
            start += len(piece)
        assert start == position
    return tuple(mapped), pages


class FileModel:
    """What a file should hold, by a second and simpler account of the same calls."""

    def __init__(self) -> None:
        self.size = 0
        self.pages: dict[int, bytearray] = {}

    def write(self, offset: int, data: bytes) -> None:
        self._store(offset, data)
        self.size = max(self.size, offset + len(data))

    def _store(self, offset: int, data: bytes) -> None:
        while data:
            number, start = divmod(offset, PAGE)
            part = data[: PAGE - start]
            self.pages.setdefault(number, bytearray(PAGE))[start : start + len(part)] = part
            offset, data = offset + len(part), data[len(part) :]

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray()
        stop = min(offset + length, self.size)
        while offset < stop:
            number, start = divmod(offset, PAGE)
            part = self.pages.get(number, bytes(PAGE))[start : start + stop - offset]
            data += part
            offset += len(part)
        return bytes(data)

    def truncate(self, size: int) -> None:
        self.punch(size, self.size - size)
        self.size = size

    def punch(self, offset: int, length: int) -> None:
        stop = max(offset, min(offset + length, self.size))
        for number in [n for n in self.pages if offset < (n + 1) * PAGE and n * PAGE < stop]:
            low, high = max(offset, number * PAGE), min(stop, (number + 1) * PAGE)
            self._store(low, bytes(high - low))

    def allocate(self, offset: int, length: int) -> None:
        self.size = max(self.size, offset + length)


MODELS: WeakKeyDictionary[Volume, dict[int, FileModel]] = WeakKeyDictionary()
"""The files that the operations of a case wrote, by volume and inode number."""


def require_modelled(volume: Volume, tree: Tree, skip: frozenset[bytes]) -> None:
    """Assert that the files of a tree hold what the calls made on the volume put into them."""
    for path, node in tree.items():
        model = MODELS.get(volume, {}).get(int(node.attributes[0]))
        if model is not None and path not in skip and stat.S_ISREG(int(node.attributes[1])):
            want = {n: bytes(page) for n, page in model.pages.items() if any(page)}
            assert node.size == model.size, (path, node.size, model.size)
            wrong = {n for n in want | node.pages if want.get(n) != node.pages.get(n)}
            assert not wrong, f"pages {sorted(wrong)} of {path!r} are not what was written"


class Allowed:
    """The trees that a crash may leave: ``trees[k]`` is the one after ``k`` steps.

    ``returned[k]`` is how many events had been recorded when step ``k`` returned: later crashes
    may not lose it. ``synced`` maps an inode, by number and generation, to the steps that made its
    data durable; ``durable`` says that the last step makes all data so, ``atomic`` that data too
    changes whole or not at all.
    """

    def __init__(
        self,
        trees: list[Tree],
        returned: list[int],
        *,
        durable: bool = True,
        atomic: bool = False,
        synced: dict[Identity, list[int]] | None = None,
    ) -> None:
        self.trees = trees
        self.returned = returned
        self.durable = durable
        self.atomic = atomic
        self.synced = synced or {}
        self._nodes = [{node.identity: node for node in tree.values()} for tree in trees]

    def floor(self, after: int) -> int:
        """Return the step that a crash behind event number ``after`` may not lose."""
        return max(k for k, events in enumerate(self.returned) if events <= after)

    def match(self, tree: Tree, after: int, kept: int = 0) -> int:
        """Return the lowest step that ``tree`` may be the state of, behind event ``after``.

        Not below ``kept``, which an earlier crash is known not to have lost. The lowest: where two
        steps leave the same tree, the second need not have been kept. Words overwritten in place
        by the steps so far, or by the next, may be old, unless the data was made durable in
        between. Raises AssertionError.
        """
        last = len(self.trees) - 1
        floor = max(kept, returned := self.floor(after))
        words = not self.atomic and not (returned == last and self.durable)
        why = []
        for step in range(floor, last + 1):
            problem = self._difference(tree, step, words)
            if problem is None:
                return step
            why.append(f"not step {step}: {problem}")
        raise AssertionError("no allowed tree; " + "; ".join(why))

    def _difference(self, tree: Tree, step: int, words: bool) -> str | None:
        want = self.trees[step]
        if tree.keys() != want.keys():
            return f"names differ: {sorted(tree.keys() ^ want.keys())[:4]!r}"
        for path, node in tree.items():
            if node != want[path]:
                return f"{path!r} is {_show(node)}, not {_show(want[path])}"
            if node.pages != want[path].pages:
                problem = self._data_difference(path, node, step, words)
                if problem:
                    return problem
        return None

    def _data_difference(self, path: bytes, node: Node, step: int, words: bool) -> str | None:
        want = self.trees[step][path]
        others = self._old_words(want, step) if words else []
        for number in node.pages.keys() | want.pages.keys():
            page = node.pages.get(number, _ZERO_PAGE)
            new = want.pages.get(number, _ZERO_PAGE)
            good = np.frombuffer(page, "<u8") == np.frombuffer(new, "<u8")
            for other, end in others:
                good |= _are_old_words(page, new, other, number, end, node.size)
            if not good.all():
                at = number * PAGE + int(np.flatnonzero(~good)[0]) * 8
                place = at % PAGE
                one = page[place : place + 8]
                two = want.pages.get(number, _ZERO_PAGE)[place : place + 8]
                return f"{path!r} has {one!r} at {at}, not {two!r} ({(~good).sum()} words)"
        return None

    def _old_words(self, want: Node, step: int) -> list[tuple[Node, int]]:
        """Return the states whose words may still be there, each with where these words end.

        What lay behind the end of the file in between is no old word, but zero.
        """
        found = []
        who = want.identity
        if step + 1 < len(self.trees) and who in self._nodes[step + 1]:
            following = self._nodes[step + 1][who]
            found.append((following, min(following.size, want.size)))
        end = want.size
        oldest = max((k for k in self.synced.get(who, ()) if k <= step), default=0)
        for nodes in reversed(self._nodes[oldest:step]):
            if who not in nodes:
                break
            end = min(end, nodes[who].size)
            found.append((nodes[who], end))
        return found


def _are_old_words(
    page: bytes, new: bytes, other: Node, number: int, end: int, size: int
) -> np.ndarray:
    """Tell which words of a page are those of another state, up to byte ``end`` of the file.

    A word that zeros have cut since, by way of the journal, is old but for these zeros.
    """
    start = number * PAGE
    if not any(low <= start < high for low, high in other.mapped):
        return np.zeros(PAGE // 8, bool)
    data = bytearray(other.pages.get(number, _ZERO_PAGE))
    cut = min(max(size - number * PAGE, 0), PAGE)
    data[cut:] = bytes(PAGE - cut)
    got, old, wanted = (np.frombuffer(x, np.uint8).reshape(-1, 8) for x in (page, data, new))
    is_cut = (wanted == 0).any(1) & (wanted != 0).any(1)
    equal = (got == old).all(1)
    equal |= is_cut & ((got == old) | ((got == 0) & (wanted == 0))).all(1)
    if end < size:  # a word that this end cuts is no old word
        equal[max(end - number * PAGE, 0) // 8 :] = False
    return equal


def _show(node: Node) -> str:
    return f"{node.attributes} {node.xattrs}"
