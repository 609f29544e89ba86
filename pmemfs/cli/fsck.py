"""``pmemfs fsck IMAGE [--json]``: a report of `pmemfs.fsck`, and the exit status of fsck(8)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pmemfs.errors import PmemfsError
from pmemfs.fsck import Report, check
from pmemfs.fuse.mounts import wait_until_closed
from pmemfs.image import Image

EXIT_CLEAN = 0
EXIT_UNCORRECTED = 4
EXIT_OPERATIONAL = 8
EXIT_USAGE = 16
EXIT_CANCELLED = 32

PROGRESS_AFTER_S = 1.0


class FsckUsageError(click.UsageError):
    """Wrong arguments, with the exit status that fsck(8) has for them."""

    exit_code = EXIT_USAGE


class FsckCommand(click.Command):
    """A command whose usage errors are `FsckUsageError`."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; raises `FsckUsageError`."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise FsckUsageError(error.format_message(), error.ctx) from error


@click.command("fsck", cls=FsckCommand, short_help="Check an image that is not mounted.")
@click.argument("image", type=click.Path(readable=False))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def fsck_command(context: click.Context, image: str, as_json: bool) -> None:
    """Check an image that is not mounted; never writes to it.

    If the image was not closed, its last transaction is replayed in memory first. What is wrong
    is printed line by line, each with the id of the check that found it and the place on the
    device.

    \b
    Exit status, as fsck(8):
      0   clean
      4   errors were found, and are left as they are
      8   the image cannot be checked: not there, in use, or no pmemfs image
      16  wrong usage
      32  interrupted

    \b
    Examples:
      pmemfs fsck disk.img
      pmemfs fsck disk.img --json | jq .counts
    """
    try:
        report = _check(image)
    except PmemfsError as error:
        click.echo(f"pmemfs: {_printable(str(error))}", err=True)
        context.exit(EXIT_OPERATIONAL)
    except KeyboardInterrupt:
        click.echo("pmemfs: interrupted", err=True)
        context.exit(EXIT_CANCELLED)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        for line in _lines(report):
            click.echo(_printable(line))
    context.exit(EXIT_CLEAN if report.is_clean else EXIT_UNCORRECTED)


def _check(path: str) -> Report:
    wait_until_closed(path)
    image = Image.open(path, lock="shared")
    try:
        with _progress() as progress:
            return check(image, progress)
    finally:
        image.close()


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """Give a function that shows progress on a terminal, once the work turns out to be long."""
    if not sys.stderr.isatty():
        yield None
        return
    begin = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=None)

    def show(name: str, done: int, total: int) -> None:
        if not bar.live.is_started and time.monotonic() - begin > PROGRESS_AFTER_S:
            bar.start()
        bar.update(task, description=name, completed=done, total=total or None)

    try:
        yield show
    finally:
        bar.stop()


def _lines(report: Report) -> Iterator[str]:
    """Iterate the lines of the report for people."""
    if not report.was_closed:
        yield f"{report.name}: was not closed; {_replayed(report)}"
    for finding in report.findings:
        yield str(finding)
    for check_id, more in report.dropped().items():
        yield f"{check_id}: and {more} more"
    n = sum(report.counts.values())
    verdict = "clean" if report.is_clean else f"{n} problem{'' if n == 1 else 's'} found"
    counted = [
        _count(report.files, "file", "files"),
        _count(report.directories, "directory", "directories"),
        _count(report.symlinks, "symlink", "symlinks"),
        _count(report.others, "other", "others"),
    ]
    if report.orphans:
        counted.append(_count(report.orphans, "orphan", "orphans"))
    counted.append(f"{report.extents_in_use()}/{report.n_extents} extents")
    counted.append(_count(report.pages_used, "page", "pages"))
    yield f"{report.name}: {verdict}, {', '.join(counted)}"


def _replayed(report: Report) -> str:
    if report.replayed is None:
        return "nothing was replayed"
    entries = _count(report.replayed_entries, "change", "changes")
    return f"replayed transaction {report.replayed} ({entries}) in memory"


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _printable(text: str) -> str:
    """Return text without what a terminal would not print, or stdout could not carry."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
