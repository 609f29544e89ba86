"""``pmemfs trace record`` and ``pmemfs trace show``: page accesses of a live mount, as a file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import click

from pmemfs.bench.descriptors.accesses import summary
from pmemfs.bench.process import interruptible
from pmemfs.cli.inspect_text import format_time
from pmemfs.cli.table import facts, heading, line, table
from pmemfs.errors import PmemfsError
from pmemfs.fuse import mounts
from pmemfs.fuse.tracing import Recording
from pmemfs.inspect.reader import Reader
from pmemfs.pages.trace import TRACE_RECORD, read_trace, write_header
from pmemfs.units import format_size

_PAUSE_S = 0.1


@click.group("trace", short_help="Record page accesses of a mount.")
def trace_command() -> None:
    """Record which pages a mounted pmemfs accesses, and look at such a trace.

    \b
    Examples:
      pmemfs trace record /mnt -o untar.trace -- tar -C /mnt -xf linux.tar
      pmemfs trace show untar.trace
      pmemfs bench descriptors --trace untar.trace
    """


@trace_command.command("record", short_help="Record until a command ends, or Ctrl-C.")
@click.argument("where", metavar="DIR|IMAGE")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
    metavar="FILE", help="The trace; overwritten.",
)  # fmt: skip
@click.option("--seconds", type=click.FloatRange(min=0), help="End after this time.")
@click.pass_context
def record_command(
    context: click.Context,
    where: str,
    command: tuple[str, ...],
    output: Path,
    seconds: float | None,
) -> None:
    """Record every access of the file system to its pages, while COMMAND runs, or until Ctrl-C.

    Recorded is what reaches the device: what the kernel answers from its page cache is not seen,
    and what it writes back is seen when it does. Mount with cache=none, or use direct I/O, to
    see all. A record of 16 bytes says when, which pages, whether whole extent or small, read or
    written; not what, and not by whom.

    Needs to be run by the user who mounted it. Ends with the exit status of COMMAND.

    \b
    Examples:
      pmemfs trace record /mnt -o untar.trace -- tar -C /mnt -xf linux.tar
      pmemfs trace record disk.img -o minute.trace --seconds 60
    """
    directory = mounts.find_directory(where)
    mount = mounts.find_mount(directory)
    assert mount is not None
    _require_elsewhere(output, directory)
    with Reader(mount.image) as reader:
        n_extents = reader.geometry.n_extents
    try:
        file = open(output, "wb")  # noqa: SIM115
    except OSError as error:
        code = error.errno or errno.EIO
        raise PmemfsError(code, f"cannot write {output}: {error.strerror}") from error
    recording = Recording(directory)
    with file, interruptible(), recording.started():
        file.write(write_header(n_extents))
        started = time.monotonic()
        status = _record(recording, file, command, seconds)
        took_s = time.monotonic() - started
        size = file.tell()
        file.seek(0)
        file.write(write_header(n_extents, recording.dropped))
    count = (size - len(write_header(1))) // TRACE_RECORD.size_bytes
    click.echo(f"{output}: {count} accesses in {took_s:.1f} s, {format_size(size)}", err=True)
    if recording.dropped:
        click.echo(f"warning: {recording.dropped} accesses were too many and are lost", err=True)
    context.exit(status)


def _require_elsewhere(output: Path, directory: str) -> None:
    """Refuse a file on the mount that is recorded: writing it would be recorded, too."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(output.absolute().parent).st_dev == os.stat(directory).st_dev:
            raise PmemfsError(
                errno.EINVAL, f"{output} lies on the mount that is recorded: put it elsewhere"
            )


def _record(
    recording: Recording, file: BinaryIO, command: tuple[str, ...], seconds: float | None
) -> int:
    """Fetch records until the command ends, the time is over or Ctrl-C; return its status."""
    process = _start(command)
    deadline = time.monotonic() + seconds if seconds is not None else None
    status: int | None = None
    try:
        while status is None and (deadline is None or time.monotonic() < deadline):
            _fetch(recording, file)
            status = _wait(process)
    except KeyboardInterrupt:
        status = None
    finally:
        if process is not None and status is None:
            process.terminate()
            status = process.wait()
    _fetch(recording, file)
    return 0 if process is None else (status or 0) if (status or 0) >= 0 else 128 - (status or 0)


def _start(command: tuple[str, ...]) -> subprocess.Popen[bytes] | None:
    if not command:
        click.echo("recording; Ctrl-C ends it", err=True)
        return None
    try:
        return subprocess.Popen(command, stdin=sys.stdin.fileno() if sys.stdin.isatty() else None)
    except OSError as error:
        code = error.errno or errno.EIO
        raise PmemfsError(code, f"cannot run {command[0]}: {error.strerror}") from error


def _wait(process: subprocess.Popen[bytes] | None) -> int | None:
    """Pause a moment; return the status of a process that has ended meanwhile."""
    if process is None:
        time.sleep(_PAUSE_S)
        return None
    try:
        return process.wait(_PAUSE_S)
    except subprocess.TimeoutExpired:
        return None


def _fetch(recording: Recording, file: BinaryIO) -> None:
    for records in recording.fetch():
        file.write(records)
    file.flush()


# -- show ------------------------------------------------------------------------------------


@trace_command.command("show", short_help="Show what is in a trace.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Raw integers, as JSON.")
def show_command(file: Path, as_json: bool) -> None:
    """Show how many accesses a trace has, of which kind, and which extents are hottest.

    \b
    Examples:
      pmemfs trace show untar.trace
      pmemfs trace show untar.trace --json
    """
    header, records = read_trace(file)
    data = summary(header["n_extents"], header["dropped"], records)
    if as_json:
        click.echo(json.dumps({"file": str(file)} | data, indent=2))
    else:
        _render(file, data)


def _render(file: Path, data: dict[str, Any]) -> None:
    heading(f"{file}: {data['records']:,} accesses of a device of {_size(data)}")
    facts(
        [
            ("begins", format_time(data["first_second"])),
            ("lasts", f"{data['seconds']:,} s"),
            ("lost", f"{data['dropped']:,}"),
        ]
    )
    line("")
    table(
        ["what", ">accesses", ">pages", ">in extents"],
        [
            (name, f"{part['records']:,}", f"{part['pages']:,}", part.get("extents"))
            for name, part in ((n, data[n]) for n in ("reads", "writes", "frees", "small", "whole"))
        ],
    )
    if data["hottest"]:
        heading("Hottest extents")
        table(
            [">extent", ">accesses", ">pages"],
            [(h["extent"], f"{h['records']:,}", f"{h['pages']:,}") for h in data["hottest"]],
        )


def _size(data: dict[str, Any]) -> str:
    return format_size(data["device_bytes"])
