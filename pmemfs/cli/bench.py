"""``pmemfs bench io DIR``: the fio jobs of `pmemfs.bench` on one mounted directory."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path

import click

from pmemfs.bench import fio, output
from pmemfs.bench.process import interruptible
from pmemfs.cli import table
from pmemfs.cli.bench_ageing import ageing_command


@click.group("bench", short_help="Measure a mounted directory, or how a volume ages.")
def bench_command() -> None:
    """Measure a mounted directory, or how a volume ages.

    How pmemfs compares with other file systems is measured by scripts/bench_peers.py of its
    source tree (make bench).

    \b
    Examples:
      pmemfs bench io /mnt
      pmemfs bench ageing
    """


bench_command.add_command(ageing_command)


@bench_command.command("io", short_help="Run fio on a mounted directory.")
@click.argument(
    "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
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
