"""Take one operation through every crash: record it, enumerate the crashes, hold each against
the oracle.

A `Case` is a setup, an operation, and the atomic steps that the operation is made of (itself, if
not said otherwise). The setup counts as durable. What is asked of every state, in this order:

1. fsck finds nothing, the journal replayed in its memory;
2. a read-only mount recovers in memory, writes nothing, and shows an allowed tree (`Allowed`):
   before the operation returned, the tree after any number of its steps, never fewer than an
   earlier crash kept; from its return on, the tree after all of them;
3. a mount recovers to the same tree, and free extents read as zeros;
4. in every directory a file can be made and written; then everything can be deleted;
5. the volume closes, every extent is free but the fixed ones, and (of every third state) fsck
   finds nothing.

``PMEMFS_CRASH_SAMPLES`` (default 2) scales how many states of an epoch with many combinations are
taken; the tests marked slow take 8 times as many. ``PMEMFS_CRASH_REPLAY=CASE/STATE`` runs only
that one state, the id that a failure prints, and lets its exception through:

    PMEMFS_CRASH_REPLAY=promote/2.alone.5 pytest tests/crash

With an id from a run with other samples, set the same ``PMEMFS_CRASH_SAMPLES`` (16 for slow ones).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from crash_tree import PAGE, Allowed, Tree, observe, require_modelled

from pmemfs.device import CrashState, CrashStates, Event, MappedDevice, RecordingDevice
from pmemfs.device.crash import SparseImage
from pmemfs.fs.format import format_image
from pmemfs.fs.volume import Options, Volume
from pmemfs.fsck import check
from pmemfs.image import Image
from pmemfs.layout.geometry import EXTENT_BYTES, Geometry, extent_to_offset
from pmemfs.layout.records import Kind, Persist

SIZE = 64 << 20
SAMPLES = int(os.environ.get("PMEMFS_CRASH_SAMPLES", "2"))
REPLAY = os.environ.get("PMEMFS_CRASH_REPLAY", "")
SECOND = 10**9
_ZERO_PAGE = bytes(PAGE)
MOST_FAILURES = 3

Operation = Callable[[Volume], Any]


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def now_ns(self) -> int:
        return self.now

    def now_s(self) -> int:
        return self.now // SECOND


class UnbackedRecordingDevice(RecordingDevice):
    """Records that space was asked for, but does not ask for it: images stay small."""

    def _back_unit(self, unit: int) -> None:
        if self.recording:
            self.events.append(Event("back", unit * EXTENT_BYTES, EXTENT_BYTES))
        self._backed[unit] = 1


class RecordingFromStart(UnbackedRecordingDevice):
    """Records from its first store, so that a mount is recorded too."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        super().__init__(fd, size_bytes)
        self.start()


class UnbackedDevice(MappedDevice):
    """Does not ask the host for space in advance: ten times faster in memory."""

    def _back_unit(self, unit: int) -> None:
        self._backed[unit] = 1


@dataclass(frozen=True)
class Case:
    """One operation to crash.

    ``durable`` says that the data it overwrote in place is durable when it returns. ``skip`` are
    paths of directories and files too large to be looked into for every state, and ``keep`` says
    that they are too many to be deleted. ``modelled``: the calls note in a `FileModel` what they
    write.
    """

    name: str
    setup: Operation
    operation: Operation
    steps: tuple[Operation, ...] = ()
    durable: bool = True
    threshold_pages: int = 256
    skip: frozenset[bytes] = frozenset()
    atime: Any = "noatime"
    persist: Persist = Persist.CACHE
    modelled: bool = True
    keep: bool = False


@dataclass
class Recording:
    """What was recorded of a case: the image before, the events, and the trees of its steps."""

    case: Case
    base: SparseImage
    events: list[Event]
    allowed: Allowed
    splits: list[tuple[int, int]] = field(default_factory=list)

    def states(self, samples: int = SAMPLES) -> CrashStates:
        """Enumerate the crashes; ``samples`` says how many of an epoch that has too many."""
        geometry = Geometry.of_size(SIZE)
        reserve = extent_to_offset(geometry.reserve_extent)
        return CrashStates(
            self.base,
            self.events,
            exhaustive_limit=16 * samples,
            samples=2 * samples,
            lines_limit=3 * samples,
            transient=[(reserve, reserve + EXTENT_BYTES), *self.splits],
        )


def path_of(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


@contextmanager
def memory_file() -> Iterator[int]:
    fd = os.memfd_create("pmemfs-crash-base")
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def materialised(image: SparseImage) -> Iterator[str]:
    fd = image.materialise()
    try:
        yield path_of(fd)
    finally:
        os.close(fd)


def options_of(case: Case, clock: Clock, *, read_only: bool = False) -> Options:
    return Options(read_only=read_only, clock=clock, threshold_pages=case.threshold_pages)


@contextmanager
def prepared(case: Case) -> Iterator[Any]:
    """Give ``(fd, volume)`` of a new image with the setup done and the clock moved on."""
    with memory_file() as fd:
        format_image(
            path_of(fd), SIZE, force=True, entropy=lambda n: bytes(range(n)), now_ns=lambda: SECOND
        )
        clock = Clock()
        options = replace(options_of(case, clock), atime=case.atime, persist=case.persist)
        volume = Volume.open(path_of(fd), options, device_class=UnbackedRecordingDevice)
        case.setup(volume)
        clock.now += 10 * SECOND
        try:
            yield fd, volume
        finally:
            volume.abandon()


def tree_of(image: SparseImage, case: Case) -> Tree:
    """Observe an image through a read-only mount."""
    with materialised(image) as path:
        return tree_at(path, case)


def tree_at(path: str, case: Case) -> Tree:
    volume = Volume.open(path, options_of(case, Clock(), read_only=True))
    try:
        return observe(volume, case.skip)
    finally:
        volume.close()


def record(case: Case) -> Recording:
    """Run the operation once for its events, and its steps once for the trees between them."""
    with prepared(case) as (fd, volume):
        base = load(fd)
        trees = [tree_of(base, case)]
        require_modelled(volume, trees[0], case.skip)
        volume.device.start()
        case.operation(volume)
        events = volume.device.stop()
        trees.append(tree_of(load(fd), case))
        if case.modelled:
            require_modelled(volume, trees[1], case.skip)
    if case.steps:
        trees[1:] = [*step_trees(case), trees[-1]]
        assert trees[-2] == trees[-1], "the steps of the case do not make its operation"
        del trees[-1]
    return Recording(case, base, events, Allowed(trees))


def step_trees(case: Case) -> list[Tree]:
    trees = []
    with prepared(case) as (fd, volume):
        for step in case.steps:
            step(volume)
            trees.append(tree_of(load(fd), case))
    return trees


def load(fd: int) -> SparseImage:
    """Read an image; pages of zeros become holes."""
    image = SparseImage.load(fd, SIZE)
    image.pages = {number: page for number, page in image.pages.items() if page != _ZERO_PAGE}
    return image


class Crasher:
    """Checks the states of one recording; ``failures`` are ``id: reason`` lines."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.case = recording.case
        self.failures: list[str] = []
        self.checked = 0
        self._seen: set[int] = set()

    def run(self, samples: int = SAMPLES) -> None:
        only = REPLAY.partition("/")[2] if REPLAY.startswith(self.case.name + "/") else None
        for state in self.recording.states(samples):
            if only is not None and state.id != only:
                continue
            self.check(state)
            if len(self.failures) >= MOST_FAILURES:
                break

    def check(self, state: CrashState) -> None:
        returned = state.after == len(self.recording.events)
        key = hash((frozenset(state.image.pages.items()), returned, self.recording.allowed.floor))
        if key in self._seen:
            return
        self._seen.add(key)
        self.checked += 1
        try:
            self._check(state, returned)
        except Exception as error:
            if REPLAY:
                raise
            reason = f"{type(error).__name__}: {error}"
            self.failures.append(f"{self.case.name}/{state.id}: {reason[:600]}")

    def _check(self, state: CrashState, returned: bool) -> None:
        allowed = self.recording.allowed
        if returned:
            allowed.floor = len(allowed.trees) - 1
        with materialised(state.image) as path:
            require_clean(path, "before recovery")
            tree = tree_at(path, self.case)
            step = allowed.match(tree, words=not (returned and self.case.durable))
            if state.id.endswith(("none.0", "each.0")):
                allowed.floor = max(allowed.floor, step)
            self._use(path, tree)

    def _use(self, path: str, tree: Tree) -> None:
        clock = Clock()
        clock.now += 100 * SECOND
        volume = Volume.open(path, options_of(self.case, clock), device_class=UnbackedDevice)
        try:
            require_zeros_in_free_extents(volume)
            if self.checked % 4 == 1:
                assert observe(volume, self.case.skip) == tree, "a mount sees another tree"
            make_a_file_everywhere(volume, self.case.skip)
            if self.case.keep:
                return
            delete_everything(volume)
            volume.close()
            require_all_free(volume)
        finally:
            volume.abandon()
        if self.checked % 3 == 1:
            require_clean(path, "after deleting everything", is_empty=True)


def require_clean(path: str, when: str, *, is_empty: bool = False) -> None:
    """Run fsck on an image that nothing has open."""
    image = Image.open(path, lock="shared")
    try:
        report = check(image)
    finally:
        image.close()
    assert report.is_clean, f"{when}: {[str(f) for f in report.findings[:4]]}"
    if is_empty:
        fixed = image.geometry.fixed_extents
        assert report.extents["free"] == report.n_extents - fixed, f"{when}: {report.extents}"
        assert (report.files, report.directories, report.orphans) == (0, 1, 0), f"{when}: {report}"


def require_all_free(volume: Volume) -> None:
    """Assert invariant 4 of the design, in what a volume that was closed remembers."""
    pool, geometry = volume.pool, volume.geometry
    assert pool.counts[Kind.FREE] == geometry.n_extents - geometry.fixed_extents, pool.counts
    assert volume.inodes.in_use == 1
    assert not volume.orphans


def require_zeros_in_free_extents(volume: Volume) -> None:
    device = volume.device
    for extent in range(volume.geometry.n_extents):
        if volume.pool.kind(extent) == Kind.FREE:
            start = extent_to_offset(extent)
            for low, high in device.iter_data(start, start + EXTENT_BYTES):
                assert not any(device.view[low:high]), f"FREE extent {extent} holds data"


def make_a_file_everywhere(volume: Volume, skip: frozenset[bytes]) -> None:
    """Make and write a file in every directory."""
    directories = [(1, b"")]
    for ino, path in directories:
        if path in skip:
            continue
        for entry in list(volume.readdir(ino)):
            if entry.type == stat.S_IFDIR >> 12 and entry.name not in (b".", b".."):
                directories.append((entry.ino, path + b"/" + entry.name))
    for ino, _ in directories:
        made = volume.create(ino, b"made after the crash", stat.S_IFREG | 0o600)
        volume.write(made.ino, 5000, b"data")
        assert b"".join(volume.read(made.ino, 0, 9999)) == bytes(5000) + b"data"


def delete_everything(volume: Volume, ino: int = 1) -> None:
    for entry in list(volume.readdir(ino)):
        if entry.name in (b".", b".."):
            continue
        if volume.inode_flags(entry.ino):
            volume.set_inode_flags(entry.ino, 0)
        if entry.type == stat.S_IFDIR >> 12:
            delete_everything(volume, entry.ino)
            volume.rmdir(ino, entry.name)
        else:
            volume.unlink(ino, entry.name)
