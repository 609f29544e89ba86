#!/usr/bin/env python3
"""Time fsck on an image with many files: sound, damaged, mended, and checked again.

Files and damage are drawn by a seed; the same arguments make the same tree and the same damage.
"""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from pmemfs.bench.process import interruptible
from pmemfs.bench.writable import validate_writable, writing
from pmemfs.cli import table
from pmemfs.cli.fsck import EXIT_CLEAN, EXIT_MENDED, EXIT_UNCORRECTED
from pmemfs.cli.numbers import SEED, NumberRange
from pmemfs.cli.paths import DirectoryType
from pmemfs.errors import PmemfsError
from pmemfs.fs.volume import ROOT_INO, Volume
from pmemfs.layout.records import INODE
from pmemfs.units import MIB, format_size

EXIT_INTERRUPTED = 130
SAMPLED_EVERY_S = 0.02
BYTES_PER_FILE = 6 << 10  # inode, name and a page for some; the image is sparse
LEAST_BYTES = 64 << 20
FILE = stat.S_IFREG | 0o644


@dataclass
class Made:
    """What is in the image; ``damage`` are offsets of the inode records that damage overwrites."""

    files: int
    directories: int
    pages: int
    seconds: float
    damage: list[int]


@dataclass
class Step:
    """One run of fsck, in a process of its own."""

    name: str
    arguments: tuple[str, ...]
    wanted: int
    status: int = -1
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--files", type=click.IntRange(1), default=1_000_000, show_default=True, help="How many files."
)
@click.option(
    "--directories",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="How many directories they lie in.",
)
@click.option(
    "--with-data",
    type=NumberRange(0, 1),
    default=0.25,
    show_default=True,
    help="The share of files that has a page of data.",
)
@click.option(
    "--damage",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="How many inodes of files are overwritten, beside one of a directory.",
)
@click.option("--seed", type=SEED, default=1, show_default=True, help="Of names, data and damage.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write everything here.")
@click.option(
    "--place",
    type=DirectoryType(),
    default=Path(tempfile.gettempdir()),
    show_default=True,
    help="Where the image is made.",
)
@click.pass_context
def main(
    context: click.Context,
    files: int,
    directories: int,
    with_data: float,
    damage: int,
    seed: int,
    json_path: Path | None,
    place: Path,
) -> None:  # fmt: skip
    r"""Time fsck on an image with many files.

    Makes an image with files of names and data drawn by the seed, checks it, overwrites inodes,
    checks, mends with -y, and checks again. Each fsck is a process of its own; printed are its
    time, its CPU time and the memory it had at most, without the image that it maps. A million
    files take minutes to make, and 1.3 GiB of the place. The image is removed.

    Exit status 1: an fsck did not end with the status it should.

    \b
    Examples:
      scripts/bench_fsck.py
      scripts/bench_fsck.py --files 100000 --seed 7 --json fsck.json
    """
    rng = random.Random(seed)
    steps = [
        Step("sound", ("-n",), EXIT_CLEAN),
        Step("damaged", ("-n",), EXIT_UNCORRECTED),
        Step("mend", ("-y",), EXIT_MENDED),
        Step("mended", ("-n",), EXIT_CLEAN),
    ]
    if json_path:
        validate_writable(json_path)
    try:
        with interruptible(), tempfile.TemporaryDirectory(dir=place, prefix="pmemfs-fsck-") as name:
            image = Path(name) / "many.img"
            made = make_image(image, files, directories, with_data, damage, rng)
            host_bytes = image.stat().st_blocks * 512
            show_image(made, host_bytes)
            for step in steps:
                if step.name == "damaged":
                    overwrite(image, made.damage)
                run_fsck(step, image)
    except KeyboardInterrupt:
        click.echo("interrupted: the image is removed", err=True)
        context.exit(EXIT_INTERRUPTED)
    show(steps)
    if json_path:
        image_facts = asdict(made) | {"damage": len(made.damage), "host_bytes": host_bytes}
        document = {"seed": seed, "image": image_facts, "steps": [asdict(step) for step in steps]}
        with writing(json_path):
            json_path.write_text(json.dumps(document, indent=2) + "\n")
    context.exit(any(step.status != step.wanted for step in steps))


def make_image(
    path: Path, files: int, directories: int, with_data: float, damage: int, rng: random.Random
) -> Made:
    """Make the image, closed and clean."""
    begin = time.monotonic()
    Volume.format(path, max(LEAST_BYTES, files * BYTES_PER_FILE), lost_found=True)
    chosen = set(rng.sample(range(files), min(damage, files)))
    offsets: list[int] = []
    pages = 0
    with Volume.open(path) as volume:
        parents = [
            volume.mkdir(ROOT_INO, b"directory-%d" % n, 0o755).ino for n in range(directories)
        ]
        for number in _shown(files):
            parent = parents[number % directories]
            name = b"%x-%d" % (rng.getrandbits(48), number)
            made = volume.create(parent, name, FILE)
            if rng.random() < with_data:
                volume.write(made.ino, 0, rng.randbytes(1 + rng.randrange(64)))
                pages += 1
            if number in chosen:
                offsets.append(made.offset)
            volume.lookup(parent, name)  # where the cache of inodes is kept small
        offsets.append(volume.inode(rng.choice(parents)).offset)
    return Made(files, directories, pages, time.monotonic() - begin, offsets)


def _shown(files: int) -> Iterator[int]:
    console = Console(stderr=True)
    yield from track(range(files), "files made", console=console, disable=not console.is_terminal)


def overwrite(path: Path, offsets: list[int]) -> None:
    """Store zeros over inode records."""
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(bytes(INODE.size_bytes))


def run_fsck(step: Step, image: Path) -> None:
    """Run one fsck and note what it took."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pmemfs", "fsck", *step.arguments, image],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    ended = 0
    try:
        while not ended:
            time.sleep(SAMPLED_EVERY_S)
            step.memory_bytes = max(step.memory_bytes, memory_bytes(process.pid))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    except BaseException:
        process.kill()
        process.wait()
        raise
    step.wall_s = time.monotonic() - begin
    process.returncode = step.status = os.waitstatus_to_exitcode(status)
    step.cpu_s = usage.ru_utime + usage.ru_stime


def memory_bytes(pid: int) -> int:
    """Return the memory of a process without the image that it maps; 0 when it has ended."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = [line.split()[1] for line in status if line.startswith("RssAnon:")]
    return int(sizes[0]) * 1024 if sizes else 0


def show_image(made: Made, host_bytes: int) -> None:
    """Print what is checked."""
    click.echo(
        f"{made.files:,} files in {made.directories:,} directories, {made.pages:,} with a page of "
        f"data, {format_size(host_bytes)} on the host; made in {made.seconds:,.0f} s"
    )


def show(steps: list[Step]) -> None:
    """Print what each fsck took."""
    rows = [
        (
            step.name,
            " ".join(step.arguments),
            step.status if step.status == step.wanted else f"{step.status}, not {step.wanted}",
            f"{step.wall_s:.1f}",
            f"{step.cpu_s:.1f}",
            f"{step.memory_bytes / MIB:,.0f}",
        )
        for step in steps
    ]
    table.table(["image", "fsck", ">status", ">seconds", ">CPU s", ">memory MiB"], rows)


if __name__ == "__main__":
    try:
        main()
    except PmemfsError as error:
        sys.exit(f"bench_fsck: {error}")
