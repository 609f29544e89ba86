"""The work that is interrupted: calls drawn by a seed, done on a mount, and done on a model.

`draw` depends on nothing but the random numbers and the model, and every call succeeds; so whoever
knows the seed and how many calls have returned knows what has been acknowledged. A `Worker` is
a process that does them, and keeps those two numbers in memory that it shares: how many calls
have begun, and how many have returned.
"""

from __future__ import annotations

import copy
import ctypes
import mmap
import os
import random
import signal
import struct
import time
import traceback
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torture_model import PAGE, XATTR, FileModel, LostError, TreeModel

BUDGET_BYTES = 12 << 20
MOST_NAMES = 60
OPEN_FILES = 6
FALLOC_PUNCH = 3
_SIZES = (10, 100, 700, PAGE, 2 * PAGE, 9000, 20000, 70000, 300000)
_LARGE = 2_500_000
_REQUEST_BYTES = 65536

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class Setting:
    """What is mounted, and how."""

    frontend: str
    cache: str
    persist: str

    @property
    def name(self) -> str:
        return f"{self.frontend} cache={self.cache} persist={self.persist}"

    @property
    def lasting(self) -> bool:
        """Whether a write that has returned is there after the daemon's death."""
        return self.cache != "writeback"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The calls this can carry, each as often as it is to be drawn."""
        kinds = _KINDS
        if self.frontend == "native":
            kinds += ("punch",) * 4 + ("allocate",) * 2 + ("link",) * 3
        if self.cache != "none":
            kinds += ("mmap",) * 4
        return kinds


_KINDS = (
    *("create",) * 8, *("write",) * 30, *("append",) * 12, *("truncate",) * 6, *("fsync",) * 10,
    *("rename",) * 6, *("replace",) * 3, *("unlink",) * 5, *("symlink",) * 2, *("mkdir",) * 2,
    *("rmdir",), *("setxattr",) * 3, *("chmod",) * 3, *("close",) * 4,
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call; ``seed`` makes its data."""

    kind: str
    path: str
    other: str = ""
    offset: int = 0
    size: int = 0
    seed: str = ""

    @property
    def data(self) -> bytes:
        return random.Random(self.seed).randbytes(self.size)


class OpenFiles:
    """The descriptors a worker keeps, the least recently used closed first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fds: OrderedDict[str, int] = OrderedDict()

    def get(self, path: str) -> int:
        if path not in self.fds:
            while len(self.fds) >= OPEN_FILES:
                self.close(next(iter(self.fds)))
            self.fds[path] = os.open(self.root / path, os.O_RDWR)
        self.fds.move_to_end(path)
        return self.fds[path]

    def close(self, path: str) -> None:
        """Close what is open of a path and below it."""
        for name in [n for n in self.fds if n == path or n.startswith(path + "/")]:
            os.close(self.fds.pop(name))


# -- drawing ------------------------------------------------------------------------------------


def draw(rng: random.Random, tree: TreeModel, name: str, setting: Setting) -> Call:
    """Return the next call; it can be done. ``name`` is one that no call had before."""
    kind = rng.choice(setting.kinds)
    files = sorted(tree.files())
    directories = sorted(tree.directories())
    fresh = os.path.join(rng.choice(directories), name)
    seed = f"{rng.random()}.{name}"
    if tree.bytes_stored() > BUDGET_BYTES or len(tree.nodes) > MOST_NAMES:
        largest = max(files, key=lambda p: (len(tree.file(p).data), p))
        return Call("unlink", largest if len(files) > 30 else rng.choice([largest, *files]))
    if not files or kind == "create":
        return Call("create", fresh)
    path = rng.choice(files)
    if kind in ("symlink", "mkdir"):
        return Call(kind, fresh, other=path)
    if kind == "rmdir":
        empty = [d for d in directories if d and tree.is_empty(d)]
        return Call(kind, rng.choice(empty)) if empty else Call("mkdir", fresh)
    if kind in ("rename", "link"):
        return _draw_rename(rng, tree, kind, path, fresh)
    if kind == "replace":
        others = [f for f in files if tree.file(f) is not tree.file(path)]
        return Call(kind, path, rng.choice(others)) if others else Call("fsync", path)
    if kind == "chmod":
        return Call(kind, path, size=rng.choice((0o600, 0o640, 0o644, 0o755)))
    if kind == "setxattr":
        return Call(kind, path, size=rng.choice((1, 50, 900)), seed=seed)
    return _draw_data(rng, kind, path, len(tree.file(path).data), seed)


def _draw_rename(rng: random.Random, tree: TreeModel, kind: str, path: str, fresh: str) -> Call:
    directories = [d for d in sorted(tree.directories()) if d]
    if kind == "rename" and directories and rng.random() < 0.2:
        moved = rng.choice(directories)
        if not fresh.startswith(moved + "/"):
            return Call(kind, moved, fresh)
    return Call(kind, path, fresh)


def _draw_data(rng: random.Random, kind: str, path: str, length: int, seed: str) -> Call:
    size = _LARGE if rng.random() < 0.01 else rng.choice(_SIZES)
    offset = rng.randrange(length + 1)
    if rng.random() < 0.5:
        offset -= offset % PAGE
    if kind == "append" or (kind == "write" and rng.random() < 0.1):
        offset = length + (rng.choice((1, 5000, 60000)) if kind == "write" else 0)
    elif size > _REQUEST_BYTES:
        offset -= offset % 8  # words that two requests share may be torn between them
    if kind == "truncate":
        size = rng.choice((0, length // 2, length + 3000, offset))
    if kind == "mmap":
        size = min(size, length - offset)
        if not size:
            return Call("fsync", path)
    if kind in ("fsync", "close"):
        return Call(kind, path)
    return Call("write" if kind == "append" else kind, path, offset=offset, size=size, seed=seed)


# -- doing --------------------------------------------------------------------------------------


def perform(call: Call, files: OpenFiles) -> None:
    """Do a call on the mount."""
    path = files.root / call.path
    match call.kind:
        case "create":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
        case "write":
            _write(files.get(call.path), call.data, call.offset)
        case "mmap":
            _store_mapped(files.get(call.path), call)
        case "truncate":
            os.ftruncate(files.get(call.path), call.size)
        case "punch" | "allocate":
            mode = FALLOC_PUNCH if call.kind == "punch" else 0
            _fallocate(files.get(call.path), mode, call.offset, call.size)
        case "fsync":
            os.fsync(files.get(call.path))
        case "close":
            files.close(call.path)
        case "rename" | "replace":
            files.close(call.path)
            files.close(call.other)
            os.rename(path, files.root / call.other)
        case "link":
            os.link(path, files.root / call.other)
        case "unlink":
            os.unlink(path)  # while it may be open
            files.close(call.path)
        case "symlink":
            os.symlink(call.other, path)
        case "mkdir":
            os.mkdir(path)
        case "rmdir":
            os.rmdir(path)
        case "chmod":
            os.chmod(path, call.size)
        case "setxattr":
            os.setxattr(path, XATTR, call.data)


def _write(fd: int, data: bytes, offset: int) -> None:
    """Write all of it; from a page on, so that direct I/O is cut into requests at pages of it."""
    with mmap.mmap(-1, len(data)) as buffer, memoryview(buffer) as view:
        buffer.write(data)
        done = 0
        while done < len(data):  # a write that is cut off returns what it has done, or fails
            done += os.pwrite(fd, view[done:], offset + done)


def _store_mapped(fd: int, call: Call) -> None:
    first = call.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    start = call.offset - first
    with mmap.mmap(fd, start + call.size, offset=first) as mapping:
        mapping[start : start + call.size] = call.data
        mapping.flush()


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, mode, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def apply(call: Call, tree: TreeModel, *, lasting: bool) -> None:
    """Do a call on the model; ``lasting``: what it wrote is there from now on."""
    nodes = tree.nodes
    match call.kind:
        case "create":
            nodes[call.path] = FileModel()
        case "write":
            tree.file(call.path).write(call.offset, call.data, lasting=lasting)
        case "mmap":
            tree.file(call.path).write(call.offset, call.data, lasting=False)
        case "truncate":
            tree.file(call.path).truncate(call.size)
        case "punch":
            tree.file(call.path).punch(call.offset, call.size, lasting=lasting)
        case "allocate":
            tree.file(call.path).allocate(call.offset, call.size, lasting=lasting)
        case "rename" | "replace":
            tree.move(call.path, call.other)
        case "link":
            nodes[call.other] = nodes[call.path]
        case "unlink" | "rmdir":
            del nodes[call.path]
        case "symlink":
            nodes[call.path] = call.other
        case "mkdir":
            nodes[call.path] = None
        case "chmod":
            tree.file(call.path).mode = call.size
        case "setxattr":
            tree.file(call.path).xattr = call.data


def acknowledge(call: Call, tree: TreeModel, *, lasting: bool) -> None:
    """Do a call on the model that has returned."""
    apply(call, tree, lasting=lasting or call.kind == "allocate")
    if call.kind == "fsync":
        tree.file(call.path).sync()
    elif call.kind == "mmap":
        tree.file(call.path).sync_range(call.offset, call.offset + call.size)


def interrupted(call: Call, tree: TreeModel) -> list[TreeModel]:
    """Return the models of what a call may leave that has not returned."""
    after = copy.deepcopy(tree)
    apply(call, after, lasting=False)
    return [after, tree]


# -- the process --------------------------------------------------------------------------------

_SHARED = struct.Struct("<QQqQ")  # begun, returned, errno (-1: a bug), calls to stop after


@dataclass
class Outcome:
    """What a worker has done: which models may be found, the calls that returned, the one that was
    cut off, and the errno it ended with.
    """

    models: list[TreeModel]
    calls: list[Call]
    cut_off: Call | None
    code: int


class Worker:
    """A process at work in a directory of the mount, from a model on; fork copies the model.

    ``turn`` tells its calls from those of earlier workers in the same directory.
    """

    def __init__(self, root: Path, tree: TreeModel, turn: int, seed: str, setting: Setting) -> None:
        self.root, self.tree, self.turn, self.setting = root, tree, turn, setting
        self.seed = f"{seed}/{turn}"
        self._shared = mmap.mmap(-1, _SHARED.size)
        self.stop_after(1 << 62)
        self.pid = os.fork()
        if not self.pid:
            try:
                self._work()
            finally:
                os._exit(0)

    def stop_after(self, calls: int) -> None:
        self._shared[24:32] = calls.to_bytes(8, "little")

    @property
    def returned(self) -> int:
        return int(_SHARED.unpack(self._shared)[1])

    def _draw(self, rng: random.Random, tree: TreeModel, number: int) -> Call:
        return draw(rng, tree, f"{self.turn}.{number}", self.setting)

    def _note(self, place: int, value: int) -> None:
        self._shared[place : place + 8] = value.to_bytes(8, "little", signed=True)

    def _work(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # they are for the parent, which ends this
        rng = random.Random(self.seed)
        files = OpenFiles(self.root)
        number = 0
        try:
            while number < _SHARED.unpack(self._shared)[3]:
                call = self._draw(rng, self.tree, number)
                number += 1
                self._note(0, number)
                perform(call, files)
                self._note(8, number)
                acknowledge(call, self.tree, lasting=self.setting.lasting)
        except OSError as error:
            self._note(16, error.errno or -1)
        except BaseException:
            traceback.print_exc()
            self._note(16, -1)

    def is_running(self) -> bool:
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
        return bool(self.pid)

    def wait(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                self.kill()
                raise LostError(f"a call hangs: {self.outcome().cut_off}")
            time.sleep(0.002)

    def kill(self) -> None:
        if self.pid:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, 9)
                os.waitpid(self.pid, 0)
            self.pid = 0

    def outcome(self) -> Outcome:
        """Do the same calls on a copy of the model."""
        begun, returned, code, _ = _SHARED.unpack(self._shared)
        rng = random.Random(self.seed)
        tree = copy.deepcopy(self.tree)
        calls = []
        for number in range(returned):
            calls.append(self._draw(rng, tree, number))
            acknowledge(calls[-1], tree, lasting=self.setting.lasting)
        if begun == returned:
            return Outcome([tree], calls, None, code)
        call = self._draw(rng, tree, returned)
        return Outcome(interrupted(call, tree), calls, call, code)
