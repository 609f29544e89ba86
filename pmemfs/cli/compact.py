"""``pmemfs compact DIR|IMAGE``: move pages until free space is whole 2 MiB extents again."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pmemfs.cli.bus_errors import ending_at_bus_errors
from pmemfs.dead_mounts import validate_alive
from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fuse.attributes import COMPACT
from pmemfs.fuse.mounts import find_mount_of, wait_until_closed
from pmemfs.reclaim import Policy, Reclaimer
from pmemfs.units import count, format_size

POLL_S = 0.05
PROGRESS_EVERY_STEPS = 64
PROGRESS_AFTER_S = 1.0
_REFUSALS = {
    errno.EOPNOTSUPP: "it is mounted with noxattr, through which the daemon is asked; mount it "
    "without, or unmount it and compact the image",
    errno.ENOSYS: "it is mounted with noxattr, through which the daemon is asked; mount it "
    "without, or unmount it and compact the image",
    errno.EROFS: "it is mounted read-only",
    errno.ENODATA: "it is mounted read-only",
    errno.EACCES: "you may not write to its root directory",
    errno.EPERM: "only the user who mounted it may compact it",
}

Watch = Callable[[dict[str, Any]], None]


@click.command("compact", short_help="Move pages until free space is whole 2 MiB extents.")
@click.argument("target", type=click.Path(readable=False), metavar="DIR|IMAGE")
@click.option("--json", "as_json", is_flag=True, help="Print before and after as JSON.")
def compact_command(target: str, as_json: bool) -> None:
    """Move pages out of thinly used small extents until free space is whole 2 MiB extents.

    Also gives up whole extents that a file's tail uses little of, and makes dense pieces whole.
    Works on an image that is not mounted, or on a mounted directory (or its image), where the
    daemon does it between requests. A mount that nobody uses does the same unasked, as far as
    its budget goes: half a page for each page written.

    It may be interrupted at any time: nothing is lost, and what is done is done. A mount goes on.

    \b
    Examples:
      pmemfs compact disk.img
      pmemfs compact /mnt
      pmemfs compact disk.img --json
    """
    directory = _mounted_directory(target)
    with _progress() as watch:
        if directory is None:
            with ending_at_bus_errors(target, "compact", 1):
                before, after = compact_image(target, watch)
        else:
            before, after = compact_mount(directory, watch)
    if as_json:
        click.echo(json.dumps({"target": target, "before": before, "after": after}))
    else:
        click.echo(f"{target}: {describe(before, after)}")


def _mounted_directory(target: str) -> str | None:
    """Return where the target is mounted, None for an image that is not."""
    mount = find_mount_of(target)
    validate_alive(target if mount is None else mount.directory)
    if mount is None and os.path.isdir(target):
        raise PmemfsError(errno.EINVAL, f"no pmemfs is mounted on {target}")
    return None if mount is None else mount.directory


def compact_image(image: str, watch: Watch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compact an image that is not mounted; return the progress before and after."""
    wait_until_closed(os.path.realpath(image))
    with Volume.open(image) as volume:
        reclaimer = Reclaimer(volume, Policy())
        before = reclaimer.progress()
        reclaimer.compact()
        steps = 0
        while reclaimer.is_compacting:
            reclaimer.step()
            steps += 1
            if not steps % PROGRESS_EVERY_STEPS:
                watch(reclaimer.progress())
        return before, reclaimer.progress()


def compact_mount(directory: str, watch: Watch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ask the daemon of a mount to compact; return the progress before and after."""
    try:
        before = json.loads(os.getxattr(directory, COMPACT))
        os.setxattr(directory, COMPACT, b"")
        while True:
            now = json.loads(os.getxattr(directory, COMPACT))
            if not now["running"]:
                return before, now
            watch(now)
            time.sleep(POLL_S)
    except OSError as error:
        reason = _REFUSALS.get(error.errno or 0, error.strerror)
        raise PmemfsError(
            error.errno or errno.EIO, f"cannot compact {directory}: {reason}"
        ) from error


def describe(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return one line on what compaction did."""
    moved = after["pages_moved"] - before["pages_moved"]
    gained = after["free_extents"] - before["free_extents"]
    free = after["free_extents"]
    share = 1 - after["free_small_pages"] / after["free_pages"] if after["free_pages"] else 1.0
    return (
        f"{count(moved, 'page', 'pages')} moved, {count(gained, 'extent', 'extents')} gained; "
        f"{count(free, 'extent of 2 MiB is', 'extents of 2 MiB are')} free "
        f"({format_size(free << 21)}), {share:.1%} of the free space"
    )


@contextmanager
def _progress() -> Iterator[Watch]:
    """Give a function that shows progress on a terminal, once the work turns out to be long."""
    columns = (
        TextColumn("compacting"),
        BarColumn(),
        TextColumn("pages moved: {task.fields[moved]}, extents free: {task.fields[free]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    started = time.monotonic()
    task = bar.add_task("compacting", total=None, moved=0, free=0)
    first: list[dict[str, Any]] = []

    def watch(now: dict[str, Any]) -> None:
        first.append(now) if not first else None
        if time.monotonic() - started < PROGRESS_AFTER_S or not bar.console.is_terminal:
            return
        done = now["free_extents"] - first[0]["free_extents"]
        bar.update(
            task,
            completed=done,
            total=done + now["surplus_extents"],
            moved=now["pages_moved"],
            free=now["free_extents"],
        )
        bar.start()

    try:
        yield watch
    finally:
        if bar.live.is_started:
            bar.stop()
