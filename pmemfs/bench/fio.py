"""The fio jobs: one set for ``pmemfs bench io`` and for the comparison of peers.

Depth 1 runs by psync, depth 16 by libaio (which serves buffered I/O when it is submitted, so depth
16 measures batches there). *Warm* means that the file is there and has just been read, *cold* that
the kernel's cached pages of this file were dropped first, *fresh* that the file grows from
nothing. Sequential buffered writes are timed until fsync returns, random ones are not: there the
page cache answers. Files hold random bytes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pmemfs.bench.process import run
from pmemfs.bench.ratios import Kind, Measure
from pmemfs.errors import PmemfsError
from pmemfs.units import KIB, MIB, format_size

State = Literal["warm", "cold", "fresh"]

N_FILES = 4  # as many as the most jobs
_READ_SHARE = 70
_JOB_TIMEOUT_S = 300.0
_LARGE = MIB


@dataclass(frozen=True)
class FioScale:
    """How long and on how much a set of jobs runs; there are `N_FILES` files."""

    runtime_s: float
    file_bytes: int

    @property
    def total_bytes(self) -> int:
        """What all files hold together, and what one pass over them moves."""
        return N_FILES * self.file_bytes

    @property
    def needed_bytes(self) -> int:
        """The room that a set needs: the files, one fresh file, and some."""
        return 2 * self.total_bytes + 16 * MIB


FULL = FioScale(runtime_s=2.0, file_bytes=64 * MIB)
QUICK = FioScale(runtime_s=0.4, file_bytes=32 * MIB)


@dataclass(frozen=True)
class FioJob:
    """One run of fio. ``group`` names the workload it belongs to."""

    group: str
    rw: Literal["randread", "randwrite", "randrw", "read", "write"]
    block_bytes: int
    direct: bool
    depth: int = 1
    jobs: int = 1
    state: State = "warm"
    fsync_each: bool = False
    quick: bool = False

    @property
    def name(self) -> str:
        """The name people and ``--only`` use: ``randread-4k-direct-d16-j1``."""
        mode = "fsync" if self.fsync_each else "direct" if self.direct else "buffered"
        words = [self.rw, _short(self.block_bytes), mode]
        if self.is_random and not self.fsync_each:
            words += [f"d{self.depth}", f"j{self.jobs}"]
        elif not (self.rw == "read" and self.direct):
            words.append(self.state)
        return "-".join(words)

    @property
    def is_random(self) -> bool:
        """Whether offsets are drawn at random."""
        return self.rw.startswith("rand")

    @property
    def writes(self) -> bool:
        """Whether the job writes at all."""
        return self.rw not in ("randread", "read")

    @property
    def kind(self) -> Kind:
        """What the goals say about this job."""
        if self.fsync_each:
            return Kind.OTHER
        if self.is_random:
            if self.direct:
                return Kind.DIRECT_4K
            return Kind.CACHED_WRITE_4K if self.rw == "randwrite" else Kind.CACHED
        if self.rw == "read" and not self.direct and self.state == "warm":
            return Kind.CACHED
        return Kind.LARGE if self.block_bytes >= _LARGE else Kind.OTHER

    @property
    def measure(self) -> Measure:
        """The one figure that the comparison takes from this job."""
        counts_blocks = self.is_random or self.fsync_each
        return Measure(self.name, "IOPS" if counts_blocks else "MiB/s", self.kind)

    @property
    def one_pass(self) -> bool:
        """Whether the job ends after all bytes instead of after a time."""
        return self.state != "warm"


def _short(size_bytes: int) -> str:
    return f"{size_bytes // MIB}m" if size_bytes >= MIB else f"{size_bytes // KIB}k"


def _random_jobs() -> Iterator[FioJob]:
    for direct in (True, False):
        group = "4k-direct" if direct else "4k-buffered"
        for rw in ("randread", "randwrite", "randrw"):
            for depth in (1, 16):
                for jobs in (1, 4):
                    quick = jobs == 1 and (depth == 1 or (direct and rw != "randrw"))
                    yield FioJob(group, rw, 4 * KIB, direct, depth, jobs, quick=quick)


def _sequential_jobs(block_bytes: int) -> Iterator[FioJob]:
    group = f"seq-{_short(block_bytes)}"
    quick = block_bytes >= _LARGE
    yield FioJob(group, "read", block_bytes, True, quick=quick)
    yield FioJob(group, "read", block_bytes, False, quick=quick)
    yield FioJob(group, "read", block_bytes, False, state="cold", quick=quick)
    for direct in (True, False):
        yield FioJob(group, "write", block_bytes, direct, quick=quick)
        yield FioJob(group, "write", block_bytes, direct, state="fresh", quick=quick)


def _all_jobs() -> Iterator[FioJob]:
    yield from _random_jobs()
    yield from _sequential_jobs(128 * KIB)
    yield from _sequential_jobs(MIB)
    yield FioJob("fsync", "randwrite", 4 * KIB, False, fsync_each=True, quick=True)
    yield FioJob("fsync", "write", 4 * KIB, False, state="fresh", fsync_each=True)


JOBS: tuple[FioJob, ...] = tuple(_all_jobs())


@dataclass(frozen=True)
class FioResult:
    """What one job did, reads and writes together; latencies are of one request."""

    iops: float
    bytes_per_s: float
    mean_us: float
    p99_us: float

    @property
    def mib_per_s(self) -> float:
        """The rate in MiB/s."""
        return self.bytes_per_s / MIB

    def value(self, measure: Measure) -> float:
        """Return the figure that a measure of the comparison means."""
        return self.iops if measure.unit == "IOPS" else self.mib_per_s


def require_fio() -> None:
    """Raise `PmemfsError` with what to install unless fio is there."""
    if shutil.which("fio") is None:
        raise PmemfsError(errno.ENOENT, "fio is missing: install it (Debian: apt-get install fio)")


class FioBench:
    """A directory of one's own below a mounted one, with the files that all jobs share.

    A context manager: the files are made on entry, and removed on exit whatever happened.
    """

    def __init__(self, directory: Path, scale: FioScale) -> None:
        self._scale = scale
        self._parent = directory
        self._home = directory

    def __enter__(self) -> FioBench:
        require_fio()
        _validate_room(self._parent, self._scale.needed_bytes)
        try:
            self._home = Path(tempfile.mkdtemp(prefix="pmemfs-bench-", dir=self._parent))
        except OSError as error:
            raise _cannot_write(self._parent, error) from error
        try:
            self._lay_out()
        except OSError as error:
            self._remove()
            raise _cannot_write(self._parent, error) from error
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def run(self, job: FioJob) -> FioResult:
        """Run one job; raises `PmemfsError` with what fio said."""
        command = fio_command(job, self._home, self._scale)
        try:
            self._settle(warm=job.state == "warm" and not job.direct)
            return parse_result(run(command, timeout_s=_JOB_TIMEOUT_S))
        except PmemfsError:
            raise
        except OSError as error:
            code = error.errno or errno.EIO
            raise PmemfsError(code, f"{self._home}: {os.strerror(code)}") from error
        finally:
            with contextlib.suppress(OSError):
                (self._home / "fresh").unlink(missing_ok=True)

    @property
    def _files(self) -> list[Path]:
        return [self._home / f"bench.{number}" for number in range(N_FILES)]

    def _lay_out(self) -> None:
        chunk = os.urandom(min(MIB, self._scale.file_bytes))
        for path in self._files:
            with open(path, "wb") as file:
                for _ in range(self._scale.file_bytes // len(chunk)):
                    file.write(chunk)
                os.fsync(file.fileno())

    def _settle(self, *, warm: bool) -> None:
        """Let no earlier write be outstanding; read all files once if they shall be warm."""
        for path in self._files:
            with open(path, "rb", buffering=0) as file:
                os.fsync(file.fileno())
                while warm and file.read(MIB):
                    pass

    def _remove(self) -> None:
        if self._home != self._parent:
            shutil.rmtree(self._home, ignore_errors=True)


def _validate_room(directory: Path, needed_bytes: int) -> None:
    try:
        status = os.statvfs(directory)
    except OSError as error:
        raise _cannot_write(directory, error) from error
    free = status.f_bavail * status.f_frsize
    if free < needed_bytes:
        raise PmemfsError(
            errno.ENOSPC,
            f"{directory} has {format_size(free)} free, and the run needs "
            f"{format_size(needed_bytes)}",
        )


def _cannot_write(directory: Path, error: OSError) -> PmemfsError:
    code = error.errno or errno.EIO
    return PmemfsError(code, f"cannot write in {directory}: {os.strerror(code)}")


def fio_command(job: FioJob, home: Path, scale: FioScale) -> list[str]:
    """Return the command line of a job over the files in ``home``."""
    words = {
        "name": job.name,
        "directory": str(home).replace(":", "\\:"),
        "rw": job.rw,
        "bs": str(job.block_bytes),
        "direct": str(int(job.direct)),
        "ioengine": "psync" if job.depth == 1 else "libaio",
        "iodepth": str(job.depth),
        "numjobs": str(job.jobs),
        "fallocate": "none",
        "invalidate": str(int(job.state == "cold")),
        "output-format": "json",
        "eta": "never",
    }
    if job.rw == "randrw":
        words["rwmixread"] = str(_READ_SHARE)
    if job.fsync_each:
        words["fsync"] = "1"
    elif job.writes and not job.is_random:
        words["end_fsync"] = "1"
    words |= _file_words(job, scale)
    return ["fio", "--group_reporting", *(f"--{name}={value}" for name, value in words.items())]


def _file_words(job: FioJob, scale: FioScale) -> dict[str, str]:
    """Return fio's options for the files of a job, and for when it ends."""
    if job.state == "fresh":
        blocks = min(scale.total_bytes // job.block_bytes, int(scale.runtime_s * 5000))
        size = blocks * job.block_bytes if job.fsync_each else scale.total_bytes
        return {"filename": "fresh", "size": str(size)}
    if job.state == "cold":
        return {
            "filename_format": "bench.$filenum",
            "nrfiles": str(N_FILES),
            "file_service_type": "sequential",
            "size": str(scale.total_bytes),
        }
    return {
        "filename_format": "bench.$jobnum",
        "size": str(scale.file_bytes),
        "time_based": "1",
        "runtime": f"{round(scale.runtime_s * 1000)}ms",
    }


def parse_result(text: str) -> FioResult:
    """Parse what ``fio --output-format=json`` printed; raises `PmemfsError` with what is wrong."""
    start = text.find("{")
    try:
        if start < 0:
            raise ValueError("no JSON")
        job = json.loads(text[start:])["jobs"][0]
        if job["error"]:
            raise PmemfsError(job["error"], f"fio failed: {os.strerror(job['error'])}")
        return _sum_directions([job["read"], job["write"]])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        end = text.strip().splitlines()[-1:] or ["nothing"]
        raise PmemfsError(
            errno.EPROTO, f"cannot read what fio printed ({error!r}): {end[0][:200]}"
        ) from error


def _sum_directions(parts: list[dict[str, Any]]) -> FioResult:
    """Add reads and writes; the mean latency is weighted, the 99th percentile is the worse."""
    parts = [part for part in parts if part["total_ios"]]
    n_ios = sum(part["total_ios"] for part in parts)
    if not n_ios:
        raise PmemfsError(errno.EIO, "fio did no I/O")
    weighted_ns = sum(part["lat_ns"]["mean"] * part["total_ios"] for part in parts)
    p99_ns = max(part["clat_ns"].get("percentile", {}).get("99.000000", 0) for part in parts)
    return FioResult(
        iops=sum(part["iops"] for part in parts),
        bytes_per_s=sum(part["bw_bytes"] for part in parts),
        mean_us=weighted_ns / n_ios / 1000,
        p99_us=p99_ns / 1000,
    )
