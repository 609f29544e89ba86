"""``pmemfs bench ageing``: age a volume, and the policies of others with the same trace."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pmemfs.bench import output
from pmemfs.bench.ageing import ext4, profile, report
from pmemfs.bench.ageing.rivals import RIVALS
from pmemfs.bench.ageing.run import OURS, AgeingOptions, Result, Watch, run
from pmemfs.bench.ageing.store import Sample
from pmemfs.bench.picture import validate_picture
from pmemfs.bench.process import interruptible
from pmemfs.cli import table
from pmemfs.cli.mkfs import SizeType
from pmemfs.cli.numbers import SEED, NumberRange
from pmemfs.errors import PmemfsError
from pmemfs.fs.placement import DEFAULT_PLACEMENT, DEFAULT_PROMOTE_PERCENT, PLACEMENTS
from pmemfs.fs.placement import threshold_pages as threshold_pages_of
from pmemfs.layout.geometry import MIN_DEVICE_BYTES

LONG_BYTES, LONG_OVERWRITES = 16 << 30, 50.0
CURVE_PERCENTS = (25, 50, 75, 90)
LINE_EVERY_S = 30.0
EXIT_NOT_MET, EXIT_NO_PICTURE = 1, 3
_COMPARISON_PLOTS: dict[str, Callable[[dict[Any, Result], Path], None]] = {
    "promote": report.write_curve_plot,
    "placement": report.write_placement_plot,
}
_RIVALS = (*RIVALS, ext4.NAME)


# fmt: off
@click.command("ageing", short_help="Age a volume with years of files that come and go.")
@click.option(
    "--size",
    "size_bytes",
    type=SizeType(),
    default="4G",
    show_default=True,
    help="Size of the device.",
)
@click.option(
    "--overwrites",
    type=NumberRange(0.1, 1000),
    default=20.0,
    show_default=True,
    help="Bytes written, as a multiple of the device.",
)
@click.option(
    "--full",
    type=click.IntRange(10, 95),
    default=75,
    show_default=True,
    help="How full the volume is kept, in percent, as df shows it.",
)
@click.option(
    "--sizes",
    type=click.Choice([*profile.SIZE_MODES, "both"]),
    default="both",
    show_default=True,
    help="File sizes within the published buckets, or at their bounds.",
)
@click.option(
    "--promote",
    type=click.IntRange(1, 100),
    default=DEFAULT_PROMOTE_PERCENT,
    show_default=True,
    help="As the mount option, in percent.",
)
@click.option(
    "--placement",
    type=click.Choice(list(PLACEMENTS)),
    default=DEFAULT_PLACEMENT,
    show_default=True,
    help="Which arena a page goes to.",
)
@click.option(
    "--rivals",
    default="all",
    show_default=True,
    metavar="NAME,...",
    help=f"all, none, or some of {', '.join(_RIVALS)}.",
)
@click.option(
    "--vary",
    type=click.Choice(["promote", "placement"]),
    help="Compare promotion thresholds, or placement policies, without rivals.",
)
@click.option("--long", "is_long", is_flag=True, help="16 GiB, overwritten 50 times: hours.")
@click.option(
    "--minutes", type=NumberRange(0.01), help="End the volume's run after this time."
)
@click.option("--seed", type=SEED, default=1, show_default=True, help="Of all that is drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw it (both ways to draw sizes: a second one, -bounds); needs matplotlib.",
)
@click.pass_context
def ageing_command(
    context: click.Context,
    *,
    full: int,
    sizes: str,
    promote: int,
    rivals: str,
    vary: str | None,
    is_long: bool,
    as_json: bool,
    png: Path | None,
    **more: Any,
) -> None:
    """Age a volume through the library, without FUSE and without the content of files.

    Files of published sizes and lifetimes (Agrawal et al. 2007) are made and removed until the
    device has been overwritten so often. The allocator's real path is taken: names, inodes, maps,
    owner pages, the journal, split tables, and the reclaimer between requests. The same trace
    then goes to models of 4 KiB first fit and of two trees of free space (for one CPU, and for
    four), and to a real ext4 (create, fallocate, unlink; up to 5 overwrites; needs root and a
    loop device).

    Ten samples are shown: the share of free space in free 2 MiB extents (and what part of the
    device these are), the share of file data in whole extents, descriptors, space amplification,
    pages moved in the background, and copied by promotion, for each page written. Then the goals
    of the project. Exit status 1 if one is not met, else 3 if a picture could not be written.
    Ctrl-C ends the volume's run early: the others get the trace up to there, and all is shown;
    once more ends the command.

    \b
    Examples:
      pmemfs bench ageing
      pmemfs bench ageing --size 1G --overwrites 5 --rivals none
      pmemfs bench ageing --full 90 --sizes within --json > aged.json
      pmemfs bench ageing --vary promote --overwrites 4 --png curve.png
      pmemfs bench ageing --long --full 90 --minutes 60
    """
    if more["size_bytes"] < MIN_DEVICE_BYTES:
        raise click.BadParameter("an image has at least 64 MiB", param_hint="'--size'")
    if is_long:
        _refuse_beside("--long", context, "size_bytes", "overwrites")
        more |= {"size_bytes": LONG_BYTES, "overwrites": LONG_OVERWRITES}
    if vary is not None:
        _refuse_beside(f"--vary {vary}", context, "rivals", vary)
        if sizes == "both" and _is_given(context, "sizes"):
            raise click.UsageError("--vary draws sizes in one way: within or bounds")
    modes = profile.SIZE_MODES if sizes == "both" else (sizes,)
    paths = [] if png is None else _picture_paths(png, () if vary else modes)
    for path in paths:
        validate_picture(path)
    options = AgeingOptions(
        full=full / 100,
        threshold_pages=threshold_pages_of(promote),
        rivals=() if vary else _chosen(rivals),
        **more,
    )
    early = _EarlyEnd(is_possible=vary is None)
    with interruptible(early.ask), _progress(early) as watch:
        if vary is None:
            results = _age(options, modes, watch, early, as_json=as_json)
            met = all(goal.met for result in results for goal in report.goals(result))
            is_drawn = _draw([partial(report.write_plot, result) for result in results], paths)
        else:
            compared = _compare(vary, replace(options, sizes=modes[0]), watch, as_json=as_json)
            met = True
            is_drawn = _draw([partial(_COMPARISON_PLOTS[vary], compared)], paths)
    context.exit(EXIT_NOT_MET if not met else 0 if is_drawn else EXIT_NO_PICTURE)


def _picture_paths(png: Path, modes: tuple[str, ...]) -> list[Path]:
    """Return where each picture goes: the second way to draw sizes stands in its name."""
    return [png, *(png.with_stem(f"{png.stem}-{mode}") for mode in modes[1:])]


def _draw(drawings: Sequence[Callable[[Path], None]], paths: list[Path]) -> bool:
    """Write the pictures, after the results: those are there whatever becomes of a picture."""
    try:
        for draw, path in zip(drawings, paths):
            draw(path)
    except PmemfsError as error:
        click.echo(f"pmemfs: {error}", err=True)
        return False
    return True


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def _refuse_beside(option: str, context: click.Context, *names: str) -> None:
    """Refuse options that another one would make meaningless."""
    for parameter in context.command.params:
        if parameter.name in names and _is_given(context, parameter.name):
            raise click.UsageError(f"{option} says it already: leave {parameter.opts[0]} out")


def _chosen(names: str) -> tuple[str, ...]:
    if names in ("all", "none"):
        return _RIVALS if names == "all" else ()
    chosen = tuple(name for name in names.split(",") if name)
    for name in chosen:
        if name not in _RIVALS:
            raise click.BadParameter(
                f"'{name}' is none of {', '.join(_RIVALS)}", param_hint="'--rivals'"
            )
    return chosen


class _EarlyEnd:
    """What Ctrl-C asks for while the volume is aged: to end there, and to show the results."""

    def __init__(self, *, is_possible: bool) -> None:
        self._is_possible = is_possible
        self.policy = ""
        self.is_wanted = False

    def ask(self) -> bool:
        """Tell whether the run will end by itself; if not, whoever asks ends it."""
        if self.is_wanted or not self._is_possible or self.policy != OURS:
            return False
        self.is_wanted = True
        click.echo("ending early; once more to end without results", err=True)
        return True


def _age(
    options: AgeingOptions,
    modes: tuple[str, ...],
    watch: Watch,
    early: _EarlyEnd,
    *,
    as_json: bool,
) -> list[Result]:
    """Age once for each way to draw sizes, and show what each has come to."""
    results = []
    for mode in modes:
        results.append(run(replace(options, sizes=mode), watch, _tell_sample))
        if not as_json:
            _print(results[-1])
        if early.is_wanted:
            break
    if as_json:
        documents = [_document(result) for result in results]
        click.echo(json.dumps({"environment": output.environment(), "runs": documents}, indent=2))
    return results


def _document(result: Result) -> dict[str, Any]:
    return result.document() | {"goals": [goal._asdict() for goal in report.goals(result)]}


def _print(result: Result) -> None:
    table.heading(report.heading(result))
    table.table(*report.policy_table(result))
    for line in report.left_out_lines(result):
        table.line(line)
    table.heading("pmemfs")
    table.table(*report.our_table(result))
    table.facts(report.fixed_facts(result))
    table.heading("Goals")
    if report.goals(result):
        table.table(*report.goal_table(result))
    else:
        table.line("none: it ended before the device had been overwritten once")


def _compare(
    vary: str, options: AgeingOptions, watch: Watch, *, as_json: bool
) -> dict[Any, Result]:
    """Age once for each threshold or placement, and show them side by side."""
    if vary == "promote":
        by_percent = {
            percent: run(replace(options, threshold_pages=threshold_pages_of(percent)), watch)
            for percent in CURVE_PERCENTS
        }
        results: dict[Any, Result] = dict(by_percent)
        columns, rows = report.curve_table(by_percent)
    else:
        by_name = {name: run(replace(options, placement=name), watch) for name in PLACEMENTS}
        results = dict(by_name)
        columns, rows = report.placement_table(by_name)
    if as_json:
        documents = {str(value): result.document() for value, result in results.items()}
        if vary == "promote":
            for value, result in results.items():
                documents[str(value)]["by_arithmetic"] = report.curve_document(result)
        document = {"environment": output.environment(), "vary": vary, "runs": documents}
        click.echo(json.dumps(document, indent=2))
    else:
        table.table(columns, rows)
    return results


@contextmanager
def _progress(early: _EarlyEnd) -> Iterator[Watch]:
    """Give a function that shows progress: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:g} overwrites"),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    tasks: dict[str, Any] = {}
    lines = _Lines(lambda text: click.echo(text, err=True))

    def watch(policy: str, done: float, total: float) -> bool:
        early.policy = policy
        if not console.is_terminal:
            lines.show(policy, done, total)
        else:
            if policy not in tasks:
                tasks[policy] = bar.add_task(policy, total=total)
                bar.start()
            bar.update(tasks[policy], completed=done, total=total)
        return not early.is_wanted

    try:
        yield watch
    finally:
        if tasks:
            bar.stop()


def _tell_sample(policy: str, sample: Sample) -> None:
    """Leave what has been measured in a log: a run of hours may be killed."""
    if not sys.stderr.isatty():
        click.echo(f"{policy}: {json.dumps(asdict(sample))}", err=True)


class _Lines:
    """Progress for logs: at most a line each `LINE_EVERY_S`."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._next_s = time.monotonic() + LINE_EVERY_S

    def show(self, policy: str, done: float, total: float) -> None:
        """Write a line if it is time."""
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + LINE_EVERY_S
            self._write(f"{policy}: {done:.1f} of {total:g} overwrites")
