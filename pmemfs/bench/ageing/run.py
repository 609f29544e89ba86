"""Age a volume and those it is compared with; ten samples each, and what the goals ask for."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pmemfs.bench.ageing import ext4, profile
from pmemfs.bench.ageing.ours import AgedVolume, directories_for, image_folder
from pmemfs.bench.ageing.rivals import RIVALS, Rival
from pmemfs.bench.ageing.store import Sample, samples_due
from pmemfs.bench.ageing.trace import Recorded, Trace
from pmemfs.errors import PmemfsError
from pmemfs.fs.placement import DEFAULT_PLACEMENT, DEFAULT_THRESHOLD_PAGES

OURS = "pmemfs"
_MEAN_FILE_BYTES = 62_000
_LOOK_EVERY = 512

Watch = Callable[[str, float, float], bool]
"""Told ``(policy, overwrites done, overwrites to do)``, now and then; whether ours is to go on."""

Tell = Callable[[str, Sample], None]
"""Told of each sample at once, with its policy."""


def _tell_nobody(policy: str, sample: Sample) -> None:
    pass


@dataclass(frozen=True)
class AgeingOptions:
    """What to do. ``full`` is a share; ``minutes`` limits the time of the volume's own run."""

    size_bytes: int = 4 << 30
    overwrites: float = 20.0
    full: float = 0.75
    seed: int = 1
    sizes: str = "within"
    threshold_pages: int = DEFAULT_THRESHOLD_PAGES
    placement: str = DEFAULT_PLACEMENT
    rivals: tuple[str, ...] = (*RIVALS, ext4.NAME)
    minutes: float | None = None


@dataclass
class Result:
    """What came out: samples by policy, and why others are missing.

    ``idle`` is a sample after the idle time, ``active`` one after every file has been read then;
    ``left`` counts what is not free after the last file is deleted; ``seconds`` is how long the
    volume's run took.
    """

    options: AgeingOptions
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    idle: Sample | None = None
    active: Sample | None = None
    left: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    files_made: int = 0

    @property
    def overwrites(self) -> float:
        """How often the device has been overwritten."""
        return self.samples[OURS][-1].overwrites

    @property
    def is_complete(self) -> bool:
        """Whether that is as often as was asked for."""
        return self.overwrites >= self.options.overwrites

    def document(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self) | {"overwrites": self.overwrites, "complete": self.is_complete}


def run(options: AgeingOptions, watch: Watch, tell: Tell = _tell_nobody) -> Result:
    """Age the volume, then give the same trace to the rivals."""
    result = Result(options)
    recorded = age_ours(options, result, watch, tell)
    done = result.overwrites
    for name in options.rivals:
        try:
            if name == ext4.NAME:
                _age_ext4(recorded, replace(options, overwrites=done), result, watch)
            else:
                rival = RIVALS[name](options.size_bytes)
                result.samples[rival.name] = replay(recorded, rival, done, watch)
        except PmemfsError as error:
            result.left_out[name] = str(error)
    return result


def _age_ext4(recorded: Recorded, options: AgeingOptions, result: Result, watch: Watch) -> None:
    problem = ext4.problem()
    if problem is not None:
        result.left_out[ext4.NAME] = problem
        return
    goal = min(options.overwrites, ext4.MOST_OVERWRITES)
    result.samples[ext4.NAME] = ext4.age(
        recorded, options.size_bytes, goal, lambda done: watch(ext4.NAME, done, goal)
    )


def age_ours(options: AgeingOptions, result: Result, watch: Watch, tell: Tell) -> Recorded:
    """Age the volume; fill its part of the result and return what it was made to do."""
    directories = directories_for(
        options.size_bytes, options.full, _MEAN_FILE_BYTES, profile.FILES_PER_DIRECTORY
    )
    begin = time.monotonic()
    was_collecting = gc.isenabled()
    gc.disable()  # millions of live objects, none of them in a cycle
    try:
        with AgedVolume(
            options.size_bytes,
            options.full,
            directories=directories,
            threshold_pages=options.threshold_pages,
            placement=options.placement,
            folder=image_folder(),
        ) as aged:
            trace = Trace(options.seed, options.sizes, directories)
            result.samples[OURS] = _drive(trace, aged, options, watch, tell, begin)
            result.seconds = time.monotonic() - begin
            aged.settle()
            result.idle = aged.sample(result.overwrites)
            aged.touch_all()
            result.active = aged.sample(result.overwrites)
            aged.settle()
            result.left = aged.remove_all()
    finally:
        if was_collecting:
            gc.enable()
    result.files_made = len(trace.recorded.sizes)
    return trace.recorded


def _drive(
    trace: Trace,
    aged: AgedVolume,
    options: AgeingOptions,
    watch: Watch,
    tell: Tell,
    begin: float,
) -> list[Sample]:
    samples: list[Sample] = []
    total = options.overwrites * options.size_bytes
    steps = 0
    while trace.bytes_written < total:
        trace.step(aged.is_full, aged.create, aged.remove)
        steps += 1
        for _ in range(samples_due(trace.bytes_written, total, len(samples))):
            samples.append(aged.sample(trace.bytes_written / options.size_bytes))
            tell(OURS, samples[-1])
        if steps % _LOOK_EVERY:
            continue
        if not watch(OURS, trace.bytes_written / options.size_bytes, options.overwrites):
            break
        if options.minutes is not None and time.monotonic() - begin > options.minutes * 60:
            break
    if trace.bytes_written < total:
        samples.append(aged.sample(trace.bytes_written / options.size_bytes))
    return samples


def replay(recorded: Recorded, rival: Rival, overwrites: float, watch: Watch) -> list[Sample]:
    """Give a recorded trace to a model; return its samples."""
    samples: list[Sample] = []
    size_bytes = len(rival.used) << 12
    total = round(overwrites * size_bytes)
    written = steps = 0
    for number, size in recorded.iter_events():
        if size < 0:
            rival.remove(number)
            continue
        rival.create(number, size)
        written += size
        steps += 1
        if not steps % _LOOK_EVERY:
            watch(rival.name, written / size_bytes, overwrites)
        for _ in range(samples_due(written, total, len(samples))):
            samples.append(rival.sample(written / size_bytes))
    return samples
