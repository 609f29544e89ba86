"""What is done with one mutant, within limits, and what became of it.

In this order: every view of the inspector, without and with a daemon; fsck; a read-only mount; a
mount for writing that changes much and is closed; fsck again. Then, on the mutant made anew, the
repair of all that can be, and the same mount for writing. Any exception but `PmemfsError`, a
broken rule below, a file of another size, too much memory or too much time is a failure, and
`MutantId` brings the same mutant back.

Rules:

1. What only reads leaves every byte as it was, and the image file keeps its size.
2. If fsck finds nothing, no call meets damage, and fsck finds nothing after the changes either.
3. Whatever prints, prints no control character.
4. A repair that says that the image is clean now is right: fsck finds nothing, no call meets damage
   in use, and fsck finds nothing after the changes. It may give up only with a reason.
5. Nothing of the image stays open or mapped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import resource
import shutil
import signal
import time
import traceback
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mutant_bases import BASES, KILLED, build_base
from mutant_sites import ImageFile, Sites
from mutant_use import Refused, change, validate_error, walk
from mutant_views import BrokenRuleError, take_all, validated_text
from mutations import Mutator
from volumes import START_S, ManualClock

from pmemfs.cli import fsck as fsck_text
from pmemfs.errors import PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fsck import Report, check, everything, repair
from pmemfs.image import Image
from pmemfs.layout.geometry import CONTROL_OFFSET, PAGE_BYTES
from pmemfs.layout.records import CONTROL, MountState

CPU_LIMIT_S = 20
MEMORY_BYTES = 1 << 30


class MutantId(NamedTuple):
    """The name of one mutant; as text ``SEED.NUMBER``."""

    seed: int
    number: int

    @classmethod
    def parse(cls, text: str) -> MutantId:
        seed, _, number = text.partition(".")
        return cls(int(seed), int(number))

    @property
    def base(self) -> str:
        """The image that it is made of."""
        return BASES[self.number // 2 % len(BASES)]

    def __str__(self) -> str:
        return f"{self.seed}.{self.number}"


@dataclass
class Outcome:
    """What became of one mutant. ``failure`` is a traceback, or empty."""

    mutant: MutantId
    damage: str = ""
    refused_at_open: bool = False
    found_by_fsck: bool = False
    found_in_use: bool = False
    may_be_sound: bool = False
    repaired: bool = False
    failure: str = ""
    sentences: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """One word for the table of figures."""
        if self.failure:
            return "failed"
        if self.refused_at_open:
            return "refused at open"
        if self.found_in_use:
            return "found in use"
        return "found by fsck only" if self.found_by_fsck else "unnoticed, harmless"


class TooLong(BaseException):
    """A mutant took more than `CPU_LIMIT_S`; no handler for errors catches it."""


def limit_memory() -> None:
    """Let this process have `MEMORY_BYTES` more than it has now; for worker processes."""
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Raise `TooLong` in the block after so much time of the processor."""

    def stop(*_: object) -> None:
        raise TooLong(f"more than {CPU_LIMIT_S} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Bench:
    """The base images in a folder, and one mutant at a time made of them."""

    def __init__(self, folder: Path) -> None:
        self.mutant_path = folder / "mutant.img"
        self._bases = {name: folder / f"{name}.img" for name in BASES}
        for name, path in self._bases.items():
            build_base(name, path)
        self._mutators = {name: Mutator(Sites(path)) for name, path in self._bases.items()}
        gc.freeze()  # what is here stays, so that each collection looks at one mutant only

    def make(self, mutant: MutantId) -> str:
        """Make the file of a mutant; return in words what was damaged."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.mutant_path)
        copy_sparse(self._bases[mutant.base], self.mutant_path)
        file = ImageFile(self.mutant_path)
        try:
            return self._mutators[mutant.base].mutate(file, mutant.seed, mutant.number)
        finally:
            file.close()

    def run(self, mutant: MutantId) -> Outcome:
        """Make a mutant, do everything with it, and say what became of it."""
        outcome = Outcome(mutant)
        try:
            outcome.damage = self.make(mutant)
            with limited_time():
                _use(self.mutant_path, outcome)
            self.make(mutant)
            with limited_time():
                _repair(self.mutant_path, outcome)
        except (Exception, TooLong):
            outcome.failure = traceback.format_exc()
        gc.collect()  # an error and its frames are a cycle that keeps the mapping of the image
        kept = list(iter_kept(self.mutant_path))
        if kept and not outcome.failure:
            outcome.failure = f"rule 5: {len(kept)} descriptors or mappings are left: {kept[0]}"
        return outcome


def iter_kept(path: Path) -> Iterator[str]:
    """Iterate what this process has open or mapped of a file."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            if os.readlink(f"/proc/self/fd/{name}").startswith(str(path)):
                yield f"descriptor {name}"
    with open("/proc/self/maps") as maps:
        yield from (line for line in maps if str(path) in line)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file without its holes."""
    with open(source, "rb") as read, open(target, "wb") as write:
        size = os.fstat(read.fileno()).st_size
        for low, high in _data_ranges(read.fileno()):
            os.pwrite(write.fileno(), os.pread(read.fileno(), high - low, low), low)
        write.truncate(size)


def _data_ranges(fd: int) -> Iterator[tuple[int, int]]:
    position = 0
    while True:
        try:
            low = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(fd, low, os.SEEK_HOLE)
        yield low, position


def fingerprint(path: Path) -> tuple[int, int]:
    """Return size and sum of a file; a page of zeros counts as a hole."""
    total = 0
    with open(path, "rb") as file:
        for low, high in list(_data_ranges(file.fileno())):
            for start in range(low, high, PAGE_BYTES):
                page = os.pread(file.fileno(), PAGE_BYTES, start)
                if page.strip(b"\0"):
                    total = zlib.crc32(page, total ^ (start >> 12))
        return os.fstat(file.fileno()).st_size, total


def _use(path: Path, outcome: Outcome) -> None:
    before = fingerprint(path)
    take_all(path, outcome.mutant.number // 4)
    report = _check(path)
    outcome.found_by_fsck = report is None or not report.is_clean
    _mount_read_only(path, outcome)
    if fingerprint(path) != before:
        raise BrokenRuleError("rule 1: what only reads has written")
    if outcome.mutant.base == KILLED:  # it has the descriptors that a daemon's image shows
        with _daemon(path):
            take_all(path, outcome.mutant.number // 4 + 1)
    refused = _mount(path)
    outcome.refused_at_open = refused.at_open
    outcome.may_be_sound = errno.EROFS in refused.by_errno  # features that allow ro only
    outcome.found_in_use |= bool(refused.damage) and not refused.at_open
    outcome.sentences += refused.sentences
    if os.stat(path).st_size != before[0]:
        raise BrokenRuleError("rule 1: the image file has another size")
    if not outcome.found_by_fsck:
        if outcome.found_in_use or (outcome.refused_at_open and not outcome.may_be_sound):
            raise BrokenRuleError(f"rule 2: fsck found nothing, but: {outcome.sentences}")
        after = _check(path)
        if after is None or not after.is_clean:
            raise BrokenRuleError(f"rule 2: fsck found nothing, then: {after and after.findings}")


def _check(path: Path) -> Report | None:
    """Return what fsck says, None if it refuses; print it, too."""
    try:
        image = Image.open(path, lock="shared")
    except PmemfsError as error:
        validate_error(error)
        return None
    try:
        report = check(image)
    finally:
        image.close()
    json.dumps(report.to_dict())
    with validated_text():
        fsck_text._print_findings(report)
        fsck_text._print(fsck_text._verdict(report))
    return report


def _options(*, read_only: bool = False) -> Options:
    return Options(read_only=read_only, clock=ManualClock((START_S + 1000) * 10**9))


def _mount_read_only(path: Path, outcome: Outcome) -> None:
    refused = Refused()
    try:
        volume = Volume.open(path, _options(read_only=True))
    except PmemfsError as error:
        validate_error(error)
        return
    try:
        walk(volume, refused)
    finally:
        volume.abandon()
    outcome.found_in_use |= bool(refused.damage)
    outcome.sentences += refused.sentences


def _mount(path: Path) -> Refused:
    """Mount, walk, change, walk, close; return what was refused."""
    refused = Refused()
    with refused.allowed():
        volume = Volume.open(path, _options())
    if refused.by_errno:
        refused.at_open = True
        return refused
    try:
        change(volume, walk(volume, refused), refused)
        walk(volume, refused)
        refused.call(volume.close)
    finally:
        if volume.image.fd >= 0:
            volume.abandon()
    return refused


def _repair(path: Path, outcome: Outcome) -> None:
    """Mend all that can be, and hold the repair to what it says."""
    size = os.stat(path).st_size
    try:
        plan = repair(path, decide=everything, now_ns=ManualClock().now_ns)
    except PmemfsError as error:
        validate_error(error)
        outcome.sentences.append(f"repair: {error}")
        return
    told = plan.to_dict()
    json.dumps(told)
    with validated_text():
        fsck_text._print_repairs(plan)
    if os.stat(path).st_size != size:
        raise BrokenRuleError("rule 1: the repaired image has another size")
    if not told["clean_now"]:
        if not (plan.blocked or plan.declined):
            raise BrokenRuleError(f"rule 4: not mended, and no reason: {told['left']}")
        outcome.sentences += [f"repair: {text}" for text in plan.blocked]
        return
    outcome.repaired = plan.is_made
    _validate_clean(path, "repaired")
    refused = _mount(path)
    if refused.damage or (refused.at_open and errno.EROFS not in refused.by_errno):
        raise BrokenRuleError(f"rule 4: repaired, but: {refused.sentences}")
    _validate_clean(path, "repaired and used")


def _validate_clean(path: Path, when: str) -> None:
    report = _check(path)
    if report is None or not report.is_clean:
        raise BrokenRuleError(f"rule 4: {when}, then: {report and report.findings}")


# -- the inspector -------------------------------------------------------------------------------


@contextlib.contextmanager
def _daemon(path: Path) -> Iterator[None]:
    """Hold the lock as a daemon does, with the state that it publishes; put both back."""
    at = CONTROL_OFFSET + CONTROL.offset_of["state"]
    fd = os.open(path, os.O_RDWR)
    before = os.pread(fd, 8, at)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if before:
            os.pwrite(fd, int(MountState.MOUNTED).to_bytes(8, "little")[: len(before)], at)
        yield
    finally:
        os.pwrite(fd, before, at)
        os.close(fd)


# -- many ----------------------------------------------------------------------------------------


def run_many(folder: Path, mutants: list[MutantId]) -> Iterator[tuple[Outcome, float]]:
    """Run mutants one by one in this process; give each outcome and how long it took, in s."""
    bench = Bench(folder)
    try:
        for mutant in mutants:
            begin = time.monotonic()
            yield bench.run(mutant), time.monotonic() - begin
    finally:
        shutil.rmtree(folder, ignore_errors=True)
