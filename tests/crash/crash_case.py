"""A case, and its recording: one operation on a small image, its events, and the trees between.

A `Case` is a setup, an operation, and the atomic steps that the operation is made of (itself, if
not said otherwise). The setup counts as durable. A `Recording` needs no case of the Volume behind
it: whatever stores to an image through the device can be recorded with `record_image`, a mount,
a recovery, a repair.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from crash_tree import Allowed, Tree, observe, require_modelled
from replaying import limits

from pmemfs.device import (
    CrashStates,
    Event,
    MappedDevice,
    PowerStates,
    RecordingDevice,
    SparseImage,
)
from pmemfs.device.lint import Lint, lint
from pmemfs.fs.format import format_image
from pmemfs.fs.volume import Options, Volume
from pmemfs.journal.journal import COMMITTED_OFFSET
from pmemfs.layout.geometry import (
    CONTROL_OFFSET,
    EXTENT_BYTES,
    HEAD_DURABLE_BYTES,
    Geometry,
    extent_to_offset,
)
from pmemfs.layout.records import CONTROL, NOTHING_TO_REPLAY, Persist

SIZE = 64 << 20
GEOMETRY = Geometry.of_size(SIZE)
SAMPLES = int(os.environ.get("PMEMFS_CRASH_SAMPLES", "16"))
SECOND = 10**9
_ZERO_PAGE = bytes(4096)
_SEQUENCE = CONTROL_OFFSET + CONTROL.offset_of["sequence"]
_SEQUENCE_LINE = (_SEQUENCE, _SEQUENCE + 64)
_RESERVE = (
    extent_to_offset(GEOMETRY.reserve_extent),
    extent_to_offset(GEOMETRY.reserve_extent + 1),
)
_TRANSIENT_HALVES = [
    (GEOMETRY.head_offset(extent) + HEAD_DURABLE_BYTES, GEOMETRY.head_offset(extent + 1))
    for extent in range(GEOMETRY.n_extents)
]

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
    """Records that space was asked for, but does not ask for it: images stay small.

    ``on_commit`` is called when a transaction has been committed and its homes not yet stored.
    """

    on_commit: Callable[[], None] | None = None

    def publish(self, offset: int, value: int) -> None:
        super().publish(offset, value)
        if offset == COMMITTED_OFFSET and self.on_commit is not None:
            self.on_commit()

    def _back_unit(self, unit: int, low: int, high: int) -> None:
        if self.recording:
            self.events.append(Event("back", unit * EXTENT_BYTES, EXTENT_BYTES))
        self._backed[unit] = 1


@dataclass(frozen=True)
class Case:
    """One operation to crash.

    ``durable`` says that the data it overwrote in place is durable when it returns. ``skip`` are
    paths of directories and files too large to be looked into for every state, and ``keep`` says
    that they are too many to be deleted. ``modelled``: the calls note in a `FileModel` what they
    write. ``atomic``: its data too changes whole or not at all, as what goes through the journal
    does.
    """

    name: str
    setup: Operation
    operation: Operation
    steps: tuple[Operation, ...] = ()
    durable: bool = True
    threshold_pages: int = 256
    skip: frozenset[bytes] = frozenset()
    atime: Any = "noatime"
    modelled: bool = True
    keep: bool = False
    atomic: bool = False
    persist: Persist = Persist.CACHE


@dataclass
class Recording:
    """What was recorded: the image before, the events, and the trees that may be found.

    The crashes of a case with ``persist=disk`` are power losses of the host. ``since`` is the event
    from which on epochs are enumerated. ``recover`` is called with the path of each state before
    the oracle looks at it: for what recovers by more than a mount. ``refuses`` tells of a path that
    nobody would go on from the image there: the oracle passes over it. ``splits`` are where split
    tables lie, in bytes.
    """

    case: Case
    base: SparseImage
    events: list[Event]
    allowed: Allowed
    since: int = 0
    recover: Callable[[str], Any] | None = None
    refuses: Callable[[str], bool] | None = None
    splits: list[tuple[int, int]] = field(default_factory=list)

    def states(self, samples: int = SAMPLES) -> CrashStates:
        """Enumerate the crashes; ``samples`` says how many of an epoch that has too many."""
        kind = PowerStates if self.case.persist == Persist.DISK else CrashStates
        return kind(
            self.base,
            self.events,
            **limits(samples),
            transient=[_SEQUENCE_LINE, *(self.splits or [_RESERVE])],
            since=self.since,
        )

    def lint(self) -> Lint:
        """Count what was flushed and fenced too little or too much."""
        transient = [_SEQUENCE_LINE, *_TRANSIENT_HALVES, *(self.splits or [_RESERVE])]
        return lint(self.events, transient)


def path_of(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


@contextmanager
def materialised(image: SparseImage) -> Iterator[str]:
    """Give the path of a file in memory with this content."""
    fd = image.materialise()
    try:
        yield path_of(fd)
    finally:
        os.close(fd)


def options_of(case: Case, clock: Clock, *, read_only: bool = False) -> Options:
    return Options(read_only=read_only, clock=clock, threshold_pages=case.threshold_pages)


@contextmanager
def prepared(case: Case) -> Iterator[tuple[int, Volume, Clock]]:
    """Give ``(fd, volume, clock)`` of a new image with the setup done and the clock moved on."""
    fd = os.memfd_create("pmemfs-crash-base")
    try:
        format_image(
            path_of(fd), SIZE, force=True, entropy=lambda n: bytes(range(n)), now_ns=lambda: SECOND
        )
        clock = Clock()
        options = replace(options_of(case, clock), atime=case.atime, persist=case.persist)
        volume = Volume.open(path_of(fd), options, device_class=UnbackedRecordingDevice)
        try:
            case.setup(volume)
            clock.now += 10 * SECOND
            yield fd, volume, clock
        finally:
            volume.abandon()
    finally:
        os.close(fd)


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
    with prepared(case) as (fd, volume, _):
        base = load(fd)
        trees = [tree_of(base, case)]
        require_modelled(volume, trees[0], case.skip)
        tables = set(volume.tables._slots.extents)
        volume.device.start()
        case.operation(volume)
        events = volume.device.stop()
        tables.update(volume.tables._slots.extents)
        trees.append(tree_of(load(fd), case))
        if case.modelled:
            require_modelled(volume, trees[1], case.skip)
    if case.steps:
        trees[1:] = [*step_trees(case), trees[-1]]
        assert trees[-2] == trees[-1], "the steps of the case do not make its operation"
        del trees[-1]
    returned = [0] + [len(events)] * (len(trees) - 1)
    splits = [(extent_to_offset(extent), extent_to_offset(extent + 1)) for extent in tables]
    allowed = Allowed(trees, returned, durable=case.durable, atomic=case.atomic)
    return Recording(case, base, events, allowed, splits=splits)


def record_image(
    case: Case,
    base: SparseImage,
    operation: Callable[[str, type[MappedDevice]], Any],
    *,
    recover: Callable[[str], Any] | None = None,
) -> Recording:
    """Record ``operation(path, device_class)`` on an image; what is seen must not change by it.

    It opens the image by that path with that class of device, and leaves it however it likes.
    With ``recover``, the tree to be seen is the one that it makes of the image before.
    """
    with materialised(base) as path:
        events = events_of(lambda device_class: operation(path, device_class))
    with materialised(base) as path:
        if recover is not None:
            recover(path)
        tree = tree_at(path, case)
    return Recording(case, base, events, Allowed([tree], [0]), recover=recover)


def events_of(operation: Callable[[type[MappedDevice]], Any]) -> list[Event]:
    """Return what passes through the devices that are opened with the class ``operation`` gets."""
    devices: list[UnbackedRecordingDevice] = []

    class FromStart(UnbackedRecordingDevice):
        def __init__(self, fd: int, size_bytes: int) -> None:
            super().__init__(fd, size_bytes)
            self.start()
            devices.append(self)

    operation(FromStart)
    return [event for device in devices for event in device.stop()]


def record_mount(case: Case, base: SparseImage) -> Recording:
    """Record what a mount of an image stores, its recovery first."""

    def mount(path: str, device_class: type[MappedDevice]) -> None:
        Volume.open(path, options_of(case, Clock()), device_class=device_class).abandon()

    return record_image(case, base, mount)


def needs_replay(image: SparseImage) -> bool:
    """Whether a crash left a committed transaction whose homes may be missing."""
    return not int.from_bytes(image.word(COMMITTED_OFFSET), "little") & NOTHING_TO_REPLAY


def step_trees(case: Case) -> list[Tree]:
    """Return the tree after each step."""
    trees = []
    with prepared(case) as (fd, volume, _):
        for step in case.steps:
            step(volume)
            trees.append(tree_of(load(fd), case))
    return trees


def load(fd: int) -> SparseImage:
    """Read an image; pages of zeros become holes."""
    image = SparseImage.load(fd, SIZE)
    image.pages = {number: page for number, page in image.pages.items() if page != _ZERO_PAGE}
    return image
