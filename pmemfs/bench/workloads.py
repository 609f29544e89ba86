"""The workloads: what is run on one mounted peer, and the figures each run gives.

A workload runs on a new, empty file system. A figure that could not be taken is an error with a
sentence beside the others, and never stops them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pmemfs.bench import client, fio
from pmemfs.bench.peers import Site
from pmemfs.bench.process import run
from pmemfs.bench.ratios import Kind, Measure
from pmemfs.errors import PmemfsError
from pmemfs.units import GIB


@dataclass(frozen=True)
class Scale:
    """How much work there is. ``image_bytes`` is the size of each file system, sparse."""

    fio: fio.FioScale
    n_files: int
    n_rows: int
    tree_with_tests: bool
    image_bytes: int
    needed_bytes: int


FULL = Scale(fio.FULL, 10_000, 10_000, True, 3 * GIB, 4 * GIB)
QUICK = Scale(fio.QUICK, 2_000, 2_000, False, 2 * GIB, 2 * GIB)


@dataclass
class Outcome:
    """What one run of a workload gave: figures by measure, and errors by measure or step."""

    figures: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


class Workload(ABC):
    """Something to run. ``measures`` are in the order in which people read them."""

    name: str
    summary: str
    measures: Sequence[Measure]

    def missing(self) -> str | None:
        """Return what to install before this can run, or None."""
        return None

    def prepare(self, scratch: Path, scale: Scale) -> None:  # noqa: B027  # most need nothing
        """Make what all runs share, once."""

    @abstractmethod
    def run(self, site: Site, scale: Scale, wanted: Collection[str]) -> Outcome:
        """Run on a mounted, empty file system; at least the measures wanted are taken."""


class FioWorkload(Workload):
    """The fio jobs of one group."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.summary = "fio"
        self._jobs = {job.measure.name: job for job in fio.JOBS if job.group == name}
        self.measures = [job.measure for job in self._jobs.values()]

    def missing(self) -> str | None:
        """Ask for fio."""
        return None if shutil.which("fio") else "fio not found: apt-get install fio"

    def run(self, site: Site, scale: Scale, wanted: Collection[str]) -> Outcome:
        """Run the jobs one after another over the same files."""
        outcome = Outcome()
        with fio.FioBench(site.directory, scale.fio) as bench:
            for measure in self.measures:
                if measure.name not in wanted:
                    continue
                try:
                    result = bench.run(self._jobs[measure.name])
                    outcome.figures[measure.name] = result.value(measure)
                except OSError as error:
                    outcome.errors[measure.name] = str(error)
        return outcome


class ClientWorkload(Workload):
    """Phases of the client program, each in a process of its own, a remount between them."""

    phases: Sequence[str]

    @abstractmethod
    def argument(self, scale: Scale) -> str:
        """Return what the client is told besides the directory."""

    def run(self, site: Site, scale: Scale, wanted: Collection[str]) -> Outcome:
        """Run all phases; the first that fails ends the run."""
        outcome = Outcome()
        for phase in self.phases:
            try:
                if phase != self.phases[0]:
                    site.remount()
                outcome.figures |= run_client(phase, site.directory, self.argument(scale))
            except OSError as error:
                outcome.errors[phase] = str(error)
                break
        return outcome


def run_client(phase: str, directory: Path, argument: str) -> dict[str, float]:
    """Run one phase of the client and return its figures; raises `PmemfsError`."""
    program = Path(client.__file__)
    words = [phase, str(directory), argument]
    figures: dict[str, float] = json.loads(run([sys.executable, "-I", "-S", program, *words]))
    return figures


class FilesWorkload(ClientWorkload):
    """Small files of 1 KiB in one directory: stat when just made, again, and after a remount."""

    name = "files"
    summary = "create, stat, list, rename and unlink small files, one at a time"
    measures = (
        Measure("create", "/s", Kind.METADATA),
        Measure("stat-new", "/s", Kind.METADATA),
        Measure("stat", "/s", Kind.STAT),
        Measure("stat-cold", "/s", Kind.METADATA),
        Measure("readdir", "/s", Kind.METADATA),
        Measure("ls-l", "/s", Kind.METADATA),
        Measure("ls-l-cold", "/s", Kind.METADATA),
        Measure("rename", "/s", Kind.METADATA),
        Measure("unlink", "/s", Kind.METADATA),
    )
    phases = ("files-fill", "files-stat-cold", "files-list-cold")

    def argument(self, scale: Scale) -> str:
        """How many files."""
        return str(scale.n_files)


class TreeWorkload(ClientWorkload):
    """A real source tree: Python's own library, as a git repository."""

    name = "tree"
    summary = "unpack, git status, du, grep -r, cp -a and rm -rf of Python's library"
    measures = (
        Measure("unpack", "ms", Kind.METADATA),
        Measure("cp-a", "ms", Kind.METADATA),
        Measure("grep-r", "ms", Kind.CACHED),
        Measure("grep-r-cold", "ms", Kind.OTHER),
        Measure("du", "ms", Kind.METADATA),
        Measure("git-status", "ms", Kind.METADATA),
        Measure("rm-rf", "ms", Kind.METADATA),
    )
    phases = ("tree-fill", "tree-cold")

    def __init__(self) -> None:
        self._tarball: Path | None = None

    def missing(self) -> str | None:
        """Ask for git."""
        return None if shutil.which("git") else "git not found: apt-get install git"

    def prepare(self, scratch: Path, scale: Scale) -> None:
        """Make the tarball of the tree."""
        self._tarball = make_tarball(scratch, with_tests=scale.tree_with_tests)

    def argument(self, scale: Scale) -> str:
        """Where the tarball is."""
        return str(self._tarball)


def make_tarball(scratch: Path, *, with_tests: bool) -> Path:
    """Pack Python's library as a git repository with one commit; return the tarball."""
    library = Path(sysconfig.get_paths()["stdlib"])
    skipped = ["__pycache__", "*-packages", "*.so", "*.a", "config-*"]
    ignore = shutil.ignore_patterns(*skipped, *([] if with_tests else ["test", "tests"]))
    tree = scratch / "tree"
    shutil.copytree(library, tree, symlinks=True, ignore=ignore)
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-C", str(tree)]
    run([*git, "init", "-q"])
    run([*git, "-c", "core.autocrlf=false", "add", "-f", "."])
    run([*git, "-c", "gc.auto=0", "commit", "-q", "-m", "tree"])
    run([*git, "repack", "-adq"])
    tarball = scratch / "tree.tar"
    run(["tar", "-cf", tarball, "-C", scratch, "tree"])
    shutil.rmtree(tree)
    return tarball


class SqliteWorkload(ClientWorkload):
    """Rows in and out of sqlite."""

    name = "sqlite"
    summary = "insert (5 rows per commit, synchronous=FULL) and select by key"
    measures = (
        Measure("sqlite-delete-insert", "/s", Kind.OTHER),
        Measure("sqlite-delete-select", "/s", Kind.CACHED),
        Measure("sqlite-wal-insert", "/s", Kind.OTHER),
        Measure("sqlite-wal-select", "/s", Kind.CACHED),
    )
    phases = ("sqlite",)

    def argument(self, scale: Scale) -> str:
        """How many rows."""
        return str(scale.n_rows)


def all_workloads() -> list[Workload]:
    """Return every workload, in the order of the table."""
    groups = list(dict.fromkeys(job.group for job in fio.JOBS))
    return [*map(FioWorkload, groups), FilesWorkload(), TreeWorkload(), SqliteWorkload()]


def validate_room(parent: Path, scale: Scale) -> None:
    """Raise `PmemfsError` unless the place for all images has room for one at a time."""
    status = os.statvfs(parent)
    if status.f_bavail * status.f_frsize < scale.needed_bytes:
        raise PmemfsError(
            28, f"{parent} has not enough room: {scale.needed_bytes >> 20} MiB are needed"
        )


def is_quick(measure: Measure) -> bool:
    """Whether a measure is part of a quick run: some of fio's, and all others."""
    return all(measure.name != job.name or job.quick for job in fio.JOBS)
