"""``pmemfs bench``: fio on a mounted directory; descriptor schemes; ageing in `bench_ageing`."""

from __future__ import annotations

import errno
import fnmatch
import json
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from pmemfs.bench import fio, output
from pmemfs.bench.descriptors.accesses import recorded, synthetic
from pmemfs.bench.descriptors.device import scratch_directory
from pmemfs.bench.descriptors.measure import SCHEMES, Document, Plan, measure
from pmemfs.bench.descriptors.plots import make_folder, write_plots
from pmemfs.bench.descriptors.report import notes, sections
from pmemfs.bench.descriptors.scheme import RUN_PAGES
from pmemfs.bench.process import interruptible
from pmemfs.cli import table
from pmemfs.cli.bench_ageing import ageing_command
from pmemfs.cli.mkfs import SizeType
from pmemfs.cli.numbers import SEED, NumberRange
from pmemfs.cli.paths import DirectoryType
from pmemfs.errors import PmemfsError
from pmemfs.units import GIB, MIB, TIB


@click.group("bench", short_help="Measure mounts, descriptor schemes, ageing.")
def bench_command() -> None:
    """Measure a mounted directory, what descriptor schemes cost, or how a volume ages.

    How pmemfs compares with other file systems is measured by scripts/bench_peers.py of its
    source tree (make bench).

    \b
    Examples:
      pmemfs bench io /mnt
      pmemfs bench descriptors
      pmemfs bench ageing
    """


bench_command.add_command(ageing_command)


@bench_command.command("io", short_help="Run fio on a mounted directory.")
@click.argument("directory", type=DirectoryType(), metavar="DIR")
@click.option("--quick", is_flag=True, help="Fewer and shorter jobs: about 15 seconds.")
@click.option("--only", metavar="JOB,...", help="Only these jobs; * and ? match.")
@click.option("--list", "list_only", is_flag=True, help="List the jobs and run none.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def io_command(
    context: click.Context,
    directory: Path,
    quick: bool,
    only: str | None,
    list_only: bool,
    as_json: bool,
) -> None:
    """Run fio on a mounted directory, of any file system.

    4 KiB random reads, writes and a mix of 70 % reads, direct and buffered, at depth 1 and 16 (d),
    by 1 and 4 jobs (j); 128 KiB and 1 MiB sequential; 4 KiB writes with an fsync after each.

    \b
    warm    the file is there, and has just been read if it is read buffered
    cold    the kernel's cached pages of the file are dropped first
    fresh   the file grows from nothing, in one pass
    Sequential buffered writes are timed until fsync returns; random ones are not, so there it is
    the kernel's page cache that answers.

    The files (528 MiB, with --quick 272 MiB) lie in a directory of their own below DIR and are
    removed at the end, also when interrupted. All of it takes about two minutes.

    \b
    Examples:
      pmemfs bench io /mnt
      pmemfs bench io /mnt --quick --json > mnt.json
      pmemfs bench io /mnt --only 'rand*-direct-d1-j1,read-1m-*'
    """
    jobs = select_jobs(only, quick=quick)
    if list_only:
        for job in jobs:
            click.echo(job.name)
        return
    documents = []
    rows = []
    with interruptible(), fio.FioBench(directory, fio.QUICK if quick else fio.FULL) as bench:
        for number, job in enumerate(jobs, 1):
            click.echo(f"{number}/{len(jobs)} {job.name}", err=True)
            result, error = _run(bench, job)
            rows.append(output.io_row(job, result))
            documents.append(output.io_document(job, result, error))
    if as_json:
        about = {"directory": str(directory), "environment": output.environment()}
        click.echo(json.dumps(about | {"jobs": documents}, indent=2))
    else:
        table.table(output.IO_COLUMNS, rows)
    context.exit(1 if any(document["error"] for document in documents) else 0)


def select_jobs(only: str | None, *, quick: bool) -> list[fio.FioJob]:
    """Return the jobs that some pattern names; without patterns all, or those that are quick."""
    if only is None:
        return [job for job in fio.JOBS if job.quick or not quick]
    patterns = [pattern for pattern in only.split(",") if pattern]
    for pattern in patterns:
        if not any(fnmatch.fnmatch(job.name, pattern) for job in fio.JOBS):
            raise click.BadParameter(
                f"no job is called '{pattern}'; --list shows them", param_hint="'--only'"
            )
    return [job for job in fio.JOBS if any(fnmatch.fnmatch(job.name, p) for p in patterns)]


def _run(bench: fio.FioBench, job: fio.FioJob) -> tuple[fio.FioResult | None, str | None]:
    """Run one job; a job that fails is told of and does not stop the others."""
    try:
        return bench.run(job), None
    except OSError as error:
        click.echo(f"{job.name}: {error}", err=True)
        return None, str(error)


@bench_command.command("descriptors", short_help="Compare descriptor schemes, ours among them.")
@click.option(
    "--size", "size_bytes", type=SizeType(), default="16G", show_default=True,
    help="Device that is driven by accesses.",
)  # fmt: skip
@click.option(
    "--split", "split_percent", type=NumberRange(0, 100), default=10.0, show_default=True,
    help="Percent of its extents that hold small files.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.IntRange(1, 3600), default=120, show_default=True,
    help="Seconds of accesses to make up.",
)  # fmt: skip
@click.option(
    "--rate", type=click.IntRange(1, 100_000), default=1000, show_default=True,
    help="Accesses in each of them.",
)  # fmt: skip
@click.option("--seed", type=SEED, default=1, show_default=True, help="Of the made-up accesses.")
@click.option(
    "--trace", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Replay this trace instead; see pmemfs trace record.",
)  # fmt: skip
@click.option("--only", metavar="SCHEME,...", help=f"Of {', '.join(SCHEMES)}.")
@click.option(
    "--run", "run_pages", type=NumberRange(1, 511), default=RUN_PAGES, show_default=True,
    metavar="PAGES", help="Small pages that share a folio in memdesc-runs, the mean.",
)  # fmt: skip
@click.option(
    "--most", "most_bytes", type=SizeType(), default="2G", show_default=True,
    help="Most to store for one device. Larger ones are extrapolated, a larger --size is refused.",
)  # fmt: skip
@click.option(
    "--budget", "budget_s", type=NumberRange(0), default=60.0, show_default=True,
    metavar="SECONDS", help="Time for the initialisations of one scheme.",
)  # fmt: skip
@click.option(
    "--dir", "directory", type=DirectoryType(),
    help="Where the sparse files lie meanwhile (/dev/shm).",
)  # fmt: skip
@click.option(
    "--quick", is_flag=True,
    help="Small devices: about 20 seconds. Stands for --size 1G --seconds 80 --rate 200 "
    "--most 256M; what you give yourself counts.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="An object with a key for each scheme.")
@click.option(
    "--plots", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Also draw pictures.",
)  # fmt: skip
@click.pass_context
def descriptors_command(
    context: click.Context,
    size_bytes: int,
    split_percent: float,
    seconds: int,
    rate: int,
    seed: int,
    trace: Path | None,
    only: str | None,
    run_pages: float,
    most_bytes: int,
    budget_s: float,
    directory: Path | None,
    quick: bool,
    as_json: bool,
    plots: Path | None,
) -> None:
    """Compare descriptor schemes: flat, scattered, hierarchical, inverted, vmemmap-dedup, memdesc
    with a folio for each page and for each run of pages.

    All do real stores to a sparse file, one after the other, driven by the same accesses.
    Inverted is the engine of pmemfs itself. What each scheme is, and what the figures mean,
    stands in pmemfs/bench/descriptors/DESCRIPTORS.md.

    Counts of bytes, lines and stores are the same on every machine. Times are CPU times of this
    machine and of Python: compare them with each other. ~ marks what is extrapolated.

    \b
    Examples:
      pmemfs bench descriptors
      pmemfs bench descriptors --quick --plots pictures
      pmemfs bench descriptors --trace untar.trace --json > untar.json
      pmemfs bench descriptors --only flat,inverted --size 64G --split 50
    """
    if plots is not None:
        make_folder(plots)
    if quick:
        size_bytes = quick_value(context, "size_bytes", GIB)
        seconds = quick_value(context, "seconds", 80)
        rate = quick_value(context, "rate", 200)
        most_bytes = quick_value(context, "most_bytes", 256 * MIB)
    plan = descriptors_plan(quick, directory or scratch_directory(), most_bytes, budget_s)
    if not 256 * MIB <= size_bytes <= TIB:
        raise click.BadParameter("a device of 256M to 1T can be driven", param_hint="'--size'")
    accesses = (
        recorded(trace)
        if trace is not None
        else synthetic(size_bytes, split_percent / 100, seconds, rate, seed)
    )
    if not len(accesses.records):
        raise PmemfsError(errno.EINVAL, f"{trace} has no accesses")
    schemes = select_schemes(only)
    plan = replace(plan, accesses=accesses, schemes=schemes, seed=seed, run_pages=run_pages)
    with interruptible():
        document = measure(plan, lambda text: click.echo(text, err=True))
    if as_json:
        about = output.environment()
        click.echo(json.dumps({n: s | {"environment": about} for n, s in document.items()}))
    else:
        _print_tables(document)
    if plots is not None:
        for path in write_plots(document, plots):
            click.echo(f"{path}", err=True)


def _print_tables(document: Document) -> None:
    for section in sections(document):
        table.heading(section.title)
        table.table(section.columns, section.rows)
    table.line("")
    for text in notes(document):
        table.line(text)


def quick_value(context: click.Context, name: str, value: int) -> int:
    """Return what ``--quick`` makes of an option: ``value``, unless the user gave another."""
    is_default = context.get_parameter_source(name) == ParameterSource.DEFAULT
    return value if is_default else int(context.params[name])


def descriptors_plan(quick: bool, directory: Path, most_bytes: int, budget_s: float) -> Plan:
    """Return what to measure; the accesses are still to be set."""
    accesses = synthetic(256 * MIB, 0, 1, 1, 0)
    plan = Plan(accesses, directory, most_bytes=most_bytes, budget_s=budget_s)
    if quick:
        return replace(
            plan,
            initial_sizes=(GIB, 16 * GIB),
            shares=(0.0, 0.1, 0.25, 1.0),
            lookups=10_000,
            batch=200_000,
        )
    return plan


def select_schemes(only: str | None) -> tuple[str, ...]:
    """Return the schemes named, in the order of `SCHEMES`; all without names."""
    if only is None:
        return tuple(SCHEMES)
    names = [name for name in only.split(",") if name]
    for name in names:
        if name not in SCHEMES:
            raise click.BadParameter(
                f"no scheme is called '{name}'; there are {', '.join(SCHEMES)}",
                param_hint="'--only'",
            )
    return tuple(name for name in SCHEMES if name in names)
