"""``pmemfs fsck [-n|-p|-y] IMAGE``: what `pmemfs.fsck` finds and mends; status as fsck(8)."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pmemfs.cli.bus_errors import ending_at_bus_errors
from pmemfs.errors import PmemfsError
from pmemfs.fsck import Decide, Plan, Repair, Report, Risk, check, everything, only_safe, repair
from pmemfs.fsck.report import KEPT_PER_CHECK
from pmemfs.fuse.mounts import wait_until_closed
from pmemfs.image import Image
from pmemfs.units import count

EXIT_CLEAN = 0
EXIT_MENDED = 1
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


@click.command("fsck", cls=FsckCommand, short_help="Check and mend an image that is not mounted.")
@click.argument("image", type=click.Path(readable=False))
@click.option("-n", "only_check", is_flag=True, help="Write nothing, say no to all questions.")
@click.option("-p", "-a", "preen", is_flag=True, help="Mend what can be mended without any loss.")
@click.option("-y", "yes", is_flag=True, help="Mend all, say yes to all questions.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def fsck_command(
    context: click.Context, image: str, only_check: bool, preen: bool, yes: bool, as_json: bool
) -> None:
    """Check an image that is not mounted, and mend it.

    Without -n, -p or -y it asks on a terminal, and is -n elsewhere. What is wrong is printed line
    by line, each with the id of the check that found it and the place on the device; then what is
    done about it. What can be derived is derived anew: counts, owner words, maps, directories,
    checksums. What has no name gets one in lost+found. A repair that may lose something (a name,
    an attribute, a page, trust in a damaged inode) is made with -y, or when you say so.

    All repairs are planned and checked in memory before the first is written. A run that is
    interrupted does no harm: run it again.

    \b
    Exit status, as fsck(8):
      0   clean
      1   errors were mended, or the image was closed
      4   errors were found, and are left as they are
      8   the image cannot be checked: not there, in use, cut short, or no pmemfs
          image; or the report cannot be written, or the host has no room for
          what a repair stores
      16  wrong usage
      32  interrupted

    \b
    Examples:
      pmemfs fsck disk.img
      pmemfs fsck -n disk.img
      pmemfs fsck -p disk.img
      pmemfs fsck disk.img --json | jq .counts
    """
    if only_check + preen + yes > 1:
        raise FsckUsageError("-n, -p and -y exclude each other", context)
    asks = not (only_check or preen or yes or as_json) and _on_terminal()
    try:
        with ending_at_bus_errors(image, "fsck", EXIT_OPERATIONAL):
            if only_check or not (preen or yes or asks):
                status = _check(image, as_json)
            else:
                status = _repair(image, as_json, everything if yes else only_safe, asks)
    except PmemfsError as error:
        click.echo(f"pmemfs: {_printable(str(error))}", err=True)
        context.exit(EXIT_OPERATIONAL)
    except (KeyboardInterrupt, click.Abort):
        click.echo("pmemfs: interrupted", err=True)
        context.exit(EXIT_CANCELLED)
    context.exit(status)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _check(path: str, as_json: bool) -> int:
    """Check and print; return the exit status."""
    wait_until_closed(path)
    image = Image.open(path, lock="shared")
    try:
        with _Bar() as bar:
            report = check(image, bar.show)
    finally:
        image.close()
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print_findings(report)
        _print(_verdict(report))
    return EXIT_CLEAN if report.is_clean else EXIT_UNCORRECTED


# -- mending -------------------------------------------------------------------------------------


def _repair(path: str, as_json: bool, decide: Decide, asks: bool) -> int:
    """Mend and print; return the exit status."""
    wait_until_closed(path)
    with _Bar() as bar:
        questions = _Questions(bar)
        plan = repair(
            path,
            decide=questions.decide if asks else decide,
            confirm=questions.confirm if asks else None,
            found=None if as_json else bar.pausing(_print_findings),
            progress=bar.show,
        )
    if as_json:
        click.echo(json.dumps(plan.to_dict(), indent=2))
    else:
        _print_repairs(plan)
    if plan.is_made and plan.is_complete:
        return EXIT_MENDED
    return EXIT_CLEAN if plan.found.is_clean and not plan.declined else EXIT_UNCORRECTED


class _Questions:
    """Asks about each repair that may lose something, and before the first store."""

    def __init__(self, bar: _Bar) -> None:
        self._bar = bar

    def decide(self, proposed: Repair) -> bool:
        """Ask about one repair, unless it is safe."""
        if proposed.risk == Risk.SAFE:
            return True
        self._bar.pause()
        return click.confirm(_printable(f"{proposed}; this may lose something. Do it?"))

    def confirm(self, plan: Plan) -> bool:
        """Ask before anything is written."""
        self._bar.pause()
        print_each("to do", plan.repairs)
        n = len(plan.repairs)
        return click.confirm(f"Make {'this repair' if n == 1 else f'these {n} repairs'}?")


def print_each(word: str, repairs: list[Repair]) -> None:
    """Print repairs, of each check the first `KEPT_PER_CHECK`."""
    counts: Counter[str] = Counter()
    for one in repairs:
        counts[one.check] += 1
        if counts[one.check] <= KEPT_PER_CHECK:
            _print(f"{word}: {one}")
    for check_id, n in counts.items():
        if n > KEPT_PER_CHECK:
            _print(f"{word}: {check_id}: and {n - KEPT_PER_CHECK} more")


def _print_repairs(plan: Plan) -> None:
    print_each("mended", plan.repairs if plan.is_made else [])
    for refused in plan.declined:
        _print(f"left: {refused} (this may lose something)")
    for reason in plan.blocked:
        _print(f"left: {reason}")
    if plan.repairs and not plan.is_made:
        _print(f"{plan.found.name}: nothing was written")
    elif plan.is_complete:
        _print(_verdict(plan.left, was="mended, now clean" if plan.is_made else "clean"))
    else:
        for finding in plan.left.findings:
            _print(f"left: {finding}")
        _print(f"{plan.found.name}: not clean; mend it by hand: pmemfs fsck {plan.found.name}")


# -- what is printed -----------------------------------------------------------------------------


class _Bar:
    """Shows progress on a terminal, once the work turns out to be long."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=None)
        self._wanted = sys.stderr.isatty()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def show(self, name: str, done: int, total: int) -> None:
        """Show how much of a pass is done."""
        if not self._wanted:
            return
        if not self._bar.live.is_started and time.monotonic() - self._begin > PROGRESS_AFTER_S:
            self._bar.start()
        self._bar.update(self._task, description=name, completed=done, total=total or None)

    def pause(self) -> None:
        """Take the bar off the terminal until there is more to show."""
        if self._bar.live.is_started:
            self._bar.stop()

    def pausing(self, print_report: Callable[[Report], None]) -> Callable[[Report], None]:
        """Return a function that prints while the bar is off."""

        def pause_and_print(report: Report) -> None:
            self.pause()
            print_report(report)

        return pause_and_print


def _print(line: str) -> None:
    click.echo(_printable(line))


def _print_findings(report: Report) -> None:
    if not report.was_closed:
        how = "was found damaged while mounted" if report.was_damaged else "was not closed"
        _print(f"{report.name}: {how}; {_replayed(report)}")
    for finding in report.findings:
        _print(str(finding))
    for check_id, more in report.dropped().items():
        _print(f"{check_id}: and {more} more")


def _verdict(report: Report, was: str = "clean") -> str:
    """Return the last line: what is there, and whether it is in order."""
    n = sum(report.counts.values())
    verdict = was if report.is_clean else f"{count(n, 'problem', 'problems')} found"
    counted = [
        count(report.files, "file", "files"),
        count(report.directories, "directory", "directories"),
        count(report.symlinks, "symlink", "symlinks"),
        count(report.others, "other", "others"),
    ]
    if report.orphans:
        counted.append(count(report.orphans, "orphan", "orphans"))
    counted.append(f"{report.extents_in_use()}/{report.n_extents} extents")
    counted.append(count(report.pages_used, "page", "pages"))
    return f"{report.name}: {verdict}, {', '.join(counted)}"


def _replayed(report: Report) -> str:
    if report.replayed is None:
        return "nothing was replayed"
    entries = count(report.replayed_entries, "change", "changes")
    return f"replayed transaction {report.replayed} ({entries}) in memory"


def _printable(text: str) -> str:
    """Return text without what a terminal would not print, or stdout could not carry."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
